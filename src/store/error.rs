//! Why the store refused, and which row of the table of codes that is.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::seal::SealError;
use crate::codes::Code;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system is full.
    #[error("no space left in {}; free some, nothing that was acknowledged is lost", .dir.display())]
    DiskFull {
        /// The state directory.
        dir: PathBuf,
    },
    /// Another process has the state directory, or its database.
    #[error("{}: lock held by {}; stop that one first, or set another [state] dir", .path.display(), holder(*.pid))]
    Locked {
        /// The lock or the database.
        path: PathBuf,
        /// Who has it, when it is known.
        pid: Option<u32>,
    },
    /// Written by a later release.
    #[error("{} has schema {found}, this release knows {known}; start the newer release, or restore a backup made with this one", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The latest one known here.
        known: u32,
    },
    /// Not readable as the database it was.
    #[error("{} is damaged ({detail}); restore it from a backup, it is not replaced by an empty one", .path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A database of something else.
    #[error("{} is not a database of this role; move it away, or set another [state] dir", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It existed before and is gone.
    #[error("{} is missing, and this machine had one before; restore it from a backup, or remove the key beside it to start anew", .path.display())]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// Its secrets were sealed with a key that is not here.
    #[error("{} holds secrets that cannot be opened ({reason}); put the key back that was beside it, from where its backups are", .path.display())]
    Sealed {
        /// The database.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database refused a change: a name twice, or a row without its owner.
    #[error("the change contradicts what is stored")]
    Refused {
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database failed.
    #[error("the state database {} failed", .path.display())]
    Sql {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// As many commits wait as may wait.
    #[error("too many changes wait to be stored")]
    Busy,
    /// The store was closed, or its writer died.
    #[error("the store is closed")]
    Closed,
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"))
}

impl StoreError {
    /// The row of the one table.
    pub const fn code(&self) -> Code {
        match self {
            Self::DiskFull { .. } => Code::DiskFull,
            Self::Busy => Code::Overloaded,
            Self::Locked { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Sealed { .. }
            | Self::Foreign { .. }
            | Self::Missing { .. }
            | Self::Io { .. }
            | Self::Refused { .. }
            | Self::Sql { .. }
            | Self::Closed => Code::Storage,
        }
    }

    /// The same of another file: what was found in a copy is told of where the copy came from.
    pub(super) fn about(self, file: &Path) -> Self {
        let path = file.to_owned();
        match self {
            Self::Newer { found, known, .. } => Self::Newer { path, found, known },
            Self::Damaged { detail, .. } => Self::Damaged { path, detail },
            Self::Foreign { .. } => Self::Foreign { path },
            other => other,
        }
    }

    /// An error of the file system, told apart from a full disk.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { dir: parent(path) }
            }
            _ => Self::Io {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// An error of SQLite about the database at `path`.
    pub(super) fn sql(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let damaged = |path, source: &rusqlite::Error| Self::Damaged {
            path,
            detail: source.to_string(),
        };
        let rusqlite::Error::SqliteFailure(failure, _) = &source else {
            let sealed = |err: &rusqlite::Error| match err {
                rusqlite::Error::FromSqlConversionFailure(_, _, cause)
                | rusqlite::Error::ToSqlConversionFailure(cause) => {
                    cause.downcast_ref::<SealError>().map(ToString::to_string)
                }
                _ => None,
            };
            if let Some(reason) = sealed(&source) {
                return Self::Sealed { path, reason };
            }
            return match source {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..) => damaged(path, &source),
                _ => Self::Sql { path, source },
            };
        };
        match failure.code {
            ErrorCode::DiskFull => Self::DiskFull { dir: parent(&path) },
            // SQLite calls a full disk an I/O error when it strikes its shared-memory file.
            ErrorCode::SystemIoFailure if is_full(&path) => Self::DiskFull { dir: parent(&path) },
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => damaged(path, &source),
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Locked { path, pid: None },
            ErrorCode::ConstraintViolation => Self::Refused { source },
            _ => Self::Sql { path, source },
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|fs| fs.blocks_available() == 0 || fs.files_available() == 0 && fs.files() != 0)
}
