//! The entrances: what comes in, what goes out, and the two lists that say who decides about what.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use super::domains::Domains;
use super::dormant::Sleepers;
use super::hold::Held;
use super::lifecycle::Ended;
use super::limits::Sources;
use super::persist::{Pending, Restriction, RestrictionId};
use super::ports::{Port, Seeking};
use super::shares::Shares;
use super::state::{Device, Invite, Who};
use super::stays::{Owned, Owner, Stay};
use super::timers::{Timer, Timers};
use super::tunnels::Tunnels;
use super::{
    Action, Admission, Answer, AskError, AuditRow, EngineSettings, Event, Refusal, Requester,
    Snapshot, Ticket, UserRow, Visit,
};
use crate::names::{DeviceId, InviteId, LinkId, Pin, QuickMap, Slug, TunnelId, UserId, VisitId};
use crate::times::{Now, WallTime};

/// What is answered now; `Ok(None)`: later, by whatever commit it waits for.
pub(super) type Asked = Result<Option<Answer>, AskError>;

/// All the server's decisions. Never waits, never reads a clock, never draws a random number.
///
/// Feed it with [`Engine::admit`], [`Engine::handle`] and [`Engine::handle_timeout`]; after each call
/// take every [`Action`] out with [`Engine::poll_action`], in order, and ask [`Engine::poll_timeout`]
/// when to come back. `Persist` actions have to reach the disk in the order they come out.
#[derive(Debug)]
pub struct Engine {
    pub(super) settings: EngineSettings,
    pub(super) users: BTreeMap<UserId, UserRow>,
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) pins: HashMap<Pin, DeviceId>,
    pub(super) invites: BTreeMap<InviteId, Invite>,
    pub(super) secrets: HashMap<[u8; 32], InviteId>,
    /// Open tunnels, and ended ones in quarantine.
    pub(super) tunnels: Tunnels,
    /// The one owner of each name: an open tunnel, or one whose first commit is under way.
    pub(super) names: QuickMap<Slug, TunnelId>,
    /// The latest ended owner of each name, while it is remembered.
    pub(super) former: HashMap<Slug, TunnelId>,
    /// The one owner of each public port.
    pub(super) ports: HashMap<Port, TunnelId>,
    /// The latest ended owner of each public port, while it is remembered.
    pub(super) former_ports: HashMap<Port, TunnelId>,
    /// Tunnels that will open once their port is.
    pub(super) seeking: HashMap<TunnelId, Seeking>,
    /// Ended tunnels of each user whose end is on disk, oldest first.
    pub(super) ended: HashMap<UserId, Ended>,
    /// Live links only; a link that is not here is fenced.
    pub(super) links: HashMap<LinkId, DeviceId>,
    /// Visits going on.
    pub(super) visits: QuickMap<VisitId, TunnelId>,
    /// The live links that are dormant.
    pub(super) sleepers: Sleepers,
    /// Visits waiting.
    pub(super) held: Held,
    /// What is known of each of both.
    pub(super) stays: QuickMap<VisitId, Stay>,
    /// What is counted about devices and users over all their tunnels.
    pub(super) owned: QuickMap<Owner, Owned>,
    /// What is counted about sources, whatever they visit.
    pub(super) sources: Sources,
    /// Share links of open tunnels.
    pub(super) shares: Shares,
    /// Own domains of open tunnels.
    pub(super) domains: Domains,
    pub(super) visits_total: u64,
    pub(super) draining: bool,
    /// Before this nobody is given up for gone: clients get time to find a restarted server.
    pub(super) settled_at: WallTime,

    pub(super) timers: Timers,
    pub(super) actions: VecDeque<Action>,
    pub(super) tickets: u64,
    pub(super) pending: HashMap<Ticket, Pending>,
    /// Grants under way, by what they would make: a tunnel, a device's key, a user's name.
    pub(super) opening: HashMap<TunnelId, Ticket>,
    pub(super) enrolling: HashMap<Pin, Ticket>,
    pub(super) founding: HashMap<String, Ticket>,
    pub(super) restrictions: BTreeMap<RestrictionId, Restriction>,
    pub(super) restriction_ids: u64,
    /// Retries in a row that failed.
    pub(super) failed_retries: u32,
    /// Open tunnels of which visits or absence changed the row since it was written.
    pub(super) dirty: BTreeSet<TunnelId>,
}

