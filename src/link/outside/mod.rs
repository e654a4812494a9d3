//! The server's HTTPS port as strangers see it: a name is looked up, a connection made, a certificate
//! judged, one request asked. Tells apart where it fails. Not a link, and not a path of one; never
//! through a proxy, because visitors do not come through ours.

mod certificate;
mod opinion;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

pub use certificate::{Certificate, Trust, not_after};
pub use opinion::Opinion;

use super::race::{Attempt, by_turns, race};

/// One look-up of a name.
const LOOKUP: Duration = Duration::from_secs(4);
/// One connection.
const CONNECT: Duration = Duration::from_secs(4);
/// One handshake, and one answer.
const STEP: Duration = Duration::from_secs(6);
/// Answers worth reading are small.
const BODY_MAX: usize = 16 * 1024;
const HEAD_MAX: usize = 16 * 1024;

/// Where a look from outside ended.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// The name has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// Nobody answers questions about names.
    #[error("no resolver answers for {host}")]
    NoResolver {
        /// The name.
        host: String,
    },
    /// The machine said no.
    #[error("{at} refuses connections")]
    Refused {
        /// The last address tried.
        at: SocketAddr,
    },
    /// Nothing came back.
    #[error("{at} does not answer")]
    Silent {
        /// The last address tried.
        at: SocketAddr,
    },
    /// There is no way there from here.
    #[error("{at} cannot be reached from here")]
    NoWay {
        /// The last address tried.
        at: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// No TLS came about, whatever the certificate.
    #[error("TLS with {at} failed")]
    Tls {
        /// Whom we spoke to.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came back is no HTTP.
    #[error("{at} does not answer in HTTP")]
    Http {
        /// Whom we spoke to.
        at: SocketAddr,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The answer is too long, broke off, or did not come in time.
    #[error("the answer of {at} did not arrive")]
    NoAnswer {
        /// Whom we spoke to.
        at: SocketAddr,
    },
}

/// An answer, and what the other side showed first.
#[derive(Debug)]
pub struct Answer {
    /// Whom we spoke to.
    pub at: SocketAddr,
    /// What it showed.
    pub certificate: Certificate,
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// The addresses of a name. Those below `localhost` are this machine, whatever a resolver says (RFC 6761).
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, OutsideError> {
    let at = |ip: IpAddr| SocketAddr::new(ip, port);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![at(ip)]);
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![
            at(Ipv4Addr::LOCALHOST.into()),
            at(Ipv6Addr::LOCALHOST.into()),
        ]);
    }
    let owned = || host.to_owned();
    let found = timeout(LOOKUP, lookup_host((host, port)))
        .await
        .map_err(|_| OutsideError::NoResolver { host: owned() })?
        .map_err(|error| lookup_failure(&error, owned()))?;
    let found = by_turns(&found.collect::<Vec<_>>());
    if found.is_empty() {
        return Err(OutsideError::NoAddress { host: owned() });
    }
    Ok(found)
}

/// The C library only says in words whether there is no such name or nobody to ask.
fn lookup_failure(error: &io::Error, host: String) -> OutsideError {
    let text = error.to_string().to_ascii_lowercase();
    if ["temporary failure", "try again", "system error"]
        .iter()
        .any(|word| text.contains(word))
    {
        OutsideError::NoResolver { host }
    } else {
        OutsideError::NoAddress { host }
    }
}

/// A connection to the first of the addresses that takes one.
pub async fn connect(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), OutsideError> {
    let first = addresses.first().copied();
    let at = first.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
    let attempts: Vec<Attempt<(TcpStream, SocketAddr), OutsideError>> = addresses
        .iter()
        .map(|at| -> Attempt<_, _> { Box::pin(connect_one(*at)) })
        .collect();
    let nowhere = OutsideError::NoWay {
        at,
        source: io::ErrorKind::AddrNotAvailable.into(),
    };
    race(attempts, nowhere, telling).await
}

async fn connect_one(at: SocketAddr) -> Result<(TcpStream, SocketAddr), OutsideError> {
    match timeout(CONNECT, TcpStream::connect(at)).await {
        Ok(Ok(stream)) => Ok((stream, at)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(OutsideError::Refused { at })
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Err(OutsideError::Silent { at })
        }
        Ok(Err(source)) => Err(OutsideError::NoWay { at, source }),
        Err(_) => Err(OutsideError::Silent { at }),
    }
}

/// A refusal says more than silence, and silence more than having no way.
fn telling(error: &OutsideError) -> u8 {
    match error {
        OutsideError::Refused { .. } => 2,
        OutsideError::Silent { .. } => 1,
        _ => 0,
    }
}

/// TLS as a visitor of `host`, with whatever certificate; what is to be thought of it comes back.
pub async fn greet<I>(
    io: I,
    at: SocketAddr,
    host: &str,
) -> Result<(TlsStream<I>, Certificate), OutsideError>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let greeted = timeout(STEP, certificate::handshake(io, host)).await;
    greeted
        .map_err(|_| OutsideError::NoAnswer { at })?
        .map_err(|source| OutsideError::Tls { at, source })
}

/// One GET, from the look-up of the name to the last byte of the answer.
pub async fn visit(
    host: &str,
    addresses: &[SocketAddr],
    path: &str,
) -> Result<Answer, OutsideError> {
    let (tcp, at) = connect(addresses).await?;
    let (io, certificate) = greet(tcp, at, host).await?;
    let authority = match at.port() {
        443 => host.to_owned(),
        port => format!("{host}:{port}"),
    };
    let (status, fields, body) = timeout(STEP, get(io, at, &authority, path))
        .await
        .map_err(|_| OutsideError::NoAnswer { at })??;
    Ok(Answer {
        at,
        certificate,
        status,
        fields,
        body,
    })
}

async fn get<I>(
    io: I,
    at: SocketAddr,
    authority: &str,
    path: &str,
) -> Result<(StatusCode, HeaderMap, Bytes), OutsideError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| OutsideError::Http { at, source };
    let request = Request::get(path)
        .header(HOST, authority)
        .header(USER_AGENT, "wormkey")
        .header(ACCEPT, "*/*")
        .body(Empty::<Bytes>::new())
        .map_err(|_| OutsideError::NoAnswer { at })?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(io))
        .await
        .map_err(broken)?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await;
        let body = body.map_err(|_| OutsideError::NoAnswer { at })?.to_bytes();
        Ok((parts.status, parts.headers, body))
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        biased;
        outcome = &mut asking => outcome,
        // It ends with the answer or with a failure; the one who asks hears of both.
        _ = connection => asking.await,
    }
}
