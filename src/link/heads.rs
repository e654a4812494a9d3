//! The heads of streams that the peer opens: many at once, each under a deadline, so that a slow or a
//! hostile one stops nobody.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;
use tracing::debug;

use super::streams::{LinkRecv, LinkSend};
use crate::wire::{
    RecvChunks, SendChunks as _, StreamCode, StreamError, StreamHead, WireError, decode_stream_head,
};

/// Heads being read at once; the streams beyond wait inside QUIC.
pub(super) const AT_ONCE: usize = 64;

/// A head is one packet, or a few: who takes longer is stuck or wicked.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(5);

/// A stream whose head is read.
pub(super) type Opened = (StreamHead, LinkSend, LinkRecv);

/// Why a stream's head cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("no head in time")]
    Late,
}

impl HeadError {
    /// What to tell the peer.
    fn code(&self) -> StreamCode {
        match self {
            Self::Wire(WireError::UnknownKind { .. }) => StreamCode::Unsupported,
            Self::Wire(_) | Self::Late => StreamCode::Protocol,
            Self::Stream(_) => StreamCode::Cancelled,
        }
    }
}

/// Reads a stream's head; what follows it stays in `stream`.
pub(super) async fn read_head(stream: &mut LinkRecv) -> Result<StreamHead, HeadError> {
    let mut read = BytesMut::new();
    loop {
        let mut chunk = [Bytes::new()];
        if poll_fn(|cx| stream.poll_recv(cx, &mut chunk)).await? == 0 {
            return Err(WireError::Truncated {
                what: "a stream head",
            }
            .into());
        }
        let [chunk] = chunk;
        // Nearly always the head is one chunk, which need not be copied then.
        let so_far = if read.is_empty() {
            chunk
        } else {
            read.extend_from_slice(&chunk);
            read.split().freeze()
        };
        match decode_stream_head(&so_far)? {
            Some((head, length)) => {
                stream.unread(so_far.slice(length..));
                return Ok(head);
            }
            None => read = so_far.try_into_mut().unwrap_or_else(|b| b[..].into()),
        }
    }
}

/// The heads being read.
#[derive(Default)]
pub(super) struct Heads {
    reading: Vec<Pin<Box<dyn Future<Output = Option<Opened>> + Send>>>,
}

impl Heads {
    pub(super) fn is_full(&self) -> bool {
        self.reading.len() >= AT_ONCE
    }

    /// Starts to read the head of a stream.
    pub(super) fn push(&mut self, send: LinkSend, recv: LinkRecv) {
        self.reading.push(Box::pin(receive(send, recv)));
    }

    /// The next stream whose head is read, or `None` when one was refused. Waits while there is none.
    pub(super) async fn next(&mut self) -> Option<Opened> {
        poll_fn(|cx| {
            for at in 0..self.reading.len() {
                if let Poll::Ready(opened) = self.reading[at].as_mut().poll(cx) {
                    drop(self.reading.swap_remove(at));
                    return Poll::Ready(opened);
                }
            }
            Poll::Pending
        })
        .await
    }
}

async fn receive(mut send: LinkSend, mut recv: LinkRecv) -> Option<Opened> {
    let read = timeout(HEAD_TIME, read_head(&mut recv))
        .await
        .unwrap_or(Err(HeadError::Late));
    let error = match read {
        // The control stream is the link's first, and there is one.
        Ok(StreamHead::Control) => HeadError::Wire(WireError::OutOfPlace {
            what: "a control stream",
        }),
        Ok(head) => return Some((head, send, recv)),
        Err(error) => error,
    };
    debug!(%error, "stream refused");
    send.reset(error.code());
    recv.stop(error.code());
    None
}
