//! Where and how a client finds the way round.

use rustls::pki_types::CertificateDer;

use super::Proxies;

/// How to reach a server's WebSocket path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// `host:port` of the server's HTTPS; mostly the address that links are dialled at.
    pub address: String,
    /// What stands between.
    pub proxies: Proxies,
    /// Authorities trusted for the outer TLS beside those of the platform.
    pub roots: Vec<CertificateDer<'static>>,
    /// Dial it at once, beside UDP, rather than after a second and a half of silence: UDP is known
    /// not to work here.
    pub first: bool,
}

impl Fallback {
    /// To the server at `address`, without a proxy.
    pub fn to(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            proxies: Proxies::none(),
            roots: Vec::new(),
            first: false,
        }
    }
}
