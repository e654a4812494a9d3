//! Certificates for tests.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::folder::Pair;

/// A self-signed chain and its key.
pub(super) fn pem(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(names).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    format!("{}{}", certificate.pem(), key.serialize_pem())
}

/// The same, ready to serve.
pub(super) fn pair(names: &[&str]) -> Arc<CertifiedKey> {
    Pair::from_pem(&pem(names)).unwrap().key
}
