//! The two halves of a stream inside a link, as [`wire`](crate::wire) wants them. What they add to
//! QUIC's own: an end is only an end when the sender said so, whatever was dropped, reset or read twice.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use super::load::Slot;
use crate::wire::{RecvChunks, SendChunks, StreamCode, StreamError};
use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// The sending half. Dropped before [`finish`](SendChunks::finish), it resets the stream.
pub struct LinkSend {
    stream: SendStream,
    /// Made when first asked for: most streams end without anyone waiting for a stop.
    stopped: Option<Stopped>,
    over: bool,
    slot: Slot,
}

/// The receiving half. Dropped before the end, it asks the peer to stop.
pub struct LinkRecv {
    stream: RecvStream,
    /// What arrived together with the head.
    leftover: Bytes,
    state: RecvState,
    slot: Slot,
}

#[derive(Debug, Clone)]
enum RecvState {
    Open,
    Ended,
    Failed(StreamError),
}

impl std::fmt::Debug for LinkSend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LinkSend").field(&self.stream.id()).finish()
    }
}

impl std::fmt::Debug for LinkRecv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LinkRecv").field(&self.stream.id()).finish()
    }
}

impl LinkSend {
    pub(super) fn new(stream: SendStream, slot: Slot) -> Self {
        Self {
            stream,
            stopped: None,
            over: false,
            slot,
        }
    }
}

impl LinkRecv {
    pub(super) fn new(stream: RecvStream, slot: Slot) -> Self {
        Self {
            stream,
            leftover: Bytes::new(),
            state: RecvState::Open,
            slot,
        }
    }

    /// Gives back bytes that were read too far.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.leftover.is_empty(), "only a head is read ahead");
        self.leftover = bytes;
    }
}

fn number(code: StreamCode) -> VarInt {
    VarInt::from_u64(code.to_wire()).unwrap_or(VarInt::MAX)
}

fn reset_by(code: VarInt) -> StreamError {
    StreamError::Reset(StreamCode::from_wire(code.into_inner()))
}

impl SendChunks for LinkSend {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<(), StreamError>> {
        // The future holds nothing between polls, so a new one each time loses nothing.
        let sent = ready!(pin!(self.stream.write_chunks(bufs)).poll(cx));
        if let (Ok(written), Some(slot)) = (&sent, &self.slot) {
            slot.wrote(written.bytes);
        }
        Poll::Ready(match sent {
            Ok(_) => Ok(()),
            Err(WriteError::Stopped(code)) => Err(reset_by(code)),
            Err(WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected) => {
                Err(StreamError::LinkLost)
            }
            // We ended it ourselves.
            Err(WriteError::ClosedStream) => Err(StreamError::Reset(StreamCode::Cancelled)),
        })
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamError>> {
        let stopped = self
            .stopped
            .get_or_insert_with(|| Box::pin(self.stream.stopped()));
        let result = ready!(stopped.as_mut().poll(cx));
        // A future must not be polled after its end; the next question gets a new one.
        self.stopped = None;
        Poll::Ready(match result {
            Ok(None) => None,
            Ok(Some(code)) => Some(reset_by(code)),
            Err(_) => Some(StreamError::LinkLost),
        })
    }

    fn finish(&mut self) {
        if !self.over {
            self.over = true;
            // Only a stream that is over already refuses, and then there is nothing to say.
            let _ = self.stream.finish();
        }
    }

    fn reset(&mut self, code: StreamCode) {
        if !self.over {
            self.over = true;
            let _ = self.stream.reset(number(code));
        }
    }
}

impl Drop for LinkSend {
    fn drop(&mut self) {
        // QUIC's own drop would finish the stream, and half a body would pass for a whole one.
        self.reset(StreamCode::Cancelled);
    }
}

impl LinkRecv {
    fn fail(&mut self, error: StreamError) -> StreamError {
        self.state = RecvState::Failed(error.clone());
        error
    }
}

impl RecvChunks for LinkRecv {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        debug_assert!(!bufs.is_empty(), "no room would read as the end");
        match &self.state {
            RecvState::Open => {}
            RecvState::Ended => return Poll::Ready(Ok(0)),
            // QUIC tells a reset once and calls the stream ended after; an end it is not.
            RecvState::Failed(error) => return Poll::Ready(Err(error.clone())),
        }
        if !self.leftover.is_empty()
            && let Some(first) = bufs.first_mut()
        {
            *first = std::mem::take(&mut self.leftover);
            return Poll::Ready(Ok(1));
        }
        let read = pin!(self.stream.read_chunks(bufs)).poll(cx);
        if let Some(slot) = &self.slot {
            // Who waits for more has read all there was.
            slot.unread(matches!(read, Poll::Ready(Ok(Some(_)))));
        }
        let read = ready!(read);
        Poll::Ready(match read {
            Ok(Some(count)) => Ok(count),
            Ok(None) => {
                self.state = RecvState::Ended;
                Ok(0)
            }
            Err(ReadError::Reset(code)) => Err(self.fail(reset_by(code))),
            Err(ReadError::ConnectionLost(_) | ReadError::ZeroRttRejected) => {
                Err(self.fail(StreamError::LinkLost))
            }
            Err(ReadError::ClosedStream | ReadError::IllegalOrderedRead) => {
                Err(self.fail(StreamError::Reset(StreamCode::Cancelled)))
            }
        })
    }

    fn stop(&mut self, code: StreamCode) {
        if matches!(self.state, RecvState::Open) {
            self.leftover = Bytes::new();
            let _ = self.stream.stop(number(code));
            self.fail(StreamError::Reset(code));
        }
    }
}

impl Drop for LinkRecv {
    fn drop(&mut self) {
        self.stop(StreamCode::Cancelled);
    }
}
