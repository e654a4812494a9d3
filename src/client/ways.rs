//! Which way a link takes to its server: UDP, or a WebSocket where UDP is blocked. Remembers per network
//! what worked last, for as long as the process lives. Not the switching: links do that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;

use tracing::warn;

use crate::link::path::{Fallback, Networks, PathKind, Proxies};

/// Addresses of the documentation ranges (RFC 5737, RFC 3849): nothing is ever sent there; the route that
/// the system would take tells which network this is.
const SOMEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// What is known of ways.
pub(super) struct Ways {
    networks: Mutex<Networks>,
    proxies: Proxies,
}

impl Ways {
    /// With the proxies of the environment; ones that cannot be used are told and left out.
    pub(super) fn new() -> Self {
        let proxies = Proxies::from_env().unwrap_or_else(|err| {
            warn!(%err, "proxy of the environment not used");
            Proxies::none()
        });
        Self {
            networks: Mutex::new(Networks::new()),
            proxies,
        }
    }

    /// The way round for the server at `address`; tried first where UDP did not work last time.
    pub(super) fn fallback(&self, address: &str) -> Fallback {
        let known = network().and_then(|key| self.lock().recall(&key));
        Fallback {
            proxies: self.proxies.clone(),
            first: known == Some(PathKind::WebSocket),
            ..Fallback::to(address)
        }
    }

    /// This way worked on the network we are in.
    pub(super) fn remember(&self, kind: PathKind) {
        if let Some(key) = network() {
            self.lock().remember(&key, kind);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Networks> {
        self.networks
            .lock()
            .expect("nothing panics while it holds the networks")
    }
}

/// The network we are in, as far as our own address on it tells.
fn network() -> Option<String> {
    SOMEWHERE.into_iter().find_map(|there| {
        let any: IpAddr = if there.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
        socket.connect(SocketAddr::new(there, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    })
}
