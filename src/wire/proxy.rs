//! The PROXY protocol, versions 1 and 2: one header before a connection's first byte that tells who really
//! connects. Pure, and no part of what links speak: the edge reads it from what stands in front of it, and
//! origins are told by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};

/// What version 2 begins with: no text of any protocol does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const WORD: &[u8; 6] = b"PROXY ";

/// The longest line of version 1, its end included.
const LINE_MAX: usize = 107;

/// The signature, the command, the family, the length.
const V2_HEADER: usize = 16;

/// The most that may follow in version 2. Addresses take 36 bytes; what else is told, certificates at most,
/// is skipped.
const V2_REST_MAX: usize = 4096;

/// Version 2, and who tells: the proxy of itself, or of a connection.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// A stream over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// Its bytes; what follows is the connection's own.
    pub size: usize,
    /// Who connects, and to where; none when the proxy speaks for itself or does not know.
    pub told: Option<(SocketAddr, SocketAddr)>,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// They begin like none.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// A line of version 1 that does not read as one.
    #[error("the PROXY line is malformed")]
    Line,
    /// A command or a length of version 2 that is none.
    #[error("the PROXY header is malformed")]
    Binary,
    /// What connects is no stream.
    #[error("the PROXY header is not of a TCP connection")]
    Family,
}

