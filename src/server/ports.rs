//! The sockets of public ports: opened and closed as the engine says, served by the edge. Which tunnel
//! gets which port is not decided here.
//!
//! The sockets are owned here and nowhere else: closing one frees its port in the same moment, and a
//! tunnel that opens again finds it free.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::bind::{everywhere, listen};
use super::visits::Inside;
use crate::edge::Edge;
use crate::names::{Kind, TunnelId};

/// What a burst of datagrams may fill in the kernel before they are read.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The public sockets of this server. Clones share them.
#[derive(Clone)]
pub(super) struct Ports(Arc<Inner>);

struct Inner {
    /// Where they are opened: the address of the https listener.
    ip: IpAddr,
    runtime: Handle,
    doors: Mutex<Doors>,
    /// There is a socket that nobody serves yet.
    news: Notify,
}

#[derive(Default)]
struct Doors {
    open: HashMap<TunnelId, Door>,
    fresh: Vec<TunnelId>,
}

/// One open socket.
struct Door {
    socket: PublicSocket,
    closed: CancellationToken,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

enum PublicSocket {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
}

/// A socket to be served, without owning it.
enum Served {
    Tcp(Weak<TcpListener>),
    Udp(Weak<UdpSocket>),
}

impl Ports {
    /// No socket yet; needs a tokio runtime around it.
    pub(super) fn new(ip: IpAddr) -> Self {
        Self(Arc::new(Inner {
            ip,
            runtime: Handle::current(),
            doors: Mutex::default(),
            news: Notify::new(),
        }))
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.0.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the socket of a tunnel; whether it is open now.
    pub(super) fn listen(&self, tunnel: TunnelId, kind: Kind, port: u16) -> bool {
        let mut doors = self.doors();
        if doors.open.contains_key(&tunnel) {
            return true;
        }
        // The engine may decide on a thread of the store's.
        let _inside = self.0.runtime.enter();
        let addr = SocketAddr::new(self.0.ip, port);
        let socket = match bind(kind, addr) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                debug!(%tunnel, %kind, %addr, "public port taken by another program");
                return false;
            }
            Err(error) => {
                warn!(%tunnel, %kind, %addr, %error, "public port not opened");
                return false;
            }
        };
        let door = Door {
            socket,
            closed: CancellationToken::new(),
        };
        doors.open.insert(tunnel, door);
        doors.fresh.push(tunnel);
        self.0.news.notify_one();
        true
    }

    /// Closes the socket of a tunnel: its port is free at once.
    pub(super) fn close(&self, tunnel: TunnelId) {
        let mut doors = self.doors();
        doors.fresh.retain(|fresh| *fresh != tunnel);
        doors.open.remove(&tunnel);
    }

    /// Sees to it that every socket is served; at the end closes them all.
    pub(super) async fn serve(self, edge: Edge<Inside>, stop: CancellationToken) {
        loop {
            for (tunnel, socket, closed) in self.take_fresh() {
                match socket {
                    Served::Tcp(listener) => edge.serve_tcp(listener, tunnel, closed),
                    Served::Udp(socket) => edge.serve_udp(socket, tunnel, closed),
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.0.news.notified() => {}
            }
        }
        *self.doors() = Doors::default();
    }

    fn take_fresh(&self) -> Vec<(TunnelId, Served, CancellationToken)> {
        let mut doors = self.doors();
        let fresh = std::mem::take(&mut doors.fresh);
        let served = fresh.into_iter().filter_map(|tunnel| {
            let door = doors.open.get(&tunnel)?;
            let socket = match &door.socket {
                PublicSocket::Tcp(listener) => Served::Tcp(Arc::downgrade(listener)),
                PublicSocket::Udp(socket) => Served::Udp(Arc::downgrade(socket)),
            };
            Some((tunnel, socket, door.closed.clone()))
        });
        served.collect()
    }
}

fn bind(kind: Kind, addr: SocketAddr) -> io::Result<PublicSocket> {
    let has_ipv6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
    let addr = everywhere(addr, has_ipv6);
    match kind {
        Kind::Udp => bind_udp(addr).map(|socket| PublicSocket::Udp(Arc::new(socket))),
        Kind::Http | Kind::Tcp | Kind::Tls => {
            listen(addr).map(|listener| PublicSocket::Tcp(Arc::new(listener)))
        }
    }
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The kernel gives what it may.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_port_is_one_tunnels_and_free_the_moment_it_closes() {
        let ports = Ports::new("127.0.0.1".parse().unwrap());
        let (first, second) = (TunnelId::random(), TunnelId::random());
        for kind in [Kind::Tcp, Kind::Udp] {
            let port = free_port();
            assert!(ports.listen(first, kind, port));
            assert!(ports.listen(first, kind, port), "asking again is harmless");
            assert!(!ports.listen(second, kind, port));
            ports.close(first);
            assert!(ports.listen(second, kind, port));
            ports.close(second);
        }
    }

    #[tokio::test]
    async fn a_closed_door_is_told_to_who_serves_it() {
        let ports = Ports::new("127.0.0.1".parse().unwrap());
        let tunnel = TunnelId::random();
        assert!(ports.listen(tunnel, Kind::Tcp, free_port()));
        let mut fresh = ports.take_fresh();
        let (_, socket, closed) = fresh.remove(0);
        assert!(ports.take_fresh().is_empty());
        ports.close(tunnel);
        assert!(closed.is_cancelled());
        assert!(matches!(socket, Served::Tcp(listener) if listener.upgrade().is_none()));
    }
}
