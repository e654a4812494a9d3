//! `wormkeyd server restore`: a backup takes the place of the database of a server that does not run.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::store::{self, StateLock};
use crate::supervise::prepare_state_dir;
use crate::times::Clock;

/// What was done, line by line.
pub(crate) fn restore(state_dir: &Path, file: &Path) -> anyhow::Result<Vec<String>> {
    prepare_state_dir(state_dir)?;
    right_user(state_dir)?;
    let _lock = StateLock::acquire(state_dir, "server")?;
    let restored = store::restore(state_dir, file, Clock.now().wall)
        .with_context(|| format!("restoring {}", file.display()))?;
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
            "now put back {}, by which clients know this server, or all of them have to join again",
            state_dir.join("server.key").display()
        ));
    }
    Ok(lines)
}

/// Files of another user would be no use to the daemon, which runs as the directory's owner.
fn right_user(state_dir: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(state_dir)
        .with_context(|| format!("looking at {}", state_dir.display()))?
        .uid();
    let own = nix::unistd::geteuid().as_raw();
    if own == owner {
        return Ok(());
    }
    let found = nix::unistd::User::from_uid(owner.into()).ok().flatten();
    let name = found.map_or_else(|| format!("#{owner}"), |user| user.name);
    bail!(
        "{} belongs to {name}; run it as that user: sudo -u {name} wormkeyd server restore FILE",
        state_dir.display()
    )
}
