//! `wormkeyd server restore`: a backup takes the place of the database of a server that does not run.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, User, geteuid, setgid, setgroups, setuid};

use crate::store::{self, StateLock};
use crate::supervise::prepare_state_dir;
use crate::times::Clock;

/// What was done, line by line.
pub(crate) fn restore(state_dir: &Path, file: &Path) -> anyhow::Result<Vec<String>> {
    let about = || format!("restoring {}", file.display());
    // By whoever calls: a backup may be root's alone.
    let copy = File::open(file).with_context(about)?;
    prepare_state_dir(state_dir)?;
    become_owner(state_dir, "restore FILE")?;
    let _lock = StateLock::acquire(state_dir, "server")?;
    let restored = store::restore(state_dir, (copy, file), Clock.now().wall).with_context(about)?;
    let mut lines = vec![format!("restored {}", file.display())];
    if let Some(aside) = restored.aside {
        lines.push(format!(
            "the database that was there is {}",
            aside.display()
        ));
    }
    lines.push(
        "what changed after the backup is undone: devices revoked since then are no longer revoked"
            .to_owned(),
    );
    if !restored.has_key {
        lines.push(format!(
            "now put back {}, by which clients know this server, or all of them have to join again; and \
             server.root beside it, if that key was ever changed",
            state_dir.join("server.key").display()
        ));
    }
    Ok(lines)
}

/// Files of another user would be no use to the daemon, which runs as the directory's owner. Root turns into that
/// user for good: what that user has put into the directory, such as a symlink, then leads to nothing of root's.
pub(super) fn become_owner(state_dir: &Path, command: &str) -> anyhow::Result<()> {
    let at = || format!("looking at {}", state_dir.display());
    let found = fs::metadata(state_dir).with_context(at)?;
    let (owner, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    let own = geteuid();
    if own == owner {
        return Ok(());
    }
    let user = User::from_uid(owner).ok().flatten();
    let name = user.map_or_else(|| format!("#{owner}"), |user| user.name);
    if !own.is_root() {
        bail!(
            "{} belongs to {name}; run it as root: sudo wormkeyd server {command}",
            state_dir.display()
        );
    }
    setgroups(&[])
        .and_then(|()| setgid(group))
        .and_then(|()| setuid(owner))
        .with_context(|| format!("turning into {name}"))
}
