//! The access log: one line for each visit, written when it is over. Not the log of what the server does:
//! it has a setting of its own, and its lines take their way to the same place past the log's level. Visits
//! that only a shadow let in have a line whatever is set: to tell of them is what the shadow is for.
//!
//! A visit never waits for its line. Lines go through a bounded queue to a thread that alone writes them;
//! what finds no room there is counted, and the count is written as soon as there is.

mod visit;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{debug, info};

pub(super) use self::visit::{Asked, VisitLog, version_named};
use crate::codes::Code;
use crate::names::{Kind, VisitId};
use crate::telemetry::ACCESS;
use crate::times::Clock;

/// Lines that wait to be written; some 2 MiB at their longest usual.
const QUEUE: usize = 4096;

/// Lines a second that a sample has: of visits that went well, of those that did not, and of those that only
/// a shadow let in.
const SAMPLE_SERVED: u32 = 10;
const SAMPLE_FAILED: u32 = 50;
const SAMPLE_SHADOWED: u32 = 50;

/// How long the last lines may take at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// Which visits get a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessMode {
    /// None but those that only a shadow let in, a few each second.
    #[default]
    Off,
    /// A few each second; those that we refuse, or that fail, before all others.
    Sampled,
    /// Every one.
    Full,
}

impl AccessMode {
    const ALL: [Self; 3] = [Self::Off, Self::Sampled, Self::Full];
}

/// Where finished visits go. One for the edge.
pub(super) struct AccessLog {
    mode: AtomicU8,
    sample: Mutex<Sample>,
    /// None inside when the system has no thread to give.
    queue: OnceLock<Option<SyncSender<Message>>>,
    lost: Arc<AtomicU64>,
    sink: fn(&Line),
}

enum Message {
    Line(Box<Line>),
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    pub(super) fn new(mode: AccessMode) -> Arc<Self> {
        Self::writing_to(mode, Line::write)
    }

    fn writing_to(mode: AccessMode, sink: fn(&Line)) -> Arc<Self> {
        Arc::new(Self {
            mode: AtomicU8::new(mode as u8),
            sample: Mutex::default(),
            queue: OnceLock::new(),
            lost: Arc::default(),
            sink,
        })
    }

    /// For visits that end from now on.
    pub(super) fn set_mode(&self, mode: AccessMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    fn mode(&self) -> AccessMode {
        AccessMode::ALL[usize::from(self.mode.load(Ordering::Relaxed))]
    }

    fn is_on(&self) -> bool {
        self.mode() != AccessMode::Off
    }

    /// Whether what a visit asks for is to be gathered as it comes.
    fn gathers(&self) -> bool {
        self.is_on() || tracing::enabled!(tracing::Level::DEBUG)
    }

    /// Takes a finished visit; never waits.
    fn put(&self, mut line: Line) {
        match self.mode() {
            AccessMode::Off if line.shadowed.is_none() => return,
            AccessMode::Full => {}
            AccessMode::Off | AccessMode::Sampled => {
                let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
                match sample.take(Clock.now().monotonic, Sort::of(&line)) {
                    Some(unlogged) => line.unlogged = unlogged,
                    None => return,
                }
            }
        }
        self.send(Message::Line(Box::new(line)));
    }

    fn send(&self, message: Message) {
        let queue = self.queue.get_or_init(|| self.start());
        match queue.as_ref().map(|queue| queue.try_send(message)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The thread ends with this log: it lives as long as there is somebody to send.
    fn start(&self) -> Option<SyncSender<Message>> {
        let (queue, lines) = sync_channel(QUEUE);
        let (lost, sink) = (Arc::clone(&self.lost), self.sink);
        let started = Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&lines, &lost, sink));
        match started {
            Ok(_) => Some(queue),
            Err(error) => {
                debug!(%error, "no thread for the access log");
                None
            }
        }
    }

    /// Waits, bounded, until all that was taken is written.
    pub(super) async fn flush(&self) {
        if self.queue.get().is_none() {
            return;
        }
        let (done, written) = oneshot::channel();
        self.send(Message::Flush(done));
        // A full queue has no room for the word: then its sender is dropped, and nothing is waited for.
        let _ = tokio::time::timeout(FLUSH, written).await;
    }
}

fn write_all(lines: &Receiver<Message>, lost: &AtomicU64, sink: fn(&Line)) {
    for message in lines {
        match message {
            Message::Line(line) => sink(&line),
            Message::Flush(done) => drop(done.send(())),
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            info!(target: ACCESS, lost, "access log fell behind");
        }
    }
}

/// Which lines of a sample do not take each other's room.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Served,
    Failed,
    Shadowed,
}

