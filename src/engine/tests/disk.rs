//! A disk in memory: transactions that are whole or nothing, the unique indexes of the real one, and the
//! rule that a promise never changes without its audit row.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    rows: Rows,
    pub(super) audit: Vec<AuditRow>,
    pub(super) commits: usize,
}

#[derive(Debug, Clone, Default)]
struct Rows {
    users: BTreeMap<UserId, UserRow>,
    devices: BTreeMap<DeviceId, DeviceRow>,
    invites: BTreeMap<InviteId, InviteRow>,
    tunnels: BTreeMap<TunnelId, TunnelRow>,
    shares: BTreeMap<crate::names::ShareId, policy::share::ShareRow>,
    domains: Vec<domains::DomainRow>,
}

impl Disk {
    pub(super) fn commit(&mut self, changes: &[Change], audit: &[AuditRow]) -> Result<(), Code> {
        let mut rows = self.rows.clone();
        for change in changes {
            assert_audited(change, audit);
            rows.put(change);
        }
        if !rows.is_sound() {
            return Err(Code::Storage);
        }
        self.rows = rows;
        self.audit.extend_from_slice(audit);
        self.commits += 1;
        Ok(())
    }

    /// A row that was always there.
    pub(super) fn put(&mut self, row: TunnelRow) {
        self.rows.tunnels.insert(row.id, row);
    }

    /// What a server starts from.
    pub(super) fn snapshot(&self) -> Snapshot {
        let rows = self.rows.clone();
        Snapshot {
            users: rows.users.into_values().collect(),
            devices: rows.devices.into_values().collect(),
            invites: rows
                .invites
                .into_values()
                .filter(|i| i.uses_left > 0 && i.revoked_at.is_none())
                .collect(),
            tunnels: rows.tunnels.into_values().collect(),
            shares: rows.shares.into_values().collect(),
            domains: rows.domains,
        }
    }

    pub(super) fn tunnel(&self, id: TunnelId) -> Option<&TunnelRow> {
        self.rows.tunnels.get(&id)
    }

    pub(super) fn domains(&self) -> &[domains::DomainRow] {
        &self.rows.domains
    }

    pub(super) fn device(&self, id: DeviceId) -> Option<&DeviceRow> {
        self.rows.devices.get(&id)
    }

    pub(super) fn open(&self) -> Vec<TunnelId> {
        let all = self.rows.tunnels.keys().copied();
        all.filter(|id| self.is_open(*id)).collect()
    }

    pub(super) fn is_open(&self, id: TunnelId) -> bool {
        self.tunnel(id)
            .is_some_and(|row| row.state == TunnelState::Open)
    }

    pub(super) fn uses_left(&self) -> Vec<u32> {
        self.rows.invites.values().map(|i| i.uses_left).collect()
    }

    /// `actor action detail` of every line so far.
    pub(super) fn lines(&self) -> Vec<(Actor, &'static str, &str)> {
        let line = |row: &'_ AuditRow| (row.actor, row.action);
        self.audit
            .iter()
            .map(|row| (line(row).0, line(row).1, row.detail.as_str()))
            .collect()
    }

    /// The lines about tunnels: `action detail`.
    pub(super) fn tunnel_lines(&self) -> Vec<String> {
        self.audit
            .iter()
            .filter(|row| row.action.starts_with("tunnel."))
            .map(|row| format!("{} {}", row.action, row.detail))
            .collect()
    }
}

/// Every change to a promise has its line in the same transaction.
fn assert_audited(change: &Change, audit: &[AuditRow]) {
    let tells_of = |subject: String| audit.iter().any(|row| row.subject == subject);
    let told = match change {
        Change::User(row) => tells_of(row.id.to_string()),
        Change::Device(row) => tells_of(row.id.to_string()),
        Change::Tunnel(row) => tells_of(row.id.to_string()),
        // The use of a token is told by the device that used it.
        Change::Invite(row) => {
            let used = |line: &AuditRow| {
                line.action == "device.enroll" && line.detail.ends_with(&row.id.to_string())
            };
            tells_of(row.id.to_string()) || audit.iter().any(used)
        }
        Change::Share(row) => tells_of(row.id.to_string()),
        // What is over is told; that it is forgotten is not.
        Change::Seen(_) | Change::Forget(_) => true,
        // A look that finds nothing takes nothing away yet, and is no news.
        Change::Domains { .. } => true,
    };
    assert!(told, "{change:?} is not in the audit");
}

impl Rows {
    fn put(&mut self, change: &Change) {
        match change.clone() {
            Change::User(row) => drop(self.users.insert(row.id, row)),
            Change::Device(row) => drop(self.devices.insert(row.id, row)),
            Change::Invite(row) => drop(self.invites.insert(row.id, row)),
            Change::Tunnel(row) => {
                if row.state != TunnelState::Open {
                    self.domains.retain(|of| of.tunnel != row.id);
                }
                self.tunnels.insert(row.id, row);
            }
            Change::Domains { tunnel, rows } => {
                self.domains.retain(|of| of.tunnel != tunnel);
                self.domains.extend(rows);
            }
            Change::Forget(id) => {
                let row = self
                    .tunnels
                    .remove(&id)
                    .expect("only rows on disk are forgotten");
                assert_ne!(row.state, TunnelState::Open, "a promise is not forgotten");
            }
            Change::Share(row) => drop(self.shares.insert(row.id, row)),
            Change::Seen(seen) => {
                let row = self
                    .tunnels
                    .get_mut(&seen.id)
                    .expect("only rows on disk are seen");
                row.last_seen_at = seen.last_seen_at;
                row.idle_spent = seen.idle_spent;
                row.away_since = seen.away_since;
            }
        }
    }

    /// The unique indexes and the foreign keys.
    fn is_sound(&self) -> bool {
        let open = self.tunnels.values();
        let open = open.filter(|row| row.state == TunnelState::Open);
        let enrolled = self.devices.values().filter(|d| d.revoked_at.is_none());
        let proven = self.domains.iter().filter(|row| row.proven_at.is_some());
        unique(open.map(|row| &row.slug))
            && unique(proven.map(|row| &row.domain))
            && self
                .domains
                .iter()
                .all(|row| self.tunnels.contains_key(&row.tunnel))
            && unique(enrolled.map(|row| row.pin))
            && unique(self.users.values().map(|row| &row.name))
            && self
                .invites
                .values()
                .all(|i| self.users.contains_key(&i.user))
            && self
                .devices
                .values()
                .all(|d| self.users.contains_key(&d.user))
            && self
                .tunnels
                .values()
                .all(|t| self.devices.contains_key(&t.device))
    }
}

fn unique<T: std::hash::Hash + Eq>(mut values: impl Iterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    values.all(|value| seen.insert(value))
}
