//! The server's database: users, devices, invites, tunnels, audit.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use super::StoreError;
use super::open::Schema;
use super::prune::{Old, Pruning};
use super::readers::Readers;
use super::seal::Seal;
use super::tables::{audit, domains, people, shares, tunnels};
use super::writer::{Batch, CommitDone, Writer};
use crate::engine::{AuditRow, Change, Snapshot, TunnelState};
use crate::times::{Clock, WallTime};

pub(super) const SCHEMA: Schema = Schema {
    file: "server.db",
    // "wksv"
    application_id: 0x776b_7376,
    migrations: &[
        include_str!("migrations/server/0001_first.sql"),
        include_str!("migrations/server/0002_policy.sql"),
        include_str!("migrations/server/0003_domains.sql"),
    ],
};

// Longer than any quarantine that makes sense; older ones stay on disk only.
const ENDED_KEPT: Duration = Duration::from_secs(60 * 86_400);

/// A line of the audit as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAudit {
    /// Counts up in the order of commits; the cursor.
    pub seq: i64,
    /// When.
    pub at: WallTime,
    /// `uid 0`, `dev_…`, `newcomer`, `engine`.
    pub actor: String,
    /// From where.
    pub peer: Option<String>,
    /// `tunnel.open` and so on.
    pub action: String,
    /// The id of what changed.
    pub subject: String,
    /// Facts.
    pub detail: String,
}

/// Which lines of the audit are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Not older.
    pub since: Option<WallTime>,
    /// About one of these ids.
    pub subjects: Option<Vec<String>>,
    /// By one of these, as [`StoredAudit::actor`] has them.
    pub actors: Option<Vec<String>>,
}

/// The server's store; clones share it.
#[derive(Debug, Clone)]
pub struct ServerStore {
    writer: Writer<ServerBatch>,
    readers: Readers,
    seal: Seal,
}

impl ServerStore {
    /// Opens `<dir>/server.db` and reads what the engine starts from. `must_exist` says that this
    /// machine had the database before (its identity key was there): then a missing one refuses. Blocks.
    pub fn open(dir: &Path, must_exist: bool) -> Result<(Self, Snapshot), StoreError> {
        Self::open_at(dir, must_exist, Clock.now().wall)
    }

    /// The same with the key that secrets are sealed with, as far as it is known: without it none can be
    /// read or written.
    pub fn open_sealed(
        dir: &Path,
        must_exist: bool,
        key: Option<&[u8; 32]>,
    ) -> Result<(Self, Snapshot), StoreError> {
        Self::open_with(dir, must_exist, Clock.now().wall, Seal::with(key))
    }

    /// Gives the key that secrets are sealed with, where it was not known before.
    pub fn seal_with(&self, key: &[u8; 32]) {
        self.seal.set(key);
    }

    /// The same with the time told.
    pub(super) fn open_at(
        dir: &Path,
        must_exist: bool,
        now: WallTime,
    ) -> Result<(Self, Snapshot), StoreError> {
        Self::open_with(dir, must_exist, now, Seal::default())
    }

    pub(super) fn open_with(
        dir: &Path,
        must_exist: bool,
        now: WallTime,
        seal: Seal,
    ) -> Result<(Self, Snapshot), StoreError> {
        let (conn, path) = SCHEMA.open(dir, must_exist)?;
        let snapshot =
            snapshot(&conn, now, &seal).map_err(|source| StoreError::sql(&path, source))?;
        let readers = Readers::new(path.clone());
        let writer = Writer::start(conn, path)?;
        let store = Self {
            writer,
            readers,
            seal,
        };
        Ok((store, snapshot))
    }

    /// Puts the changes and their audit on disk, all or none, in the order given; returns after the
    /// fsync. Commits happen in the order in which these futures are first polled; one that is dropped
    /// after that is carried out all the same.
    pub async fn commit(
        &self,
        changes: Vec<Change>,
        audit: Vec<AuditRow>,
    ) -> Result<(), StoreError> {
        self.writer.commit(self.batch(changes, audit)).await
    }

