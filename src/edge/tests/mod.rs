//! The edge over pipes in memory, with a client at the far end that the tests play themselves.

mod answers;
mod bodies;
mod doors;
mod dressed;
mod front;
mod heads;
mod held;
mod home;
mod http2;
mod http3;
mod interstitial;
mod proof;
mod raw;
mod reserved;
mod resting;
mod shaped;
mod signed;
mod times;
mod tls;
mod upgrades;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::connection::{self, Facts};
use super::*;
use crate::engine::Bandwidth;
use crate::engine::policy::RuleId;
use crate::http::Scheme;
use crate::names::{Generation, Slug, TunnelId};
use crate::wire::memory::{MemoryRecv, MemorySend, pipe};
use crate::wire::{
    BodyError, FrameDecoder, HttpHead, ResponseHead, StreamCode, WireBody, send_body,
    send_response_head,
};

const WINDOW: usize = 256 * 1024;

/// The client's end of one visit.
struct Stream {
    head: HttpHead,
    link: LinkId,
    request: MemoryRecv,
    response: MemorySend,
}

impl Stream {
    /// The whole request body.
    async fn body(self) -> (Result<Bytes, BodyError>, MemorySend) {
        let body = WireBody::new(self.request, FrameDecoder::new());
        (body.collect().await.map(|b| b.to_bytes()), self.response)
    }

    /// Answers with a whole response.
    async fn answer(mut self, status: u16, fields: &[(&str, &str)], body: &'static str) {
        send_head(&mut self.response, status, fields).await;
        send_body(&mut self.response, Full::new(Bytes::from(body)))
            .await
            .unwrap();
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.fields.get(name).map(|v| v.to_str().unwrap())
    }
}

async fn send_head(response: &mut MemorySend, status: u16, fields: &[(&str, &str)]) {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    let head = ResponseHead {
        status: StatusCode::from_u16(status).unwrap(),
        fields: map,
        ends: false,
    };
    send_response_head(response, &head).await.unwrap();
}

/// What stands behind the edge: admits everything but for what a test says.
#[derive(Clone)]
struct Inside {
    shared: Arc<Mutex<Shared>>,
    streams: mpsc::UnboundedSender<Stream>,
}

#[derive(Default)]
struct Shared {
    /// One answer of the engine each; none is a pass.
    refusals: VecDeque<Option<Refusal>>,
    opens: VecDeque<OpenError>,
    admitted: Vec<Visit>,
    probed: Vec<String>,
    opened: usize,
    /// Each pass has a link of its own from here on.
    link: u64,
    fresh_links: bool,
    /// Every visit waits for ever.
    holds: bool,
    /// How many more may ask for names that are nobody's; None: any number.
    strangers: Option<usize>,
    panics: bool,
    policy: Arc<Policy>,
    /// Bytes a second of the tunnel.
    bandwidth: Option<std::num::NonZeroU64>,
    rates: Rates,
    cut: CancellationToken,
    offline: CancellationToken,
    guards: Arc<()>,
}

impl Admit for Inside {
    async fn admit(&self, visit: Visit) -> Result<Pass, Refusal> {
        if self.shared.lock().unwrap().holds {
            self.shared.lock().unwrap().admitted.push(visit);
            return std::future::pending().await;
        }
        let mut shared = self.shared.lock().unwrap();
        assert!(!std::mem::take(&mut shared.panics), "on purpose");
        shared.admitted.push(visit.clone());
        if let Some(Some(refusal)) = shared.refusals.pop_front() {
            return Err(refusal);
        }
        shared.link += u64::from(shared.fresh_links);
        Ok(Pass {
            route: Route {
                visit: visit.id,
                tunnel: TunnelId::from_bytes([7; 16]),
                slug: Slug::parse("app").unwrap(),
                link: LinkId(Generation {
                    boot: 1,
                    counter: shared.link,
                }),
                policy: Arc::clone(&shared.policy),
                rule: RuleId::Default,
                shadowed: Vec::new(),
                bandwidth: Bandwidth {
                    tunnel: shared.bandwidth,
                    ..Bandwidth::UNLIMITED
                },
            },
            cut: shared.cut.clone(),
            offline: shared.offline.clone(),
            rates: shared.rates.clone(),
            guard: Box::new(Arc::clone(&shared.guards)),
        })
    }

    fn greet(&self, _label: &str, _peer: SocketAddr) -> Result<Arc<Policy>, Refusal> {
        Ok(Arc::clone(&self.shared.lock().unwrap().policy))
    }

    fn may_ask_for_nobody(&self, _peer: SocketAddr) -> Result<(), Refusal> {
        let mut shared = self.shared.lock().unwrap();
        let Some(left) = &mut shared.strangers else {
            return Ok(());
        };
        *left = left.checked_sub(1).ok_or(Refusal::Limited {
            rule: RuleId::Default,
            retry_in: Duration::from_secs(9),
        })?;
        Ok(())
    }

    fn probe(&self, probe: VisitId, label: &str) -> Result<Pass, Refusal> {
        let mut shared = self.shared.lock().unwrap();
        shared.probed.push(label.to_owned());
        if let Some(Some(refusal)) = shared.refusals.pop_front() {
            return Err(refusal);
        }
        Ok(Pass {
            route: Route {
                visit: probe,
                tunnel: TunnelId::from_bytes([7; 16]),
                slug: Slug::parse("app").unwrap(),
                link: LinkId(Generation {
                    boot: 1,
                    counter: 1,
                }),
                policy: Arc::default(),
                rule: RuleId::Default,
                shadowed: Vec::new(),
                bandwidth: Bandwidth::UNLIMITED,
            },
            cut: shared.cut.clone(),
            offline: shared.offline.clone(),
            rates: shared.rates.clone(),
            guard: Box::new(()),
        })
    }
}