impl Engine {
    /// Starts from what is on disk. Every client is away at first, and every hold runs from now. What
    /// ended while the server was away is to be written: poll the actions before anything else.
    pub fn new(settings: EngineSettings, snapshot: Snapshot, now: Now) -> Self {
        let mut engine = Self {
            settings,
            users: BTreeMap::new(),
            devices: BTreeMap::new(),
            pins: HashMap::new(),
            invites: BTreeMap::new(),
            secrets: HashMap::new(),
            tunnels: Tunnels::default(),
            names: QuickMap::default(),
            former: HashMap::new(),
            ports: HashMap::new(),
            former_ports: HashMap::new(),
            seeking: HashMap::new(),
            ended: HashMap::new(),
            links: HashMap::new(),
            visits: QuickMap::default(),
            sleepers: Sleepers::default(),
            held: Held::default(),
            stays: QuickMap::default(),
            owned: QuickMap::default(),
            sources: Sources::default(),
            shares: Shares::default(),
            domains: Domains::default(),
            visits_total: 0,
            draining: false,
            settled_at: now.wall.plus(super::lifecycle::SETTLING),
            timers: Timers::default(),
            actions: VecDeque::new(),
            tickets: 0,
            pending: HashMap::new(),
            opening: HashMap::new(),
            enrolling: HashMap::new(),
            founding: HashMap::new(),
            restrictions: BTreeMap::new(),
            restriction_ids: 0,
            failed_retries: 0,
            dirty: BTreeSet::new(),
        };
        engine.load(now, snapshot);
        engine.advance(now);
        engine
    }

    fn load(&mut self, now: Now, snapshot: Snapshot) {
        for user in snapshot.users {
            self.users.insert(user.id, user);
        }
        for device in snapshot.devices {
            self.remember_device(now, device);
        }
        for invite in snapshot.invites {
            self.remember_invite(invite);
        }
        for tunnel in snapshot.tunnels {
            self.load_tunnel(now, tunnel);
        }
        for share in snapshot.shares {
            self.load_share(share);
        }
        self.load_domains(now, snapshot.domains);
    }

    /// Decides about a visit. Counts it as going on when it passes, as waiting when it is held.
    pub fn admit(&mut self, now: Now, visit: &Visit) -> Result<Admission, Refusal> {
        self.advance(now);
        self.route(now, visit)
    }

    /// Takes in something that happened.
    pub fn handle(&mut self, now: Now, event: Event) {
        self.advance(now);
        if let Some(ticket) = self.waits_for(&event) {
            return self.park(ticket, event);
        }
        match event {
            Event::LinkUp { link, device, peer } => self.link_up(now, link, device, peer),
            Event::LinkHeard { link } => self.link_heard(now, link),
            Event::LinkAway { link } => self.link_away(now, link),
            Event::LinkAsleep { link } => self.link_asleep(now, link),
            Event::LinkAwake { link } => self.link_awake(now, link),
            Event::LinkWeighs { link, bytes } => self.link_weighs(link, bytes),
            Event::LinkDown { link } => self.link_down(now, link),
            Event::EnrollAsked {
                from,
                peer,
                secret_hash,
                pin,
                name,
                id,
            } => {
                let newcomer = super::enrol::Newcomer {
                    peer,
                    secret_hash,
                    pin,
                    name,
                    id,
                };
                let asked = self.enroll(now, from, newcomer);
                self.answer(from, asked);
            }
            Event::BindAsked {
                from,
                ask,
                proposals,
            } => {
                let asked = self.bind(now, from, ask, &proposals);
                self.answer(from, asked);
            }
            Event::CloseAsked { from, tunnel } => {
                let asked = self.close(now, from, tunnel);
                self.answer(from, asked);
            }
            Event::SetAsked { from, ask } => {
                let asked = self.set(now, from, &ask);
                self.answer(from, asked);
            }
            Event::DomainsAsked {
                from,
                tunnel,
                domains,
            } => {
                let asked = self.wish_domains(now, from, tunnel, domains);
                self.answer(from, asked);
            }
            Event::LookedUp { domain, found } => self.looked_up(now, &domain, found),
            Event::ShareAsked { from, ask } => {
                let asked = self.share(now, from, ask);
                self.answer(from, asked);
            }
            Event::UnshareAsked { from, share } => {
                let asked = self.unshare(now, from, share);
                self.answer(from, asked);
            }
            Event::RedeemAsked { from, share } => {
                let asked = self.redeem(now, from, share);
                self.answer(from, asked);
            }
            Event::SuspendAsked { from, what, reason } => {
                let asked = self.suspend(now, from, &what, reason.as_deref());
                self.answer(from, asked);
            }
            Event::ResumeAsked { from, what } => {
                let asked = self.resume(now, from, &what);
                self.answer(from, asked);
            }
            Event::LeaveAsked { from } => {
                let asked = self.leave(now, from);
                self.answer(from, asked);
            }
            Event::InviteAsked {
                from,
                user,
                user_id,
                id,
                secret_hash,
                uses,
                expires_at,
            } => {
                let wish = super::enrol::Wish {
                    user,
                    user_id,
                    id,
                    secret_hash,
                    uses,
                    expires_at,
                };
                let asked = self.invite(now, from, wish);
                self.answer(from, asked);
            }
            Event::RevokeAsked { from, what } => {
                let asked = self.revoke(now, from, &what);
                self.answer(from, asked);
            }
            Event::Listened { tunnel, open } => self.listened(now, tunnel, open),
            Event::Committed { ticket, result } => self.committed(now, ticket, result),
            Event::VisitEnded { visit } | Event::VisitGone { visit } => {
                self.visit_over(now, visit);
            }
            Event::Reloaded { settings } => self.reloaded(settings),
            Event::Drain => self.drain(),
        }
    }

