//! What stands in front of us: load balancers that introduce their visitors (the PROXY protocol), and HTTP
//! proxies that name them (`X-Forwarded-For`). Believed from the addresses that the operator names, and
//! from nobody else. Not what goes on to an origin: that says of the visitor what is found here.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use http::header::HeaderName;
use http::request::Parts;
use http::uri::{self, Uri};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tracing::debug;

use super::Inner;
use super::connection::{self, Facts};
use super::raw::canonical;
use super::slots::Slot;
use crate::engine::policy::Cidr;
use crate::http::Scheme;
use crate::http::limits::HANDSHAKE_TIMEOUT;
use crate::wire::proxy;

/// A header fits, and in most cases the hello behind it.
const FIRST_ROOM: usize = 2048;

/// What HTTP/2 begins with where no ALPN chose it (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whom the operator believes about visitors. By default nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Front {
    /// Connections from there begin with a PROXY header.
    pub proxy_protocol_from: Vec<Cidr>,
    /// What requests from there say of their visitor is so.
    pub trusted_proxies: Vec<Cidr>,
}

impl Front {
    pub(super) fn introduces(&self, ip: IpAddr) -> bool {
        self.proxy_protocol_from.iter().any(|net| net.contains(ip))
    }

    pub(super) fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(ip))
    }
}

/// Who a request is from, as far as can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visitor {
    /// The address; without a port (zero) when a proxy told it.
    pub(super) addr: SocketAddr,
    /// How the visitor came to the outermost door.
    pub(super) scheme: Scheme,
    /// Whether a trusted proxy brings the request: the name in TLS is then the proxy's, not the visitor's.
    pub(super) is_brought: bool,
}

impl Visitor {
    /// The visitor of a request. Of a trusted proxy's, the target is made to say what the listener is for,
    /// whatever the proxy calls the way between it and us.
    pub(super) fn of(front: &Front, facts: &Facts, parts: &mut Parts) -> Self {
        let mut visitor = Self {
            addr: facts.peer,
            scheme: facts.scheme,
            is_brought: front.trusts(facts.peer.ip()),
        };
        if visitor.is_brought {
            let lines = parts.headers.get_all(FORWARDED_FOR);
            let ip = outermost(
                front,
                lines.iter().map(http::HeaderValue::as_bytes),
                facts.peer.ip(),
            );
            if ip != facts.peer.ip() {
                visitor.addr = SocketAddr::new(ip, 0);
            }
            let mut said = parts.headers.get_all(FORWARDED_PROTO).iter();
            let only = said.next().filter(|_| said.next().is_none());
            if let Some(scheme) = only.and_then(|said| Scheme::parse(said.as_bytes().trim_ascii()))
            {
                visitor.scheme = scheme;
            }
            restate(&mut parts.uri, facts.scheme);
        }
        visitor
    }
}

/// The rightmost address that is not a trusted proxy's: each hop is told by the one behind it, so what is
/// left of a stranger is the stranger's own invention. Where the chain cannot be read, the last hop that
/// could is as far as anything is known.
fn outermost<'a>(
    front: &Front,
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    peer: IpAddr,
) -> IpAddr {
    let mut known = peer;
    for hop in lines.rev().flat_map(|line| line.rsplit(|b| *b == b',')) {
        let Some(ip) = address(hop) else { break };
        known = ip;
        if !front.trusts(ip) {
            break;
        }
    }
    known
}

/// An address as proxies write it: bare, or with its port, and IPv6 in brackets then.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => v6.parse().ok().filter(IpAddr::is_ipv6)?,
        None => (text.parse::<IpAddr>().ok())
            .or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip()))?,
    };
    Some(ip.to_canonical())
}

/// Gives a target that names a scheme the listener's.
fn restate(uri: &mut Uri, scheme: Scheme) {
    let is_http = uri
        .scheme_str()
        .is_some_and(|named| Scheme::parse(named.as_bytes()).is_some());
    if !is_http {
        return;
    }
    let mut parts = uri::Parts::from(uri.clone());
    parts.scheme = Some(match scheme {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    if let Ok(restated) = Uri::from_parts(parts) {
        *uri = restated;
    }
}

/// A new connection, past what a proxy says before its first byte.
pub(super) struct Opened {
    /// Who connects.
    pub(super) peer: SocketAddr,
    /// What was read of it already.
    pub(super) first: Bytes,
}

/// Hears who connects; none when the connection is over, which is said here.
pub(super) async fn open<S>(
    edge: &Inner<S>,
    tcp: &mut TcpStream,
    peer: SocketAddr,
    slot: &mut Slot,
) -> Option<Opened> {
    if !edge.settings.load().front.introduces(peer.ip()) {
        return Some(Opened {
            peer,
            first: Bytes::new(),
        });
    }
    let opened = in_time(edge, peer, introduced(tcp, peer)).await?;
    let front = &edge.settings.load().front;
    if !slot.introduce(front, opened.peer) {
        debug!(%peer, introduced = %opened.peer, "too many connections, closed");
        return None;
    }
    Some(opened)
}

/// Whether a connection without TLS begins as HTTP/2.
pub(super) async fn is_h2<S>(
    edge: &Inner<S>,
    tcp: &mut TcpStream,
    opened: Opened,
) -> Option<(Opened, bool)> {
    let peer = opened.peer;
    let looked = async {
        let mut first = BytesMut::from(opened.first);
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            if tcp.read_buf(&mut first).await? == 0 {
                break;
            }
        }
        let is_h2 = first.starts_with(PREFACE);
        let first = first.freeze();
        Ok((Opened { peer, first }, is_h2))
    };
    in_time(edge, peer, looked).await
}

/// Waits as long as for a handshake.
async fn in_time<S, T>(
    edge: &Inner<S>,
    peer: SocketAddr,
    what: impl Future<Output = io::Result<T>>,
) -> Option<T> {
    let stop = edge.connections.stopped();
    let done = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, what) => done,
        // Only now: what a proxy sent on may lie unread.
        () = connection::farewell(&edge.draining) => return None,
    };
    match done {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            debug!(%peer, %error, "connection refused before its first byte");
            None
        }
        Err(_) => {
            debug!(%peer, "nothing came from a proxy in time");
            None
        }
    }
}

async fn introduced(tcp: &mut TcpStream, peer: SocketAddr) -> io::Result<Opened> {
    let mut first = BytesMut::with_capacity(FIRST_ROOM);
    let header = loop {
        match proxy::read(&first) {
            Ok(Some(header)) => break header,
            Ok(None) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        if tcp.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let rest = first.split_off(header.size);
    Ok(Opened {
        peer: header.told.map_or(peer, |(from, _)| canonical(from)),
        first: rest.freeze(),
    })
}
