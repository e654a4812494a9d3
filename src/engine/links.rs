//! Which link of a device is the live one, and whether its client is here or away.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Action;
use super::entry::Engine;
use super::state::Live;
use super::timers::Timer;
use crate::codes::Code;
use crate::names::{DeviceId, LinkId, TunnelId};
use crate::times::{Now, WallTime};

/// A link that keeps silent for so many keep-alives is dormant.
const SILENT_KEEP_ALIVES: u32 = 3;

impl Engine {
    /// A link came up. The newest generation wins, whatever the order of arrival.
    pub(super) fn link_up(&mut self, now: Now, link: LinkId, id: DeviceId, peer: SocketAddr) {
        match self.judge_link(link, id) {
            Ok(()) => self.take_over(now, link, id, peer),
            Err(Some(code)) => self.act(Action::CutLink { link, code }),
            // The live link itself, told twice.
            Err(None) => {}
        }
    }

    fn judge_link(&self, link: LinkId, id: DeviceId) -> Result<(), Option<Code>> {
        let device = self.devices.get(&id).ok_or(Some(Code::UnknownDevice))?;
        if device.is_revoked() {
            Err(Some(Code::Revoked))
        } else if self.device_is_suspended(id) {
            Err(Some(Code::Suspended))
        } else if self.too_many_links(id) {
            Err(Some(Code::LimitReached))
        } else if device.link.as_ref().is_some_and(|live| live.id == link) {
            Err(None)
        } else if device.newest.is_some_and(|newest| link.0 <= newest) {
            Err(Some(Code::Superseded))
        } else {
            Ok(())
        }
    }

    /// Whether the user of a device that has no link has as many as a user may.
    fn too_many_links(&self, id: DeviceId) -> bool {
        let (device, most) = (self.devices.get(&id), self.settings.limits.user.links);
        let Some((device, most)) = device.filter(|d| d.link.is_none()).zip(most) else {
            return false;
        };
        let others = self.devices.values();
        let linked = others.filter(|d| d.row.user == device.row.user && d.link.is_some());
        linked.count() >= most
    }

    fn take_over(&mut self, now: Now, link: LinkId, id: DeviceId, peer: SocketAddr) {
        let Some(device) = self.devices.get_mut(&id) else {
            return;
        };
        device.newest = Some(link.0);
        let ghost = device.link.replace(Live {
            id: link,
            peer,
            heard: now.monotonic,
            dormant: false,
            asleep: false,
        });
        self.links.insert(link, id);
        if let Some(ghost) = ghost {
            self.links.remove(&ghost.id);
            self.sleepers.remove(ghost.id);
            self.act(Action::CutLink {
                link: ghost.id,
                code: Code::Superseded,
            });
        }
        self.watch_silence(id);
        self.arrive(now, id);
    }

    /// Something came in on a link.
    pub(super) fn link_heard(&mut self, now: Now, link: LinkId) {
        let Some(&id) = self.links.get(&link) else {
            return;
        };
        let Some(live) = self.devices.get_mut(&id).and_then(|d| d.link.as_mut()) else {
            return;
        };
        live.heard = now.monotonic;
        // Its timer comes early and looks again: this is called too often to move it each time.
        if !live.asleep && std::mem::take(&mut live.dormant) {
            self.sleepers.remove(link);
            self.watch_silence(id);
            self.arrive(now, id);
        }
    }

    /// A link does not answer while a visit waits on it: away from now on, until something is heard.
    pub(super) fn link_away(&mut self, now: Now, link: LinkId) {
        let Some(&id) = self.links.get(&link) else {
            return;
        };
        let live = self.devices.get_mut(&id).and_then(|d| d.link.as_mut());
        let Some(live) = live.filter(|live| !live.dormant) else {
            return;
        };
        live.dormant = true;
        self.timers.cancel(Timer::Silence(id));
        self.depart(now, now.monotonic, id);
        self.fell_dormant(now.monotonic, id);
    }

    /// The client says that it will not take visits from now on.
    pub(super) fn link_asleep(&mut self, now: Now, link: LinkId) {
        self.link_away(now, link);
        if let Some(live) = self.live_of(link) {
            live.asleep = true;
        }
    }

