//! Connections to origins, kept for the next visit while they are beyond doubt. A doubtful one is
//! never used again: what an origin says unasked must not reach another visitor.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Request, Version};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::body::RequestBody;
use super::dial::{CONNECT_DEADLINE, DialError, Dialler, too_slow};
use super::line::{Answer, Http1Line, Http2Line, ask_http1, ask_http2};
use super::policy::OriginPolicy;
use super::socket::OriginIo;
use super::tls::{OriginSetupError, Tls};
use crate::names::Target;
use crate::tasks::Tasks;

/// Shorter than the five seconds after which common servers close, so that we are first.
const IDLE_HTTP1: Duration = Duration::from_secs(4);
/// Longer: an origin tells of the end of these (GOAWAY), so that a request seldom crosses it. One that does
/// fails, even where the origin says that it was not seen: hyper does not give it back.
const IDLE_HTTP2: Duration = Duration::from_secs(15);
const IDLE_PER_TARGET: usize = 64;
const IDLE_TOTAL: usize = 512;
const SWEEP: Duration = Duration::from_secs(2);
/// An origin that did not take HTTP/2 in clear is asked in HTTP/1.1 for this long.
const NO_HTTP2: Duration = Duration::from_secs(60);
/// How long a finished exchange may take to leave its connection ready for the next.
const SETTLE: Duration = Duration::from_millis(250);

/// What a visit wants to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speak {
    /// HTTP/1.1 only: an upgrade.
    Http1,
    /// HTTP/1.1 in clear; over TLS whatever is agreed on.
    Any,
    /// HTTP/2 if the origin has it: gRPC.
    Http2,
}

/// The connections of one client.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    dialler: Dialler,
    tls: Tls,
    tasks: Tasks,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    targets: HashMap<Target, Shelf>,
    /// Idle HTTP/1.1 connections of all targets.
    idle: usize,
    /// Counts policies: a connection made under an older one is not kept.
    policy: u64,
    sweeping: bool,
}

/// What is known of one target.
#[derive(Default)]
struct Shelf {
    http1: VecDeque<(Http1Line, Instant)>,
    http2: Vec<(Arc<Http2Line>, Instant)>,
    /// One HTTP/2 connection is begun at a time: the others wait and share it.
    beginning: Arc<tokio::sync::Mutex<()>>,
    no_http2_until: Option<Instant>,
}

/// A connection lent to one exchange. Dropping it is the safe end: an HTTP/1.1 connection closes.
pub(super) struct Lease {
    pool: Weak<Shared>,
    target: Target,
    policy: u64,
    line: Line,
    /// Whether other visits used the connection before.
    pub(super) reused: bool,
}

enum Line {
    Http1(Http1Line),
    Http2(Stream),
}

/// One stream of a shared connection.
struct Stream(Arc<Http2Line>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.give_stream_back();
    }
}

impl Pool {
    pub(super) fn new(policy: OriginPolicy, tasks: Tasks) -> Result<Self, OriginSetupError> {
        Ok(Self(Arc::new(Shared {
            dialler: Dialler::new(policy),
            tls: Tls::new()?,
            tasks,
            kept: Mutex::default(),
        })))
    }

    pub(super) fn dialler(&self) -> &Dialler {
        &self.0.dialler
    }

    /// Takes a new policy; what was dialled under the old one serves no further visit.
    pub(super) fn set_policy(&self, policy: OriginPolicy) {
        self.0.dialler.set_policy(policy);
        let mut kept = self.0.lock();
        kept.policy += 1;
        kept.idle = 0;
        let dropped = std::mem::take(&mut kept.targets);
        drop(kept);
        drop(dropped);
    }

    /// A connection to the target. `fresh` takes none that was used before.
    pub(super) async fn lease(
        &self,
        target: &Target,
        speak: Speak,
        fresh: bool,
    ) -> Result<Lease, DialError> {
        if !fresh && let Some(lease) = self.0.take(target, speak) {
            return Ok(lease);
        }
        // Apart, so that a visit that needs no dial does not carry the room for one.
        Box::pin(self.begin(target, speak, fresh)).await
    }

    /// A connection that has to be made first, or waited for.
    async fn begin(&self, target: &Target, speak: Speak, fresh: bool) -> Result<Lease, DialError> {
        let by = Instant::now() + CONNECT_DEADLINE;
        let in_clear = !matches!(target, Target::Https { .. });
        if speak == Speak::Http2 && in_clear {
            if let Some(lease) = self.0.http2_in_clear(target, fresh, by).await? {
                return Ok(lease);
            }
            // Begun in vain, or remembered: what it has is HTTP/1.1.
            if !fresh && let Some(lease) = self.0.take(target, Speak::Any) {
                return Ok(lease);
            }
        }
        if in_clear {
            let policy = self.0.lock().policy;
            let socket = self.0.dialler.dial(target, by).await?;
            return self
                .0
                .http1(target, OriginIo::Plain(socket), policy, by)
                .await;
        }
        self.0.secure(target, speak, fresh, by).await
    }

