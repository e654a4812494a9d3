//! The request body on its way to the link, in a task of its own: it may go on after the response has
//! begun, and must not wait for a visitor that does not read.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::Pass;
use super::incoming::BodyBroken;
use super::pace::Pace;
use super::respond::Failure;
use super::sent::Sent;
use super::shape::Throttle;
use crate::http::clean_trailers;
use crate::http::limits::CONTINUE_TIMEOUT;
use crate::tasks::Tasks;
use crate::times::Clock;
use crate::wire::{BodyError, SendChunks, StreamCode, send_body};

/// A running upload, as the visit that waits for the answer sees it.
pub(super) struct Upload {
    progress: Arc<Progress>,
    /// Says why the visitor's body is not whole; gone when the upload ended otherwise.
    broken: Option<oneshot::Receiver<Failure>>,
    go: Option<oneshot::Sender<()>>,
    /// The hold was over while this was still under way.
    outlived_hold: bool,
}

/// What is known of an upload from its head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// The visitor waits for a 100.
    pub(super) expects_continue: bool,
    /// The body is a conversation, that may rest: no minimum rate.
    pub(super) may_pause: bool,
}

/// How an upload gets on.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    /// Milliseconds after the start, of the last move.
    moved: AtomicU64,
    /// Whether the next move is the visitor's.
    waits_for_visitor: AtomicBool,
    /// Rings at each move.
    moves: Notify,
    /// The client has all of it, or will get no more.
    over: CancellationToken,
    /// Whether the answer is under way too: then pauses are part of the conversation.
    duplex: AtomicBool,
}

/// Why a body is not whole.
#[derive(Debug, thiserror::Error)]
enum BodyTrouble {
    #[error(transparent)]
    Broken(#[from] BodyBroken),
    #[error("the body comes too slowly")]
    Slow,
}

impl Progress {
    pub(super) fn set_duplex(&self, duplex: bool) {
        self.duplex.store(duplex, Ordering::Relaxed);
    }

    fn note(&self, waits_for_visitor: bool) {
        let since = now().saturating_duration_since(self.start).as_millis();
        self.moved
            .store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.waits_for_visitor
            .store(waits_for_visitor, Ordering::Relaxed);
        self.moves.notify_waiters();
    }

    /// Waits for the next move, or for the end.
    async fn next_move(&self) {
        tokio::select! {
            biased;
            () = self.over.cancelled() => {}
            () = self.moves.notified() => {}
        }
    }

