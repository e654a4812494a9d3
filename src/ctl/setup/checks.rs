//! What a server needs of its machine and of DNS, looked at before it is there. `wormkeyctl server doctor` looks
//! closer once it runs.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::config::{AcmeDns, ServerConfig, TlsMode};

/// A resolver that says nothing for so long will not.
const DNS_DEADLINE: Duration = Duration::from_secs(5);

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// As it must be.
    Good(String),
    /// Will not work, or not for everybody, until something is done.
    Look(String),
    /// A port that another program has.
    Taken(String),
}

impl Finding {
    /// The port, when another program has it.
    pub(super) fn taken(&self) -> Option<String> {
        match self {
            Self::Taken(what) => Some(what.clone()),
            Self::Good(_) | Self::Look(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(what) => write!(f, "ok    {what}"),
            Self::Look(what) => write!(f, "look  {what}"),
            Self::Taken(what) => write!(f, "look  {what} is taken by another program"),
        }
    }
}

/// Looks at names and ports; a server that `runs` has its ports.
pub(super) async fn look(config: &ServerConfig, runs: bool) -> Vec<Finding> {
    let mut found = vec![names(config).await];
    if !runs {
        let tcp = |at: SocketAddr| (format!("TCP {at}"), TcpListener::bind(at).map(drop));
        let udp = |at: SocketAddr| (format!("UDP {at}"), UdpSocket::bind(at).map(drop));
        found.extend([tcp(config.https), udp(config.https)].map(port));
        found.extend(config.http.map(tcp).map(port));
        if let Some(at) = name_server(config) {
            found.extend([tcp(at), udp(at)].map(port).map(|one| of_names(one, at)));
        }
    }
    found
}

/// Where the server's own name server will listen, if it is to prove names.
fn name_server(config: &ServerConfig) -> Option<SocketAddr> {
    match &config.tls {
        TlsMode::Acme(acme) => match &acme.dns {
            Some(AcmeDns::Responder { listen, .. }) => Some(*listen),
            Some(AcmeDns::Hook { .. } | AcmeDns::Update { .. }) | None => None,
        },
        TlsMode::SelfSigned | TlsMode::Files { .. } => None,
    }
}

/// The server runs without that port, and gets no certificate until it has it.
fn of_names(found: Finding, at: SocketAddr) -> Finding {
    match found {
        Finding::Taken(what) => Finding::Look(format!(
            "{what} is taken by another program, such as systemd-resolved: no certificate until acme.dns.listen \
             names a free one, such as this machine's public address with port {}",
            at.port()
        )),
        other => other,
    }
}

fn port((what, bound): (String, std::io::Result<()>)) -> Finding {
    match bound {
        Ok(()) => Finding::Good(format!("{what} is free")),
        Err(err) if err.kind() == ErrorKind::AddrInUse => Finding::Taken(what),
        // The unit may listen there all the same.
        Err(err) if err.kind() == ErrorKind::PermissionDenied => {
            Finding::Look(format!("{what} is root's to look at; use sudo"))
        }
        Err(err) => Finding::Look(format!("{what} cannot be listened on: {err}")),
    }
}

/// Whether the names of tunnels lead here.
async fn names(config: &ServerConfig) -> Finding {
    let name = format!("wormkey-setup.{}", config.domain);
    let looked = tokio::net::lookup_host((name.as_str(), config.https.port()));
    let addresses: BTreeSet<IpAddr> = match tokio::time::timeout(DNS_DEADLINE, looked).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    };
    judge(&config.domain.to_string(), &addresses, &own())
}

fn judge(domain: &str, leads_to: &BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> Finding {
    let shown = |addresses: &BTreeSet<IpAddr>| {
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    if leads_to.is_empty() {
        let public: BTreeSet<IpAddr> = own.iter().copied().filter(|ip| is_public(*ip)).collect();
        let to = if public.is_empty() {
            "this machine's public address".to_owned()
        } else {
            shown(&public)
        };
        return Finding::Look(format!(
            "no name below {domain} is found: make the DNS records *.{domain} and {domain}, leading to {to}"
        ));
    }
    let to = shown(leads_to);
    if leads_to.is_disjoint(own) {
        Finding::Look(format!(
            "names below {domain} lead to {to}, which is no address of this machine: \
             fine if TCP and UDP are passed on from there"
        ))
    } else {
        Finding::Good(format!("names below {domain} lead to {to}"))
    }
}

fn own() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    interfaces.filter_map(ip).collect()
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_loopback() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn names_that_lead_elsewhere_or_nowhere_are_told_of() {
        let own = set(&["127.0.0.1", "10.0.0.2", "192.0.2.7"]);
        for (leads_to, expected) in [
            (
                &["192.0.2.7", "2001:db8::7"][..],
                "ok    names below t.example lead to 192.0.2.7",
            ),
            (
                &["192.0.2.9"],
                "look  names below t.example lead to 192.0.2.9, which is no address",
            ),
            (
                &[],
                "look  no name below t.example is found: make the DNS records *.t.example and t.example, leading to 192.0.2.7",
            ),
        ] {
            let said = judge("t.example", &set(leads_to), &own).to_string();
            assert!(said.starts_with(expected), "{said}");
        }
        let said = judge("t.example", &set(&[]), &set(&["10.0.0.2"])).to_string();
        assert!(said.ends_with("this machine's public address"), "{said}");
    }

    #[test]
    fn a_port_that_is_taken_is_told_of() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let found = port(("TCP x".to_owned(), TcpListener::bind(at).map(drop)));
        assert_eq!(found.taken().as_deref(), Some("TCP x"));
        let free = port(("TCP x".to_owned(), Ok(())));
        assert_eq!(free.taken(), None);
    }

    #[tokio::test]
    async fn the_name_server_s_port_is_looked_at_and_stops_no_set_up() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.toml");
        let text = format!(
            "domain = \"t.wormkey.invalid\"\n[listen]\nhttps = \"127.0.0.1:0\"\nhttp = \"off\"\n\
             [tls]\nmode = \"acme\"\n[acme]\ndns = {{ listen = \"{at}\" }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let config = ServerConfig::load(Some(&file)).unwrap();
        let found = look(&config, false).await;
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            said.contains(&format!("ok    TCP {at} is free")),
            "{said:?}"
        );
        let udp = format!("look  UDP {at} is taken by another program, such as");
        assert!(said.iter().any(|line| line.starts_with(&udp)), "{said:?}");
        assert!(found.iter().all(|one| one.taken().is_none()), "{said:?}");
        assert_eq!(
            look(&config, true).await.len(),
            1,
            "a server that runs has its ports"
        );
    }
}
