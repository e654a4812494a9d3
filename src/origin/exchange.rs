//! One HTTP visit: a head and a body from the wire, asked of an origin, its answer back on the wire.
//! Mapping of heads is in `request` and `response`; what follows a 101 is in `splice`.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use super::body::{RequestBody, ResponseBody, Watch};
use super::dial::DialError;
use super::line::SendError;
use super::naming::Naming;
use super::pool::{Lease, Pool, Speak};
use super::request::{BadHead, Plan};
use super::response::{BadResponse, final_head, interim_head, may_be_reused, switch_head};
use super::socket::OriginIo;
use super::splice::{Moved, SpliceError, splice};
use super::tunnel::{OriginTunnel, VisitReport};
use crate::engine::HostUse;
use crate::names::Target;
use crate::times::Clock;
use crate::wire::{
    BodyError, FrameDecoder, HttpHead, RecvChunks, ResponseHead, SendChunks, StreamCode,
    StreamError, WireBody, send_answer, send_interim, send_response_head,
};

/// Interim answers that wait to be sent on; what comes while these wait is left out.
const INTERIMS: usize = 8;
/// How long hyper may take to hand over a connection after a 101.
const HANDOVER: Duration = Duration::from_secs(5);

/// Why a visit got no whole answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the visit's head is not acceptable")]
    Head(#[from] BadHead),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the visitor went away")]
    Visitor(#[source] StreamError),
    #[error("the visitor's body did not arrive")]
    RequestBody(StreamCode),
    #[error("the origin took too long")]
    TooSlow,
    #[error("the origin closed before it was asked")]
    NotSent(#[source] hyper::Error),
    #[error("the origin gave no answer")]
    NoAnswer(#[source] hyper::Error),
    #[error("the origin's answer is not acceptable")]
    Answer(#[from] BadResponse),
    #[error("the origin broke off its answer")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the origin's connection was not handed over")]
    Handover,
    #[error(transparent)]
    Splice(SpliceError),
}

impl Failure {
    pub(super) fn code(&self) -> StreamCode {
        match self {
            Self::Head(_) => StreamCode::Protocol,
            Self::Dial(error) => error.code(),
            Self::Visitor(_) | Self::Splice(SpliceError::Visitor(_)) => StreamCode::Cancelled,
            Self::RequestBody(code) => *code,
            Self::TooSlow => StreamCode::OriginTimeout,
            Self::NotSent(_) => StreamCode::OriginUnreachable,
            Self::NoAnswer(_)
            | Self::Answer(_)
            | Self::Broken(_)
            | Self::Handover
            | Self::Splice(SpliceError::Origin(_)) => StreamCode::OriginError,
        }
    }
}

/// Serves a visit from an origin that speaks HTTP.
pub(super) async fn serve<S: SendChunks, R: RecvChunks>(
    pool: &Pool,
    tunnel: &OriginTunnel,
    head: &mut HttpHead,
    tx: &mut S,
    rx: R,
    report: &mut VisitReport,
) -> Result<(), Failure> {
    let fields = std::mem::take(&mut head.fields);
    // Few visits need one, and random numbers are dear.
    let nonce = head.protocol.as_ref().map(|_| nonce()).unwrap_or_default();
    let plan = Plan::new(head, fields, nonce)?;
    let (body, rest) = if head.has_body {
        let body = WireBody::new(rx, FrameDecoder::new());
        (RequestBody::new(body, plan.length), None)
    } else {
        (RequestBody::empty(), Some(rx))
    };
    let exchange = Exchange::new(pool, tunnel, head, plan, body.watch());
    let served = exchange.run(tx, body, rest, report).await;
    report.bytes_in += exchange.watch.bytes();
    match (&served, exchange.watch.failure()) {
        // What broke the exchange was the visitor's body, whatever hyper made of it.
        (Err(_), Some(code)) => Err(Failure::RequestBody(code)),
        _ => served,
    }
}

/// Takes the end of a stream that has nothing more to say, so that dropping it asks nobody to stop.
pub(super) fn take_end<R: RecvChunks>(mut rx: R) {
    let mut chunks = [Bytes::new()];
    let _ = rx.poll_recv(&mut Context::from_waker(Waker::noop()), &mut chunks);
}

fn nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    // A key without randomness is still a key: it protects caches, not secrets (RFC 6455 section 10.3).
    let _ = aws_lc_rs::rand::fill(&mut nonce);
    nonce
}

/// One visit's question, asked once or twice.
pub(super) struct Exchange<'a> {
    pool: &'a Pool,
    tunnel: &'a OriginTunnel,
    head: &'a HttpHead,
    plan: Plan,
    watch: Arc<Watch>,
    started: Instant,
}

/// However it ends: what is left of the question is not wanted any more.
impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.watch.stop();
    }
}

