//! `server backup`: a copy of the server's database into a file of the caller's own.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Cli;
use super::error::CtlError;

/// The daemon copies and checks the whole database before the first byte.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `--json` prints.
#[derive(Serialize)]
struct Done<'a> {
    file: &'a Path,
    bytes: u64,
}

pub(super) async fn backup(cli: &mut Cli, file: &Path) -> Result<(), CtlError> {
    let place = cli.io.current_dir.join(file);
    if place.try_exists().map_err(CtlError::System)? {
        return Err(CtlError::usage(
            format!("{} is there already", place.display()),
            "name another file, or move that one away",
        ));
    }
    let dir = place.parent().unwrap_or(Path::new("/"));
    // Beside its place and 0600 from the start: what has the name is whole.
    let mut copy = tempfile::NamedTempFile::new_in(dir).map_err(CtlError::System)?;
    let api = cli.api.with_deadline(PATIENCE);
    let bytes = api
        .download("/v1/backup", |piece| copy.write_all(piece))
        .await
        .map_err(|err| cli.failed(err))?;
    copy.as_file().sync_all().map_err(CtlError::System)?;
    copy.persist_noclobber(&place)
        .map_err(|err| CtlError::System(err.error))?;
    sync(dir).map_err(CtlError::System)?;
    if cli.json {
        return cli.document(&Done {
            file: &place,
            bytes,
        });
    }
    cli.line(&format!("{} bytes in {}", bytes, place.display()))?;
    cli.hint("it holds users, devices, tunnels, invites as hashes, and the audit: no secret, but who you serve");
    cli.hint("it does not hold server.key, which clients know the server by: copy that one once, and keep it apart");
    cli.hint("put it back with: wormkeyd server restore FILE");
    Ok(())
}

fn sync(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
