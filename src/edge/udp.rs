//! Udp tunnels: a socket on the public port, and a flow for each visitor's address. A flow lives as long
//! as datagrams come; what cannot be carried now is dropped, the oldest first, as networks do.
//!
//! Nothing is answered here: a visitor gets what the origin sends and not a byte more, so whether forged
//! addresses can be flooded through a tunnel is the origin's to decide, as it would be without one.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::access::{Asked, VisitLog};
use super::forward::LINK_NEWS;
use super::listener::ACCEPT_PAUSE;
use super::raw::canonical;
use super::respond::{Failure, outside_of};
use super::shape::{Throttle, Way};
use super::{Admit, Edge, Inner, OpenError, Pass, held};
use crate::codes::Code;
use crate::engine::{Refusal, Visit};
use crate::names::{Kind, LinkId, TunnelId, VisitId};
use crate::wire::udp::{Datagrams, FlowEnd, PAYLOAD_MAX};
use crate::wire::{QueueRecv, QueueSend, StreamCode, UdpHead, queue};

/// What waits for a flow that is being opened, or for its turn.
pub(super) const WAITING: usize = 64;

/// A flow that was never answered is given up sooner: forged addresses shall not fill the table.
const UNANSWERED: Duration = Duration::from_secs(10);

/// How long an address whose flow was refused is not listened to: else each datagram would ask again.
const REFUSED: Duration = Duration::from_secs(1);

/// Opens a flow of datagrams on a live link.
pub trait OpenFlow: Clone + Send + Sync + 'static {
    /// A flow.
    type Flow: Datagrams;

    /// Opens a flow; its number in the head is the link's to fill in.
    fn open_flow(
        &self,
        link: LinkId,
        head: UdpHead,
    ) -> impl Future<Output = Result<Self::Flow, OpenError>> + Send;
}

impl<S: Admit + OpenFlow> Edge<S> {
    /// Serves the visitors of a udp tunnel on a bound socket, until that is dropped, which `closed` tells.
    pub fn serve_udp(&self, socket: Weak<UdpSocket>, tunnel: TunnelId, closed: CancellationToken) {
        let edge = Arc::clone(&self.inner);
        let stop = edge.tasks.stopped();
        let port = Port {
            edge,
            socket,
            tunnel,
            closed: closed.clone(),
            table: Arc::default(),
        };
        self.inner.tasks.spawn("edge-udp-port", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = closed.cancelled() => {}
                () = port.receive_all() => {}
            }
        });
    }
}

/// One public port.
struct Port<S> {
    edge: Arc<Inner<S>>,
    socket: Weak<UdpSocket>,
    tunnel: TunnelId,
    closed: CancellationToken,
    table: Arc<Table>,
}

/// The flows of one port.
#[derive(Debug, Default)]
struct Table(Mutex<Flows>);

#[derive(Debug, Default)]
struct Flows {
    seats: HashMap<SocketAddr, QueueSend>,
    by_host: HashMap<IpAddr, usize>,
}

impl Table {
    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a datagram to its flow; the queue of a flow that has to be opened for it, if there is room.
    fn hand(&self, peer: SocketAddr, payload: Bytes, most: usize) -> Option<QueueRecv> {
        let mut flows = self.flows();
        if let Some(seat) = flows.seats.get(&peer) {
            seat.send(payload);
            return None;
        }
        let host = host_of(peer.ip());
        let of_host = flows.by_host.get(&host).copied().unwrap_or_default();
        if flows.seats.len() >= most || of_host >= (most / 2).max(1) {
            return None;
        }
        let (send, recv) = queue(WAITING, 2 * PAYLOAD_MAX);
        send.send(payload);
        flows.seats.insert(peer, send);
        *flows.by_host.entry(host).or_default() += 1;
        Some(recv)
    }

    fn leave(&self, peer: SocketAddr) {
        let mut flows = self.flows();
        if flows.seats.remove(&peer).is_none() {
            return;
        }
        let host = host_of(peer.ip());
        if let Some(count) = flows.by_host.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                flows.by_host.remove(&host);
            }
        }
    }
}

/// Whom an address belongs to: who has one of IPv6 has its whole /64.
fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// A seat at the table; dropping it leaves.
struct Seat(Arc<Table>, SocketAddr);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// Why a flow ended, but for its idleness.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the client: {0}")]
    Client(#[from] FlowEnd),
    #[error("the tunnel ended, or its link is away")]
    Cut,
}

impl Broken {
    /// What the log calls it.
    fn code(&self) -> Option<Code> {
        Some(match self {
            Self::Refused(refusal) => outside_of(refusal).code,
            Self::Open(error) => Failure::Open(*error).answer().code,
            Self::Client(_) => Code::OriginError,
            Self::Cut => Code::TunnelClosed,
        })
    }
}