    fn quiet_since(&self) -> Instant {
        if self.waits_for_visitor.load(Ordering::Relaxed) {
            return now();
        }
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Counts from the last byte that went to the client, and not while the visitor takes its time.
    async fn silence(&self, limit: Duration) {
        if limit.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let due = self.quiet_since() + limit;
            if now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl Upload {
    /// Starts sending `body`. With `waits`, the visitor waits for a 100, which hyper sends as soon as
    /// the body is first asked for: so nobody asks before [`go`](Self::go) or a second has passed.
    pub(super) fn start<T: SendChunks>(
        tasks: &Tasks,
        tx: T,
        body: Sent,
        manner: Manner,
        pass: Arc<Pass>,
        cancel: CancellationToken,
        throttle: Throttle,
    ) -> Self {
        let progress = Arc::new(Progress {
            start: now(),
            moved: AtomicU64::new(0),
            waits_for_visitor: AtomicBool::new(false),
            moves: Notify::new(),
            over: CancellationToken::new(),
            duplex: AtomicBool::new(false),
        });
        let (tell, broken) = oneshot::channel();
        let (go, gone) = oneshot::channel();
        let body = UploadBody {
            body,
            ended: false,
            progress: Arc::clone(&progress),
            pace: (!manner.may_pause).then(Pace::default),
            timer: None,
            throttle,
            goes_on: false,
        };
        let go_first = manner.expects_continue.then_some(gone);
        let stop = tasks.stopped();
        let over = progress.over.clone().drop_guard();
        tasks.spawn("edge-upload", async move {
            let _over = over;
            let mut tx = tx;
            let sent = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                () = cancel.cancelled() => None,
                () = pass.cut.cancelled() => None,
                sent = send(&mut tx, body, go_first) => sent,
            };
            match sent {
                Some(Ok(_)) => {}
                Some(Err(BodyError::Source(error))) => {
                    let slow = matches!(error.downcast_ref(), Some(BodyTrouble::Slow));
                    // Nobody listens any more once the answer has begun.
                    let _ = tell.send(if slow {
                        Failure::BodySlow
                    } else {
                        Failure::BodyBroken
                    });
                    // After the word: what the client says to this comes later than the reason for it.
                    tx.reset(StreamCode::Cancelled);
                }
                // The client wants no more of it, or the link is gone: its answer says the rest.
                Some(Err(_)) | None => tx.reset(StreamCode::Cancelled),
            }
        });
        Self {
            progress,
            broken: Some(broken),
            go: Some(go),
            outlived_hold: false,
        }
    }

    /// How it gets on; the answer keeps it.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The origin wants the body.
    pub(super) fn go(&mut self) {
        if let Some(go) = self.go.take() {
            // An upload that is over needs no word.
            let _ = go.send(());
        }
    }

    /// Why the visitor's body is not whole, if that is known by now.
    pub(super) fn told(&mut self) -> Option<Failure> {
        self.broken.as_mut()?.try_recv().ok()
    }

    /// Ends when the visitor's body breaks off, when the answer has been due for `limit`, or when all
    /// is sent and the link stays away: `offline`. What is still being sent waits for the link, as a
    /// download does, and that it waits is no fault of the origin's.
    pub(super) async fn trouble(
        &mut self,
        limit: Duration,
        offline: &CancellationToken,
    ) -> Failure {
        let Self {
            progress,
            broken,
            outlived_hold,
            ..
        } = self;
        let breaks = async {
            let told = match broken {
                Some(receiver) => receiver.await.ok(),
                None => None,
            };
            match told {
                Some(failure) => failure,
                None => {
                    *broken = None;
                    std::future::pending().await
                }
            }
        };
        let late = async {
            if !*outlived_hold {
                tokio::select! {
                    biased;
                    () = offline.cancelled() => {}
                    () = progress.silence(limit) => return Failure::Timeout,
                }
                if progress.over.is_cancelled() {
                    return Failure::Away;
                }
                *outlived_hold = true;
                progress.next_move().await;
            }
            progress.silence(limit).await;
            Failure::Timeout
        };
        tokio::select! {
            biased;
            failure = breaks => failure,
            failure = late => failure,
        }
    }
}

/// `None` when the body was never wanted.
async fn send<T: SendChunks>(
    tx: &mut T,
    body: UploadBody,
    go_first: Option<oneshot::Receiver<()>>,
) -> Option<Result<u64, BodyError>> {
    let progress = Arc::clone(&body.progress);
    if let Some(go) = go_first {
        // No word at all means that the answer came without it.
        if let Ok(Err(_)) = tokio::time::timeout(CONTINUE_TIMEOUT, go).await {
            return None;
        }
    }
    let sent = send_body(tx, body).await;
    progress.note(false);
    Some(sent)
}

/// The visitor's body, without the trailers that have no place there.
struct UploadBody {
    body: Sent,
    ended: bool,
    progress: Arc<Progress>,
    pace: Option<Pace>,
    timer: Option<Pin<Box<Sleep>>>,
    throttle: Throttle,
    /// What came last has yet to go on: until the link has taken it, the visitor is not waited for.
    goes_on: bool,
}

impl UploadBody {
    /// The visitor has sent nothing just now. Ready when it has been too slow.
    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pace) = &mut self.pace else {
            return Poll::Pending;
        };
        loop {
            let due = pace.wait(now());
            if now() >= due {
                if !self.progress.duplex.load(Ordering::Relaxed) {
                    return Poll::Ready(());
                }
                pace.forgive();
                continue;
            }
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() > due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(due);
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BodyTrouble;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyTrouble>>> {
        let this = &mut *self;
        if this.throttle.poll_ready(cx).is_pending() {
            // The origin is not waited for.
            this.progress.note(true);
            return Poll::Pending;
        }
        if let Some(piece) = this.throttle.next_piece() {
            this.goes_on = true;
            this.progress.note(false);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let mut polled = Pin::new(&mut self.body)
            .poll_frame(cx)
            .map_err(BodyTrouble::Broken);
        let waits = polled.is_pending() && !std::mem::take(&mut self.goes_on);
        self.progress.note(waits);
        if polled.is_pending() {
            if !waits {
                // Whoever sends writes what there is, and asks again.
                return Poll::Pending;
            }
            ready!(self.poll_slow(cx));
            self.ended = true;
            return Poll::Ready(Some(Err(BodyTrouble::Slow)));
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            if let Some(pace) = &mut self.pace {
                pace.got(now(), size);
            }
            self.goes_on = size > 0;
            // Over HTTP/1, when the response has left before the body is whole, hyper 1.12 does not
            // tell the body's end before the next request comes; but the end can be seen.
            self.ended = frame.is_trailers() || self.body.is_end_stream();
            if let Some(trailers) = frame.trailers_mut() {
                clean_trailers(trailers);
            }
        }
        let throttle = &mut self.throttle;
        polled.map(|polled| {
            polled
                .map(|polled| polled.map(|frame| frame.map_data(|data| throttle.first_piece(data))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.throttle.is_empty() && (self.ended || self.body.is_end_stream())
    }
}
