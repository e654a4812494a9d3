//! Public listeners: a visit comes in, a response or a splice goes out. Not decisions (the engine's),
//! not links: what stands behind is reached through [`Admit`], [`OpenStream`] and [`Attach`], which the
//! server role implements.
//!
//! ```text
//! listener ─▶ front ─▶ hello ─▶ tls ─▶ guard (HTTP/1 bytes) ─▶ hyper ─▶ serve ─▶ forward ─▶ stream
//!                                                       │         └─▶ upgrade (splice)
//!                                                       ├─▶ door (the server's own)
//!                                                       └─▶ respond (our own answers)
//! QUIC ─▶ h3 (its own frames) ─▶ serve, as above
//! public ports, and the hellos of tls tunnels ─▶ raw (TCP) · udp ─▶ stream · flow
//! ```
//!
//! What hyper 1.12 cannot do, and so visitors do not get: interim heads other than 100 (they end
//! here), and over HTTP/1 trailers that the response does not announce in `Trailer`.

mod access;
mod body;
mod both;
mod connection;
mod cors;
mod credentials;
mod door;
mod dress;
mod forward;
mod frames;
mod front;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
pub mod h3;
mod held;
mod hello;
mod home;
mod incoming;
mod interstitial;
mod ledger;
mod listener;
mod outflow;
mod own;
mod pace;
mod pages;
mod proof;
mod raw;
mod redirect;
mod reserved;
mod respond;
mod rewound;
mod sent;
mod serve;
mod shape;
mod signed;
mod slots;
mod stall;
mod tally;
#[cfg(test)]
mod tests;
pub mod tls;
mod udp;
mod upgrade;
mod upload;

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::access::AccessLog;
pub use self::access::AccessMode;
use self::credentials::Digester;
pub use self::front::Front;
pub use self::home::Site;
use self::listener::Speaks;
pub use self::proof::ShowProofs;
use self::raw::RawBoard;
pub use self::shape::Rates;
use self::shape::Shaper;
use self::signed::Signatures;
use self::slots::Slots;
use self::stall::StallBoard;
pub use self::tally::Tally;
pub use self::udp::OpenFlow;
use crate::engine::policy::Policy;
use crate::engine::policy::share::ShareRow;
use crate::engine::{Refusal, Route, Visit};
use crate::http::limits::{CONNECTIONS_MAX, SIGNED_BODY_MAX, SIGNED_MEMORY_MAX, VISITS_MAX};
use crate::names::{Hostname, LinkId, ShareId, VisitId};
use crate::tasks::Tasks;
use crate::wire::{RecvChunks, SendChunks, StreamHead};

/// Asks the engine about a visit, and waits for it in the hold.
pub trait Admit: Clone + Send + Sync + 'static {
    /// `Engine::admit`, and the wait of a held visit. Dropping the future is a visitor that went away.
    fn admit(&self, visit: Visit) -> impl Future<Output = Result<Pass, Refusal>> + Send;

    /// `Engine::probe`: where the question goes that a client asks itself through its tunnel's name.
    /// No visit, and never held.
    fn probe(&self, probe: VisitId, label: &str) -> Result<Pass, Refusal>;
    /// Whether the name leads to a tunnel that wants the very bytes of TLS: then it is not ours to open.
    fn passes_tls(&self, _label: &str) -> bool {
        false
    }

    /// Whether a name that is not below our domain leads to a tunnel, and the registered name that it is at
    /// or below. The tunnel's label is then the whole name.
    fn own_domain(&self, _host: &Hostname) -> Option<Hostname> {
        None
    }

    /// A visitor wants TLS of ours for such a name; told before the handshake.
    fn greeted(&self, _host: &Hostname) {}

    /// Whether one more TLS handshake of an address is taken; counts it. The address is its own: TCP has
    /// proved it.
    fn may_shake_hands(&self, _peer: SocketAddr) -> bool {
        true
    }

    /// Whether one more visit of an address to a name that is nobody's gets our page; counts it. Else how
    /// long it has to wait.
    fn may_ask_for_nobody(&self, _peer: SocketAddr) -> Result<(), Refusal> {
        Ok(())
    }

    /// `Engine::greet`: the policy of a name, for who may come there at all, before it is asked who they
    /// are. No visit.
    fn greet(&self, label: &str, _peer: SocketAddr) -> Result<Arc<Policy>, Refusal> {
        Err(Refusal::NoRoute { host: label.into() })
    }

    /// A visitor opens a share link: one use of it is taken, on disk, and the share comes back with the
    /// proof for its cookie.
    fn open_share(
        &self,
        label: &str,
        _peer: SocketAddr,
        _token: &str,
    ) -> impl Future<Output = Result<(ShareRow, String), Refusal>> + Send {
        ready(Err(Refusal::NoRoute { host: label.into() }))
    }

    /// The share of this name that the proof in a cookie is of.
    fn share_of(&self, _label: &str, _proof: &str) -> Option<ShareId> {
        None
    }
}

