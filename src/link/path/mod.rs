//! The way round blocked UDP: the link's own QUIC packets inside a WebSocket, as one more path of the
//! same connection. Streams stay through each change of path. Not a second protocol, and not a
//! judge: when to open the path and when to leave it is for the client role.
//!
//! | | |
//! |---|---|
//! | [`Fallback`], [`Proxies`] | how a client gets there |
//! | [`Link::open_fallback`](super::Link::open_fallback), [`Link::back_to_udp`](super::Link::back_to_udp) | the two changes |
//! | [`accept`] | the edge's answer to the request for it |
//! | [`Listener::attach_path`](super::Listener::attach_path) | what the edge does with the upgraded connection |
//! | [`Networks`] | what worked where |
//!
//! The outer TLS protects nothing that the inner one does not: behind a middlebox its certificate
//! may be anybody's, and is only reported. Who the server is, the pin of the link says.

mod clientside;
mod codec;
mod dial;
mod fallback;
mod hub;
pub(super) mod issuer;
mod networks;
mod outbox;
mod outer;
mod probe;
mod proxy;
mod pump;
mod recognise;
mod sessions;
mod switch;
#[cfg(test)]
pub(crate) mod tests;
mod upgrade;

use std::time::Duration;

#[doc(hidden)]
pub mod fuzzing;

pub use codec::BadMessage;
pub use dial::PathError;
pub use fallback::Fallback;
pub use networks::Networks;
pub use proxy::{Proxies, ProxyError};
pub use pump::SessionEnd;
pub use sessions::{Place, SessionRefused};
pub use upgrade::{BadUpgrade, accept};

pub(super) use clientside::{BESIDE, Paths};
pub(super) use dial::dial_path;
pub(super) use hub::Hub;
pub(super) use recognise::Recognise;
pub(super) use sessions::Sessions;

/// The path of the request, on the server's own domain.
pub const CONNECT: &str = "/connect";

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "wormkey-quic-1";

/// What carries a link's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathKind {
    /// Plain QUIC.
    Udp,
    /// QUIC inside a WebSocket on the server's HTTPS port.
    WebSocket,
}

/// The path a link takes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// What carries it.
    pub kind: PathKind,
    /// Whether the outer TLS showed a certificate for the server's name from an authority that this
    /// machine trusts. `true` for UDP, which has no outer TLS. The link is safe either way: `false`
    /// says that somebody on the way opens the outer TLS.
    pub outer_verified: bool,
    /// Who issued the outer certificate, in one short line as the certificate has it. It is the word
    /// of a stranger unless `outer_verified`.
    pub outer_issuer: Option<String>,
    /// Whether it goes through a proxy.
    pub proxied: bool,
}

impl PathInfo {
    /// Nothing around the link's own packets.
    pub const UDP: Self = Self {
        kind: PathKind::Udp,
        outer_verified: true,
        outer_issuer: None,
        proxied: false,
    };
}

/// What WebSocket paths may cost a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathLimits {
    /// At once, in all.
    pub sessions: usize,
    /// At once from one IPv4 address or one IPv6 /64. An office behind one address has many devices.
    pub per_source: usize,
    /// Bytes that wait for one session to take them; more is dropped.
    pub queue: usize,
    /// A session from which nothing comes for this long ends; at the client's end, too. Where links keep alive
    /// less often than three times in it, three keep-alives count instead.
    pub idle: Duration,
    /// How long a session may take to show that it is a link's.
    pub proof_within: Duration,
    /// Bytes that a session may send before it has shown that: a few attempts at a handshake.
    pub unproved: usize,
}

impl Default for PathLimits {
    fn default() -> Self {
        Self {
            sessions: 2048,
            per_source: 64,
            queue: 256 * 1024,
            idle: Duration::from_secs(60),
            proof_within: Duration::from_secs(10),
            unproved: 16 * 1024,
        }
    }
}
