//! The server's sockets: taken over from systemd where there are some, else bound here and given to
//! systemd to keep.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, bail};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::config::ServerConfig;
use crate::link::{Identity, LinkSettings, Listener, open_socket};
use crate::supervise::{Inherited, keep_socket};

/// Bound, and not served yet.
pub(super) struct Sockets {
    pub(super) https: TcpListener,
    pub(super) links: Listener,
    pub(super) http: Option<TcpListener>,
    /// For the operator's own proxy, which has taken TLS off.
    pub(super) plain: Option<TcpListener>,
}

/// All of them.
pub(super) fn sockets(
    config: &ServerConfig,
    identity: &Identity,
    mut inherited: Inherited,
) -> anyhow::Result<Sockets> {
    let has_ipv6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
    let https = inherited.sockets("https", everywhere(config.https, has_ipv6));
    let mut kept = |name, addr: Option<SocketAddr>| {
        addr.and_then(|addr| inherited.sockets(name, everywhere(addr, has_ipv6)).0)
    };
    let http = kept("http", config.http);
    let plain = kept("plain-http", config.front.plain_http);
    // Before anything is bound: what is not wanted may be in the way.
    inherited.finish();
    let (https, udp) = match https {
        (None, None) => bind(config.https)?,
        (tcp, udp) => complete(tcp, udp)?,
    };
    let settings = LinkSettings {
        keep_alive: config.link.keep_alive,
        idle_timeout: config.link.idle_timeout,
        ..LinkSettings::default()
    };
    let links = Listener::over(udp, identity, &settings).context("listening for links")?;
    Ok(Sockets {
        https,
        links,
        http: one("http", "listen.http", http, config.http)?,
        plain: one(
            "plain-http",
            "listen.plain_http",
            plain,
            config.front.plain_http,
        )?,
    })
}

/// A listener that may be off: the one taken over, or else one bound here.
fn one(
    name: &str,
    key: &str,
    kept: Option<std::net::TcpListener>,
    addr: Option<SocketAddr>,
) -> anyhow::Result<Option<TcpListener>> {
    if let Some(kept) = kept {
        let taken = TcpListener::from_std(kept);
        return taken
            .map(Some)
            .with_context(|| format!("taking over {name}"));
    }
    let Some(addr) = addr else { return Ok(None) };
    let bound = bind_tcp(addr, key)?;
    keep_socket(name, &bound);
    Ok(Some(bound))
}

/// Visitors and links share one address: the half that was not handed over is bound beside the other.
fn complete(
    tcp: Option<std::net::TcpListener>,
    udp: Option<UdpSocket>,
) -> anyhow::Result<(TcpListener, UdpSocket)> {
    let of = |found: std::io::Result<SocketAddr>| found.context("reading a socket's address");
    let (tcp, udp) = match (tcp, udp) {
        (Some(tcp), Some(udp)) => (tcp, udp),
        (Some(tcp), None) => {
            let addr = of(tcp.local_addr())?;
            let udp = open_socket(addr)
                .with_context(|| format!("listening for links on udp {addr} (listen.https)"))?;
            keep_socket("https", &udp);
            (tcp, udp)
        }
        (None, Some(udp)) => {
            let bound = bind_tcp(of(udp.local_addr())?, "listen.https")?;
            keep_socket("https", &bound);
            return Ok((bound, udp));
        }
        (None, None) => bail!("no socket was handed over"),
    };
    let (visitors, links) = (of(tcp.local_addr())?, of(udp.local_addr())?);
    if visitors.port() != links.port() {
        bail!(
            "the socket unit listens on tcp {visitors} and on udp {links}; both have to have one port"
        );
    }
    let tcp = TcpListener::from_std(tcp).context("taking over https")?;
    Ok((tcp, udp))
}

/// TCP and UDP on the same port.
fn bind(https: SocketAddr) -> anyhow::Result<(TcpListener, UdpSocket)> {
    // With port 0 the kernel picks a TCP port whose UDP twin may be taken: then it picks again.
    for _ in 0..16 {
        let tcp = bind_tcp(https, "listen.https")?;
        let addr = tcp.local_addr().context("reading the https address")?;
        match open_socket(addr) {
            Ok(udp) => {
                keep_socket("https", &tcp);
                keep_socket("https", &udp);
                return Ok((tcp, udp));
            }
            Err(e) if https.port() != 0 => {
                return Err(e)
                    .with_context(|| format!("listening for links on udp {addr} (listen.https)"));
            }
            Err(_) => {}
        }
    }
    bail!("no port was free for both TCP and UDP")
}

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 1024;

/// Binds as the socket of the links is bound: `[::]` takes IPv4 too, whatever the system's default is, and
/// where the kernel has no IPv6 at all it means every IPv4 address.
pub(super) fn bind_tcp(addr: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let has_ipv6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
    let addr = everywhere(addr, has_ipv6);
    let hint = if addr.port() < 1024 {
        "; ports below 1024 need CAP_NET_BIND_SERVICE"
    } else {
        ""
    };
    listen(addr).with_context(|| format!("listening on tcp {addr} ({key}){hint}"))
}

pub(super) fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restart does not wait for the connections of the process before.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What "everywhere" means on this machine.
pub(super) fn everywhere(addr: SocketAddr, has_ipv6: bool) -> SocketAddr {
    if addr.is_ipv6() && addr.ip().is_unspecified() && !has_ipv6 {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()))
    } else {
        addr
    }
}
