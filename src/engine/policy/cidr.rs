//! Networks as rules name them: `10.0.0.0/8`, `2001:db8::/32`, a bare address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A network, in its one spelling: no host bits, and IPv4 written inside IPv6 (`::ffff:10.0.0.0/104`) is
/// IPv4. The families are apart: `::/0` is every IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNet);

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It does not read as one.
    #[error("{text:?} is no network; write 10.0.0.0/8, 2001:db8::/32 or one address")]
    Unreadable {
        /// What was given.
        text: String,
    },
    /// It holds some of the IPv4 addresses that are written inside IPv6.
    #[error("{text} holds IPv4 addresses and IPv6 ones; write the IPv4 network by itself")]
    Mixed {
        /// What was given.
        text: String,
    },
}

impl Cidr {
    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let unreadable = || CidrError::Unreadable {
            text: text.chars().take(64).collect(),
        };
        let net = match text.parse::<IpAddr>() {
            Ok(ip) => IpNet::from(ip),
            Err(_) => text.parse::<IpNet>().map_err(|_| unreadable())?,
        };
        match net {
            IpNet::V4(_) => Ok(Self(net.trunc())),
            IpNet::V6(net) => canonical(net.trunc()).map(Self),
        }
    }
}

fn canonical(net: Ipv6Net) -> Result<IpNet, CidrError> {
    const MAPPED: Ipv6Addr = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    let length = net.prefix_len();
    match net.addr().to_ipv4_mapped() {
        Some(v4) if length >= 96 => {
            let net = Ipv4Net::new(v4, length - 96).expect("a prefix of at most 32");
            Ok(IpNet::V4(net))
        }
        _ if length > 0 && length < 96 && net.contains(&MAPPED) => Err(CidrError::Mixed {
            text: net.to_string(),
        }),
        _ => Ok(IpNet::V6(net)),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
