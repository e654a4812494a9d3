//! A client's socket: UDP and at most one WebSocket, as one. QUIC knows one address of the server
//! all the time; which path its packets take is switched in here. Not when: that is asked of
//! [`switch`](super::switch).

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::hub::{Inbox, inbox};
use super::outbox::Outbox;
use super::probe::{self, Nonce};
use super::pump::{Arrived, Inward, pump};
use super::{PathInfo, PathKind};
use crate::link::handle::canonical;
use crate::tasks::Tasks;

/// Datagrams that wait for the endpoint.
const INBOX: usize = 256;

/// Bytes that wait for the WebSocket. Enough for a window at 100 Mbit/s and 20 ms; more would only
/// be delay, and less loss for QUIC to see.
const OUTBOX: usize = 256 * 1024;

/// UDP addresses of the server kept for the way back.
const TARGETS: usize = 4;

/// The server's address in QUIC's eyes on a link that began in a WebSocket. Reserved for ever
/// (RFC 1112), so nothing on a network has it; an IPv4 one, which every socket takes.
pub(in crate::link) const BESIDE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)), 443);

/// The composite socket of one dialled link.
#[derive(Debug)]
pub(in crate::link) struct Paths {
    /// As the dialer was told: the way back to UDP may need to ask for it anew.
    address: String,
    /// Silence after which a WebSocket is given up.
    idle: Duration,
    state: Mutex<State>,
    inbox: Inbox,
    arrives: mpsc::Sender<Arrived>,
    heard: AtomicU64,
    answered: Notify,
    /// Keeps two changes of path apart.
    changing: tokio::sync::Mutex<()>,
    tasks: Tasks,
}

#[derive(Debug)]
struct State {
    udp: Arc<dyn AsyncUdpSocket>,
    /// The server in QUIC's eyes, once a link is made.
    peer: Option<SocketAddr>,
    /// Where it may be reached over UDP, the likeliest first.
    targets: Vec<SocketAddr>,
    websocket: Option<Carrier>,
    /// Whether the link's packets take the WebSocket, as long as there is one.
    prefer_websocket: bool,
    asked: Option<Nonce>,
    answered_by: Option<SocketAddr>,
}

#[derive(Debug)]
struct Carrier {
    outbox: Arc<Outbox>,
    info: PathInfo,
    /// Stops it once its packets are out.
    stop: CancellationToken,
}

/// Where a packet goes.
enum Way {
    Udp(Arc<dyn AsyncUdpSocket>, SocketAddr),
    WebSocket(Arc<Outbox>),
    Nowhere,
}

impl State {
    /// The WebSocket, if it lives.
    fn carrier(&self) -> Option<&Carrier> {
        self.websocket
            .as_ref()
            .filter(|carrier| !carrier.outbox.is_closed())
    }

    fn is_beside(addr: SocketAddr) -> bool {
        canonical(addr) == BESIDE
    }

    fn way(&self, destination: SocketAddr) -> Way {
        let beside = Self::is_beside(destination);
        let udp = |target| Way::Udp(Arc::clone(&self.udp), target);
        if !beside && self.peer != Some(destination) {
            return udp(destination);
        }
        // Until a link is made, the attempt beside the others is the WebSocket's alone.
        let wanted = self.prefer_websocket || self.peer.is_none();
        match self.carrier() {
            Some(carrier) if wanted => Way::WebSocket(Arc::clone(&carrier.outbox)),
            _ if !beside => udp(destination),
            _ => self.targets.first().map_or(Way::Nowhere, |to| udp(*to)),
        }
    }