impl Sort {
    const fn of(line: &Line) -> Self {
        match (&line.shadowed, line.code) {
            (Some(_), _) => Self::Shadowed,
            (None, Some(_)) => Self::Failed,
            (None, None) => Self::Served,
        }
    }

    const fn most(self) -> u32 {
        match self {
            Self::Served => SAMPLE_SERVED,
            Self::Failed => SAMPLE_FAILED,
            Self::Shadowed => SAMPLE_SHADOWED,
        }
    }
}

/// What a second's sample has had so far.
#[derive(Debug, Default)]
struct Sample {
    since: Option<Instant>,
    had: [u32; 3],
    unlogged: u64,
}

impl Sample {
    /// Whether the visit is in the sample; with how many were not, since the last that was.
    fn take(&mut self, now: Instant, sort: Sort) -> Option<u64> {
        let fresh = |since| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(fresh) {
            self.since = Some(now);
            self.had = [0; 3];
        }
        let count = &mut self.had[sort as usize];
        if *count >= sort.most() {
            self.unlogged += 1;
            return None;
        }
        *count += 1;
        Some(std::mem::take(&mut self.unlogged))
    }
}

/// A visit that is over.
#[derive(Debug, Clone)]
struct Line {
    id: VisitId,
    kind: Kind,
    /// The tunnel's name; its id when a port led to it and it let nobody in.
    tunnel: Option<String>,
    method: Option<String>,
    host: Option<String>,
    /// Without the query.
    path: Option<String>,
    version: Option<&'static str>,
    status: Option<u16>,
    /// From the visitor, and to the visitor; without heads.
    bytes_in: u64,
    bytes_out: u64,
    /// From the head to the first byte that went back.
    first: Option<Duration>,
    /// From the head to the end.
    whole: Duration,
    /// Nothing of it broke off.
    complete: bool,
    decision: &'static str,
    rule: Option<String>,
    /// Rules that would have refused it.
    shadowed: Option<String>,
    code: Option<Code>,
    peer: SocketAddr,
    unlogged: u64,
}

impl Line {
    /// One line of the log, in the log's format. What strangers chose is escaped and capped there, too.
    fn write(&self) {
        info!(
            target: ACCESS,
            visit = %self.id,
            tunnel = self.tunnel.as_deref(),
            kind = %self.kind,
            method = self.method.as_deref(),
            host = self.host.as_deref(),
            path = self.path.as_deref(),
            version = self.version,
            status = self.status.map(u64::from),
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            first_ms = self.first.map(millis),
            ms = millis(self.whole),
            complete = self.complete,
            decision = self.decision,
            rule = self.rule.as_deref(),
            shadowed = self.shadowed.as_deref(),
            code = self.code.map(Code::as_str),
            peer = %self.peer,
            unlogged = (self.unlogged > 0).then_some(self.unlogged),
            "visit"
        );
    }
}

/// Milliseconds with three places.
fn millis(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros()).map_or(f64::MAX, f64::from);
    if micros == f64::MAX {
        return duration.as_secs_f64().round() * 1000.0;
    }
    micros / 1000.0
}

#[cfg(test)]
mod tests;
