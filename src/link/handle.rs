//! A link in hand: open and accept streams, look at its health, end it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::{Connection, VarInt};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use super::datagrams::Flows;
use super::error::{AcceptFailure, LinkEnd, LinkError, OpenFailure};
use super::heads::Heads;
use super::kick;
use super::load::{LinkLoad, Load, Place, Slot};
use super::own::Own;
use super::path::{Paths, Sessions};
use super::streams::{LinkRecv, LinkSend};
use super::{LinkSettings, tls};
use crate::codes::Code;
use crate::engine::watch::Pulse;
use crate::names::Pin;
use crate::wire::{StreamHead, encode_stream_head, send_all};

/// How long a visit waits for a stream; the edge answers 503 after it.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// A close reason must fit in one packet; the peer reads it with a cut letter at its end, if need be.
const REASON_MAX: usize = 256;

const EXPORTER_LABEL: &[u8] = b"wormkey join";

/// One authenticated QUIC connection. Clones are the same link; it lives until it is closed or the
/// last handle and stream are gone.
#[derive(Clone)]
pub struct Link {
    live: Arc<Live>,
    streams: Arc<Streams>,
    flows: Arc<Flows>,
}

/// A connection, and why we ended it if we did: QUIC remembers only that we did.
#[derive(Debug)]
pub(super) struct Live {
    connection: Connection,
    /// The client's own socket and endpoint: each link has its own, so that moving it to another
    /// socket moves nothing else. The server's links share the listener's.
    own: Option<Own>,
    end: End,
    pin: Pin,
    ours: OnceLock<(Code, String)>,
    peer: std::sync::Mutex<Peer>,
}

/// Where the peer was when we last looked, and how often it had moved: QUIC does not tell.
#[derive(Debug)]
struct Peer {
    last: SocketAddr,
    moves: u64,
}

/// Which end of the link this is, and what it knows of the paths.
#[derive(Debug)]
pub(super) enum End {
    /// The client's: it chooses the path.
    Client(Arc<Paths>),
    /// The server's: it sees where the client is.
    Server(Arc<Sessions>),
}

struct Streams {
    /// As many streams of ours as the connection's window covers, whatever the peer allows.
    slots: Arc<Semaphore>,
    load: Arc<Load>,
    heads: Mutex<Heads>,
    send_window: u64,
}

/// Figures of a link, since it came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStats {
    /// The current estimate.
    pub rtt: Duration,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets taken for lost.
    pub lost_packets: u64,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
    /// Bytes of datagrams received.
    pub received_bytes: u64,
    /// Datagrams received; the same as [`Link::heard`].
    pub received_datagrams: u64,
    /// The largest datagram that the path takes.
    pub mtu: u16,
    /// How often the peer was found at another address, by those who looked ([`Link::stats`] or
    /// [`Link::heard`]). Clients move, servers do not.
    pub peer_moves: u64,
    /// How often this end moved to another socket; the client's alone.
    pub rebinds: u64,
    /// The longest time an answer was due, one that is due now included; the client's alone.
    pub longest_stall: Duration,
}

impl Live {
    /// A connection whose handshake is done. Whatever got here without proving a key, or without
    /// agreeing on our protocol, goes no further.
    pub(super) fn new(
        connection: Connection,
        own: Option<Own>,
        end: End,
    ) -> Result<Self, LinkError> {
        let close = |code: Code| connection.close(number(code), b"");
        if !tls::speaks_wormkey(&connection) {
            close(Code::VersionMismatch);
            return Err(LinkError::AlpnMismatch);
        }
        let Some(pin) = tls::peer_pin(&connection) else {
            close(Code::Unauthorized);
            return Err(LinkError::Tls {
                detail: "the peer showed no key".to_owned(),
            });
        };
        let last = connection.remote_address();
        Ok(Self {
            connection,
            own,
            end,
            pin,
            ours: OnceLock::new(),
            peer: std::sync::Mutex::new(Peer { last, moves: 0 }),
        })
    }

    /// Looks where the peer is now; how often it was found elsewhere than the time before.
    fn moves(&self) -> u64 {
        let now = self.connection.remote_address();
        let mut peer = self.peer.lock().expect("nothing panics in here");
        if peer.last != now {
            peer.last = now;
            peer.moves += 1;
        }
        peer.moves
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the client's link has to itself.
    pub(super) fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }

    /// The client's paths.
    pub(super) fn paths(&self) -> Option<&Arc<Paths>> {
        match &self.end {
            End::Client(paths) => Some(paths),
            End::Server(_) => None,
        }
    }

    /// Whether the server reaches this client through a WebSocket now.
    pub(super) fn in_session(&self) -> bool {
        match &self.end {
            End::Client(_) => false,
            End::Server(sessions) => sessions.is_session(self.connection.remote_address()),
        }
    }

