//! Visits at the desk: what the engine says of each, the seat of those that wait, and the signals that
//! end them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Desk, State};
use crate::edge::Rates;
use crate::engine::policy::Policy;
use crate::engine::{Admission, Event, Refusal, Route, Verification, Visit};
use crate::names::{LinkId, TunnelId, VisitId};

/// What a held visit hears: its way and the signals that end it, or a refusal.
pub(in crate::server) type Seated = Result<(Route, Signals), Refusal>;

/// What reaches the visits of a tunnel from outside, and what ends them.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Signals {
    /// It closed or expired: all of them.
    pub(in crate::server) cut: CancellationToken,
    /// Its link is away and the hold is over: those without an answer.
    pub(in crate::server) offline: CancellationToken,
    /// It changes what they may move.
    pub(in crate::server) rates: Rates,
}

/// Where an admitted visit stands.
pub(in crate::server) enum Seat {
    Pass(Box<Route>, Signals),
    Hold(oneshot::Receiver<Seated>),
    /// Its password has to be checked, and the question asked again.
    Verify(Box<Verification>),
}

impl Desk {
    /// `Engine::admit`, and a seat in the hold when that is its answer.
    pub(in crate::server) fn admit(&self, visit: &Visit) -> Result<Seat, Refusal> {
        let now = self.now();
        let mut state = self.lock();
        let mut admission = state.engine.admit(now, visit);
        // The hold is over, but the link may have been heard since the last look: a laptop that wakes is
        // there for its first visitor, not for the one a second later.
        if matches!(admission, Err(Refusal::Offline { .. }))
            && let Some(link) = state.heard_again(&visit.label)
        {
            state.engine.handle(now, Event::LinkHeard { link });
            admission = state.engine.admit(now, visit);
        }
        let seat = match admission {
            Ok(Admission::Pass(route)) => {
                let signals = state.signals_for(&route);
                Ok(Seat::Pass(Box::new(route), signals))
            }
            Ok(Admission::Verify(verification)) => Ok(Seat::Verify(verification)),
            Ok(Admission::Hold) => {
                let (tx, rx) = oneshot::channel();
                state.waiting.insert(visit.id, tx);
                // The same; this one goes on with all who wait.
                if let Some(link) = state.heard_again(&visit.label) {
                    state.engine.handle(now, Event::LinkHeard { link });
                }
                Ok(Seat::Hold(rx))
            }
            Err(refusal) => Err(refusal),
        };
        self.carry_out(&mut state, now);
        self.wake_driver(state, now);
        seat
    }

    /// `Engine::probe`: the way of a visit, for what is none.
    pub(in crate::server) fn probe(&self, probe: VisitId, label: &str) -> Seated {
        let now = self.now();
        let mut state = self.lock();
        let route = state.engine.probe(now, probe, label);
        let seated = route.map(|route| {
            let signals = state.signals_of(route.tunnel);
            (route, signals)
        });
        self.carry_out(&mut state, now);
        seated
    }

    /// A held visitor went away. It may have been released in the same moment, so both ends are told.
    pub(in crate::server) fn forget_visit(&self, visit: VisitId) {
        let now = self.now();
        let Some(mut state) = self.lock_to_end() else {
            return;
        };
        state.waiting.remove(&visit);
        state.cuts.remove(&visit);
        state.engine.handle(now, Event::VisitGone { visit });
        state.engine.handle(now, Event::VisitEnded { visit });
        self.carry_out(&mut state, now);
    }

    /// A visit that had passed is over.
    pub(in crate::server) fn visit_ended(&self, visit: VisitId) {
        let now = self.now();
        let Some(mut state) = self.lock_to_end() else {
            return;
        };
        state.cuts.remove(&visit);
        state.engine.handle(now, Event::VisitEnded { visit });
        self.carry_out(&mut state, now);
        self.wake_driver(state, now);
    }

    /// For how long a visit to this tunnel may be held at most.
    pub(in crate::server) fn longest_hold(&self, label: &str) -> Duration {
        self.read(|engine| {
            let own = engine.tunnel(label).map(|view| view.row.hold);
            engine.settings().hold_max.max(own.unwrap_or_default())
        })
    }

    /// `Engine::may_ask_for_nobody`.
    pub(in crate::server) fn may_ask_for_nobody(&self, peer: SocketAddr) -> Result<(), Refusal> {
        let now = self.now();
        self.lock().engine.may_ask_for_nobody(now, peer.ip())
    }

    /// `Engine::greet`.
    pub(in crate::server) fn greet(
        &self,
        label: &str,
        peer: SocketAddr,
    ) -> Result<Arc<Policy>, Refusal> {
        let now = self.now();
        let mut state = self.lock();
        let greeted = state.engine.greet(now, label, peer);
        self.carry_out(&mut state, now);
        greeted
    }
}

impl State {
    /// The link of a tunnel's device, if there is something of it that the engine was not told of.
    fn heard_again(&mut self, label: &str) -> Option<LinkId> {
        let device = self.engine.tunnel(label)?.row.device;
        let link = self.engine.device(device)?.link?;
        let entry = self.links.get_mut(&link)?;
        let heard = entry.link.heard();
        (heard != std::mem::replace(&mut entry.told, heard)).then_some(link)
    }

    /// The signal that ends the visits of a tunnel. Taken under the same lock as the admission: a signal
    /// made later would miss a cut that came in between, and never fire.
    fn signals_of(&mut self, tunnel: TunnelId) -> Signals {
        self.signals.entry(tunnel).or_default().clone()
    }

    /// The same for one visit, which can also be cut alone.
    fn signals_for(&mut self, route: &Route) -> Signals {
        let of_tunnel = self.signals_of(route.tunnel);
        let cut = of_tunnel.cut.child_token();
        self.cuts.insert(route.visit, cut.clone());
        Signals { cut, ..of_tunnel }
    }

    pub(super) fn release(&mut self, visit: VisitId, outcome: Result<Route, Refusal>) {
        let outcome = outcome.map(|route| {
            let signals = self.signals_for(&route);
            (route, signals)
        });
        if let Some(waiter) = self.waiting.remove(&visit) {
            // A visitor that left in this very moment tells us so itself: see `forget_visit`.
            let _ = waiter.send(outcome);
        }
    }
}