    /// Tells QUIC what came over UDP under the name it knows. Returns how much of it was from the
    /// server.
    fn name(&mut self, bufs: &[IoSliceMut<'_>], meta: &mut [RecvMeta]) -> u64 {
        let mut heard = 0;
        for (buf, meta) in bufs.iter().zip(meta) {
            let answer = self.asked.filter(|nonce| {
                let first = meta.stride.min(meta.len).min(buf.len());
                probe::is_answer(&buf[..first], *nonce)
            });
            if answer.is_some() {
                if self.answered_by.is_none() && self.targets.contains(&meta.addr) {
                    self.answered_by = Some(meta.addr);
                }
                meta.len = 0;
                continue;
            }
            if self.targets.contains(&meta.addr) {
                heard += 1;
                if let Some(peer) = self.peer {
                    meta.addr = peer;
                }
            }
        }
        heard
    }
}

impl Paths {
    pub(in crate::link) fn over(
        udp: Arc<dyn AsyncUdpSocket>,
        address: &str,
        idle: Duration,
    ) -> Arc<Self> {
        let (arrives, inbox) = inbox(INBOX);
        Arc::new(Self {
            address: address.to_owned(),
            idle,
            state: Mutex::new(State {
                udp,
                peer: None,
                targets: Vec::new(),
                websocket: None,
                prefer_websocket: false,
                asked: None,
                answered_by: None,
            }),
            inbox,
            arrives,
            heard: AtomicU64::new(0),
            answered: Notify::new(),
            changing: tokio::sync::Mutex::default(),
            tasks: Tasks::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn udp(&self) -> Arc<dyn AsyncUdpSocket> {
        Arc::clone(&self.lock().udp)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Puts another UDP socket in place of the present one, whichever path is taken now; nothing more
    /// is heard through the old one. QUIC is then to be told by rebinding its endpoint to this same
    /// composite socket.
    pub(in crate::link) fn replace_udp(&self, udp: Arc<dyn AsyncUdpSocket>) {
        self.lock().udp = udp;
    }

    /// The addresses at which UDP may reach the server.
    pub(in crate::link) fn aim(&self, candidates: &[SocketAddr]) {
        let udp = self.udp();
        let six = udp.local_addr().is_ok_and(|local| local.is_ipv6());
        let fits = candidates.iter().filter(|addr| six || addr.is_ipv4());
        self.lock().targets = fits.map(|addr| as_seen(*addr, six)).take(TARGETS).collect();
    }

    /// To be held while the path is changed.
    pub(super) async fn changing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    pub(super) fn has_targets(&self) -> bool {
        !self.lock().targets.is_empty()
    }

    /// A link is made, with the server under this name of QUIC's.
    pub(in crate::link) fn settle(&self, peer: SocketAddr) {
        let mut state = self.lock();
        state.peer = Some(peer);
        if State::is_beside(peer) {
            state.prefer_websocket = true;
            return;
        }
        state.targets = vec![peer];
        state.prefer_websocket = false;
        drop(state);
        self.end_websocket();
    }

    /// Datagrams from the server over UDP so far.
    pub(in crate::link) fn heard_over_udp(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The server's address behind the one that QUIC knows, as people write it. In a WebSocket from
    /// the start, that is where UDP would reach it, if known.
    pub(in crate::link) fn real(&self, addr: SocketAddr) -> SocketAddr {
        let target = State::is_beside(addr).then(|| self.lock().targets.first().copied());
        canonical(target.flatten().unwrap_or(addr))
    }

    /// The path taken now.
    pub(super) fn info(&self) -> PathInfo {
        let state = self.lock();
        let carrier = state.carrier().filter(|_| state.prefer_websocket);
        carrier.map_or(PathInfo::UDP, |carrier| carrier.info.clone())
    }

    /// Takes a WebSocket into service beside UDP; one that was there before ends.
    pub(in crate::link) fn carry<I>(&self, io: WebSocketStream<I>, info: PathInfo)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        debug_assert_eq!(info.kind, PathKind::WebSocket);
        let outbox = Arc::new(Outbox::new(OUTBOX));
        let stop = self.tasks.stopped().child_token();
        let carrier = Carrier {
            outbox: Arc::clone(&outbox),
            info,
            stop: stop.clone(),
        };
        let before = self.lock().websocket.replace(carrier);
        if let Some(before) = before {
            before.stop.cancel();
        }
        let inward = Inward {
            inbox: self.arrives.clone(),
            from: BESIDE,
            idle: self.idle,
            doubt: None,
        };
        self.tasks.spawn("websocket-path", async move {
            let end = pump(io, &outbox, inward, &stop).await;
            debug!(%end, "websocket path over");
        });
    }

    /// Lets the link's packets take the WebSocket, or UDP.
    pub(super) fn prefer(&self, kind: PathKind) {
        self.lock().prefer_websocket = kind == PathKind::WebSocket;
    }

    /// Ends the WebSocket, once its packets are out.
    pub(super) fn end_websocket(&self) {
        if let Some(carrier) = self.lock().websocket.take() {
            carrier.stop.cancel();
        }
    }

    /// Waits until no WebSocket carries the link: it was closed, or broke.
    pub(super) async fn websocket_ended(&self) {
        let outbox = {
            let state = self.lock();
            let carrier = state.carrier().filter(|_| state.prefer_websocket);
            carrier.map(|carrier| Arc::clone(&carrier.outbox))
        };
        if let Some(outbox) = outbox {
            outbox.closed().await;
        }
    }

    /// Asks every address of the server whether UDP works; [`answer`](Self::answer) waits.
    pub(super) fn ask(&self, nonce: Nonce) {
        let (udp, targets) = {
            let mut state = self.lock();
            if state.asked != Some(nonce) {
                state.asked = Some(nonce);
                state.answered_by = None;
            }
            (Arc::clone(&state.udp), state.targets.clone())
        };
        let question = probe::question(nonce);
        for destination in targets {
            // A socket that cannot send now is as good as a packet that is lost.
            let _ = udp.try_send(&Transmit {
                destination,
                ecn: None,
                contents: &question,
                segment_size: None,
                src_ip: None,
            });
        }
    }

    /// Waits for an answer to the last question; whoever answered is where UDP goes from now on.
    pub(super) async fn answer(&self) {
        loop {
            let answered = self.answered.notified();
            {
                let mut state = self.lock();
                if let Some(target) = state.answered_by.take() {
                    state.asked = None;
                    state.targets.retain(|other| *other != target);
                    state.targets.insert(0, target);
                    return;
                }
            }
            answered.await;
        }
    }

    fn receive_udp(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.udp().poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(count)) = received {
            let mut state = self.lock();
            let heard = state.name(bufs, &mut meta[..count]);
            let answered = state.answered_by.is_some();
            drop(state);
            self.heard.fetch_add(heard, Ordering::Relaxed);
            if answered {
                self.answered.notify_one();
            }
        }
        received
    }

    /// How QUIC calls the server.
    fn name(&self) -> SocketAddr {
        let state = self.lock();
        let six = || state.udp.local_addr().is_ok_and(|local| local.is_ipv6());
        state.peer.unwrap_or_else(|| as_seen(BESIDE, six()))
    }
}

impl Drop for Paths {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// An address as a socket of both families writes it.
fn as_seen(addr: SocketAddr, six: bool) -> SocketAddr {
    match addr {
        SocketAddr::V4(four) if six => (four.ip().to_ipv6_mapped(), four.port()).into(),
        other => other,
    }
}

/// Whether the UDP socket of now takes packets. QUIC hears of another socket later than packets find it, and
/// as long as one said yes and the other no, it would ask again without end.
#[derive(Debug)]
struct Follower {
    paths: Arc<Paths>,
    of: Arc<dyn AsyncUdpSocket>,
    poller: Pin<Box<dyn UdpPoller>>,
}

impl UdpPoller for Follower {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let udp = self.paths.udp();
        if !Arc::ptr_eq(&udp, &self.of) {
            self.poller = Arc::clone(&udp).create_io_poller();
            self.of = udp;
        }
        self.poller.as_mut().poll_writable(cx)
    }
}

impl AsyncUdpSocket for Paths {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let of = self.udp();
        Box::pin(Follower {
            poller: Arc::clone(&of).create_io_poller(),
            of,
            paths: self,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let way = self.lock().way(transmit.destination);
        match way {
            Way::Udp(udp, destination) => udp.try_send(&Transmit {
                destination,
                ..transmit.clone()
            }),
            Way::WebSocket(outbox) => {
                outbox.push(transmit.contents, transmit.segment_size);
                Ok(())
            }
            Way::Nowhere => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let name = self.name();
        self.inbox.by_turns(
            cx,
            bufs,
            meta,
            |cx, bufs, meta| self.receive_udp(cx, bufs, meta),
            |_| name,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp().max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp().max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp().may_fragment()
    }
}
