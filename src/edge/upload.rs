//! The request body on its way to the link, in a task of its own: it may go on after the response has
//! begun, and must not wait for a visitor that does not read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Pass;
use super::respond::Failure;
use crate::http::clean_trailers;
use crate::http::limits::CONTINUE_TIMEOUT;
use crate::tasks::Tasks;
use crate::times::Clock;
use crate::wire::{BodyError, SendChunks, StreamCode, send_body};

/// A running upload, as the visit that waits for the answer sees it.
pub(super) struct Upload {
    progress: Arc<Progress>,
    /// Rings when the visitor's body broke off; gone when the upload ended otherwise.
    broken: Option<oneshot::Receiver<()>>,
    go: Option<oneshot::Sender<()>>,
    /// The hold was over while this was still under way.
    outlived_hold: bool,
}

/// How an upload gets on.
#[derive(Debug)]
struct Progress {
    start: Instant,
    /// Milliseconds after the start, of the last move.
    moved: AtomicU64,
    /// Whether the next move is the visitor's.
    waits_for_visitor: AtomicBool,
    /// Rings at each move.
    moves: Notify,
    /// The client has all of it, or will get no more.
    over: CancellationToken,
}

impl Progress {
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
        body: Incoming,
        waits: bool,
        pass: Arc<Pass>,
        cancel: CancellationToken,
    ) -> Self {
        let progress = Arc::new(Progress {
            start: now(),
            moved: AtomicU64::new(0),
            waits_for_visitor: AtomicBool::new(false),
            moves: Notify::new(),
            over: CancellationToken::new(),
        });
        let (tell, broken) = oneshot::channel();
        let (go, gone) = oneshot::channel();
        let body = UploadBody {
            body,
            ended: false,
            progress: Arc::clone(&progress),
        };
        let (stop, go_first) = (tasks.stopped(), waits.then_some(gone));
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
                Some(Err(BodyError::Source(_))) => {
                    tx.reset(StreamCode::Cancelled);
                    // Nobody listens any more once the answer has begun.
                    let _ = tell.send(());
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

    /// The origin wants the body.
    pub(super) fn go(&mut self) {
        if let Some(go) = self.go.take() {
            // An upload that is over needs no word.
            let _ = go.send(());
        }
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
                Some(receiver) => receiver.await.is_ok(),
                None => false,
            };
            if !told {
                *broken = None;
                std::future::pending::<()>().await;
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
            () = breaks => Failure::BodyBroken,
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
    body: Incoming,
    ended: bool,
    progress: Arc<Progress>,
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.note(polled.is_pending());
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            // Over HTTP/1, when the response has left before the body is whole, hyper 1.12 does not
            // tell the body's end before the next request comes; but the end can be seen.
            self.ended = frame.is_trailers() || self.body.is_end_stream();
            if let Some(trailers) = frame.trailers_mut() {
                clean_trailers(trailers);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
