//! What a client's link has to itself: its endpoint and its socket, which can be changed for another
//! one under way. Not for the server: its links share the listener's socket.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use quinn::{AsyncUdpSocket, Connection, Endpoint, EndpointConfig, Runtime};

use super::ear::{Ear, Report};
use super::kick;
use super::socket::{Family, MakeSocket};

/// An endpoint of one link.
#[derive(Debug)]
pub(super) struct Own {
    endpoint: Endpoint,
    sockets: Sockets,
    ear: Arc<Ear>,
    /// The present socket. The lock also keeps two changes apart.
    socket: Mutex<Arc<dyn AsyncUdpSocket>>,
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
    pub(super) fn new(sockets: Sockets, runtime: &Arc<dyn Runtime>) -> io::Result<Self> {
        let ear = Ear::new(Arc::clone(runtime));
        let socket = ear.on((sockets.0)(Family::Either)?);
        let config = EndpointConfig::default();
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
            socket: Mutex::new(socket),
            rebinds: AtomicU64::new(0),
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The link is up; only its peer counts as heard.
    pub(super) fn expect(&self, peer: SocketAddr) {
        self.ear.expect(peer);
    }

    /// Moves the link to a fresh UDP socket, and kicks it. On an error it stays where it is.
    pub(super) fn rebind(&self, connection: &Connection) -> io::Result<()> {
        // The peer's address is written in the family of the first socket, and QUIC holds on to it.
        let family = Family::of(connection.remote_address());
        self.move_to((self.sockets.0)(family)?, connection)
    }

    /// Moves the link to another socket, whatever it is made of, and kicks it.
    pub(super) fn move_to(
        &self,
        socket: Arc<dyn AsyncUdpSocket>,
        connection: &Connection,
    ) -> io::Result<()> {
        // Whoever cannot tell its address cannot be used; known now, before the ear listens there.
        socket.local_addr()?;
        let mut current = self.current();
        let socket = self.ear.on(socket);
        kick::arm(connection);
        self.endpoint.rebind_abstract(Arc::clone(&socket))?;
        *current = socket;
        self.rebinds.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sends something that asks for an answer, past the congestion controller, from where we are.
    pub(super) fn kick(&self, connection: &Connection) -> io::Result<()> {
        let current = self.current();
        kick::arm(connection);
        // QUIC announces a socket with a ping, the same one again too, and offers no other ping.
        self.endpoint.rebind_abstract(Arc::clone(&current))
    }

    pub(super) fn rebinds(&self) -> u64 {
        self.rebinds.load(Ordering::Relaxed)
    }

    pub(super) fn report(&self) -> Report {
        self.ear.report()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Arc<dyn AsyncUdpSocket>> {
        self.socket.lock().expect("nothing panics in here")
    }
}
