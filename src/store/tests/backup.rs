//! Copies of a database that is being written, and their way back.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use super::*;
use crate::store::backup::restore_as;
use crate::store::open::Schema;
use crate::store::{Restored, StoreError, restore, server};

async fn copied(store: &ServerStore, to: &Path) -> PathBuf {
    let (mut file, size) = store.copy().await.unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, size);
    let path = to.join("copy");
    std::fs::File::create(&path)
        .unwrap()
        .write_all(&bytes)
        .unwrap();
    path
}

fn put_back(dir: &Path, copy: &Path, now: WallTime) -> Result<Restored, StoreError> {
    restore(dir, (std::fs::File::open(copy).unwrap(), copy), now)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_acknowledged_before_a_copy_began_is_in_it_under_write_load() {
    let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = fresh(dir.path());
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    let (writer, stop) = (
        store.clone(),
        std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    let done = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let (stopped, counted) = (stop.clone(), done.clone());
    let writing = crate::tasks::Tasks::new().spawn("load", async move {
        let mut n = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            writer.commit(vec![], vec![audit("load", n)]).await.unwrap();
            n += 1;
            counted.store(
                i64::from(u32::try_from(n).unwrap()),
                std::sync::atomic::Ordering::SeqCst,
            );
        }
    });
    for round in 0..5 {
        while done.load(std::sync::atomic::Ordering::SeqCst) < (round + 1) * 20 {
            tokio::task::yield_now().await;
        }
        let acknowledged = done.load(std::sync::atomic::Ordering::SeqCst);
        let copy = copied(&store, away.path()).await;
        let elsewhere = away.path().join(format!("state-{round}"));
        std::fs::create_dir(&elsewhere).unwrap();
        let restored = put_back(&elsewhere, &copy, NOW).unwrap();
        assert_eq!(restored.aside, None);
        let (there, snapshot) = ServerStore::open(&elsewhere, true).unwrap();
        assert_eq!(snapshot.users.len(), 1);
        let mut rows = 0;
        let mut after = None;
        loop {
            let page = there.audit(after, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.seq);
            rows += i64::try_from(page.iter().filter(|row| row.action == "load").count()).unwrap();
        }
        assert!(rows >= acknowledged, "{rows} of {acknowledged}");
        there.close().await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.await.unwrap();
    store.close().await;
    assert_eq!(names(dir.path()), ["server.db"], "no copy is left behind");
}

#[tokio::test]
async fn the_database_that_was_there_is_kept_aside() {
    let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = fresh(dir.path());
    let copy = copied(&store, away.path()).await;
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    store.close().await;
    let restored = put_back(dir.path(), &copy, NOW).unwrap();
    let aside = restored.aside.expect("there was one");
    assert!(!restored.has_key);
    let (store, snapshot) = ServerStore::open(dir.path(), true).unwrap();
    assert_eq!(snapshot.users.len(), 0, "as it was when the copy was made");
    store.close().await;
    // And back again.
    put_back(dir.path(), &aside, NOW.plus(Duration::from_secs(1))).unwrap();
    let (store, snapshot) = ServerStore::open(dir.path(), true).unwrap();
    assert_eq!(snapshot.users.len(), 1);
    store.close().await;
}

#[tokio::test]
async fn what_is_no_copy_of_this_database_changes_nothing() {
    let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = fresh(dir.path());
    let copy = copied(&store, away.path()).await;
    store.close().await;
    let whole = std::fs::read(&copy).unwrap();
    let edited = |name: &str, sql: &str| {
        let path = away.path().join(name);
        std::fs::write(&path, &whole).unwrap();
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch(sql).unwrap();
        path
    };
    let newer = edited("newer", "PRAGMA user_version = 999");
    let foreign = edited("foreign", "PRAGMA application_id = 7");
    let text = away.path().join("text");
    std::fs::write(&text, "no database at all, but long enough to be looked at").unwrap();
    let half = away.path().join("half");
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let empty = away.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let before = std::fs::read(dir.path().join("server.db")).unwrap();
    let refused = |path: &Path| put_back(dir.path(), path, NOW).unwrap_err();
    assert!(matches!(refused(&newer), StoreError::Newer { .. }));
    assert!(matches!(refused(&foreign), StoreError::Foreign { .. }));
    for path in [&text, &half, &empty] {
        let err = refused(path);
        assert!(matches!(err, StoreError::Damaged { .. }), "{err}");
        assert!(
            err.to_string().contains(&*path.display().to_string()),
            "{err}"
        );
    }
    assert_eq!(names(dir.path()), ["server.db"]);
    assert_eq!(std::fs::read(dir.path().join("server.db")).unwrap(), before);
}

#[tokio::test]
async fn a_copy_of_an_older_release_is_migrated() {
    let (dir, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = fresh(dir.path());
    let (changes, lines) = household(1);
    store.commit(changes, lines).await.unwrap();
    let copy = copied(&store, away.path()).await;
    store.close().await;
    let known = server::SCHEMA.migrations;
    let step = "CREATE TABLE later (id TEXT PRIMARY KEY) STRICT";
    let migrations: Vec<&'static str> = known.iter().copied().chain([step]).collect();
    let later = Schema {
        file: server::SCHEMA.file,
        application_id: server::SCHEMA.application_id,
        migrations: migrations.leak(),
    };
    let opened = std::fs::File::open(&copy).unwrap();
    restore_as(&later, dir.path(), (opened, &copy), NOW).unwrap();
    let (conn, _) = later.open(dir.path(), true).unwrap();
    let count = |table: &str| -> i64 {
        conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap()
    };
    assert_eq!((count("later"), count("users")), (0, 1));
}
