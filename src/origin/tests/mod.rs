//! Visits against small real origins on loopback; the wire side is a pipe in memory.

mod exchange;
mod host;
mod http2;
mod look;
mod pool;
mod raw;
mod udp;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use http_body_util::Collected;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{OriginPolicy, OriginTunnel, Origins, VisitReport};
use crate::engine::book::HostMode;
use crate::names::{Slug, Target, TunnelId, VisitId};
use crate::tasks::Tasks;
use crate::wire::memory::{MemoryRecv, MemorySend, pipe};
use crate::wire::{
    BodyError, FrameDecoder, HttpHead, ResponseHead, SendChunks, StreamCode, WireBody, data_header,
    read_response_head, send_all,
};

/// The public name that the visits of these tests use.
pub(super) const PUBLIC: &str = "app.t.example.com";

/// Nothing here waits this long unless it is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(20);

pub(super) struct World {
    pub(super) origins: Origins,
    pub(super) tasks: Tasks,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(loopback())
    }

    pub(super) fn with(policy: OriginPolicy) -> Self {
        let tasks = Tasks::new();
        let origins = Origins::new(policy, tasks.clone()).unwrap();
        Self { origins, tasks }
    }

    /// Starts a visit; a head without a body ends its half at once, unless it asks to upgrade.
    pub(super) fn visit(&self, tunnel: &Arc<OriginTunnel>, head: HttpHead) -> Visit {
        self.visit_through(tunnel, head, 1 << 20)
    }

    pub(super) fn visit_through(
        &self,
        tunnel: &Arc<OriginTunnel>,
        head: HttpHead,
        window: usize,
    ) -> Visit {
        let (mut up, up_rx) = pipe(window);
        let (down_tx, down) = pipe(window);
        if !head.has_body && head.protocol.is_none() {
            up.finish();
        }
        let (origins, tunnel) = (self.origins.clone(), Arc::clone(tunnel));
        let task = self.tasks.spawn("visit", async move {
            origins.http(tunnel, Box::new(head), down_tx, up_rx).await
        });
        Visit {
            up,
            down,
            decoder: FrameDecoder::new(),
            task,
        }
    }

    /// A GET from start to end.
    pub(super) async fn get(
        &self,
        tunnel: &Arc<OriginTunnel>,
        path: &str,
    ) -> Result<Whole, BodyError> {
        self.visit(tunnel, get(path)).whole().await
    }
}

pub(super) fn loopback() -> OriginPolicy {
    OriginPolicy {
        allow: vec!["127.0.0.1/32".parse().unwrap(), "::1/128".parse().unwrap()],
        ..OriginPolicy::default()
    }
}

pub(super) fn tunnel_to(target: &str, mode: HostMode) -> Arc<OriginTunnel> {
    let target: Target = target.parse().unwrap();
    let slug = Slug::parse("app").unwrap();
    Arc::new(OriginTunnel::new(
        TunnelId::random(),
        slug,
        PUBLIC.into(),
        target,
        mode,
    ))
}

pub(super) fn tunnel(origin: &Server) -> Arc<OriginTunnel> {
    tunnel_to(&origin.target(), HostMode::Keep)
}

pub(super) fn get(path: &str) -> HttpHead {
    HttpHead {
        tunnel: TunnelId::random(),
        visit: VisitId::random(),
        method: Method::GET,
        scheme: "https".into(),
        authority: PUBLIC.into(),
        path: path.into(),
        fields: HeaderMap::new(),
        peer: "192.0.2.1:1".parse().unwrap(),
        protocol: None,
        version: 11,
        has_body: false,
        expects_continue: false,
        timeout_ms: 10_000,
        shadowed: Vec::new(),
    }
}

pub(super) fn post(path: &str, length: Option<usize>) -> HttpHead {
    let mut head = get(path);
    head.method = Method::POST;
    head.has_body = true;
    if let Some(length) = length {
        head.fields.insert("content-length", length.into());
    }
    head
}

pub(super) fn with(mut head: HttpHead, name: &'static str, value: &str) -> HttpHead {
    head.fields.append(name, value.parse().unwrap());
    head
}

