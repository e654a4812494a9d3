//! Secrets that sign webhooks: known again after a restart, and to nobody who has only the database.

use std::sync::Arc;

use super::round_trip::book_row;
use super::*;
use crate::engine::book::{BookChange, BookRow, BookState};
use crate::engine::policy::Policy;
use crate::store::seal::Seal;
use crate::store::{ClientStore, StoreError};

const SECRET: &str = "whsec_hunter2hunter2";
const KEY: [u8; 32] = [7; 32];

fn policy() -> Arc<Policy> {
    let text = format!(
        r#"{{"webhook":[{{"kind":"stripe","secret":"{SECRET}"}},{{"kind":"github","secret":"{SECRET}"}}]}}"#
    );
    Arc::new(Policy::parse(&text).unwrap())
}

fn signed(n: u8) -> (Vec<Change>, Vec<AuditRow>) {
    let (mut changes, audit) = household(n);
    if let Some(Change::Tunnel(row)) = changes.last_mut() {
        row.policy = policy();
    }
    (changes, audit)
}

fn open(
    dir: &Path,
    must_exist: bool,
    key: Option<&[u8; 32]>,
) -> Result<(ServerStore, Snapshot), StoreError> {
    ServerStore::open_with(dir, must_exist, NOW, Seal::with(key))
}

/// Whether a secret stands in any file of a directory.
fn tells(dir: &Path) -> bool {
    let files = std::fs::read_dir(dir).unwrap();
    let mut bytes = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
    bytes.any(|bytes| bytes.windows(7).any(|at| at == b"hunter2"))
}

#[tokio::test]
async fn the_server_knows_its_secrets_again_and_its_files_and_copies_do_not_tell_them() {
    let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = open(dir.path(), false, Some(&KEY)).unwrap();
    let (changes, lines) = signed(1);
    store.commit(changes, lines).await.unwrap();
    assert!(!tells(dir.path()), "the log is such a file, too");
    let (mut copy, _) = store.copy().await.unwrap();
    let mut to = std::fs::File::create(away.path().join("copy")).unwrap();
    std::io::copy(&mut copy, &mut to).unwrap();
    store.close().await;
    assert!(!tells(dir.path()) && !tells(away.path()));
    let (store, found) = open(dir.path(), true, Some(&KEY)).unwrap();
    assert_eq!(found.tunnels[0].policy, policy());
    store.close().await;
    for key in [None, Some(&[8; 32])] {
        let refused = open(dir.path(), true, key).map(|_| ());
        assert!(
            matches!(refused, Err(StoreError::Sealed { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn nothing_is_written_in_clear_for_want_of_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), false, None).unwrap();
    let (changes, lines) = signed(1);
    let refused = store.commit(changes.clone(), lines.clone()).await;
    assert!(
        matches!(refused, Err(StoreError::Sealed { .. })),
        "{refused:?}"
    );
    assert!(!tells(dir.path()));
    store.seal_with(&KEY);
    store.commit(changes, lines).await.unwrap();
    store.close().await;
    let (store, found) = open(dir.path(), true, Some(&KEY)).unwrap();
    assert_eq!(found.tunnels[0].policy, policy());
    store.close().await;
}

#[tokio::test]
async fn a_secret_that_was_moved_to_another_tunnel_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), false, Some(&KEY)).unwrap();
    for (changes, lines) in [signed(1), household(2)] {
        store.commit(changes, lines).await.unwrap();
    }
    let moved = "UPDATE tunnels SET policy = (SELECT policy FROM tunnels WHERE slug = 'house-1')";
    store
        .with_connection(move |conn| {
            conn.execute(moved, []).unwrap();
        })
        .await;
    store.close().await;
    let refused = open(dir.path(), true, Some(&KEY)).map(|_| ());
    assert!(
        matches!(refused, Err(StoreError::Sealed { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_client_makes_a_key_of_its_own_when_it_has_something_to_seal() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("client.seal");
    let (store, _) = ClientStore::open_at(dir.path(), false, NOW).unwrap();
    let plain = book_row(1, BookState::Open);
    store
        .commit(vec![BookChange::Tunnel(plain.clone())])
        .await
        .unwrap();
    assert!(!key.exists());
    let row = BookRow {
        policy: policy(),
        ..plain
    };
    store
        .commit(vec![BookChange::Tunnel(row.clone())])
        .await
        .unwrap();
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!tells(dir.path()));
    store.close().await;
    assert!(!tells(dir.path()));
    let (store, found) = ClientStore::open_at(dir.path(), true, NOW).unwrap();
    assert_eq!(found.tunnels, [row]);
    store.close().await;
    std::fs::remove_file(&key).unwrap();
    let refused = ClientStore::open_at(dir.path(), true, NOW).map(|_| ());
    assert!(
        matches!(refused, Err(StoreError::Sealed { .. })),
        "{refused:?}"
    );
    assert!(!key.exists(), "a new key opens nothing");
}