    /// The client says that it does again.
    pub(super) fn link_awake(&mut self, now: Now, link: LinkId) {
        if let Some(live) = self.live_of(link) {
            live.asleep = false;
        }
        self.link_heard(now, link);
    }

    fn live_of(&mut self, link: LinkId) -> Option<&mut Live> {
        let id = self.links.get(&link)?;
        self.devices.get_mut(id)?.link.as_mut()
    }

    /// A link is gone; a fenced one was gone already.
    pub(super) fn link_down(&mut self, now: Now, link: LinkId) {
        let Some((id, live)) = self.unlink(link) else {
            return;
        };
        // A dormant client has been away since it fell silent.
        if !live.dormant {
            self.depart(now, now.monotonic, id);
        }
    }

    /// Takes a live link out of the books.
    pub(super) fn unlink(&mut self, link: LinkId) -> Option<(DeviceId, Live)> {
        let id = self.links.remove(&link)?;
        self.timers.cancel(Timer::Silence(id));
        self.sleepers.remove(link);
        let live = self.devices.get_mut(&id)?.link.take()?;
        Some((id, live))
    }

    /// A link may have been silent for three keep-alives.
    pub(super) fn look_at_silence(&mut self, now: Now, id: DeviceId) {
        let patience = self.patience();
        let Some(live) = self.devices.get_mut(&id).and_then(|d| d.link.as_mut()) else {
            return;
        };
        if now.monotonic.saturating_duration_since(live.heard) < patience {
            return self.watch_silence(id);
        }
        live.dormant = true;
        let since = live.heard.checked_add(patience).unwrap_or(now.monotonic);
        self.depart(now, since, id);
        self.fell_dormant(since, id);
    }

    /// Sets the timer of a link that is not dormant yet.
    pub(super) fn watch_silence(&mut self, id: DeviceId) {
        let patience = self.patience();
        let live = self.devices.get(&id).and_then(|d| d.link.as_ref());
        if let Some(live) = live.filter(|live| !live.dormant) {
            self.timers.set(Timer::Silence(id), live.heard, patience);
        }
    }

    fn patience(&self) -> Duration {
        self.settings.keep_alive.saturating_mul(SILENT_KEEP_ALIVES)
    }

    /// The client is here: nothing of its tunnels waits any longer.
    fn arrive(&mut self, now: Now, id: DeviceId) {
        for tunnel in self.tunnels_of(id) {
            self.client_here(now, tunnel);
        }
    }

    /// The client went away at `since`: its tunnels start to wait.
    fn depart(&mut self, now: Now, since: Instant, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.away = since;
        }
        for tunnel in self.tunnels_of(id) {
            self.client_away(now, since, tunnel);
        }
    }

    pub(super) fn tunnels_of(&self, id: DeviceId) -> Vec<TunnelId> {
        let tunnels = self.devices.get(&id).map(|device| &device.tunnels);
        tunnels.into_iter().flatten().copied().collect()
    }

    pub(super) fn client_here(&mut self, now: Now, id: TunnelId) {
        self.timers.cancel(Timer::Gone(id));
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.hold_over = false;
        if tunnel.row.away_since.take().is_some() {
            self.mark_seen(now, id);
        }
        self.run_idleness(now.monotonic, id);
        self.release_held(now, id);
    }

    pub(super) fn client_away(&mut self, now: Now, since: Instant, id: TunnelId) {
        self.stop_idleness(since, id);
        self.start_hold(since, id);
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        if tunnel.row.away_since.is_none() {
            tunnel.row.away_since = Some(wall_of(now, since));
            self.mark_seen(now, id);
        }
        self.watch_absence(id);
    }
}

/// The wall time of a past moment of the monotonic clock.
fn wall_of(now: Now, past: Instant) -> WallTime {
    let ago = now.monotonic.saturating_duration_since(past).as_millis();
    let ago = i64::try_from(ago).unwrap_or(i64::MAX);
    WallTime::from_millis(now.wall.as_millis().saturating_sub(ago))
}
