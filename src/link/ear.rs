//! What a client's own socket hears, and when: exact times for the watch over the link, and the
//! longest stall. Not a judge of silence: that is `engine::watch`.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};

use super::handle::canonical;

/// A peer acknowledges within 25 ms, and so do we. What is sent later than this after the last thing
/// heard is therefore no mere acknowledgement, but asks for an answer.
const REPLY_TIME: Duration = Duration::from_millis(50);

/// A pause in the traffic, rather than a stall: what came before it was answered.
const PAUSE: Duration = Duration::from_secs(1);

/// The ear of one link, through all the paths and sockets it has had.
pub(super) struct Ear {
    runtime: Arc<dyn Runtime>,
    peer: OnceLock<SocketAddr>,
    heard: Mutex<Heard>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    last: Instant,
    owed: Option<Instant>,
    longest: Duration,
}

/// What an ear knows now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    /// When something was last heard; at first, when listening began.
    pub(super) heard: Instant,
    /// Since when an answer is due.
    pub(super) owed: Option<Instant>,
    /// The longest time something was due, the present one included.
    pub(super) longest_stall: Duration,
}

impl Ear {
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> Arc<Self> {
        let heard = Heard {
            last: runtime.now(),
            owed: None,
            longest: Duration::ZERO,
        };
        Arc::new(Self {
            runtime,
            peer: OnceLock::new(),
            heard: Mutex::new(heard),
        })
    }

    /// A socket that is listened to.
    pub(super) fn on(self: &Arc<Self>, socket: Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket> {
        Arc::new(Listening {
            inner: socket,
            ear: Arc::clone(self),
        })
    }

    /// An answer is due from now on, if none was: a fresh socket announces itself, and that is
    /// answered.
    pub(super) fn asked(&self) {
        let now = self.runtime.now();
        self.lock().owed.get_or_insert(now);
    }

    /// From now on only this address counts.
    pub(super) fn expect(&self, peer: SocketAddr) {
        let _ = self.peer.set(canonical(peer));
    }

    pub(super) fn report(&self) -> Report {
        let heard = *self.lock();
        let present = heard.stall(self.runtime.now());
        Report {
            heard: heard.last,
            owed: heard.owed,
            longest_stall: heard.longest.max(present),
        }
    }

    fn heard(&self) {
        let now = self.runtime.now();
        let mut heard = self.lock();
        heard.longest = heard.longest.max(heard.stall(now));
        heard.last = now;
        heard.owed = None;
    }

    fn sent(&self) {
        let now = self.runtime.now();
        let mut heard = self.lock();
        if now.saturating_duration_since(heard.last) > REPLY_TIME {
            heard.owed.get_or_insert(now);
        }
    }

    fn is_peer(&self, from: SocketAddr) -> bool {
        self.peer.get().is_none_or(|peer| *peer == canonical(from))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("nothing panics in here")
    }
}

impl Heard {
    /// How long something has been due. Within a running exchange it began with the last thing heard.
    fn stall(&self, now: Instant) -> Duration {
        let Some(owed) = self.owed else {
            return Duration::ZERO;
        };
        let idle = owed.saturating_duration_since(self.last) > PAUSE;
        let since = if idle { owed } else { self.last };
        now.saturating_duration_since(since)
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear")
            .field("heard", &self.heard)
            .finish_non_exhaustive()
    }
}

/// A socket with an ear on it.
#[derive(Debug)]
struct Listening {
    inner: Arc<dyn AsyncUdpSocket>,
    ear: Arc<Ear>,
}

impl AsyncUdpSocket for Listening {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.inner.try_send(transmit);
        // What the kernel refused is lost, and as much owed as what the network swallows.
        if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.ear.sent();
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = polled
            // What the paths keep for themselves has no length, and is no packet of the link.
            && meta[..count].iter().any(|m| m.len > 0 && self.ear.is_peer(m.addr))
        {
            self.ear.heard();
        }
        polled
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
