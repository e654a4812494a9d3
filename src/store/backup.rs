//! Copies of a database that runs, and their way back. A copy is a database of its own, whole and
//! consistent: all that was acknowledged before it began is in it.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::open::{Schema, damaged, open_reader, sync_dir, wal_of};
use super::{ServerStore, StoreError, lock, server};
use crate::times::WallTime;

/// What is restored is looked at in here before it takes the old one's place.
const STAGING: &str = "server.restore";

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Where the database is that was there before; none when there was none.
    pub aside: Option<PathBuf>,
    /// Whether the identity key is there that belongs to it.
    pub has_key: bool,
}

impl ServerStore {
    /// Copies the database as it is now into a file without a name, at its start; it is gone when it is
    /// dropped. Needs as much room in the state directory as the database takes.
    pub async fn copy(&self) -> Result<(File, u64), StoreError> {
        let path = self.path().to_owned();
        tokio::task::spawn_blocking(move || copy(&path))
            .await
            .map_err(|_| StoreError::Closed)?
    }
}

fn copy(path: &Path) -> Result<(File, u64), StoreError> {
    let io = |source| StoreError::io(path, source);
    let sql = |source| StoreError::sql(path, source);
    let dir = path.parent().unwrap_or(path);
    let copy = tempfile::Builder::new()
        .prefix(".server.db.copy-")
        .tempfile_in(dir)
        .map_err(io)?;
    // A connection of its own: one long read, which stands in no commit's way.
    let conn = open_reader(path).map_err(sql)?;
    let to = copy.path().to_str().ok_or_else(|| {
        let source = io::Error::other("the state directory's name is not UTF-8");
        StoreError::io(dir, source)
    })?;
    conn.execute("VACUUM INTO $1", [to]).map_err(sql)?;
    drop(conn);
    verify(copy.path())?;
    let (mut file, name) = copy.into_parts();
    drop(name);
    let size = file.metadata().map_err(io)?.len();
    file.rewind().map_err(io)?;
    Ok((file, size))
}

/// Looks at every page.
fn verify(path: &Path) -> Result<(), StoreError> {
    let sql = |source| StoreError::sql(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql)?;
    let verdict: String = conn
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(sql)?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(damaged(path, &verdict)),
    }
}

/// Puts a copy in the place of the database in `dir`. To be called with the state directory's lock held.
/// A copy that is damaged, foreign or newer changes nothing; an older one is migrated; the database that
/// was there is kept beside it. The copy comes opened, with its name for errors: the caller may have been allowed
/// more.
pub fn restore(dir: &Path, copy: (File, &Path), now: WallTime) -> Result<Restored, StoreError> {
    restore_as(&server::SCHEMA, dir, copy, now)
}

pub(super) fn restore_as(
    schema: &Schema,
    dir: &Path,
    copy: (File, &Path),
    now: WallTime,
) -> Result<Restored, StoreError> {
    lock::make_dir(dir)?;
    let staging = dir.join(STAGING);
    clear(&staging)?;
    let restored = stage(schema, &staging, copy).and_then(|staged| {
        let aside = set_aside(&dir.join(schema.file), now)?;
        let place = dir.join(schema.file);
        fs::rename(&staged, &place).map_err(|source| StoreError::io(&place, source))?;
        sync_dir(dir)?;
        Ok(Restored {
            aside,
            has_key: dir.join("server.key").exists(),
        })
    });
    clear(&staging)?;
    restored
}

/// A checked and migrated database in a directory of its own, on disk to its last byte.
fn stage(
    schema: &Schema,
    staging: &Path,
    (mut from, copy): (File, &Path),
) -> Result<PathBuf, StoreError> {
    let io = |source| StoreError::io(staging, source);
    fs::DirBuilder::new()
        .mode(0o700)
        .create(staging)
        .map_err(io)?;
    let staged = staging.join(schema.file);
    let mut to = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .map_err(io)?;
    io::copy(&mut from, &mut to).map_err(io)?;
    drop(to);
    let opened = schema.open(staging, true).and_then(|(conn, path)| {
        conn.close()
            .map_err(|(_, source)| StoreError::sql(&path, source))?;
        verify(&path)
    });
    // What is wrong is wrong with the file that was named.
    opened.map_err(|err| err.about(copy))?;
    File::open(&staged)
        .and_then(|file| file.sync_all())
        .map_err(io)?;
    Ok(staged)
}

/// Moves a database out of the way, with its log. A crash in between leaves no database, which stops the
/// next start, and a restore can begin again.
fn set_aside(place: &Path, now: WallTime) -> Result<Option<PathBuf>, StoreError> {
    let io = |source| StoreError::io(place, source);
    let stamp = now.to_string().replace(':', "");
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".before-{stamp}"));
    let aside = PathBuf::from(name);
    let there = place.try_exists().map_err(io)?;
    if there {
        fs::rename(place, &aside).map_err(io)?;
    }
    let log = wal_of(place);
    if log.try_exists().map_err(io)? {
        fs::rename(&log, wal_of(&aside)).map_err(io)?;
    }
    let mut memory = place.as_os_str().to_owned();
    memory.push("-shm");
    match fs::remove_file(PathBuf::from(memory)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io(err)),
        _ => {}
    }
    Ok(there.then_some(aside))
}

fn clear(staging: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(staging) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(StoreError::io(staging, err)),
        _ => Ok(()),
    }
}