    fn peer(&self) -> SocketAddr {
        let addr = self.connection.remote_address();
        match &self.end {
            End::Client(paths) => paths.real(addr),
            End::Server(sessions) => sessions.real(addr),
        }
    }

    /// Closes with a code; the first close counts.
    pub(super) fn close(&self, code: Code, text: &str) {
        let _ = self.ours.set((code, text.to_owned()));
        let reason = &text.as_bytes()[..text.len().min(REASON_MAX)];
        // From here on QUIC heeds no acknowledgement: with a window that large probes had filled just now, the
        // close would never leave, and the peer would learn of a reset only.
        kick::arm(&self.connection);
        self.connection.close(number(code), reason);
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> Option<LinkEnd> {
        let reason = self.connection.close_reason()?;
        Some(LinkEnd::of(reason, self.ours.get().cloned()))
    }
}

fn number(code: Code) -> VarInt {
    VarInt::from_u32(code.row().wire)
}

impl Link {
    pub(super) fn new(live: Arc<Live>, settings: &LinkSettings) -> Self {
        let slots = usize::try_from(settings.streams).unwrap_or(usize::MAX);
        Self {
            live,
            flows: Arc::default(),
            streams: Arc::new(Streams {
                slots: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
                load: Load::new(settings.stream_window, settings.send_window),
                heads: Mutex::new(Heads::default()),
                send_window: settings.send_window.into(),
            }),
        }
    }

    /// The key that the peer has proved to hold.
    pub fn pin(&self) -> Pin {
        self.live.pin
    }

    /// The peer's address now; it changes when the peer moves to another network. That of a client
    /// in a WebSocket is where its TCP connection comes from.
    pub fn peer(&self) -> SocketAddr {
        self.live.peer()
    }

    pub(super) fn live(&self) -> &Live {
        &self.live
    }

    pub(super) const fn flows(&self) -> &Arc<Flows> {
        &self.flows
    }

    /// The current estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.live.connection.rtt()
    }

    /// Datagrams received so far. A link on which this stands still is silent.
    pub fn heard(&self) -> u64 {
        self.live.moves();
        self.live.connection.stats().udp_rx.datagrams
    }

    /// Ends once the peer was there for `within`, from now on: what it has left unread by then, it does
    /// not read. While nothing is heard the network is away, and no time counts.
    pub async fn heard_for(&self, within: Duration) {
        let (mut before, mut halves) = (self.heard(), 0);
        while halves < 2 {
            sleep(within / 2).await;
            let heard = self.heard();
            halves = if heard == before { 0 } else { halves + 1 };
            before = heard;
        }
    }

    /// Figures since it came up.
    pub fn stats(&self) -> LinkStats {
        let stats = self.live.connection.stats();
        LinkStats {
            rtt: stats.path.rtt,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            received_datagrams: stats.udp_rx.datagrams,
            mtu: stats.path.current_mtu,
            peer_moves: self.live.moves(),
            rebinds: self.live.own.as_ref().map_or(0, Own::rebinds),
            longest_stall: self
                .live
                .own
                .as_ref()
                .map_or(Duration::ZERO, |own| own.report().longest_stall),
        }
    }

    /// The streams that this end has open, and what the link holds in memory.
    pub fn load(&self) -> LinkLoad {
        self.streams.load.now()
    }

    /// What the link hears, for the watch over it. The client's alone: `None` on the server, which
    /// counts with [`heard`](Self::heard).
    pub fn pulse(&self) -> Option<Pulse> {
        let report = self.live.own.as_ref()?.report();
        Some(Pulse {
            heard: report.heard,
            owed: report.owed,
            rtt: self.rtt(),
        })
    }

    /// Moves to a fresh UDP socket with a new port, and [kicks](Self::kick). What is in flight is sent
    /// again as needed; no stream notices. Only the client can; on an error the old socket stays.
    pub fn rebind(&self) -> Result<(), LinkError> {
        let io = |source| LinkError::Io {
            doing: "move to a fresh UDP socket".to_owned(),
            source,
        };
        match &self.live.own {
            Some(own) => own.rebind(&self.live.connection).map_err(io),
            None => Err(io(std::io::ErrorKind::Unsupported.into())),
        }
    }

    /// Lets a few packets past the congestion controller, now, because the network may be back: else
    /// QUIC may stay silent for as long again as an outage lasted. On the client one of them asks for
    /// an answer; the server sends what was waiting.
    pub fn kick(&self) {
        let connection = &self.live.connection;
        match &self.live.own {
            // It fails only with a socket that has lost its address, which the next rebind replaces.
            Some(own) => drop(own.kick(connection)),
            None => {
                kick::arm(connection);
                // The same window as ever; saying so wakes the connection.
                connection.set_send_window(self.streams.send_window);
            }
        }
    }

