//! What would end a tunnel next, and how its clocks stand: looks only, nothing here ends anything.

use std::time::Duration;

use super::TunnelState;
use super::entry::Engine;
use super::state::Tunnel;
use crate::names::TunnelId;
use crate::times::{Now, WallTime};

/// Why a tunnel would end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndsWhy {
    /// Its `expires_at` comes.
    Expires,
    /// Nobody visits it.
    Idle,
    /// Its client stays away.
    Offline,
}

impl EndsWhy {
    /// The text in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expires => "expires",
            Self::Idle => "idle",
            Self::Offline => "offline",
        }
    }
}

/// What would end a tunnel next if nothing else happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndsNext {
    /// When.
    pub at: WallTime,
    /// Why.
    pub why: EndsWhy,
}

impl EndsNext {
    /// The first of what may end a tunnel; the order tells which of two at the same moment.
    pub fn first(reasons: [Option<(WallTime, EndsWhy)>; 3]) -> Option<Self> {
        let first = reasons.into_iter().flatten().min()?;
        Some(Self {
            at: first.0,
            why: first.1,
        })
    }
}

/// How a tunnel's clocks stand, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The latest visit.
    pub last_seen_at: Option<WallTime>,
    /// How long it may still be without a visit; None = for ever.
    pub idle_left: Option<Duration>,
    /// How long its client may stay away.
    pub offline_max: Duration,
}

impl Engine {
    /// What would end an open tunnel next: none when nothing does, or when it is over.
    pub fn ends_next(&self, now: Now, id: TunnelId) -> Option<EndsNext> {
        let tunnel = self.tunnels.get(&id)?;
        if tunnel.row.state != TunnelState::Open {
            return None;
        }
        // The clock of idleness that stands still ends nothing: a visit goes on, or the client is away.
        let idle = tunnel
            .idle_from
            .and(idle_left(tunnel, now))
            .map(|left| (now.wall.plus(left), EndsWhy::Idle));
        EndsNext::first([
            tunnel.row.expires_at.map(|at| (at, EndsWhy::Expires)),
            idle,
            self.gone_at(tunnel).map(|at| (at, EndsWhy::Offline)),
        ])
    }

    /// How the clocks of a tunnel stand.
    pub fn standing(&self, now: Now, id: TunnelId) -> Option<Standing> {
        let tunnel = self.tunnels.get(&id)?;
        Some(Standing {
            last_seen_at: tunnel.row.last_seen_at,
            idle_left: idle_left(tunnel, now),
            offline_max: self.settings.offline_max,
        })
    }

    /// When a client that is away is given up for gone.
    pub(super) fn gone_at(&self, tunnel: &Tunnel) -> Option<WallTime> {
        let since = tunnel.row.away_since?;
        Some(since.plus(self.settings.offline_max).max(self.settled_at))
    }
}

/// How long a tunnel may still be without a visit, counted from now if its clock stands still.
fn idle_left(tunnel: &Tunnel, now: Now) -> Option<Duration> {
    let running = tunnel.idle_from.map_or(Duration::ZERO, |from| {
        now.monotonic.saturating_duration_since(from)
    });
    let spent = tunnel.row.idle_spent.saturating_add(running);
    tunnel.row.idle.map(|idle| idle.saturating_sub(spent))
}
