//! The rows the engine keeps in memory and the store keeps on disk, and what a commit changes.

use std::sync::Arc;
use std::time::Duration;

use super::DormantCaps;
use super::domains::{DomainRow, DomainSettings, DomainView};
use super::limits::LimitSettings;
use super::policy::Policy;
use super::policy::share::ShareRow;

use crate::names::{DeviceId, Hostname, InviteId, Kind, LinkId, Pin, Slug, TunnelId, UserId};
use crate::times::WallTime;

/// Who owns devices and tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Id.
    pub id: UserId,
    /// Unique among users.
    pub name: String,
    /// When the first invite named it.
    pub created_at: WallTime,
    /// Since when the operator keeps it from everything.
    pub suspended_at: Option<WallTime>,
}

/// A client machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Id.
    pub id: DeviceId,
    /// Its owner.
    pub user: UserId,
    /// Hash of its public key; unique among devices that are not revoked.
    pub pin: Pin,
    /// The machine's name, for people.
    pub name: String,
    /// When it enrolled.
    pub created_at: WallTime,
    /// When it was revoked or left; it never comes back.
    pub revoked_at: Option<WallTime>,
    /// Since when the operator keeps it from everything.
    pub suspended_at: Option<WallTime>,
}

/// A join token's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteRow {
    /// Id.
    pub id: InviteId,
    /// Whom its devices will belong to.
    pub user: UserId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// How many devices may still use it.
    pub uses_left: u32,
    /// When it was made.
    pub created_at: WallTime,
    /// When it stops working.
    pub expires_at: WallTime,
    /// When the operator withdrew it.
    pub revoked_at: Option<WallTime>,
}

/// What is on disk about a tunnel's life. Held and offline are not: they follow from the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelState {
    /// The promise stands.
    Open,
    /// Ended by its owner, the operator, idleness or a client that stayed away.
    Closed,
    /// Ended by its `expires_at`.
    Expired,
}

impl TunnelState {
    /// The text on disk and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Expired => "expired",
        }
    }
}

/// The durable promise: this public name leads to that device's tunnel, until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelRow {
    /// Id, made by the client.
    pub id: TunnelId,
    /// Its name; unique among open tunnels.
    pub slug: Slug,
    /// The device behind it.
    pub device: DeviceId,
    /// That device's user.
    pub user: UserId,
    /// What it carries.
    pub kind: Kind,
    /// Its life.
    pub state: TunnelState,
    /// Absolute; reconnects and restarts never move it. None = never.
    pub expires_at: Option<WallTime>,
    /// Closes after this long without a visit while its link is there. None = never.
    pub idle: Option<Duration>,
    /// How long visits wait for an absent link.
    pub hold: Duration,
    /// Whether it stands in the client's settings.
    pub declared: bool,
    /// For people, at most 16.
    pub labels: Vec<(String, String)>,
    /// Public port of tcp and udp tunnels.
    pub public_port: Option<u16>,
    /// When it was first opened.
    pub created_at: WallTime,
    /// When it closed or expired.
    pub ended_at: Option<WallTime>,
    /// The latest visit; at most a minute behind on disk.
    pub last_seen_at: Option<WallTime>,
    /// How much of `idle` is used up: time with a link and without a visit.
    pub idle_spent: Duration,
    /// Since when the client is gone, while it is.
    pub away_since: Option<WallTime>,
    /// What it lets through.
    pub policy: Arc<Policy>,
    /// Counts the changes of the policy.
    pub policy_version: u64,
    /// Since when the operator keeps visits from it.
    pub suspended_at: Option<WallTime>,
}

/// Everything the engine starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All users.
    pub users: Vec<UserRow>,
    /// All devices, revoked ones too: a revocation never un-happens.
    pub devices: Vec<DeviceRow>,
    /// Invites that may still work.
    pub invites: Vec<InviteRow>,
    /// Open tunnels, and ended ones still in quarantine.
    pub tunnels: Vec<TunnelRow>,
    /// Share links that may still work, of open tunnels.
    pub shares: Vec<ShareRow>,
    /// Own domains of open tunnels.
    pub domains: Vec<DomainRow>,
}

