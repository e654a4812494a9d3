//! Opens a database that may be trusted, or refuses: what exists is checked before anything is written,
//! and what existed before is never made anew.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::{StoreError, lock};

/// What a database of one role looks like.
#[derive(Debug)]
pub(super) struct Schema {
    /// Its file in the state directory.
    pub(super) file: &'static str,
    /// SQLite's mark of whose file it is.
    pub(super) application_id: i32,
    /// The nth takes schema n to n+1.
    pub(super) migrations: &'static [&'static str],
}

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

// Checked at every start up to this size, which takes a blink; above it only after an unclean end.
const ALWAYS_CHECKED: u64 = 64 << 20;

impl Schema {
    fn known(&self) -> u32 {
        u32::try_from(self.migrations.len()).expect("there are few migrations")
    }

    /// Opens, checks and migrates. `must_exist` says that this machine had the database before.
    pub(super) fn open(
        &self,
        dir: &Path,
        must_exist: bool,
    ) -> Result<(Connection, PathBuf), StoreError> {
        lock::make_dir(dir)?;
        let path = dir.join(self.file);
        let found = Found::at(&path)?;
        match found {
            Found::Nothing if must_exist => return Err(StoreError::Missing { path }),
            Found::Nothing => create_file(&path)?,
            Found::Empty if must_exist => return Err(damaged(&path, "it is empty")),
            Found::Empty | Found::Database { .. } => restrict(&path)?,
        }
        let conn = self
            .open_found(&path, found, must_exist)
            .map_err(|err| err.into_store(&path))?;
        sync_dir(dir)?;
        Ok((conn, path))
    }

    fn open_found(&self, path: &Path, found: Found, must_exist: bool) -> Result<Connection, Fault> {
        let conn = Connection::open_with_flags(
            path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        let version = self.recognise(&conn, path, must_exist)?;
        if let Found::Database { unclean, size } = found
            && (unclean || size <= ALWAYS_CHECKED)
        {
            check(&conn, path)?;
        }
        set_up(&conn, path)?;
        self.migrate(&conn, version)?;
        // The schema is in the main file before the first row: a lost log never looks like a new database.
        match conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            // With nothing new in it, the log may wait, say for room on a full disk.
            Err(err) if version == self.known() => {
                tracing::warn!(%err, "the state database's log could not be folded in");
            }
            folded => folded?,
        }
        Ok(conn)
    }

    /// The schema found, once it is clear whose file this is. Writes nothing.
    fn recognise(&self, conn: &Connection, path: &Path, must_exist: bool) -> Result<u32, Fault> {
        let id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        let blank = id == 0 && version == 0 && tables == 0;
        if blank && must_exist {
            return Err(damaged(path, "it holds no tables").into());
        }
        if !blank && id != self.application_id {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
            }
            .into());
        }
        let known = self.known();
        match u32::try_from(version) {
            Ok(found) if found > known => Err(StoreError::Newer {
                path: path.to_owned(),
                found,
                known,
            }
            .into()),
            Ok(0) if !blank => Err(damaged(path, "it has no schema version").into()),
            Ok(found) => Ok(found),
            Err(_) => Err(damaged(path, "its schema version is negative").into()),
        }
    }

    fn migrate(&self, conn: &Connection, found: u32) -> Result<(), Fault> {
        for (version, sql) in (1..).zip(self.migrations).skip(found as usize) {
            let step = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
            step.execute_batch(sql)?;
            step.pragma_update(None, "application_id", self.application_id)?;
            step.pragma_update(None, "user_version", version)?;
            step.commit()?;
            tracing::info!(file = self.file, schema = version, "database migrated");
        }
        Ok(())
    }
}

/// A read-only connection to a database that is open for writing in this process.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// The write-ahead log beside a database.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// What lies where the database should be.
#[derive(Debug, Clone, Copy)]
enum Found {
    Nothing,
    Empty,
    Database { unclean: bool, size: u64 },
}

impl Found {
    fn at(path: &Path) -> Result<Self, StoreError> {
        // A clean end folds the log into the database and removes it.
        let unclean = ["-wal", "-journal"]
            .iter()
            .any(|suffix| fs::metadata(beside(path, suffix)).is_ok_and(|m| m.len() > 0));
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(err) if err.kind() == io::ErrorKind::NotFound && !unclean => {
                return Ok(Self::Nothing);
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing {
                    path: path.to_owned(),
                });
            }
            Err(source) => return Err(StoreError::io(path, source)),
        };
        if !meta.is_file() {
            return Err(StoreError::Foreign {
                path: path.to_owned(),
            });
        }
        match meta.len() {
            // SQLite would drop the log of an empty file without a word.
            0 if unclean => Err(damaged(path, "it is empty, but its log is not")),
            0 => Ok(Self::Empty),
            size => {
                let mut start = [0; 16];
                File::open(path)
                    .and_then(|mut file| file.read(&mut start))
                    .map_err(|source| StoreError::io(path, source))?;
                if &start == MAGIC {
                    Ok(Self::Database { unclean, size })
                } else {
                    Err(damaged(path, "it does not begin like an SQLite database"))
                }
            }
        }
    }
}

fn create_file(path: &Path) -> Result<(), StoreError> {
    // Before SQLite: the log and the shared memory take over the mode of the database.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| StoreError::io(path, source))
}

fn restrict(path: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::io(path, source);
    let mode = fs::metadata(path).map_err(io)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|source| StoreError::io(dir, source))
}

fn check(conn: &Connection, path: &Path) -> Result<(), Fault> {
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(damaged(path, &verdict).into());
    }
    let orphan = conn
        .prepare("PRAGMA foreign_key_check")?
        .query([])?
        .next()?
        .map(|row| row.get::<_, String>(0))
        .transpose()?;
    match orphan {
        Some(table) => Err(damaged(path, &format!("a row of {table} has lost its owner")).into()),
        None => Ok(()),
    }
}

fn set_up(conn: &Connection, path: &Path) -> Result<(), Fault> {
    let mode: String =
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let source = io::Error::other("its file system cannot hold a write-ahead log");
        return Err(StoreError::io(path, source).into());
    }
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    // The writer thread folds the log itself, after its replies and not before them.
    conn.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    conn.pragma_update_and_check(None, "journal_size_limit", 1 << 20, |_| Ok(()))?;
    Ok(())
}

pub(super) fn damaged(path: &Path, detail: &str) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        detail: detail.to_owned(),
    }
}

/// Either of the two errors that opening meets; the first gets its path at the border.
#[derive(Debug)]
enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl Fault {
    fn into_store(self, path: &Path) -> StoreError {
        match self {
            Self::Sql(source) => StoreError::sql(path, source),
            Self::Store(err) => err,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sql(source)
    }
}

impl From<StoreError> for Fault {
    fn from(err: StoreError) -> Self {
        Self::Store(err)
    }
}
