//! One daemon of a role per state directory. Not the database's own locks, which only order writes.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::StoreError;

/// Held for as long as it lives; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes `<dir>/<role>.lock` and writes our pid into it. Makes the directory (0700) if need be.
    pub fn acquire(dir: &Path, role: &str) -> Result<Self, StoreError> {
        make_dir(dir)?;
        let path = dir.join(format!("{role}.lock"));
        let io = |source| StoreError::io(&path, source);
        // The file is never removed: who waits on a removed file would lock beside us.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read_pid(&mut file);
                return Err(StoreError::Locked { path, pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            // The pid is for people; a full disk must not keep the daemon from starting.
            .unwrap_or_else(|err| tracing::warn!(%err, "the lock file does not tell our pid"));
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Makes the state directory for us alone; one that is there keeps its mode.
pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StoreError::io(dir, source))
}