/// An origin's answer, and the connection it came on.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    lease: Lease,
    naming: Naming,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        pool: &'a Pool,
        tunnel: &'a OriginTunnel,
        head: &'a HttpHead,
        plan: Plan,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            pool,
            tunnel,
            head,
            plan,
            watch,
            started: Instant::now(),
        }
    }

    async fn run<S: SendChunks, R: RecvChunks>(
        &self,
        tx: &mut S,
        body: RequestBody,
        rest: Option<R>,
        report: &mut VisitReport,
    ) -> Result<(), Failure> {
        let answered = self.ask(tx, body).await?;
        report.status = Some(answered.response.status().as_u16());
        match rest {
            Some(rx) if answered.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Box::pin(self.switch(tx, rx, answered, report)).await
            }
            rest => {
                let relayed = self.relay(tx, answered, report).await;
                if let Some(rx) = rest {
                    take_end(rx);
                }
                relayed
            }
        }
    }

    /// The origin's answer under the host that it takes.
    pub(super) async fn ask<S: SendChunks>(
        &self,
        tx: &mut S,
        body: RequestBody,
    ) -> Result<Answered, Failure> {
        let used = self.tunnel.mind().current();
        let first = self.ask_as(tx, used, body).await;
        let Some(status) = self.answered_status(&first) else {
            return first;
        };
        let now = Clock.now().monotonic;
        let replayable = self.plan.is_replayable();
        if !self
            .tunnel
            .mind()
            .should_retry(now, used, status, replayable)
        {
            return first;
        }
        let second = self.ask_as(tx, HostUse::Rewrite, RequestBody::empty());
        match Box::pin(second).await {
            Ok(second) if self.learn(second.response.status()) => Ok(second),
            Ok(_) => first,
            Err(gone @ Failure::Visitor(_)) => Err(gone),
            // The second question was ours; the visitor gets the answer to their own.
            Err(err) => {
                debug!(slug = %self.tunnel.slug, %err, "origin not asked again");
                first
            }
        }
    }

    /// The status of an answer. An upgrade that is answered with something that is no HTTP counts as
    /// refused: Next.js writes a bare word to the socket when it does not like the Origin.
    fn answered_status(&self, first: &Result<Answered, Failure>) -> Option<u16> {
        match first {
            Ok(answered) => Some(answered.response.status().as_u16()),
            Err(Failure::NoAnswer(_)) if self.plan.upgrade.is_some() => {
                Some(StatusCode::FORBIDDEN.as_u16())
            }
            Err(_) => None,
        }
    }

    /// Takes the outcome of a second question; whether its answer is the one to hand on.
    fn learn(&self, status: StatusCode) -> bool {
        let now = Clock.now().monotonic;
        let mut mind = self.tunnel.mind();
        let changed = mind.retried(now, status.as_u16());
        let rewrites = mind.current() == HostUse::Rewrite;
        drop(mind);
        if let Some(host) = changed {
            info!(
                slug = %self.tunnel.slug,
                target = %self.tunnel.target,
                host = host.as_str(),
                "origin refuses the public host, rewriting it from now on"
            );
        }
        rewrites
    }

    async fn ask_as<S: SendChunks>(
        &self,
        tx: &mut S,
        used: HostUse,
        mut body: RequestBody,
    ) -> Result<Answered, Failure> {
        let naming = self.naming(used);
        let mut fresh = false;
        loop {
            let mut lease = self.lease(tx, fresh).await?;
            match self.ask_on(tx, &mut lease, &naming, body).await? {
                Ok(response) => {
                    return Ok(Answered {
                        response,
                        lease,
                        naming,
                    });
                }
                // A kept connection that died unseen; nothing was sent, so once more is still once.
                Err(SendError::NotSent(request, _)) if lease.reused && !fresh => {
                    fresh = true;
                    body = request.into_body();
                }
                Err(SendError::NotSent(_, error)) => return Err(Failure::NotSent(error)),
                Err(SendError::Failed(error)) => return Err(Failure::NoAnswer(error)),
            }
        }
    }

    fn naming(&self, used: HostUse) -> Naming {
        Naming::new(
            &self.tunnel.mind(),
            used,
            &self.tunnel.target,
            &self.head.scheme,
            &self.head.authority,
        )
    }

    async fn lease<S: SendChunks>(&self, tx: &mut S, fresh: bool) -> Result<Lease, Failure> {
        let speak = match (&self.plan.upgrade, self.plan.is_grpc) {
            (Some(_), _) => Speak::Http1,
            (None, true) => Speak::Http2,
            (None, false) => Speak::Any,
        };
        tokio::select! {
            biased;
            gone = gone(tx) => Err(gone),
            leased = self.pool.lease(&self.tunnel.target, speak, fresh) => Ok(leased?),
        }
    }

    /// Asks on one connection and relays what comes before the answer.
    async fn ask_on<S: SendChunks>(
        &self,
        tx: &mut S,
        lease: &mut Lease,
        naming: &Naming,
        body: RequestBody,
    ) -> Result<Result<Response<Incoming>, SendError>, Failure> {
        let secure = matches!(self.tunnel.target, Target::Https { .. });
        let mut request = self.plan.request(lease.version(), secure, naming, body)?;
        let interims = Arc::new(Waiting::default());
        let told = Arc::clone(&interims);
        hyper::ext::on_informational(&mut request, move |interim| {
            if let Some(head) = interim_head(interim.status(), interim.headers()) {
                told.push(head);
            }
        });
        let mut relay = Interims::new(self.head.version, self.plan.expects_continue);
        if lease.version() == http::Version::HTTP_2 && self.plan.expects_continue {
            // hyper does not show a 100 on HTTP/2, and the visitor must not wait for it.
            relay.send(tx, continue_head()).await?;
        }
        let mut asking = pin!(lease.ask(request));
        loop {
            tokio::select! {
                biased;
                gone = gone(tx) => return Err(gone),
                () = interims.news.notified() => while let Some(head) = interims.pop() {
                    relay.send(tx, head).await?;
                },
                answer = &mut asking => {
                    while let Some(head) = interims.pop() {
                        relay.send(tx, head).await?;
                    }
                    return Ok(answer);
                }
                () = self.overdue(relay.continued) => return Err(Failure::TooSlow),
            }
        }
    }

    /// Ready when the origin has had its time. The clock runs while it is the origin's turn: not
    /// while a body still moves, and not while the visitor is the one who is waited for.
    async fn overdue(&self, continued: bool) {
        if self.head.timeout_ms == 0 {
            return std::future::pending().await;
        }
        let limit = Duration::from_millis(self.head.timeout_ms);
        let mut since = self.started;
        loop {
            since = since.max(self.watch.moved_at().unwrap_or(since));
            sleep_until(since + limit).await;
            let may_send = !self.plan.expects_continue || continued || self.watch.bytes() > 0;
            if self.watch.awaits_visitor() && may_send {
                since = Instant::now();
            } else if self.watch.moved_at().is_none_or(|moved| moved <= since) {
                return;
            }
        }
    }

    async fn relay<S: SendChunks>(
        &self,
        tx: &mut S,
        answered: Answered,
        report: &mut VisitReport,
    ) -> Result<(), Failure> {
        let (parts, body) = answered.response.into_parts();
        let may_be_reused = may_be_reused(&parts);
        let head = final_head(parts, &answered.naming, body.is_end_stream())?;
        let mut body = ResponseBody::new(body);
        let sent = send_answer(tx, &head, &mut body).await;
        report.bytes_out = body.bytes();
        sent.map_err(|error| match error {
            BodyError::Stream(error) => Failure::Visitor(error),
            BodyError::Source(error) => Failure::Broken(error),
            BodyError::Wire(error) => Failure::Broken(error.into()),
        })?;
        if self.watch.has_ended() && may_be_reused {
            answered.lease.give_back().await;
        }
        Ok(())
    }

    async fn switch<S: SendChunks, R: RecvChunks>(
        &self,
        tx: &mut S,
        mut rx: R,
        answered: Answered,
        report: &mut VisitReport,
    ) -> Result<(), Failure> {
        let Answered {
            response,
            lease,
            naming,
        } = answered;
        let (parts, body) = response.into_parts();
        let head = switch_head(&parts, self.plan.upgrade.as_ref(), &naming)?;
        let handing = hyper::upgrade::on(Response::from_parts(parts, body));
        let upgraded = timeout(HANDOVER, handing)
            .await
            .map_err(|_| Failure::Handover)?
            .map_err(Failure::NoAnswer)?;
        let over = upgraded
            .downcast::<TokioIo<OriginIo>>()
            .map_err(|_| Failure::Handover)?;
        // The connection is ours now; its driver has ended.
        drop(lease);
        send_response_head(tx, &head)
            .await
            .map_err(Failure::Visitor)?;
        let mut moved = Moved::default();
        let ended = splice(over.io.into_inner(), over.read_buf, tx, &mut rx, &mut moved).await;
        report.bytes_in = moved.up;
        report.bytes_out = moved.down;
        ended.map_err(Failure::Splice)
    }
}

