//! Bytes both ways between a stream of the link and a socket, once nothing in between is HTTP any more.
//! Either direction may end alone (half-close); an abort on one side is an abort on the other, and what an
//! origin sent before it broke off arrives all the same.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite as _;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::socket::OriginIo;
use crate::wire::{RecvChunks, SendChunks, StreamCode, StreamError, poll_send_all};

/// How many chunks move in one write; many are what makes bulk fast.
const BATCH: usize = 64;
/// A read's buffer: small while little comes, so that idle connections cost little.
const READ_MIN: usize = 4 * 1024;
const READ_MAX: usize = 64 * 1024;

/// How long the peer may take for what came before an abort; and where it cannot be told of one, because
/// the visitor had ended the other direction.
const LAST_WORDS: Duration = Duration::from_secs(10);
const LAST_WORDS_UNTOLD: Duration = Duration::from_millis(500);

/// Why a splice did not end on both sides.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpliceError {
    #[error("the visitor went away")]
    Visitor(#[source] StreamError),
    #[error("the origin broke off")]
    Origin(#[source] io::Error),
}

/// What moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// To the origin.
    pub(super) up: u64,
    /// To the visitor.
    pub(super) down: u64,
}

/// Moves bytes until both directions have ended. `first` came from the origin already. On an error the
/// origin's end is an abort, and the caller resets `tx`.
pub(super) async fn splice<S: SendChunks, R: RecvChunks>(
    mut io: OriginIo,
    first: Bytes,
    tx: &mut S,
    rx: &mut R,
    moved: &mut Moved,
) -> Result<(), SpliceError> {
    let mut up = Up::default();
    let mut down = Down::new(first);
    let ended = std::future::poll_fn(|cx| {
        let upward = up.poll(cx, &mut io, rx)?;
        let downward = down.poll(cx, &mut io, tx, up.refused)?;
        match (upward, downward) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await;
    *moved = Moved {
        up: up.bytes,
        down: down.bytes,
    };
    if ended.is_err() {
        io.socket().abort_on_close();
    }
    if matches!(ended, Err(SpliceError::Origin(_))) {
        // The connection has no use any more; its end need not wait.
        drop(io);
        rx.stop(StreamCode::BrokeAfter(down.bytes));
        let wait = if up.was_finished {
            LAST_WORDS_UNTOLD
        } else {
            LAST_WORDS
        };
        // Over either way: the peer has stopped, or takes too long.
        let _ = timeout(wait, std::future::poll_fn(|cx| tx.poll_stopped(cx))).await;
    }
    if ended.is_err() {
        rx.stop(StreamCode::Cancelled);
    }
    ended
}

type Progress = Result<Poll<()>, SpliceError>;

/// The visitor's bytes on their way to the origin.
struct Up {
    state: UpState,
    chunks: [Bytes; BATCH],
    bytes: u64,
    /// The visitor has ended this direction.
    was_finished: bool,
    /// A write has met the origin's abort. The kernel tells of one only once.
    refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UpState {
    Receive,
    Write,
    Flush,
    Close,
    Ended,
}

impl Default for Up {
    fn default() -> Self {
        Self {
            state: UpState::Receive,
            chunks: [const { Bytes::new() }; BATCH],
            bytes: 0,
            was_finished: false,
            refused: false,
        }
    }
}

impl Up {
    fn poll<R: RecvChunks>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut OriginIo,
        rx: &mut R,
    ) -> Progress {
        loop {
            let stepped = match self.state {
                UpState::Ended => return Ok(Poll::Ready(())),
                UpState::Receive => {
                    let Poll::Ready(received) = rx.poll_recv(cx, &mut self.chunks) else {
                        return Ok(Poll::Pending);
                    };
                    let count = received.map_err(SpliceError::Visitor)?;
                    self.was_finished = count == 0;
                    Poll::Ready(Ok(if count == 0 {
                        UpState::Close
                    } else {
                        UpState::Write
                    }))
                }
                UpState::Write => self.poll_write(cx, io).map_ok(|()| UpState::Flush),
                UpState::Flush => Pin::new(&mut *io)
                    .poll_flush(cx)
                    .map_ok(|()| UpState::Receive),
                UpState::Close => Pin::new(&mut *io)
                    .poll_shutdown(cx)
                    .map_ok(|()| UpState::Ended),
            };
            match stepped {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(next)) => self.state = next,
                // It takes no more, but it may have answered before: what it said still goes down.
                Poll::Ready(Err(error)) => {
                    self.refused = error.kind() == io::ErrorKind::ConnectionReset;
                    if !self.refused {
                        rx.stop(StreamCode::Cancelled);
                    }
                    self.state = UpState::Ended;
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut OriginIo) -> Poll<io::Result<()>> {
        while let Some(first) = self.chunks.iter().position(|c| !c.is_empty()) {
            let mut slices = [IoSlice::new(&[]); BATCH];
            let filled = self.chunks[first..].iter().filter(|c| !c.is_empty());
            let mut count = 0;
            for (slice, chunk) in slices.iter_mut().zip(filled) {
                *slice = IoSlice::new(chunk);
                count += 1;
            }
            let wrote = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes += wrote as u64;
            self.advance(wrote);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut wrote: usize) {
        for chunk in &mut self.chunks {
            let step = wrote.min(chunk.len());
            chunk.advance(step);
            wrote -= step;
        }
    }
}

/// The origin's bytes on their way to the visitor.
struct Down {
    buffer: BytesMut,
    size: usize,
    sending: Bytes,
    ended: bool,
    bytes: u64,
}

impl Down {
    fn new(first: Bytes) -> Self {
        Self {
            buffer: BytesMut::new(),
            size: READ_MIN,
            bytes: first.len() as u64,
            sending: first,
            ended: false,
        }
    }

    fn poll<S: SendChunks>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut OriginIo,
        tx: &mut S,
        was_refused: bool,
    ) -> Progress {
        loop {
            if self.ended {
                return Ok(Poll::Ready(()));
            }
            let sending = std::slice::from_mut(&mut self.sending);
            match poll_send_all(tx, cx, sending) {
                Poll::Ready(sent) => sent.map_err(SpliceError::Visitor)?,
                Poll::Pending => return Ok(Poll::Pending),
            }
            match self.poll_read(cx, io) {
                Poll::Ready(read) => {
                    if read.map_err(SpliceError::Origin)? == 0 {
                        if was_refused {
                            let abort = io::ErrorKind::ConnectionReset.into();
                            return Err(SpliceError::Origin(abort));
                        }
                        tx.finish();
                        self.ended = true;
                    }
                }
                Poll::Pending => {
                    // Nothing to send: only asking tells whether anybody still listens.
                    return match tx.poll_stopped(cx) {
                        Poll::Ready(Some(error)) => Err(SpliceError::Visitor(error)),
                        _ => Ok(Poll::Pending),
                    };
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, io: &mut OriginIo) -> Poll<io::Result<usize>> {
        self.buffer.reserve(self.size);
        let count = ready!(poll_read_buf(Pin::new(io), cx, &mut self.buffer))?;
        if count >= self.size {
            self.size = (self.size * 2).min(READ_MAX);
        } else if count < self.size / 4 {
            self.size = (self.size / 2).max(READ_MIN);
        }
        self.bytes += count as u64;
        self.sending = self.buffer.split().freeze();
        Poll::Ready(Ok(count))
    }
}
