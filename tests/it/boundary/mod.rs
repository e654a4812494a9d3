//! The boundary, one family of bad input after the other: real daemons, raw bytes over real TLS, and an
//! origin that records every byte it gets. Families of cases are made by code: variants × places × spellings.

mod canary;
mod descriptors;
mod dressed;
mod floods;
mod frames;
mod heads1;
mod heads2;
mod killed;
mod limits;
mod logs;
mod origins;
mod peers;
mod slow;
mod socket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

use self::canary::Canary;
use crate::visitor::Visitor;
use crate::world::{DOMAIN, Daemon, World, open};

/// Connections of one family at once.
const AT_ONCE: usize = 8;

/// A server, a client, and the canary behind `app`.
struct Boundary {
    world: World,
    client: Daemon,
    canary: Canary,
}

impl Boundary {
    async fn new() -> Self {
        Self::with("").await
    }

    async fn with(server_toml: &str) -> Self {
        let mut world = World::with(server_toml).await;
        let client = world.joined().await;
        let canary = Canary::new().await;
        open(&client, &[&canary.target(), "--name", "app"]).await;
        let this = Self {
            world,
            client,
            canary,
        };
        this.control().await;
        this
    }

    fn visitor(&self) -> Visitor {
        self.world.visitor("app")
    }

    /// An ordinary request succeeds within a second. Asked up to three times: the machine is not ours
    /// alone, and what is looked for is a server that is busy or deaf.
    async fn control(&self) {
        let mut took = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            let answer = self.visitor().try_get("/control").await;
            took = took.min(began.elapsed());
            assert_eq!(answer.expect("the control request").text(), "canary");
            if took < Duration::from_secs(1) {
                self.canary.forget();
                return;
            }
        }
        panic!("the control request took {took:?}");
    }

    /// Sends each case on an HTTP/1.1 connection of its own; what came back until the end.
    async fn exchange(&self, cases: Vec<Case>) -> Vec<(Case, String)> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = tokio::task::JoinSet::new();
        for case in cases {
            let (places, visitor) = (Arc::clone(&places), self.visitor());
            running.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                let answer = raw(&visitor, &case.bytes).await;
                (case, answer)
            });
        }
        running.join_all().await
    }

    /// Every case is refused with one of its statuses, the connection ends behind it, and not a byte of
    /// it reaches the origin.
    async fn refuses(&self, cases: Vec<Case>) {
        assert!(!cases.is_empty());
        let mut wrong = Vec::new();
        for (case, answer) in self.exchange(cases).await {
            let refused = status(&answer).is_some_and(|s| case.statuses.contains(&s));
            let ended = header(&answer, "connection") == Some("close")
                && header(&answer, "wormkey-request-id").is_some()
                && answer.matches("HTTP/1.1 ").count() == 1;
            if !refused || !ended {
                let sent = String::from_utf8_lossy(&case.bytes).into_owned();
                wrong.push(format!("{}: {sent:?}\n  -> {answer:?}", case.name));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let reached = self.canary.heard();
        assert!(reached.is_empty(), "the origin got {reached:?}");
        self.control().await;
    }
}

/// One message of a family.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    bytes: Vec<u8>,
    statuses: &'static [u16],
}

/// What follows every refused head: it must not be taken for a request of its own.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: app.t.wormkey.test\r\n\r\n";

impl Case {
    fn new(name: impl Into<String>, head: impl AsRef<[u8]>, statuses: &'static [u16]) -> Self {
        let mut bytes = head.as_ref().to_vec();
        bytes.extend_from_slice(SMUGGLED);
        Self {
            name: name.into(),
            bytes,
            statuses,
        }
    }
}

/// The host of the tunnel, as all raw heads name it.
fn host() -> String {
    format!("app.{DOMAIN}")
}

/// Sends `bytes` on a new connection and reads to its end.
async fn raw(visitor: &Visitor, bytes: &[u8]) -> String {
    let work = async {
        let mut tls = visitor.connect("http/1.1").await.unwrap();
        // The other end may have said its last before it has read all.
        let _ = tls.write_all(bytes).await;
        let _ = tls.flush().await;
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .unwrap_or_else(|_| format!("no end: {}", String::from_utf8_lossy(bytes)))
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}
