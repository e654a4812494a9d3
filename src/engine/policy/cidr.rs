//! Networks as rules name them: `10.0.0.0/8`, `2001:db8::/32`, a bare address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The part of IPv6 that the internet is in.
const ROUTED: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);
const ROUTED_NET: Ipv6Net = Ipv6Net::new_assert(ROUTED, 3);

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

/// Whether these networks together let half of the world in, in either family: of IPv4 half of all
/// addresses, of IPv6 half of those that are routed (`2000::/3`). Whoever asks for that names nobody.
pub(super) fn are_most(nets: &[Cidr]) -> bool {
    let all: Vec<IpNet> = nets.iter().map(|net| net.0).collect();
    let (mut v4, mut v6) = (0u64, 0u128);
    for net in IpNet::aggregate(&all) {
        match net {
            IpNet::V4(net) => v4 += 1 << (32 - net.prefix_len()),
            IpNet::V6(net) if net.prefix_len() <= 3 && net.contains(&ROUTED) => return true,
            IpNet::V6(net) if net.prefix_len() > 3 && ROUTED_NET.contains(&net) => {
                v6 += 1 << (128 - net.prefix_len());
            }
            IpNet::V6(_) => {}
        }
    }
    v4 >= 1 << 31 || v6 >= 1 << 124
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_everybody_counted_as_a_lock() {
        for (nets, most) in [
            (&["0.0.0.0/0", "::/0"][..], true),
            (&["0.0.0.0/1", "128.0.0.0/1"], true),
            (&["0.0.0.0/2", "64.0.0.0/2", "10.0.0.0/8"], true),
            (&["::/0"], true),
            (&["8000::/1", "4000::/2", "fc00::/7"], false),
            (&["10.0.0.0/8", "2000::/3"], true),
            (&["2000::/4"], true),
            (&["2000::/5", "2800::/5"], true),
            (&["0.0.0.0/2", "0.0.0.0/3", "10.0.0.0/8"], false),
            (
                &[
                    "10.0.0.0/8",
                    "172.16.0.0/12",
                    "192.168.0.0/16",
                    "fc00::/7",
                    "fe80::/10",
                ],
                false,
            ),
            (&["2001:db8::/32", "192.0.2.1"], false),
            (&[], false),
        ] {
            let nets: Vec<Cidr> = nets.iter().map(|net| net.parse().unwrap()).collect();
            assert_eq!(are_most(&nets), most, "{nets:?}");
        }
    }
}
