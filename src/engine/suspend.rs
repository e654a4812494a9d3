//! What the operator keeps from everything for a while: a user, a device, a tunnel. Names are kept, links
//! and visits are cut at once, and nothing of it can be used until it is resumed.

use super::entry::{Asked, Engine, audit};
use super::persist::RowKey;
use super::{Action, Answer, AskError, Refusal, Requester};
use crate::codes::Code;
use crate::names::{DeviceId, TunnelId, UserId};
use crate::times::{Now, WallTime};

/// What is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    User(UserId),
    Device(DeviceId),
    Tunnel(TunnelId),
}

impl Target {
    const fn row(self) -> RowKey {
        match self {
            Self::User(id) => RowKey::User(id),
            Self::Device(id) => RowKey::Device(id),
            Self::Tunnel(id) => RowKey::Tunnel(id),
        }
    }

    const fn actions(self) -> (&'static str, &'static str) {
        match self {
            Self::User(_) => ("user.suspend", "user.resume"),
            Self::Device(_) => ("device.suspend", "device.resume"),
            Self::Tunnel(_) => ("tunnel.suspend", "tunnel.resume"),
        }
    }

    fn id(self) -> String {
        match self {
            Self::User(id) => id.to_string(),
            Self::Device(id) => id.to_string(),
            Self::Tunnel(id) => id.to_string(),
        }
    }
}

impl Engine {
    /// The operator suspends. Asking twice is harmless.
    pub(super) fn suspend(
        &mut self,
        now: Now,
        from: Requester,
        what: &str,
        reason: Option<&str>,
    ) -> Asked {
        let target = self.find_target(from, what)?;
        if !self.mark(target, Some(now.wall)) {
            let unsaved = self.unsaved(target.row());
            return self.after_commit(unsaved, from, Answer::Suspended);
        }
        self.cut_target(target);
        let (action, _) = target.actions();
        let detail = match reason {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        };
        let line = audit(now, self.who(from), action, target.id(), detail);
        let waiting = Some((from, Answer::Suspended));
        self.restrict(vec![target.row()], vec![line], waiting);
        Ok(None)
    }

    /// The operator takes it back.
    pub(super) fn resume(&mut self, now: Now, from: Requester, what: &str) -> Asked {
        let target = self.find_target(from, what)?;
        if !self.mark(target, None) {
            let unsaved = self.unsaved(target.row());
            return self.after_commit(unsaved, from, Answer::Resumed);
        }
        for id in self.tunnels_in(target) {
            self.tell_tunnel(id, Code::Done);
        }
        let (_, action) = target.actions();
        let line = audit(now, self.who(from), action, target.id(), what);
        let waiting = Some((from, Answer::Resumed));
        self.restrict(vec![target.row()], vec![line], waiting);
        Ok(None)
    }

    /// Whether the operator keeps a device from everything, itself or with its user.
    pub(super) fn device_is_suspended(&self, id: DeviceId) -> bool {
        self.devices.get(&id).is_some_and(|device| {
            let user = self.users.get(&device.row.user);
            device.row.suspended_at.is_some() || user.is_some_and(|u| u.suspended_at.is_some())
        })
    }

    fn find_target(&self, from: Requester, what: &str) -> Result<Target, AskError> {
        let not_found = || AskError::NotFound {
            what: what.chars().take(64).collect(),
        };
        if !matches!(from, Requester::Admin { .. }) {
            return Err(not_found());
        }
        if let Ok(id) = what.parse() {
            let tunnel = self.tunnels.get(&id).filter(|t| t.is_open());
            return tunnel.map(|_| Target::Tunnel(id)).ok_or_else(not_found);
        }
        if let Ok(id) = what.parse() {
            let user = self.users.get(&id);
            return user.map(|_| Target::User(id)).ok_or_else(not_found);
        }
        let mut found: Vec<Target> = self
            .open_of_name(what)
            .map(Target::Tunnel)
            .into_iter()
            .collect();
        let named = self.users.values().filter(|user| user.name == what);
        found.extend(named.map(|user| Target::User(user.id)));
        match self.find_device(what) {
            Ok(id) => found.push(Target::Device(id)),
            Err(ambiguous @ AskError::Ambiguous { .. }) => return Err(ambiguous),
            Err(_) => {}
        }
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(not_found()),
            _ => Err(AskError::Ambiguous {
                what: what.chars().take(64).collect(),
            }),
        }
    }

    /// Puts the mark in the row; whether that changed it.
    fn mark(&mut self, target: Target, suspended: Option<WallTime>) -> bool {
        let slot = match target {
            Target::User(id) => self.users.get_mut(&id).map(|u| &mut u.suspended_at),
            Target::Device(id) => self.devices.get_mut(&id).map(|d| &mut d.row.suspended_at),
            Target::Tunnel(id) => self.tunnels.get_mut(&id).map(|t| &mut t.row.suspended_at),
        };
        slot.is_some_and(|slot| {
            let changes = slot.is_some() != suspended.is_some();
            if changes {
                *slot = suspended;
            }
            changes
        })
    }

    fn devices_in(&self, target: Target) -> Vec<DeviceId> {
        let all = self.devices.values();
        let in_it = all.filter(|device| match target {
            Target::User(id) => device.row.user == id,
            Target::Device(id) => device.row.id == id,
            Target::Tunnel(_) => false,
        });
        in_it.map(|device| device.row.id).collect()
    }

    fn tunnels_in(&self, target: Target) -> Vec<TunnelId> {
        match target {
            Target::Tunnel(id) => vec![id],
            Target::User(_) | Target::Device(_) => {
                let devices = self.devices_in(target).into_iter();
                devices.flat_map(|id| self.tunnels_of(id)).collect()
            }
        }
    }

    fn cut_target(&mut self, target: Target) {
        for id in self.tunnels_in(target) {
            let Some(tunnel) = self.tunnels.get(&id) else {
                continue;
            };
            let refusal = Refusal::Suspended {
                tunnel: tunnel.row.slug.clone(),
            };
            self.refuse_held(id, &refusal);
            self.act(Action::CutVisits { tunnel: id });
            self.tell_tunnel(id, Code::Suspended);
        }
        for id in self.devices_in(target) {
            let live = self.devices.get(&id).and_then(|d| d.link.as_ref());
            if let Some(link) = live.map(|live| live.id) {
                // The role says that it is down when it is.
                let code = Code::Suspended;
                self.act(Action::CutLink { link, code });
            }
        }
    }

    fn tell_tunnel(&mut self, tunnel: TunnelId, code: Code) {
        let device = self.tunnels.get(&tunnel).map(|t| t.row.device);
        let device = device.and_then(|id| self.devices.get(&id));
        if let Some(link) = device.and_then(|d| d.link.as_ref()).map(|live| live.id) {
            self.act(Action::Tell { link, tunnel, code });
        }
    }
}