    /// Queues the same without waiting; `done` is called once, on the writer's thread. On an error
    /// (`Busy`: the queue is full; `Closed`) nothing is queued and `done` is never called.
    pub fn commit_then(
        &self,
        changes: Vec<Change>,
        audit: Vec<AuditRow>,
        done: CommitDone,
    ) -> Result<(), StoreError> {
        self.writer.commit_then(self.batch(changes, audit), done)
    }

    fn batch(&self, changes: Vec<Change>, audit: Vec<AuditRow>) -> ServerBatch {
        ServerBatch {
            changes,
            audit,
            seal: self.seal.clone(),
            pruning: None,
        }
    }

    /// Takes out some of what is old, in a small commit; whether there is more.
    pub async fn prune(&self, old: Old) -> Result<bool, StoreError> {
        let (pruning, more) = Pruning::new(old);
        let batch = ServerBatch {
            pruning: Some(pruning),
            ..ServerBatch::default()
        };
        self.writer.commit(batch).await?;
        Ok(more.load(Ordering::Relaxed))
    }

    /// The audit from behind a cursor, oldest first.
    pub async fn audit(
        &self,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredAudit>, StoreError> {
        self.audit_of(AuditFilter::default(), after, limit).await
    }

    /// The same, of the lines that are wanted.
    pub async fn audit_of(
        &self,
        wanted: AuditFilter,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<StoredAudit>, StoreError> {
        self.readers
            .query(move |conn| audit::page(conn, &wanted, after.unwrap_or(0), limit))
            .await
    }

    /// Resolves when the writer works through its queue; waits as long as it does not.
    pub async fn answers(&self) -> Result<(), StoreError> {
        self.writer.answers().await
    }

    /// Resolves when the writer is gone, after `close` or because it died: the process is no use then.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    pub(super) fn path(&self) -> &Path {
        self.readers.path()
    }

    /// The size of the database and its log on disk.
    pub async fn bytes(&self) -> u64 {
        self.readers.bytes().await
    }

    /// Transactions so far: with group commits, fewer than commits.
    pub fn groups(&self) -> u64 {
        self.writer.groups()
    }

    /// Commits what is queued, folds the log into the database and joins the writer. Other clones are
    /// closed with it.
    pub async fn close(self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Runs something on the writer's connection.
    #[cfg(test)]
    pub(crate) async fn with_connection(&self, work: impl FnOnce(&Connection) + Send + 'static) {
        self.writer.with_connection(work).await;
    }
}

fn snapshot(conn: &Connection, now: WallTime, seal: &Seal) -> rusqlite::Result<Snapshot> {
    let ended_since = WallTime::from_millis(
        now.as_millis()
            .saturating_sub(super::columns::millis(ENDED_KEPT)),
    );
    Ok(Snapshot {
        users: people::users(conn)?,
        devices: people::devices(conn)?,
        invites: people::invites(conn, now)?,
        tunnels: tunnels::load(conn, ended_since, seal)?,
        shares: shares::load(conn, now)?,
        domains: domains::load(conn)?,
    })
}

#[derive(Debug, Default)]
struct ServerBatch {
    pruning: Option<Pruning>,
    changes: Vec<Change>,
    audit: Vec<AuditRow>,
    seal: Seal,
}

impl Batch for ServerBatch {
    fn apply(&self, conn: &Connection) -> rusqlite::Result<()> {
        for change in &self.changes {
            match change {
                Change::User(row) => people::put_user(conn, row)?,
                Change::Device(row) => people::put_device(conn, row)?,
                Change::Invite(row) => people::put_invite(conn, row)?,
                Change::Tunnel(row) => {
                    tunnels::put(conn, row, &self.seal)?;
                    if row.state != TunnelState::Open {
                        domains::free(conn, row.id)?;
                    }
                }
                Change::Share(row) => shares::put(conn, row)?,
                Change::Domains { tunnel, rows } => domains::put(conn, *tunnel, rows)?,
                Change::Seen(row) => tunnels::put_seen(conn, row)?,
                Change::Forget(id) => tunnels::forget(conn, *id)?,
            }
        }
        if let Some(pruning) = &self.pruning {
            pruning.apply(conn)?;
        }
        self.audit.iter().try_for_each(|row| audit::add(conn, row))
    }
}
