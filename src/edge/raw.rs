//! Visits that are bytes only: those of tcp tunnels, each on a port of its own, and of tls tunnels, whose
//! TLS is not ours to open. An end of one direction is that direction's end at the other side; a reset is
//! a reset. What is refused, or cut, gets a reset too: TCP has no other word for it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::access::{Asked, VisitLog};
use super::both::{Early, both};
use super::forward::LINK_NEWS;
use super::front::{self, Opened};
use super::listener::{ACCEPT_PAUSE, Failures, ask_after, is_of_the_peer, is_of_the_reserve};
use super::outflow::Outgoing as _;
use super::respond::{Failure, outside_of};
use super::shape::{self, Throttle, Way};
use super::slots::Slot;
use super::{Admit, Edge, Inner, OpenError, OpenStream, Pass, held};
use crate::codes::Code;
use crate::engine::{Refusal, Visit};
use crate::names::{Kind, TunnelId, VisitId};
use crate::wire::{
    BytesHead, RecvChunks, SendChunks, StreamCode, StreamError, StreamHead, send_all,
};

/// A read's buffer: small while little comes, so that idle connections cost little.
const READ_MIN: usize = 4 * 1024;
const READ_MAX: usize = 64 * 1024;

/// How many chunks go into one write.
const BATCH: usize = 32;

/// How long a peer may acknowledge nothing. Long: to the kernel one who has stopped reading for a while
/// looks the same.
const UNHEARD: Duration = Duration::from_secs(600);

/// How long a visitor may take for what the origin sent before it broke off, and how often we look.
const LAST_WORDS: Duration = Duration::from_secs(5);
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(50);

/// So many looks make up the time of idleness.
const LOOKS: u32 = 8;

/// A visitor who is here, and what is known of the visit.
pub(super) struct Arrival {
    pub(super) tcp: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) kind: Kind,
    /// What names the tunnel, as [`Visit::label`].
    pub(super) label: String,
    /// The name asked for in TLS.
    pub(super) sni: Option<String>,
    /// What was read already.
    pub(super) first: Bytes,
    pub(super) slot: Option<Arc<Slot>>,
}

impl<S: Admit + OpenStream> Edge<S> {
    /// Serves the visitors of a tcp tunnel on a bound socket, until that is dropped, which `closed` tells.
    /// Whoever owns the socket can so give its port back at once.
    pub fn serve_tcp(
        &self,
        listener: Weak<TcpListener>,
        tunnel: TunnelId,
        closed: CancellationToken,
    ) {
        let edge = Arc::clone(&self.inner);
        let stop = edge.tasks.stopped();
        self.inner.tasks.spawn("edge-tcp-port", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = closed.cancelled() => {}
                () = edge.draining.cancelled() => {}
                () = accept_all(&edge, &listener, tunnel) => {}
            }
        });
    }
}