impl<S: Admit + OpenFlow> Port<S> {
    async fn receive_all(&self) {
        let mut room = vec![0; PAYLOAD_MAX + 1];
        loop {
            // A flood must not keep a worker to itself.
            tokio::task::consume_budget().await;
            match self.receive(&mut room).await {
                None => return,
                Some(Ok((payload, peer))) => self.arrived(payload, peer),
                // What came back for something sent before is one visitor's; else the system is short of
                // something.
                Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Some(Err(error)) => {
                    debug!(%error, "cannot receive datagrams, retrying");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next datagram; none when the socket is gone.
    async fn receive(&self, room: &mut [u8]) -> Option<io::Result<(Bytes, SocketAddr)>> {
        poll_fn(|cx| {
            let Some(socket) = self.socket.upgrade() else {
                return Poll::Ready(None);
            };
            let mut read = ReadBuf::new(room);
            let received = socket.poll_recv_from(cx, &mut read);
            received
                .map(|from| Some(from.map(|peer| (Bytes::copy_from_slice(read.filled()), peer))))
        })
        .await
    }

    fn arrived(&self, payload: Bytes, peer: SocketAddr) {
        if self.edge.draining.is_cancelled() && !self.table.flows().seats.contains_key(&peer) {
            return;
        }
        let settings = self.edge.settings.load();
        let Some(waiting) = self.table.hand(peer, payload, settings.udp_flows) else {
            return;
        };
        let (id, tunnel) = (VisitId::random(), self.tunnel.to_string());
        let named = (Kind::Udp, &tunnel[..]);
        let flow = Flow {
            log: VisitLog::of_bytes(&self.edge.access, id, canonical(peer), named, None),
            edge: Arc::clone(&self.edge),
            socket: Weak::clone(&self.socket),
            tunnel: self.tunnel,
            id,
            peer,
            _seat: Seat(Arc::clone(&self.table), peer),
        };
        self.edge.visits.fetch_add(1, Ordering::Relaxed);
        let (stop, closed) = (self.edge.connections.stopped(), self.closed.clone());
        self.edge.connections.spawn("edge-udp", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = closed.cancelled() => {}
                () = flow.run(waiting) => {}
            }
        });
    }
}

/// Datagrams are not held back: what is beyond the bandwidth is lost, as on a wire.
fn lets_go(throttle: &mut Throttle, payload: &[u8]) -> bool {
    throttle.lets_go(payload.len())
}

/// One visitor's flow.
struct Flow<S> {
    edge: Arc<Inner<S>>,
    socket: Weak<UdpSocket>,
    tunnel: TunnelId,
    id: VisitId,
    peer: SocketAddr,
    log: VisitLog,
    _seat: Seat,
}

impl<S: Admit + OpenFlow> Flow<S> {
    async fn run(self, waiting: QueueRecv) {
        let ended = self.carry(waiting).await;
        self.log
            .ended(ended.as_ref().copied().map_err(Broken::code));
        let (visit, peer) = (self.id, canonical(self.peer));
        match ended {
            Ok(()) => debug!(%visit, %peer, "flow idle, ended"),
            Err(why) => {
                debug!(%visit, %peer, %why, "flow ended");
                // The seat is kept meanwhile, and what comes is dropped.
                tokio::time::sleep(REFUSED).await;
            }
        }
    }

    async fn carry(&self, mut waiting: QueueRecv) -> Result<(), Broken> {
        let (pass, mut flow) = self.open().await?;
        let idle = self.edge.settings.load().udp_idle;
        let mut answered = false;
        let shaper = &self.edge.shaper;
        let [mut slow_up, mut slow_down] =
            [Way::Up, Way::Down].map(|way| shaper.throttle(&pass, way));
        loop {
            let patience = if answered { idle } else { idle.min(UNANSWERED) };
            tokio::select! {
                biased;
                () = pass.cut.cancelled() => {
                    flow.fail(StreamCode::TunnelEnded);
                    return Err(Broken::Cut);
                }
                () = pass.offline.cancelled() => return Err(Broken::Cut),
                payload = poll_fn(|cx| flow.poll_recv(cx)) => {
                    answered = true;
                    let payload = payload?;
                    if lets_go(&mut slow_down, &payload) {
                        self.log.sent(payload.len() as u64);
                        self.answer(&payload);
                    }
                }
                payload = waiting.recv() => match payload {
                    Some(payload) if !lets_go(&mut slow_up, &payload) => {}
                    Some(payload) => {
                        self.log.received(payload.len() as u64);
                        flow.send(payload);
                    }
                    None => return Ok(()),
                },
                () = tokio::time::sleep(patience) => return Ok(()),
            }
        }
    }

    /// Sends to the visitor; what the system does not take now is lost.
    fn answer(&self, payload: &[u8]) {
        if let Some(socket) = self.socket.upgrade() {
            let _ = socket.try_send_to(payload, self.peer);
        }
    }

    async fn open(&self) -> Result<(Pass, S::Flow), Broken> {
        let (settings, asked) = (self.edge.settings.load_full(), self.visit());
        let local = self.socket.upgrade().and_then(|s| s.local_addr().ok());
        let local = canonical(local.ok_or(Broken::Cut)?);
        let mut again = true;
        loop {
            let pass = self.edge.inside.admit(asked.clone()).await;
            let pass = pass.inspect_err(|refusal| self.log.turned_away(refusal))?;
            self.log.admitted(&pass.route, Asked::default);
            let head = UdpHead {
                tunnel: pass.route.tunnel,
                visit: self.id,
                peer: asked.peer,
                local,
                flow: 0,
                idle_ms: u64::try_from(settings.udp_idle.as_millis()).unwrap_or(0),
                shadowed: pass.route.shadows(),
            };
            match self.edge.inside.open_flow(pass.route.link, head).await {
                Ok(flow) => return Ok((pass, flow)),
                Err(OpenError::LinkGone) if again => {
                    again = false;
                    drop(pass);
                    tokio::time::sleep(LINK_NEWS).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn visit(&self) -> Visit {
        Visit {
            http: None,
            id: self.id,
            kind: Kind::Udp,
            label: self.tunnel.to_string(),
            peer: canonical(self.peer),
            bytes: held::bytes_of_flow(),
        }
    }
}
