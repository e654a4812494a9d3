//! What waits for the disk. A grant that cannot be written is undone; a restriction that cannot be written
//! stays in force and is tried again until it is. Not the disk: commits are the role's.

use std::collections::HashSet;
use std::time::Duration;

use super::domains::Granted;
use super::entry::{Asked, Engine};
use super::policy::share::ShareRow;
use super::timers::Timer;
use super::{
    Action, Answer, AskError, AuditRow, Change, DeviceRow, Event, InviteRow, Requester, Ticket,
    TunnelRow, UserRow,
};
use crate::codes::Code;
use crate::names::{DeviceId, Domain, InviteId, ShareId, TunnelId, UserId};
use crate::times::Now;

/// Grants under way at once, over all devices.
pub(super) const PENDING: usize = 4096;

/// Questions that wait for one commit.
const WAITING: usize = 16;

/// Changes of one row, made by its client, that a disk may refuse before the client has to wait.
pub(super) const UNWRITTEN: usize = 64;

/// Restrictions in one transaction, when they are tried again.
const BATCH: usize = 256;

/// The longest pause between two tries; space on the disk is noticed within it.
const RETRY_CAP: Duration = Duration::from_secs(5);

/// How often what visits changed is written at most.
const SEEN_EVERY: Duration = Duration::from_secs(60);

/// A commit that was asked for.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) work: Work,
    /// Events that can only be judged when this commit is back.
    parked: Vec<Event>,
}

/// What is done when a commit is back.
#[derive(Debug)]
pub(super) enum Work {
    /// A tunnel opens, with these own domains.
    Open {
        row: TunnelRow,
        waiting: Vec<Requester>,
        domains: Vec<Domain>,
    },
    /// Own domains are claimed, or begin to lead to a tunnel.
    Domains(Granted),
    /// A device is enrolled; the use of its token is reserved.
    Enroll {
        row: DeviceRow,
        invite: InviteId,
        from: Requester,
    },
    /// A join token begins to work, and with it, perhaps, a user to be.
    Invite {
        user: Option<UserRow>,
        row: InviteRow,
        from: Requester,
    },
    /// A share link begins to work.
    Share { row: ShareRow, from: Requester },
    /// A use of a share link is taken; it is reserved.
    Redeem { row: ShareRow, from: Requester },
    /// Restrictions are acknowledged.
    Restrict(Vec<RestrictionId>),
    /// Nothing; if it failed, it is written later.
    Seen(Vec<TunnelId>),
}

/// Tells restrictions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RestrictionId(u64);

/// A row in memory; what is written is what it says then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowKey {
    Tunnel(TunnelId),
    Device(DeviceId),
    Invite(InviteId),
    User(UserId),
    Share(ShareId),
    /// The own domains of a tunnel.
    Domains(TunnelId),
}

/// A restriction that is in force, and not on disk yet.
#[derive(Debug)]
pub(super) struct Restriction {
    rows: Vec<RowKey>,
    audit: Vec<AuditRow>,
    waiting: Vec<(Requester, Answer)>,
    in_flight: bool,
}

impl Engine {
    /// Whether one more grant may wait for its commit.
    pub(super) fn may_wait(&self) -> bool {
        self.pending.len() < PENDING
    }

