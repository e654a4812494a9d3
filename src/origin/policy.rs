//! What may be dialled or served, and what never is. Judges addresses after DNS and paths after all
//! symbolic links; opens and dials nothing itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::dial::DialError;

/// The `[origins]` lists, and our own sockets, ports and files, which no list can open.
#[derive(Debug, Clone, Default)]
pub struct OriginPolicy {
    /// Addresses and networks, judged on the address after DNS.
    pub allow: Vec<ipnet::IpNet>,
    /// Patterns of Unix sockets, judged on the path after symbolic links; `*` does not cross a `/`.
    pub unix: Vec<glob::Pattern>,
    /// Directories that may be served, with all below them.
    pub files: Vec<PathBuf>,
    /// Our sockets, state and configuration, with all below them: never.
    pub own_paths: Vec<PathBuf>,
    /// Our listeners: never dialled.
    pub own_addrs: Vec<SocketAddr>,
}

const GLOB: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl OriginPolicy {
    /// Judges one address, as it would be dialled.
    pub(super) fn judge_addr(&self, addr: SocketAddr) -> Result<(), DialError> {
        let address = canonical(addr.ip());
        if !self.allow.iter().any(|net| contains(net, address)) {
            return Err(DialError::AddressNotAllowed { address });
        }
        let dialled = SocketAddr::new(address, addr.port());
        if self.own_addrs.iter().any(|own| is_own(own, dialled)) {
            return Err(DialError::OwnAddress { addr: dialled });
        }
        Ok(())
    }

    /// Judges a Unix socket by its path after symbolic links.
    pub(super) fn judge_socket(&self, real: &Path) -> Result<(), DialError> {
        if self.own().has_path(real) {
            return Err(DialError::OwnPath { path: real.into() });
        }
        if self
            .unix
            .iter()
            .any(|pattern| pattern.matches_path_with(real, GLOB))
        {
            return Ok(());
        }
        Err(DialError::SocketNotAllowed { path: real.into() })
    }

    /// Judges a directory to be served by its path after symbolic links.
    pub(super) fn judge_dir(&self, real: &Path) -> Result<(), DialError> {
        if self.own().has_path(real) {
            return Err(DialError::OwnPath { path: real.into() });
        }
        if self.files.iter().any(|dir| real.starts_with(settle(dir))) {
            return Ok(());
        }
        Err(DialError::DirectoryNotAllowed { dir: real.into() })
    }

    /// Where our own files are now.
    pub(super) fn own(&self) -> Own {
        Own {
            paths: self.own_paths.iter().map(|path| settle(path)).collect(),
            inodes: self
                .own_paths
                .iter()
                .filter_map(|path| std::fs::metadata(path).ok())
                .map(|meta| (meta.dev(), meta.ino()))
                .collect(),
        }
    }
}

/// Our own files as they lie on disk at one moment.
#[derive(Debug)]
pub(super) struct Own {
    paths: Vec<PathBuf>,
    inodes: Vec<(u64, u64)>,
}

impl Own {
    /// Whether a path after symbolic links is ours, or lies below what is ours.
    pub(super) fn has_path(&self, real: &Path) -> bool {
        self.paths.iter().any(|own| real.starts_with(own))
    }

    /// Whether something already open is one of our own files by another name: a hard link or a bind
    /// mount has another path and the same inode.
    pub(super) fn has_inode(&self, meta: &std::fs::Metadata) -> bool {
        self.inodes.contains(&(meta.dev(), meta.ino()))
    }
}

/// The path after symbolic links, as far as it exists; what does not exist yet is taken as written,
/// with `..` resolved.
pub(super) fn settle(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut existing = path;
    let real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(_) => match (existing.parent(), existing.components().next_back()) {
                (Some(parent), Some(last)) => {
                    rest.push(last);
                    existing = parent;
                }
                _ => break PathBuf::from("/"),
            },
        }
    };
    rest.into_iter().rev().fold(real, |mut real, part| {
        match part {
            Component::ParentDir => {
                real.pop();
            }
            Component::Normal(name) => real.push(name),
            _ => {}
        }
        real
    })
}

/// The path by which the kernel knows an open descriptor.
pub(super) fn path_of(fd: &impl std::os::fd::AsRawFd) -> io::Result<PathBuf> {
    std::fs::read_link(by_descriptor(fd))
}

