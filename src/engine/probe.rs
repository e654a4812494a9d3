//! A client's question to itself through its tunnel's public name. It goes the way of a visit and is
//! none: nothing is counted, nobody is held, and no clock of idleness starts anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Engine;
use super::hold::RETRY_IN;
use super::policy::RuleId;
use super::routes::FOUND;
use super::{Bandwidth, Refusal, Route};
use crate::names::{Kind, VisitId};
use crate::times::Now;

/// Strangers may ask, too: no tunnel is asked more often than this, beyond a few at once.
const EVERY: Duration = Duration::from_secs(1);
const AT_ONCE: u32 = 8;

/// How many probes of one tunnel may still pass now: the time by which those that passed are paid for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProbeBudget(Option<Instant>);

impl ProbeBudget {
    pub(super) const fn full() -> Self {
        Self(None)
    }

    fn take(&mut self, now: Instant) -> bool {
        let paid = self.0.map_or(now, |paid| paid.max(now)) + EVERY;
        let passes = paid.saturating_duration_since(now) <= EVERY * AT_ONCE;
        if passes {
            self.0 = Some(paid);
        }
        passes
    }
}

impl Engine {
    /// Where a probe goes. One that finds no live link is told so at once.
    pub fn probe(&mut self, now: Now, probe: VisitId, label: &str) -> Result<Route, Refusal> {
        self.advance(now);
        if self.draining {
            return Err(Refusal::Draining);
        }
        let Some(id) = self.open_tunnel(Kind::Http, label) else {
            return Err(self.nothing_open(now, label));
        };
        let link = self.way(id);
        // A password must not break the question; suspension is an answer to it.
        if self.tunnels.get(&id).is_some_and(|t| self.is_suspended(t)) {
            return Err(Refusal::Suspended {
                tunnel: self.tunnels[&id].row.slug.clone(),
            });
        }
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let slug = tunnel.row.slug.clone();
        let Some(link) = link else {
            return Err(Refusal::Offline {
                tunnel: slug,
                retry_in: RETRY_IN,
            });
        };
        if !tunnel.probes.take(now.monotonic) {
            return Err(Refusal::Probed {
                tunnel: slug,
                retry_in: EVERY,
            });
        }
        Ok(Route {
            visit: probe,
            tunnel: id,
            slug,
            link,
            policy: Arc::default(),
            rule: RuleId::Default,
            shadowed: Vec::new(),
            bandwidth: Bandwidth::UNLIMITED,
        })
    }
}