/// A visit under way, from the edge's side.
pub(super) struct Visit {
    pub(super) up: MemorySend,
    pub(super) down: MemoryRecv,
    pub(super) decoder: FrameDecoder,
    task: JoinHandle<VisitReport>,
}

/// A visit that ended well.
pub(super) struct Whole {
    pub(super) head: ResponseHead,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) report: VisitReport,
}

impl Whole {
    pub(super) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Visit {
    /// The next head, interim or final.
    pub(super) async fn head(&mut self) -> Result<ResponseHead, BodyError> {
        timeout(STUCK, read_response_head(&mut self.down, &mut self.decoder))
            .await
            .expect("a head comes in time")
    }

    pub(super) async fn send(&mut self, data: impl Into<Bytes>) {
        let data = data.into();
        let mut frame = [data_header(data.len()), data];
        timeout(STUCK, send_all(&mut self.up, &mut frame))
            .await
            .expect("the origin reads")
            .unwrap();
    }

    pub(super) fn finish(&mut self) {
        self.up.finish();
    }

    /// What follows the final head, and how the visit went.
    pub(super) async fn rest(self) -> (Result<Collected<Bytes>, BodyError>, VisitReport) {
        let body = WireBody::new(self.down, self.decoder).collect();
        let body = timeout(STUCK, body).await.expect("the body ends in time");
        drop(self.up);
        (body, ended(self.task).await)
    }

    pub(super) async fn whole(mut self) -> Result<Whole, BodyError> {
        let head = self.head().await?;
        let (body, report) = self.rest().await;
        let body = body?;
        Ok(Whole {
            head,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
            report,
        })
    }

    /// The code a visit broke off with, before its head.
    pub(super) async fn refusal(mut self) -> StreamCode {
        let error = self.head().await.expect_err("no head comes");
        let code = code_of(&error);
        assert_eq!(ended(self.task).await.error, Some(code));
        code
    }

    /// The visitor goes away altogether.
    pub(super) async fn abandon(self) -> VisitReport {
        drop(self.down);
        drop(self.up);
        ended(self.task).await
    }

    /// The role cuts the visit: its tunnel ended.
    pub(super) fn cut(&self) {
        self.task.abort();
    }

    pub(super) async fn report(self) -> VisitReport {
        ended(self.task).await
    }
}

async fn ended(task: JoinHandle<VisitReport>) -> VisitReport {
    timeout(STUCK, task).await.expect("the visit ends").unwrap()
}

pub(super) fn code_of(error: &BodyError) -> StreamCode {
    match error {
        BodyError::Stream(crate::wire::StreamError::Reset(code)) => *code,
        other => panic!("not a reset: {other:?}"),
    }
}

/// An origin on a loopback port that does to each connection what a test says.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) accepted: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Server {
    pub(super) async fn new<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, tasks) = (Arc::clone(&accepted), Tasks::new());
        let connections = tasks.clone();
        tasks.spawn("origin", async move {
            let stop = connections.stopped();
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let index = count.fetch_add(1, Ordering::SeqCst);
                let serving = serve(stream, index);
                let stop = stop.clone();
                connections.spawn("origin-connection", async move {
                    stop.run_until_cancelled(serving).await;
                });
            }
        });
        Self {
            addr,
            accepted,
            tasks,
        }
    }

    /// Answers each request head with the same bytes, for as long as the connection lasts.
    pub(super) async fn repeating(answer: &'static str) -> Self {
        Self::new(move |mut stream, _| async move {
            while read_head(&mut stream).await.is_some() {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        })
        .await
    }

    /// Answers each request without a body with the request's own head.
    pub(super) async fn mirror() -> Self {
        Self::new(|mut stream, _| async move {
            while let Some(head) = read_head(&mut stream).await {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}",
                    head.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await
    }

    pub(super) fn target(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(super) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Reads one request head, byte for byte, so that a body stays unread; `None` at the end.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Waits for what another task is about to do.
pub(super) async fn until(what: impl Fn() -> bool) {
    timeout(STUCK, async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it happens in time");
}
