//! The socket file: made with its mode and group before anyone can reach it, taken away at shutdown.
//! Not the listener's loop (`serve`), and not who may connect: the file mode decides that.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 128;
/// `sun_path` of Linux, with its closing zero.
const PATH_MAX: usize = 108;

/// A listening admin socket; dropping it removes its file, if the file is still ours.
#[derive(Debug)]
pub struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

impl AdminSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // A newer daemon may have put its own file there; that one stays.
        if identity(&self.path).is_ok_and(|found| found == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why the admin socket cannot be had; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel keeps socket paths short.
    #[error("{path} is too long for a socket (107 bytes at most); set a shorter [admin] socket")]
    TooLong {
        /// As configured.
        path: PathBuf,
    },
    /// Not a path of a file in a directory.
    #[error("{path} is no path for a socket; set [admin] socket to an absolute path of a file")]
    NoFile {
        /// As configured.
        path: PathBuf,
    },
    /// The directory is missing and cannot be made.
    #[error(
        "{dir} is missing and cannot be made; make it for the daemon's user, or set another [admin] socket"
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        #[source]
        err: io::Error,
    },
    /// A symbolic link could lead anywhere.
    #[error("{path} is a symbolic link, which is never followed; remove it and start again")]
    Symlink {
        /// As configured.
        path: PathBuf,
    },
    /// Something else has that name; it is not ours to remove.
    #[error("{path} is there and is no socket; move it away, or set another [admin] socket")]
    NotASocket {
        /// As configured.
        path: PathBuf,
    },
    /// Somebody answers there.
    #[error(
        "a daemon answers on {path} already; stop it first, or set another [admin] socket for this one"
    )]
    Live {
        /// As configured.
        path: PathBuf,
    },
    /// No such group.
    #[error("there is no group {group:?}; make it (groupadd {group}), or mend [admin] group")]
    NoGroup {
        /// As configured.
        group: String,
    },
    /// The daemon may not give files to that group.
    #[error(
        "the socket cannot be given to the group {group:?}; add the daemon's user to it and let its unit do it (SystemCallFilter=@chown), or leave [admin] group out"
    )]
    Group {
        /// As configured.
        group: String,
        /// The system's reason.
        #[source]
        err: io::Error,
    },
    /// Anything else the system refuses.
    #[error("{step} at {path}; check who owns its directory, or set another [admin] socket")]
    System {
        /// What was being done.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        #[source]
        err: io::Error,
    },
}

/// Listens at `path`. The file appears under its name only when mode and group are set and it
/// answers; a stale one is replaced, a live one and a symbolic link never. Wants tokio's runtime.
pub fn bind(path: &Path, mode: u32, group: Option<&str>) -> Result<AdminSocket, SocketError> {
    let (Some(dir), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(SocketError::NoFile { path: path.into() });
    };
    if path.as_os_str().len() >= PATH_MAX {
        return Err(SocketError::TooLong { path: path.into() });
    }
    let gid = group.map(|name| Ok((name, group_id(name)?))).transpose()?;
    // What the daemon makes is its own group's already; the packages' units let it give nothing away.
    let own = nix::unistd::getegid().as_raw();
    let gid = gid.filter(|(_, gid)| *gid != own);
    make_directory(dir)?;
    check_free(path)?;

    // Made aside, renamed when it is whole.
    let aside = Aside(dir.join(format!(".{}", std::process::id())));
    let (listener, file) = listen(&aside.0, mode, gid)?;
    std::fs::rename(&aside.0, path).map_err(refused("the socket cannot be put in place", path))?;
    Ok(AdminSocket {
        listener,
        path: path.into(),
        file,
    })
}

/// Before `listen` nobody can connect, so no caller slips in while the mode is still the umask's.
fn listen(
    aside: &Path,
    mode: u32,
    group: Option<(&str, u32)>,
) -> Result<(UnixListener, (u64, u64)), SocketError> {
    let _ = std::fs::remove_file(aside);
    let socket = SockAddr::unix(aside)
        .and_then(|address| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&address)?;
            Ok(socket)
        })
        .map_err(refused("the socket cannot be made", aside))?;
    std::fs::set_permissions(aside, std::fs::Permissions::from_mode(mode))
        .map_err(refused("the socket's mode cannot be set", aside))?;
    if let Some((group, gid)) = group {
        std::os::unix::fs::chown(aside, None, Some(gid)).map_err(|err| SocketError::Group {
            group: group.to_owned(),
            err,
        })?;
    }
    socket
        .listen(BACKLOG)
        .and_then(|()| socket.set_nonblocking(true))
        .and_then(|()| UnixListener::from_std(OwnedFd::from(socket).into()))
        .and_then(|listener| Ok((listener, identity(aside)?)))
        .map_err(refused("the socket cannot listen", aside))
}

/// The file while it has not got its name yet; what is left of it goes.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn refused(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.into();
    move |err| SocketError::System { step, path, err }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

fn group_id(group: &str) -> Result<u32, SocketError> {
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(SocketError::NoGroup {
            group: group.to_owned(),
        }),
        Err(errno) => Err(SocketError::Group {
            group: group.to_owned(),
            err: errno.into(),
        }),
    }
}

/// Root makes a directory all may enter, as those under /run are; a person makes a private one.
fn make_directory(dir: &Path) -> Result<(), SocketError> {
    if dir.is_dir() {
        return Ok(());
    }
    let mode = if nix::unistd::geteuid().is_root() {
        0o755
    } else {
        0o700
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|err| SocketError::Directory {
            dir: dir.into(),
            err,
        })
}

/// Whether the name may be taken: nothing there, or a socket on which nothing answers.
fn check_free(path: &Path) -> Result<(), SocketError> {
    let system = |err| refused("it cannot be told whether a daemon answers", path)(err);
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(system(err)),
    };
    if kind.is_symlink() {
        return Err(SocketError::Symlink { path: path.into() });
    }
    if !kind.is_socket() {
        return Err(SocketError::NotASocket { path: path.into() });
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(system)?;
    // Non-blocking: a daemon whose backlog is full is alive, and must not make us wait.
    probe.set_nonblocking(true).map_err(system)?;
    let address = SockAddr::unix(path).map_err(system)?;
    match probe.connect(&address) {
        Ok(()) => Err(SocketError::Live { path: path.into() }),
        Err(err) => match err.kind() {
            io::ErrorKind::WouldBlock => Err(SocketError::Live { path: path.into() }),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            _ => Err(system(err)),
        },
    }
}
