//! Visits that wait while their link is away: how many, how much they keep, how long, and what becomes of
//! them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::entry::Engine;
use super::routes::FOUND;
use super::timers::Timer;
use super::{Action, Refusal, Visit};
use crate::names::{LinkId, QuickMap, TunnelId, UserId, VisitId};
use crate::times::Now;

/// What visitors of an absent client are told to wait.
pub(super) const RETRY_IN: Duration = Duration::from_secs(5);

/// Visits that wait, and what they keep in memory.
#[derive(Debug, Default)]
pub(super) struct Held {
    visits: QuickMap<VisitId, (TunnelId, UserId, u64)>,
    tunnels: QuickMap<TunnelId, u64>,
    users: HashMap<UserId, u64>,
    bytes: u64,
}

impl Held {
    fn insert(&mut self, visit: VisitId, (tunnel, user): (TunnelId, UserId), bytes: u64) {
        self.visits.insert(visit, (tunnel, user, bytes));
        let of_tunnel = self.tunnels.entry(tunnel).or_default();
        for own in [of_tunnel, self.users.entry(user).or_default()] {
            *own = own.saturating_add(bytes);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The tunnel it waited for, if it did.
    pub(super) fn remove(&mut self, visit: &VisitId) -> Option<TunnelId> {
        let (tunnel, user, bytes) = self.visits.remove(visit)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(own) = self.tunnels.get_mut(&tunnel) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.tunnels.remove(&tunnel);
            }
        }
        if let Some(own) = self.users.get_mut(&user) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.users.remove(&user);
            }
        }
        Some(tunnel)
    }

    pub(super) fn contains(&self, visit: &VisitId) -> bool {
        self.visits.contains_key(visit)
    }

    /// Those that somebody waits for, once for each who does.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = TunnelId> + '_ {
        self.visits.values().map(|(tunnel, ..)| *tunnel)
    }

    pub(super) fn len(&self) -> usize {
        self.visits.len()
    }

    /// What all of them keep.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn bytes_of(&self, tunnel: TunnelId) -> u64 {
        self.tunnels.get(&tunnel).copied().unwrap_or(0)
    }

    fn bytes_of_user(&self, user: UserId) -> u64 {
        self.users.get(&user).copied().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let nobody = self.tunnels.is_empty() && self.users.is_empty();
        self.visits.is_empty() && nobody && self.bytes == 0
    }
}

impl Engine {
    /// Lets a visit wait, within the bounds.
    pub(super) fn hold(&mut self, visit: &Visit, id: TunnelId) -> Result<(), Refusal> {
        let (all, bytes) = (self.held.len(), visit.bytes);
        let kept = self.held.bytes_of(id).saturating_add(bytes);
        let kept_in_all = self.held.bytes().saturating_add(bytes);
        let enough = self.owners_wait_enough(id);
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let (slug, user) = (tunnel.row.slug.clone(), tunnel.row.user);
        let kept_of_user = self.held.bytes_of_user(user).saturating_add(bytes);
        if tunnel.hold_over {
            return Err(Refusal::Offline {
                tunnel: slug,
                retry_in: RETRY_IN,
            });
        }
        let bounds = &self.settings;
        let is_full = enough
            || tunnel.held.len() >= bounds.held_visits
            || all >= bounds.held_visits_total
            || kept > bounds.held_memory
            || kept_of_user > bounds.held_memory_per_user
            || kept_in_all > bounds.held_memory_total;
        if is_full {
            return Err(Refusal::HoldFull { tunnel: slug });
        }
        tunnel.held.push(visit.id);
        self.held.insert(visit.id, (id, user), bytes);
        Ok(())
    }

    /// Whether a visit waits for the client of this link to come back on it.
    pub fn holds_for(&self, link: LinkId) -> bool {
        let device = self.links.get(&link).and_then(|id| self.devices.get(id));
        let tunnels = device.into_iter().flat_map(|device| &device.tunnels);
        tunnels
            .filter_map(|id| self.tunnels.get(id))
            .any(|tunnel| !tunnel.held.is_empty())
    }

    /// The client of a tunnel went away at `since`: visits wait from then on.
    pub(super) fn start_hold(&mut self, since: Instant, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.hold_over = false;
            self.timers.set(Timer::Hold(id), since, tunnel.row.hold);
        }
    }

    /// The hold is over: who waited, and whoever comes later, is told to try again.
    pub(super) fn end_hold(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.hold_over = true;
        let refusal = Refusal::Offline {
            tunnel: tunnel.row.slug.clone(),
            retry_in: RETRY_IN,
        };
        let waits_for_answers = tunnel.visits > 0;
        self.refuse_held(id, &refusal);
        if waits_for_answers {
            self.act(Action::GiveUp { tunnel: id });
        }
    }

    /// The client is back: everyone who waited goes on, in the order they came.
    pub(super) fn release_held(&mut self, now: Now, id: TunnelId) {
        self.timers.cancel(Timer::Hold(id));
        let Some(link) = self.way(id) else {
            return;
        };
        for visit in self.take_held(id) {
            let route = self.begin_visit(now, visit, id, link);
            self.act(Action::Release {
                visit,
                outcome: Ok(route),
            });
        }
    }

    /// Everyone who waited is turned away.
    pub(super) fn refuse_held(&mut self, id: TunnelId, refusal: &Refusal) {
        for visit in self.take_held(id) {
            self.left(visit);
            self.act(Action::Release {
                visit,
                outcome: Err(refusal.clone()),
            });
        }
    }

    fn take_held(&mut self, id: TunnelId) -> Vec<VisitId> {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return Vec::new();
        };
        let held = std::mem::take(&mut tunnel.held);
        for visit in &held {
            self.held.remove(visit);
        }
        held
    }
}
