//! The rule that decided, as logs and people see it.

use std::fmt;

use ::http::Method;

use super::{Cidr, PathPattern};
use crate::engine::limits::Rate;

/// The parts of a policy that can refuse; `shadow` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `allow` and `deny`.
    Networks,
    /// `methods`.
    Methods,
    /// `allow_paths` and `deny_paths`.
    Paths,
    /// `auth` and `share`.
    Auth,
    /// `webhook`.
    Webhook,
    /// `limits`.
    Limits,
}

impl Part {
    /// All, in the order they are asked.
    pub const ALL: [Self; 6] = [
        Self::Networks,
        Self::Methods,
        Self::Paths,
        Self::Auth,
        Self::Webhook,
        Self::Limits,
    ];

    /// The text in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Methods => "methods",
            Self::Paths => "paths",
            Self::Auth => "auth",
            Self::Webhook => "webhook",
            Self::Limits => "limits",
        }
    }
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All visits of the tunnel.
    Tunnel,
    /// Those of one visitor address.
    Visitor,
    /// Those of all tunnels of the device.
    Device,
    /// Those of all tunnels of the user.
    User,
    /// What one source does, wherever.
    Source,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tunnel => "for the tunnel",
            Self::Visitor => "for each visitor",
            Self::Device => "for the device",
            Self::User => "for the user",
            Self::Source => "for each source",
        })
    }
}

/// What decided about a visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleId {
    /// No rule: what is not refused passes.
    Default,
    /// The operator suspended it.
    Suspended,
    /// A network that is denied.
    Deny(Cidr),
    /// The networks that are allowed, none of which the visitor is in.
    Allow,
    /// The methods that are allowed.
    Method(Method),
    /// A path that is denied.
    DenyPath(PathPattern),
    /// The paths that are allowed, none of which it is.
    AllowPath,
    /// Credentials are asked for.
    Auth,
    /// Somebody's credentials let it pass.
    User(String),
    /// A share link is asked for, or let it pass.
    Share,
    /// A share link is not for this method or path.
    ShareNarrower,
    /// A share link is over.
    ShareOver,
    /// A signature is asked for.
    Webhook,
    /// Visits that begin.
    Rate(Scope, Rate),
    /// Visits that go on at once.
    Concurrency(Scope, u32),
    /// Passwords that are tried.
    Guesses(Scope, Rate),
    /// Hosts that nobody has.
    UnknownHosts(Rate),
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Suspended => f.write_str("suspended"),
            Self::Deny(net) => write!(f, "deny {net}"),
            Self::Allow => f.write_str("allow"),
            Self::Method(method) => write!(f, "method {method}"),
            Self::DenyPath(path) => write!(f, "deny-path {path}"),
            Self::AllowPath => f.write_str("allow-path"),
            Self::Auth => f.write_str("auth"),
            Self::User(name) => write!(f, "auth {name}"),
            Self::Share => f.write_str("share"),
            Self::ShareNarrower => f.write_str("share, for other requests"),
            Self::ShareOver => f.write_str("share, over"),
            Self::Webhook => f.write_str("webhook"),
            Self::Rate(scope, rate) => write!(f, "rate {rate} {scope}"),
            Self::Concurrency(scope, most) => write!(f, "concurrency {most} {scope}"),
            Self::Guesses(scope, rate) => write!(f, "passwords {rate} {scope}"),
            Self::UnknownHosts(rate) => write!(f, "unknown hosts {rate}"),
        }
    }
}
