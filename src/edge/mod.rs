//! Public listeners: a visit comes in, a response or a splice goes out. Not decisions (the engine's),
//! not links: what stands behind is reached through [`Admit`] and [`OpenStream`], which the server
//! role implements.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use crate::engine::{Refusal, Route, Visit};
use crate::names::LinkId;
use crate::wire::{RecvChunks, SendChunks, StreamHead};

/// Asks the engine about a visit, and waits for it in the hold.
pub trait Admit: Clone + Send + Sync + 'static {
    /// `Engine::admit`, and the wait of a held visit. Dropping the future is a visitor that went away.
    fn admit(&self, visit: Visit) -> impl Future<Output = Result<Pass, Refusal>> + Send;
}

/// An admitted visit: where it goes, and when to cut it. Dropping it ends the visit for the engine.
pub struct Pass {
    /// Where it goes.
    pub route: Route,
    /// Fires when the visit must end: its tunnel closed or expired.
    pub cut: CancellationToken,
    /// Tells the engine that the visit is over.
    pub guard: Box<dyn Send + Sync>,
}

/// Opens a stream to a live link: the seam where another node or another device can stand behind a link.
pub trait OpenStream: Clone + Send + Sync + 'static {
    /// Sending half.
    type Tx: SendChunks;
    /// Receiving half.
    type Rx: RecvChunks;

    /// Opens a stream and sends its head; waits, bounded, when the link has no stream to give.
    fn open(
        &self,
        link: LinkId,
        head: &StreamHead,
    ) -> impl Future<Output = Result<(Self::Tx, Self::Rx), OpenError>> + Send;
}

/// Why no stream could be opened. In every case no byte of the visit left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The link is gone.
    #[error("the link is gone")]
    LinkGone,
    /// All its streams are in use and none came free in time.
    #[error("the link has no stream to give")]
    NoStream,
}
