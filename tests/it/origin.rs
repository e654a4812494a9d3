//! A small honest origin for tests: answers with its own name, echoes, streams, and counts.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// An origin on a port of its own; ends with the test's runtime.
pub(crate) struct Origin {
    pub(crate) port: u16,
    visits: Arc<AtomicUsize>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Origin {
    /// Answers `GET /` with its name.
    pub(crate) async fn named(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, name)
    }

    pub(crate) fn on(listener: TcpListener, name: &str) -> Self {
        let port = listener.local_addr().unwrap().port();
        let visits = Arc::new(AtomicUsize::new(0));
        let (count, name) = (Arc::clone(&visits), name.to_owned());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (count, name) = (Arc::clone(&count), name.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        count.fetch_add(1, Ordering::SeqCst);
                        let name = name.clone();
                        async move { Ok::<_, Infallible>(answer(&name, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, visits }
    }

    pub(crate) fn target(&self) -> String {
        self.port.to_string()
    }

    /// How many requests have come in.
    pub(crate) fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

async fn answer(name: &str, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/" => Response::new(full(name.to_owned())),
        "/head" => Response::new(full(format!(
            "{:?} {:?}",
            request.method(),
            request.headers()
        ))),
        "/echo" => match request.into_body().collect().await {
            Ok(body) => Response::new(full(body.to_bytes())),
            Err(_) => status(StatusCode::BAD_REQUEST),
        },
        "/abort" => Response::new(StreamBody::new(Broken(0)).boxed()),
        "/never" => std::future::pending().await,
        _ => match path
            .strip_prefix("/bytes/")
            .and_then(|n| n.parse::<usize>().ok())
        {
            Some(n) => Response::new(full(vec![b'x'; n])),
            None => status(StatusCode::NOT_FOUND),
        },
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}

/// A body that breaks off after its first piece.
struct Broken(u8);

impl futures_core::Stream for Broken {
    type Item = Result<Frame<Bytes>, std::io::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0 += 1;
        match self.0 {
            1 => std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half"))))),
            // A pause, in which the head and the first piece are flushed.
            2 => {
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }
            _ => std::task::Poll::Ready(Some(Err(std::io::Error::other("on purpose")))),
        }
    }
}