    /// Asks for a commit.
    pub(super) fn persist(
        &mut self,
        changes: Vec<Change>,
        audit: Vec<AuditRow>,
        work: Work,
    ) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let parked = Vec::new();
        self.pending.insert(ticket, Pending { work, parked });
        self.act(Action::Persist {
            ticket,
            changes,
            audit,
        });
        ticket
    }

    /// The commit that has to be back before an event can be judged.
    pub(super) fn waits_for(&self, event: &Event) -> Option<Ticket> {
        match event {
            Event::CloseAsked { tunnel, .. } => self.opening.get(tunnel),
            Event::SetAsked { ask, .. } => self.opening.get(&ask.tunnel),
            Event::DomainsAsked { tunnel, .. } => self.opening.get(tunnel),
            Event::ShareAsked { ask, .. } => self.opening.get(&ask.tunnel),
            Event::EnrollAsked { pin, .. } => self.enrolling.get(pin),
            Event::InviteAsked { user, .. } => self.founding.get(user),
            _ => None,
        }
        .copied()
    }

    /// Keeps an event until a commit is back.
    pub(super) fn park(&mut self, ticket: Ticket, event: Event) {
        let Some(pending) = self.pending.get_mut(&ticket) else {
            return;
        };
        if pending.parked.len() < WAITING {
            pending.parked.push(event);
        } else if let Event::CloseAsked { from, .. }
        | Event::SetAsked { from, .. }
        | Event::DomainsAsked { from, .. }
        | Event::ShareAsked { from, .. }
        | Event::EnrollAsked { from, .. }
        | Event::InviteAsked { from, .. } = event
        {
            self.answer(from, Err(AskError::Busy));
        }
    }

    /// A commit is back.
    pub(super) fn committed(&mut self, now: Now, ticket: Ticket, result: Result<(), Code>) {
        let Some(pending) = self.pending.remove(&ticket) else {
            return;
        };
        let result = result.map_err(|code| AskError::Store { code });
        match (pending.work, result) {
            (
                Work::Open {
                    row,
                    waiting,
                    domains,
                },
                Ok(()),
            ) => self.opened(now, row, waiting, domains),
            (Work::Open { row, waiting, .. }, Err(e)) => self.not_opened(&row, waiting, &e),
            (Work::Domains(granted), Ok(())) => self.domains_granted(now, granted),
            (Work::Domains(granted), Err(e)) => self.domains_not_granted(now, granted, &e),
            (Work::Enroll { row, from, .. }, Ok(())) => self.enrolled(now, row, from),
            (Work::Enroll { row, invite, from }, Err(e)) => {
                self.not_enrolled(&row, invite, from, e);
            }
            (Work::Invite { user, row, from }, Ok(())) => self.invited(user, row, from),
            (Work::Invite { user, from, .. }, Err(e)) => self.not_invited(user, from, e),
            (Work::Share { row, from }, Ok(())) => self.shared(row, from),
            (Work::Redeem { row, from }, Ok(())) => {
                self.answer(from, Ok(Some(Answer::Redeemed(Box::new(row)))));
            }
            (Work::Share { from, .. }, Err(e)) => self.answer(from, Err(e)),
            (Work::Redeem { row, from }, Err(e)) => self.not_redeemed(&row, from, e),
            (Work::Restrict(ids), Ok(())) => self.restricted(&ids),
            (Work::Restrict(ids), Err(e)) => self.not_restricted(now, &ids, &e),
            (Work::Seen(_), Ok(())) => {}
            (Work::Seen(ids), Err(_)) => self.not_seen(now, &ids),
        }
        for event in pending.parked {
            self.handle(now, event);
        }
    }

    /// Asks for the commit of a restriction that is in force already.
    pub(super) fn restrict(
        &mut self,
        rows: Vec<RowKey>,
        audit: Vec<AuditRow>,
        waiting: Option<(Requester, Answer)>,
    ) {
        self.restriction_ids += 1;
        let id = RestrictionId(self.restriction_ids);
        for row in &rows {
            self.set_unsaved(*row, Some(id));
        }
        let restriction = Restriction {
            rows,
            audit,
            waiting: waiting.into_iter().collect(),
            in_flight: false,
        };
        self.restrictions.insert(id, restriction);
        self.hurry(id);
    }

    /// The same for one row that is changed again and again. What of it could not be written yet is tried with
    /// it, so that a disk that refuses leaves no long line behind.
    pub(super) fn restrict_again(
        &mut self,
        row: RowKey,
        line: AuditRow,
        waiting: (Requester, Answer),
    ) {
        let unsaved = self.unsaved(row);
        let idle = unsaved.filter(|id| self.restrictions.get(id).is_some_and(|r| !r.in_flight));
        let Some(id) = idle else {
            return self.restrict(vec![row], vec![line], Some(waiting));
        };
        if let Some(restriction) = self.restrictions.get_mut(&id) {
            restriction.audit.push(line);
            restriction.waiting.push(waiting);
        }
        self.hurry(id);
    }

    /// Whether a client may restrict something once more that nothing else bounds.
    pub(super) fn may_restrict(&self, row: RowKey) -> bool {
        let unsaved = self.unsaved(row).and_then(|id| self.restrictions.get(&id));
        self.restrictions.len() < PENDING && unsaved.is_none_or(|r| r.audit.len() < UNWRITTEN)
    }

    /// Tries a restriction now, unless it is being tried.
    pub(super) fn hurry(&mut self, id: RestrictionId) {
        if self.restrictions.get(&id).is_some_and(|r| !r.in_flight) {
            self.write_restrictions(vec![id]);
        }
    }

    /// Answers when a restriction is on disk: now, if it is no longer waited for.
    pub(super) fn after_commit(
        &mut self,
        unsaved: Option<RestrictionId>,
        from: Requester,
        answer: Answer,
    ) -> Asked {
        let Some(id) = unsaved else {
            return Ok(Some(answer));
        };
        let Some(restriction) = self.restrictions.get_mut(&id) else {
            return Ok(Some(answer));
        };
        wait_in(&mut restriction.waiting, (from, answer))?;
        self.hurry(id);
        Ok(None)
    }

    /// Tries everything again that could not be written.
    pub(super) fn retry_now(&mut self) {
        let due: Vec<_> = self
            .restrictions
            .iter()
            .filter(|(_, r)| !r.in_flight)
            .map(|(id, _)| *id)
            .collect();
        for batch in due.chunks(BATCH) {
            self.write_restrictions(batch.to_vec());
        }
    }

    fn write_restrictions(&mut self, ids: Vec<RestrictionId>) {
        let (mut changes, mut lines) = (Vec::new(), Vec::new());
        for id in &ids {
            let Some(restriction) = self.restrictions.get_mut(id) else {
                continue;
            };
            restriction.in_flight = true;
            lines.extend(restriction.audit.iter().cloned());
            let rows = restriction.rows.clone();
            changes.extend(rows.into_iter().filter_map(|row| self.change_of(row)));
        }
        self.persist(changes, lines, Work::Restrict(ids));
    }

    fn change_of(&self, row: RowKey) -> Option<Change> {
        match row {
            RowKey::Tunnel(id) => self.tunnels.get(&id).map(|t| Change::Tunnel(t.row.clone())),
            RowKey::Device(id) => self.devices.get(&id).map(|d| Change::Device(d.row.clone())),
            RowKey::Invite(id) => self.invites.get(&id).map(|i| Change::Invite(i.row.clone())),
            RowKey::User(id) => self.users.get(&id).map(|u| Change::User(u.clone())),
            RowKey::Share(id) => self.shares.get(&id).map(|s| Change::Share(s.clone())),
            // Those of a tunnel that is over go with its own row.
            RowKey::Domains(id) => self.has_open(id).then(|| self.domains_change(id)),
        }
    }

    fn restricted(&mut self, ids: &[RestrictionId]) {
        self.failed_retries = 0;
        for id in ids {
            let Some(restriction) = self.restrictions.remove(id) else {
                continue;
            };
            for (from, answer) in restriction.waiting {
                self.answer(from, Ok(Some(answer)));
            }
            for row in restriction.rows {
                // What came after it is still to be written.
                if self.unsaved(row) == Some(*id) {
                    self.set_unsaved(row, None);
                    self.saved(row);
                }
            }
        }
    }

    /// It stays in force; who waited is told, and the disk is asked again.
    fn not_restricted(&mut self, now: Now, ids: &[RestrictionId], error: &AskError) {
        for id in ids {
            let Some(restriction) = self.restrictions.get_mut(id) else {
                continue;
            };
            restriction.in_flight = false;
            for (from, _) in std::mem::take(&mut restriction.waiting) {
                self.answer(from, Err(error.clone()));
            }
        }
        let pause = Duration::from_secs(1 << self.failed_retries.min(8)).min(RETRY_CAP);
        self.failed_retries = self.failed_retries.saturating_add(1);
        if !self.timers.is_set(Timer::Retry) {
            self.timers.set(Timer::Retry, now.monotonic, pause);
        }
    }

    fn set_unsaved(&mut self, row: RowKey, unsaved: Option<RestrictionId>) {
        let slot = match row {
            RowKey::Tunnel(id) => self.tunnels.get_mut(&id).map(|t| &mut t.unsaved),
            RowKey::Device(id) => self.devices.get_mut(&id).map(|d| &mut d.unsaved),
            RowKey::Invite(id) => self.invites.get_mut(&id).map(|i| &mut i.unsaved),
            RowKey::User(_) | RowKey::Share(_) | RowKey::Domains(_) => None,
        };
        if let Some(slot) = slot {
            *slot = unsaved;
        }
    }

    /// The latest restriction of a row that is not on disk yet.
    pub(super) fn unsaved(&self, row: RowKey) -> Option<RestrictionId> {
        match row {
            RowKey::Tunnel(id) => self.tunnels.get(&id)?.unsaved,
            RowKey::Device(id) => self.devices.get(&id)?.unsaved,
            RowKey::Invite(id) => self.invites.get(&id)?.unsaved,
            RowKey::User(_) | RowKey::Share(_) | RowKey::Domains(_) => {
                let mut all = self.restrictions.iter().rev();
                all.find(|(_, r)| r.rows.contains(&row)).map(|(id, _)| *id)
            }
        }
    }

    /// The share links of which something is in force that is not on disk yet.
    pub(super) fn unsaved_shares(&self) -> HashSet<ShareId> {
        let rows = self.restrictions.values().flat_map(|r| &r.rows);
        let shares = rows.filter_map(|row| match row {
            RowKey::Share(id) => Some(*id),
            _ => None,
        });
        shares.collect()
    }

    fn saved(&mut self, row: RowKey) {
        match row {
            RowKey::Tunnel(id) if self.tunnels.get(&id).is_some_and(|t| t.is_open()) => {}
            RowKey::Tunnel(id) => {
                // The disk does not grow without end either. Lost, it is pruned with all of its age.
                let forgotten = self.remember_ended(id);
                if !forgotten.is_empty() {
                    let changes = forgotten.into_iter().map(Change::Forget).collect();
                    self.persist(changes, Vec::new(), Work::Seen(Vec::new()));
                }
            }
            RowKey::Device(id) if self.devices.get(&id).is_some_and(|d| !d.is_revoked()) => {}
            RowKey::Device(id) => self.dismiss(id),
            RowKey::User(_) | RowKey::Share(_) | RowKey::Domains(_) => {}
            RowKey::Invite(id) => self.remember_invite_for_a_while(id),
        }
    }

    /// A tunnel's visits, idleness or absence changed what is worth writing some time.
    pub(super) fn mark_seen(&mut self, now: Now, id: TunnelId) {
        self.dirty.insert(id);
        if !self.timers.is_set(Timer::Seen) {
            self.timers.set(Timer::Seen, now.monotonic, SEEN_EVERY);
        }
    }

    fn not_seen(&mut self, now: Now, ids: &[TunnelId]) {
        for id in ids {
            if self.tunnels.get(id).is_some_and(|t| t.is_open()) {
                self.mark_seen(now, *id);
            }
        }
    }

    /// Writes, in one transaction, what changed about tunnels without being a promise.
    pub(super) fn write_seen(&mut self, now: Now) {
        let ids: Vec<_> = std::mem::take(&mut self.dirty).into_iter().collect();
        let mut changes = Vec::with_capacity(ids.len());
        for id in &ids {
            self.count_idleness(now.monotonic, *id);
            let row = self.tunnels.get(id).map(|t| t.row.clone());
            changes.extend(row.map(Change::Seen));
            if let Some(link) = self.way(*id) {
                self.act(Action::Stand { link, tunnel: *id });
            }
        }
        if !changes.is_empty() {
            self.persist(changes, Vec::new(), Work::Seen(ids));
        }
    }

    /// Asks for a last commit of `last_seen_at` and the like of every tunnel that needs it, idleness up to
    /// now included: for a shutdown.
    pub fn flush_seen(&mut self, now: Now) {
        self.handle_timeout(now);
        self.timers.cancel(Timer::Seen);
        let running = self.tunnels.iter().filter(|(_, t)| t.idle_from.is_some());
        self.dirty.extend(running.map(|(id, _)| *id));
        self.write_seen(now);
    }
}

/// Adds someone to those who wait for a commit.
pub(super) fn wait_in<T>(waiting: &mut Vec<T>, one: T) -> Result<(), AskError> {
    if waiting.len() >= WAITING {
        return Err(AskError::Busy);
    }
    waiting.push(one);
    Ok(())
}
