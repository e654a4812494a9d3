//! What is shown to a CA while it looks: texts for our HTTP port, certificates for our HTTPS port, TXT
//! records for our own responder. Each is there as long as its guard lives, so a proof that was given up
//! leaves nothing behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use crate::names::Hostname;

/// ALPN of a CA that looks (RFC 8737).
pub const ALPN: &[u8] = b"acme-tls/1";

/// Where HTTP-01 is looked for.
pub const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";

/// Everything that is shown now.
#[derive(Debug, Default)]
pub struct Challenges {
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    next: u64,
    texts: HashMap<u64, (Hostname, String, String)>,
    certificates: HashMap<u64, (Hostname, Arc<CertifiedKey>)>,
    records: HashMap<u64, String>,
}

/// Takes back what it stands for when it is dropped.
#[derive(Debug)]
pub struct Showing {
    of: Arc<Challenges>,
    id: u64,
}

impl Drop for Showing {
    fn drop(&mut self) {
        self.of.with(|shown| {
            shown.texts.remove(&self.id);
            shown.certificates.remove(&self.id);
            shown.records.remove(&self.id);
        });
    }
}

/// Why no certificate could be made for TLS-ALPN-01.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// The certificate.
    #[error("cannot make the certificate of a proof")]
    Make(#[from] rcgen::Error),
    /// rustls does not take it.
    #[error("cannot use the certificate of a proof")]
    Use(#[from] rustls::Error),
}

impl Challenges {
    /// Nothing is shown.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// HTTP-01: the text for a path.
    pub fn text(&self, host: &Hostname, path: &str) -> Option<String> {
        let token = path.strip_prefix(HTTP_PREFIX)?;
        self.with(|shown| {
            let of_it = |(of, known, _): &&(Hostname, String, String)| of == host && known == token;
            (shown.texts.values().find(of_it)).map(|(_, _, text)| text.clone())
        })
    }

    /// TLS-ALPN-01: the certificate for a name.
    pub fn certificate(&self, host: &Hostname) -> Option<Arc<CertifiedKey>> {
        self.with(|shown| {
            let of_it = |(of, _): &&(Hostname, Arc<CertifiedKey>)| of == host;
            (shown.certificates.values().find(of_it)).map(|(_, key)| Arc::clone(key))
        })
    }

    /// DNS-01 through our responder: all values there are.
    pub fn records(&self) -> Vec<String> {
        self.with(|shown| {
            let mut values: Vec<_> = shown.records.values().cloned().collect();
            values.sort();
            values.dedup();
            values
        })
    }

    /// Shows a text for HTTP-01.
    pub fn show_text(self: &Arc<Self>, host: &Hostname, token: &str, text: &str) -> Showing {
        let entry = (host.clone(), token.to_owned(), text.to_owned());
        self.show(|shown, id| drop(shown.texts.insert(id, entry)))
    }

    /// Shows a certificate for TLS-ALPN-01.
    pub fn show_certificate(
        self: &Arc<Self>,
        host: &Hostname,
        digest: &[u8],
    ) -> Result<Showing, ChallengeError> {
        let mut params = rcgen::CertificateParams::new(vec![host.to_string()])?;
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(digest)];
        let key = rcgen::KeyPair::generate()?;
        let chain = vec![params.self_signed(&key)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // Not compared with its key: the extension is critical, as it must be, and webpki knows it not.
        let key = provider.key_provider.load_private_key(key)?;
        let key = Arc::new(CertifiedKey::new(chain, key));
        let entry = (host.clone(), key);
        Ok(self.show(|shown, id| drop(shown.certificates.insert(id, entry))))
    }

    /// Shows a TXT record for DNS-01.
    pub fn show_record(self: &Arc<Self>, value: &str) -> Showing {
        let value = value.to_owned();
        self.show(|shown, id| drop(shown.records.insert(id, value)))
    }

    fn show(self: &Arc<Self>, put: impl FnOnce(&mut Shown, u64)) -> Showing {
        let id = self.with(|shown| {
            let id = shown.next;
            shown.next += 1;
            put(shown, id);
            id
        });
        Showing {
            of: Arc::clone(self),
            id,
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Shown) -> T) -> T {
        look(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    #[test]
    fn what_is_shown_goes_with_its_guard() {
        let challenges = Challenges::new();
        let app = host("app.example");
        let path = format!("{HTTP_PREFIX}token");
        let text = challenges.show_text(&app, "token", "token.thumb");
        let certificate = challenges.show_certificate(&app, &[7; 32]).unwrap();
        let record = challenges.show_record("value");
        assert_eq!(challenges.text(&app, &path).unwrap(), "token.thumb");
        assert_eq!(challenges.text(&host("other.example"), &path), None);
        assert_eq!(challenges.text(&app, "/.well-known/other/token"), None);
        assert!(challenges.certificate(&app).is_some());
        assert!(challenges.certificate(&host("other.example")).is_none());
        assert_eq!(challenges.records(), ["value"]);
        drop((text, certificate, record));
        assert_eq!(challenges.text(&app, &path), None);
        assert!(challenges.certificate(&app).is_none());
        assert!(challenges.records().is_empty());
    }

    #[test]
    fn two_values_of_one_name_stand_beside_each_other() {
        let challenges = Challenges::new();
        let first = challenges.show_record("b");
        let _second = challenges.show_record("a");
        assert_eq!(challenges.records(), ["a", "b"]);
        drop(first);
        assert_eq!(challenges.records(), ["a"]);
    }
}
