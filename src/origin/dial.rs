//! Reaches a target: resolves, judges every address and path by the policy, connects within a
//! deadline. Not TLS and not HTTP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::policy::{OriginPolicy, by_descriptor, path_of, settle};
use super::socket::Socket;
use crate::names::{Kind, Target};
use crate::wire::StreamCode;

/// How long one visit waits for a connection: resolving, all addresses and TLS together.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Why an origin was not reached. In every case no byte of the visit left.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address after DNS is in no network of the list.
    #[error("{address} is not among [origins] allow in client.toml; add it there and reload")]
    AddressNotAllowed {
        /// The address.
        address: IpAddr,
    },
    /// The path after symbolic links matches no pattern of the list.
    #[error("{path:?} matches nothing in [origins] unix in client.toml; add it there and reload")]
    SocketNotAllowed {
        /// The path.
        path: PathBuf,
    },
    /// The directory after symbolic links is below none of the list.
    #[error("{dir:?} is below nothing in [origins] files in client.toml; add it there and reload")]
    DirectoryNotAllowed {
        /// The directory.
        dir: PathBuf,
    },
    /// One of wormkey's own listeners.
    #[error("{addr} is wormkey's own, and no tunnel leads there")]
    OwnAddress {
        /// The address.
        addr: SocketAddr,
    },
    /// One of wormkey's own sockets or files.
    #[error("{path:?} is wormkey's own, and no tunnel leads there")]
    OwnPath {
        /// The path.
        path: PathBuf,
    },
    /// The name has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
        /// The resolver's reason.
        #[source]
        source: Option<io::Error>,
    },
    /// Nobody took the connection.
    #[error("nothing listens at {at}")]
    NothingListens {
        /// The target.
        at: String,
        /// The last address' reason.
        #[source]
        source: io::Error,
    },
    /// The connection was not made in time.
    #[error("{at} took no connection within {} seconds", CONNECT_DEADLINE.as_secs())]
    TooSlow {
        /// The target.
        at: String,
    },
    /// TLS was not agreed on, or the certificate is not to be trusted.
    #[error("TLS with {at} failed")]
    Tls {
        /// The target.
        at: String,
        /// rustls' reason.
        #[source]
        source: io::Error,
    },
    /// HTTP could not even begin.
    #[error("HTTP with {at} could not begin")]
    Handshake {
        /// The target.
        at: String,
        /// hyper's reason.
        #[source]
        source: hyper::Error,
    },
    /// There is no way to dial this kind of target.
    #[error("{target} is not dialled")]
    Unsupported {
        /// The target.
        target: String,
    },
}

impl DialError {
    /// Whether the policy said no, rather than the network.
    pub const fn is_policy(&self) -> bool {
        matches!(
            self,
            Self::AddressNotAllowed { .. }
                | Self::SocketNotAllowed { .. }
                | Self::DirectoryNotAllowed { .. }
                | Self::OwnAddress { .. }
                | Self::OwnPath { .. }
        )
    }

    /// The code the other end of the stream is told.
    pub const fn code(&self) -> StreamCode {
        match self {
            Self::Unsupported { .. } => StreamCode::Unsupported,
            error if error.is_policy() => StreamCode::NotAllowed,
            _ => StreamCode::OriginUnreachable,
        }
    }
}

/// Dials targets under a policy that can be swapped.
#[derive(Debug)]
pub(super) struct Dialler {
    policy: ArcSwap<OriginPolicy>,
    /// The loopback family that answered last, by port: dev servers often listen on one only.
    answered: Mutex<HashMap<u16, IpAddr>>,
}

impl Dialler {
    pub(super) fn new(policy: OriginPolicy) -> Self {
        Self {
            policy: ArcSwap::from_pointee(policy),
            answered: Mutex::default(),
        }
    }

    pub(super) fn set_policy(&self, policy: OriginPolicy) {
        self.policy.store(Arc::new(policy));
    }

    pub(super) fn policy(&self) -> Arc<OriginPolicy> {
        self.policy.load_full()
    }

    /// Whether the policy allows the target at all; dials nothing.
    pub(super) async fn check(&self, target: &Target) -> Result<(), DialError> {
        match target {
            Target::Unix { path } => {
                let (policy, path) = (self.policy(), path.clone());
                blocking(move || policy.judge_socket(&settle(&path))).await
            }
            Target::File { dir } => {
                let (policy, dir) = (self.policy(), dir.clone());
                blocking(move || policy.judge_dir(&settle(&dir))).await
            }
            _ => {
                let by = Instant::now() + CONNECT_DEADLINE;
                self.addresses(target, by).await.map(|_| ())
            }
        }
    }

