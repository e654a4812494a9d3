//! When a tunnel ends, and what that means: closed, expired, idle, its client gone. Restrictions: in force
//! at once, written after, acknowledged when written.

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::{Asked, Engine, audit};
use super::gate::Gate;
use super::persist::RowKey;
use super::state::{Tunnel, Who};
use super::timers::Timer;
use super::{
    Action, Answer, AskError, AuditRow, EngineSettings, Requester, TunnelRow, TunnelState,
};
use crate::codes::Code;
use crate::names::{DeviceId, TunnelId};
use crate::times::{Now, WallTime};

/// After a start, how long clients may take to come back before any is given up for gone, however
/// long the server itself was away.
pub(super) const SETTLING: Duration = Duration::from_secs(300);

/// Ended tunnels of one user that are remembered through their quarantine.
pub(super) const ENDED_PER_USER: usize = 10_000;

/// The same by the bytes of their policies' texts.
pub(super) const ENDED_BYTES_PER_USER: usize = 8 << 20;

/// Ended tunnels of one user whose end is on disk, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ended {
    ids: VecDeque<TunnelId>,
    bytes: usize,
}

impl Ended {
    fn is_too_much(&self) -> bool {
        self.ids.len() > ENDED_PER_USER || self.bytes > ENDED_BYTES_PER_USER
    }
}

/// How a tunnel ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) state: TunnelState,
    pub(super) who: Who,
    /// For the audit.
    pub(super) why: &'static str,
    /// Whether its client is to be told; it knows when it asked itself.
    pub(super) tell: bool,
}

impl Ending {
    pub(super) const fn by_itself(state: TunnelState, why: &'static str) -> Self {
        Self {
            state,
            who: Who::ENGINE,
            why,
            tell: true,
        }
    }

    /// Since when it is over: an expiry counts from its time, even if the server was away then.
    fn at(&self, now: Now, row: &TunnelRow) -> WallTime {
        row.expires_at
            .filter(|_| self.state == TunnelState::Expired)
            .unwrap_or(now.wall)
    }
}

impl Engine {
    /// A client or the operator ends a tunnel. Ending what has ended is harmless.
    pub(super) fn close(&mut self, now: Now, from: Requester, id: TunnelId) -> Asked {
        let operator = matches!(from, Requester::Admin { .. });
        let device = (!operator).then(|| self.asker(from)).transpose()?;
        // A stranger's tunnel and none at all look the same to a client.
        let tunnel = self
            .tunnels
            .get(&id)
            .filter(|t| device.is_none_or(|device| t.row.device == device))
            .ok_or_else(|| AskError::NotFound {
                what: id.to_string(),
            })?;
        if !tunnel.is_open() {
            return self.after_commit(tunnel.unsaved, from, Answer::Closed);
        }
        let ending = Ending {
            state: TunnelState::Closed,
            who: self.who(from),
            why: "asked",
            tell: operator,
        };
        self.end(now, id, ending, Some((from, Answer::Closed)));
        Ok(None)
    }

    /// `expires_at` has come.
    pub(super) fn expire(&mut self, now: Now, id: TunnelId) {
        let ending = Ending::by_itself(TunnelState::Expired, "expired");
        self.end(now, id, ending, None);
    }

    /// Ends one tunnel.
    pub(super) fn end(
        &mut self,
        now: Now,
        id: TunnelId,
        ending: Ending,
        waiting: Option<(Requester, Answer)>,
    ) {
        if let Some(line) = self.shut(now, id, ending) {
            self.restrict(vec![RowKey::Tunnel(id)], vec![line], waiting);
        }
    }

