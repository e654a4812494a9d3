//! How the network looks from here towards the server: what must differ for a change to be one that
//! concerns a link. Most do not: a lease renewed, a container started, another cable plugged in.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// IPv4 routes, as text; a line each: interface, destination, gateway, flags, …, metric, mask, …
const ROUTES: &str = "/proc/self/net/route";

/// IPv6 routes: destination, its length, source, its length, gateway, metric, …, flags, interface.
const ROUTES_SIX: &str = "/proc/self/net/ipv6_route";

/// `RTF_UP`.
const UP: u32 = 1;

/// `RTF_REJECT`: a route that says no, such as the one that stands in for a missing default.
const REJECT: u32 = 0x200;

/// The way out, as far as a link cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outlook {
    server: Option<SocketAddr>,
    /// The address from which we would write to the server.
    source: Option<IpAddr>,
    /// Interface, gateway and metric of every default route: a new one can come with the old address.
    defaults: Vec<String>,
}

impl Outlook {
    /// As it is now.
    pub(super) fn towards(server: Option<SocketAddr>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut defaults = defaults_four(&read(ROUTES));
        defaults.extend(defaults_six(&read(ROUTES_SIX)));
        defaults.sort();
        Self {
            server,
            source: server.and_then(source),
            defaults,
        }
    }

    /// As it is now, towards the same server.
    pub(super) fn again(&self) -> Self {
        Self::towards(self.server)
    }

    /// Whether a packet could leave at all: for the server, or while none is known, for anywhere.
    pub(super) fn leads_out(&self) -> bool {
        match self.server {
            Some(_) => self.source.is_some(),
            None => !self.defaults.is_empty(),
        }
    }
}

/// Asks the kernel by pretending to connect: nothing is sent.
fn source(server: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(server).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn defaults_four(table: &str) -> Vec<String> {
    let default = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [interface, to, gateway, flags, _, _, metric, mask, ..] = fields[..] else {
            return None;
        };
        let is_default = to == "00000000" && mask == "00000000" && usable(flags);
        is_default.then(|| format!("{interface} {gateway} {metric}"))
    };
    table.lines().filter_map(default).collect()
}

fn defaults_six(table: &str) -> Vec<String> {
    let default = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [to, length, _, _, gateway, metric, _, _, flags, interface] = fields[..] else {
            return None;
        };
        let is_default = length == "00" && to.bytes().all(|b| b == b'0') && usable(flags);
        is_default.then(|| format!("{interface} {gateway} {metric}"))
    };
    table.lines().filter_map(default).collect()
}

fn usable(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & (UP | REJECT) == UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_default_routes_count_and_only_what_they_lead_to() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            wlan0\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\t0102A8C0\t0002\t0\t0\t100\t00000000\t0\t0\t0\n";
        assert_eq!(defaults_four(table), ["wlan0 0101A8C0 600"]);
        assert!(defaults_four("nonsense\n\n1 2 3").is_empty());
        let zero = "0".repeat(32);
        let gateway = "fe800000000000000000000000000001";
        let six = format!(
            "{zero} 00 {zero} 00 {gateway} 00000400 00000004 00000000 00450003 wlan0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200 lo\n\
             {gateway} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 wlan0\n"
        );
        let expected = format!("wlan0 {gateway} 00000400");
        assert_eq!(defaults_six(&six), [expected]);
    }

    #[test]
    fn the_source_towards_loopback_is_loopback() {
        let server = "127.0.0.1:443".parse().ok();
        let outlook = Outlook::towards(server);
        assert_eq!(outlook.source, Some(Ipv4Addr::LOCALHOST.into()));
        assert!(outlook.leads_out());
        assert_eq!(outlook, Outlook::towards(server));
    }
}