    /// A connection to the target, made by `by`.
    pub(super) async fn dial(&self, target: &Target, by: Instant) -> Result<Socket, DialError> {
        match target {
            Target::File { .. }
            | Target::Stream {
                kind: Kind::Udp, ..
            } => Err(DialError::Unsupported {
                target: target.to_string(),
            }),
            Target::Unix { path } => timeout_at(by, self.dial_unix(target, path))
                .await
                .map_err(|_| too_slow(target))?,
            _ => {
                let addresses = self.addresses(target, by).await?;
                self.dial_tcp(target, addresses, by).await
            }
        }
    }

    /// The addresses of the target that may be dialled, found by `by`; never none.
    pub(super) async fn addresses(
        &self,
        target: &Target,
        by: Instant,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let addresses = timeout_at(by, self.resolve(target))
            .await
            .map_err(|_| too_slow(target))??;
        self.allowed(addresses)
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, DialError> {
        let Some((host, port)) = host_and_port(target) else {
            return Err(DialError::Unsupported {
                target: target.to_string(),
            });
        };
        let host = match host {
            None => return Ok(self.loopback(port)),
            // Loopback by definition (RFC 6761 section 6.3), whatever the resolver thinks.
            Some(host) if is_localhost(host) => return Ok(self.loopback(port)),
            Some(host) => host,
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![(ip, port).into()]);
        }
        let none = |source| DialError::NoAddress {
            host: host.to_owned(),
            source,
        };
        let found: Vec<_> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|e| none(Some(e)))?
            .collect();
        if found.is_empty() {
            Err(none(None))
        } else {
            Ok(found)
        }
    }

    /// Both loopback families, the one that answered last first.
    fn loopback(&self, port: u16) -> Vec<SocketAddr> {
        let mut both = vec![
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        ];
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.get(&port).is_some_and(IpAddr::is_ipv6) {
            both.reverse();
        }
        both
    }

    /// The addresses the policy allows; when there are none, why the first is not.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
        let policy = self.policy.load();
        let mut refused = None;
        let mut allowed = Vec::with_capacity(addresses.len());
        for addr in addresses {
            match policy.judge_addr(addr) {
                Ok(()) => allowed.push(addr),
                Err(error) => {
                    refused.get_or_insert(error);
                }
            }
        }
        match refused {
            Some(error) if allowed.is_empty() => Err(error),
            _ => Ok(allowed),
        }
    }

    async fn dial_tcp(
        &self,
        target: &Target,
        addresses: Vec<SocketAddr>,
        by: Instant,
    ) -> Result<Socket, DialError> {
        let mut last = None;
        for (i, addr) in addresses.iter().enumerate() {
            // One silent address must not use up the time of the others.
            let now = Instant::now();
            let others = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
            let share = now + by.saturating_duration_since(now) / others;
            match timeout_at(share, connect(*addr)).await {
                Ok(Ok(stream)) => {
                    if addr.ip().is_loopback() {
                        self.answered
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(addr.port(), addr.ip());
                    }
                    return Ok(Socket::Tcp(Arc::new(stream)));
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => {}
            }
        }
        Err(match last {
            Some(source) => DialError::NothingListens {
                at: target.to_string(),
                source,
            },
            None => too_slow(target),
        })
    }

    async fn dial_unix(&self, target: &Target, path: &Path) -> Result<Socket, DialError> {
        let (policy, wanted) = (self.policy(), path.to_owned());
        // What was judged is what is connected to: the descriptor stays the same thing, whoever
        // swaps a link in the path meanwhile.
        let opened = blocking(move || open_socket(&policy, &wanted)).await?;
        let connected = match &opened {
            Ok(fd) => UnixStream::connect(by_descriptor(fd)).await,
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        connected
            .map(|stream| Socket::Unix(Arc::new(stream)))
            .map_err(|source| DialError::NothingListens {
                at: target.to_string(),
                source,
            })
    }
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    // On loopback a dial of a free port from the ephemeral range can meet itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Holds the socket's inode, judged by the path that inode really has.
fn open_socket(policy: &OriginPolicy, path: &Path) -> Result<io::Result<std::fs::File>, DialError> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .and_then(|fd| Ok((path_of(&fd)?, fd.metadata()?, fd)));
    let (real, meta, fd) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            // A path that is not allowed is refused whether it exists or not.
            policy.judge_socket(&settle(path))?;
            return Ok(Err(error));
        }
    };
    policy.judge_socket(&real)?;
    if policy.own().has_inode(&meta) {
        return Err(DialError::OwnPath { path: real });
    }
    if !meta.file_type().is_socket() {
        return Ok(Err(io::Error::other("not a socket")));
    }
    Ok(Ok(fd))
}