    /// Takes the promise back in memory: from here on nothing gets through. What is still to be written is
    /// the caller's to ask for, with the audit row returned here; none when it was not open.
    pub(super) fn shut(&mut self, now: Now, id: TunnelId, ending: Ending) -> Option<AuditRow> {
        self.stop_idleness(now.monotonic, id);
        let tunnel = self.tunnels.get_mut(&id).filter(|t| t.is_open())?;
        tunnel.row.state = ending.state;
        tunnel.row.ended_at = Some(ending.at(now, &tunnel.row));
        let (slug, device) = (tunnel.row.slug.clone(), tunnel.row.device);
        let (refusal, row) = (tunnel.over(), tunnel.row.clone());
        // Nobody is let in any more; thousands of tunnels that are over are remembered.
        tunnel.gate = Gate::new();
        self.names.remove(&slug);
        self.give_back_port(&row);
        self.stop_timers(id);
        self.forget_shares(id);
        self.forget_domains(now, id);
        self.refuse_held(id, &refusal);
        self.act(Action::CutVisits { tunnel: id });
        if let Some(device) = self.devices.get_mut(&device) {
            device.tunnels.remove(&id);
        }
        if ending.tell {
            self.tell(id, device, code_of(ending.state));
        }
        let detail = format!("{slug} {}", ending.why);
        self.former.insert(slug, id);
        self.keep_port(&row);
        Some(audit(now, ending.who, action_of(ending.state), id, detail))
    }

    fn stop_timers(&mut self, id: TunnelId) {
        self.dirty.remove(&id);
        for timer in [Timer::Expire, Timer::Gone, Timer::Hold, Timer::Idle] {
            self.timers.cancel(timer(id));
        }
    }

    fn tell(&mut self, tunnel: TunnelId, device: DeviceId, code: Code) {
        let device = self.devices.get(&device);
        // A dormant link too: the client reads it when it wakes.
        if let Some(link) = device.and_then(|d| d.link.as_ref()).map(|live| live.id) {
            self.act(Action::Tell { link, tunnel, code });
        }
    }

    /// The end of a tunnel is on disk: its name waits out the quarantine. Gives the tunnel that is no
    /// longer remembered for it.
    pub(super) fn remember_ended(&mut self, id: TunnelId) -> Vec<TunnelId> {
        let Some(row) = self.tunnels.get(&id).map(|t| &t.row) else {
            return Vec::new();
        };
        let (user, bytes) = (row.user, row.policy.to_text().len());
        let ended = self.ended.entry(user).or_default();
        ended.ids.push_back(id);
        ended.bytes += bytes;
        // Who opens and closes without end loses the quarantine of the oldest names; nobody else does.
        let mut forgotten = Vec::new();
        while let Some(ended) = self.ended.get(&user).filter(|ended| ended.is_too_much())
            && let Some(oldest) = ended.ids.front().copied()
        {
            self.forget_tunnel(oldest);
            forgotten.push(oldest);
        }
        self.watch_quarantine(id);
        forgotten
    }

    fn watch_quarantine(&mut self, id: TunnelId) {
        let tunnel = self.tunnels.get(&id);
        if let Some(at) = tunnel.and_then(|t| t.quarantine_end(self.settings.quarantine)) {
            self.timers.set_wall(Timer::Forget(id), at);
        }
    }

    /// The quarantine is over, or too many wait for its end: only the disk remembers.
    pub(super) fn forget_tunnel(&mut self, id: TunnelId) {
        self.timers.cancel(Timer::Forget(id));
        let Some(tunnel) = self.tunnels.remove(&id) else {
            return;
        };
        if let Some(ended) = self.ended.get_mut(&tunnel.row.user) {
            let before = ended.ids.len();
            // Nearly always the oldest; looking through all for each would not end in good time.
            if ended.ids.front() == Some(&id) {
                ended.ids.pop_front();
            } else {
                ended.ids.retain(|other| *other != id);
            }
            if ended.ids.len() < before {
                let bytes = tunnel.row.policy.to_text().len();
                ended.bytes = ended.bytes.saturating_sub(bytes);
            }
            if ended.ids.is_empty() {
                self.ended.remove(&tunnel.row.user);
            }
        }
        self.forget_port(&tunnel.row);
        if self.former.get(&tunnel.row.slug) == Some(&id) {
            self.former.remove(&tunnel.row.slug);
        }
    }

