//! What a client's link has to itself: its endpoint, its paths, and the UDP socket below them, which
//! can be changed for another one under way. Not for the server: its links share the listener's socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{AsyncUdpSocket, Connection, Endpoint, Runtime};

use super::ear::{Ear, Report};
use super::kick;
use super::path::Paths;
use super::socket::{self, Family, MakeSocket};
use super::transport;

/// An endpoint of one link.
#[derive(Debug)]
pub(super) struct Own {
    endpoint: Endpoint,
    sockets: Sockets,
    ear: Arc<Ear>,
    paths: Arc<Paths>,
    /// The paths with the ear on them: what the endpoint is bound to, always.
    socket: Arc<dyn AsyncUdpSocket>,
    rebinds: AtomicU64,
}

/// Where the sockets come from.
#[derive(Clone)]
pub(super) struct Sockets(pub(super) MakeSocket);

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sockets")
    }
}

impl Own {
    /// For a link to the server at `address`, as the dialer was told it; a WebSocket in which nothing comes for
    /// `path_idle` is given up.
    pub(super) fn new(
        sockets: Sockets,
        runtime: &Arc<dyn Runtime>,
        address: &str,
        path_idle: Duration,
    ) -> io::Result<Self> {
        let ear = Ear::new(Arc::clone(runtime));
        let paths = Paths::over((sockets.0)(Family::Either)?, address, path_idle);
        let socket = ear.on(Arc::clone(&paths) as _);
        ear.asked();
        // Only where the first step takes more than usual: what may be received is 13 MiB of buffers then, not
        // three. A name is looked up later than this.
        let peer = address.parse().ok();
        let config = transport::client_endpoint(peer.and_then(socket::payload_towards));
        let endpoint = Endpoint::new_with_abstract_socket(
            config,
            None,
            Arc::clone(&socket),
            Arc::clone(runtime),
        )?;
        Ok(Self {
            endpoint,
            sockets,
            ear,
            paths,
            socket,
            rebinds: AtomicU64::new(0),
        })
    }

    pub(super) fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The link is up; only its peer counts as heard.
    pub(super) fn expect(&self, peer: SocketAddr) {
        self.ear.expect(peer);
    }

    /// Moves the link to a fresh UDP socket, and kicks it; a WebSocket that carries it stays. On an
    /// error the link stays where it is.
    pub(super) fn rebind(&self, connection: &Connection) -> io::Result<()> {
        // The peer's address is written in the family of the first socket, and QUIC holds on to it.
        let fresh = (self.sockets.0)(Family::of(connection.remote_address()))?;
        // Whoever cannot tell its address cannot be used; known now, before the old one is gone.
        fresh.local_addr()?;
        self.paths.replace_udp(fresh);
        self.ear.asked();
        self.rebinds.fetch_add(1, Ordering::Relaxed);
        self.kick(connection)
    }

    /// Sends something that asks for an answer, past the congestion controller, from where we are.
    pub(super) fn kick(&self, connection: &Connection) -> io::Result<()> {
        kick::arm(connection);
        // QUIC announces a socket with a ping, the same one again too, and offers no other ping.
        self.endpoint.rebind_abstract(Arc::clone(&self.socket))
    }

    pub(super) fn rebinds(&self) -> u64 {
        self.rebinds.load(Ordering::Relaxed)
    }

    pub(super) fn report(&self) -> Report {
        self.ear.report()
    }
}
