//! Everything that can happen to the engine, and everything it can decide: two closed lists.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::policy::share::ShareRow;
use super::policy::{Policy, RuleId};
use super::{
    Actor, AskError, AuditRow, Bandwidth, Change, EngineSettings, HttpAsk, Refusal, SetAsk,
    ShareAsk, TunnelView, Verification,
};
use crate::codes::Code;
use crate::names::{
    DeviceId, Domain, InviteId, Kind, LinkId, Pin, ShareId, Slug, TunnelId, UserId, VisitId,
};
use crate::times::WallTime;

/// Characters of a rule that a visit's route tells of: a method may be the visitor's own word.
const SHADOW_MAX: usize = 128;

/// One visitor's request or connection, as the edge asks about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// Fresh from the edge.
    pub id: VisitId,
    /// How it came in; a tunnel takes visits of its own kind only.
    pub kind: Kind,
    /// The first label under the tunnel domain, as the canonical host gives it; the tunnel's id where a
    /// port leads to it (tcp, udp).
    pub label: String,
    /// Who visits.
    pub peer: SocketAddr,
    /// The most bytes of it that stay in memory while it waits.
    pub bytes: u64,
    /// What is asked for, over HTTP.
    pub http: Option<HttpAsk>,
}

/// Where an admitted visit goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The visit; give it back with [`Event::VisitEnded`].
    pub visit: VisitId,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Its name.
    pub slug: Slug,
    /// The live link.
    pub link: LinkId,
    /// What the tunnel lets through; the edge goes by its header rules and the like.
    pub policy: Arc<Policy>,
    /// The rule that let it pass.
    pub rule: RuleId,
    /// Rules that would have refused it if they were not shadows.
    pub shadowed: Vec<RuleId>,
    /// Bytes a second that it may move.
    pub bandwidth: Bandwidth,
}

impl Route {
    /// The rules that would have refused it if they were not shadows, as logs and its owner see them.
    pub fn shadows(&self) -> Vec<String> {
        let cut = |rule: &RuleId| rule.to_string().chars().take(SHADOW_MAX).collect();
        self.shadowed.iter().map(cut).collect()
    }
}

/// The answer to a visit that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Pass(Route),
    /// Check the password outside, and ask again with [`super::Credentials::checked`].
    Verify(Box<Verification>),
    /// Wait: an [`Action::Release`] of this visit comes, at the latest when the hold is over.
    /// A visitor that goes away meanwhile is told with [`Event::VisitGone`].
    Hold,
}

/// Ties a commit to what waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requester {
    /// A client over its link.
    Link {
        /// The link.
        link: LinkId,
        /// Its number for the request; 0 for an enrolment.
        request: u64,
    },
    /// The edge, for a visitor who opens a share link.
    Edge {
        /// The role's number for it.
        call: u64,
        /// The visitor's address.
        peer: SocketAddr,
    },
    /// A call of the admin API.
    Admin {
        /// The role's number for the call.
        call: u64,
        /// The caller's uid.
        uid: u32,
    },
}

