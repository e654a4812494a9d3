//! Response bodies as hyper takes them: our own answers, and an origin's body out of its stream.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Pass;
use super::connection::{Conn, Patience, Turn};
use super::serve::VisitLog;
use super::shape::Throttle;
use super::stall::{Outlet, Place, Reader, StallBoard};
use super::upload::Progress;
use crate::http::clean_trailers;
use crate::http::limits::RATE_BYTES;
use crate::http::response::Body as Expected;
use crate::wire::{BodyError, RecvChunks, StreamCode, WireBody};

/// Why a response is not delivered whole. hyper then breaks the connection off (HTTP/1) or resets the
/// stream (HTTP/2), so that nobody takes it for complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum Abort {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the visit was ended")]
    Cut,
    #[error("the body is not as long as its head says")]
    Length,
}

/// Our own answers are given in pieces of this size: less than the minimum rate in its window, so that each
/// that is taken shows in time that the visitor is there.
const PIECE: usize = RATE_BYTES as usize * 4 / 5;

/// A response's body.
pub(super) struct EdgeBody<R: RecvChunks> {
    kind: Kind<R>,
    /// Fires when it was given up; whoever writes it may not be asking for more.
    given_up: CancellationToken,
    /// The request's turn on its connection is over when hyper lets go of the body.
    _turn: Option<Turn>,
}

enum Kind<R: RecvChunks> {
    Own {
        left: Bytes,
        seat: Option<(Arc<OwnSource>, Place)>,
    },
    Visit(Box<VisitBody<R>>),
}

impl<R: RecvChunks> EdgeBody<R> {
    pub(super) fn own(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Own {
                left: bytes,
                seat: None,
            },
            given_up: CancellationToken::new(),
            _turn: None,
        }
    }

    pub(super) fn visit(body: VisitBody<R>) -> Self {
        Self {
            given_up: body.source.given_up.clone(),
            kind: Kind::Visit(Box::new(body)),
            _turn: None,
        }
    }

    /// How long it is, when it is ours.
    pub(super) fn own_size(&self) -> Option<u64> {
        match &self.kind {
            Kind::Own { left, .. } => Some(left.len() as u64),
            Kind::Visit(_) => None,
        }
    }

    /// Fires when the minimum rate, or the end of its visit, gave it up.
    pub(super) fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }

    /// As the answer of a turn. Where many share a connection, one of ours is judged like the others: not
    /// taken, it would keep the connection busy for good.
    pub(super) fn in_turn<S>(mut self, turn: Turn, conn: &Conn<S>) -> Self {
        if let Kind::Own { left, seat } = &mut self.kind
            && !left.is_empty()
            && conn.ledger.is_none()
        {
            let source = Arc::new(OwnSource::new(self.given_up.clone()));
            let outlet = Outlet {
                activity: Arc::clone(&conn.activity),
                abort: conn.abort.clone(),
                is_alone: false,
                is_patient: false,
            };
            let reader = Arc::clone(&source) as Arc<dyn Reader>;
            let place = (conn.edge.stalls).enter(None, reader, CancellationToken::new(), outlet);
            *seat = Some((source, place));
        }
        self._turn = Some(turn);
        self
    }
}

