//! Visitors at the links' port: their QUIC is accepted here, within bounds of their own, and handed out as
//! it is. What they want is the edge's business.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Incoming, ServerConfig, TransportConfig};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

/// Handshakes of visitors in progress above which an address must first prove that it receives (Retry):
/// in all, and of one address (or IPv6 network of 64 bits). Fewer than below, so that who only writes
/// another's address on its packets does not shut that one out.
const UNPROVED: usize = 64;
const UNPROVED_OF_ONE: usize = 8;

/// Above which further ones are left unanswered.
const PENDING: usize = 512;
const PENDING_OF_ONE: usize = 32;

/// What was admitted and not yet taken.
const QUEUE: usize = 64;

/// Lets visitors in; kept by the listener.
#[derive(Debug)]
pub(super) struct Door {
    config: Arc<ServerConfig>,
    pending: Arc<Pending>,
    out: mpsc::Sender<Knocking>,
}

/// Handshakes in progress, by who is behind them.
#[derive(Debug, Default)]
struct Pending(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct Counted {
    pending: Arc<Pending>,
    source: IpAddr,
}

impl Pending {
    /// So many in all, and of this source.
    fn of(&self, source: IpAddr) -> (usize, usize) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.all, counts.of.get(&source).copied().unwrap_or(0))
    }

    fn begin(self: &Arc<Self>, source: IpAddr) -> Counted {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all += 1;
        *counts.of.entry(source).or_default() += 1;
        Counted {
            pending: Arc::clone(self),
            source,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = (self.pending.0.lock()).unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.of.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.of.remove(&self.source);
            }
        }
    }
}

/// What may be one host: an IPv4 address, or the 64 bits of IPv6 that everyone has.
fn source_of(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

impl Door {
    /// With the links' own configuration as the pattern: address tokens must be of one key.
    pub(super) fn new(
        pattern: &ServerConfig,
        crypto: Arc<QuicServerConfig>,
        transport: Arc<TransportConfig>,
    ) -> (Self, mpsc::Receiver<Knocking>) {
        let mut config = pattern.clone();
        config.crypto = crypto;
        config.transport = transport;
        let (out, knocking) = mpsc::channel(QUEUE);
        let door = Self {
            config: Arc::new(config),
            pending: Arc::default(),
            out,
        };
        (door, knocking)
    }

    /// Looks at a newcomer. Nothing is kept of one that has to prove its address first.
    pub(super) fn knock(&self, incoming: Incoming) {
        let peer = incoming.remote_address();
        let source = source_of(peer);
        let (all, own) = self.pending.of(source);
        if all >= PENDING || own >= PENDING_OF_ONE {
            debug!(%peer, all, own, "too many handshakes of visitors: not answered");
            return incoming.ignore();
        }
        let must_prove = all >= UNPROVED || own >= UNPROVED_OF_ONE;
        if must_prove && !incoming.remote_address_validated() {
            // An address that is not validated may always be asked to retry.
            let _ = incoming.retry();
            return;
        }
        let knocking = Knocking {
            incoming: Some(incoming),
            config: Arc::clone(&self.config),
            _counted: self.pending.begin(source),
        };
        // Full, it is forgotten, and the visitor asks again by itself.
        let _ = self.out.try_send(knocking);
    }
}

/// A visitor before its handshake. Dropped, its packet is forgotten.
#[derive(Debug)]
pub struct Knocking {
    incoming: Option<Incoming>,
    config: Arc<ServerConfig>,
    _counted: Counted,
}

impl Knocking {
    /// Where it is: proved by the handshake, which cannot be finished from elsewhere. The connection's own
    /// word is that of its last packet, which anybody may write.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.incoming.as_ref().map(Incoming::remote_address)
    }

    /// Whether the address is proved before the handshake.
    pub fn is_proved(&self) -> bool {
        (self.incoming.as_ref()).is_some_and(Incoming::remote_address_validated)
    }

    /// The handshake, within so much time. None when it came to nothing.
    pub async fn establish(mut self, within: Duration) -> Option<quinn::Connection> {
        let incoming = self.incoming.take()?;
        let peer = incoming.remote_address();
        let connecting = incoming.accept_with(Arc::clone(&self.config)).ok()?;
        match timeout(within, connecting).await {
            Ok(Ok(connection)) => Some(connection),
            Ok(Err(error)) => {
                debug!(%peer, %error, "handshake failed");
                None
            }
            Err(_) => {
                debug!(%peer, "handshake too slow");
                None
            }
        }
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            incoming.ignore();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_counted_by_host_and_nothing_is_left() {
        let pending: Arc<Pending> = Arc::default();
        let at = |text: &str| source_of(text.parse().unwrap());
        let one = pending.begin(at("[2001:db8::1]:1"));
        let two = pending.begin(at("[2001:db8::2]:7"));
        let other = pending.begin(at("[::ffff:192.0.2.1]:7"));
        assert_eq!(pending.of(at("[2001:db8::3]:1")), (3, 2));
        assert_eq!(pending.of(at("192.0.2.1:9")), (3, 1));
        assert_eq!(pending.of(at("192.0.2.2:9")), (3, 0));
        drop((one, two, other));
        assert_eq!(pending.of(at("192.0.2.1:9")), (0, 0));
        assert!(pending.0.lock().unwrap().of.is_empty());
    }
}
