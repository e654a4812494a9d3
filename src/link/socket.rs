//! UDP sockets for QUIC: both address families, and kernel buffers that hold a burst.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Once};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::IpMtu;
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tracing::info;

use super::handle::canonical;

/// The kernel's 208 KiB default loses packets at bulk rates: 4 MiB made a third more throughput.
const BUFFER: usize = 4 * 1024 * 1024;

/// The largest payload that is sent, where the way takes it: ten of them, which is what QUIC hands to the
/// kernel at once, must fit into one message of 64 KiB.
pub(super) const PAYLOAD_MAX: u16 = 6500;

/// Headers of IPv6 and UDP, the longest without options.
const HEADERS: u16 = 48;

#[derive(Debug, Clone, Copy)]
struct Ipv6Mtu;

nix::getsockopt_impl!(
    Ipv6Mtu,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU,
    libc::c_int,
    nix::sys::socket::sockopt::GetStruct<libc::c_int>
);

/// What the first step towards `peer` takes in one datagram, if the kernel knows: loopback and jumbo
/// frames carry several times what the internet does. Nothing is sent. What lies further on is for QUIC
/// to probe.
pub(super) fn payload_towards(peer: SocketAddr) -> Option<u16> {
    let peer = canonical(peer);
    let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    socket.connect(&peer.into()).ok()?;
    let mtu = match peer {
        SocketAddr::V4(_) => getsockopt(&socket, IpMtu),
        SocketAddr::V6(_) => getsockopt(&socket, Ipv6Mtu),
    };
    let mtu = u16::try_from(mtu.ok()?).unwrap_or(u16::MAX);
    Some(mtu.saturating_sub(HEADERS).min(PAYLOAD_MAX))
}

/// Which addresses a socket must be able to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv6 and IPv4, or IPv4 alone where there is no IPv6: nothing has been decided yet.
    Either,
    /// Addresses in IPv6 form, IPv4 ones in disguise included.
    V6,
    /// IPv4 in its own form.
    V4,
}

impl Family {
    /// The one in which `peer` is written.
    pub(super) fn of(peer: SocketAddr) -> Self {
        if peer.is_ipv6() { Self::V6 } else { Self::V4 }
    }
}

/// Makes sockets to dial from.
pub(super) type MakeSocket =
    Arc<dyn Fn(Family) -> io::Result<Arc<dyn AsyncUdpSocket>> + Send + Sync>;

/// A socket bound to `addr`; `[::]` takes IPv4 as well.
pub(super) fn bind(addr: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    TokioRuntime.wrap_udp_socket(open(addr)?)
}

/// One that was opened elsewhere.
pub(super) fn wrap(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    socket.set_nonblocking(true)?;
    enlarge(&SockRef::from(&socket));
    TokioRuntime.wrap_udp_socket(socket)
}

/// A socket bound to `addr`, for [`Listener::over`](super::Listener::over).
pub fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    enlarge(&socket);
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from(socket))
}

/// A socket to dial from, or to move a link to: any address, a port nobody has.
pub(super) fn bind_any(family: Family) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let six = || bind((Ipv6Addr::UNSPECIFIED, 0).into());
    let four = || bind((Ipv4Addr::UNSPECIFIED, 0).into());
    match family {
        Family::Either => six().or_else(|_| four()),
        Family::V6 => six(),
        Family::V4 => four(),
    }
}

/// What was asked of the kernel for each UDP socket, and what it grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Asked for, each way.
    pub wanted: usize,
    /// Granted for what comes in.
    pub receive: usize,
    /// Granted for what goes out.
    pub send: usize,
}

impl Buffers {
    /// Whether the kernel grants less than was asked for.
    pub const fn are_capped(self) -> bool {
        self.receive < self.wanted || self.send < self.wanted
    }
}

/// What a link's socket would be granted now; the socket is closed again.
pub fn buffers() -> io::Result<Buffers> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    Ok(ask_for_room(&socket))
}

fn ask_for_room(socket: &Socket) -> Buffers {
    // Both only ask; a kernel that gives less still gives something.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    // Linux counts its own overhead in: it reports twice what it granted.
    let granted = |size: io::Result<usize>| size.unwrap_or_default() / 2;
    Buffers {
        wanted: BUFFER,
        receive: granted(socket.recv_buffer_size()),
        send: granted(socket.send_buffer_size()),
    }
}

fn enlarge(socket: &Socket) {
    static TOLD: Once = Once::new();
    let buffers = ask_for_room(socket);
    if buffers.are_capped() {
        TOLD.call_once(|| {
            info!(
                receive = buffers.receive,
                send = buffers.send,
                wanted = BUFFER,
                "UDP buffers capped by the kernel; raise net.core.rmem_max and wmem_max"
            );
        });
    }
}
