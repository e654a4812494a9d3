//! Judges what a request head means, the same for every version, and gives the one canonical head
//! that decides route, policy and what the origin gets. Not framing: see [`super::raw`] and hyper.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use super::target::{PathScanner, check_method, is_token};
use super::{Authority, HeadError, Host, Scheme, fields, limits};
use crate::names::Hostname;

/// The protocol of RFC 6455 and RFC 8441.
const WEBSOCKET: &str = "websocket";

/// A request, canonical: what is here is true, what is not here does not go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// The method; `GET` for an extended CONNECT.
    pub method: Method,
    /// Path and query, byte for byte; `*` for `OPTIONS *`.
    pub path: String,
    /// Whom it is for.
    pub host: Hostname,
    /// The same with its port, when that is not the scheme's own.
    pub authority: String,
    /// Fields without hop-by-hop ones, `host`, `expect: 100-continue`, forwarded ones and ours.
    /// `te: trailers` stays, for it is true of us too and gRPC servers ask for it.
    pub fields: HeaderMap,
    /// The upgrade asked for: `websocket` or another token. Never `h2c`.
    pub protocol: Option<String>,
    /// Whether the visitor waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// 10, 11, 20 or 30.
    pub version: u8,
}

/// Judges a head as hyper or h2 parsed it. `extended` is RFC 8441's `:protocol`.
pub fn check(mut parts: Parts, extended: Option<&str>, scheme: Scheme) -> Result<Head, HeadError> {
    let version = version_number(parts.version)?;
    let is_multiplexed = version >= 20;
    if is_multiplexed {
        check_multiplexed(&parts)?;
    }
    let is_extended = is_extended_connect(&parts, extended, is_multiplexed)?;
    if !is_extended {
        check_method(parts.method.as_str().as_bytes())?;
    }
    if parts.headers.len() + usize::from(is_multiplexed) > limits::FIELDS_MAX {
        return Err(HeadError::TooManyFields);
    }
    let authority = authority(&parts, scheme)?;
    let Host::Name(host) = authority.host.clone() else {
        return Err(HeadError::HostForeign);
    };
    let path = path_of(&parts)?;
    let length = fields::content_length(&parts.headers)?;
    let protocol = if is_extended {
        Some(WEBSOCKET.to_owned())
    } else {
        let has_body =
            length.is_some_and(|n| n > 0) || parts.headers.contains_key(header::TRANSFER_ENCODING);
        // An Upgrade may always be left unheard; an origin is asked for one with a GET only.
        (parts.method == Method::GET)
            .then(|| asked_upgrade(&parts.headers, version, has_body))
            .flatten()
    };
    let expects_continue = version >= 11 && takes_continue(&mut parts.headers);
    clean(&mut parts.headers)?;
    Ok(Head {
        method: if is_extended {
            Method::GET
        } else {
            parts.method
        },
        path,
        host,
        authority: authority.to_string(),
        fields: parts.headers,
        protocol,
        expects_continue,
        version,
    })
}

fn version_number(version: Version) -> Result<u8, HeadError> {
    match version {
        Version::HTTP_10 => Ok(10),
        Version::HTTP_11 => Ok(11),
        Version::HTTP_2 => Ok(20),
        Version::HTTP_3 => Ok(30),
        _ => Err(HeadError::Version),
    }
}

/// What HTTP/1 heads were already asked by [`super::raw`], from their bytes.
fn check_multiplexed(parts: &Parts) -> Result<(), HeadError> {
    if parts.headers.keys().any(fields::is_connection_specific) {
        return Err(HeadError::HopByHop);
    }
    if parts
        .headers
        .get_all(header::TE)
        .iter()
        .any(|v| !v.as_bytes().eq_ignore_ascii_case(b"trailers"))
    {
        return Err(HeadError::HopByHop);
    }
    let target = parts.uri.path_and_query().map_or(0, |p| p.as_str().len());
    if target > limits::TARGET_MAX {
        return Err(HeadError::TargetTooLong);
    }
    if size_as_http1(parts, target) > limits::HEAD_MAX {
        return Err(HeadError::HeadTooLarge);
    }
    Ok(())
}

