//! How ACME's requests travel: one HTTPS connection each, with an end and a bound, and a note of how long
//! the CA wants to be left alone. Not what they say: that is instant-acme's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::times::Clock;

/// For one request, from the name's resolution to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Of that, for a connection, whatever the number of the CA's addresses.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Chains and directories are a few KiB.
const BODY_MAX: usize = 1 << 20;

/// Why a CA could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("cannot read the certificates in {} (acme.root)", path.display())]
    Root { path: PathBuf },
    #[error("cannot set up tls to the CA")]
    Tls(#[source] rustls::Error),
    #[error("cannot reach {host}")]
    Reach {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("no secure connection to {host}")]
    Handshake {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the request to {host} failed")]
    Exchange {
        host: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer of {host} did not come whole")]
    Body {
        host: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{host} did not answer within {} s", DEADLINE.as_secs())]
    Late { host: String },
    #[error("{uri} is no https address")]
    NotHttps { uri: Uri },
}

/// Whom to trust as a CA: the system's roots, or those of a file alone. Reads files: not for the runtime's
/// own threads.
pub(super) fn client_config(root: Option<&Path>) -> Result<Arc<ClientConfig>, HttpError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match root {
        None => Arc::new(Verifier::new(Arc::clone(&provider)).map_err(HttpError::Tls)?),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let builder = rustls::client::WebPkiServerVerifier::builder_with_provider(
                roots,
                Arc::clone(&provider),
            );
            builder.build().map_err(|_| HttpError::Root {
                path: path.to_owned(),
            })?
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(HttpError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, HttpError> {
    let bad = || HttpError::Root {
        path: path.to_owned(),
    };
    let pem = std::fs::read(path).map_err(|_| bad())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| bad())?;
        roots.add(certificate).map_err(|_| bad())?;
    }
    Ok(roots)
}

/// How long the CA wants to be left alone, when an error of it said so.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish(Arc<Mutex<Option<Duration>>>);

impl Wish {
    pub(super) fn get(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, response: &http::response::Parts) {
        if response.status.is_client_error() || response.status.is_server_error() {
            let wish = retry_after(response.headers.get(header::RETRY_AFTER));
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wish;
        }
    }
}

/// Seconds, or a date.
fn retry_after(value: Option<&HeaderValue>) -> Option<Duration> {
    let text = value?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date: SystemTime = text.parse::<httpdate::HttpDate>().ok()?.into();
    let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    let now = u64::try_from(Clock.now().wall.as_millis()).ok()?;
    Some(date.saturating_sub(Duration::from_millis(now)))
}

/// Carries instant-acme's requests.
pub(super) struct Carrier {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) wish: Wish,
}

type Carried = Result<BytesResponse, instant_acme::Error>;

impl HttpClient for Carrier {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Carried> + Send>> {
        let (tls, wish) = (Arc::clone(&self.tls), self.wish.clone());
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let carried = timeout(DEADLINE, carry(tls, request, &host)).await;
            let response = carried.unwrap_or(Err(HttpError::Late { host }));
            let response = response.map_err(|e| instant_acme::Error::Other(Box::new(e)))?;
            let (parts, body) = response.into_parts();
            wish.note(&parts);
            Ok(Response::from_parts(parts, Full::new(body)).into())
        })
    }
}

async fn carry(
    tls: Arc<ClientConfig>,
    mut request: Request<BodyWrapper<Bytes>>,
    host: &str,
) -> Result<Response<Bytes>, HttpError> {
    let uri = request.uri().clone();
    let not_https = || HttpError::NotHttps { uri: uri.clone() };
    let authority = uri
        .authority()
        .filter(|_| uri.scheme_str() == Some("https"));
    let authority = authority.ok_or_else(not_https)?;
    let name = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let at = || host.to_owned();
    let socket = reach(&name, authority.port_u16().unwrap_or(443))
        .await
        .map_err(|source| HttpError::Reach { host: at(), source })?;
    let name = ServerName::try_from(name).map_err(|_| not_https())?;
    let stream = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|source| HttpError::Handshake { host: at(), source })?;

    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| not_https())?;
    request.headers_mut().insert(header::HOST, value);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| not_https())?;

    let exchange = |source| HttpError::Exchange { host: at(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(exchange)?;
    let work = async move {
        let response = sender.send_request(request).await.map_err(exchange)?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await;
        let body = body.map_err(|source| HttpError::Body { host: at(), source })?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    // The connection ends once `work` has let go of its sender.
    let (response, _) = tokio::join!(work, connection);
    response
}

async fn reach(name: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((name, port)).await?.collect();
    connect(&addresses, Instant::now() + CONNECT_DEADLINE).await
}

/// The first address that answers, each with its share of the time: one that says nothing, such as that of
/// a family which leads nowhere here, must not use up that of the others.
async fn connect(addresses: &[SocketAddr], by: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (i, addr) in addresses.iter().enumerate() {
        let now = Instant::now();
        let left = u32::try_from(addresses.len() - i).unwrap_or(u32::MAX);
        let share = now + by.saturating_duration_since(now) / left;
        match timeout_at(share, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(late) => last = late.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// An address that takes no connection and refuses none, while what comes with it is kept.
    async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Nobody accepts: once the queue is full, connections are left without an answer.
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 100, "the queue is never full");
        }
        (addr, listener, waiting)
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_leaves_the_others_their_time() {
        let (silent, _silent, _waiting) = silent().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let by = || Instant::now() + Duration::from_secs(2);
        let reached = connect(&[silent, open], by()).await.unwrap();
        assert_eq!(reached.peer_addr().unwrap(), open);
        let error = connect(&[silent], by()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let read = |text: &str| retry_after(Some(&HeaderValue::from_str(text).unwrap()));
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(read("Fri, 31 Dec 2066 23:59:59 GMT").unwrap() > Duration::from_secs(86_400));
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(None), None);
    }
}
