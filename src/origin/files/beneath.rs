//! Opens what a visitor names, beneath one directory and nowhere else. The kernel keeps the bounds
//! (`openat2` with `RESOLVE_BENEATH`); what was opened is judged once more by where it really lies.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::path::{Wanted, is_hidden};
use crate::origin::dial::DialError;
use crate::origin::policy::{OriginPolicy, Own, by_descriptor, path_of, settle};

/// The most entries a listing shows.
const ENTRIES: usize = 10_000;

/// What is there.
#[derive(Debug)]
pub(super) enum Found {
    File(Opened),
    /// A directory without `index.html`.
    Listing(Vec<Entry>),
    /// A directory that was asked for without its slash.
    Directory,
    Nothing,
    /// It is there, and the client's user may not read it.
    Forbidden,
}

/// A regular file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) length: u64,
    pub(super) modified: Option<SystemTime>,
    /// The name that tells its type.
    pub(super) name: PathBuf,
}

/// One line of a listing.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    /// Directories sort first.
    pub(super) is_file: bool,
    pub(super) name: OsString,
    pub(super) length: u64,
}

/// Finds what `wanted` names beneath `dir`. Blocks; an error means that the directory itself is not
/// allowed, or not there.
pub(super) fn find(policy: &OriginPolicy, dir: &Path, wanted: &Wanted) -> Result<Found, DialError> {
    let gone = |source| DialError::NothingListens {
        at: format!("file:{}", dir.display()),
        source,
    };
    let root = match hold(dir) {
        Ok(root) => root,
        Err(error) => {
            policy.judge_dir(&settle(dir))?;
            return Err(gone(error));
        }
    };
    let real = path_of(&root).map_err(gone)?;
    policy.judge_dir(&real)?;
    if wanted.is_hidden {
        return Ok(Found::Nothing);
    }
    let inside = Inside {
        own: policy.own(),
        root,
        real,
    };
    Ok(inside
        .find(wanted)
        .unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Found::Forbidden,
            _ => Found::Nothing,
        }))
}

/// Holds a directory without reading it.
fn hold(dir: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(dir)
}

struct Inside {
    own: Own,
    root: File,
    /// Where the root really lies.
    real: PathBuf,
}

impl Inside {
    fn find(&self, wanted: &Wanted) -> io::Result<Found> {
        let relative = wanted.relative();
        let (held, meta) = self.hold(&relative)?;
        if meta.is_dir() && !wanted.is_dir {
            return Ok(Found::Directory);
        }
        if meta.is_dir() {
            return match self.hold(&relative.join("index.html")) {
                Ok((index, meta)) if meta.is_file() => open(&index, &meta, "index.html".into()),
                _ => self.list(&held).map(Found::Listing),
            };
        }
        if !meta.is_file() || (wanted.is_dir && !wanted.is_root()) {
            return Ok(Found::Nothing);
        }
        open(&held, &meta, relative)
    }

    /// Holds a path beneath the root, as an inode that cannot be swapped any more; opens nothing, so a
    /// pipe does not block and a device is not touched.
    fn hold(&self, relative: &Path) -> io::Result<(File, Metadata)> {
        let held = match self.open_beneath(relative, ResolveFlag::RESOLVE_NO_MAGICLINKS) {
            // A link that is absolute is refused even if it stays inside: then its real path is tried,
            // and no link may stand in that one.
            Err(Errno::EXDEV) => self.by_real_path(relative)?,
            // An old kernel, or one that hides the call: the check below has to do alone.
            Err(Errno::ENOSYS | Errno::EPERM) => hold_any(&self.real.join(relative))?,
            opened => opened?,
        };
        let real = path_of(&held)?;
        let inside = real
            .strip_prefix(&self.real)
            .map_err(|_| io::ErrorKind::NotFound)?;
        let hidden = inside.iter().any(is_hidden);
        let meta = held.metadata()?;
        if hidden || self.own.has_path(&real) || self.own.has_inode(&meta) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((held, meta))
    }

    fn by_real_path(&self, relative: &Path) -> io::Result<File> {
        let real = self.real.join(relative).canonicalize()?;
        let inside = real
            .strip_prefix(&self.real)
            .map_err(|_| io::ErrorKind::NotFound)?;
        let inside = if inside.as_os_str().is_empty() {
            Path::new(".")
        } else {
            inside
        };
        Ok(self.open_beneath(inside, ResolveFlag::RESOLVE_NO_SYMLINKS)?)
    }

    fn open_beneath(&self, relative: &Path, links: ResolveFlag) -> Result<File, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | links);
        openat2(self.root.as_fd(), relative, how).map(File::from)
    }

    fn list(&self, dir: &File) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(by_descriptor(dir))? {
            let name = entry?.file_name();
            if is_hidden(&name) {
                continue;
            }
            let at = path_of(dir)?.join(&name);
            let Ok(relative) = at.strip_prefix(&self.real) else {
                continue;
            };
            // Only what could be visited is shown.
            let Ok((_, meta)) = self.hold(relative) else {
                continue;
            };
            if meta.is_file() || meta.is_dir() {
                entries.push(Entry {
                    is_file: meta.is_file(),
                    name,
                    length: meta.len(),
                });
            }
            if entries.len() >= ENTRIES {
                break;
            }
        }
        entries.sort();
        Ok(entries)
    }
}

fn hold_any(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
}

/// Opens for reading what is held, and is known to be a regular file.
fn open(held: &File, meta: &Metadata, name: PathBuf) -> io::Result<Found> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(by_descriptor(held))?;
    Ok(Found::File(Opened {
        file,
        length: meta.len(),
        modified: meta.modified().ok(),
        name,
    }))
}
