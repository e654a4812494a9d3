//! What the operator sets about limits (`[limits]` in server.toml): what holds for tunnels that ask for
//! nothing, what no tunnel may go beyond, and what a source may do.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use super::{Per, Rate, SourceRates};
use crate::names::{Kind, Slug};

/// A limit on visits; what is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// How often visits begin.
    pub rate: Option<Rate>,
    /// How many go on at once.
    pub concurrency: Option<NonZeroU32>,
    /// Bytes a second, each way.
    pub bandwidth: Option<NonZeroU64>,
}

impl Limit {
    /// What stands here, and where nothing does, what stands there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            rate: self.rate.or(other.rate),
            concurrency: self.concurrency.or(other.concurrency),
            bandwidth: self.bandwidth.or(other.bandwidth),
        }
    }

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The most that one user, or one device, may have. Absent is no ceiling.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ceilings {
    /// Open tunnels.
    pub tunnels: Option<usize>,
    /// Live links; a device never has more than one.
    pub links: Option<usize>,
    /// Visits that go on at once, over all tunnels.
    pub streams: Option<NonZeroU32>,
    /// How often visits begin, over all tunnels.
    pub rate: Option<Rate>,
    /// Bytes a second each way, over all tunnels.
    pub bandwidth: Option<NonZeroU64>,
    /// Visits that wait in a hold, over all tunnels.
    pub held: Option<usize>,
}

/// A ceiling of the server, by the name people know it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ceiling {
    /// Open tunnels of a user.
    UserTunnels,
    /// Open tunnels of a device.
    DeviceTunnels,
    /// Live links of a user.
    UserLinks,
    /// Visits at once.
    Streams,
    /// Visits a second.
    Rate,
    /// Bytes a second.
    Bandwidth,
    /// How long a tunnel may live.
    Expiry,
    /// Own domains of a user.
    UserDomains,
    /// Own domains of a tunnel.
    TunnelDomains,
}

impl std::fmt::Display for Ceiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UserTunnels => "tunnels of a user",
            Self::UserDomains => "domains of a user",
            Self::TunnelDomains => "domains of a tunnel",
            Self::DeviceTunnels => "tunnels of a device",
            Self::UserLinks => "links of a user",
            Self::Streams => "visits at once",
            Self::Rate => "visits a second",
            Self::Bandwidth => "bytes a second",
            Self::Expiry => "time until the expiry",
        })
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// What holds for a tunnel whose policy says nothing.
    pub tunnel: Limit,
    /// The same for each visitor address of it.
    pub visitor: Limit,
    /// What one source may do.
    pub sources: SourceRates,
    /// Passwords not known to be right that one tunnel takes, from all sources.
    pub tunnel_passwords: Rate,
    /// The most of one user.
    pub user: Ceilings,
    /// The most of one device.
    pub device: Ceilings,
    /// Names nobody may have, beside those kept for wormkey.
    pub reserved: BTreeSet<Slug>,
    /// Kinds of tunnels that are served; empty: all that the server can.
    pub kinds: Vec<Kind>,
    /// The longest time from now to an expiry. A tunnel that asks for none gets it.
    pub expiry_max: Option<Duration>,
    /// Whether every tunnel for HTTP needs credentials or share links.
    pub force_auth: bool,
}

impl Default for LimitSettings {
    fn default() -> Self {
        let some = NonZeroU32::new;
        Self {
            tunnel: Limit {
                rate: Some(Rate::new(2_000, Per::Second).burst(4_000)),
                concurrency: some(4_096),
                bandwidth: None,
            },
            // A page with hundreds of parts, opened in ten tabs, is a person; a thousand a second is not. No one
            // address fills more than half of the streams that a link carries.
            visitor: Limit {
                rate: Some(Rate::new(200, Per::Second).burst(2_000)),
                concurrency: some(256),
                bandwidth: None,
            },
            sources: SourceRates::default(),
            tunnel_passwords: Rate::new(60, Per::Minute).burst(60),
            user: Ceilings::default(),
            device: Ceilings::default(),
            reserved: BTreeSet::new(),
            kinds: Vec::new(),
            expiry_max: None,
            force_auth: false,
        }
    }
}
