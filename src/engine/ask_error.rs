//! Why what a client or the operator asked for is not done. Visits are turned away with a [`super::Refusal`].

use std::time::Duration;

use super::limits::Ceiling;
use crate::codes::Code;
use crate::names::{Domain, Kind, Slug};

/// Why what was asked is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Another tunnel has the name.
    #[error("the name {slug} is taken")]
    NameTaken {
        /// The name.
        slug: Slug,
    },
    /// The name was another user's a short while ago.
    #[error("the name {slug} was used by someone else until recently and is kept for them")]
    NameInQuarantine {
        /// The name.
        slug: Slug,
    },
    /// The name is kept for wormkey.
    #[error("the name {slug} is reserved")]
    NameReserved {
        /// The name.
        slug: Slug,
    },
    /// The proposals were all taken.
    #[error("no free name was found")]
    NoFreeName,
    /// A tunnel of that id exists and is not the asker's, or is of another kind.
    #[error("that tunnel is another")]
    NotYours,
    /// A tunnel of that id is over.
    #[error("that tunnel {}", if *.expired { "has expired" } else { "is closed" })]
    Ended {
        /// By its time, not by hand.
        expired: bool,
    },
    /// `expires_at` lies in the past.
    #[error("the expiry lies in the past")]
    AlreadyExpired,
    /// A hold over the server's `hold_max`.
    #[error("a hold of more than {} is not allowed here", crate::times::show_duration(*.max))]
    HoldTooLong {
        /// The ceiling.
        max: Duration,
    },
    /// An idle time over the server's `idle_max`.
    #[error("an idle time of more than {} is not allowed here", crate::times::show_duration(*.max))]
    IdleTooLong {
        /// The ceiling.
        max: Duration,
    },
    /// The domain is the server's own, or below it.
    #[error("{domain} is this server's own; its names are given as tunnel names")]
    DomainOfOurs {
        /// The domain.
        domain: Domain,
    },
    /// Another tunnel of the same user has it.
    #[error("{domain} is {slug}'s already")]
    DomainInUse {
        /// The domain.
        domain: Domain,
        /// The other tunnel.
        slug: Slug,
    },
    /// Another user's proof stands, as far as is known; it is being looked at again.
    #[error(
        "{domain} is proven to be another user's; if it is yours, place your own record at {}, take theirs away, and ask again in a minute",
        .domain.challenge()
    )]
    DomainTaken {
        /// The domain.
        domain: Domain,
    },
    /// As many tunnels wait for it as may, and none has proven it; whose proof stands is being looked at.
    #[error(
        "{domain} leads nowhere yet, and no more tunnels may wait for it; if it is yours, place your record at {}, and ask again in a minute",
        .domain.challenge()
    )]
    DomainCrowded {
        /// The domain.
        domain: Domain,
    },
    /// Domains lead to what has a name in TLS or HTTP.
    #[error("a {kind} tunnel has a port, and no domain; use http or tls")]
    NoDomains {
        /// The tunnel's.
        kind: Kind,
    },
    /// The server does not carry this kind.
    #[error("{kind} tunnels are not served here")]
    Kind {
        /// What was asked for.
        kind: Kind,
    },
    /// The client's release cannot carry this kind.
    #[error("{kind} tunnels need a newer client; upgrade wormkeyd on this machine")]
    ClientTooOld {
        /// What was asked for.
        kind: Kind,
    },
    /// There is no range of public ports.
    #[error(
        "{kind} tunnels need public ports; the operator sets [listen] tcp_ports in server.toml"
    )]
    NoPorts {
        /// What was asked for.
        kind: Kind,
    },
    /// A port outside the range.
    #[error("public ports are {first} to {last} here, and {port} is not among them")]
    PortOutOfRange {
        /// What was asked for.
        port: u16,
        /// Of the range.
        first: u16,
        /// Of the range.
        last: u16,
    },
    /// Another tunnel, or another program, has the port.
    #[error("the {kind} port {port} is taken")]
    PortTaken {
        /// Of which sort.
        kind: Kind,
        /// What was asked for.
        port: u16,
    },
    /// The port was another user's a short while ago.
    #[error("the {kind} port {port} was used by someone else until recently and is kept for them")]
    PortInQuarantine {
        /// Of which sort.
        kind: Kind,
        /// What was asked for.
        port: u16,
    },
    /// All ports of the range are taken.
    #[error("no {kind} port is free")]
    NoFreePort {
        /// Of which sort.
        kind: Kind,
    },
    /// The device has all the tunnels it may have.
    #[error("a device may have {max} tunnels here")]
    TooManyTunnels {
        /// The ceiling.
        max: usize,
    },
    /// A ceiling of the server.
    #[error("{what}: at most {max} here")]
    LimitReached {
        /// Of what.
        what: Ceiling,
        /// The most, as people write it.
        max: String,
    },
    /// The server takes no tunnel that lets strangers in.
    #[error(
        "this server wants every tunnel to keep strangers out; use --auth, --share or --verify-webhook (http), --allow (others)"
    )]
    AuthForced,
    /// Too many tries.
    #[error("too many tries; wait {}", crate::times::show_duration(*.retry_in))]
    TooOften {
        /// When to try again.
        retry_in: Duration,
    },
    /// A policy that the tunnel cannot have.
    #[error("{why}")]
    Policy {
        /// One sentence.
        why: String,
    },
    /// The share link is used up, or its time is over.
    #[error("the share link is over")]
    ShareOver,
    /// The operator has suspended the one who asks.
    #[error("the operator has suspended this")]
    Suspended,
    /// More labels, or longer ones, than allowed.
    #[error("at most 16 labels of at most 64 bytes each")]
    Labels,
    /// Nothing of that name.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A name that several have.
    #[error("{what} fits more than one; use the id")]
    Ambiguous {
        /// What was asked for.
        what: String,
    },
    /// The join token is wrong or withdrawn; never says which.
    #[error("the join token is not valid")]
    BadToken,
    /// The join token's time is over.
    #[error("the join token has expired")]
    TokenExpired,
    /// The join token's uses are used up.
    #[error("the join token has been used up")]
    TokenUsed,
    /// No device has that key.
    #[error("the device is not enrolled")]
    NotEnrolled,
    /// The device was revoked, or has left; its key is refused for ever.
    #[error("the device is revoked")]
    Revoked,
    /// The link that asks is not its device's live one.
    #[error("a newer link of the device took over")]
    Superseded,
    /// A join token that nobody could use.
    #[error("a join token has at least one use")]
    NoUses,
    /// More questions wait for the store than the server keeps.
    #[error("too many questions wait for an answer")]
    Busy,
    /// A user's or device's name that cannot be one.
    #[error("{name:?} is no name for a {what}")]
    BadName {
        /// What was given.
        name: String,
        /// Of what.
        what: &'static str,
    },
    /// The store refused: the disk is full, or worse.
    #[error("the change could not be stored")]
    Store {
        /// `DiskFull` or `Storage`.
        code: Code,
    },
}

