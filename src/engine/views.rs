//! What people see: plain getters for the admin API and for status. Nothing here changes anything.

use std::net::SocketAddr;

use super::entry::Engine;
use super::state::{Device, Tunnel};
use super::{DeviceRow, EngineSettings, TunnelState, TunnelView, UserRow};
use crate::names::{DeviceId, LinkId, TunnelId, UserId};

/// A device as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// The row.
    pub row: DeviceRow,
    /// Its user's name.
    pub user: String,
    /// Its live link.
    pub link: Option<LinkId>,
    /// Whether that link has fallen silent.
    pub dormant: bool,
    /// From where the link comes.
    pub peer: Option<SocketAddr>,
    /// Open tunnels.
    pub tunnels: usize,
}

/// A user as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserView {
    /// The row.
    pub row: UserRow,
    /// Devices that are not revoked.
    pub devices: usize,
    /// Open tunnels.
    pub tunnels: usize,
}

/// How many there are of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Live links, dormant ones too.
    pub links: usize,
    /// Of them dormant.
    pub dormant: usize,
    /// Open tunnels.
    pub tunnels: usize,
    /// Visits going on.
    pub visits: usize,
    /// What those that are dormant hold in memory, in bytes.
    pub dormant_bytes: u64,
    /// Links closed since the start because dormant ones cost too much.
    pub dormant_evicted: u64,
    /// Visits waiting.
    pub held: usize,
    /// The most bytes that those keep in memory.
    pub held_bytes: u64,
    /// Visits that passed since the start.
    pub visits_total: u64,
    /// Commits under way.
    pub pending: usize,
}

impl Engine {
    /// All tunnels that are remembered, ended ones too, oldest id first.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelView> + '_ {
        self.tunnels.values().map(|tunnel| self.view(tunnel))
    }

    /// One tunnel by its `tun_…` id or its name: the open one first, else the latest that ended.
    pub fn tunnel(&self, key: &str) -> Option<TunnelView> {
        let id = key.parse::<TunnelId>().ok();
        let id = id
            .or_else(|| self.open_of_name(key))
            .or_else(|| self.former.get(key).copied())?;
        self.tunnels.get(&id).map(|tunnel| self.view(tunnel))
    }

    /// All devices, revoked ones too.
    pub fn devices(&self) -> impl Iterator<Item = DeviceView> + '_ {
        self.devices.values().map(|device| self.device_view(device))
    }

    /// One device.
    pub fn device(&self, id: DeviceId) -> Option<DeviceView> {
        self.devices.get(&id).map(|device| self.device_view(device))
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = UserView> + '_ {
        self.users.values().map(|user| self.user_view(user))
    }

    /// A user's name.
    pub fn user_name(&self, id: UserId) -> Option<&str> {
        self.users.get(&id).map(|user| user.name.as_str())
    }

    /// How many there are of everything.
    pub fn counts(&self) -> Counts {
        let live = self.devices.values().filter_map(|d| d.link.as_ref());
        Counts {
            links: self.links.len(),
            dormant: live.filter(|live| live.dormant).count(),
            tunnels: self.tunnels.values().filter(|t| t.is_open()).count(),
            visits: self.visits.len(),
            dormant_bytes: self.sleepers.bytes(),
            dormant_evicted: self.sleepers.evicted(),
            held: self.held.len(),
            held_bytes: self.held.bytes(),
            visits_total: self.visits_total,
            pending: self.pending.len(),
        }
    }

    /// How each open tunnel stands: `open`, `held` or `offline`.
    pub fn open_states(&self) -> impl Iterator<Item = &'static str> + '_ {
        let open = self.tunnels.values().filter(|tunnel| tunnel.is_open());
        open.map(|tunnel| match self.way(tunnel.row.id) {
            Some(_) => "open",
            None if tunnel.hold_over => "offline",
            None => "held",
        })
    }

    /// How many visits go on.
    pub fn visits_now(&self) -> usize {
        self.visits.len()
    }

    /// What is in force.
    pub const fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// Whether nothing new is taken.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// How many open tunnels a device has.
    pub fn tunnels_of_device(&self, id: DeviceId) -> usize {
        self.devices
            .get(&id)
            .map_or(0, |device| device.tunnels.len())
    }

    pub(super) fn view(&self, tunnel: &Tunnel) -> TunnelView {
        let row = &tunnel.row;
        let link = self.way(row.id).filter(|_| tunnel.is_open());
        TunnelView {
            state: match row.state {
                TunnelState::Open if self.is_suspended(tunnel) => "suspended",
                TunnelState::Open if link.is_some() => "open",
                TunnelState::Open if tunnel.hold_over => "offline",
                TunnelState::Open => "held",
                over => over.as_str(),
            },
            url: self.settings.url(row.kind, &row.slug, row.public_port),
            link,
            visits: tunnel.visits,
            held: tunnel.held.len(),
            domains: self.domain_views(row.id),
            row: row.clone(),
        }
    }

    fn device_view(&self, device: &Device) -> DeviceView {
        let live = device.link.as_ref();
        DeviceView {
            user: self.user_name(device.row.user).unwrap_or_default().into(),
            link: live.map(|live| live.id),
            dormant: live.is_some_and(|live| live.dormant),
            peer: live.map(|live| live.peer),
            tunnels: device.tunnels.len(),
            row: device.row.clone(),
        }
    }

    fn user_view(&self, user: &UserRow) -> UserView {
        let own = |device: &&Device| device.row.user == user.id;
        let devices = self.devices.values().filter(own);
        let open = self.devices.values().filter(own).map(|d| d.tunnels.len());
        UserView {
            devices: devices.filter(|d| !d.is_revoked()).count(),
            tunnels: open.sum(),
            row: user.clone(),
        }
    }
}
