//! The store's tests: rows they share, and how they look at what is on disk.

mod backup;
mod durability;
mod faults;
mod model;
mod networks;
mod pruning;
mod round_trip;
mod sealing;
mod writing;

use std::path::Path;
use std::time::Duration;

use super::{ServerStore, StoredAudit};
use crate::engine::{
    Actor, AuditRow, Change, DeviceRow, InviteRow, Snapshot, TunnelRow, TunnelState, UserRow,
};
use crate::names::{DeviceId, InviteId, Kind, Pin, Slug, TunnelId, UserId};
use crate::times::WallTime;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

fn days_ago(days: u64) -> WallTime {
    WallTime::from_millis(NOW.as_millis() - i64::try_from(days * 86_400_000).unwrap())
}

fn user(n: u8) -> UserRow {
    UserRow {
        id: UserId::from_bytes([n; 16]),
        name: format!("user-{n}"),
        created_at: NOW,
        suspended_at: None,
    }
}

fn device(n: u8, of: u8) -> DeviceRow {
    DeviceRow {
        id: DeviceId::from_bytes([n; 16]),
        user: UserId::from_bytes([of; 16]),
        pin: Pin([n; 32]),
        name: "laptop".into(),
        created_at: NOW,
        revoked_at: None,
        suspended_at: None,
    }
}

fn invite(n: u8, of: u8) -> InviteRow {
    InviteRow {
        id: InviteId::from_bytes([n; 16]),
        user: UserId::from_bytes([of; 16]),
        secret_hash: [n; 32],
        uses_left: 1,
        created_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(8 * 3600)),
        revoked_at: None,
    }
}

fn tunnel(n: u8, slug: &str, device: &DeviceRow) -> TunnelRow {
    TunnelRow {
        id: TunnelId::from_bytes([n; 16]),
        slug: Slug::parse(slug).unwrap(),
        device: device.id,
        user: device.user,
        kind: Kind::Http,
        state: TunnelState::Open,
        expires_at: None,
        idle: None,
        hold: Duration::from_secs(10),
        declared: false,
        labels: Vec::new(),
        public_port: None,
        created_at: NOW,
        ended_at: None,
        last_seen_at: None,
        idle_spent: Duration::ZERO,
        away_since: None,
        policy: std::sync::Arc::default(),
        policy_version: 1,
        suspended_at: None,
    }
}

fn audit(action: &'static str, subject: impl ToString) -> AuditRow {
    AuditRow {
        at: NOW,
        actor: Actor::Engine,
        peer: None,
        action,
        subject: subject.to_string(),
        detail: String::new(),
    }
}

/// A user, its device and its tunnel, each numbered `n`, with the audit of it.
fn household(n: u8) -> (Vec<Change>, Vec<AuditRow>) {
    let tunnel = tunnel(n, &format!("house-{n}"), &device(n, n));
    let audit = vec![audit("tunnel.open", tunnel.id)];
    let changes = vec![
        Change::User(user(n)),
        Change::Device(device(n, n)),
        Change::Tunnel(tunnel),
    ];
    (changes, audit)
}

fn fresh(dir: &Path) -> ServerStore {
    let (store, snapshot) = ServerStore::open_at(dir, false, NOW).unwrap();
    assert_eq!(snapshot, Snapshot::default(), "a new database is empty");
    store
}

/// What a restarted server would find.
async fn reopened(dir: &Path) -> (Snapshot, Vec<StoredAudit>) {
    let (store, snapshot) = ServerStore::open_at(dir, true, NOW).unwrap();
    let audit = store.audit(None, 10_000).await.unwrap();
    store.close().await;
    (snapshot, audit)
}
