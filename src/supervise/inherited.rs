//! Listening sockets that systemd hands over: those of a socket unit, and those that an earlier run of
//! this daemon gave it to keep, so that a restart refuses nobody. The one file with `unsafe` in it.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Socket, Type};
use tracing::{debug, info, warn};

/// What systemd keeps for us has a name of its own, so that it is not taken for a socket unit's.
const STORED: &str = "stored-";

/// How long systemd has to let go of what it shall keep no more.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);

/// What was handed over and is not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<(String, Socket)>);

impl Inherited {
    /// All that this process was started with. The second call gets nothing.
    pub(crate) fn take() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Self::default();
        }
        match sd_notify::listen_fds_with_names() {
            Ok(fds) => Self(fds.map(|(fd, name)| (name, owned(fd).into())).collect()),
            Err(err) => {
                warn!(%err, "sockets that were handed over cannot be used");
                Self::default()
            }
        }
    }

    /// The sockets of that name: a socket unit's wherever it listens, else kept ones that are where the
    /// configuration wants them.
    pub(crate) fn sockets(
        &mut self,
        name: &str,
        configured: SocketAddr,
    ) -> (Option<TcpListener>, Option<UdpSocket>) {
        let units = self.0.iter().any(|(of, _)| of == name);
        let wanted = if units {
            name.to_owned()
        } else {
            format!("{STORED}{name}")
        };
        let fits = |socket: &Socket| units || is_at(socket, configured);
        let mut pick = |kind: Type| {
            let at = self
                .0
                .iter()
                .position(|(of, socket)| *of == wanted && is_kind(socket, kind) && fits(socket))?;
            let (name, socket) = self.0.swap_remove(at);
            match socket.set_nonblocking(true) {
                Ok(()) => {
                    info!(%name, address = ?address(&socket), "took a socket over");
                    Some(socket)
                }
                Err(err) => {
                    warn!(%name, %err, "a socket that was handed over cannot be used");
                    None
                }
            }
        };
        let tcp = pick(Type::STREAM).map(TcpListener::from);
        (tcp, pick(Type::DGRAM).map(UdpSocket::from))
    }

    /// Lets go of the rest: what was kept for another configuration stands in the way of new sockets.
    pub(crate) fn finish(self) {
        let mut stale: Vec<String> = Vec::new();
        for (name, socket) in self.0 {
            if name.starts_with(STORED) {
                info!(%name, address = ?address(&socket), "a kept socket is not wanted any more");
                stale.push(name);
            } else {
                warn!(%name, "a socket unit hands over a socket that has no use here; name it https or http");
            }
        }
        stale.sort();
        stale.dedup();
        for name in &stale {
            tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
        }
        if !stale.is_empty()
            && let Err(err) = wait_for_systemd()
        {
            debug!(%err, "not known whether systemd has let go");
        }
    }
}

/// Gives systemd a socket to keep over a restart.
pub(crate) fn keep_socket(name: &str, socket: &impl AsFd) {
    let text = format!("FDSTORE=1\nFDNAME={STORED}{name}");
    tell(&text, Some(socket.as_fd()));
}

fn tell(text: &str, socket: Option<BorrowedFd<'_>>) {
    if let Err(err) = send(text, socket) {
        debug!(%err, "systemd was not told");
    }
}

/// One message to systemd, where there is one, with a descriptor.
fn send(text: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::from_abstract_name(name)?,
        None => UnixAddr::from_pathname(&path)?,
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.connect_addr(&address)?;
    let fds = socket.map(|socket| [socket.as_raw_fd()]);
    let rights = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
    sendmsg::<()>(
        datagram.as_raw_fd(),
        &[io::IoSlice::new(text.as_bytes())],
        rights.as_slice(),
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Until systemd has worked through what it was told: it closes what comes with a barrier last.
fn wait_for_systemd() -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(LET_GO_WITHIN))?;
    send("BARRIER=1", Some(theirs.as_fd()))?;
    drop(theirs);
    ours.read(&mut [0; 1]).map(drop)
}

#[expect(unsafe_code, reason = "a number is all that systemd says of a socket")]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: systemd says in LISTEN_FDS, to the process of LISTEN_PID alone, that this descriptor was
    // opened for it, and setting its close-on-exec flag has shown that it is open. Nobody else in the
    // process knows its number, and `Inherited::take` comes by here once for each.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn is_kind(socket: &Socket, kind: Type) -> bool {
    socket.r#type().is_ok_and(|found| found == kind)
        && (kind != Type::STREAM || socket.is_listener().unwrap_or(false))
}

fn address(socket: &Socket) -> Option<SocketAddr> {
    socket.local_addr().ok()?.as_socket()
}

/// Whether it listens where it should; any port will do where any was asked for.
fn is_at(socket: &Socket, configured: SocketAddr) -> bool {
    address(socket).is_some_and(|at| {
        at.ip() == configured.ip() && (configured.port() == 0 || at.port() == configured.port())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(at: &str) -> (Socket, SocketAddr) {
        let listener = TcpListener::bind(at).unwrap();
        let addr = listener.local_addr().unwrap();
        (listener.into(), addr)
    }

    fn udp(at: SocketAddr) -> Socket {
        UdpSocket::bind(at).unwrap().into()
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn a_socket_unit_has_its_way_wherever_it_listens() {
        let (https, at) = tcp("127.0.0.1:0");
        let (stored, _) = tcp("127.0.0.1:0");
        let quic = udp(any());
        let mut all = Inherited(vec![
            ("stored-https".to_owned(), stored),
            ("https".to_owned(), https),
            ("https".to_owned(), quic),
        ]);
        let elsewhere = "192.0.2.1:443".parse().unwrap();
        let (tcp, udp) = all.sockets("https", elsewhere);
        assert_eq!(tcp.unwrap().local_addr().unwrap(), at);
        assert!(udp.is_some());
        assert_eq!(all.0.len(), 1, "the kept one is left");
    }

    #[test]
    fn a_kept_socket_is_used_where_the_configuration_still_wants_it() {
        let (first, at) = tcp("127.0.0.1:0");
        let stored = |socket| Inherited(vec![("stored-http".to_owned(), socket)]);
        let mut all = stored(first);
        let other_port = SocketAddr::new(at.ip(), at.port() ^ 1);
        for wrong in [other_port, SocketAddr::new([0, 0, 0, 0].into(), at.port())] {
            let (tcp, udp) = all.sockets("http", wrong);
            assert!(tcp.is_none() && udp.is_none());
        }
        assert!(all.sockets("https", at).0.is_none(), "another name");
        assert!(all.sockets("http", at).0.is_some());
        let (second, _) = tcp("127.0.0.1:0");
        assert!(
            stored(second).sockets("http", any()).0.is_some(),
            "any port"
        );
    }

    #[test]
    fn what_does_not_listen_is_no_listener() {
        let socket = Socket::new(socket2::Domain::IPV4, Type::STREAM, None).unwrap();
        let mut all = Inherited(vec![("https".to_owned(), socket)]);
        assert!(all.sockets("https", any()).0.is_none());
    }
}
