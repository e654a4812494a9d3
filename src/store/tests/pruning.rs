//! What is old goes in small commits, and nothing else does.

use super::*;
use crate::store::Old;

fn ended(n: u16, days: u64) -> TunnelRow {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    TunnelRow {
        id: TunnelId::from_bytes(id),
        state: TunnelState::Closed,
        ended_at: Some(days_ago(days)),
        ..tunnel(1, "app", &device(1, 1))
    }
}

async fn count(store: &ServerStore, table: &'static str) -> i64 {
    let (tell, told) = tokio::sync::oneshot::channel();
    store
        .with_connection(move |conn| {
            let sql = format!("SELECT count(*) FROM {table}");
            tell.send(conn.query_row(&sql, [], |row| row.get(0)).unwrap())
                .unwrap();
        })
        .await;
    told.await.unwrap()
}

#[tokio::test]
async fn old_rows_go_in_batches_and_young_and_open_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let open = TunnelRow {
        created_at: days_ago(900),
        ..tunnel(2, "open", &device(1, 1))
    };
    let old_invite = InviteRow {
        expires_at: days_ago(100),
        ..invite(1, 1)
    };
    let mut changes = vec![
        Change::User(user(1)),
        Change::Device(device(1, 1)),
        Change::Invite(old_invite),
        Change::Invite(invite(2, 1)),
        Change::Tunnel(open.clone()),
        Change::Tunnel(ended(9999, 36)),
    ];
    changes.extend((0..1200).map(|n| Change::Tunnel(ended(n, 38))));
    let line = |days| AuditRow {
        at: days_ago(days),
        ..audit("test.line", days)
    };
    let mut lines = vec![line(401); 600];
    lines.extend([line(399), line(1)]);
    store.commit(changes, lines).await.unwrap();

    let old = Old {
        ended: Some(days_ago(37)),
        audit: Some(days_ago(400)),
    };
    let mut batches = 1;
    while store.prune(old).await.unwrap() {
        batches += 1;
    }
    assert_eq!(batches, 3, "500 rows of a table at a time");
    assert_eq!(count(&store, "tunnels").await, 2);
    assert_eq!(count(&store, "invites").await, 1);
    assert_eq!(count(&store, "audit").await, 2);
    store.close().await;
    let (found, _) = reopened(dir.path()).await;
    let mut kept = vec![ended(9999, 36), open];
    kept.sort_by_key(|row| row.id);
    assert_eq!(found.tunnels, kept);
}

#[tokio::test]
async fn what_is_kept_for_ever_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let changes = vec![
        Change::User(user(1)),
        Change::Device(device(1, 1)),
        Change::Tunnel(ended(1, 9000)),
    ];
    let line = AuditRow {
        at: days_ago(9000),
        ..audit("test.line", 1)
    };
    store.commit(changes, vec![line]).await.unwrap();
    assert!(!store.prune(Old::default()).await.unwrap());
    assert_eq!(count(&store, "tunnels").await, 1);
    assert_eq!(count(&store, "audit").await, 1);
    store.close().await;
}

#[tokio::test]
async fn an_open_tunnel_is_never_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    let id = TunnelId::from_bytes([1; 16]);
    store
        .commit(vec![Change::Forget(id)], Vec::new())
        .await
        .unwrap();
    assert_eq!(count(&store, "tunnels").await, 1);
    store.close().await;
}