    /// The next thing to do; take them all, in order, after every call.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Engine::handle_timeout`] next, unless something else comes first.
    pub fn poll_timeout(&self, now: Now) -> Option<Instant> {
        self.timers.next(now)
    }

    /// Does what is due. Too early is harmless, too late loses nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        self.advance(now);
    }

    /// Does what is due, in the order it fell due. Every entrance comes through here first, so that no
    /// decision is older than the clocks it is asked with.
    pub(super) fn advance(&mut self, now: Now) {
        while let Some((timer, at)) = self.timers.pop_due(now) {
            match timer {
                Timer::Expire(tunnel) => self.expire(now, tunnel),
                Timer::Gone(tunnel) => self.give_up_gone(now, tunnel),
                Timer::Forget(tunnel) => self.forget_tunnel(tunnel),
                Timer::ForgetInvite(invite) => self.forget_invite(invite),
                Timer::Hold(tunnel) => self.end_hold(tunnel),
                Timer::Port(tunnel) => self.listen_again(now, tunnel),
                Timer::Idle(tunnel) => self.look_at_idleness(now, at, tunnel),
                Timer::Silence(device) => self.look_at_silence(now, device),
                Timer::Share(share) => self.share_is_over(now, share),
                Timer::Domain(number) => self.look_at_domain(now, number),
                Timer::Seen => self.write_seen(now),
                Timer::Retry => self.retry_now(),
            }
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        let waiting: BTreeSet<TunnelId> = self.held.tunnels().collect();
        for tunnel in waiting {
            self.refuse_held(tunnel, &Refusal::Draining);
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn answer(&mut self, to: Requester, asked: Asked) {
        let outcome = match asked {
            Ok(None) => return,
            Ok(Some(answer)) => Ok(answer),
            Err(error) => Err(error),
        };
        self.act(Action::Reply { to, outcome });
    }

    /// The device behind a link that asks. A fenced link may not ask for anything.
    pub(super) fn asker(&self, from: Requester) -> Result<DeviceId, AskError> {
        let Requester::Link { link, .. } = from else {
            return Err(AskError::NotEnrolled);
        };
        self.links.get(&link).copied().ok_or(AskError::Superseded)
    }

    /// Who asks, for the audit.
    pub(super) fn who(&self, from: Requester) -> Who {
        let link = match from {
            Requester::Link { link, .. } => link,
            Requester::Edge { peer, .. } => {
                let (actor, peer) = (from.actor(None), Some(peer));
                return Who { actor, peer };
            }
            Requester::Admin { .. } => {
                let actor = from.actor(None);
                return Who { actor, peer: None };
            }
        };
        let device = self.links.get(&link).and_then(|id| self.devices.get(id));
        Who {
            actor: from.actor(device.map(|d| d.row.id)),
            peer: device.and_then(|d| d.link.as_ref()).map(|live| live.peer),
        }
    }
}

/// One line of the audit.
pub(super) fn audit(
    now: Now,
    who: Who,
    action: &'static str,
    subject: impl ToString,
    detail: impl Into<String>,
) -> AuditRow {
    AuditRow {
        at: now.wall,
        actor: who.actor,
        peer: who.peer,
        action,
        subject: subject.to_string(),
        detail: detail.into(),
    }
}