/// The bytes the same head would have in HTTP/1.1, so that one limit means one thing.
fn size_as_http1(parts: &Parts, target: usize) -> usize {
    let line = parts.method.as_str().len() + target + "  HTTP/1.1\r\n\r\n".len();
    let host = parts
        .uri
        .authority()
        .map_or(0, |a| "host: \r\n".len() + a.as_str().len());
    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum();
    line + host + fields
}

fn is_extended_connect(
    parts: &Parts,
    extended: Option<&str>,
    is_multiplexed: bool,
) -> Result<bool, HeadError> {
    match extended {
        None => Ok(false),
        Some(_) if !is_multiplexed || parts.method != Method::CONNECT => Err(HeadError::Protocol),
        Some(protocol) if protocol.eq_ignore_ascii_case(WEBSOCKET) => Ok(true),
        Some(_) => Err(HeadError::Protocol),
    }
}

/// The authority that target (or `:authority`) and Host agree on.
/// Whom a head is for, canonical: the one that its target and its `Host` agree on.
pub fn authority(parts: &Parts, scheme: Scheme) -> Result<Authority, HeadError> {
    if let Some(named) = parts.uri.scheme_str() {
        match Scheme::parse(named.as_bytes()) {
            Some(named) if named == scheme => {}
            Some(_) => return Err(HeadError::SchemeMismatch),
            None => return Err(HeadError::Scheme),
        }
    }
    let named = parts
        .uri
        .authority()
        .map(|a| Authority::parse(a.as_str().as_bytes(), scheme))
        .transpose()?;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts
        .next()
        .map(|h| Authority::parse(h.as_bytes().trim_ascii(), scheme))
        .transpose()?;
    if hosts.next().is_some() {
        return Err(HeadError::HostTwice);
    }
    match (named, host) {
        (Some(named), Some(host)) if named != host => Err(HeadError::HostsDiffer),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Err(HeadError::HostMissing),
    }
}

fn path_of(parts: &Parts) -> Result<String, HeadError> {
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let path = match path.as_bytes().first() {
        Some(b'/') => path.to_owned(),
        Some(b'*') if path == "*" && parts.method == Method::OPTIONS => return Ok(path.to_owned()),
        // An absolute target may leave out the slash: `https://app.example.com?q`.
        Some(b'?') => format!("/{path}"),
        _ => return Err(HeadError::Target),
    };
    let mut scanner = PathScanner::new();
    path.bytes().try_for_each(|b| scanner.feed(b))?;
    scanner.end()?;
    Ok(path)
}

/// The one protocol of an `Upgrade` that counts: HTTP/1.1, named by `Connection`, no body in the way,
/// not `h2c`. A WebSocket is preferred, since that is what browsers mean.
fn asked_upgrade(headers: &HeaderMap, version: u8, has_body: bool) -> Option<String> {
    let nominated =
        fields::tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case(b"upgrade"));
    if version != 11 || !nominated || has_body {
        return None;
    }
    let wanted = || {
        fields::tokens(headers, &header::UPGRADE)
            .filter(|t| t.iter().all(|b| is_token(*b) || *b == b'/'))
            .filter(|t| !t.eq_ignore_ascii_case(b"h2c"))
    };
    if wanted().any(|t| t.eq_ignore_ascii_case(WEBSOCKET.as_bytes())) {
        return Some(WEBSOCKET.to_owned());
    }
    let first = wanted().next()?;
    std::str::from_utf8(first).ok().map(str::to_owned)
}

/// Takes `Expect: 100-continue` out: the client's side writes its own when it needs one.
fn takes_continue(headers: &mut HeaderMap) -> bool {
    let expects = headers.get(header::EXPECT).is_some_and(|v| {
        v.as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"100-continue")
    });
    if expects {
        headers.remove(header::EXPECT);
    }
    expects
}

fn clean(headers: &mut HeaderMap) -> Result<(), HeadError> {
    let takes_trailers =
        fields::tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case(b"trailers"));
    fields::remove_hop_by_hop(headers)?;
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(header::HOST);
    fields::remove_if(headers, fields::is_ours);
    fields::tidy_cookies(headers);
    Ok(())
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