/// An admitted visit: where it goes, and when to cut it. Dropping it ends the visit for the engine.
pub struct Pass {
    /// Where it goes.
    pub route: Route,
    /// Fires when the visit must end: its tunnel closed or expired.
    pub cut: CancellationToken,
    /// Fires when the link has been away for longer than visits wait for it: a visit that is sent and has
    /// no answer yet is given up, and not sent again.
    pub offline: CancellationToken,
    /// Hears of other rates.
    pub rates: Rates,
    /// Tells the engine that the visit is over.
    pub guard: Box<dyn Send + Sync>,
}

/// Opens a stream to a live link: the seam where another node or another device can stand behind a link.
pub trait OpenStream: Clone + Send + Sync + 'static {
    /// Sending half.
    type Tx: SendChunks;
    /// Receiving half.
    type Rx: RecvChunks;

    /// Opens a stream and sends its head; waits, bounded, when the link has no stream to give.
    fn open(
        &self,
        link: LinkId,
        head: &StreamHead,
    ) -> impl Future<Output = Result<(Self::Tx, Self::Rx), OpenError>> + Send;
}

/// Why no stream could be opened. In every case no byte of the visit left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The link is gone.
    #[error("the link is gone")]
    LinkGone,
    /// All its streams are in use and none came free in time.
    #[error("the link has no stream to give")]
    NoStream,
}

/// The server's own door on the HTTPS port, for those who want no tunnel but the server. What goes
/// through it is no visit.
pub trait Attach: Clone + Send + Sync + 'static {
    /// The door's path: exactly this, without a query.
    const DOOR: &'static str;

    /// A place inside for one who is let in; given back when it is dropped.
    type Place: Send + 'static;

    /// The answer (101) to a request that the door opens to, with the place that is kept for it; or
    /// what is wrong with it, and 503 where no place is left.
    fn judge(
        &self,
        asked: &Request<()>,
        peer: SocketAddr,
    ) -> Result<(Response<()>, Self::Place), StatusCode>;

    /// Carries a connection to its end, once the answer is out. Dropping the future ends it at once.
    fn attach<I>(&self, io: I, place: Self::Place) -> impl Future<Output = ()> + Send
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// What the edge is told by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeSettings {
    /// Tunnels answer at `<slug>.<domain>`.
    pub domain: Hostname,
    /// The port visitors use for HTTPS; redirects name it unless it is 443.
    pub public_https_port: u16,
    /// Whether answers say that HTTP/3 is to be had on the same port.
    pub http3: bool,
    /// How long an origin may take to the first byte of an answer; zero is for ever.
    pub origin_timeout: Duration,
    /// The most connections at once, over all listeners; read once, at the start. One source may have an
    /// eighth of them.
    pub connections_max: usize,
    /// The most visits under way at once, over all connections; read once, at the start. Over it: 503.
    pub visits_max: usize,
    /// The most connections of one tcp or tls tunnel at once.
    pub raw_connections: usize,
    /// How long such a connection may carry nothing; zero is for ever.
    pub raw_idle: Duration,
    /// The most flows of one udp tunnel at once; one visitor's host may have half of them.
    pub udp_flows: usize,
    /// How long a flow may carry nothing.
    pub udp_idle: Duration,
    /// The most bytes of a body whose signature is looked at. Over it: 413.
    pub signed_body: usize,
    /// The most bytes of all of them at once; one user's tunnels may have a
    /// quarter, one tunnel an eighth, one visitor a 32nd, and each one body at least. Over it: 503.
    pub signed_memory: usize,
    /// The most visitors of one link that may stand still in the middle of a response.
    pub stalled_max: usize,
    /// Which visits get a line in the log.
    pub access: AccessMode,
    /// Whom to believe about visitors.
    pub front: Front,
    /// What the base domain says.
    pub site: Site,
}

impl EdgeSettings {
    /// The defaults, for a domain and a port.
    pub fn new(domain: Hostname, public_https_port: u16) -> Self {
        Self {
            domain,
            public_https_port,
            http3: false,
            origin_timeout: Duration::from_secs(60),
            connections_max: CONNECTIONS_MAX,
            visits_max: VISITS_MAX,
            signed_body: SIGNED_BODY_MAX,
            signed_memory: SIGNED_MEMORY_MAX,
            stalled_max: 128,
            access: AccessMode::Off,
            raw_connections: 256,
            raw_idle: Duration::from_secs(2 * 3600),
            udp_flows: 256,
            udp_idle: Duration::from_secs(60),
            front: Front::default(),
            site: Site::default(),
        }
    }
}