    /// Sweeps as if it were `ahead` later.
    #[cfg(test)]
    pub(super) fn sweep_ahead(&self, ahead: Duration) {
        self.0.lock().sweep(Instant::now() + ahead);
    }

    /// How many idle connections are kept, of both kinds.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        let kept = self.0.lock();
        kept.targets
            .values()
            .map(|shelf| {
                shelf.http1.len()
                    + shelf
                        .http2
                        .iter()
                        .filter(|(line, _)| line.is_idle())
                        .count()
            })
            .sum()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, target: &Target, speak: Speak) -> Option<Lease> {
        let mut kept = self.lock();
        let policy = kept.policy;
        let shelf = kept.targets.get_mut(target)?;
        let line = shelf.take(target, speak);
        let (line, taken) = (line.0, line.1);
        kept.idle -= taken;
        Some(Lease {
            pool: Arc::downgrade(self),
            target: target.clone(),
            policy,
            line: line?,
            reused: true,
        })
    }

    async fn http1(
        self: &Arc<Self>,
        target: &Target,
        io: OriginIo,
        policy: u64,
        by: Instant,
    ) -> Result<Lease, DialError> {
        let line = timeout_at(by, Http1Line::begin(io, &self.tasks))
            .await
            .map_err(|_| too_slow(target))?
            .map_err(|source| DialError::Handshake {
                at: target.to_string(),
                source,
            })?;
        Ok(Lease {
            pool: Arc::downgrade(self),
            target: target.clone(),
            policy,
            line: Line::Http1(line),
            reused: false,
        })
    }

    /// HTTP/2 with prior knowledge; `None` when the origin does not have it.
    async fn http2_in_clear(
        self: &Arc<Self>,
        target: &Target,
        fresh: bool,
        by: Instant,
    ) -> Result<Option<Lease>, DialError> {
        if self.refused_http2(target) {
            return Ok(None);
        }
        let beginning = self.beginning(target);
        let _one_at_a_time = timeout_at(by, beginning.lock())
            .await
            .map_err(|_| too_slow(target))?;
        if !fresh && let Some(lease) = self.take(target, Speak::Http2) {
            return Ok(Some(lease));
        }
        if self.refused_http2(target) {
            return Ok(None);
        }
        let policy = self.lock().policy;
        let socket = self.dialler.dial(target, by).await?;
        match Http2Line::begin_in_clear(OriginIo::Plain(socket), &self.tasks).await {
            Some(line) => Ok(Some(self.share(target, line, policy))),
            None => {
                let until = Instant::now() + NO_HTTP2;
                self.lock().shelf(target).no_http2_until = Some(until);
                self.sweep_later();
                Ok(None)
            }
        }
    }

    fn refused_http2(&self, target: &Target) -> bool {
        let kept = self.lock();
        let until = kept
            .targets
            .get(target)
            .and_then(|shelf| shelf.no_http2_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn beginning(&self, target: &Target) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.lock().shelf(target).beginning)
    }

    async fn secure(
        self: &Arc<Self>,
        target: &Target,
        speak: Speak,
        fresh: bool,
        by: Instant,
    ) -> Result<Lease, DialError> {
        let Target::Https { host, verify, .. } = target else {
            return Err(DialError::Unsupported {
                target: target.to_string(),
            });
        };
        let beginning = self.beginning(target);
        let may_have_http2 = || speak != Speak::Http1 && !self.refused_http2(target);
        let mut one_at_a_time = None;
        // Visits that come at once to an origin with HTTP/2 share its first connection.
        if may_have_http2() {
            let turn = timeout_at(by, beginning.lock())
                .await
                .map_err(|_| too_slow(target))?;
            if !fresh && let Some(lease) = self.take(target, speak) {
                return Ok(lease);
            }
            // The one before has found out: where there is nothing to share nobody waits.
            one_at_a_time = may_have_http2().then_some(turn);
        }
        let policy = self.lock().policy;
        let socket = self.dialler.dial(target, by).await?;
        let stream = timeout_at(
            by,
            self.tls
                .connect(host, *verify, speak == Speak::Http1, socket),
        )
        .await
        .map_err(|_| too_slow(target))?
        .map_err(|source| DialError::Tls {
            at: target.to_string(),
            source,
        })?;
        let agreed_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = OriginIo::Tls(Box::new(stream));
        if !agreed_http2 {
            if speak != Speak::Http1 {
                self.lock().shelf(target).no_http2_until = Some(Instant::now() + NO_HTTP2);
                self.sweep_later();
            }
            drop(one_at_a_time);
            return self.http1(target, io, policy, by).await;
        }
        let line = timeout_at(by, Http2Line::begin(io, &self.tasks))
            .await
            .map_err(|_| too_slow(target))?
            .map_err(|source| DialError::Handshake {
                at: target.to_string(),
                source,
            })?;
        Ok(self.share(target, line, policy))
    }

    /// Puts a new HTTP/2 connection where others find it, and takes its first stream.
    fn share(self: &Arc<Self>, target: &Target, line: Http2Line, policy: u64) -> Lease {
        let line = Arc::new(line);
        line.take_stream_unasked();
        let mut kept = self.lock();
        if kept.policy == policy {
            let shelf = kept.shelf(target);
            shelf.no_http2_until = None;
            shelf.http2.push((Arc::clone(&line), Instant::now()));
        }
        drop(kept);
        self.sweep_later();
        Lease {
            pool: Arc::downgrade(self),
            target: target.clone(),
            policy,
            line: Line::Http2(Stream(line)),
            reused: false,
        }
    }

    fn keep(self: &Arc<Self>, target: Target, policy: u64, line: Http1Line) {
        let mut kept = self.lock();
        if kept.policy != policy || kept.idle >= IDLE_TOTAL {
            return;
        }
        let shelf = kept.shelf(&target);
        shelf.http1.push_back((line, Instant::now()));
        let oldest = (shelf.http1.len() > IDLE_PER_TARGET).then(|| shelf.http1.pop_front());
        if oldest.is_none() {
            kept.idle += 1;
        }
        drop(kept);
        self.sweep_later();
    }

    /// Makes sure that a task closes what stays idle too long; it ends when nothing is kept.
    fn sweep_later(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().sweeping, true) {
            return;
        }
        let (pool, stopped) = (Arc::downgrade(self), self.tasks.stopped());
        self.tasks.spawn("origin-pool", async move {
            loop {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => break,
                    () = sleep(SWEEP) => {}
                }
                let Some(pool) = pool.upgrade() else { break };
                if !pool.lock().sweep(Instant::now()) {
                    break;
                }
            }
        });
    }
}

