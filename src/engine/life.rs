//! Changing when a tunnel ends, how long it may be idle, how long visits wait for its link, and its labels.
//! The same ceilings hold as at its opening; what is over is not revived.

use super::entry::Engine;
use super::leases::labels_fit;
use super::limits::Ceiling;
use super::setting::over;
use super::timers::Timer;
use super::{AskError, LifeAsk, TunnelRow};
use crate::names::TunnelId;
use crate::times::{Now, show_duration};

impl Engine {
    /// The row as it would be, if it may be so.
    pub(super) fn with_life(
        &self,
        now: Now,
        row: &TunnelRow,
        ask: &LifeAsk,
    ) -> Result<TunnelRow, AskError> {
        let mut row = row.clone();
        let longest = self.settings.limits.expiry_max;
        match (ask.expires_in, longest) {
            (None, _) => {}
            (Some(None), Some(longest)) => {
                return Err(over(Ceiling::Expiry, show_duration(longest)));
            }
            (Some(None), None) => row.expires_at = None,
            (Some(Some(lives)), _) if lives.is_zero() => return Err(AskError::AlreadyExpired),
            (Some(Some(lives)), _) => {
                row.expires_at = self.expiry(now, Some(now.wall.plus(lives)))?;
            }
        }
        if ask.idle.is_some() {
            row.idle = self.idle_of(ask.idle, row.declared)?;
        }
        if let Some(hold) = ask.hold {
            let max = self.settings.hold_max;
            if hold > max {
                return Err(AskError::HoldTooLong { max });
            }
            row.hold = hold;
        }
        if let Some(labels) = &ask.labels {
            if !labels_fit(labels) {
                return Err(AskError::Labels);
            }
            row.labels.clone_from(labels);
        }
        Ok(row)
    }

    /// Sets the clocks of a tunnel whose row has changed.
    pub(super) fn set_clocks(&mut self, now: Now, id: TunnelId, ask: &LifeAsk) {
        if ask.expires_in.is_some() {
            let at = self.tunnels.get(&id).and_then(|t| t.row.expires_at);
            match at {
                Some(at) => self.timers.set_wall(Timer::Expire(id), at),
                None => self.timers.cancel(Timer::Expire(id)),
            }
        }
        if ask.idle.is_some() {
            // Whoever says how long from now on means that it begins now.
            self.stop_idleness(now.monotonic, id);
            self.timers.cancel(Timer::Idle(id));
            if let Some(tunnel) = self.tunnels.get_mut(&id) {
                tunnel.row.idle_spent = std::time::Duration::ZERO;
            }
            self.run_idleness(now.monotonic, id);
        }
        if ask.hold.is_some() && self.timers.is_set(Timer::Hold(id)) {
            let tunnel = self.tunnels.get(&id);
            let device = tunnel.and_then(|t| self.devices.get(&t.row.device));
            if let Some(away) = device.map(|device| device.away) {
                self.start_hold(away, id);
            }
        }
    }
}