/// One row put on disk as it is now (insert or replace by id).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A user.
    User(UserRow),
    /// A device.
    Device(DeviceRow),
    /// An invite.
    Invite(InviteRow),
    /// A tunnel.
    Tunnel(TunnelRow),
    /// An ended tunnel that need not be on disk any more.
    Forget(TunnelId),
    /// A share link.
    Share(ShareRow),
    /// All own domains of a tunnel: those that are on disk and not among these go.
    Domains {
        /// The tunnel.
        tunnel: TunnelId,
        /// As they are now.
        rows: Vec<DomainRow>,
    },
    /// Only a tunnel's `last_seen_at`, `idle_spent` and `away_since`: no promise changes, no audit.
    Seen(TunnelRow),
}

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A person at the server's admin socket.
    Operator {
        /// Their uid, from the peer credentials.
        uid: u32,
    },
    /// A device over its link.
    Device(DeviceId),
    /// Someone over a link who is no device yet.
    Newcomer,
    /// Someone at the edge, with a share link.
    Visitor,
    /// The engine itself: expiry, idleness, absence.
    Engine,
}

/// A line of the audit, written in the same transaction as the change it tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// When.
    pub at: WallTime,
    /// Who.
    pub actor: Actor,
    /// From where, when a link is the way.
    pub peer: Option<std::net::SocketAddr>,
    /// What: `tunnel.open`, `tunnel.close`, `tunnel.expire`, `device.enroll`, `device.revoke`, `invite.create`…
    pub action: &'static str,
    /// The id of what changed.
    pub subject: String,
    /// One short line of facts, no secrets.
    pub detail: String,
}

/// What the operator set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Tunnels answer at `<slug>.<domain>`.
    pub domain: Hostname,
    /// Public ports of tcp and udp tunnels, first and last; None = no such tunnels.
    pub ports: Option<(u16, u16)>,
    /// The port visitors use, for urls; 443 is left out.
    pub public_port: u16,
    /// Hold when nothing is asked.
    pub hold: Duration,
    /// The most that may be asked.
    pub hold_max: Duration,
    /// Visits held per tunnel.
    pub held_visits: usize,
    /// Visits held in all.
    pub held_visits_total: usize,
    /// Bytes that the held visits of one tunnel may keep.
    pub held_memory: u64,
    /// Bytes that the held visits of one user's tunnels may keep.
    pub held_memory_per_user: u64,
    /// Bytes that all held visits may keep.
    pub held_memory_total: u64,
    /// What dormant links may cost.
    pub dormant: DormantCaps,
    /// Idle time of ad-hoc tunnels that ask nothing; None = never.
    pub idle: Option<Duration>,
    /// The most idle time that may be asked for; None = no maximum.
    pub idle_max: Option<Duration>,
    /// A tunnel whose client is gone this long closes.
    pub offline_max: Duration,
    /// How long an ended tunnel answers 410 and its slug is kept from other users.
    pub quarantine: Duration,
    /// The client's keep-alive; three silent ones make a link dormant.
    pub keep_alive: Duration,
    /// The most open tunnels of one device.
    pub tunnels_per_device: usize,
    /// Limits, ceilings and the like.
    pub limits: LimitSettings,
    /// What own domains there may be, and how often their proofs are looked at.
    pub domains: DomainSettings,
}

impl EngineSettings {
    /// The public address of a tunnel.
    pub fn url(&self, kind: Kind, slug: &Slug, public_port: Option<u16>) -> String {
        match (kind, public_port) {
            (Kind::Http, _) if self.public_port == 443 => format!("https://{slug}.{}", self.domain),
            (Kind::Http, _) => format!("https://{slug}.{}:{}", self.domain, self.public_port),
            (kind, Some(port)) => format!("{kind}://{}:{port}", self.domain),
            (kind, None) => format!("{kind}://{slug}.{}:{}", self.domain, self.public_port),
        }
    }
}

/// A tunnel as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelView {
    /// The row, with what is known in memory now.
    pub row: TunnelRow,
    /// `open`, `held`, `offline`, `closed`, `expired`.
    pub state: &'static str,
    /// Its address.
    pub url: String,
    /// The link it rides now.
    pub link: Option<LinkId>,
    /// Visits going on.
    pub visits: usize,
    /// Visits waiting.
    pub held: usize,
    /// Its own domains.
    pub domains: Vec<DomainView>,
}