impl Kept {
    fn shelf(&mut self, target: &Target) -> &mut Shelf {
        self.targets.entry(target.clone()).or_default()
    }

    /// Closes what is too old; false when nothing is left to look after.
    fn sweep(&mut self, now: Instant) -> bool {
        for shelf in self.targets.values_mut() {
            shelf
                .http1
                .retain(|(line, since)| now - *since < IDLE_HTTP1 && line.is_clean());
            shelf.http2.retain_mut(|(line, since)| {
                if !line.is_idle() {
                    *since = now;
                }
                line.is_open() && now - *since < IDLE_HTTP2
            });
            if shelf.no_http2_until.is_some_and(|until| until <= now) {
                shelf.no_http2_until = None;
            }
        }
        self.targets.retain(|_, shelf| shelf.is_worth_keeping());
        self.idle = self.targets.values().map(|shelf| shelf.http1.len()).sum();
        self.sweeping = !self.targets.is_empty();
        self.sweeping
    }
}

impl Shelf {
    /// A connection for `speak`, and how many idle HTTP/1.1 ones left the shelf for it.
    fn take(&mut self, target: &Target, speak: Speak) -> (Option<Line>, usize) {
        let secure = matches!(target, Target::Https { .. });
        if speak == Speak::Http2 || (secure && speak == Speak::Any) {
            let free = self.http2.iter().find(|(line, _)| line.take_stream());
            if let Some((line, _)) = free {
                return (Some(Line::Http2(Stream(Arc::clone(line)))), 0);
            }
        }
        if speak == Speak::Http2 && !secure {
            return (None, 0);
        }
        let (now, mut taken) = (Instant::now(), 0);
        // The one used last is the least likely to be closing.
        while let Some((line, since)) = self.http1.pop_back() {
            taken += 1;
            if now - since < IDLE_HTTP1 && line.is_clean() {
                return (Some(Line::Http1(line)), taken);
            }
        }
        (None, taken)
    }

    fn is_worth_keeping(&self) -> bool {
        !self.http1.is_empty()
            || !self.http2.is_empty()
            || self.no_http2_until.is_some()
            || Arc::strong_count(&self.beginning) > 1
    }
}

impl Lease {
    pub(super) fn version(&self) -> Version {
        match self.line {
            Line::Http1(_) => Version::HTTP_11,
            Line::Http2(_) => Version::HTTP_2,
        }
    }

    /// Sends a request. Dropping the future gives the request up: an HTTP/2 stream is reset, an
    /// HTTP/1.1 connection closes.
    pub(super) async fn ask(&mut self, request: Request<RequestBody>) -> Answer {
        match &mut self.line {
            Line::Http1(line) => ask_http1(line, request).await,
            Line::Http2(stream) => ask_http2(&stream.0, request).await,
        }
    }

    /// Gives the connection back after an exchange that ended well on both sides.
    pub(super) async fn give_back(self) {
        let Line::Http1(mut line) = self.line else {
            return;
        };
        // What came after the answer shows here at the latest: hyper looks before it is ready again.
        let settled = timeout(SETTLE, line.settled()).await;
        if settled == Ok(true)
            && let Some(pool) = self.pool.upgrade()
        {
            pool.keep(self.target, self.policy, line);
        }
    }
}
