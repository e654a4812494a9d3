//! Which way a link takes to its server: UDP, or a WebSocket where UDP is blocked. Remembers per network
//! what worked last, on disk too, so that a client that starts again where UDP is blocked waits for nothing.
//! Not the switching: links do that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::time::Duration;

use tracing::{debug, warn};

use crate::engine::book::{BookChange, NetworkRow};
use crate::link::path::{Fallback, Networks, PathKind, Proxies};
use crate::store::{ClientStore, StoreError};
use crate::times::Clock;

/// Addresses of the documentation ranges (RFC 5737, RFC 3849): nothing is ever sent there; the route that
/// the system would take tells which network this is.
const SOMEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// A memory that did not change is written anew after this long, so that it does not grow old.
const REFRESH: Duration = Duration::from_secs(86_400);

/// What is known of ways.
pub(super) struct Ways {
    networks: Mutex<Networks>,
    /// What is on disk of the network we were in last.
    written: Mutex<Option<NetworkRow>>,
    store: ClientStore,
    proxies: Proxies,
}

impl Ways {
    /// With what the disk remembers and the proxies of the environment; ones that cannot be used are told
    /// and left out.
    pub(super) fn new(store: ClientStore, known: &[NetworkRow]) -> Self {
        let proxies = Proxies::from_env().unwrap_or_else(|err| {
            warn!(%err, "proxy of the environment not used");
            Proxies::none()
        });
        Self {
            networks: Mutex::new(remembered(known)),
            written: Mutex::new(known.last().cloned()),
            store,
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
            self.write(NetworkRow {
                key,
                websocket: kind == PathKind::WebSocket,
                used_at: Clock.now().wall,
            });
        }
    }

    /// Writes down what is new. A hint: nobody waits for it, and where the disk takes nothing it is lost.
    fn write(&self, row: NetworkRow) {
        let mut written = self
            .written
            .lock()
            .expect("nothing panics while it holds a network");
        let same = written.as_ref().is_some_and(|last| {
            (&last.key, last.websocket) == (&row.key, row.websocket)
                && row.used_at.since(last.used_at) < REFRESH
        });
        if same {
            return;
        }
        let done = Box::new(|stored: Result<(), StoreError>| {
            if let Err(err) = stored {
                debug!(%err, "network not remembered on disk");
            }
        });
        match self
            .store
            .commit_then(vec![BookChange::Network(row.clone())], done)
        {
            Ok(()) => *written = Some(row),
            Err(err) => debug!(%err, "network not remembered on disk"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Networks> {
        self.networks
            .lock()
            .expect("nothing panics while it holds the networks")
    }
}

/// The memory as it was.
fn remembered(known: &[NetworkRow]) -> Networks {
    let mut networks = Networks::new();
    for row in known {
        let kind = if row.websocket {
            PathKind::WebSocket
        } else {
            PathKind::Udp
        };
        networks.remember(&row.key, kind);
    }
    networks
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_worked_on_this_network_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        for (before, now) in [
            (None, PathKind::WebSocket),
            (Some(true), PathKind::WebSocket),
            (Some(true), PathKind::Udp),
            (Some(false), PathKind::Udp),
        ] {
            let (store, snapshot) = ClientStore::open(dir.path(), before.is_some()).unwrap();
            let known = snapshot.networks.last().map(|row| row.websocket);
            // Where this machine has no network at all there is nothing to remember.
            if network().is_some() {
                assert_eq!(known, before);
            }
            let ways = Ways::new(store.clone(), &snapshot.networks);
            let first = ways.fallback("t.wormkey.test:443").first;
            assert_eq!(first, known == Some(true));
            for _ in 0..3 {
                ways.remember(now);
            }
            store.close().await;
        }
    }
}