/// Where to connect; none for targets that are no host.
pub(super) fn host_and_port(target: &Target) -> Option<(Option<&str>, u16)> {
    match target {
        Target::Http { host, port } | Target::Stream { host, port, .. } => {
            Some((host.as_deref(), *port))
        }
        Target::Https { host, port, .. } => Some((Some(host), *port)),
        Target::Unix { .. } | Target::File { .. } => None,
    }
}

fn is_localhost(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    name == "localhost" || name.ends_with(".localhost")
}

pub(super) fn too_slow(target: &Target) -> DialError {
    DialError::TooSlow {
        at: target.to_string(),
    }
}

/// Runs short file system work where it may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn dialler() -> Dialler {
        Dialler::new(OriginPolicy {
            allow: vec!["127.0.0.1/32".parse().unwrap(), "::1/128".parse().unwrap()],
            ..OriginPolicy::default()
        })
    }

    fn soon() -> Instant {
        Instant::now() + CONNECT_DEADLINE
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_bare_port_is_found_on_either_family_and_remembered() {
        let dialler = dialler();
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = target(&port.to_string());
        assert!(dialler.dial(&at, soon()).await.is_ok());
        assert!(dialler.loopback(port)[0].is_ipv6());
        drop(listener);
        let other = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        assert!(dialler.dial(&at, soon()).await.is_ok());
        assert!(dialler.loopback(port)[0].is_ipv4());
        drop(other);
        let refused = dialler.dial(&at, soon()).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, DialError::NothingListens { .. }),
            "{refused}"
        );
        assert_eq!(refused.code(), StreamCode::OriginUnreachable);
    }

    #[tokio::test]
    async fn a_name_is_judged_by_the_address_it_resolves_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let strict = Dialler::new(OriginPolicy {
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            ..OriginPolicy::default()
        });
        for text in [
            format!("{port}"),
            format!("http://127.0.0.1:{port}"),
            format!("http://app.localhost.:{port}"),
            // The resolver reads these as 127.0.0.1.
            format!("http://127.1:{port}"),
            format!("http://2130706433:{port}"),
            format!("https://localhost:{port}"),
            format!("tcp://[::1]:{port}"),
        ] {
            let at = target(&text);
            let checked = strict.check(&at).await;
            let dialled = strict.dial(&at, soon()).await;
            assert!(checked.is_err_and(|e| e.is_policy()), "{text}");
            assert!(
                dialled.is_err_and(|e| e.code() == StreamCode::NotAllowed),
                "{text}"
            );
        }
        strict.set_policy(OriginPolicy {
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            ..OriginPolicy::default()
        });
        assert!(
            strict
                .dial(&target(&port.to_string()), soon())
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_socket_is_judged_behind_its_links_and_ours_are_never_reached() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for part in ["open", "shut"] {
            std::fs::create_dir(root.join(part)).unwrap();
        }
        let listen = |name: &str| UnixListener::bind(root.join(name)).unwrap();
        let _open = listen("open/app.sock");
        let _shut = listen("shut/app.sock");
        let _own = listen("shut/own.sock");
        let link = |to: &str, name: &str| {
            std::os::unix::fs::symlink(root.join(to), root.join(name)).unwrap()
        };
        link("shut/app.sock", "open/link.sock");
        link("open/app.sock", "shut/link.sock");
        link("shut", "open/dir");
        std::fs::hard_link(root.join("shut/own.sock"), root.join("open/hard.sock")).unwrap();
        std::fs::write(root.join("open/plain"), "").unwrap();
        let dialler = Dialler::new(OriginPolicy {
            unix: vec![glob::Pattern::new(&format!("{}/open/**", root.display())).unwrap()],
            own_paths: vec![root.join("shut/own.sock")],
            ..OriginPolicy::default()
        });
        for (name, expected) in [
            ("open/app.sock", None),
            ("shut/link.sock", None),
            ("shut/app.sock", Some(StreamCode::NotAllowed)),
            ("shut/none.sock", Some(StreamCode::NotAllowed)),
            ("open/link.sock", Some(StreamCode::NotAllowed)),
            ("open/dir/app.sock", Some(StreamCode::NotAllowed)),
            ("open/../shut/app.sock", Some(StreamCode::NotAllowed)),
            ("open/hard.sock", Some(StreamCode::NotAllowed)),
            ("open/none.sock", Some(StreamCode::OriginUnreachable)),
            ("open/plain", Some(StreamCode::OriginUnreachable)),
        ] {
            let at = Target::Unix {
                path: root.join(name),
            };
            let got = dialler.dial(&at, soon()).await.err().map(|e| e.code());
            assert_eq!(got, expected, "{name}");
        }
    }
}
