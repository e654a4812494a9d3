//! Accept loops. An accept error is logged and waited out, never fatal; a handshake runs in its own
//! task under a deadline; over the bound of connections new ones are closed at once, and the last few
//! descriptors are not for visitors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::sys::resource::{Resource, getrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::connection::{self, Facts};
use super::front::{self, Opened};
use super::hello::{self, Seen};
use super::raw::{self, Arrival};
use super::rewound::Rewound;
use super::slots::Slot;
use super::{Admit, Attach, Inner, OpenStream, own, tls};
use crate::http::Scheme;
use crate::http::limits::HANDSHAKE_TIMEOUT;
use crate::names::{Hostname, Kind};
use crate::times::Clock;

/// Long enough that a full table of descriptors costs no CPU, short enough to recover within a second.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The hellos of browsers fit.
const HELLO_ROOM: usize = 2048;

/// Bytes that the kernel holds and has not sent: more is only delay, and memory for a visitor that stands
/// still. What is on its way counts besides, so it costs no speed.
const UNSENT: u32 = 128 * 1024;

/// A silent peer is asked for a sign of life after the first, and again after each of the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));

/// So many signs of life that do not come, and it is gone.
const PROBES: u32 = 4;

/// Descriptors that visitors never get: for the admin socket, the store and its files.
const DESCRIPTORS_KEPT: u64 = 64;

/// For the last bytes of a connection that has no HTTP on it.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// One line about failing accepts in this time; a stranger must not fill the log.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// What a listener is for.
#[derive(Clone)]
pub(super) enum Speaks {
    /// HTTPS.
    Tls(TlsAcceptor),
    /// HTTP, to send visitors to HTTPS.
    Redirects,
    /// HTTP from a proxy that has taken the visitor's TLS off.
    Plain,
}

pub(super) fn spawn<S: Admit + Attach + OpenStream>(
    edge: &Arc<Inner<S>>,
    listener: TcpListener,
    speaks: Speaks,
) {
    let name = match speaks {
        Speaks::Tls(_) => "edge-https",
        Speaks::Redirects => "edge-http",
        Speaks::Plain => "edge-plain-http",
    };
    let stop = edge.tasks.stopped();
    let owner = Arc::clone(edge);
    edge.tasks.spawn_critical(name, async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = owner.draining.cancelled() => {}
            () = accept_all(&owner, &listener, &speaks) => {}
        }
        drop(listener);
        // A critical task lives until its group is told to stop, also when a drain ended its work.
        stop.cancelled().await;
    });
}

async fn accept_all<S: Admit + Attach + OpenStream>(
    edge: &Arc<Inner<S>>,
    listener: &TcpListener,
    speaks: &Speaks,
) {
    let mut failures = Failures::default();
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) if is_of_the_reserve(&tcp) => {
                debug!(%peer, "short of descriptors, closed");
                drop(tcp);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Ok((tcp, peer)) => start(edge, tcp, peer, speaks.clone()),
            // That connection failed, not the listener.
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                failures.log(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The kernel gives the lowest number that is free: one this near to the limit means that hardly any is.
/// Asked each time, because the limit of a running process can be changed.
pub(super) fn is_of_the_reserve(tcp: &TcpStream) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return false;
    };
    let reserve = DESCRIPTORS_KEPT.min(limit / 4);
    u64::try_from(tcp.as_raw_fd()).is_ok_and(|number| number + reserve >= limit)
}

pub(super) fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Counts what it does not say.
#[derive(Default)]
pub(super) struct Failures {
    said: Option<Instant>,
    unsaid: u64,
}

impl Failures {
    pub(super) fn log(&mut self, error: &io::Error) {
        let now = Instant::from_std(Clock.now().monotonic);
        if self.said.is_some_and(|said| now < said + LOG_EVERY) {
            self.unsaid += 1;
            return;
        }
        warn!(%error, unsaid = self.unsaid, "cannot accept connections, retrying");
        self.said = Some(now);
        self.unsaid = 0;
    }
}

fn start<S: Admit + Attach + OpenStream>(
    edge: &Arc<Inner<S>>,
    tcp: TcpStream,
    peer: SocketAddr,
    speaks: Speaks,
) {
    // A dual-stack socket shows IPv4 visitors as ::ffff:…; origins know them by their IPv4 address.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let Some(slot) = edge.slots.enter(&edge.settings.load().front, peer) else {
        debug!(%peer, "too many connections, closed");
        return;
    };
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%peer, %error, "cannot set nodelay");
    }
    // Upgraded connections and event streams may be silent for days; whoever has vanished must not keep one.
    // No TCP_USER_TIMEOUT: since Linux 5.11 that also ends a visitor who is there and reads nothing for a while.
    if let Err(error) = ask_after(&tcp) {
        debug!(%peer, %error, "cannot ask for signs of life");
    }
    // What a visitor reads late, or a link's path carries late, waits where it can be seen and dropped.
    if let Err(error) = SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT) {
        debug!(%peer, %error, "cannot bound what is unsent");
    }
    let owner = Arc::clone(edge);
    edge.connections.spawn("edge-connection", async move {
        serve(owner, tcp, peer, speaks, slot).await;
    });
}

/// Has the kernel ask a silent peer for a sign of life, and break off when none comes. Whatever is not
/// acknowledged ends by itself in the kernel's own time, which is long.
pub(super) fn ask_after(tcp: &TcpStream) -> io::Result<()> {
    let (after, every) = KEEP_ALIVE;
    let keep_alive = TcpKeepalive::new().with_time(after).with_interval(every);
    SockRef::from(tcp).set_tcp_keepalive(&keep_alive.with_retries(PROBES))
}

