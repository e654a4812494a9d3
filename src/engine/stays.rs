//! Visits that came in: what each is counted for, and what is kept of it while it goes on or waits. Whether
//! one may come in is asked in [`super::gate`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ::http::Method;

use super::entry::Engine;
use super::gate::whose;
use super::limits::{Limit, Meter, Seat, Visitor};
use super::policy::{PasswordHash, Policy, RuleId};
use super::routes::FOUND;
use super::{Action, Bandwidth, Visit};
use crate::names::{DeviceId, ShareId, TunnelId, UserId, VisitId};

/// Who owns tunnels, for the limits over all of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Device(DeviceId),
    User(UserId),
}

/// What is counted about an owner.
#[derive(Debug, Default)]
pub(super) struct Owned {
    pub(super) meter: Meter,
    held: usize,
}

/// The visits of one tunnel that go on or wait, by the share links they came in with: to ask about those of
/// one tunnel or one share link, nobody looks through the visits of others.
#[derive(Debug, Default)]
pub(super) struct Inside(BTreeSet<(Option<ShareId>, VisitId)>);

impl Inside {
    /// Those by one share link, or all of them.
    pub(super) fn by(&self, share: Option<ShareId>) -> impl Iterator<Item = VisitId> + '_ {
        let [first, last] = [[0; 16], [0xff; 16]].map(VisitId::from_bytes);
        let visits = match share {
            Some(_) => self.0.range((share, first)..=(share, last)),
            None => self.0.range(..),
        };
        visits.map(|(_, visit)| *visit)
    }

    fn remove(&mut self, stay: &Stay, visit: VisitId) {
        self.0.remove(&(stay.share(), visit));
        if self.0.is_empty() {
            // A tunnel without visits needs no room for them.
            self.0 = BTreeSet::new();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What is kept of a visit that goes on or waits.
#[derive(Debug)]
pub(super) struct Stay {
    pub(super) tunnel: TunnelId,
    owners: [Owner; 2],
    seat: Seat<Visitor>,
    pub(super) peer: IpAddr,
    pub(super) http: Option<KeptHttp>,
    held: bool,
    rule: RuleId,
    shadowed: Vec<RuleId>,
}

impl Stay {
    /// The share link it said it comes with.
    fn share(&self) -> Option<ShareId> {
        self.http.as_ref()?.share
    }
}

/// What a new policy is asked about, of a visit that has a request.
#[derive(Debug)]
pub(super) struct KeptHttp {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) user: Option<(String, PasswordHash)>,
    pub(super) share: Option<ShareId>,
}

/// What a visit that may come in is told about itself.
#[derive(Debug, Clone)]
pub(super) struct Passage {
    pub(super) policy: Arc<Policy>,
    pub(super) rule: RuleId,
    pub(super) shadowed: Vec<RuleId>,
    pub(super) bandwidth: Bandwidth,
}

impl Engine {
    /// Counts a visit that comes in, and keeps what a new policy would be asked about.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        id: TunnelId,
        visit: &Visit,
        (rule, shadowed): (RuleId, Vec<RuleId>),
        held: bool,
    ) {
        let limits = &self.settings.limits;
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let row = &tunnel.row;
        let owners = [Owner::Device(row.device), Owner::User(row.user)];
        let seat = tunnel.gate.visitors.seat(visit.peer.ip().into());
        let all = row.policy.tunnel_limit().or(limits.tunnel);
        let each = row.policy.visitor_limit().or(limits.visitor);
        count(now, &mut tunnel.gate.all, all);
        if let Some(meter) = tunnel.gate.visitors.meter(seat) {
            count(now, meter, each);
        }
        for (owner, rate) in owners
            .into_iter()
            .zip([limits.device.rate, limits.user.rate])
        {
            let owned = self.owned.entry(owner).or_default();
            owned.held += usize::from(held);
            let limit = Limit {
                rate,
                ..Limit::default()
            };
            count(now, &mut owned.meter, limit);
        }
        let stay = Stay {
            tunnel: id,
            owners,
            seat,
            peer: visit.peer.ip(),
            http: visit.http.as_ref().map(|http| KeptHttp {
                method: http.method.clone(),
                path: http.path.clone(),
                user: whose(tunnel, http.credentials.as_ref()),
                share: http.share,
            }),
            held,
            rule,
            shadowed,
        };
        tunnel.inside.0.insert((stay.share(), visit.id));
        self.stays.insert(visit.id, stay);
    }

    /// A visit is over, or waits no longer and is refused.
    pub(super) fn left(&mut self, visit: VisitId) {
        let Some(stay) = self.stays.remove(&visit) else {
            return;
        };
        if let Some(tunnel) = self.tunnels.get_mut(&stay.tunnel) {
            tunnel.inside.remove(&stay, visit);
            let open = &mut tunnel.gate.all.open;
            *open = open.saturating_sub(1);
            if let Some(meter) = tunnel.gate.visitors.meter(stay.seat) {
                meter.open = meter.open.saturating_sub(1);
            }
        }
        for owner in stay.owners {
            if let Some(owned) = self.owned.get_mut(&owner) {
                owned.meter.open = owned.meter.open.saturating_sub(1);
                owned.held = owned.held.saturating_sub(usize::from(stay.held));
            }
        }
    }

    /// A visit that waited goes on.
    pub(super) fn waits_no_more(&mut self, visit: VisitId) {
        let Some(stay) = self.stays.get_mut(&visit) else {
            return;
        };
        if std::mem::take(&mut stay.held) {
            for owner in stay.owners {
                if let Some(owned) = self.owned.get_mut(&owner) {
                    owned.held = owned.held.saturating_sub(1);
                }
            }
        }
    }

    /// Whether an owner of a tunnel has as many visits waiting as it may.
    pub(super) fn owners_wait_enough(&self, id: TunnelId) -> bool {
        let row = &self.tunnels.get(&id).expect(FOUND).row;
        let limits = &self.settings.limits;
        [
            (Owner::Device(row.device), limits.device.held),
            (Owner::User(row.user), limits.user.held),
        ]
        .into_iter()
        .any(|(owner, most)| {
            let held = self.owned.get(&owner).map_or(0, |owned| owned.held);
            most.is_some_and(|most| held >= most)
        })
    }

    /// What a visit that came in is told about itself.
    pub(super) fn passage(&self, visit: VisitId, id: TunnelId) -> Passage {
        let row = &self.tunnels.get(&id).expect(FOUND).row;
        let stay = self
            .stays
            .get(&visit)
            .expect("it came in before it goes on");
        Passage {
            policy: Arc::clone(&row.policy),
            rule: stay.rule.clone(),
            shadowed: stay.shadowed.clone(),
            bandwidth: self.bandwidth_of(&row.policy, stay.peer.into(), (row.device, row.user)),
        }
    }

    fn bandwidth_of(&self, policy: &Policy, from: Visitor, owner: (DeviceId, UserId)) -> Bandwidth {
        let limits = &self.settings.limits;
        Bandwidth {
            from,
            owner: Some(owner),
            tunnel: policy.tunnel_limit().or(limits.tunnel).bandwidth,
            visitor: policy.visitor_limit().or(limits.visitor).bandwidth,
            device: limits.device.bandwidth,
            user: limits.user.bandwidth,
        }
    }

    /// Tells the visits of a tunnel that go on what they may move now.
    pub(super) fn shape_anew(&mut self, id: TunnelId) {
        let row = &self.tunnels.get(&id).expect(FOUND).row;
        let from = Bandwidth::UNLIMITED.from;
        let bandwidth = self.bandwidth_of(&row.policy, from, (row.device, row.user));
        let tunnel = id;
        self.act(Action::Shape { tunnel, bandwidth });
    }
}

/// Counts one visit that comes in.
fn count(now: Instant, meter: &mut Meter, limit: Limit) {
    meter.open += 1;
    if let Some(rate) = limit.rate {
        meter.bucket.count(now, rate);
    }
}
