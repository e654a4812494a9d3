//! Visits that wait while their link is away: how many, how long, and what becomes of them.

use std::time::{Duration, Instant};

use super::entry::Engine;
use super::routes::FOUND;
use super::timers::Timer;
use super::{Action, Refusal};
use crate::names::{TunnelId, VisitId};
use crate::times::Now;

/// What visitors of an absent client are told to wait.
pub(super) const RETRY_IN: Duration = Duration::from_secs(5);

impl Engine {
    /// Lets a visit wait, within the bounds.
    pub(super) fn hold(&mut self, visit: VisitId, id: TunnelId) -> Result<(), Refusal> {
        let all = self.held.len();
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let slug = tunnel.row.slug.clone();
        if tunnel.hold_over {
            return Err(Refusal::Offline {
                tunnel: slug,
                retry_in: RETRY_IN,
            });
        }
        if tunnel.held.len() >= self.settings.held_visits || all >= self.settings.held_visits_total
        {
            return Err(Refusal::HoldFull { tunnel: slug });
        }
        tunnel.held.push(visit);
        self.held.insert(visit, id);
        Ok(())
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