    /// Puts a tunnel from the disk into memory as the snapshot has it.
    pub(super) fn load_tunnel(&mut self, now: Now, row: TunnelRow) {
        if row.state == TunnelState::Open {
            let id = row.id;
            // What ended meanwhile is written like any other end; nobody waits for an answer.
            drop(self.install_tunnel(now, row));
            self.listen_again(now, id);
            return;
        }
        let id = row.id;
        let latest = self
            .former
            .get(&row.slug)
            .and_then(|other| self.tunnels.get(other));
        if latest.is_none_or(|other| other.row.ended_at <= row.ended_at) {
            self.former.insert(row.slug.clone(), id);
        }
        self.tunnels.insert(id, Tunnel::new(row.clone()));
        self.keep_port(&row);
        drop(self.remember_ended(id));
    }

    /// Puts an open tunnel in force, unless its device was revoked or its time came while it was being
    /// written: then it ends at once.
    pub(super) fn install_tunnel(&mut self, now: Now, row: TunnelRow) -> Result<(), AskError> {
        let (id, owner, expires_at) = (row.id, row.device, row.expires_at);
        self.names.insert(row.slug.clone(), id);
        if let Some(port) = super::ports::port_of(&row) {
            self.ports.insert(port, id);
        }
        self.tunnels.insert(id, Tunnel::new(row));
        let Some(device) = self.devices.get_mut(&owner).filter(|d| !d.is_revoked()) else {
            let ending = Ending::by_itself(TunnelState::Closed, "device revoked");
            self.end(now, id, ending, None);
            return Err(AskError::Revoked);
        };
        device.tunnels.insert(id);
        let (here, away) = (device.here(), device.away);
        if expires_at.is_some_and(|at| at <= now.wall) {
            self.expire(now, id);
            return Err(AskError::Ended { expired: true });
        }
        if let Some(at) = expires_at {
            self.timers.set_wall(Timer::Expire(id), at);
        }
        match here {
            Some(_) => self.client_here(now, id),
            None => self.client_away(now, away, id),
        }
        Ok(())
    }

    /// Sets the timer of a client that is away.
    pub(super) fn watch_absence(&mut self, id: TunnelId) {
        if let Some(at) = self.tunnels.get(&id).and_then(|t| self.gone_at(t)) {
            self.timers.set_wall(Timer::Gone(id), at);
        }
    }

    /// The client stayed away for as long as it may.
    pub(super) fn give_up_gone(&mut self, now: Now, id: TunnelId) {
        let ending = Ending::by_itself(TunnelState::Closed, "client gone");
        self.end(now, id, ending, None);
    }

    /// New settings hold for what comes; rows keep what they have. Times that stand in no row are
    /// counted anew.
    pub(super) fn reloaded(&mut self, settings: EngineSettings) {
        let other_limits = self.settings.limits != settings.limits;
        if other_limits {
            self.forget_rates();
        }
        self.settings = settings;
        let tunnels: Vec<_> = self.tunnels.keys().copied().collect();
        for id in tunnels {
            if other_limits && self.tunnels.get(&id).is_some_and(Tunnel::is_open) {
                self.shape_anew(id);
            }
            let Some(tunnel) = self.tunnels.get(&id) else {
                continue;
            };
            match (tunnel.is_open(), tunnel.unsaved) {
                (true, _) => self.watch_absence(id),
                (false, None) => self.watch_quarantine(id),
                (false, Some(_)) => {}
            }
        }
        let devices: Vec<_> = self.devices.keys().copied().collect();
        for id in devices {
            self.watch_silence(id);
        }
        self.caps_changed();
    }
}

const fn code_of(state: TunnelState) -> Code {
    match state {
        TunnelState::Expired => Code::TunnelExpired,
        TunnelState::Open | TunnelState::Closed => Code::TunnelClosed,
    }
}

const fn action_of(state: TunnelState) -> &'static str {
    match state {
        TunnelState::Expired => "tunnel.expire",
        TunnelState::Open | TunnelState::Closed => "tunnel.close",
    }
}
