//! Random commits against a model in memory: the same ones are refused, and a restart finds the same.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What the database should hold, and when it should refuse.
#[derive(Debug, Clone, Default)]
struct Model {
    users: BTreeMap<UserId, UserRow>,
    devices: BTreeMap<DeviceId, DeviceRow>,
    invites: BTreeMap<InviteId, InviteRow>,
    tunnels: BTreeMap<TunnelId, TunnelRow>,
}

impl Model {
    /// False when the change must be refused.
    fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::User(row) => {
                let unique = !self
                    .users
                    .values()
                    .any(|u| u.id != row.id && u.name == row.name);
                self.users.insert(row.id, row.clone());
                unique
            }
            Change::Device(row) => self.device(row),
            Change::Invite(row) => self.invite(row),
            Change::Tunnel(row) => {
                let taken = self.tunnels.values().any(|t| {
                    t.id != row.id
                        && t.slug == row.slug
                        && t.state == TunnelState::Open
                        && row.state == TunnelState::Open
                });
                let owned =
                    self.devices.contains_key(&row.device) && self.users.contains_key(&row.user);
                self.tunnels.insert(row.id, row.clone());
                owned && !taken
            }
            Change::Forget(id) => {
                if self
                    .tunnels
                    .get(id)
                    .is_some_and(|t| t.state != TunnelState::Open)
                {
                    self.tunnels.remove(id);
                }
                true
            }
            // Their own test tells of them.
            Change::Share(_) | Change::Domains { .. } => true,
            Change::Seen(row) => {
                if let Some(kept) = self.tunnels.get_mut(&row.id) {
                    kept.last_seen_at = row.last_seen_at;
                    kept.idle_spent = row.idle_spent;
                    kept.away_since = row.away_since;
                }
                true
            }
        }
    }

    fn device(&mut self, row: &DeviceRow) -> bool {
        let earlier = self.devices.get(&row.id).and_then(|d| d.revoked_at);
        let row = DeviceRow {
            revoked_at: earlier.or(row.revoked_at),
            ..row.clone()
        };
        let taken = self.devices.values().any(|d| {
            d.id != row.id && d.pin == row.pin && d.revoked_at.is_none() && row.revoked_at.is_none()
        });
        let owned = self.users.contains_key(&row.user);
        self.devices.insert(row.id, row);
        owned && !taken
    }

    fn invite(&mut self, row: &InviteRow) -> bool {
        let earlier = self.invites.get(&row.id).and_then(|i| i.revoked_at);
        let taken = self
            .invites
            .values()
            .any(|i| i.id != row.id && i.secret_hash == row.secret_hash);
        let row = InviteRow {
            revoked_at: earlier.or(row.revoked_at),
            ..row.clone()
        };
        let owned = self.users.contains_key(&row.user);
        self.invites.insert(row.id, row);
        owned && !taken
    }

    fn snapshot(&self) -> Snapshot {
        let kept = |t: &&TunnelRow| {
            t.state == TunnelState::Open || t.ended_at.unwrap_or(t.created_at) >= days_ago(60)
        };
        Snapshot {
            users: self.users.values().cloned().collect(),
            devices: self.devices.values().cloned().collect(),
            invites: (self.invites.values())
                .filter(|i| i.expires_at > NOW)
                .cloned()
                .collect(),
            tunnels: self.tunnels.values().filter(kept).cloned().collect(),
            shares: Vec::new(),
            domains: Vec::new(),
        }
    }
}

fn when() -> impl Strategy<Value = WallTime> {
    (0..120_u64).prop_map(days_ago)
}

fn maybe_when() -> impl Strategy<Value = Option<WallTime>> {
    proptest::option::of(when())
}

fn any_user() -> impl Strategy<Value = Change> {
    (0..3_u8, 0..4_u8).prop_map(|(n, name)| {
        Change::User(UserRow {
            name: format!("user-{name}"),
            ..user(n)
        })
    })
}

fn any_device() -> impl Strategy<Value = Change> {
    (0..4_u8, 0..3_u8, 0..4_u8, maybe_when()).prop_map(|(n, of, pin, revoked_at)| {
        Change::Device(DeviceRow {
            pin: Pin([pin; 32]),
            revoked_at,
            ..device(n, of)
        })
    })
}

fn any_invite() -> impl Strategy<Value = Change> {
    (
        0..3_u8,
        0..3_u8,
        0..3_u8,
        any::<u32>(),
        any::<bool>(),
        maybe_when(),
    )
        .prop_map(|(n, of, secret, uses_left, over, revoked_at)| {
            let row = invite(n, of);
            Change::Invite(InviteRow {
                secret_hash: [secret; 32],
                uses_left,
                expires_at: if over { NOW } else { row.expires_at },
                revoked_at,
                ..row
            })
        })
}

fn any_tunnel() -> impl Strategy<Value = TunnelRow> {
    let state = prop_oneof![
        3 => Just(TunnelState::Open),
        1 => Just(TunnelState::Closed),
        1 => Just(TunnelState::Expired),
    ];
    let ids = (0..6_u8, 0..4_u8, 0..4_u8, 0..3_u8);
    let times = (maybe_when(), maybe_when(), maybe_when(), any::<u32>());
    let rest = (
        vec((".{0,8}", ".{0,8}"), 0..3),
        proptest::option::of(any::<u16>()),
    );
    (ids, state, times, rest).prop_map(
        |((n, slug, dev, of), state, (ended_at, seen, away, spent), (labels, public_port))| {
            TunnelRow {
                user: UserId::from_bytes([of; 16]),
                state,
                ended_at,
                labels,
                public_port,
                last_seen_at: seen,
                away_since: away,
                idle_spent: Duration::from_millis(spent.into()),
                ..tunnel(n, &format!("slug-{slug}"), &device(dev, of))
            }
        },
    )
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => any_user(),
        3 => any_device(),
        1 => any_invite(),
        4 => any_tunnel().prop_map(Change::Tunnel),
        2 => any_tunnel().prop_map(Change::Seen),
        1 => any_tunnel().prop_map(|row| Change::Forget(row.id)),
    ]
}

/// Commits one after the other, then a restart.
async fn run(commits: Vec<Vec<Change>>) -> Result<bool, TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let mut model = Model::default();
    let (mut accepted, mut refused) = (0, 0);
    for changes in commits {
        let mut next = model.clone();
        let lawful = changes.iter().all(|change| next.apply(change));
        let result = store
            .commit(changes.clone(), vec![audit("random", accepted)])
            .await;
        prop_assert_eq!(result.is_ok(), lawful, "{:?}: {:?}", result, changes);
        if lawful {
            model = next;
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    store.close().await;
    let (found, audit) = reopened(dir.path()).await;
    prop_assert_eq!(found, model.snapshot());
    prop_assert_eq!(audit.len(), accepted);
    Ok(accepted > 0 && refused > 0)
}

#[test]
fn random_commits_are_found_again_after_a_restart() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mixed = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    // Two owners first, so that more than foreign keys is put to the test.
    let owners = [vec![
        Change::User(user(0)),
        Change::User(user(1)),
        Change::Device(device(0, 0)),
        Change::Device(device(1, 1)),
    ]];
    runner
        .run(&vec(vec(any_change(), 1..4), 1..16), |commits| {
            let commits = owners.iter().cloned().chain(commits).collect();
            let both = runtime.block_on(run(commits))?;
            mixed.set(mixed.get() + u32::from(both));
            Ok(())
        })
        .unwrap();
    assert!(
        mixed.get() > 10,
        "the commits were too tame: {}",
        mixed.get()
    );
}
