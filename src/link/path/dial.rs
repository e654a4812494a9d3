//! A client's way to the server's WebSocket: TCP, the proxy's `CONNECT` if there is one, TLS, and the
//! upgrade. Each step says why it failed.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, SEC_WEBSOCKET_KEY};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::proxy::Proxy;
use super::{Fallback, PathInfo, PathKind, outer, pump, upgrade};
use crate::link::race::{Attempt, by_turns, race};

/// All steps together.
const DIAL: Duration = Duration::from_secs(8);

/// Bytes that the kernel holds unsent: more would only be delay, which QUIC cannot see through.
const UNSENT: u32 = 128 * 1024;

/// An answer to our requests has a small head.
const HEAD: usize = 16 * 1024;

/// A WebSocket to the server, ready to carry packets.
pub(in crate::link) type Dialled = (WebSocketStream<TokioIo<Upgraded>>, PathInfo);

/// Why a link's path cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// UDP was heard again while the WebSocket was opened.
    #[error("udp works again")]
    NotNeeded,
    /// The address is no `host:port`.
    #[error("{address} is not host:port")]
    Address {
        /// As given.
        address: String,
    },
    /// No TCP connection to the server, or to the proxy.
    #[error("cannot connect to {address}")]
    Connect {
        /// Whom we tried.
        address: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The proxy does not let us through.
    #[error("the proxy {proxy} answered {status}")]
    Proxy {
        /// Which.
        proxy: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The outer TLS failed.
    #[error("outer TLS failed")]
    Tls(#[source] io::Error),
    /// HTTP broke, at the server or at the proxy.
    #[error("the upgrade failed")]
    Http(#[source] hyper::Error),
    /// Whoever answered does not speak our subprotocol.
    #[error("the server answered {status} instead of opening a WebSocket path")]
    NotOffered {
        /// Its answer.
        status: StatusCode,
    },
    /// One of the steps took too long.
    #[error("no WebSocket path in time")]
    Late,
    /// UDP still brings nothing back.
    #[error("UDP is silent")]
    UdpSilent,
    /// The server's end of a link does not choose the path.
    #[error("the path is for the client to choose")]
    NotClient,
    /// The link is over.
    #[error("the link is over")]
    LinkGone,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Dials; eight seconds in all.
pub(in crate::link) async fn dial_path(fallback: &Fallback) -> Result<Dialled, PathError> {
    timeout(DIAL, steps(fallback))
        .await
        .unwrap_or(Err(PathError::Late))
}

async fn steps(fallback: &Fallback) -> Result<Dialled, PathError> {
    let address = fallback.address.as_str();
    let (host, port) = split(address).ok_or_else(|| PathError::Address {
        address: address.to_owned(),
    })?;
    let proxy = fallback.proxies.on_the_way_to(host, port);
    let io: Box<dyn Io> = match proxy {
        Some(proxy) => Box::new(through(proxy, address).await?),
        None => Box::new(tcp(host, port).await?),
    };
    let connecting = outer::connect(io, host, &fallback.roots).await;
    let (io, verdict) = connecting.map_err(PathError::Tls)?;
    let io = open(io, address).await?;
    let info = PathInfo {
        kind: PathKind::WebSocket,
        outer_verified: verdict.verified,
        outer_issuer: verdict.issuer,
        proxied: proxy.is_some(),
    };
    Ok((pump::websocket(io, Role::Client).await, info))
}

/// The host without brackets, and the port.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = match inner {
        Some(host) => host,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, PathError> {
    let failed = |source| PathError::Connect {
        address: format!("{host}:{port}"),
        source,
    };
    let found: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(failed)?.collect();
    let attempts: Vec<Attempt<TcpStream, io::Error>> = by_turns(&found)
        .into_iter()
        .map(|addr| -> Attempt<_, _> { Box::pin(TcpStream::connect(addr)) })
        .collect();
    let stream = race(attempts, io::ErrorKind::NotFound.into(), |_| 0).await;
    let stream = stream.map_err(failed)?;
    // Both only make it quicker.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
    Ok(stream)
}

/// A connection to `address` through a proxy.
async fn through(proxy: &Proxy, address: &str) -> Result<TokioIo<Upgraded>, PathError> {
    let io = tcp(&proxy.host, proxy.port).await?;
    let mut request = Request::connect(address)
        .header(HOST, address)
        .body(Empty::new())
        .map_err(|_| PathError::Address {
            address: address.to_owned(),
        })?;
    if let Some(authorization) = &proxy.authorization {
        let value = authorization.expose().clone();
        request.headers_mut().insert(PROXY_AUTHORIZATION, value);
    }
    exchange(io, request, |status, _| status.is_success())
        .await?
        .map_err(|status| PathError::Proxy {
            proxy: format!("{}:{}", proxy.host, proxy.port),
            status,
        })
}

/// The WebSocket handshake.
async fn open<I>(io: I, address: &str) -> Result<TokioIo<Upgraded>, PathError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let authority = address.strip_suffix(":443").unwrap_or(address);
    let request = upgrade::request(authority).ok_or_else(|| PathError::Address {
        address: address.to_owned(),
    })?;
    let key: HeaderValue = request.headers()[SEC_WEBSOCKET_KEY].clone();
    exchange(io, request, move |status, headers| {
        upgrade::accepts(status, headers, &key)
    })
    .await?
    .map_err(|status| PathError::NotOffered { status })
}

/// Sends a request that turns the connection into something else; the inner error is an answer that
/// does not.
async fn exchange<I>(
    io: I,
    request: Request<Empty<Bytes>>,
    agreed: impl Fn(StatusCode, &HeaderMap) -> bool,
) -> Result<Result<TokioIo<Upgraded>, StatusCode>, PathError>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(TokioIo::new(io))
        .await
        .map_err(PathError::Http)?;
    let asking = async {
        let response = sender.send_request(request).await?;
        if !agreed(response.status(), response.headers()) {
            return Ok(Err(response.status()));
        }
        hyper::upgrade::on(response).await.map(TokioIo::new).map(Ok)
    };
    let mut asking = pin!(asking);
    let outcome = tokio::select! {
        biased;
        outcome = &mut asking => outcome,
        // It ends once it has handed the connection over, or failed; the one who asks hears of both.
        _ = connection.with_upgrades() => asking.await,
    };
    outcome.map_err(PathError::Http)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_apart() {
        assert_eq!(split("example.com:443"), Some(("example.com", 443)));
        assert_eq!(split("192.0.2.1:8443"), Some(("192.0.2.1", 8443)));
        assert_eq!(split("[2001:db8::1]:443"), Some(("2001:db8::1", 443)));
        for bad in [
            "",
            "example.com",
            ":443",
            "a:b",
            "a:0",
            "::1:443",
            "[]:1",
            "a:99999",
        ] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
