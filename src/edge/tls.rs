//! What visitors see of TLS: where certificates come from, and how they are swapped under live
//! listeners. Not the identity that clients pin: that is the link's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::names::Hostname;
use crate::times::{Clock, WallTime};

/// ALPN of HTTP/2.
pub const ALPN_H2: &[u8] = b"h2";

/// ALPN of a certificate authority that looks at us (RFC 8737); no HTTP follows.
pub const ALPN_ACME: &[u8] = b"acme-tls/1";

/// ALPN of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// How long a self-signed certificate is good for: what browsers accept at most.
const LIFETIME: Duration = Duration::from_secs(397 * 86_400);

/// Made anew once less than a third is left, so that whoever trusts it by hand has months to follow.
const RENEW_BEFORE: Duration = Duration::from_secs(397 * 86_400 / 3);

/// Clocks of visitors may be behind.
const BACKDATED: Duration = Duration::from_secs(86_400);

/// The line of our PEM file that says until when it is good; what stands outside the blocks is free text.
const UNTIL: &str = "# good until ";

/// Why no certificate could be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No PEM certificate in a file.
    #[error("{} holds no PEM certificate", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// No PEM private key in a file.
    #[error("{} holds no PEM private key", path.display())]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// Key and certificate that are not a pair, or of a kind that cannot be used.
    #[error("{} cannot be used with its key", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A certificate that could not be made.
    #[error("cannot make a certificate for {domain}")]
    Make {
        /// For whom.
        domain: Hostname,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The protocol versions cannot be served.
    #[error("cannot set up tls")]
    Setup(#[source] rustls::Error),
}

/// The certificate in use, swappable while connections come in.
#[derive(Debug)]
pub struct CertStore {
    current: ArcSwap<CertifiedKey>,
}

impl CertStore {
    /// With its first certificate.
    pub fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::new(key),
        })
    }

    /// What visitors are shown now.
    pub fn shown(&self) -> Arc<CertifiedKey> {
        self.current.load_full()
    }

    /// New handshakes get this one; those that are done keep theirs.
    pub fn swap(&self, key: Arc<CertifiedKey>) {
        self.current.store(key);
    }
}

impl ResolvesServerCert for CertStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// What the HTTPS listener needs: TLS 1.2 and 1.3, `h2` before `http/1.1`, certificates from `resolver`.
pub fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// A certificate chain, leaf first, and its key, from PEM files.
pub fn from_files(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    load(cert, &read(cert)?, key, &read(key)?)
}

/// The self-signed wildcard of a domain, kept at `path` with its key (mode 0600) and made anew when it
/// is missing, nearly over or for another domain.
pub fn self_signed(path: &Path, domain: &Hostname) -> Result<Arc<CertifiedKey>, TlsError> {
    let now = Clock.now().wall;
    match std::fs::read(path) {
        Ok(pem) => {
            let key = load(path, &pem, path, &pem)?;
            if is_still_good(&pem, &key, domain, now) {
                return Ok(key);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(TlsError::Read {
                path: path.to_owned(),
                source,
            });
        }
    }
    let pem = make(domain, now)?;
    write(path, pem.as_bytes()).map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })?;
    load(path, pem.as_bytes(), path, pem.as_bytes())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn load(
    cert_path: &Path,
    cert: &[u8],
    key_path: &Path,
    key: &[u8],
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| TlsError::NoCertificate {
            path: cert_path.to_owned(),
        })?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey {
        path: key_path.to_owned(),
    })?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // Refuses a key that is not the certificate's.
    CertifiedKey::from_der(chain, key, &provider)
        .map(Arc::new)
        .map_err(|source| TlsError::Unusable {
            path: cert_path.to_owned(),
            source,
        })
}

fn is_still_good(pem: &[u8], key: &CertifiedKey, domain: &Hostname, now: WallTime) -> bool {
    let until = std::str::from_utf8(pem)
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix(UNTIL)))
        .and_then(WallTime::parse_rfc3339);
    until.is_some_and(|until| until.since(now) > RENEW_BEFORE)
        && [format!("any.{domain}"), domain.to_string()]
            .iter()
            .all(|name| covers(key, name))
}

fn covers(key: &CertifiedKey, name: &str) -> bool {
    let Ok(leaf) = key.end_entity_cert() else {
        return false;
    };
    match (
        ParsedCertificate::try_from(leaf),
        ServerName::try_from(name),
    ) {
        (Ok(leaf), Ok(name)) => rustls::client::verify_server_name(&leaf, &name).is_ok(),
        _ => false,
    }
}

fn make(domain: &Hostname, now: WallTime) -> Result<String, TlsError> {
    let failed = |source| TlsError::Make {
        domain: domain.clone(),
        source,
    };
    let until = now.plus(LIFETIME);
    let names = vec![format!("*.{domain}"), domain.to_string()];
    let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
    // rcgen's time is the `time` crate's; seconds after its epoch are the same everywhere.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |t: WallTime| Duration::from_millis(u64::try_from(t.as_millis()).unwrap_or(0));
    params.not_before = epoch + seconds(now).saturating_sub(BACKDATED);
    params.not_after = epoch + seconds(until);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "wormkey self-signed");
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok(format!(
        "# wormkey's own certificate for *.{domain} and its key\n{UNTIL}{until}\n{}{}",
        cert.pem(),
        key.serialize_pem()
    ))
}

/// Whole or not at all: a temporary file (0600 from its first byte) takes the old one's place.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod unit {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn domain(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    #[test]
    fn the_wildcard_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.pem");
        let first = self_signed(&path, &domain("t.example")).unwrap();
        let again = self_signed(&path, &domain("t.example")).unwrap();
        assert_eq!(first.cert, again.cert);
        assert!(covers(&first, "app.t.example") && covers(&first, "t.example"));
        assert!(!covers(&first, "a.b.t.example"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn another_domain_or_a_late_hour_makes_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.pem");
        let first = self_signed(&path, &domain("t.example")).unwrap();
        let moved = self_signed(&path, &domain("u.example")).unwrap();
        assert_ne!(first.cert, moved.cert);
        let pem = std::fs::read(&path).unwrap();
        let now = Clock.now().wall;
        let good = |at| is_still_good(&pem, &moved, &domain("u.example"), at);
        assert!(good(now));
        assert!(good(
            now.plus(LIFETIME - RENEW_BEFORE - Duration::from_secs(60))
        ));
        assert!(!good(
            now.plus(LIFETIME - RENEW_BEFORE + Duration::from_secs(60))
        ));
    }

    #[test]
    fn files_that_do_not_fit_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a", "b"] {
            self_signed(&path(name), &domain("t.example")).unwrap();
        }
        assert!(from_files(&path("a"), &path("a")).is_ok());
        assert!(matches!(
            from_files(&path("a"), &path("b")),
            Err(TlsError::Unusable { .. })
        ));
        assert!(matches!(
            from_files(&path("a"), &path("none")),
            Err(TlsError::Read { .. })
        ));
        std::fs::write(path("junk"), "not pem").unwrap();
        assert!(matches!(
            from_files(&path("junk"), &path("a")),
            Err(TlsError::NoCertificate { .. })
        ));
        assert!(matches!(
            from_files(&path("a"), &path("junk")),
            Err(TlsError::NoKey { .. })
        ));
        let broken = self_signed(&path("junk"), &domain("t.example"));
        assert!(
            broken.is_err(),
            "a damaged file is never replaced in silence"
        );
    }
}
