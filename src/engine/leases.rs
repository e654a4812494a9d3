//! Who gets which name: opening a tunnel, and taking it back. A grant: it is reserved in memory, takes
//! effect when it is on disk, and is undone when it cannot be written.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::domains::Claimant;
use super::entry::{Asked, Engine, audit};
use super::limits::Ceiling;
use super::persist::Work;
use super::setting::over;
use super::state::{Device, Tunnel};
use super::{Answer, AskError, BindAsk, Change, Requester, TunnelRow, TunnelState};
use crate::names::{DeviceId, Domain, Slug, UserId};
use crate::times::Now;

/// Labels of one tunnel, and bytes of a label's name or value.
const LABELS: (usize, usize) = (16, 64);

impl Engine {
    /// A client opens a tunnel or takes it back. Asking twice is harmless, and moves nothing.
    pub(super) fn bind(
        &mut self,
        now: Now,
        from: Requester,
        ask: BindAsk,
        proposals: &[Slug],
    ) -> Asked {
        let device = self.asker(from)?;
        if self.devices.get(&device).is_none_or(|d| d.is_revoked()) {
            return Err(AskError::Revoked);
        }
        if self.device_is_suspended(device) {
            return Err(AskError::Suspended);
        }
        if let Some(tunnel) = self.tunnels.get(&ask.tunnel) {
            take_back(tunnel, device, &ask)?;
            if let Some(domains) = ask.domains {
                return Ok(self.keep_to_domains(now, from, ask.tunnel, domains));
            }
            return Ok(Some(Answer::Bound(Box::new(self.view(tunnel)))));
        }
        if self.opening.contains_key(&ask.tunnel) {
            return self.join_opening(from, device, &ask).map(|()| None);
        }
        let wished = ask.public_port.is_some();
        let domains = super::domains::each_once(ask.domains.clone().unwrap_or_default());
        let row = self.judge(now, device, ask, proposals)?;
        self.may_claim(now, Claimant::of(&row), &domains, 0)?;
        match row.public_port {
            Some(port) => self.seek_port(from, row, port, wished),
            None => self.open_with(now, from, row, domains),
        }
        Ok(None)
    }

    /// A second question for a tunnel whose first commit is under way waits for that commit.
    fn join_opening(
        &mut self,
        from: Requester,
        device: DeviceId,
        ask: &BindAsk,
    ) -> Result<(), AskError> {
        let ticket = self.opening.get(&ask.tunnel);
        let pending = ticket.and_then(|ticket| self.pending.get_mut(ticket));
        match pending.map(|pending| &mut pending.work) {
            Some(Work::Open { row, waiting, .. })
                if row.device == device && row.kind == ask.kind =>
            {
                super::persist::wait_in(waiting, from)
            }
            _ => Err(AskError::NotYours),
        }
    }

    /// Whether a new tunnel may be opened, and as what.
    fn judge(
        &self,
        now: Now,
        id: DeviceId,
        ask: BindAsk,
        proposals: &[Slug],
    ) -> Result<TunnelRow, AskError> {
        let device = self.devices.get(&id).ok_or(AskError::NotEnrolled)?;
        let settings = &self.settings;
        if !settings.limits.kinds.is_empty() && !settings.limits.kinds.contains(&ask.kind) {
            return Err(AskError::Kind { kind: ask.kind });
        }
        self.may_have(ask.kind, &ask.policy)?;
        // Our clock says when a life that is asked for by its length ends.
        let expires_at = match ask.expires_in {
            Some(lives) => Some(now.wall.plus(lives)),
            None => ask.expires_at,
        };
        if expires_at.is_some_and(|at| at <= now.wall) {
            return Err(AskError::AlreadyExpired);
        }
        if ask.hold.is_some_and(|hold| hold > settings.hold_max) {
            return Err(AskError::HoldTooLong {
                max: settings.hold_max,
            });
        }
        let idle = self.idle_of(ask.idle, ask.declared)?;
        if !labels_fit(&ask.labels) {
            return Err(AskError::Labels);
        }
        if device.tunnels.len() + device.opening >= settings.tunnels_per_device {
            return Err(AskError::TooManyTunnels {
                max: settings.tunnels_per_device,
            });
        }
        if !self.may_wait() {
            return Err(AskError::Busy);
        }
        let user = device.row.user;
        self.may_have_another(device, user)?;
        Ok(TunnelRow {
            id: ask.tunnel,
            public_port: self.choose_port(now, user, ask.kind, ask.tunnel, ask.public_port)?,
            slug: self.choose(now, user, ask.name, proposals)?,
            device: id,
            user,
            kind: ask.kind,
            state: TunnelState::Open,
            expires_at: self.expiry(now, expires_at)?,
            idle,
            hold: ask.hold.unwrap_or(settings.hold),
            declared: ask.declared,
            labels: ask.labels,
            created_at: now.wall,
            ended_at: None,
            last_seen_at: None,
            idle_spent: Duration::ZERO,
            away_since: None,
            policy: Arc::new(ask.policy),
            policy_version: 1,
            suspended_at: None,
        })
    }

    /// The idle time of a new tunnel. What is asked for may not go over the server's maximum; what is not
    /// asked for never does.
    pub(super) fn idle_of(
        &self,
        asked: Option<Option<Duration>>,
        declared: bool,
    ) -> Result<Option<Duration>, AskError> {
        let max = self.settings.idle_max;
        let default = self.settings.idle.filter(|_| !declared);
        match (asked, max) {
            (None, None) => Ok(default),
            (None, Some(max)) => Ok(Some(default.unwrap_or(max).min(max))),
            (Some(idle), Some(max)) if idle.is_none_or(|idle| idle > max) => {
                Err(AskError::IdleTooLong { max })
            }
            (Some(idle), _) => Ok(idle),
        }
    }

