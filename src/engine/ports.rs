//! Who gets which public port: those of tcp and udp tunnels, out of the operator's one range. A port is
//! leased like a name: one owner at a time, kept for its user through the quarantine. Not the sockets:
//! the role opens and closes them as it is told.

use std::time::Duration;

use super::entry::Engine;
use super::state::Tunnel;
use super::timers::Timer;
use super::{Action, AskError, Requester, TunnelRow};
use crate::names::{Kind, TunnelId, UserId};
use crate::times::Now;

/// How many ports are tried when the system has given away those that were free here.
const TRIES: usize = 64;

/// Ended ports of one user that are kept from others; of more, the oldest are free for all. A range is
/// short, and nobody shall use it up by opening and closing.
pub(super) const KEPT_PER_USER: usize = 32;

/// Between two tries to open the socket of a tunnel that has its port already.
const RETRY: Duration = Duration::from_secs(5);

/// A public port; TCP and UDP have one range and different sockets.
pub(super) type Port = (Kind, u16);

/// A tunnel that will open once its port is open.
#[derive(Debug)]
pub(super) struct Seeking {
    row: TunnelRow,
    from: Requester,
    /// Whether this very port was asked for.
    wished: bool,
    tried: Vec<u16>,
}

/// Whether visits find a tunnel of this kind by a port of its own.
pub(super) const fn has_port(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp | Kind::Udp)
}

/// The port that a row has.
pub(super) fn port_of(row: &TunnelRow) -> Option<Port> {
    row.public_port.map(|port| (row.kind, port))
}

impl Engine {
    /// The port a new tunnel gets, if its kind has one.
    pub(super) fn choose_port(
        &self,
        now: Now,
        user: UserId,
        kind: Kind,
        id: TunnelId,
        wished: Option<u16>,
    ) -> Result<Option<u16>, AskError> {
        if !has_port(kind) {
            return Ok(None);
        }
        let Some((first, last)) = self.settings.ports else {
            return Err(AskError::NoPorts { kind });
        };
        let Some(port) = wished else {
            let found = self.free_port(now, user, kind, id, &[]);
            return found.map(Some).ok_or(AskError::NoFreePort { kind });
        };
        if !(first..=last).contains(&port) {
            return Err(AskError::PortOutOfRange { port, first, last });
        }
        self.port_free_for(now, user, (kind, port))
            .map(|()| Some(port))
    }

    fn port_free_for(&self, now: Now, user: UserId, port: Port) -> Result<(), AskError> {
        let (kind, number) = port;
        if self.ports.contains_key(&port) {
            return Err(AskError::PortTaken { kind, port: number });
        }
        match self.kept_port(now, port) {
            Some(tunnel) if tunnel.row.user != user => {
                Err(AskError::PortInQuarantine { kind, port: number })
            }
            _ => Ok(()),
        }
    }

    /// The ended tunnel for whose user a port is kept.
    fn kept_port(&self, now: Now, port: Port) -> Option<&Tunnel> {
        let former = self.tunnels.get(self.former_ports.get(&port)?)?;
        former
            .in_quarantine(self.settings.quarantine, now.wall)
            .then_some(former)
    }

    /// A free port: one that is kept for the user, so that who opens again finds the old address, else
    /// one that follows from the tunnel's id, so that neighbours do not get neighbours.
    fn free_port(
        &self,
        now: Now,
        user: UserId,
        kind: Kind,
        id: TunnelId,
        tried: &[u16],
    ) -> Option<u16> {
        let (first, last) = self.settings.ports?;
        let free = |port: &u16| {
            !tried.contains(port) && self.port_free_for(now, user, (kind, *port)).is_ok()
        };
        let own = self.former_ports.iter().filter(|(port, _)| port.0 == kind);
        let kept = own.filter_map(|((_, port), _)| {
            let tunnel = self.kept_port(now, (kind, *port))?;
            let ours = tunnel.row.user == user && (first..=last).contains(port);
            ours.then_some((tunnel.row.ended_at, *port))
        });
        if let Some((_, port)) = kept.filter(|(_, port)| free(port)).max() {
            return Some(port);
        }
        let count = u32::from(last - first) + 1;
        let bytes = id.to_bytes();
        let tail = bytes[8..]
            .iter()
            .fold(0_u64, |all, b| (all << 8) | u64::from(*b));
        let start = u32::try_from(tail % u64::from(count)).unwrap_or(0);
        (0..count)
            .map(|step| (start + step) % count)
            .filter_map(|at| u16::try_from(u32::from(first) + at).ok())
            .find(|port| free(port))
    }

