//! What carries wire inside a link: ordered chunks with reset codes. Traits only; `link` implements them.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;

/// Why one side gave up a stream: the application codes on RESET_STREAM and STOP_SENDING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamCode {
    /// The visitor or the origin went away.
    Cancelled,
    /// No connection to the origin could be made: provably no byte of the visit reached it.
    OriginUnreachable,
    /// The origin broke HTTP, or off in the middle.
    OriginError,
    /// The origin took too long.
    OriginTimeout,
    /// The client knows no such tunnel.
    UnknownTunnel,
    /// The client's `[origins]` do not allow the target.
    NotAllowed,
    /// The stream kind, or what its head asks for, is not supported.
    Unsupported,
    /// The peer broke the wire.
    Protocol,
    /// A limit of the peer; nothing of the visit was sent on.
    Overloaded,
    /// A bug or a fault of the peer.
    Internal,
    /// The tunnel ended (closed, expired, cut by policy).
    TunnelEnded,
    /// The reader was too slow for too long and others needed the window.
    TooSlow,
    /// The client keeps the origin back, since it should not be public; nothing of the visit was sent on.
    Exposed,
    /// The origin broke off a visit of raw bytes after it had sent so many. Said by STOP_SENDING: a reset
    /// overtakes what was sent before it, and this lets the peer take all of that first.
    BrokeAfter(u64),
    /// A code of a newer peer.
    Unknown(u64),
}

impl StreamCode {
    const TABLE: [(Self, u64); 13] = [
        (Self::Cancelled, 0x10),
        (Self::OriginUnreachable, 0x11),
        (Self::OriginError, 0x12),
        (Self::OriginTimeout, 0x13),
        (Self::UnknownTunnel, 0x14),
        (Self::NotAllowed, 0x15),
        (Self::Unsupported, 0x16),
        (Self::Protocol, 0x17),
        (Self::Overloaded, 0x18),
        (Self::Internal, 0x19),
        (Self::TunnelEnded, 0x1a),
        (Self::TooSlow, 0x1b),
        (Self::Exposed, 0x1c),
    ];

    /// Numbers from here on are a [`BrokeAfter`](Self::BrokeAfter) and its count.
    const BROKE_AFTER: u64 = 1 << 61;

    /// The number on the wire.
    pub fn to_wire(self) -> u64 {
        match self {
            Self::Unknown(number) => number,
            Self::BrokeAfter(count) => Self::BROKE_AFTER | count & (Self::BROKE_AFTER - 1),
            known => Self::TABLE
                .iter()
                .find(|(code, _)| *code == known)
                .map_or(0x19, |(_, number)| *number),
        }
    }

    /// From the number on the wire.
    pub fn from_wire(number: u64) -> Self {
        if number >= Self::BROKE_AFTER {
            return Self::BrokeAfter(number & (Self::BROKE_AFTER - 1));
        }
        Self::TABLE
            .iter()
            .find(|(_, n)| *n == number)
            .map_or(Self::Unknown(number), |(code, _)| *code)
    }

    /// Whether the peer says with it that no byte of the visit left for an origin.
    pub const fn nothing_was_sent(self) -> bool {
        matches!(
            self,
            Self::OriginUnreachable | Self::UnknownTunnel | Self::NotAllowed | Self::Overloaded
        )
    }
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset it, or asked us to stop.
    #[error("stream given up by the peer ({0:?})")]
    Reset(StreamCode),
    /// The link is gone.
    #[error("link lost")]
    LinkLost,
}

/// The sending half of a stream inside a link. Dropping it without [`finish`](Self::finish) resets it.
pub trait SendChunks: Send + Unpin + 'static {
    /// Takes bytes from the front of `bufs` (each taken chunk is left empty, a partly taken one is
    /// advanced); ready once anything was taken. Pending while flow control holds us.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<(), StreamError>>;

    /// Ready when the peer asked us to stop, or the link is gone; `None` after the peer took all.
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamError>>;

    /// No more bytes: what was sent is complete.
    fn finish(&mut self);

    /// Gives up: what was sent is not complete.
    fn reset(&mut self, code: StreamCode);
}

/// The receiving half of a stream inside a link. Dropping it asks the peer to stop.
pub trait RecvChunks: Send + Unpin + 'static {
    /// Fills the front of `bufs` with what has arrived; the number filled, 0 at the end.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>>;

    /// Asks the peer to stop sending.
    fn stop(&mut self, code: StreamCode);
}

/// Polls until all of `bufs` is taken.
pub fn poll_send_all<S: SendChunks + ?Sized>(
    stream: &mut S,
    cx: &mut Context<'_>,
    bufs: &mut [Bytes],
) -> Poll<Result<(), StreamError>> {
    loop {
        let Some(first) = bufs.iter().position(|b| !b.is_empty()) else {
            return Poll::Ready(Ok(()));
        };
        std::task::ready!(stream.poll_send(cx, &mut bufs[first..]))?;
    }
}

/// Sends all of `bufs`.
pub async fn send_all<S: SendChunks + ?Sized>(
    stream: &mut S,
    bufs: &mut [Bytes],
) -> Result<(), StreamError> {
    poll_fn(|cx| poll_send_all(stream, cx, bufs)).await
}
