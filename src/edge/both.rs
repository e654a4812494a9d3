//! The two directions of a visit that carries bytes, and how they end together. Not how bytes move.

use std::pin::pin;

/// What ends a direction early.
pub(super) trait Early {
    /// The client's side reads no more. That alone is nobody's fault.
    fn is_reset(&self) -> bool;
}

/// Until both have ended, or one has failed. An origin that reads no more may still have something to say.
pub(super) async fn both<E: Early>(
    up: impl Future<Output = Result<(), E>>,
    down: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let (mut up, mut down) = (pin!(up), pin!(down));
    let spared = |ended: Result<(), E>| match ended {
        Err(early) if early.is_reset() => Ok(()),
        ended => ended,
    };
    tokio::select! {
        biased;
        ended = up.as_mut() => {
            spared(ended)?;
            down.await
        }
        ended = down.as_mut() => {
            ended?;
            spared(up.await)
        }
    }
}