impl AskError {
    /// The row of the one table for this error, for links and admin calls alike.
    pub const fn code(&self) -> Code {
        match self {
            Self::NameTaken { .. } | Self::NameInQuarantine { .. } | Self::NoFreeName => {
                Code::NameTaken
            }
            Self::NameReserved { .. } => Code::NameReserved,
            Self::DomainOfOurs { .. } => Code::BadDomain,
            Self::DomainInUse { .. } | Self::DomainTaken { .. } => Code::DomainTaken,
            Self::NoDomains { .. } => Code::Usage,
            Self::NotYours | Self::Ambiguous { .. } => Code::Conflict,
            Self::Ended { expired: true } => Code::TunnelExpired,
            Self::Ended { expired: false } => Code::TunnelClosed,
            Self::AlreadyExpired | Self::Labels | Self::BadName { .. } | Self::NoUses => {
                Code::Usage
            }
            Self::HoldTooLong { .. }
            | Self::IdleTooLong { .. }
            | Self::TooManyTunnels { .. }
            | Self::LimitReached { .. }
            | Self::DomainCrowded { .. }
            | Self::AuthForced => Code::LimitReached,
            Self::TooOften { .. } => Code::RateLimited,
            Self::Policy { .. } => Code::Usage,
            Self::ShareOver => Code::ShareOver,
            Self::Suspended => Code::Suspended,
            Self::Kind { .. } | Self::ClientTooOld { .. } | Self::NoPorts { .. } => {
                Code::UnsupportedKind
            }
            Self::PortOutOfRange { .. } => Code::PortNotAllowed,
            Self::PortTaken { .. } | Self::PortInQuarantine { .. } | Self::NoFreePort { .. } => {
                Code::PortTaken
            }
            Self::NotFound { .. } => Code::NotFound,
            Self::BadToken => Code::BadToken,
            Self::TokenExpired => Code::TokenExpired,
            Self::TokenUsed => Code::TokenUsed,
            Self::NotEnrolled => Code::UnknownDevice,
            Self::Revoked => Code::Revoked,
            Self::Superseded => Code::Superseded,
            Self::Busy => Code::Overloaded,
            Self::Store { code } => *code,
        }
    }
}
