//! The PROXY protocol, versions 1 and 2: one header before a connection's first byte that tells the origin
//! who really visits. Pure.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::engine::book::ProxyVersion;

/// What version 2 begins with: no text of any protocol does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const V2_PROXY: u8 = 0x21;

/// A stream over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header for a visitor at `from`, who connected to `to`.
pub(super) fn header(version: ProxyVersion, from: SocketAddr, to: SocketAddr) -> Bytes {
    let (from, to) = one_family(from, to);
    match version {
        ProxyVersion::V1 => v1(from, to),
        ProxyVersion::V2 => v2(from, to),
    }
}

/// Both addresses in one family, as the header needs them: IPv4 dressed as IPv6 where they differ.
fn one_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (canonical(from), canonical(to));
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let mapped = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    };
    (mapped(from), mapped(to))
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn v1(from: SocketAddr, to: SocketAddr) -> Bytes {
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source, destination) = (from.ip(), to.ip());
    let (port, to_port) = (from.port(), to.port());
    format!("PROXY {family} {source} {destination} {port} {to_port}\r\n").into()
}

fn v2(from: SocketAddr, to: SocketAddr) -> Bytes {
    let mut out = BytesMut::with_capacity(52);
    out.extend_from_slice(SIGNATURE);
    out.put_u8(V2_PROXY);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.put_u8(TCP4);
            out.put_u16(12);
            out.extend_from_slice(&source.octets());
            out.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            out.put_u8(TCP6);
            out.put_u16(36);
            out.extend_from_slice(&v6(source));
            out.extend_from_slice(&v6(destination));
        }
    }
    out.put_u16(from.port());
    out.put_u16(to.port());
    out.freeze()
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: ProxyVersion, from: &str, to: &str) -> Bytes {
        header(version, from.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn version_1_is_one_line() {
        for (from, to, line) in [
            (
                "192.0.2.1:5000",
                "198.51.100.2:20000",
                "PROXY TCP4 192.0.2.1 198.51.100.2 5000 20000\r\n",
            ),
            (
                "[2001:db8::1]:5000",
                "[2001:db8::2]:443",
                "PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n",
            ),
            (
                "[::ffff:192.0.2.1]:5000",
                "198.51.100.2:443",
                "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n",
            ),
            (
                "192.0.2.1:5000",
                "[2001:db8::2]:443",
                "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 5000 443\r\n",
            ),
        ] {
            assert_eq!(of(ProxyVersion::V1, from, to), line);
        }
    }

    #[test]
    fn version_2_is_the_published_layout() {
        let v4 = of(ProxyVersion::V2, "192.0.2.1:5000", "198.51.100.2:20000");
        let expected = [
            &SIGNATURE[..],
            &[0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2],
            &5000_u16.to_be_bytes(),
            &20_000_u16.to_be_bytes(),
        ];
        assert_eq!(v4, expected.concat());
        let v6 = of(ProxyVersion::V2, "[2001:db8::1]:5000", "192.0.2.2:443");
        assert_eq!((v6.len(), v6[13], &v6[14..16]), (52, 0x21, &[0, 36][..]));
        assert_eq!(&v6[44..46], &[192, 0][..]);
    }
}
