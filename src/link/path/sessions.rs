//! The server's sessions: each is a virtual address towards QUIC, with the real one kept beside it.
//! Bounded in number, in all and per source. Not packets: those move in [`pump`](super::pump).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::outbox::Outbox;
use super::pump::{self, Arrived, Doubt, Inward, SessionEnd};
use super::{PathLimits, Recognise};
use crate::link::handle::canonical;

/// `fd`, then "wormkey": a private /64 (RFC 4193) of which no packet from a network is believed.
const PREFIX: u64 = u64::from_be_bytes(*b"\xfdwormkey");

/// Any port but zero, with which QUIC would not speak.
const PORT: u16 = 1;

/// Sessions that are over and whose real address is still known: a dormant link's last one shows in
/// its status.
const PAST: usize = 4096;

/// Why a session was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefused {
    /// As many as there may be.
    #[error("too many WebSocket paths")]
    Full,
    /// As many as there may be from there.
    #[error("too many WebSocket paths from one source")]
    FullSource,
    /// The listener closes.
    #[error("the listener is closed")]
    Closed,
}

/// All sessions of a listener.
pub(in crate::link) struct Sessions {
    limits: PathLimits,
    recognise: Arc<Recognise>,
    inbox: mpsc::Sender<Arrived>,
    stop: CancellationToken,
    running: TaskTracker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last session: never given twice.
    last: u64,
    live: HashMap<u64, Session>,
    sources: HashMap<u128, usize>,
    past: BTreeMap<u64, SocketAddr>,
}

struct Session {
    peer: SocketAddr,
    outbox: Arc<Outbox>,
}

/// A place among the sessions, given back when dropped.
#[derive(Debug)]
pub struct Place {
    sessions: Arc<Sessions>,
    number: u64,
    peer: SocketAddr,
    outbox: Arc<Outbox>,
}

/// Whether an address is one of a session rather than of a network.
pub(super) fn is_virtual(addr: &SocketAddr) -> bool {
    number_of(addr).is_some()
}

fn number_of(addr: &SocketAddr) -> Option<u64> {
    let SocketAddr::V6(addr) = addr else {
        return None;
    };
    let bits = addr.ip().to_bits();
    ((bits >> 64) as u64 == PREFIX).then_some(bits as u64)
}

fn virtual_of(number: u64) -> SocketAddr {
    let bits = (u128::from(PREFIX) << 64) | u128::from(number);
    SocketAddr::new(Ipv6Addr::from_bits(bits).into(), PORT)
}

