//! The clock of idleness: it runs while the client is here and nobody visits, and starts anew with each visit.

use std::time::Instant;

use super::TunnelState;
use super::entry::Engine;
use super::lifecycle::Ending;
use super::state::Tunnel;
use super::timers::Timer;
use crate::names::TunnelId;
use crate::times::Now;

impl Engine {
    /// Lets the clock run, if it may.
    pub(super) fn run_idleness(&mut self, at: Instant, id: TunnelId) {
        let here = self.way(id).is_some();
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        if !here || tunnel.visits > 0 || tunnel.row.idle.is_none() || !tunnel.is_open() {
            return;
        }
        tunnel.idle_from.get_or_insert(at);
        // A timer that is set comes too early at worst, and looks again.
        if !self.timers.is_set(Timer::Idle(id)) {
            self.watch_idleness(id);
        }
    }

    /// Lets the clock stand still.
    pub(super) fn stop_idleness(&mut self, at: Instant, id: TunnelId) {
        self.count_idleness(at, id);
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.idle_from = None;
        }
    }

    /// Adds up what the clock has run so far.
    pub(super) fn count_idleness(&mut self, at: Instant, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id)
            && let Some(from) = tunnel.idle_from
        {
            tunnel.row.idle_spent += at.saturating_duration_since(from);
            tunnel.idle_from = Some(from.max(at));
        }
    }

    /// Closes a tunnel that was idle long enough.
    pub(super) fn look_at_idleness(&mut self, now: Now, at: Instant, id: TunnelId) {
        self.count_idleness(at, id);
        let Some(tunnel) = self.tunnels.get(&id) else {
            return;
        };
        let (Some(idle), Some(_)) = (tunnel.row.idle, tunnel.idle_from) else {
            return;
        };
        if tunnel.row.idle_spent >= idle {
            let ending = Ending::by_itself(TunnelState::Closed, "idle");
            return self.end(now, id, ending, None);
        }
        self.mark_seen(now, id);
        self.watch_idleness(id);
    }

    fn watch_idleness(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get(&id)
            && let (Some(idle), Some(from)) = (tunnel.row.idle, tunnel.idle_from)
        {
            let left = idle.saturating_sub(tunnel.row.idle_spent);
            let look = left.min(Tunnel::idle_checkpoint(idle));
            self.timers.set(Timer::Idle(id), from, look);
        }
    }
}
