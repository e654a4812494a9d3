//! The listener for scrapers: `/healthz`, `/readyz` and `/metrics` over TCP, and nothing else of the
//! admin API. Whether it is there, and where, is the configuration's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service as _;
use tracing::debug;

use super::routes::{self, Hub};
use super::{ApiError, CommonBackend};
use crate::codes::Code;
use crate::tasks::Tasks;

/// Scrapers at once; one more is closed at once.
const CONNECTIONS: usize = 16;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 64;
/// A connection ends after this, whatever it does: scrapers come again.
const LONGEST: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Binds and serves, if there is an address to listen on; the one that was bound.
pub async fn scrapers<B: CommonBackend>(
    listen: Option<SocketAddr>,
    backend: &Arc<B>,
    tasks: &Tasks,
) -> io::Result<Option<SocketAddr>> {
    let Some(address) = listen else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let serving = serve_scrapers(listener, Arc::clone(backend), tasks.clone());
    tasks.spawn_critical("scrapers", serving);
    tracing::info!(metrics = %bound, "serving metrics");
    Ok(Some(bound))
}

/// Serves scrapers until `tasks` stops.
pub(super) async fn serve_scrapers<B: CommonBackend>(
    listener: TcpListener,
    backend: Arc<B>,
    tasks: Tasks,
) {
    let router = routes::scraped(Hub::new(backend, tasks.clone()));
    let (places, stop) = (Arc::new(Semaphore::new(CONNECTIONS)), tasks.stopped());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let connection = connection(stream, peer, router.clone(), place);
                    let stop = tasks.stopped();
                    tasks.spawn("scraper", async move {
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => {}
                            _ = tokio::time::timeout(LONGEST, connection) => {}
                        }
                    });
                }
                Err(_) => debug!(%peer, "too many scrapers, closed"),
            },
            Err(err) => {
                debug!(%err, "metrics listener cannot accept, trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let answer = answer(request, router.clone());
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(err) = serving.await {
        debug!(%peer, %err, "scraper's connection ended early");
    }
}

async fn answer(request: Request<Incoming>, mut router: Router) -> Response {
    let method = request.method();
    if method != Method::GET && method != Method::HEAD {
        let detail = "only GET is served here";
        return ApiError::new(Code::MethodNotAllowed, detail).into_response();
    }
    if let Err(refused) = refuse_pages(request.uri(), request.headers()) {
        return refused.into_response();
    }
    router
        .call(request)
        .await
        .unwrap_or_else(|never| match never {})
}

/// A web page reaches this port through the browser of whoever opens it, by a name of its own that leads
/// here. So names are refused: scrapers ask by address, or for localhost.
fn refuse_pages(uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(ORIGIN) {
        let detail = "requests with an Origin are refused: this is not for web pages";
        return Err(ApiError::new(Code::Forbidden, detail));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(ApiError::new(Code::BadRequest, "send exactly one Host"));
    };
    let named = uri.authority().map(|authority| authority.as_str());
    let host = host.to_str().unwrap_or_default();
    if is_no_name(host) && named.is_none_or(is_no_name) {
        Ok(())
    } else {
        let detail = "ask by address, such as 127.0.0.1, or for localhost: other names are refused";
        Err(ApiError::new(Code::Forbidden, detail))
    }
}

fn is_no_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = (name.strip_prefix('[').and_then(|n| n.strip_suffix(']'))).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_no_names() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "10.0.0.7:9464",
        ] {
            assert!(is_no_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil:1",
        ] {
            assert!(!is_no_name(host), "{host}");
        }
    }
}