/// Who counts as one: an IPv4 address, or an IPv6 /64.
fn source_of(peer: SocketAddr) -> u128 {
    match canonical(peer).ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

impl Sessions {
    pub(super) fn new(
        limits: PathLimits,
        recognise: Recognise,
        inbox: mpsc::Sender<Arrived>,
    ) -> Self {
        Self {
            limits,
            recognise: Arc::new(recognise),
            inbox,
            stop: CancellationToken::new(),
            running: TaskTracker::new(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an upgraded connection to its end.
    pub(in crate::link) async fn run<I>(
        self: Arc<Self>,
        io: I,
        peer: SocketAddr,
    ) -> Result<SessionEnd, SessionRefused>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        Ok(self.enter(peer)?.run(io).await)
    }
}

impl Place {
    /// Runs an upgraded connection in this place, to its end.
    pub(in crate::link) async fn run<I>(self, io: I) -> SessionEnd
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let (sessions, number, peer) = (&self.sessions, self.number, self.peer);
        let _running = sessions.running.token();
        let inward = Inward {
            inbox: sessions.inbox.clone(),
            from: virtual_of(number),
            idle: sessions.limits.idle,
            doubt: Some(Doubt {
                recognise: Arc::clone(&sessions.recognise),
                bytes: sessions.limits.unproved,
                until: Instant::now() + sessions.limits.proof_within,
            }),
        };
        let io = pump::websocket(io, Role::Server).await;
        debug!(%peer, session = number, "websocket path up");
        let end = pump::pump(io, &self.outbox, inward, &sessions.stop).await;
        debug!(%peer, session = number, %end, "websocket path over");
        end
    }
}

impl Sessions {
    /// Keeps a place for a connection that is yet to be upgraded.
    pub(in crate::link) fn enter(
        self: &Arc<Self>,
        peer: SocketAddr,
    ) -> Result<Place, SessionRefused> {
        let mut state = self.lock();
        if self.stop.is_cancelled() {
            return Err(SessionRefused::Closed);
        }
        if state.live.len() >= self.limits.sessions {
            return Err(SessionRefused::Full);
        }
        let here = state.sources.entry(source_of(peer)).or_default();
        if *here >= self.limits.per_source {
            return Err(SessionRefused::FullSource);
        }
        *here += 1;
        state.last += 1;
        let number = state.last;
        let outbox = Arc::new(Outbox::new(self.limits.queue));
        let session = Session {
            peer: canonical(peer),
            outbox: Arc::clone(&outbox),
        };
        state.live.insert(number, session);
        Ok(Place {
            sessions: Arc::clone(self),
            number,
            peer,
            outbox,
        })
    }

    /// Sends to a virtual address. What has no session, or no room in it, is gone.
    pub(super) fn push(&self, to: &SocketAddr, contents: &[u8], segment: Option<usize>) {
        let Some(number) = number_of(to) else {
            return;
        };
        let outbox = {
            let state = self.lock();
            let session = state.live.get(&number);
            session.map(|session| Arc::clone(&session.outbox))
        };
        if let Some(outbox) = outbox {
            outbox.push(contents, segment);
        }
    }

    /// The real address behind one that QUIC knows; that of a session long over is forgotten, and
    /// the virtual one is all there is.
    pub(in crate::link) fn real(&self, addr: SocketAddr) -> SocketAddr {
        let Some(number) = number_of(&addr) else {
            return canonical(addr);
        };
        let state = self.lock();
        let live = state.live.get(&number).map(|session| session.peer);
        live.or_else(|| state.past.get(&number).copied())
            .unwrap_or(addr)
    }

    /// Whether an address that QUIC knows is a session's.
    pub(in crate::link) fn is_session(&self, addr: SocketAddr) -> bool {
        is_virtual(&addr)
    }

    /// How many run now.
    pub(in crate::link) fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// Ends all sessions, once what they have queued is out, and takes no more.
    pub(in crate::link) async fn close(&self, within: Duration) {
        self.stop.cancel();
        self.running.close();
        let _ = tokio::time::timeout(within, self.running.wait()).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.outbox.close();
        let mut state = self.sessions.lock();
        let Some(session) = state.live.remove(&self.number) else {
            return;
        };
        let source = source_of(session.peer);
        if let Some(count) = state.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                state.sources.remove(&source);
            }
        }
        state.past.insert(self.number, session.peer);
        if state.past.len() > PAST {
            state.past.pop_first();
        }
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::super::codec;
    use super::*;
    use crate::link::Identity;
    use crate::link::cid::{KnownTags, OwnCids};

    fn sessions(limits: PathLimits) -> Arc<Sessions> {
        let pin = Identity::ephemeral().unwrap().pin();
        let own = OwnCids::new(0, &[1; 32]);
        let recognise = Recognise::new(Arc::new(KnownTags::new(&[pin])), own);
        Arc::new(Sessions::new(limits, recognise, mpsc::channel(1).0))
    }

    fn peer(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sessions_are_bounded_per_source_and_in_all_and_leave_nothing() {
        let sessions = sessions(PathLimits {
            sessions: 4,
            per_source: 2,
            ..PathLimits::default()
        });
        let enter = |text: &str| sessions.enter(peer(text));
        let first = enter("[2001:db8::1]:1").unwrap();
        let _second = enter("[2001:db8::2]:1").unwrap();
        assert!(matches!(
            enter("[2001:db8::3]:1"),
            Err(SessionRefused::FullSource)
        ));
        let _third = enter("192.0.2.1:1").unwrap();
        let _fourth = enter("[::ffff:192.0.2.1]:2").unwrap();
        assert!(matches!(enter("192.0.2.9:1"), Err(SessionRefused::Full)));
        drop(first);
        assert!(matches!(
            enter("192.0.2.1:3"),
            Err(SessionRefused::FullSource)
        ));
        drop(enter("[2001:db8::3]:1").unwrap());
        drop((_second, _third, _fourth));
        let state = sessions.lock();
        assert!(state.live.is_empty() && state.sources.is_empty());
    }

    #[test]
    fn a_number_is_never_given_twice_and_its_peer_is_remembered_for_a_while() {
        let sessions = sessions(PathLimits::default());
        let here = peer("192.0.2.1:7");
        let first = sessions.enter(here).unwrap();
        let (number, address) = (first.number, virtual_of(first.number));
        assert!(is_virtual(&address));
        assert_eq!(sessions.real(address), here);
        drop(first);
        assert_eq!(sessions.real(address), here);
        for n in 1..=PAST {
            assert_eq!(sessions.enter(here).unwrap().number, number + n as u64);
        }
        assert_eq!(sessions.real(address), address);
        assert_eq!(sessions.lock().past.len(), PAST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_takes_nothing_drops_and_delivers_again_once_it_does() {
        let (sender, _inbox) = mpsc::channel(1);
        let mut sessions = sessions(PathLimits::default());
        Arc::get_mut(&mut sessions).unwrap().inbox = sender;
        let (ours, theirs) = tokio::io::duplex(1024);
        let running = Arc::clone(&sessions).run(theirs, peer("192.0.2.1:7"));
        let mut running = std::pin::pin!(running);
        let mut stalled = pump::websocket(ours, Role::Client).await;
        let address = virtual_of(1);
        let script = async {
            while sessions.count() == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..1000 {
                sessions.push(&address, &[1; 1000], None);
            }
            let outbox = Arc::clone(&sessions.lock().live[&1].outbox);
            let dropped = outbox.dropped();
            assert!(dropped > 700, "{dropped}");
            let mut took = 0;
            while took + dropped < 1000 {
                let message = stalled.next().await.unwrap().unwrap();
                took += codec::datagrams(message.into_data()).count() as u64;
            }
            sessions.push(&address, &[2; 9], None);
            let last = stalled.next().await.unwrap().unwrap();
            assert_eq!(&last.into_data()[2..], [2; 9]);
            assert_eq!(outbox.dropped(), dropped);
        };
        tokio::select! {
            end = &mut running => panic!("the session ended: {end:?}"),
            () = script => {}
        }
    }

    #[test]
    fn real_addresses_are_not_taken_for_virtual_ones() {
        for text in [
            "10.0.0.1:1",
            "[::ffff:10.0.0.1]:1",
            "[fd00::1]:1",
            "[::1]:1",
        ] {
            assert!(!is_virtual(&peer(text)), "{text}");
        }
    }
}