/// Reads the header at the front of a connection; none when more bytes are needed.
pub fn read(bytes: &[u8]) -> Result<Option<Introduction>, ProxyError> {
    if begins(bytes, SIGNATURE) {
        read_v2(bytes)
    } else if begins(bytes, WORD) {
        read_v1(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// Whether the bytes, as many as there are, begin with a word.
fn begins(bytes: &[u8], word: &[u8]) -> bool {
    let shared = bytes.len().min(word.len());
    bytes[..shared] == word[..shared]
}

fn read_v1(bytes: &[u8]) -> Result<Option<Introduction>, ProxyError> {
    let seen = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < LINE_MAX {
            Ok(None)
        } else {
            Err(ProxyError::Line)
        };
    };
    let line = std::str::from_utf8(&seen[WORD.len()..end]).map_err(|_| ProxyError::Line)?;
    Ok(Some(Introduction {
        size: end + 2,
        told: told_in_line(line)?,
    }))
}

/// `TCP4 FROM TO PORT PORT`, `TCP6 …`, or `UNKNOWN` and whatever follows it.
fn told_in_line(line: &str) -> Result<Option<(SocketAddr, SocketAddr)>, ProxyError> {
    let mut words = line.split(' ');
    let mut next = || words.next().ok_or(ProxyError::Line);
    let family = next()?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (from, to) = (next()?, next()?);
    let (from, to) = match family {
        "TCP4" => (ip::<Ipv4Addr>(from)?, ip::<Ipv4Addr>(to)?),
        "TCP6" => (ip::<Ipv6Addr>(from)?, ip::<Ipv6Addr>(to)?),
        _ => return Err(ProxyError::Family),
    };
    let (from_port, to_port) = (port(next()?)?, port(next()?)?);
    if words.next().is_some() {
        return Err(ProxyError::Line);
    }
    let told = (
        SocketAddr::new(from, from_port),
        SocketAddr::new(to, to_port),
    );
    Ok(Some((canonical(told.0), canonical(told.1))))
}

fn ip<T: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ProxyError> {
    text.parse::<T>()
        .map(Into::into)
        .map_err(|_| ProxyError::Line)
}

fn port(text: &str) -> Result<u16, ProxyError> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    let port = text.parse().ok().filter(|_| is_plain && is_short);
    port.ok_or(ProxyError::Line)
}

fn read_v2(bytes: &[u8]) -> Result<Option<Introduction>, ProxyError> {
    let Some((header, rest)) = bytes.split_at_checked(V2_HEADER) else {
        return Ok(None);
    };
    let (command, family) = (header[12], header[13]);
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if !matches!(command, V2_LOCAL | V2_PROXY) || length > V2_REST_MAX {
        return Err(ProxyError::Binary);
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(None);
    };
    let told = match (command, family) {
        (V2_LOCAL, _) => None,
        (_, TCP4) => Some(pair::<4>(rest)?),
        (_, TCP6) => Some(pair::<16>(rest)?),
        // Unspecified, and sockets of the proxy's own machine: who that is cannot be said.
        (_, 0x00 | 0x31) => None,
        _ => return Err(ProxyError::Family),
    };
    Ok(Some(Introduction {
        size: V2_HEADER + length,
        told,
    }))
}

/// Two addresses of `N` bytes, two ports.
fn pair<const N: usize>(bytes: &[u8]) -> Result<(SocketAddr, SocketAddr), ProxyError>
where
    IpAddr: From<[u8; N]>,
{
    let cut = |bytes: &[u8]| -> Option<(SocketAddr, SocketAddr)> {
        let (from, rest) = bytes.split_first_chunk::<N>()?;
        let (to, rest) = rest.split_first_chunk::<N>()?;
        let (from_port, rest) = rest.split_first_chunk::<2>()?;
        let (to_port, _) = rest.split_first_chunk::<2>()?;
        let at = |ip: [u8; N], port: [u8; 2]| {
            canonical(SocketAddr::new(ip.into(), u16::from_be_bytes(port)))
        };
        Some((at(*from, *from_port), at(*to, *to_port)))
    };
    cut(bytes).ok_or(ProxyError::Binary)
}

/// A line of version 1 for a visitor at `from`, who connected to `to`.
pub fn v1(from: SocketAddr, to: SocketAddr) -> Bytes {
    let (from, to) = one_family(from, to);
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let (source, destination) = (from.ip(), to.ip());
    let (port, to_port) = (from.port(), to.port());
    format!("PROXY {family} {source} {destination} {port} {to_port}\r\n").into()
}

/// A header of version 2 for the same.
pub fn v2(from: SocketAddr, to: SocketAddr) -> Bytes {
    let (from, to) = one_family(from, to);
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

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn told(size: usize, from: &str, to: &str) -> Result<Option<Introduction>, ProxyError> {
        Ok(Some(Introduction {
            size,
            told: Some((at(from), at(to))),
        }))
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
            assert_eq!(v1(at(from), at(to)), line);
        }
    }

    #[test]
    fn version_2_is_the_published_layout() {
        let v4 = v2(at("192.0.2.1:5000"), at("198.51.100.2:20000"));
        let expected = [
            &SIGNATURE[..],
            &[0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2],
            &5000_u16.to_be_bytes(),
            &20_000_u16.to_be_bytes(),
        ];
        assert_eq!(v4, expected.concat());
        let v6 = v2(at("[2001:db8::1]:5000"), at("192.0.2.2:443"));
        assert_eq!((v6.len(), v6[13], &v6[14..16]), (52, 0x21, &[0, 36][..]));
        assert_eq!(&v6[44..46], &[192, 0][..]);
    }

    #[test]
    fn lines_are_read_strictly() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(read(line), told(44, "192.0.2.1:5000", "198.51.100.2:443"));
        let longest = format!(
            "PROXY UNKNOWN {} {} 65535 65535\r\n",
            "ffff:".repeat(7) + "ffff",
            "ffff:".repeat(7) + "ffff"
        );
        assert_eq!(longest.len(), LINE_MAX);
        assert_eq!(read(longest.as_bytes()).unwrap().unwrap().told, None);
        assert_eq!(
            read(b"PROXY UNKNOWN\r\n").unwrap().unwrap(),
            Introduction {
                size: 15,
                told: None
            }
        );
        for (line, error) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 5000\r\n",
                ProxyError::Line,
            ),
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 5000 443 1\r\n",
                ProxyError::Line,
            ),
            (
                "PROXY TCP4 192.0.2.1  198.51.100.2 5000 443\r\n",
                ProxyError::Line,
            ),
            (
                "PROXY TCP4 192.0.2.01 198.51.100.2 5000 443\r\n",
                ProxyError::Line,
            ),
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 +5 443\r\n",
                ProxyError::Line,
            ),
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 05 443\r\n",
                ProxyError::Line,
            ),
            (
                "PROXY TCP4 192.0.2.1 198.51.100.2 5 65536\r\n",
                ProxyError::Line,
            ),
            ("PROXY TCP4 ::1 ::1 5 6\r\n", ProxyError::Line),
            ("PROXY TCP6 192.0.2.1 ::1 5 6\r\n", ProxyError::Line),
            ("PROXY UDP4 192.0.2.1 192.0.2.2 5 6\r\n", ProxyError::Family),
            ("PROXY tcp4 192.0.2.1 192.0.2.2 5 6\r\n", ProxyError::Family),
            ("PROXY \r\n", ProxyError::Line),
            ("PROXY\tTCP4", ProxyError::Missing),
            ("GET / HTTP/1.1\r\n", ProxyError::Missing),
            ("\x16\x03\x01", ProxyError::Missing),
        ] {
            assert_eq!(read(line.as_bytes()), Err(error), "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(read(&endless.as_bytes()[..LINE_MAX - 1]), Ok(None));
        assert_eq!(read(endless.as_bytes()), Err(ProxyError::Line));
    }

    #[test]
    fn what_version_2_tells_besides_is_skipped() {
        let mut header = v2(at("192.0.2.1:5000"), at("198.51.100.2:443")).to_vec();
        header[15] += 7;
        header.extend_from_slice(b"\x04\x00\x04abcdTLS");
        assert_eq!(
            read(&header),
            told(35, "192.0.2.1:5000", "198.51.100.2:443")
        );
        let change = |at: usize, byte: u8| {
            let mut header = header.clone();
            header[at] = byte;
            read(&header)
        };
        let own = Ok(Some(Introduction {
            size: 35,
            told: None,
        }));
        assert_eq!(change(12, V2_LOCAL), own);
        assert_eq!(change(13, 0), own);
        assert_eq!(change(12, 0x22), Err(ProxyError::Binary));
        assert_eq!(change(12, 0x11), Err(ProxyError::Binary));
        assert_eq!(change(13, 0x12), Err(ProxyError::Family));
        assert_eq!(change(13, TCP6), Err(ProxyError::Binary));
        assert_eq!(change(14, 0xff), Err(ProxyError::Binary));
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            from in address(), to in address(), more in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            for header in [v1(from, to), v2(from, to)] {
                let whole = [&header[..], &more].concat();
                let expected = Introduction {
                    size: header.len(),
                    told: Some((canonical(from), canonical(to))),
                };
                prop_assert_eq!(read(&whole), Ok(Some(expected)));
                for end in 0..header.len() {
                    prop_assert_eq!(read(&header[..end]), Ok(None), "{} bytes", end);
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for start in [&b""[..], WORD, SIGNATURE, b"PROXY TCP4 ", b"PROXY TCP6 "] {
                let bytes = [start, &bytes].concat();
                if let Ok(Some(found)) = read(&bytes) {
                    prop_assert!(found.size <= bytes.len());
                }
            }
        }
    }
}