impl<R: RecvChunks> Body for EdgeBody<R> {
    type Data = Bytes;
    type Error = Abort;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        match &mut self.get_mut().kind {
            Kind::Own { left, .. } if left.is_empty() => Poll::Ready(None),
            Kind::Own { left, seat } => {
                let piece = left.split_to(left.len().min(PIECE));
                if let Some((source, _)) = seat {
                    source.gave(piece.len());
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Kind::Visit(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { left, .. } => left.is_empty(),
            Kind::Visit(body) => body.ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { left, .. } => SizeHint::with_exact(left.len() as u64),
            // What the head says is in the head; hyper needs no second word.
            Kind::Visit(_) => SizeHint::default(),
        }
    }
}

/// What goes as soon as a visit's response is given up, whatever its connection still keeps.
pub(super) struct Held {
    /// The admitted visit; dropped, it is over for the engine. The upload may share it.
    pub(super) pass: Arc<Pass>,
    /// Stops the upload when the visitor goes away before the response is whole.
    pub(super) upload: CancellationToken,
}

/// What a visit's response body keeps alive and ends.
pub(super) struct Ends {
    pub(super) board: Arc<StallBoard>,
    /// What it goes out on.
    pub(super) outlet: Option<Outlet>,
    /// The visitor may take an event stream as slowly as it likes.
    pub(super) _patience: Option<Patience>,
    /// The upload that still goes on; while both directions do, it may pause.
    pub(super) progress: Option<Arc<Progress>>,
    /// What holds it back.
    pub(super) throttle: Throttle,
    pub(super) log: VisitLog,
    pub(super) status: http::StatusCode,
}

/// An origin's response body.
pub(super) struct VisitBody<R: RecvChunks> {
    source: Arc<Source<R>>,
    ends: Ends,
    _place: Option<Place>,
    /// Fires when the visit must end.
    must_end: CancellationToken,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What is still to come, when the head says so.
    left: Option<u64>,
    ended: bool,
    whole: bool,
}

impl<R: RecvChunks> VisitBody<R> {
    pub(super) fn new(body: WireBody<R>, expected: Expected, held: Held, mut ends: Ends) -> Self {
        let is_bodiless = expected == Expected::None;
        if let Some(progress) = &ends.progress {
            progress.set_duplex(true);
        }
        let (link, must_end) = (held.pass.route.link, held.pass.cut.clone());
        let source = Arc::new(Source::new(body, held));
        // From the start: a visitor with a closed HTTP/2 window is never even asked to take anything.
        let outlet = ends.outlet.take().filter(|_| !is_bodiless);
        let place = outlet.map(|outlet| {
            ends.board.enter(
                Some(link),
                Arc::clone(&source) as Arc<dyn Reader>,
                must_end.clone(),
                outlet,
            )
        });
        Self {
            source,
            ends,
            _place: place,
            must_end,
            cut: None,
            left: match expected {
                Expected::Length(length) => Some(length),
                Expected::None | Expected::Open => None,
            },
            ended: is_bodiless,
            whole: is_bodiless,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.ends.throttle.poll_ready(cx).is_pending() {
            // It is not the visitor who is waited for.
            self.source.held_back();
            ready!(self.poll_cut(cx));
            self.ended = true;
            self.source.give_up(StreamCode::TunnelEnded);
            return Poll::Ready(Some(Err(Abort::Cut)));
        }
        if let Some(piece) = self.ends.throttle.next_piece() {
            self.source.gave();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let polled = match self.source.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => Some(self.accept(frame)),
            Poll::Ready(Some(Err(error))) => Some(Err(error)),
            Poll::Ready(None) if self.left.unwrap_or(0) > 0 => Some(Err(Abort::Length)),
            Poll::Ready(None) => {
                self.ended = true;
                self.whole = true;
                None
            }
            Poll::Pending => {
                ready!(self.poll_cut(cx));
                Some(Err(Abort::Cut))
            }
        };
        if let Some(Err(error)) = &polled {
            self.ended = true;
            self.source.give_up(match error {
                Abort::Cut => StreamCode::TunnelEnded,
                Abort::Body(_) | Abort::Length => StreamCode::Protocol,
            });
        }
        Poll::Ready(polled)
    }

    fn accept(&mut self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, Abort> {
        if let Some(trailers) = frame.trailers_mut() {
            clean_trailers(trailers);
        }
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(size).ok_or(Abort::Length)?;
        }
        self.ends.log.sent(size);
        let throttle = &mut self.ends.throttle;
        Ok(frame.map_data(|data| throttle.first_piece(data)))
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let token = &self.must_end;
        self.cut
            .get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()))
            .as_mut()
            .poll(cx)
    }
}

impl<R: RecvChunks> Drop for VisitBody<R> {
    fn drop(&mut self) {
        // hyper lets go as soon as a known length is through; the end of the stream lies behind it, and
        // a stream that is read to its end is not one that was given up.
        let all_given = self.ends.throttle.is_empty();
        if !self.ended && self.left == Some(0) && all_given {
            let mut cx = Context::from_waker(Waker::noop());
            self.whole = !matches!(self.source.poll(&mut cx), Poll::Ready(Some(_)));
        }
        if !self.whole {
            self.source.upload.cancel();
        }
        if let Some(progress) = &self.ends.progress {
            progress.set_duplex(false);
        }
        self.source.give_up(StreamCode::Cancelled);
        self.ends.log.served(self.ends.status, self.whole);
    }
}

/// The stream's end of a response body, where the stall board can reach it too.
struct Source<R> {
    body: Mutex<Option<WireBody<R>>>,
    pass: Mutex<Option<Arc<Pass>>>,
    upload: CancellationToken,
    given_up: CancellationToken,
    moves: AtomicU64,
    given: AtomicU64,
    gave: AtomicBool,
}

impl<R: RecvChunks> Source<R> {
    fn new(body: WireBody<R>, held: Held) -> Self {
        Self {
            body: Mutex::new(Some(body)),
            pass: Mutex::new(Some(held.pass)),
            upload: held.upload,
            given_up: CancellationToken::new(),
            moves: AtomicU64::new(0),
            given: AtomicU64::new(0),
            // The first move is the visitor's.
            gave: AtomicBool::new(true),
        }
    }

    fn body(&self) -> MutexGuard<'_, Option<WireBody<R>>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        let polled = match &mut *self.body() {
            Some(body) => Pin::new(body).poll_frame(cx).map_err(Abort::Body),
            None => Poll::Ready(Some(Err(Abort::Cut))),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let size = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.given.fetch_add(size, Ordering::Relaxed);
        }
        self.gave.store(polled.is_ready(), Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
        polled
    }

    /// Nothing more is given for a while, and whoever takes it is not to blame.
    fn held_back(&self) {
        self.gave.store(false, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that was read before is given.
    fn gave(&self) {
        self.gave.store(true, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    fn give_up(&self, code: StreamCode) {
        if let Some(mut body) = self.body().take() {
            body.stop(code);
        }
    }
}

impl<R: RecvChunks> Reader for Source<R> {
    fn moves(&self) -> (u64, bool) {
        (
            self.moves.load(Ordering::Relaxed),
            self.gave.load(Ordering::Relaxed),
        )
    }

    fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    fn give_up(&self, code: StreamCode) {
        Self::give_up(self, code);
        self.upload.cancel();
        self.given_up.cancel();
        // The connection may keep the rest for as long as others use it; the visit's places are free.
        let pass = (self.pass.lock().unwrap_or_else(PoisonError::into_inner)).take();
        drop(pass);
    }
}

/// An answer of ours, where the stall board can see whether it is taken.
struct OwnSource {
    moves: AtomicU64,
    given: AtomicU64,
    given_up: CancellationToken,
}

impl OwnSource {
    fn new(given_up: CancellationToken) -> Self {
        Self {
            moves: AtomicU64::new(0),
            given: AtomicU64::new(0),
            given_up,
        }
    }

    fn gave(&self, size: usize) {
        self.given.fetch_add(size as u64, Ordering::Relaxed);
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Reader for OwnSource {
    /// It is all there: the next move is always the visitor's.
    fn moves(&self) -> (u64, bool) {
        (self.moves.load(Ordering::Relaxed), true)
    }

    fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    fn give_up(&self, _code: StreamCode) {
        self.given_up.cancel();
    }
}