    /// A secret that only the two ends of this one connection know (RFC 5705).
    pub fn exporter(&self) -> Result<[u8; 32], LinkError> {
        let mut out = [0; 32];
        self.live
            .connection
            .export_keying_material(&mut out, EXPORTER_LABEL, b"")
            .map_err(|_| LinkError::Tls {
                detail: "no exporter".to_owned(),
            })?;
        Ok(out)
    }

    /// Opens a stream and sends its head; waits at most five seconds for a free one.
    pub async fn open(&self, head: &StreamHead) -> Result<(LinkSend, LinkRecv), OpenFailure> {
        let bytes = encode_stream_head(head);
        let opening = async {
            let slot = self.slot().await?;
            let opened = self.live.connection.open_bi().await;
            let (send, recv) = opened.map_err(|_| OpenFailure::LinkGone)?;
            let mut send = LinkSend::new(send, slot.clone());
            let recv = LinkRecv::new(recv, slot);
            // Given up in here, the stream is reset with half a head: the peer can do nothing with it.
            let sent = send_all(&mut send, &mut [bytes]).await;
            sent.map_err(|_| self.why_not())?;
            Ok((send, recv))
        };
        timeout(OPEN_TIME, opening)
            .await
            .unwrap_or(Err(OpenFailure::NoStream))
    }

    async fn slot(&self) -> Result<Slot, OpenFailure> {
        let slots = &self.streams.slots;
        if let Ok(permit) = Arc::clone(slots).try_acquire_owned() {
            return Ok(Some(Place::new(&self.streams.load, permit)));
        }
        tokio::select! {
            biased;
            _ = self.live.connection.closed() => Err(OpenFailure::LinkGone),
            permit = Arc::clone(slots).acquire_owned() => {
                Ok(permit.ok().map(|permit| Place::new(&self.streams.load, permit)))
            }
        }
    }

    /// A stream that fails before its head is out: the link went, or the peer turned it down at once.
    fn why_not(&self) -> OpenFailure {
        match self.live.connection.close_reason() {
            Some(_) => OpenFailure::LinkGone,
            None => OpenFailure::NoStream,
        }
    }

    /// The next stream that the peer opened and whose head has arrived whole. Streams with a bad or a
    /// late head are refused in here. Dropping the future loses no stream.
    pub async fn accept(&self) -> Result<(StreamHead, LinkSend, LinkRecv), AcceptFailure> {
        let mut heads = self.streams.heads.lock().await;
        loop {
            // A peer that opens and resets streams without end must not keep a worker to itself.
            tokio::task::consume_budget().await;
            let full = heads.is_full();
            tokio::select! {
                biased;
                // Those that came first are served first.
                opened = heads.next() => if let Some(opened) = opened {
                    return Ok(opened);
                },
                stream = self.live.connection.accept_bi(), if !full => {
                    let (send, recv) = stream.map_err(|_| AcceptFailure::LinkGone)?;
                    heads.push(LinkSend::new(send, None), LinkRecv::new(recv, None));
                }
            }
        }
    }

    /// How many streams the peer may have open at once, from now on.
    pub fn allow_streams(&self, count: u32) {
        self.live
            .connection
            .set_max_concurrent_bi_streams(count.into());
    }

    /// Ends the link at once; its streams end with it. Only the first close counts.
    pub fn close(&self, code: Code, text: &str) {
        self.live.close(code, text);
    }

    /// Ends the link and waits, at most for `within`, until the peer has been told; for a client
    /// that is about to exit. The server's links are told by [`super::Listener::close`].
    pub async fn close_and_tell(&self, code: Code, text: &str, within: Duration) {
        self.live.close(code, text);
        if let Some(own) = &self.live.own {
            let _ = timeout(within, own.endpoint().wait_idle()).await;
        }
    }

    /// The client's own endpoint, for tests that do by hand what we do not.
    #[cfg(test)]
    pub(super) fn own_endpoint(&self) -> &quinn::Endpoint {
        let own = self.live.own.as_ref();
        own.expect("only clients are asked").endpoint()
    }

    /// The connection itself, for tests that misbehave.
    #[cfg(test)]
    pub(super) fn raw(&self) -> &Connection {
        &self.live.connection
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<LinkEnd> {
        self.live.end()
    }

    /// Waits for the end, and tells of what kind it was.
    pub async fn closed(&self) -> LinkEnd {
        let reason = self.live.connection.closed().await;
        LinkEnd::of(reason, self.live.ours.get().cloned())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("pin", &self.pin())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

/// An IPv4 address as one, not dressed up as IPv6 by a socket of both families.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
