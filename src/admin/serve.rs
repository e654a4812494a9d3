//! The accept loop and one HTTP/1.1 connection: who calls, whether a browser sent it, then the routes.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use tower_service::Service as _;
use tracing::{debug, warn};

use super::routes::{self, Hub};
use super::socket::AdminSocket;
use super::stall::Stall;
use super::{ApiError, Caller, ClientBackend, ServerBackend};
use crate::codes::Code;
use crate::tasks::Tasks;

/// Connections at once; more wait in the kernel's backlog.
pub(super) const CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_MAX: usize = 32 * 1024;
const FIELDS_MAX: usize = 100;
/// How long calls in flight may take to end after the stop signal.
const GRACE: Duration = Duration::from_secs(5);
/// Accept fails for want of descriptors, mostly; a moment later there may be some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves a client's admin API until `tasks` stops; then the socket's file goes.
pub async fn serve_client<B: ClientBackend>(socket: AdminSocket, backend: Arc<B>, tasks: Tasks) {
    let router = routes::client(Hub::new(backend, tasks.clone()));
    accept(socket, &router, &tasks).await;
}

/// Serves a server's admin API until `tasks` stops; then the socket's file goes.
pub async fn serve_server<B: ServerBackend>(socket: AdminSocket, backend: Arc<B>, tasks: Tasks) {
    let router = routes::server(Hub::new(backend, tasks.clone()));
    accept(socket, &router, &tasks).await;
}

async fn accept(socket: AdminSocket, router: &Router, tasks: &Tasks) {
    let mut reserve = Reserve::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let stop = tasks.stopped();
    loop {
        let next = async {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (socket.listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), tasks.clone(), place);
                tasks.spawn("admin-connection", connection);
                reserve.fill();
            }
            Err(err) => {
                let given = reserve.give();
                warn!(%err, given, "admin socket cannot accept, trying again");
                drop(place);
                if !given {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    reserve.fill();
                }
            }
        }
    }
}

/// A descriptor to give away when there is no other: the operator must get in when nobody else does.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        let mut reserve = Self(None);
        reserve.fill();
        reserve
    }

    /// Whether there was one.
    fn give(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one back as soon as there is one to have.
    fn fill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}

async fn connection(
    stream: UnixStream,
    router: Router,
    tasks: Tasks,
    _place: OwnedSemaphorePermit,
) {
    let caller = match stream.peer_cred() {
        Ok(cred) => Caller {
            uid: cred.uid(),
            pid: cred.pid(),
        },
        Err(err) => return debug!(%err, "admin caller without credentials"),
    };
    let stop = tasks.stopped();
    let service = service_fn(move |request| {
        let call = call(request, caller, router.clone(), tasks.clone());
        async move { Ok::<_, std::convert::Infallible>(call.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .max_headers(FIELDS_MAX)
        .serve_connection(TokioIo::new(Stall::new(stream)), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, serving).await {
                Ok(ended) => ended,
                Err(_) => return debug!(uid = caller.uid, "admin connection cut at shutdown"),
            }
        }
        ended = serving.as_mut() => ended,
    };
    if let Err(err) = ended {
        debug!(uid = caller.uid, %err, "admin connection ended early");
    }
}

/// One call in a task of its own: a panic in there is one 500, and a caller who leaves ends it.
async fn call(
    mut request: Request<Incoming>,
    caller: Caller,
    mut router: Router,
    tasks: Tasks,
) -> Response {
    if let Err(refused) = refuse_browsers(request.uri(), request.headers()) {
        return refused.into_response();
    }
    request.extensions_mut().insert(caller);
    let answer = AbortOnDropHandle::new(tasks.spawn("admin-call", router.call(request)));
    match answer.await {
        Ok(Ok(response)) => response,
        Err(err) => {
            tracing::error!(%err, "admin call failed");
            ApiError::new(Code::Internal, "the call failed inside the daemon").into_response()
        }
    }
}

/// Web pages reach sockets through proxies and rebound names; no lawful caller sends `Origin` or
/// another host than `localhost`.
fn refuse_browsers(uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(ORIGIN) {
        return Err(ApiError::new(
            Code::Forbidden,
            "requests with an Origin are refused: this API is not for web pages",
        ));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(ApiError::new(
            Code::BadRequest,
            "send exactly one Host: localhost",
        ));
    };
    let named = uri
        .authority()
        .map_or(host.as_bytes(), |a| a.as_str().as_bytes());
    if host.as_bytes().eq_ignore_ascii_case(b"localhost")
        && named.eq_ignore_ascii_case(b"localhost")
    {
        Ok(())
    } else {
        Err(ApiError::new(
            Code::Forbidden,
            "only Host: localhost is served here",
        ))
    }
}