/// What a client asks for when it opens a tunnel or takes it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAsk {
    /// The tunnel, named by the client.
    pub tunnel: TunnelId,
    /// The slug wished for.
    pub name: Option<Slug>,
    /// What it carries.
    pub kind: Kind,
    /// When it ends.
    pub expires_at: Option<WallTime>,
    /// How long it lives from its first opening, by the engine's clock; comes before `expires_at`.
    pub expires_in: Option<Duration>,
    /// None = the server's default; Some(None) = never.
    pub idle: Option<Option<Duration>>,
    /// None = the server's default.
    pub hold: Option<Duration>,
    /// Stands in the client's settings.
    pub declared: bool,
    /// For people.
    pub labels: Vec<(String, String)>,
    /// Wished-for public port.
    pub public_port: Option<u16>,
    /// What it lets through.
    pub policy: Policy,
    /// The own domains that shall lead to it; None = whatever does.
    pub domains: Option<Vec<Domain>>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A known device's link is up; its pin was looked up with [`super::Engine::device_of`].
    LinkUp {
        /// The link; later generations fence earlier ones.
        link: LinkId,
        /// Whose.
        device: DeviceId,
        /// From where.
        peer: SocketAddr,
    },
    /// Datagrams came in on the link since the last look.
    LinkHeard {
        /// The link.
        link: LinkId,
    },
    /// A visit waits on the link, and nothing was heard in the time that an answer takes.
    LinkAway {
        /// The link.
        link: LinkId,
    },
    /// The client goes to sleep, or drains: visits that go on may finish, new ones wait in the hold.
    LinkAsleep {
        /// The link.
        link: LinkId,
    },
    /// The client is awake again.
    LinkAwake {
        /// The link.
        link: LinkId,
    },
    /// What a dormant link holds in memory has changed.
    LinkWeighs {
        /// The link.
        link: LinkId,
        /// The estimate, in bytes.
        bytes: u64,
    },
    /// The link is gone.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// A newcomer uses a join token. Its proof was checked by the role.
    EnrollAsked {
        /// Who waits.
        from: Requester,
        /// From where.
        peer: SocketAddr,
        /// SHA-256 of the token's secret.
        secret_hash: [u8; 32],
        /// The newcomer's key.
        pin: Pin,
        /// Its machine's name.
        name: String,
        /// A fresh id, used if the key is new.
        id: DeviceId,
    },
    /// A client opens a tunnel or takes it back.
    BindAsked {
        /// Who waits; a link.
        from: Requester,
        /// What for.
        ask: BindAsk,
        /// Fresh slugs to choose from when no name is asked for; the first free one is taken.
        proposals: Vec<Slug>,
    },
    /// A client or the operator ends a tunnel.
    CloseAsked {
        /// Who waits. A link may only close its own device's.
        from: Requester,
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// A client or the operator changes a tunnel's policy. In force for the next visit at once; visits that
    /// go on and are no longer allowed are cut.
    SetAsked {
        /// Who waits. A link may only change its own device's.
        from: Requester,
        /// What for.
        ask: SetAsk,
    },
    /// A client says which own domains shall lead to its tunnel: all of them. Those that are not among them
    /// lead there no more.
    DomainsAsked {
        /// Who waits. A link may only change its own device's.
        from: Requester,
        /// The tunnel.
        tunnel: TunnelId,
        /// The domains.
        domains: Vec<Domain>,
    },
    /// The answer to an [`Action::LookUp`].
    LookedUp {
        /// Which.
        domain: Domain,
        /// Those of the users asked about whose proof is there; or why nothing can be said.
        found: Result<Vec<UserId>, String>,
    },
    /// A client or the operator makes a share link.
    ShareAsked {
        /// Who waits. A link may only share its own device's.
        from: Requester,
        /// What for.
        ask: ShareAsk,
    },
    /// A client withdraws a share link; who came in with it is out.
    UnshareAsked {
        /// Who waits. A link may only withdraw its own device's.
        from: Requester,
        /// Which.
        share: ShareId,
    },
    /// A visitor opens a share link, whose token was checked by the role with
    /// [`super::policy::share::proves`]: one use is taken, on disk, before the answer.
    RedeemAsked {
        /// Who waits; the edge.
        from: Requester,
        /// Which.
        share: ShareId,
    },
    /// The operator keeps a user, a device or a tunnel from everything: links and visits are cut, names are
    /// kept.
    SuspendAsked {
        /// Who waits.
        from: Requester,
        /// `usr_…`, `dev_…`, `tun_…`, or a name that only one of all has.
        what: String,
        /// Why, for the audit.
        reason: Option<String>,
    },
    /// The operator takes that back.
    ResumeAsked {
        /// Who waits.
        from: Requester,
        /// As when it was suspended.
        what: String,
    },
    /// A client gives up its tunnels and its enrolment.
    LeaveAsked {
        /// Who waits; a link.
        from: Requester,
    },
    /// The operator makes a join token.
    InviteAsked {
        /// Who waits.
        from: Requester,
        /// The user's name; made on first use.
        user: String,
        /// A fresh id, used if the user is new.
        user_id: UserId,
        /// A fresh id.
        id: InviteId,
        /// SHA-256 of the secret.
        secret_hash: [u8; 32],
        /// How many devices may use it.
        uses: u32,
        /// When it stops working.
        expires_at: WallTime,
    },
    /// The operator revokes a device (its links are cut within a second, its tunnels close) or an invite.
    RevokeAsked {
        /// Who waits.
        from: Requester,
        /// `dev_…`, `inv_…`, or a device's name when only one has it.
        what: String,
    },
    /// The answer to an [`Action::Listen`].
    Listened {
        /// Which tunnel's socket.
        tunnel: TunnelId,
        /// Whether it is open; not, when somebody else has the port.
        open: bool,
    },
    /// A commit came back.
    Committed {
        /// Which.
        ticket: Ticket,
        /// `DiskFull` or `Storage` when it failed; nothing of it is on disk then.
        result: Result<(), Code>,
    },
    /// A visit that had passed is over.
    VisitEnded {
        /// Which.
        visit: VisitId,
    },
    /// A held visitor went away.
    VisitGone {
        /// Which.
        visit: VisitId,
    },
    /// New settings are in force.
    Reloaded {
        /// All of them.
        settings: EngineSettings,
    },
    /// Take no new visits.
    Drain,
}

