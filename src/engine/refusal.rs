//! Why a visit is turned away.

use std::time::Duration;

use crate::names::Slug;

/// Why the engine turned a visit away. The edge maps it to a status in one place (`edge/respond.rs`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing answers that name, or no longer.
    #[error("no tunnel answers {host}")]
    NoRoute {
        /// The label or host asked for.
        host: String,
    },
    /// It did, and was closed.
    #[error("{tunnel} is closed")]
    Closed {
        /// Its name.
        tunnel: Slug,
    },
    /// It did, and its time is over.
    #[error("{tunnel} has expired")]
    Expired {
        /// Its name.
        tunnel: Slug,
    },
    /// Its link is away and the hold is over.
    #[error("{tunnel} has no live link")]
    Offline {
        /// Its name.
        tunnel: Slug,
        /// When to try again.
        retry_in: Duration,
    },
    /// Too many visits wait already.
    #[error("too many visits wait for {tunnel}")]
    HoldFull {
        /// Its name.
        tunnel: Slug,
    },
    /// Probes of it came too fast.
    #[error("{tunnel} is probed too often")]
    Probed {
        /// Its name.
        tunnel: Slug,
        /// When to try again.
        retry_in: Duration,
    },
    /// The server takes nothing new.
    #[error("draining")]
    Draining,
}
