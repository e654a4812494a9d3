//! Databases that must not be trusted, a full disk, a second daemon.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rusqlite::Connection;

use super::*;
use crate::codes::Code;
use crate::store::open::Schema;
use crate::store::{ClientStore, StateLock, StoreError, server};

/// A database with a few rows, closed cleanly.
async fn settled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    for n in 1..=40 {
        let (changes, audit) = household(n);
        store.commit(changes, audit).await.unwrap();
    }
    store.close().await;
    dir
}

fn files(dir: &Path) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        // Shared memory is scratch space; it comes and goes with readers.
        .filter(|entry| !entry.path().to_string_lossy().ends_with("-shm"))
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .filter(|(name, bytes)| !(name.to_string_lossy().ends_with("-wal") && bytes.is_empty()))
        .collect()
}

/// Opens, expects a refusal, and that nothing was written.
fn refusal(dir: &Path, must_exist: bool) -> StoreError {
    let before = files(dir);
    let refused = ServerStore::open_at(dir, must_exist, NOW).map(|_| ());
    assert_eq!(files(dir), before, "what is refused stays as it was");
    refused.expect_err("this must not open")
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    let dir = settled().await;
    let path = dir.path().join("server.db");
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    conn.close().unwrap();
    let err = refusal(dir.path(), true);
    assert!(
        matches!(
            err,
            StoreError::Newer {
                found: 99,
                known: 3,
                ..
            }
        ),
        "{err:?}"
    );
    assert_eq!(
        err.to_string(),
        format!(
            "{} has schema 99, this release knows 3; start the newer release, or restore a backup made with this one",
            path.display()
        )
    );
}

#[tokio::test]
async fn a_database_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let conn = Connection::open(dir.path().join("server.db")).unwrap();
    conn.execute_batch("CREATE TABLE bookmarks (url TEXT)")
        .unwrap();
    conn.close().unwrap();
    for must_exist in [false, true] {
        let err = refusal(dir.path(), must_exist);
        assert!(matches!(err, StoreError::Foreign { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn the_other_role_s_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (client, _) = ClientStore::open_at(dir.path(), false, NOW).unwrap();
    client.close().await;
    fs::rename(dir.path().join("client.db"), dir.path().join("server.db")).unwrap();
    let err = refusal(dir.path(), true);
    assert!(matches!(err, StoreError::Foreign { .. }), "{err:?}");
}

#[tokio::test]
async fn both_roles_fit_into_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _server_lock = StateLock::acquire(dir.path(), "server").unwrap();
    let _client_lock = StateLock::acquire(dir.path(), "client").unwrap();
    let server = fresh(dir.path());
    let (client, _) = ClientStore::open_at(dir.path(), false, NOW).unwrap();
    client.close().await;
    server.close().await;
}

#[tokio::test]
async fn a_database_that_is_gone_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let err = refusal(dir.path(), true);
    assert!(matches!(err, StoreError::Missing { .. }), "{err:?}");
    // Its log shows that it was there, whatever the caller believes.
    fs::write(dir.path().join("server.db-wal"), "something").unwrap();
    let err = refusal(dir.path(), false);
    assert!(matches!(err, StoreError::Missing { .. }), "{err:?}");
}

type Damage = fn(Vec<u8>) -> Vec<u8>;

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_is() {
    let whole: &[(&str, Damage)] = &[
        ("emptied", |_| Vec::new()),
        ("replaced by text", |_| b"not a database".to_vec()),
        ("beginning overwritten", |mut bytes| {
            bytes[..16].fill(0);
            bytes
        }),
        ("cut in the middle", |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            bytes
        }),
        ("cut to one page", |mut bytes| {
            bytes.truncate(4096);
            bytes
        }),
        ("a page overwritten", |mut bytes| {
            bytes[2 * 4096..3 * 4096].fill(0xff);
            bytes
        }),
        ("all pages but the first overwritten", |mut bytes| {
            bytes[4096..].fill(0);
            bytes
        }),
    ];
    for (what, damage) in whole {
        let dir = settled().await;
        let path = dir.path().join("server.db");
        fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
        let err = refusal(dir.path(), true);
        assert!(matches!(err, StoreError::Damaged { .. }), "{what}: {err:?}");
        assert!(
            err.to_string().contains("restore it from a backup"),
            "{err}"
        );
    }
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_damage() {
    for change in [
        "UPDATE tunnels SET slug = 'no--slug' WHERE slug = 'house-1'",
        "UPDATE devices SET pin = 'x' WHERE id = (SELECT id FROM devices LIMIT 1)",
        "UPDATE tunnels SET hold_ms = -1",
        "PRAGMA foreign_keys = OFF; DELETE FROM users WHERE name = 'user-1'",
    ] {
        let dir = settled().await;
        let conn = Connection::open(dir.path().join("server.db")).unwrap();
        conn.execute_batch(change).unwrap();
        conn.close().unwrap();
        let refused = ServerStore::open_at(dir.path(), true, NOW).map(|_| ());
        assert!(
            matches!(refused, Err(StoreError::Damaged { .. })),
            "{change}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_start_that_was_cut_short_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.db");
    // Created, but not written yet.
    fs::write(&path, "").unwrap();
    fresh(dir.path()).close().await;
    // Set up, but not migrated yet.
    fs::remove_file(&path).unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
        .unwrap();
    conn.close().unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 0);
    fresh(dir.path()).close().await;
}

#[test]
fn a_migration_that_fails_leaves_the_schema_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = "CREATE TABLE a (x INTEGER) STRICT";
    let broken = Schema {
        migrations: Box::leak(Box::new([
            first,
            "CREATE TABLE b (y INTEGER) STRICT; nonsense",
        ])),
        ..server::SCHEMA
    };
    let mended = Schema {
        migrations: Box::leak(Box::new([first, "CREATE TABLE b (y INTEGER) STRICT"])),
        ..server::SCHEMA
    };
    let version = || {
        let conn = Connection::open(dir.path().join("server.db")).unwrap();
        let get = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let tables = get("SELECT count(*) FROM sqlite_schema");
        (get("PRAGMA user_version"), tables)
    };
    assert!(matches!(
        broken.open(dir.path(), false),
        Err(StoreError::Sql { .. })
    ));
    assert_eq!(version(), (1, 1));
    drop(mended.open(dir.path(), true).unwrap());
    assert_eq!(version(), (2, 2));
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    let bulk = || AuditRow {
        detail: "x".repeat(100_000),
        ..audit("bulk", 1)
    };
    store
        .with_connection(|conn| {
            let pages: i64 = conn
                .query_row("PRAGMA page_count", [], |r| r.get(0))
                .unwrap();
            conn.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(()))
                .unwrap();
        })
        .await;
    for _ in 0..3 {
        let err = store.commit(Vec::new(), vec![bulk()]).await.unwrap_err();
        assert!(matches!(err, StoreError::DiskFull { .. }), "{err:?}");
        assert_eq!(err.code(), Code::DiskFull);
        assert!(err.to_string().starts_with("no space left in "), "{err}");
    }
    // Reads go on, and so does what needs no room.
    assert_eq!(store.audit(None, 10).await.unwrap().len(), 1);
    let seen = TunnelRow {
        last_seen_at: Some(NOW),
        ..tunnel(1, "house-1", &device(1, 1))
    };
    store
        .commit(vec![Change::Seen(seen.clone())], Vec::new())
        .await
        .unwrap();
    store
        .with_connection(|conn| {
            conn.pragma_update_and_check(None, "max_page_count", 1 << 30, |_| Ok(()))
                .unwrap();
        })
        .await;
    store.commit(Vec::new(), vec![bulk()]).await.unwrap();
    store.close().await;
    let (found, audit) = reopened(dir.path()).await;
    assert_eq!(found.tunnels, [seen]);
    assert_eq!(audit.len(), 2, "what failed left nothing behind");
}