/// What was asked for, done and on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The tunnel is open.
    Bound(Box<TunnelView>),
    /// The tunnel is ended (also when it had ended before: asking twice is harmless).
    Closed,
    /// The device is known.
    Enrolled {
        /// Its row.
        device: DeviceId,
        /// Its user's name.
        user: String,
    },
    /// The device is forgotten and its tunnels are ended.
    Left,
    /// The join token works until then.
    Invited {
        /// When it stops working.
        expires_at: WallTime,
    },
    /// It works no more.
    Revoked,
    /// The share link works.
    Shared(Box<ShareRow>),
    /// The visitor may come in, until the share link's time is over.
    Redeemed(Box<ShareRow>),
    /// It is kept from everything.
    Suspended,
    /// It is not any more.
    Resumed,
}

/// What the role has to do now, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Commit these in one transaction and come back with [`Event::Committed`].
    Persist {
        /// Ties the commit to what waits for it.
        ticket: Ticket,
        /// The rows.
        changes: Vec<Change>,
        /// Their audit.
        audit: Vec<AuditRow>,
    },
    /// Answer who asked.
    Reply {
        /// Who.
        to: Requester,
        /// What.
        outcome: Result<Answer, AskError>,
    },
    /// A held visit goes on, or is refused.
    Release {
        /// Which.
        visit: VisitId,
        /// Where to.
        outcome: Result<Route, Refusal>,
    },
    /// Open the public socket of a tunnel, and come back with [`Event::Listened`] before anything else
    /// is told. Of a tunnel whose socket is open already there is nothing to do but to say so.
    Listen {
        /// Which tunnel's.
        tunnel: TunnelId,
        /// `Tcp` or `Udp`.
        kind: Kind,
        /// The port.
        port: u16,
    },
    /// Close the public socket of a tunnel, so that its port is free at once.
    Unlisten {
        /// Which tunnel's.
        tunnel: TunnelId,
    },
    /// End a link.
    CutLink {
        /// Which.
        link: LinkId,
        /// Why.
        code: Code,
    },
    /// End every visit of a tunnel that goes on: it closed, or expired.
    CutVisits {
        /// Which.
        tunnel: TunnelId,
    },
    /// End these visits: their tunnel's policy no longer allows them.
    CutSome {
        /// Which.
        visits: Vec<VisitId>,
    },
    /// The visits of a tunnel that go on may move other amounts from now on.
    Shape {
        /// Which.
        tunnel: TunnelId,
        /// How much; whose they are stays what each of them knows.
        bandwidth: Bandwidth,
    },
    /// The link of a tunnel has been away for longer than visits wait for it: those that have no answer
    /// yet are given up. Those that have one go on, for the link may come back.
    GiveUp {
        /// Which.
        tunnel: TunnelId,
    },
    /// Tell a client what became of its tunnel.
    Tell {
        /// Over which link.
        link: LinkId,
        /// Which tunnel.
        tunnel: TunnelId,
        /// `TunnelExpired`, `TunnelClosed`, `Suspended`; `Done`: open again.
        code: Code,
    },
    /// Look whether the proofs of these users stand at a domain, and come back with [`Event::LookedUp`].
    LookUp {
        /// Which.
        domain: Domain,
        /// About whom.
        users: Vec<UserId>,
    },
    /// The own domains of a tunnel stand otherwise than before: its client is to be told, and whoever keeps
    /// certificates.
    TellDomains {
        /// Which tunnel.
        tunnel: TunnelId,
    },
    /// Tell a client how the clocks of its open tunnel stand. It may be lost.
    Stand {
        /// Over which link.
        link: LinkId,
        /// Which tunnel.
        tunnel: TunnelId,
    },
}

/// Who is asking, for the audit.
impl Requester {
    /// The actor an audit row names; a link's device is the caller's to know.
    pub const fn actor(self, device: Option<DeviceId>) -> Actor {
        match (self, device) {
            (Self::Admin { uid, .. }, _) => Actor::Operator { uid },
            (Self::Edge { .. }, _) => Actor::Visitor,
            (Self::Link { .. }, Some(device)) => Actor::Device(device),
            (Self::Link { .. }, None) => Actor::Newcomer,
        }
    }
}