impl OpenStream for Inside {
    type Tx = MemorySend;
    type Rx = MemoryRecv;

    async fn open(
        &self,
        link: LinkId,
        head: &StreamHead,
    ) -> Result<(MemorySend, MemoryRecv), OpenError> {
        {
            let mut shared = self.shared.lock().unwrap();
            shared.opened += 1;
            if let Some(error) = shared.opens.pop_front() {
                return Err(error);
            }
        }
        let StreamHead::Http(head) = head else {
            panic!("the edge opened {head:?}");
        };
        let (to_client, request) = pipe(WINDOW);
        let (response, from_client) = pipe(WINDOW);
        let stream = Stream {
            head: (**head).clone(),
            link,
            request,
            response,
        };
        self.streams
            .send(stream)
            .unwrap_or_else(|_| panic!("no test plays the client"));
        Ok((to_client, from_client))
    }
}

/// Opens to a GET that says the word; then greets, and echoes.
impl Attach for Inside {
    const DOOR: &'static str = "/door";

    type Place = SocketAddr;

    fn judge(
        &self,
        asked: &Request<()>,
        peer: SocketAddr,
    ) -> Result<(Response<()>, SocketAddr), StatusCode> {
        if asked.method() != http::Method::GET {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !asked.headers().contains_key(http::header::UPGRADE) {
            return Err(StatusCode::UPGRADE_REQUIRED);
        }
        if !asked.headers().contains_key("sesame") {
            return Err(StatusCode::BAD_REQUEST);
        }
        if asked.headers().contains_key("crowd") {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        Ok((response.body(()).unwrap(), peer))
    }

    async fn attach<I>(&self, mut io: I, peer: SocketAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut room = [0; 64];
        let mut count = format!("hello {peer}\n").len();
        room[..count].copy_from_slice(format!("hello {peer}\n").as_bytes());
        while count > 0 {
            io.write_all(&room[..count]).await.unwrap();
            io.flush().await.unwrap();
            count = io.read(&mut room).await.unwrap();
        }
    }
}

struct World {
    edge: Edge<Inside>,
    tasks: Tasks,
    shared: Arc<Mutex<Shared>>,
    streams: mpsc::UnboundedReceiver<Stream>,
}

fn host(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut EdgeSettings)) -> Self {
        let mut settings = EdgeSettings::new(host("t.example"), 443);
        change(&mut settings);
        let (streams, arrived) = mpsc::unbounded_channel();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let inside = Inside {
            shared: Arc::clone(&shared),
            streams,
        };
        let tasks = Tasks::new();
        Self {
            edge: Edge::new(settings, inside, tasks.clone()),
            tasks,
            shared,
            streams: arrived,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock().unwrap());
    }

    fn opened(&self) -> usize {
        self.shared.lock().unwrap().opened
    }

    /// Passes that are still held by somebody.
    fn visits(&self) -> usize {
        Arc::strong_count(&self.shared.lock().unwrap().guards) - 1
    }

    fn facts(is_multiplexed: bool) -> Facts {
        Facts {
            peer: "192.0.2.7:1234".parse().unwrap(),
            scheme: Scheme::Https,
            sni: Some(host("app.t.example")),
            is_multiplexed,
            is_behind: false,
            slot: None,
        }
    }

    /// A visitor's end of a new HTTP/1 connection.
    fn visitor(&self) -> Visitor {
        self.connect(Self::facts(false))
    }

    fn connect(&self, facts: Facts) -> Visitor {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.tasks.spawn(
            "test-connection",
            connection::run(Arc::clone(&self.edge.inner), far, facts),
        );
        Visitor(near)
    }

    async fn stream(&mut self) -> Stream {
        self.streams
            .recv()
            .await
            .expect("the edge lives as long as the world")
    }

    /// Sends `bytes` and nothing more, and reads to the end. Nobody plays the client.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut visitor = self.visitor();
        visitor.send(bytes).await;
        visitor.rest().await
    }

    /// The connection's tasks are gone and the engine has its visits back.
    async fn is_empty(&self) {
        let gone = tokio::time::timeout(Duration::from_secs(5), async {
            while self.visits() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(gone.await.is_ok(), "a visit is left behind");
    }
}

struct Visitor(DuplexStream);

impl Visitor {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: app.t.example\r\n\r\n").as_bytes())
            .await;
    }

    /// Everything until the connection ends.
    async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads until `end` has come.
    async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        let mut room = [0; 4096];
        while !bytes.windows(end.len()).any(|w| w == end.as_bytes()) {
            let count = self.0.read(&mut room).await.unwrap();
            assert!(count > 0, "ended: {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&room[..count]);
        }
        String::from_utf8(bytes).unwrap()
    }
}

fn status(response: &str) -> u16 {
    response
        .strip_prefix("HTTP/1.")
        .and_then(|r| r.get(2..5))
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("no response: {response:?}"))
}

fn header<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let head = response.split("\r\n\r\n").next()?;
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}
