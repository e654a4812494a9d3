//! The server's end: one UDP socket, links told apart by their first connection id, handshakes within
//! bounds. Not authorisation: a link that arrives has proved a key, and no more.

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    AsyncUdpSocket, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::cid::KnownTags;
use super::control::{ControlRecv, ControlSend};
use super::error::LinkError;
use super::handle::{End, Link, Live};
use super::heads::{HeadError, read_head};
use super::identity::Identity;
use super::path::{Hub, PathLimits, Place, Recognise, SessionEnd, SessionRefused, Sessions};
use super::streams::LinkRecv;
use super::visitors::{Door, Knocking};
use super::{LinkSettings, socket, transport};
use crate::codes::Code;
use crate::names::Pin;
use crate::wire::{Control, Hello, StreamError, StreamHead, WireError};

/// The server's socket: UDP, and the WebSockets that are attached. Dropping it closes no link; [`close`](Self::close) does.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    local: SocketAddr,
    config: Arc<ServerConfig>,
    settings: LinkSettings,
    own: Pin,
    tags: Arc<KnownTags>,
    sessions: Arc<Sessions>,
    handshakes: Arc<AtomicUsize>,
    visitors: OnceLock<Door>,
    closing: CancellationToken,
}

/// A client at the door, before its handshake. Dropped, its packet is forgotten, and the client asks
/// again by itself.
#[derive(Debug)]
pub struct Arriving {
    incoming: Option<Incoming>,
    config: Arc<ServerConfig>,
    settings: LinkSettings,
    sessions: Arc<Sessions>,
    _handshake: Handshake,
}

/// Counts a handshake in progress.
#[derive(Debug)]
struct Handshake(Arc<AtomicUsize>);

impl Handshake {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener {
    /// Listens on `addr`; `[::]` takes IPv4 too. To be called inside the runtime that shall drive it.
    pub fn bind(
        addr: SocketAddr,
        identity: &Identity,
        settings: &LinkSettings,
    ) -> Result<Self, LinkError> {
        let io = |source| LinkError::Io {
            doing: format!("listen on UDP {addr}"),
            source,
        };
        let socket = socket::bind(addr).map_err(io)?;
        Self::on(socket, identity, settings)
    }

    /// Listens on a socket that is bound already. To be called inside the runtime that shall drive it.
    pub fn over(
        socket: UdpSocket,
        identity: &Identity,
        settings: &LinkSettings,
    ) -> Result<Self, LinkError> {
        let io = |source| LinkError::Io {
            doing: "listen on a UDP socket that is open".to_owned(),
            source,
        };
        Self::on(socket::wrap(socket).map_err(io)?, identity, settings)
    }