/// Interim answers on their way from hyper. No channel: it would make room for them with each visit, and
/// few have any.
#[derive(Default)]
struct Waiting {
    heads: Mutex<VecDeque<ResponseHead>>,
    news: Notify,
}

impl Waiting {
    fn heads(&self) -> MutexGuard<'_, VecDeque<ResponseHead>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, head: ResponseHead) {
        let mut heads = self.heads();
        // Full: the visitor reads slowly, and interim answers are advice.
        if heads.len() < INTERIMS {
            heads.push_back(head);
            self.news.notify_one();
        }
    }

    fn pop(&self) -> Option<ResponseHead> {
        self.heads().pop_front()
    }
}

/// Sends interim answers on, where the visitor's HTTP version has them.
struct Interims {
    version: u8,
    expects_continue: bool,
    /// Whether a 100 went out.
    continued: bool,
}

impl Interims {
    fn new(version: u8, expects_continue: bool) -> Self {
        Self {
            version,
            expects_continue,
            continued: false,
        }
    }

    async fn send<S: SendChunks>(&mut self, tx: &mut S, head: ResponseHead) -> Result<(), Failure> {
        let is_continue = head.status == StatusCode::CONTINUE;
        let unasked = is_continue && (!self.expects_continue || self.continued);
        if self.version < 11 || unasked {
            return Ok(());
        }
        self.continued |= is_continue;
        send_interim(tx, &head).await.map_err(Failure::Visitor)
    }
}

fn continue_head() -> ResponseHead {
    ResponseHead {
        status: StatusCode::CONTINUE,
        fields: http::HeaderMap::new(),
        ends: false,
    }
}

/// Ready when the visitor wants no answer any more.
pub(super) async fn gone<S: SendChunks>(tx: &mut S) -> Failure {
    match std::future::poll_fn(|cx| tx.poll_stopped(cx)).await {
        Some(error) => Failure::Visitor(error),
        // Everything was taken, which cannot be before everything was sent.
        None => std::future::pending().await,
    }
}