async fn serve<S: Admit + Attach + OpenStream>(
    edge: Arc<Inner<S>>,
    mut tcp: TcpStream,
    peer: SocketAddr,
    speaks: Speaks,
    mut slot: Slot,
) {
    let Some(opened) = front::open(&edge, &mut tcp, peer, &mut slot).await else {
        return;
    };
    let slot = Some(Arc::new(slot));
    let Speaks::Tls(acceptor) = speaks else {
        let is_plain = matches!(speaks, Speaks::Plain);
        return Box::pin(serve_bare(edge, tcp, opened, is_plain, slot)).await;
    };
    let is_behind = edge.settings.load().front.introduces(peer.ip());
    let Opened { peer, first } = opened;
    let (stop, draining) = (edge.connections.stopped(), edge.draining.clone());
    // In boxes, here and below: what waits for years holds no room for what is over in a moment, or for
    // what another kind of connection would need.
    let greeting = Box::pin(greet(&edge, tcp, (peer, first), &acceptor));
    let handshake = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, greeting) => handshake,
        // Only now: a visitor may ask with his last word of the handshake, before we have read that.
        () = connection::farewell(&draining) => return,
    };
    let mut stream = match handshake {
        Ok(Ok(Greeted::Ours(stream))) => stream,
        Ok(Ok(Greeted::Theirs(tcp, theirs))) => {
            let Theirs { label, sni, first } = theirs;
            let kind = Kind::Tls;
            let arrival = Arrival {
                tcp,
                peer,
                kind,
                label,
                sni: Some(sni),
                first,
                slot,
            };
            return Box::pin(raw::visit(&edge, arrival)).await;
        }
        Ok(Err(error)) => return debug!(%peer, %error, "handshake failed"),
        Err(_) => return debug!(%peer, "handshake too slow"),
    };
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() == Some(tls::ALPN_ACME) {
        // It has seen what it came for.
        let _ = tokio::time::timeout(CLOSE_WITHIN, stream.shutdown()).await;
        return debug!(%peer, "an authority has looked");
    }
    let facts = Facts {
        peer,
        scheme: Scheme::Https,
        sni: session.server_name().and_then(|n| Hostname::parse(n).ok()),
        is_multiplexed: session.alpn_protocol() == Some(tls::ALPN_H2),
        is_behind,
        slot,
    };
    connection::run(edge, stream, facts).await;
}

/// Serves a connection without TLS. What comes by way of the operator's own proxy counts as HTTPS, unless
/// that says otherwise.
async fn serve_bare<S: Admit + Attach + OpenStream>(
    edge: Arc<Inner<S>>,
    mut tcp: TcpStream,
    opened: Opened,
    is_plain: bool,
    slot: Option<Arc<Slot>>,
) {
    let looked = match is_plain {
        true => front::is_h2(&edge, &mut tcp, opened).await,
        false => Some((opened, false)),
    };
    let Some((Opened { peer, first }, is_multiplexed)) = looked else {
        return;
    };
    let facts = Facts {
        peer,
        scheme: if is_plain {
            Scheme::Https
        } else {
            Scheme::Http
        },
        sni: None,
        is_multiplexed,
        is_behind: true,
        slot,
    };
    connection::run(edge, Rewound::new(first, tcp), facts).await;
}

/// Whose the TLS of a connection is.
enum Greeted {
    /// Ours, and the handshake is done.
    Ours(Box<TlsStream<Rewound<TcpStream>>>),
    /// A tls tunnel's: not a byte was answered.
    Theirs(TcpStream, Theirs),
}

/// A hello that asks for a tls tunnel.
struct Theirs {
    label: String,
    sni: String,
    first: Bytes,
}

/// Reads the visitor's hello, and answers it unless it is for a tls tunnel.
async fn greet<S: Admit>(
    edge: &Inner<S>,
    mut tcp: TcpStream,
    (peer, read): (SocketAddr, Bytes),
    acceptor: &TlsAcceptor,
) -> io::Result<Greeted> {
    let mut first = BytesMut::with_capacity(HELLO_ROOM.max(read.len()));
    first.extend_from_slice(&read);
    let seen = loop {
        match hello::look(&first) {
            Seen::Part => {}
            seen => break seen,
        }
        if tcp.read_buf(&mut first).await? == 0 {
            break Seen::Other;
        }
    };
    let first = first.freeze();
    if let Seen::Hello(Some(sni)) = seen
        && let Some(label) = passed_label(edge, &sni)
    {
        return Ok(Greeted::Theirs(tcp, Theirs { label, sni, first }));
    }
    // A proxy that opens TLS and closes it again shakes hands for all its visitors.
    let is_proxy = edge.settings.load().front.trusts(peer.ip());
    if !is_proxy && !edge.inside.may_shake_hands(peer) {
        return Err(io::Error::other("too many handshakes from this address"));
    }
    let stream = acceptor.accept(Rewound::new(first, tcp)).await?;
    Ok(Greeted::Ours(Box::new(stream)))
}

/// The name of the tls tunnel that a name asked for leads to.
fn passed_label<S: Admit>(edge: &Inner<S>, sni: &str) -> Option<String> {
    let host = Hostname::parse(sni).ok()?;
    let settings = edge.settings.load();
    let place = own::place(&edge.inside, &settings, &host)?;
    if edge.inside.passes_tls(&place.label) {
        return Some(place.label);
    }
    if !place.is_ours {
        edge.inside.greeted(&host);
    }
    None
}