async fn accept_all<S: Admit + OpenStream>(
    edge: &Arc<Inner<S>>,
    listener: &Weak<TcpListener>,
    tunnel: TunnelId,
) {
    let mut failures = Failures::default();
    loop {
        let accepted = poll_fn(|cx| match listener.upgrade() {
            Some(listener) => listener.poll_accept(cx).map(Some),
            None => Poll::Ready(None),
        });
        match accepted.await {
            None => return,
            Some(Ok((tcp, peer))) if is_of_the_reserve(&tcp) => {
                debug!(%peer, "short of descriptors, closed");
                drop(tcp);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Some(Ok((tcp, peer))) => start(edge, tcp, peer, tunnel),
            Some(Err(error)) if is_of_the_peer(&error) => {}
            Some(Err(error)) => {
                failures.log(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn start<S: Admit + OpenStream>(
    edge: &Arc<Inner<S>>,
    tcp: TcpStream,
    peer: SocketAddr,
    tunnel: TunnelId,
) {
    let peer = canonical(peer);
    let Some(mut slot) = edge.slots.enter(&edge.settings.load().front, peer) else {
        debug!(%peer, "too many connections, closed");
        return;
    };
    let owner = Arc::clone(edge);
    edge.connections.spawn("edge-tcp", async move {
        let mut tcp = tcp;
        let Some(Opened { peer, first }) = front::open(&owner, &mut tcp, peer, &mut slot).await
        else {
            return;
        };
        let arrival = Arrival {
            tcp,
            peer,
            kind: Kind::Tcp,
            label: tunnel.to_string(),
            sni: None,
            first,
            slot: Some(Arc::new(slot)),
        };
        visit(&owner, arrival).await;
    });
}

/// A dual-stack socket shows IPv4 visitors as `::ffff:…`; origins know them by their IPv4 address.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Why a visit ended before both directions had.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the visitor broke off: {0}")]
    Visitor(#[from] io::Error),
    #[error("the client gave up: {0}")]
    Client(#[from] StreamError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the tunnel has as many connections as it may")]
    Full,
    #[error("the tunnel ended")]
    Cut,
    #[error("the link is away and the hold is over")]
    Away,
    #[error("nothing came for too long")]
    Idle,
    #[error("the server stops")]
    Stopped,
}

impl Early for Broken {
    fn of_client(&self) -> Option<&StreamError> {
        match self {
            Self::Client(error) => Some(error),
            _ => None,
        }
    }
}

impl Broken {
    /// What the log calls it, where it was not the visitor's own end.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Visitor(_) | Self::Idle => None,
            Self::Client(error) => Some(Failure::Stream(error.clone()).answer().code),
            Self::Refused(refusal) => Some(outside_of(refusal).code),
            Self::Open(error) => Some(Failure::Open(*error).answer().code),
            Self::Full => Some(Code::Overloaded),
            Self::Cut => Some(Code::TunnelClosed),
            Self::Away => Some(Code::TunnelOffline),
            Self::Stopped => Some(Code::Draining),
        }
    }
}

/// Carries one visit to its end.
pub(super) async fn visit<S: Admit + OpenStream>(edge: &Arc<Inner<S>>, arrival: Arrival) {
    edge.visits.fetch_add(1, Ordering::Relaxed);
    let (id, peer) = (VisitId::random(), arrival.peer);
    let Arrival { tcp, slot, .. } = &arrival;
    let _slot = slot.clone();
    tune(tcp);
    let named = (arrival.kind, &arrival.label[..]);
    let log = VisitLog::of_bytes(&edge.access, id, peer, named, arrival.sni.as_deref());
    let (stop, moved) = (edge.connections.stopped(), Moved::logged(log));
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Err(Broken::Stopped),
        error = reset(tcp) => Err(Broken::Visitor(error)),
        ended = carry(edge, id, &arrival, &moved) => ended,
    };
    if ended.is_err() {
        // A socket that cannot linger closes in the ordinary way.
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
    let (up, down) = moved.bytes();
    moved
        .log
        .ended(ended.as_ref().copied().map_err(Broken::code));
    match ended {
        Ok(()) => debug!(visit = %id, kind = %arrival.kind, %peer, up, down, "visit served"),
        Err(why) => {
            debug!(visit = %id, kind = %arrival.kind, %peer, up, down, %why, "visit broke off")
        }
    }
}

/// What long quiet connections need; a socket without it carries bytes all the same.
fn tune(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let tuned = socket
        .set_tcp_nodelay(true)
        .and_then(|()| ask_after(tcp))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNHEARD)));
    if let Err(error) = tuned {
        debug!(%error, "cannot tune a connection");
    }
}

/// Ready when the visitor reset the connection, or was given up by the kernel, whoever reads or writes.
async fn reset(tcp: &TcpStream) -> io::Error {
    loop {
        match tcp.ready(Interest::ERROR).await {
            Err(error) => return error,
            Ok(ready) if ready.is_error() => {
                let error = tcp.take_error().ok().flatten();
                return error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            }
            Ok(_) => tokio::task::yield_now().await,
        }
    }
}

/// Admits the visit, opens its stream, and moves its bytes. A link that was lost this moment is tried once
/// more: nothing of the visit left.
async fn carry<S: Admit + OpenStream>(
    edge: &Arc<Inner<S>>,
    id: VisitId,
    arrival: &Arrival,
    moved: &Moved,
) -> Result<(), Broken> {
    let asked = Visit {
        http: None,
        id,
        kind: arrival.kind,
        label: arrival.label.clone(),
        peer: arrival.peer,
        bytes: held::bytes_of_connection(),
    };
    let local = arrival.tcp.local_addr().map(canonical)?;
    let mut again = true;
    loop {
        let pass = edge.inside.admit(asked.clone()).await;
        let pass = pass.inspect_err(|refusal| moved.log.turned_away(refusal))?;
        moved.log.admitted(&pass.route, || Asked {
            host: arrival.sni.as_deref(),
            ..Asked::default()
        });
        let settings = edge.settings.load_full();
        let tunnel = pass.route.tunnel;
        let Some(_place) = edge.raw.enter(tunnel, settings.raw_connections) else {
            return Err(Broken::Full);
        };
        let head = StreamHead::Bytes(BytesHead {
            tunnel,
            visit: id,
            peer: arrival.peer,
            local,
            sni: arrival.sni.clone(),
            shadowed: pass.route.shadows(),
        });
        let opened = tokio::select! {
            biased;
            () = pass.cut.cancelled() => return Err(Broken::Cut),
            opened = edge.inside.open(pass.route.link, &head) => opened,
        };
        match opened {
            Err(OpenError::LinkGone) if again => {
                again = false;
                drop(pass);
                tokio::time::sleep(LINK_NEWS).await;
            }
            Err(error) => return Err(error.into()),
            Ok((tx, rx)) => {
                let first = arrival.first.clone();
                let idle = settings.raw_idle;
                let slow = [Way::Up, Way::Down].map(|way| edge.shaper.throttle(&pass, way));
                let visitor = (&arrival.tcp, first);
                return splice(visitor, tx, rx, &pass, (slow, idle), moved).await;
            }
        }
    }
}

/// Until both directions have ended, or the visit is over for another reason.
async fn splice<T: SendChunks, R: RecvChunks>(
    (tcp, first): (&TcpStream, Bytes),
    mut tx: T,
    mut rx: R,
    pass: &Pass,
    ([slow_up, slow_down], idle): ([Throttle; 2], Duration),
    moved: &Moved,
) -> Result<(), Broken> {
    let ended = {
        let up = up(tcp, first, &mut tx, slow_up, moved);
        let down = down(&mut rx, tcp, slow_down, moved);
        tokio::select! {
            biased;
            () = pass.cut.cancelled() => Err(Broken::Cut),
            () = unanswered(pass, moved) => Err(Broken::Away),
            () = moved.idle(idle) => Err(Broken::Idle),
            ended = both(up, down, || moved.bytes().1) => ended,
        }
    };
    if let Err(why) = &ended {
        let code = match why {
            Broken::Cut => StreamCode::TunnelEnded,
            _ => StreamCode::Cancelled,
        };
        tx.reset(code);
        rx.stop(code);
        if why.broke_after().is_some() {
            // It is still in time when it is late.
            let _ = tokio::time::timeout(LAST_WORDS, taken(tcp, moved)).await;
        }
    }
    ended
}

/// The visitor has acknowledged all that was written: a reset of ours takes back what has not left yet.
async fn taken(tcp: &TcpStream, moved: &Moved) {
    let mut pause = LOOK_FIRST;
    while tcp
        .acknowledged()
        .is_some_and(|count| count < moved.bytes().1)
    {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

/// The link is away, the hold is over, and nothing has come back yet. One that was answered goes on: the
/// link may come back.
async fn unanswered(pass: &Pass, moved: &Moved) {
    pass.offline.cancelled().await;
    if moved.bytes().1 > 0 {
        std::future::pending().await
    }
}

/// Visitor to client. The visitor's end is the stream's end.
async fn up<T: SendChunks>(
    tcp: &TcpStream,
    first: Bytes,
    tx: &mut T,
    mut throttle: Throttle,
    moved: &Moved,
) -> Result<(), Broken> {
    let (mut room, mut size) = (BytesMut::new(), READ_MIN);
    moved.up(first.len());
    send_all(tx, &mut [first]).await?;
    let mut watches = true;
    loop {
        shape::wait(&mut throttle).await;
        tokio::select! {
            biased;
            stopped = poll_fn(|cx| tx.poll_stopped(cx)), if watches => {
                watches = false;
                if let Some(error) = stopped {
                    return Err(error.into());
                }
            }
            ready = tcp.readable() => ready?,
        }
        room.reserve(size);
        let count = match tcp.try_read_buf(&mut room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read?,
        };
        if count == 0 {
            tx.finish();
            return Ok(());
        }
        size = match count {
            full if full >= size && !throttle.slows() => (size * 2).min(READ_MAX),
            little if little < size / 4 => (size / 2).max(READ_MIN),
            _ => size,
        };
        moved.up(count);
        throttle.took(count);
        send_all(tx, &mut [room.split().freeze()]).await?;
    }
}

/// Client to visitor. The stream's end is the visitor's end.
async fn down<R: RecvChunks>(
    rx: &mut R,
    tcp: &TcpStream,
    mut throttle: Throttle,
    moved: &Moved,
) -> Result<(), Broken> {
    loop {
        shape::wait(&mut throttle).await;
        let mut chunks = [const { Bytes::new() }; BATCH];
        // What is held back goes by the piece.
        let slots = if throttle.slows() { 1 } else { BATCH };
        let count = poll_fn(|cx| rx.poll_recv(cx, &mut chunks[..slots])).await?;
        if count == 0 {
            // One who has gone already cannot be told, and needs not.
            return match SockRef::from(tcp).shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error.into()),
                _ => Ok(()),
            };
        }
        throttle.took(chunks.iter().map(Bytes::len).sum());
        write_all(tcp, &mut chunks[..count], moved).await?;
    }
}

async fn write_all(tcp: &TcpStream, chunks: &mut [Bytes], moved: &Moved) -> io::Result<()> {
    let mut from = 0;
    while from < chunks.len() {
        let mut slices = [io::IoSlice::new(&[]); BATCH];
        for (slice, chunk) in slices.iter_mut().zip(&chunks[from..]) {
            *slice = io::IoSlice::new(chunk);
        }
        let wrote = tcp.try_write_vectored(&slices[..chunks.len() - from]);
        let mut wrote = match wrote {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tcp.writable().await?;
                continue;
            }
            wrote => wrote?,
        };
        moved.down(wrote);
        while let Some(chunk) = chunks.get_mut(from) {
            let step = wrote.min(chunk.len());
            bytes::Buf::advance(chunk, step);
            wrote -= step;
            if !chunk.is_empty() {
                break;
            }
            from += 1;
        }
    }
    Ok(())
}

/// What has moved, for the log and for idleness.
#[derive(Default)]
struct Moved {
    up: AtomicU64,
    down: AtomicU64,
    log: VisitLog,
}

impl Moved {
    fn logged(log: VisitLog) -> Self {
        Self {
            log,
            ..Self::default()
        }
    }

    fn up(&self, count: usize) {
        self.up.fetch_add(count as u64, Ordering::Relaxed);
        self.log.received(count as u64);
    }

    fn down(&self, count: usize) {
        self.down.fetch_add(count as u64, Ordering::Relaxed);
        self.log.sent(count as u64);
    }

    fn bytes(&self) -> (u64, u64) {
        (
            self.up.load(Ordering::Relaxed),
            self.down.load(Ordering::Relaxed),
        )
    }

    /// Ready when nothing has moved for so long, give or take a look; never, when there is no limit.
    async fn idle(&self, limit: Duration) {
        if limit.is_zero() {
            std::future::pending::<()>().await;
        }
        let (mut seen, mut still) = (self.bytes(), 0);
        while still < LOOKS {
            tokio::time::sleep(limit / LOOKS).await;
            let now = self.bytes();
            still = if now == seen { still + 1 } else { 0 };
            seen = now;
        }
    }
}

/// How many visits of bytes each tunnel has: they hold streams of a link that others share.
#[derive(Debug, Default)]
pub(super) struct RawBoard(Mutex<HashMap<TunnelId, usize>>);

impl RawBoard {
    fn counts(&self) -> MutexGuard<'_, HashMap<TunnelId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, unless the tunnel has `most` already.
    fn enter(&self, tunnel: TunnelId, most: usize) -> Option<Place<'_>> {
        let mut counts = self.counts();
        let count = counts.entry(tunnel).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place(self, tunnel))
    }
}

struct Place<'a>(&'a RawBoard, TunnelId);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
