//! A certificate authority for `wormkeyd dev`, with a leaf per name: clients refuse a wildcard directly
//! under a top-level name such as `localhost`, even with the CA trusted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::names::Hostname;

/// Leaves kept; names beyond that are made anew each time. Visitors choose the names.
const LEAVES: usize = 256;

/// Makes leaves for `localhost` and names under it as visitors ask for them.
pub(super) struct DevCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    leaves: Mutex<HashMap<Hostname, Arc<CertifiedKey>>>,
}

impl fmt::Debug for DevCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevCa")
    }
}

impl DevCa {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(
            DnType::CommonName,
            "wormkey dev CA (this machine, this run)",
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            leaves: Mutex::new(HashMap::new()),
        })
    }

    /// What `curl --cacert` takes.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    fn leaf(&self, name: &Hostname) -> Option<Arc<CertifiedKey>> {
        let mut leaves = self
            .leaves
            .lock()
            .expect("nothing panics while it holds the leaves");
        if let Some(leaf) = leaves.get(name) {
            return Some(Arc::clone(leaf));
        }
        let leaf = Arc::new(self.make(name)?);
        if leaves.len() < LEAVES {
            leaves.insert(name.clone(), Arc::clone(&leaf));
        }
        Some(leaf)
    }

    fn make(&self, name: &Hostname) -> Option<CertifiedKey> {
        let key = KeyPair::generate().ok()?;
        let mut params = CertificateParams::new(vec![name.to_string()]).ok()?;
        params.distinguished_name.push(
            DnType::CommonName,
            name.as_str().chars().take(64).collect::<String>(),
        );
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).ok()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).ok()?;
        Some(CertifiedKey::new(vec![certificate.der().clone()], signer))
    }
}

impl ResolvesServerCert for DevCa {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let domain = Hostname::parse("localhost").ok()?;
        let name = match hello.server_name() {
            Some(name) => Hostname::parse(name).ok()?,
            None => domain.clone(),
        };
        (name == domain || name.label_under(&domain).is_some())
            .then(|| self.leaf(&name))
            .flatten()
    }
}
