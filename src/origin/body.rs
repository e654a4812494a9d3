//! Bodies between the wire and hyper: what the visitor sends, watched from outside; what the origin
//! sends, counted and cleaned.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::response::{clean_trailers, fits};
use crate::wire::{BodyError, StreamCode, StreamError};

/// Why a visitor's body did not reach the origin whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestBodyError {
    #[error(transparent)]
    Wire(#[from] BodyError),
    #[error("the body is longer than its content-length")]
    TooLong,
    #[error("the rest of the body is not wanted any more")]
    Stopped,
}

type WireBytes = dyn Body<Data = Bytes, Error = BodyError> + Send;

/// A visitor's body on its way to an origin; one type for every stream, so that connections can be
/// pooled.
pub(super) struct RequestBody {
    inner: Option<Pin<Box<WireBytes>>>,
    length: Option<u64>,
    watch: Arc<Watch>,
}

/// What is known from outside about a body that hyper holds.
#[derive(Debug)]
pub(super) struct Watch(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes: u64,
    ended: bool,
    /// The origin wants more and the visitor has not sent it yet.
    awaits_visitor: bool,
    moved_at: Option<Instant>,
    failure: Option<StreamCode>,
    stopped: bool,
    waker: Option<Waker>,
}

impl RequestBody {
    /// No body.
    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            length: Some(0),
            watch: Arc::new(Watch::new(true)),
        }
    }

    /// A body that arrives, of `length` when the visitor said so.
    pub(super) fn new<B>(body: B, length: Option<u64>) -> Self
    where
        B: Body<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self {
            inner: Some(Box::pin(body)),
            length,
            watch: Arc::new(Watch::new(length == Some(0))),
        }
    }

    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    fn took(&mut self, frame: &Frame<Bytes>) -> Result<(), RequestBodyError> {
        let mut state = self.watch.lock();
        state.awaits_visitor = false;
        state.moved_at = Some(Instant::now());
        if let Some(data) = frame.data_ref() {
            state.bytes += data.len() as u64;
            match self.length {
                Some(length) if state.bytes > length => return Err(RequestBodyError::TooLong),
                Some(length) => state.ended = state.bytes == length,
                None => {}
            }
        }
        Ok(())
    }

    fn fail(
        &mut self,
        error: RequestBodyError,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let code = match &error {
            RequestBodyError::Wire(BodyError::Wire(_)) | RequestBodyError::TooLong => {
                StreamCode::Protocol
            }
            RequestBodyError::Wire(BodyError::Stream(StreamError::Reset(code))) => *code,
            _ => StreamCode::Cancelled,
        };
        self.inner = None;
        let mut state = self.watch.lock();
        if !state.stopped {
            state.failure.get_or_insert(code);
        }
        drop(state);
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.watch.wants_stop(cx) {
            return self.fail(RequestBodyError::Stopped);
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match inner.as_mut().poll_frame(cx) {
            Poll::Pending => {
                self.watch.lock().awaits_visitor = true;
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => match self.took(&frame) {
                Ok(()) => Poll::Ready(Some(Ok(frame))),
                Err(error) => self.fail(error),
            },
            Poll::Ready(Some(Err(error))) => self.fail(error.into()),
            Poll::Ready(None) => {
                self.inner = None;
                let short = self
                    .length
                    .is_some_and(|length| self.watch.bytes() < length);
                // Said as an error: HTTP/2 would end a short body as if it were whole.
                if short {
                    return self.fail(RequestBodyError::Wire(BodyError::Wire(
                        crate::wire::WireError::Truncated { what: "a body" },
                    )));
                }
                let mut state = self.watch.lock();
                state.ended = true;
                // From here on it is the origin's turn, however long the visitor took to say so.
                state.moved_at = Some(Instant::now());
                drop(state);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_none() || self.length.is_some() && self.watch.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.watch.bytes())),
            None => SizeHint::default(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // With a known length nobody asks for the end; taking it here spares the peer a stop.
        if let Some(inner) = &mut self.inner
            && self.watch.has_ended()
        {
            let _ = inner
                .as_mut()
                .poll_frame(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Watch {
    fn new(ended: bool) -> Self {
        Self(Mutex::new(State {
            bytes: 0,
            ended,
            awaits_visitor: false,
            moved_at: None,
            failure: None,
            stopped: false,
            waker: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Body bytes taken so far.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Whether all of the body was taken.
    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Why the visitor's side of it failed.
    pub(super) fn failure(&self) -> Option<StreamCode> {
        self.lock().failure
    }

    /// When something of the body moved last: bytes, or its end.
    pub(super) fn moved_at(&self) -> Option<Instant> {
        self.lock().moved_at
    }

    /// Whether it is the visitor who is waited for, not the origin.
    pub(super) fn awaits_visitor(&self) -> bool {
        let state = self.lock();
        state.awaits_visitor && !state.ended
    }

    /// Gives up what is left of the body.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wants_stop(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        if !state.stopped
            && !state
                .waker
                .as_ref()
                .is_some_and(|w| w.will_wake(cx.waker()))
        {
            state.waker = Some(cx.waker().clone());
        }
        state.stopped
    }
}

/// Why an origin's body did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseBodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("its trailers are too large")]
    Trailers,
}

/// An origin's body on its way to the visitor.
pub(super) struct ResponseBody {
    inner: Incoming,
    bytes: u64,
}

impl ResponseBody {
    pub(super) fn new(inner: Incoming) -> Self {
        Self { inner, bytes: 0 }
    }

    /// Body bytes that came so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.bytes += data.len() as u64;
                Frame::data(data)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    clean_trailers(&mut trailers);
                    if !fits(&trailers) {
                        return Poll::Ready(Some(Err(ResponseBodyError::Trailers)));
                    }
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            },
        })))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::*;

    /// Says what a test has it say; none means that there is nothing yet.
    struct Script(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            match self.0.pop_front() {
                Some(None) => Poll::Pending,
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                None => Poll::Ready(None),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_body_is_a_move_of_its_own() {
        let data = Frame::data(Bytes::from_static(b"x"));
        let mut body = RequestBody::new(Script([Some(data), None].into()), None);
        let watch = body.watch();
        let mut cx = Context::from_waker(Waker::noop());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        assert!(poll().is_pending() && watch.awaits_visitor());
        tokio::time::advance(Duration::from_secs(55)).await;
        assert!(matches!(poll(), Poll::Ready(None)));
        assert!(watch.has_ended() && !watch.awaits_visitor());
        assert_eq!(watch.moved_at(), Some(Instant::now()));
    }
}
