//! Authorities: what stands in `Host`, in `:authority` and in an absolute target.

use std::fmt;
use std::net::Ipv6Addr;

use super::HeadError;
use crate::names::{Hostname, HostnameError};

/// The scheme of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that need not be written.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// From its text, in any case.
    pub fn parse(text: &[u8]) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|s| text.eq_ignore_ascii_case(s.as_str().as_bytes()))
    }
}

/// A host, canonical: two that are equal name the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name, or an IPv4 address, which has the same grammar.
    Name(Hostname),
    /// An IPv6 literal.
    V6(Ipv6Addr),
    /// Allowed by the grammar of URIs, but no name that DNS hosts have; lower case.
    Other(Box<str>),
}

/// A host and, when it is not the scheme's own, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, unless it is the scheme's own.
    pub port: Option<u16>,
}

impl Authority {
    /// Canonicalises an authority without userinfo.
    pub fn parse(text: &[u8], scheme: Scheme) -> Result<Self, HeadError> {
        let text = std::str::from_utf8(text).map_err(|_| HeadError::HostMalformed)?;
        let (host, port) = split_port(text)?;
        let port = match port {
            // "host:" without digits is the default port (RFC 3986, section 6.2.3).
            None | Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(
                digits
                    .parse::<u16>()
                    .map_err(|_| HeadError::HostMalformed)?,
            ),
            Some(_) => return Err(HeadError::HostMalformed),
        };
        Ok(Self {
            host: parse_host(host)?,
            port: port.filter(|p| *p != scheme.port()),
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name.as_str())?,
            Host::V6(addr) => write!(f, "[{addr}]")?,
            Host::Other(text) => f.write_str(text)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), HeadError> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or(HeadError::HostMalformed)?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(HeadError::HostMalformed),
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn parse_host(text: &str) -> Result<Host, HeadError> {
    if let Some(inside) = text.strip_prefix('[') {
        return inside
            .strip_suffix(']')
            .and_then(|v6| v6.parse().ok())
            .map(Host::V6)
            .ok_or(HeadError::HostMalformed);
    }
    match Hostname::parse(text) {
        Ok(name) => Ok(Host::Name(name)),
        Err(HostnameError::Character { .. } | HostnameError::Hyphen)
            if text.bytes().all(is_reg_name) =>
        {
            Ok(Host::Other(text.to_ascii_lowercase().into()))
        }
        Err(_) => Err(HeadError::HostMalformed),
    }
}

/// RFC 3986's reg-name, without percent-encoding: nothing honest encodes a host that way.
const fn is_reg_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, HeadError> {
        Authority::parse(text.as_bytes(), Scheme::Https).map(|a| a.to_string())
    }

    #[test]
    fn authorities_become_canonical() {
        for (text, canonical) in [
            ("App.Example.COM", "app.example.com"),
            ("app.example.com.", "app.example.com"),
            ("app.example.com:443", "app.example.com"),
            ("app.example.com.:443", "app.example.com"),
            ("app.example.com:", "app.example.com"),
            ("app.example.com:8443", "app.example.com:8443"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:8443", "[::1]:8443"),
            ("[0:0::1]", "[::1]"),
            ("My_App.example.com", "my_app.example.com"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(canonical), "{text}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for bad in [
            "", ":443", "evil@app", "a b", "a:1:2", "a:-1", "a:+1", "a:99999", "a:0x1", "a/b",
            "a,b", "[::1", "[::1]x", "[app]", "a..b", "ü.de", "a%2eb", "a?b", "a#b", "a\\b", ".",
        ] {
            assert_eq!(shown(bad), Err(HeadError::HostMalformed), "{bad}");
        }
    }
}
