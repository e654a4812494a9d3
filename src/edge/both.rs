//! The two directions of a visit that carries bytes, and how they end together. Not how bytes move.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use crate::wire::{StreamCode, StreamError};

/// What ends a direction early.
pub(super) trait Early {
    /// What the client's side said of it.
    fn of_client(&self) -> Option<&StreamError>;

    /// The client's side reads no more. That alone is nobody's fault.
    fn is_reset(&self) -> bool {
        matches!(self.of_client(), Some(StreamError::Reset(_)))
    }

    /// The origin has broken off, and had sent so many bytes before.
    fn broke_after(&self) -> Option<u64> {
        match self.of_client() {
            Some(StreamError::Reset(StreamCode::BrokeAfter(count))) => Some(*count),
            _ => None,
        }
    }
}

/// Until both have ended, or one has failed. An origin that reads no more may still have something to say;
/// one that has broken off is done when the visitor has what it said before, of which `given` is the count.
pub(super) async fn both<E: Early>(
    up: impl Future<Output = Result<(), E>>,
    down: impl Future<Output = Result<(), E>>,
    given: impl Fn() -> u64,
) -> Result<(), E> {
    let (mut up, mut down) = (pin!(up), pin!(down));
    let spared = |ended: Result<(), E>| match ended {
        Err(early) if early.is_reset() && early.broke_after().is_none() => Ok(()),
        ended => ended,
    };
    let ended = tokio::select! {
        biased;
        ended = up.as_mut() => ended,
        ended = down.as_mut() => {
            ended?;
            return spared(up.await);
        }
    };
    let Err(broken) = spared(ended) else {
        return down.await;
    };
    let Some(count) = broken.broke_after() else {
        return Err(broken);
    };
    let last = poll_fn(|cx| match down.as_mut().poll(cx) {
        Poll::Pending if given() >= count => Poll::Ready(Ok(())),
        polled => polled,
    });
    last.await.and(Err(broken))
}