    /// Whether a device, and its user, may have one more tunnel.
    fn may_have_another(&self, device: &Device, user: UserId) -> Result<(), AskError> {
        let limits = &self.settings.limits;
        let count = |d: &Device| d.tunnels.len() + d.opening;
        let own = self.devices.values().filter(|d| d.row.user == user);
        for (what, most, has) in [
            (Ceiling::DeviceTunnels, limits.device.tunnels, count(device)),
            (
                Ceiling::UserTunnels,
                limits.user.tunnels,
                own.map(count).sum(),
            ),
        ] {
            if let Some(most) = most.filter(|most| has >= *most) {
                return Err(over(what, most));
            }
        }
        Ok(())
    }

    fn choose(
        &self,
        now: Now,
        user: UserId,
        name: Option<Slug>,
        proposals: &[Slug],
    ) -> Result<Slug, AskError> {
        if let Some(slug) = name {
            return self.free_for(now, user, &slug).map(|()| slug);
        }
        let free = |slug: &&Slug| self.free_for(now, user, slug).is_ok();
        let first = proposals.iter().find(free).cloned();
        first.ok_or(AskError::NoFreeName)
    }

    fn free_for(&self, now: Now, user: UserId, slug: &Slug) -> Result<(), AskError> {
        let slug = slug.clone();
        if slug.is_reserved() || self.settings.limits.reserved.contains(&slug) {
            return Err(AskError::NameReserved { slug });
        }
        if self.names.contains_key(&slug) {
            return Err(AskError::NameTaken { slug });
        }
        let former = self.former.get(&slug).and_then(|id| self.tunnels.get(id));
        if former.is_some_and(|t| {
            t.row.user != user && t.in_quarantine(self.settings.quarantine, now.wall)
        }) {
            return Err(AskError::NameInQuarantine { slug });
        }
        Ok(())
    }

    /// Reserves the name and asks for the commit.
    pub(super) fn open(&mut self, now: Now, from: Requester, row: TunnelRow) {
        self.open_with(now, from, row, Vec::new());
    }

    fn open_with(&mut self, now: Now, from: Requester, row: TunnelRow, domains: Vec<Domain>) {
        // On disk a name has one owner, and so has a port: the end of the last one has to get there first.
        let mut due = Vec::new();
        let port = super::ports::port_of(&row);
        let former_port = port.and_then(|port| self.former_ports.get(&port));
        for former in [self.former.get(&row.slug), former_port] {
            let former = former.and_then(|id| self.tunnels.get(id));
            if let Some(unsaved) = former.and_then(|t| t.unsaved) {
                due.push(unsaved);
            }
        }
        for unsaved in due {
            self.hurry(unsaved);
        }
        self.names.insert(row.slug.clone(), row.id);
        if let Some(device) = self.devices.get_mut(&row.device) {
            device.opening += 1;
        }
        let line = audit(
            now,
            self.who(from),
            "tunnel.open",
            row.id,
            row.slug.as_str(),
        );
        let id = row.id;
        let mut changes = vec![Change::Tunnel(row.clone())];
        if !domains.is_empty() {
            changes.push(super::domains::first_claims(now, id, &domains));
        }
        let work = Work::Open {
            row,
            waiting: vec![from],
            domains,
        };
        let ticket = self.persist(changes, vec![line], work);
        self.opening.insert(id, ticket);
    }

    /// The promise is on disk.
    pub(super) fn opened(
        &mut self,
        now: Now,
        row: TunnelRow,
        waiting: Vec<Requester>,
        domains: Vec<Domain>,
    ) {
        self.end_opening(&row);
        let id = row.id;
        let outcome = self.install_tunnel(now, row).map(|()| {
            self.claim_at_opening(now, id, domains);
            let tunnel = self.tunnels.get(&id).expect("it was installed above");
            Answer::Bound(Box::new(self.view(tunnel)))
        });
        for from in waiting {
            self.answer(from, outcome.clone().map(Some));
        }
    }

    /// The promise could not be written: it was never made.
    pub(super) fn not_opened(
        &mut self,
        row: &TunnelRow,
        waiting: Vec<Requester>,
        error: &AskError,
    ) {
        self.end_opening(row);
        self.names.remove(&row.slug);
        self.give_back_port(row);
        for from in waiting {
            self.answer(from, Err(error.clone()));
        }
    }

    fn end_opening(&mut self, row: &TunnelRow) {
        self.opening.remove(&row.id);
        if let Some(device) = self.devices.get_mut(&row.device) {
            device.opening = device.opening.saturating_sub(1);
        }
    }
}

/// A tunnel that exists: whether it is the asker's to take back.
fn take_back(tunnel: &Tunnel, device: DeviceId, ask: &BindAsk) -> Result<(), AskError> {
    if tunnel.row.device != device || tunnel.row.kind != ask.kind {
        return Err(AskError::NotYours);
    }
    match tunnel.row.state {
        TunnelState::Open => Ok(()),
        TunnelState::Closed => Err(AskError::Ended { expired: false }),
        TunnelState::Expired => Err(AskError::Ended { expired: true }),
    }
}

/// Few, short, and each name once.
pub(super) fn labels_fit(labels: &[(String, String)]) -> bool {
    let (most, longest) = LABELS;
    let short = |text: &String| text.len() <= longest && !text.contains(char::is_control);
    let names: HashSet<&String> = labels.iter().map(|(name, _)| name).collect();
    labels.len() <= most
        && names.len() == labels.len()
        && labels
            .iter()
            .all(|(name, value)| short(name) && short(value))
}