#[test]
fn a_second_daemon_is_told_who_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let held = StateLock::acquire(dir.path(), "server").unwrap();
    let err = StateLock::acquire(dir.path(), "server").unwrap_err();
    let ours = std::process::id();
    assert!(
        matches!(err, StoreError::Locked { pid: Some(pid), .. } if pid == ours),
        "{err:?}"
    );
    assert!(
        err.to_string()
            .contains(&format!("lock held by pid {ours};"))
    );
    drop(held);
    // A longer pid of an earlier holder leaves no digits behind.
    fs::write(dir.path().join("server.lock"), "99999999999\n").unwrap();
    let _again = StateLock::acquire(dir.path(), "server").unwrap();
    let text = fs::read_to_string(dir.path().join("server.lock")).unwrap();
    assert_eq!(text, format!("{ours}\n"));
}

#[tokio::test]
async fn what_we_make_is_for_us_alone() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("var/lib/wormkey");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let _lock = StateLock::acquire(&dir, "server").unwrap();
    let store = fresh(&dir);
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    for file in ["server.db", "server.db-wal", "server.db-shm", "server.lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    store.close().await;
    // One that was opened up to others, say by a restore, is closed again.
    let db = dir.join("server.db");
    fs::set_permissions(&db, fs::Permissions::from_mode(0o644)).unwrap();
    let (store, _) = ServerStore::open_at(&dir, true, NOW).unwrap();
    assert_eq!(mode(&db), 0o600);
    store.close().await;
}

#[tokio::test]
async fn every_commit_is_synced_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (tell, told) = tokio::sync::oneshot::channel();
    store
        .with_connection(move |conn| {
            let number = |name| {
                conn.pragma_query_value(None, name, |r| r.get::<_, i64>(0))
                    .unwrap()
            };
            let mode: String = conn
                .pragma_query_value(None, "journal_mode", |r| r.get(0))
                .unwrap();
            tell.send((mode, number("synchronous"), number("foreign_keys")))
                .unwrap();
        })
        .await;
    const FULL: i64 = 2;
    assert_eq!(told.await.unwrap(), ("wal".to_owned(), FULL, 1));
    store.close().await;
}