/// A path that leads to an open descriptor and nothing else, whatever happens to its name meanwhile.
pub(super) fn by_descriptor(fd: &impl std::os::fd::AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// One text for one address: `::ffff:10.0.0.1` is `10.0.0.1`, and dialling "any" reaches loopback.
fn canonical(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn contains(net: &ipnet::IpNet, address: IpAddr) -> bool {
    // `::ffff:a.b.c.d/n` in the list names IPv4 addresses too.
    let mapped = match (net, address) {
        (ipnet::IpNet::V6(_), IpAddr::V4(v4)) => IpAddr::V6(v4.to_ipv6_mapped()),
        _ => address,
    };
    let whole_v6 =
        matches!((net, address), (ipnet::IpNet::V6(net), IpAddr::V4(_)) if net.prefix_len() < 96);
    net.contains(&mapped) && !whole_v6
}

/// A listener on every address is ours on every address of this machine.
fn is_own(own: &SocketAddr, dialled: SocketAddr) -> bool {
    if own.port() != dialled.port() {
        return false;
    }
    let own_ip = own.ip().to_canonical();
    if own_ip.is_unspecified() {
        return dialled.ip().is_loopback() || UdpSocket::bind((dialled.ip(), 0)).is_ok();
    }
    own_ip == dialled.ip()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> OriginPolicy {
        OriginPolicy {
            allow: ["127.0.0.1/32", "::1/128", "10.0.0.0/8"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            unix: vec![glob::Pattern::new("/run/*").unwrap()],
            files: vec!["/srv".into()],
            own_paths: vec!["/run/wormkey".into(), "/srv/state".into()],
            own_addrs: ["0.0.0.0:443", "127.0.0.1:8443"]
                .map(|addr| addr.parse().unwrap())
                .to_vec(),
        }
    }

    #[test]
    fn an_address_is_judged_however_it_is_written() {
        for (addr, allowed) in [
            ("127.0.0.1:3000", true),
            ("[::1]:3000", true),
            ("[::ffff:127.0.0.1]:3000", true),
            ("[::ffff:192.168.0.1]:3000", false),
            ("10.255.0.1:80", true),
            ("0.0.0.0:3000", true),
            ("[::]:3000", true),
            ("169.254.169.254:80", false),
            ("127.0.0.2:3000", false),
            ("[fe80::1]:80", false),
            // Our own listeners, by any local address, and by loopback's other names.
            ("127.0.0.1:443", false),
            ("[::1]:443", false),
            ("0.0.0.0:443", false),
            ("127.0.0.1:8443", false),
            ("[::ffff:127.0.0.1]:8443", false),
            ("[::1]:8443", true),
            // Another machine's port of the same number is not ours.
            ("10.255.0.1:443", true),
        ] {
            let judged = policy().judge_addr(addr.parse().unwrap());
            assert_eq!(judged.is_ok(), allowed, "{addr}: {judged:?}");
        }
    }

    #[test]
    fn a_wide_ipv6_network_opens_no_ipv4() {
        let policy = OriginPolicy {
            allow: vec!["::/0".parse().unwrap()],
            ..OriginPolicy::default()
        };
        assert!(
            policy
                .judge_addr("[2001:db8::1]:1".parse().unwrap())
                .is_ok()
        );
        assert!(policy.judge_addr("10.0.0.1:1".parse().unwrap()).is_err());
        assert!(
            policy
                .judge_addr("[::ffff:10.0.0.1]:1".parse().unwrap())
                .is_err()
        );
    }

    #[test]
    fn paths_are_judged_whole_and_ours_never_pass() {
        let socket = |path: &str| policy().judge_socket(Path::new(path)).is_ok();
        assert!(socket("/run/app.sock"));
        assert!(!socket("/run/deep/app.sock"));
        assert!(!socket("/run/wormkey"));
        assert!(!socket("/tmp/app.sock"));
        let dir = |path: &str| policy().judge_dir(Path::new(path)).is_ok();
        assert!(dir("/srv"));
        assert!(dir("/srv/www"));
        assert!(!dir("/srv2"));
        assert!(!dir("/"));
        assert!(!dir("/srv/state"));
        assert!(!dir("/srv/state/deep"));
    }

    #[test]
    fn what_does_not_exist_yet_is_settled_by_its_text() {
        assert_eq!(
            settle(Path::new("/no-such-dir/a/../../etc/x")),
            Path::new("/etc/x")
        );
        assert_eq!(settle(Path::new("/proc/../no/such")), Path::new("/no/such"));
    }
}
