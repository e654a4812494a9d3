//! Why a visit is turned away.

use std::time::Duration;

use super::policy::{RuleId, Unsigned};
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
    /// The operator keeps visits from it.
    #[error("{tunnel} is suspended")]
    Suspended {
        /// Its name.
        tunnel: Slug,
    },
    /// A rule says no.
    #[error("denied by rule {rule}")]
    Denied {
        /// Which.
        rule: RuleId,
    },
    /// A rule says no to this method.
    #[error("method not allowed by rule {rule}; allowed are {allowed}")]
    MethodNotAllowed {
        /// Which.
        rule: RuleId,
        /// The methods that are, as in an `Allow` field.
        allowed: String,
    },
    /// The visitor has to say who they are.
    #[error("{realm} asks for credentials")]
    Unauthorized {
        /// What for.
        realm: Slug,
    },
    /// The share link is used up or its time is over.
    #[error("the share link for {tunnel} is over")]
    ShareOver {
        /// The tunnel's name.
        tunnel: Slug,
    },
    /// It is not signed by whom the tunnel names.
    #[error("{tunnel} takes signed requests only, and {why}")]
    Unsigned {
        /// The tunnel's name.
        tunnel: Slug,
        /// What is missing.
        why: Unsigned,
    },
    /// Too much, too often.
    #[error("over {rule}")]
    Limited {
        /// Over which limit.
        rule: RuleId,
        /// When to try again.
        retry_in: Duration,
    },
}

impl Refusal {
    /// The rule that said no, where one did.
    pub fn rule(&self) -> Option<RuleId> {
        match self {
            Self::Suspended { .. } => Some(RuleId::Suspended),
            Self::Denied { rule }
            | Self::MethodNotAllowed { rule, .. }
            | Self::Limited { rule, .. } => Some(rule.clone()),
            Self::Unauthorized { .. } => Some(RuleId::Auth),
            Self::ShareOver { .. } => Some(RuleId::ShareOver),
            Self::Unsigned { .. } => Some(RuleId::Webhook),
            Self::NoRoute { .. }
            | Self::Closed { .. }
            | Self::Expired { .. }
            | Self::Offline { .. }
            | Self::HoldFull { .. }
            | Self::Probed { .. }
            | Self::Draining => None,
        }
    }

    /// The tunnel's name, where it is known to be one.
    pub const fn tunnel(&self) -> Option<&Slug> {
        match self {
            Self::Closed { tunnel }
            | Self::Expired { tunnel }
            | Self::Offline { tunnel, .. }
            | Self::HoldFull { tunnel }
            | Self::Probed { tunnel, .. }
            | Self::Suspended { tunnel }
            | Self::Unauthorized { realm: tunnel }
            | Self::Unsigned { tunnel, .. }
            | Self::ShareOver { tunnel } => Some(tunnel),
            Self::NoRoute { .. }
            | Self::Draining
            | Self::Denied { .. }
            | Self::MethodNotAllowed { .. }
            | Self::Limited { .. } => None,
        }
    }
}
