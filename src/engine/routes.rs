//! Where a visit goes: label → tunnel → live link. Counts the visits that are going on.

use std::time::Duration;

use super::entry::Engine;
use super::gate::Judged;
use super::state::Tunnel;
use super::{Admission, Refusal, Route, Visit};
use crate::names::{Kind, LinkId, TunnelId, VisitId};
use crate::times::Now;

/// Why a tunnel is there.
pub(super) const FOUND: &str = "the caller found the tunnel open";

impl Engine {
    pub(super) fn route(&mut self, now: Now, visit: &Visit) -> Result<Admission, Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        let Some(id) = self.open_tunnel(visit.kind, &visit.label) else {
            let refusal = self.nothing_open(now, &visit.label);
            return Err(self.nobody_there(now, visit, refusal));
        };
        // An id that is used twice would be counted twice and ended once.
        self.visit_over(now, visit.id);
        let by = match self.judge_visit(now, id, visit)? {
            Judged::In(rule, shadowed) => (rule, shadowed),
            Judged::Verify(verification) => {
                return Ok(Admission::Verify(Box::new(verification)));
            }
        };
        match self.way(id) {
            Some(link) => {
                self.enter(now.monotonic, id, visit, by, false);
                Ok(Admission::Pass(self.begin_visit(now, visit.id, id, link)))
            }
            None => {
                self.hold(visit, id)?;
                self.enter(now.monotonic, id, visit, by, true);
                Ok(Admission::Hold)
            }
        }
    }

    /// The open tunnel of a name, or of an id where a port stands for it. One whose first commit is under
    /// way has its name, and no route yet; one of another kind is none: what it carries is not that.
    pub(super) fn open_tunnel(&self, kind: Kind, label: &str) -> Option<TunnelId> {
        let id = if super::ports::has_port(kind) {
            label.parse().ok()?
        } else {
            self.open_of_name(label)?
        };
        let tunnel = self.tunnels.get(&id)?;
        (tunnel.is_open() && tunnel.row.kind == kind).then_some(id)
    }

    /// The open tunnel of a name, of whatever kind.
    pub(super) fn open_of_name(&self, label: &str) -> Option<TunnelId> {
        // No slug has a dot, and no own domain is without one.
        let id = match label.contains('.') {
            true => self.domains.leads(label)?,
            false => *self.names.get(label)?,
        };
        self.tunnels.get(&id).filter(|t| t.is_open()).map(|_| id)
    }

    /// The live link of a tunnel's device, unless it sleeps.
    pub(super) fn way(&self, id: TunnelId) -> Option<LinkId> {
        let device = self.tunnels.get(&id)?.row.device;
        self.devices.get(&device)?.here()
    }

    pub(super) fn nothing_open(&self, now: Now, label: &str) -> Refusal {
        self.former
            .get(label)
            .and_then(|id| self.tunnels.get(id))
            .filter(|t| t.in_quarantine(self.settings.quarantine, now.wall))
            .map_or_else(|| Refusal::NoRoute { host: label.into() }, Tunnel::over)
    }

    /// Counts a visit as going on.
    pub(super) fn begin_visit(
        &mut self,
        now: Now,
        visit: VisitId,
        id: TunnelId,
        link: LinkId,
    ) -> Route {
        self.waits_no_more(visit);
        let passage = self.passage(visit, id);
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        tunnel.visits += 1;
        tunnel.idle_from = None;
        tunnel.row.idle_spent = Duration::ZERO;
        tunnel.row.last_seen_at = Some(now.wall);
        let route = Route {
            visit,
            tunnel: id,
            slug: tunnel.row.slug.clone(),
            link,
            policy: passage.policy,
            rule: passage.rule,
            shadowed: passage.shadowed,
            bandwidth: passage.bandwidth,
        };
        self.visits.insert(visit, id);
        self.visits_total += 1;
        self.mark_seen(now, id);
        route
    }

    /// A visit ended, or stopped waiting. Unknown ones are nobody's.
    pub(super) fn visit_over(&mut self, now: Now, visit: VisitId) {
        self.left(visit);
        if let Some(id) = self.held.remove(&visit)
            && let Some(tunnel) = self.tunnels.get_mut(&id)
        {
            tunnel.held.retain(|held| *held != visit);
        }
        let Some(id) = self.visits.remove(&visit) else {
            return;
        };
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.visits = tunnel.visits.saturating_sub(1);
        if tunnel.is_open() {
            tunnel.row.last_seen_at = Some(now.wall);
            self.mark_seen(now, id);
            self.run_idleness(now.monotonic, id);
        }
    }
}