    /// Asks for the socket of a tunnel that wants to open; it opens when the socket does.
    pub(super) fn seek_port(&mut self, from: Requester, row: TunnelRow, port: u16, wished: bool) {
        let (id, kind) = (row.id, row.kind);
        self.ports.insert((kind, port), id);
        let seeking = Seeking {
            row,
            from,
            wished,
            tried: vec![port],
        };
        self.seeking.insert(id, seeking);
        self.act(Action::Listen {
            tunnel: id,
            kind,
            port,
        });
    }

    /// The role says whether a socket is open.
    pub(super) fn listened(&mut self, now: Now, id: TunnelId, open: bool) {
        match self.seeking.remove(&id) {
            Some(seeking) if open => self.open(now, seeking.from, seeking.row),
            Some(seeking) => self.seek_on(now, seeking),
            None if open => self.timers.cancel(Timer::Port(id)),
            // It has the port on disk: the promise stands, and the socket is tried again.
            None if self.tunnels.get(&id).is_some_and(Tunnel::is_open) => {
                self.timers.set(Timer::Port(id), now.monotonic, RETRY);
            }
            None => {}
        }
    }

    fn seek_on(&mut self, now: Now, mut seeking: Seeking) {
        let (id, kind) = (seeking.row.id, seeking.row.kind);
        let port = seeking.row.public_port.unwrap_or_default();
        self.ports.remove(&(kind, port));
        let next = if seeking.wished || seeking.tried.len() >= TRIES {
            None
        } else {
            self.free_port(now, seeking.row.user, kind, id, &seeking.tried)
        };
        let Some(next) = next else {
            let error = if seeking.wished {
                AskError::PortTaken { kind, port }
            } else {
                AskError::NoFreePort { kind }
            };
            return self.answer(seeking.from, Err(error));
        };
        seeking.tried.push(next);
        seeking.row.public_port = Some(next);
        self.ports.insert((kind, next), id);
        self.seeking.insert(id, seeking);
        self.act(Action::Listen {
            tunnel: id,
            kind,
            port: next,
        });
    }

    /// Asks for the socket of an open tunnel: after a start, and as long as it cannot be had. A port
    /// that the operator has taken out of the range stays shut.
    pub(super) fn listen_again(&mut self, now: Now, id: TunnelId) {
        let tunnel = self.tunnels.get(&id).filter(|t| t.is_open());
        let Some((kind, port)) = tunnel.and_then(|t| port_of(&t.row)) else {
            return;
        };
        let range = self.settings.ports;
        if range.is_some_and(|(first, last)| (first..=last).contains(&port)) {
            self.act(Action::Listen {
                tunnel: id,
                kind,
                port,
            });
        } else {
            self.timers.set(Timer::Port(id), now.monotonic, RETRY);
        }
    }

    /// A tunnel is over, or never was: its socket closes.
    pub(super) fn give_back_port(&mut self, row: &TunnelRow) {
        self.timers.cancel(Timer::Port(row.id));
        let Some(port) = port_of(row) else { return };
        if self.ports.get(&port) == Some(&row.id) {
            self.ports.remove(&port);
            self.act(Action::Unlisten { tunnel: row.id });
        }
    }

    /// The port of an ended tunnel is kept for its user.
    pub(super) fn keep_port(&mut self, row: &TunnelRow) {
        let Some(port) = port_of(row) else { return };
        let former = self.former_ports.get(&port);
        let latest = former.and_then(|other| self.tunnels.get(other));
        if latest.is_some_and(|other| other.row.ended_at > row.ended_at) {
            return;
        }
        self.former_ports.insert(port, row.id);
        let of_user = self.former_ports.iter().filter_map(|(port, id)| {
            let tunnel = self.tunnels.get(id)?;
            (tunnel.row.user == row.user).then_some((tunnel.row.ended_at, *port))
        });
        let of_user: Vec<_> = of_user.collect();
        if of_user.len() > KEPT_PER_USER
            && let Some((_, oldest)) = of_user.into_iter().min()
        {
            self.former_ports.remove(&oldest);
        }
    }

    /// Only the disk remembers the tunnel.
    pub(super) fn forget_port(&mut self, row: &TunnelRow) {
        if let Some(port) = port_of(row)
            && self.former_ports.get(&port) == Some(&row.id)
        {
            self.former_ports.remove(&port);
        }
    }

    /// Whether a name leads to a tunnel that wants the very bytes of TLS.
    pub fn passes_tls(&self, label: &str) -> bool {
        self.open_tunnel(Kind::Tls, label).is_some()
    }
}