/// The public edge. Clones share everything.
pub struct Edge<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Clone for Edge<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

/// What all connections share.
struct Inner<S> {
    settings: ArcSwap<EdgeSettings>,
    inside: S,
    /// The role's group: accept loops live in it.
    tasks: Tasks,
    /// Connections and what they start; stopped alone when a drain is over.
    connections: Tasks,
    draining: CancellationToken,
    slots: Arc<Slots>,
    visits_free: Arc<Semaphore>,
    stalls: Arc<StallBoard>,
    raw: RawBoard,
    access: Arc<AccessLog>,
    digester: Digester,
    shaper: Shaper,
    signatures: Signatures,
    visits: AtomicU64,
    proofs: OnceLock<Arc<dyn ShowProofs>>,
    tally: Arc<Tally>,
}

impl<S: Admit + Attach + OpenStream> Edge<S> {
    /// An edge without listeners; needs a tokio runtime around it.
    pub fn new(settings: EdgeSettings, inside: S, tasks: Tasks) -> Self {
        let stalls = StallBoard::new(settings.stalled_max);
        let access = AccessLog::new(settings.access);
        let connections = tasks.child();
        tasks.spawn_critical("edge-stalls", {
            let (stalls, stop) = (Arc::clone(&stalls), tasks.stopped());
            let (connections, access) = (connections.clone(), Arc::clone(&access));
            async move {
                stalls.sweep_until(&stop).await;
                // The role waits for its own group only, so this task waits for the connections.
                connections.finished(Duration::from_secs(1)).await;
                access.flush().await;
            }
        });
        Self {
            inner: Arc::new(Inner {
                slots: Slots::new(settings.connections_max),
                visits_free: Arc::new(Semaphore::new(settings.visits_max)),
                settings: ArcSwap::from_pointee(settings),
                inside,
                connections,
                draining: CancellationToken::new(),
                stalls,
                raw: RawBoard::default(),
                access,
                digester: Digester::new(),
                shaper: Shaper::default(),
                signatures: Signatures::default(),
                visits: AtomicU64::new(0),
                proofs: OnceLock::new(),
                tally: Arc::default(),
                tasks,
            }),
        }
    }

    /// Serves visitors over TLS on an already bound socket.
    pub fn serve_https(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        listener::spawn(&self.inner, listener, Speaks::Tls(tls.into()));
    }

    /// Serves a visitor over HTTP/3, whose QUIC handshake is done, and was done with this address.
    pub fn serve_quic(&self, connection: quinn::Connection, peer: SocketAddr) {
        h3::spawn(&self.inner, connection, peer);
    }

    /// Serves redirects to HTTPS on an already bound socket.
    pub fn serve_http(&self, listener: TcpListener) {
        listener::spawn(&self.inner, listener, Speaks::Redirects);
    }

    /// Serves visitors whose TLS the operator's own proxy has taken off, on an already bound socket.
    pub fn serve_plain(&self, listener: TcpListener) {
        listener::spawn(&self.inner, listener, Speaks::Plain);
    }

    /// Shows an authority's proofs on the HTTP listener, from now on and for good.
    pub fn show_proofs(&self, proofs: Arc<dyn ShowProofs>) {
        // The first one stays: there is one keeper of certificates.
        let _ = self.inner.proofs.set(proofs);
    }

    /// New settings, for visits that begin from now on.
    pub fn reload(&self, settings: EdgeSettings) {
        self.inner.stalls.set_budget(settings.stalled_max);
        self.inner.access.set_mode(settings.access);
        self.inner.settings.store(Arc::new(settings));
    }

    /// Takes no new connection, and waits until what was asked on those that are there has been read: the
    /// first part of a drain.
    pub async fn take_last_questions(&self) {
        self.inner.draining.cancel();
        // Idle connections read that long; where there are none, nothing is waited for.
        let within = 2 * connection::LAST_QUESTIONS;
        self.inner.connections.finished(within).await;
    }

    /// Takes no new connection, lets visits finish, and ends what is left at the deadline. Whether all
    /// finished by themselves.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.inner.draining.cancel();
        // Idle connections read that long, and then end in order, whatever the deadline.
        let deadline = deadline.max(2 * connection::LAST_QUESTIONS);
        let finished = self.inner.connections.finished(deadline).await;
        if !finished {
            self.inner
                .connections
                .shutdown(Duration::from_secs(1))
                .await;
        }
        finished
    }

    /// Visits to tunnels so far.
    pub fn visits_total(&self) -> u64 {
        self.inner.visits.load(Ordering::Relaxed)
    }

    /// What became of visits.
    pub fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    /// The most connections at once.
    pub fn connections_max(&self) -> usize {
        self.inner.slots.max()
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.inner.slots.taken()
    }
}
