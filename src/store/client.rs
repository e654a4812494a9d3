//! The client's database: its enrolment and its tunnels.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;
use super::open::{Schema, wal_of};
use super::seal::Seal;
use super::tables::{book, networks};
use super::writer::{Batch, CommitDone, Writer};
use crate::engine::book::{BookChange, BookSnapshot};
use crate::times::{Clock, WallTime};

pub(super) const SCHEMA: Schema = Schema {
    file: "client.db",
    // "wkcl"
    application_id: 0x776b_636c,
    migrations: &[
        include_str!("migrations/client/0001_first.sql"),
        include_str!("migrations/client/0002_networks.sql"),
        include_str!("migrations/client/0003_yes_expose.sql"),
        include_str!("migrations/client/0004_proxy_protocol.sql"),
        include_str!("migrations/client/0005_policy.sql"),
        include_str!("migrations/client/0006_domains.sql"),
    ],
};

const ENDED_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// The client's store; clones share it.
#[derive(Debug, Clone)]
pub struct ClientStore {
    writer: Writer<ClientBatch>,
    seal: Seal,
    path: PathBuf,
}

impl ClientStore {
    /// Opens `<dir>/client.db` and reads what the client starts from; `must_exist` as on the server. Blocks.
    pub fn open(dir: &Path, must_exist: bool) -> Result<(Self, BookSnapshot), StoreError> {
        Self::open_at(dir, must_exist, Clock.now().wall)
    }

    /// The same with the time told.
    pub(super) fn open_at(
        dir: &Path,
        must_exist: bool,
        now: WallTime,
    ) -> Result<(Self, BookSnapshot), StoreError> {
        let (conn, path) = SCHEMA.open(dir, must_exist)?;
        let seal = Seal::in_file(dir.join("client.seal"));
        let snapshot =
            snapshot(&conn, now, &seal).map_err(|source| StoreError::sql(&path, source))?;
        let writer = Writer::start(conn, path.clone())?;
        Ok((Self { writer, seal, path }, snapshot))
    }

    /// Puts the changes on disk, all or none, in the order given; returns after the fsync. Commits
    /// happen in the order in which these futures are first polled.
    pub async fn commit(&self, changes: Vec<BookChange>) -> Result<(), StoreError> {
        self.writer.commit(self.batch(changes)).await
    }

    /// Queues the same without waiting; `done` as on [`super::ServerStore::commit_then`].
    pub fn commit_then(
        &self,
        changes: Vec<BookChange>,
        done: CommitDone,
    ) -> Result<(), StoreError> {
        self.writer.commit_then(self.batch(changes), done)
    }

    fn batch(&self, changes: Vec<BookChange>) -> ClientBatch {
        let seal = self.seal.clone();
        ClientBatch { changes, seal }
    }

    /// Resolves when the writer works through its queue; waits as long as it does not.
    pub async fn answers(&self) -> Result<(), StoreError> {
        self.writer.answers().await
    }

    /// The size of the database and its log on disk.
    pub async fn bytes(&self) -> u64 {
        let mut bytes = 0;
        for path in [self.path.clone(), wal_of(&self.path)] {
            bytes += tokio::fs::metadata(path)
                .await
                .map_or(0, |facts| facts.len());
        }
        bytes
    }

    /// Transactions so far.
    pub fn groups(&self) -> u64 {
        self.writer.groups()
    }

    /// Resolves when the writer is gone, after `close` or because it died.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Commits what is queued, folds the log into the database and joins the writer.
    pub async fn close(self) {
        self.writer.close().await;
    }
}

fn snapshot(conn: &Connection, now: WallTime, seal: &Seal) -> rusqlite::Result<BookSnapshot> {
    let ended_since = WallTime::from_millis(
        now.as_millis()
            .saturating_sub(super::columns::millis(ENDED_KEPT)),
    );
    Ok(BookSnapshot {
        enrolment: book::enrolment(conn)?,
        networks: networks::load(conn, now)?,
        tunnels: book::tunnels(conn, ended_since, seal)?,
    })
}

#[derive(Debug)]
struct ClientBatch {
    changes: Vec<BookChange>,
    seal: Seal,
}

impl Batch for ClientBatch {
    fn apply(&self, conn: &Connection) -> rusqlite::Result<()> {
        for change in &self.changes {
            match change {
                BookChange::Enrolment(row) => book::put_enrolment(conn, row)?,
                BookChange::Left => {
                    book::forget_all(conn)?;
                    networks::forget_all(conn)?;
                }
                BookChange::Tunnel(row) => book::put_tunnel(conn, row, &self.seal)?,
                BookChange::Forget(id) => book::forget_tunnel(conn, *id)?,
                BookChange::Network(row) => networks::put(conn, row)?,
            }
        }
        Ok(())
    }
}
