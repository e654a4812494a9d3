//! What the engine knows about each row beyond the row itself. Plain data with the few questions that
//! can be answered from it alone.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::gate::Gate;
use super::persist::RestrictionId;
use super::probe::ProbeBudget;
use super::stays::Inside;
use super::{Actor, DeviceRow, InviteRow, Refusal, TunnelRow, TunnelState};
use crate::names::{Generation, LinkId, TunnelId, VisitId};
use crate::times::WallTime;

/// A tunnel that is open, or over and in quarantine. One whose first commit is still under way is in
/// `persist` instead: it is no promise yet.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) row: TunnelRow,
    /// Its link is away, and visits wait no longer.
    pub(super) hold_over: bool,
    /// Since when idleness runs; none while a visit is going on or the link is away.
    pub(super) idle_from: Option<Instant>,
    /// Visits going on.
    pub(super) visits: usize,
    /// Visits waiting, in the order they came. Empty while the link is there.
    pub(super) held: Vec<VisitId>,
    /// Visits going on and waiting, for when they have to be looked at again.
    pub(super) inside: Inside,
    /// What is counted about its visits.
    pub(super) gate: Gate,
    /// Its end, or another restriction, is in force, and not on disk yet.
    pub(super) unsaved: Option<RestrictionId>,
    /// How often its client may ask itself through it.
    pub(super) probes: ProbeBudget,
}

impl Tunnel {
    pub(super) fn new(row: TunnelRow) -> Self {
        Self {
            row,
            hold_over: false,
            idle_from: None,
            visits: 0,
            held: Vec::new(),
            inside: Inside::default(),
            gate: Gate::new(),
            unsaved: None,
            probes: ProbeBudget::full(),
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.row.state, TunnelState::Open)
    }

    /// When its name is free for everyone; never while it is open.
    pub(super) fn quarantine_end(&self, quarantine: Duration) -> Option<WallTime> {
        self.row.ended_at.map(|ended| ended.plus(quarantine))
    }

    /// Whether it is over, and its name still kept for its user.
    pub(super) fn in_quarantine(&self, quarantine: Duration, now: WallTime) -> bool {
        !self.is_open() && self.quarantine_end(quarantine).is_some_and(|end| end > now)
    }

    /// What visitors of an ended tunnel get.
    pub(super) fn over(&self) -> Refusal {
        let tunnel = self.row.slug.clone();
        match self.row.state {
            TunnelState::Expired => Refusal::Expired { tunnel },
            TunnelState::Open | TunnelState::Closed => Refusal::Closed { tunnel },
        }
    }

    /// How often a counter of idleness that grows is worth a look and a write.
    pub(super) fn idle_checkpoint(idle: Duration) -> Duration {
        (idle / 16).max(Duration::from_secs(60))
    }
}

/// A client machine.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) row: DeviceRow,
    /// The live link, dormant or not.
    pub(super) link: Option<Live>,
    /// The newest generation ever seen here; whatever is not newer is a ghost.
    pub(super) newest: Option<Generation>,
    /// Since when the client is away; means nothing while it is here.
    pub(super) away: Instant,
    /// Its open tunnels.
    pub(super) tunnels: BTreeSet<TunnelId>,
    /// Tunnels of it whose first commit is under way.
    pub(super) opening: usize,
    /// Its revocation is in force, and not on disk yet.
    pub(super) unsaved: Option<RestrictionId>,
}

impl Device {
    pub(super) const fn new(row: DeviceRow, away: Instant) -> Self {
        Self {
            row,
            link: None,
            newest: None,
            away,
            tunnels: BTreeSet::new(),
            opening: 0,
            unsaved: None,
        }
    }

    /// The link that visits can take now.
    pub(super) fn here(&self) -> Option<LinkId> {
        self.link
            .as_ref()
            .filter(|live| !live.dormant)
            .map(|l| l.id)
    }

    pub(super) const fn is_revoked(&self) -> bool {
        self.row.revoked_at.is_some()
    }
}

/// A device's live link.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: LinkId,
    pub(super) peer: SocketAddr,
    /// When anything was heard last.
    pub(super) heard: Instant,
    /// Nothing was heard for three keep-alives.
    pub(super) dormant: bool,
    /// The client said so itself: signs of life do not count until it says that it is awake.
    pub(super) asleep: bool,
}

/// A join token that is on disk.
#[derive(Debug)]
pub(super) struct Invite {
    pub(super) row: InviteRow,
    /// Its withdrawal is in force, and not on disk yet.
    pub(super) unsaved: Option<RestrictionId>,
}

/// Who did something, from where: what an audit row needs to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub(super) actor: Actor,
    pub(super) peer: Option<SocketAddr>,
}

impl Who {
    /// The engine itself.
    pub(super) const ENGINE: Self = Self {
        actor: Actor::Engine,
        peer: None,
    };
}
