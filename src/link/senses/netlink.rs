//! The kernel's word that a route, an address or a device changed. Not what changed: whoever is told
//! looks for himself, so no message needs to be read, and none that is lost matters.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// Devices, addresses of both families, routes of both families (rtnetlink(7)).
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// Messages taken at once.
const DRAIN: usize = 4096;

/// Changes of this network namespace.
#[derive(Debug)]
pub(super) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Listens from now on. Any user may.
    pub(super) fn listen() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(
            socket.as_raw_fd(),
            &NetlinkAddr::new(0, GROUPS.cast_unsigned()),
        )?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that lie about their descriptor; this one owns it"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self(socket))
    }

    /// Waits for a change, and takes all that have come with it. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // Before the reading, so that nothing that comes meanwhile is missed.
            ready.clear_ready();
            if drain(self.0.get_ref())? {
                return Ok(());
            }
        }
    }

    /// Drops what has come meanwhile.
    pub(super) fn forget(&mut self) {
        // What fails here fails again where somebody waits for it.
        let _ = drain(self.0.get_ref());
    }
}

/// Reads until nothing is left; whether there was anything.
fn drain(socket: &OwnedFd) -> io::Result<bool> {
    // Longer messages are cut off, which is as well.
    let mut buffer = [0; 4096];
    let mut any = false;
    // What a flood leaves unread had happened by the time somebody looks; what comes later wakes us.
    for _ in 0..DRAIN {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            // More happened than fits: something did change.
            Ok(_) | Err(Errno::ENOBUFS) => any = true,
            Err(Errno::EAGAIN) => return Ok(any),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(any)
}