    pub(super) fn on(
        socket: Arc<dyn AsyncUdpSocket>,
        identity: &Identity,
        settings: &LinkSettings,
    ) -> Result<Self, LinkError> {
        let config = transport::server(identity, settings)?;
        let endpoint_config: EndpointConfig = transport::server_endpoint(identity, settings);
        let io = |source| LinkError::Io {
            doing: "listen for links".to_owned(),
            source,
        };
        let local = socket.local_addr().map_err(io)?;
        let tags = Arc::new(KnownTags::new(&[identity.pin()]));
        let recognise = Recognise::new(Arc::clone(&tags), transport::own_cids(identity, settings));
        let limits = PathLimits {
            idle: settings.path_idle(),
            ..settings.paths.clone()
        };
        let (socket, sessions) = Hub::over(socket, limits, recognise);
        let endpoint = Endpoint::new_with_abstract_socket(
            endpoint_config,
            Some(config.clone()),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(io)?;
        Ok(Self {
            endpoint,
            local,
            config: Arc::new(config),
            settings: settings.clone(),
            own: identity.pin(),
            tags,
            sessions,
            handshakes: Arc::default(),
            visitors: OnceLock::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Answers clients of these keys too, from now on: the one before or after this server's own,
    /// while keys rotate. The key shown stays its own.
    pub fn answer_also_to(&self, pins: &[Pin]) {
        let mut all = vec![self.own];
        all.extend_from_slice(pins);
        self.tags.replace(&all);
    }

    /// Runs a WebSocket that HTTP has upgraded (see [`path::accept`](super::path::accept)) as one more
    /// path for links, to its end; `peer` is where its TCP connection comes from. To be awaited by a
    /// task of the caller: dropping the future ends the path, and only the path.
    pub fn attach_path<I>(
        &self,
        io: I,
        peer: SocketAddr,
    ) -> impl Future<Output = Result<SessionEnd, SessionRefused>> + Send + 'static
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Arc::clone(&self.sessions).run(io, peer)
    }

    /// Keeps a place for a WebSocket from `peer` that is about to be upgraded, so that one for which there
    /// is none is told so in HTTP.
    pub fn place_for_path(&self, peer: SocketAddr) -> Result<Place, SessionRefused> {
        self.sessions.enter(peer)
    }

    /// As [`attach_path`](Self::attach_path), in a place that was kept.
    pub fn attach_path_at<I>(
        &self,
        io: I,
        place: Place,
    ) -> impl Future<Output = SessionEnd> + Send + 'static
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        place.run(io)
    }

    /// How many WebSocket paths there are now.
    pub fn attached_paths(&self) -> usize {
        self.sessions.count()
    }

    /// The next client at the door. `None` once closed, or when the socket broke.
    pub async fn accept(&self) -> Option<Arriving> {
        loop {
            let incoming = tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                incoming = self.endpoint.accept() => incoming?,
            };
            if let Some(arriving) = self.admit(incoming) {
                return Some(arriving);
            }
            // A flood of others must not keep a worker to itself.
            tokio::task::consume_budget().await;
        }
    }

    /// Lets visitors in from now on, who get a configuration of their own; once. The caller sees to their
    /// handshakes. Before, and without, they are refused.
    pub fn open_to_visitors(
        &self,
        crypto: Arc<QuicServerConfig>,
        transport: Arc<TransportConfig>,
    ) -> mpsc::Receiver<Knocking> {
        let (door, knocking) = Door::new(&self.config, crypto, transport);
        // A second door's receiver just ends.
        let _ = self.visitors.set(door);
        knocking
    }

    fn knock(&self, incoming: Incoming, peer: SocketAddr) {
        match self.visitors.get() {
            // The paths round blocked UDP are for links.
            Some(door) if !self.sessions.is_session(incoming.remote_address()) => {
                door.knock(incoming);
            }
            _ => {
                debug!(%peer, "no link: refused");
                incoming.refuse();
            }
        }
    }

    fn admit(&self, incoming: Incoming) -> Option<Arriving> {
        let peer = self.sessions.real(incoming.remote_address());
        if !self.tags.recognise(&incoming.orig_dst_cid()) {
            self.knock(incoming, peer);
            return None;
        }
        let pending = self.handshakes.load(Ordering::Relaxed);
        if pending >= self.settings.handshakes {
            debug!(%peer, pending, "too many handshakes: not answered");
            incoming.ignore();
            return None;
        }
        if pending >= self.settings.handshakes_unproved && !incoming.remote_address_validated() {
            // An address that is not validated may always be asked to retry.
            let _ = incoming.retry();
            return None;
        }
        // The address of a client in a WebSocket leads nowhere.
        let in_session = self.sessions.is_session(incoming.remote_address());
        let payload = (!in_session)
            .then(|| socket::payload_towards(peer))
            .flatten();
        Some(Arriving {
            incoming: Some(incoming),
            config: transport::server_for(&self.config, &self.settings, payload),
            settings: self.settings.clone(),
            sessions: Arc::clone(&self.sessions),
            _handshake: Handshake::begin(&self.handshakes),
        })
    }

    /// Takes no more clients; the links that are here go on. A newcomer hears nothing from now on, rather
    /// than a refusal: it keeps asking, and the next process on this port answers.
    pub fn shut(&self) {
        self.closing.cancel();
        self.endpoint.set_server_config(None);
    }

    /// Whether it takes no more clients because it was told so.
    pub fn is_shut(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Takes no more clients, closes all links with `code`, and waits until all have been told, at
    /// most for `deadline`.
    pub async fn close(&self, code: Code, deadline: Duration) {
        self.shut();
        self.endpoint
            .close(VarInt::from_u32(code.row().wire), code.as_str().as_bytes());
        let until = Instant::now() + deadline;
        let _ = timeout_at(until, self.endpoint.wait_idle()).await;
        // Last, because some are told through them.
        self.sessions
            .close(until.saturating_duration_since(Instant::now()))
            .await;
    }
}

impl Arriving {
    /// Where it comes from. Not proved yet.
    pub fn peer(&self) -> SocketAddr {
        self.incoming
            .as_ref()
            .map(|incoming| self.sessions.real(incoming.remote_address()))
            .expect("only establish and drop take it out")
    }

    /// Whether the peer has proved that it is there already, before the handshake.
    pub fn is_proved(&self) -> bool {
        let incoming = self.incoming.as_ref();
        incoming.is_some_and(Incoming::remote_address_validated)
    }

    /// The handshake, the control stream and the Hello, in ten seconds together. A peer that does
    /// otherwise is closed with a code.
    pub async fn establish(mut self) -> Result<(Link, ControlSend, ControlRecv, Hello), LinkError> {
        let deadline = Instant::now() + transport::GREETING;
        let incoming = self
            .incoming
            .take()
            .expect("only establish and drop take it out");
        let lost = |error| LinkError::from(super::LinkEnd::of(error, None));
        let connecting = incoming
            .accept_with(Arc::clone(&self.config))
            .map_err(lost)?;
        let connection = timeout_at(deadline, connecting)
            .await
            .map_err(|_| LinkError::Late { what: "handshake" })?
            .map_err(lost)?;
        let live = Arc::new(Live::new(
            connection,
            None,
            End::Server(self.sessions.clone()),
        )?);
        let greeting = timeout_at(deadline, greet(&live))
            .await
            .unwrap_or(Err(LinkError::Late { what: "hello" }));
        match greeting {
            Ok((send, recv, hello)) => Ok((Link::new(live, &self.settings), send, recv, hello)),
            Err(error) => {
                live.close(error.code(), &error.to_string());
                Err(error)
            }
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            incoming.ignore();
        }
    }
}

/// The client's first stream must be the control stream, and its first message the Hello.
async fn greet(live: &Arc<Live>) -> Result<(ControlSend, ControlRecv, Hello), LinkError> {
    let out_of_place = |what| Err(LinkError::Protocol(WireError::OutOfPlace { what }));
    let accepted = live.connection().accept_bi().await;
    let (send, recv) = accepted.map_err(|e| LinkError::from(super::LinkEnd::of(e, None)))?;
    let mut recv = LinkRecv::new(recv, None);
    match read_head(&mut recv).await {
        Ok(StreamHead::Control) => {}
        Ok(_) => return out_of_place("a visit before the hello"),
        Err(HeadError::Wire(error)) => return Err(error.into()),
        Err(HeadError::Stream(StreamError::LinkLost)) => {
            return Err(live
                .end()
                .map_or(LinkError::Late { what: "hello" }, Into::into));
        }
        Err(HeadError::Stream(StreamError::Reset(_)) | HeadError::Late) => {
            return out_of_place("a reset of the control stream");
        }
    }
    let send = ControlSend::new(Arc::clone(live), send, false);
    let mut recv = ControlRecv::new(Arc::clone(live), recv);
    match recv.recv().await? {
        Some(Control::Hello(hello)) => Ok((send, recv, hello)),
        Some(_) => out_of_place("a message before the hello"),
        None => out_of_place("the end of the control stream"),
    }
}
