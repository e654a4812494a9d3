//! The writer: groups, order, failures that reach only whom they concern, the end.

use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;

use super::*;
use crate::codes::Code;
use crate::store::StoreError;

/// Keeps the writer busy until the sender is dropped, so that commits pile up behind it.
async fn block(store: &ServerStore) -> Sender<()> {
    let (release, blocked): (_, Receiver<()>) = channel();
    let (tell, told) = oneshot::channel();
    store
        .with_connection(move |_| {
            tell.send(()).unwrap();
            let _ = blocked.recv();
        })
        .await;
    told.await.unwrap();
    release
}

type Told = oneshot::Receiver<Result<(), StoreError>>;

fn commit_then(store: &ServerStore, (changes, audit): (Vec<Change>, Vec<AuditRow>)) -> Told {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    store.commit_then(changes, audit, done).unwrap();
    told
}

#[tokio::test]
async fn a_thousand_commits_at_once_are_few_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    let before = store.groups();
    let release = block(&store).await;
    let row = tunnel(1, "house-1", &device(1, 1));
    let waiting: Vec<_> = (0..1000)
        .map(|n| {
            commit_then(
                &store,
                (vec![Change::Tunnel(row.clone())], vec![audit("n", n)]),
            )
        })
        .collect();
    drop(release);
    for told in waiting {
        told.await.unwrap().unwrap();
    }
    let groups = store.groups() - before;
    assert!(groups <= 3, "{groups} transactions");
    let lines = store.audit(Some(1), 2000).await.unwrap();
    let subjects: Vec<_> = lines.into_iter().map(|line| line.subject).collect();
    let in_order: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(
        subjects, in_order,
        "the order of calls is the order of commits"
    );
    store.close().await;
}

#[tokio::test]
async fn one_bad_commit_of_a_group_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let release = block(&store).await;
    let orphan = Change::Tunnel(tunnel(7, "orphan", &device(7, 7)));
    let taken = Change::Tunnel(tunnel(8, "house-1", &device(1, 1)));
    let told = [
        commit_then(&store, household(1)),
        commit_then(&store, (vec![orphan], vec![audit("tunnel.open", "orphan")])),
        commit_then(&store, household(2)),
        commit_then(&store, (vec![taken], vec![audit("tunnel.open", "taken")])),
    ];
    drop(release);
    let mut codes = Vec::new();
    for told in told {
        codes.push(told.await.unwrap().map_err(|err| err.code()));
    }
    let refused = Err(Code::Storage);
    assert_eq!(codes, [Ok(()), refused, Ok(()), refused]);
    store.close().await;
    let (found, lines) = reopened(dir.path()).await;
    let slugs: Vec<_> = found.tunnels.iter().map(|t| t.slug.as_str()).collect();
    assert_eq!(slugs, ["house-1", "house-2"]);
    assert_eq!(lines.len(), 2, "a refused change leaves no audit");
}

#[tokio::test]
async fn a_refused_change_takes_its_whole_commit_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let changes = vec![
        Change::User(user(1)),
        Change::Tunnel(tunnel(1, "orphan", &device(1, 1))),
    ];
    let result = store.commit(changes, vec![audit("tunnel.open", 1)]).await;
    assert!(
        matches!(result, Err(StoreError::Refused { .. })),
        "{result:?}"
    );
    store.close().await;
    let (found, lines) = reopened(dir.path()).await;
    assert_eq!((found, lines), (Snapshot::default(), Vec::new()));
}

#[tokio::test]
async fn names_keys_and_secrets_are_unique() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (mut changes, lines) = household(1);
    changes.push(Change::Invite(invite(1, 1)));
    store.commit(changes, lines).await.unwrap();
    let same_name = UserRow {
        name: "user-1".into(),
        ..user(2)
    };
    let same_pin = DeviceRow {
        pin: Pin([1; 32]),
        ..device(2, 1)
    };
    let same_secret = InviteRow {
        secret_hash: [1; 32],
        ..invite(2, 1)
    };
    let same_slug = tunnel(2, "house-1", &device(1, 1));
    for change in [
        Change::User(same_name),
        Change::Device(same_pin),
        Change::Invite(same_secret),
        Change::Tunnel(same_slug.clone()),
    ] {
        let result = store.commit(vec![change.clone()], Vec::new()).await;
        assert!(
            matches!(result, Err(StoreError::Refused { .. })),
            "{change:?}"
        );
    }
    // A slug whose tunnel is over is free again.
    let over = TunnelRow {
        state: TunnelState::Closed,
        ended_at: Some(NOW),
        ..tunnel(1, "house-1", &device(1, 1))
    };
    let moves = vec![Change::Tunnel(over), Change::Tunnel(same_slug)];
    store.commit(moves, Vec::new()).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_full_queue_says_busy_and_never_calls_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let release = block(&store).await;
    let mut queued = Vec::new();
    let refused = loop {
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |result: Result<(), StoreError>| drop(tell.send(result)));
        match store.commit_then(Vec::new(), vec![audit("n", 1)], done) {
            Ok(()) => queued.push(told),
            Err(err) => break (err, told),
        }
        assert!(queued.len() < 100_000, "the queue has a bound");
    };
    assert!(matches!(refused.0, StoreError::Busy));
    assert!(refused.1.await.is_err(), "dropped, not called");
    drop(release);
    let wanted = queued.len();
    for told in queued {
        told.await.unwrap().unwrap();
    }
    store.close().await;
    assert_eq!(reopened(dir.path()).await.1.len(), wanted);
}

#[tokio::test]
async fn closing_commits_what_is_queued_and_then_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let release = block(&store).await;
    let told = commit_then(&store, household(1));
    let other = store.clone();
    drop(release);
    store.close().await;
    told.await.unwrap().unwrap();
    other.ended().await;
    let (changes, audit) = household(2);
    let late = other.commit(changes, audit).await;
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
    assert!(matches!(
        other.audit(None, 1).await,
        Err(StoreError::Closed)
    ));
    other.close().await;
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["server.db"], "a clean end leaves no log behind");
    assert_eq!(reopened(dir.path()).await.0.users, [user(1)]);
}

#[tokio::test]
async fn a_writer_that_dies_answers_all_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let release = block(&store).await;
    store.with_connection(|_| panic!("on purpose")).await;
    let told = commit_then(&store, household(1));
    drop(release);
    assert!(matches!(told.await.unwrap(), Err(StoreError::Closed)));
    store.ended().await;
    store.close().await;
}

#[tokio::test]
async fn the_log_stays_short_under_many_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let bulk = |n| AuditRow {
        detail: "x".repeat(200_000),
        ..audit("n", n)
    };
    let mut longest = 0;
    for n in 0..60 {
        store.commit(Vec::new(), vec![bulk(n)]).await.unwrap();
        let wal = std::fs::metadata(dir.path().join("server.db-wal")).unwrap();
        longest = longest.max(wal.len());
    }
    assert!(longest < 6 << 20, "the log grew to {longest} bytes");
    store.close().await;
}
