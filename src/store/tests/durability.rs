//! What was acknowledged is there after kill -9 and power loss; what was not is there whole or not at all.

use std::fs;

use super::*;

// Of SQLite's log: its header, then frames of a header and a page.
const WAL_HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

fn copy(from: &Path, to: &Path) {
    for file in ["server.db", "server.db-wal"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[tokio::test]
async fn an_acknowledged_commit_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    for n in 1..=3 {
        let (changes, audit) = household(n);
        store.commit(changes, audit).await.unwrap();
        // The files as a process killed right now would leave them.
        let crashed = tempfile::tempdir().unwrap();
        copy(dir.path(), crashed.path());
        let (found, audit) = reopened(crashed.path()).await;
        assert_eq!(found.tunnels.len(), usize::from(n));
        assert_eq!(audit.len(), usize::from(n));
    }
    store.close().await;
}

#[tokio::test]
async fn a_revocation_that_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    let revoked = DeviceRow {
        revoked_at: Some(NOW),
        ..device(1, 1)
    };
    store
        .commit(
            vec![Change::Device(revoked.clone())],
            vec![audit("device.revoke", revoked.id)],
        )
        .await
        .unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    assert_eq!(reopened(crashed.path()).await.0.devices, [revoked]);
    store.close().await;
}

#[tokio::test]
async fn a_log_cut_anywhere_loses_only_what_was_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let wal = dir.path().join("server.db-wal");
    let mut acknowledged = Vec::new();
    for n in 1..=5 {
        let (changes, audit) = household(n);
        store.commit(changes, audit).await.unwrap();
        acknowledged.push(fs::metadata(&wal).unwrap().len() as usize);
    }
    let bytes = fs::read(&wal).unwrap();
    let frames = (bytes.len() - WAL_HEADER) / FRAME;
    assert!(frames >= 5, "each commit wrote to the log");
    let mut survivors = std::collections::BTreeSet::new();
    let edges = (0..=frames).map(|n| WAL_HEADER + n * FRAME);
    for cut in edges.flat_map(|edge| [edge.saturating_sub(FRAME / 2), edge, edge + 1]) {
        let cut = cut.min(bytes.len());
        let crashed = tempfile::tempdir().unwrap();
        copy(dir.path(), crashed.path());
        fs::write(crashed.path().join("server.db-wal"), &bytes[..cut]).unwrap();
        let (found, audit) = reopened(crashed.path()).await;
        let count = found.tunnels.len();
        let due = acknowledged.iter().filter(|end| **end <= cut).count();
        assert!(count >= due, "cut at {cut}: {count} of {due} acknowledged");
        assert_whole(&found, &audit, cut);
        survivors.insert(count);
    }
    assert_eq!(survivors, (0..=5).collect(), "the cuts reached every state");
    store.close().await;
}

/// Whole households only, each with its audit, and the first ones first.
fn assert_whole(found: &Snapshot, audit: &[StoredAudit], cut: usize) {
    let count = found.tunnels.len();
    assert_eq!(found.users.len(), count, "cut at {cut}");
    assert_eq!(found.devices.len(), count, "cut at {cut}");
    assert_eq!(audit.len(), count, "cut at {cut}");
    for (n, tunnel) in (1_usize..).zip(&found.tunnels) {
        assert_eq!(tunnel.slug.as_str(), format!("house-{n}"), "cut at {cut}");
        assert_eq!(tunnel.device, found.devices[n - 1].id);
    }
}

#[tokio::test]
async fn a_byte_that_rots_in_the_log_takes_no_earlier_commit_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let wal = dir.path().join("server.db-wal");
    let (changes, audit) = household(1);
    store.commit(changes, audit).await.unwrap();
    let first = fs::metadata(&wal).unwrap().len() as usize;
    let (changes, audit) = household(2);
    store.commit(changes, audit).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    let mut bytes = fs::read(&wal).unwrap();
    bytes[first + 100] ^= 0xff;
    fs::write(crashed.path().join("server.db-wal"), bytes).unwrap();
    let (found, audit) = reopened(crashed.path()).await;
    assert_eq!(found.tunnels.len(), 1);
    assert_whole(&found, &audit, first + 100);
    store.close().await;
}
