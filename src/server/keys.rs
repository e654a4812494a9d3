//! The server's identity keys: the one it has, the one that comes after, and the one that its secrets hang on.
//! A key is changed in two steps, so that every client has learnt of the next before it is shown.
//!
//! ```text
//! server.key        by which clients know the server
//! server.key.next   made by `rotate-key`; told to every client that links, and in new join tokens
//! server.pin.old    after a change: the pin of the key before, by which clients still ask for the server
//! server.root       after the first change: the first key, from which secrets at rest, share links and the
//!                   proofs of domains go on to be derived
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::link::{Identity, Listener};
use crate::names::Pin;
use crate::store::StateLock;

use super::restore::become_owner;

/// By which keys clients are to know this server, the present one first; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    told: Arc<RwLock<Vec<Pin>>>,
    /// Of the key before: not told any more, and still answered to.
    old: Option<Pin>,
}

impl Pins {
    /// The present key, and the next where there is one.
    pub(super) fn read(dir: &Path, own: Pin) -> anyhow::Result<Self> {
        Ok(Self {
            told: Arc::new(RwLock::new(pins(dir, own)?)),
            old: old(dir),
        })
    }

    /// Lets in who asks for the server by any of its keys. One that was not known would be taken for a visitor of
    /// HTTP/3, and shown what visitors see.
    pub(super) fn answer(&self, listener: &Listener) {
        let mut others = self.all().split_off(1);
        others.extend(self.old);
        listener.answer_also_to(&others);
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Pin> {
        self.told
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Tells these from now on, and answers to their tags; the next key where that is news.
    pub(super) fn change(&self, pins: Vec<Pin>, listener: &Listener) -> Option<Pin> {
        let next = pins.get(1).copied();
        let before = {
            let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *told, pins)
        };
        self.answer(listener);
        next.filter(|next| before.get(1) != Some(next))
    }
}

/// The pins as the state directory has them.
pub(super) fn pins(dir: &Path, own: Pin) -> anyhow::Result<Vec<Pin>> {
    let path = next_of(dir);
    let mut pins = vec![own];
    if path.exists() {
        let next = Identity::load(&path).context("reading the server's next identity key")?;
        pins.extend(Some(next.pin()).filter(|next| *next != own));
    }
    Ok(pins)
}

/// The pin of the key before this one.
fn old(dir: &Path) -> Option<Pin> {
    let path = old_of(dir);
    let read = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => Err(e.to_string()),
        Ok(text) => text.trim().parse().map_err(|e| format!("{e}")),
    };
    // Those who know only that key cannot come in, and nobody else is worse off.
    read.inspect_err(
        |why| warn!(path = %path.display(), why, "cannot read the pin of the key before"),
    )
    .ok()
}

fn old_of(dir: &Path) -> PathBuf {
    dir.join("server.pin.old")
}

/// What secrets are derived from: the first key that this server had.
pub(super) fn root(dir: &Path, identity: &Identity) -> anyhow::Result<Identity> {
    let path = root_of(dir);
    if !path.exists() {
        return Ok(identity.clone());
    }
    Identity::load(&path).context("reading the key that the server's secrets are derived from")
}

fn next_of(dir: &Path) -> PathBuf {
    dir.join("server.key.next")
}

fn root_of(dir: &Path) -> PathBuf {
    dir.join("server.root")
}

/// `wormkeyd server rotate-key`, and with `--finish`: what was done, line by line.
pub(crate) fn rotate(dir: &Path, finish: bool) -> anyhow::Result<Vec<String>> {
    become_owner(dir, "rotate-key")?;
    let key = dir.join("server.key");
    let now = Identity::load(&key).context(
        "rotating the server's identity key (one that systemd hands over is changed where it is kept)",
    )?;
    if finish {
        turn_over(dir, &key, now.pin())
    } else {
        begin(dir, &now)
    }
}

fn begin(dir: &Path, now: &Identity) -> anyhow::Result<Vec<String>> {
    let path = next_of(dir);
    let (next, made) = Identity::load_or_create(&path).context("making the next key")?;
    let what = if made { "made" } else { "there already:" };
    Ok(vec![
        format!("{what} {}, {}", path.display(), next.pin()),
        format!("clients know the server by {} until then", now.pin()),
        "now: systemctl restart wormkeyd-server. Each client learns of it when it links again"
            .to_owned(),
        "once all have been there, and the server is stopped: wormkeyd server rotate-key --finish"
            .to_owned(),
    ])
}

fn turn_over(dir: &Path, key: &Path, now: Pin) -> anyhow::Result<Vec<String>> {
    let _lock = StateLock::acquire(dir, "server")?;
    let (path, root) = (next_of(dir), root_of(dir));
    if !path.exists() {
        bail!("there is no next key; first: wormkeyd server rotate-key");
    }
    let next = Identity::load(&path).context("reading the next key")?;
    // A crash between these leaves a server with its old key, and the same again goes on.
    if !root.exists() {
        fs::hard_link(key, &root).with_context(|| format!("making {}", root.display()))?;
    }
    let old = old_of(dir);
    // On disk before the rename: clients that ask by the old pin depend on it.
    File::create(&old)
        .and_then(|mut file| {
            file.write_all(format!("{now}\n").as_bytes())?;
            file.sync_all()
        })
        .with_context(|| format!("writing {}", old.display()))?;
    fs::rename(&path, key).with_context(|| format!("putting the next key at {}", key.display()))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("writing {}", dir.display()))?;
    Ok(vec![
        format!("the server's key is {} from its next start on", next.pin()),
        format!(
            "keep copies of {} and {} apart: no backup has them",
            key.display(),
            root.display()
        ),
        "a client that has not linked since the next key was made has to join again".to_owned(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_changed_in_two_steps_and_what_is_derived_stays() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("server.key");
        assert!(rotate(dir.path(), false).is_err(), "there is none yet");
        let (first, _) = Identity::load_or_create(&key).unwrap();
        let secret = root(dir.path(), &first).unwrap().derive("x");
        assert_eq!(pins(dir.path(), first.pin()).unwrap(), [first.pin()]);
        let early = rotate(dir.path(), true).unwrap_err().to_string();
        assert!(early.contains("no next key"), "{early}");
        for round in 0..2 {
            let before = Identity::load(&key).unwrap().pin();
            rotate(dir.path(), false).unwrap();
            let announced = pins(dir.path(), before).unwrap();
            assert_eq!((announced.len(), announced[0]), (2, before));
            // The same again makes no other.
            rotate(dir.path(), false).unwrap();
            assert_eq!(pins(dir.path(), before).unwrap(), announced);
            rotate(dir.path(), true).unwrap();
            let after = Identity::load(&key).unwrap();
            assert_eq!(after.pin(), announced[1], "round {round}");
            assert_eq!(old(dir.path()), Some(before));
            assert_eq!(pins(dir.path(), after.pin()).unwrap(), [after.pin()]);
            assert_eq!(root(dir.path(), &after).unwrap().derive("x"), secret);
        }
    }

    #[test]
    fn a_server_that_runs_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(&dir.path().join("server.key")).unwrap();
        rotate(dir.path(), false).unwrap();
        let _runs = StateLock::acquire(dir.path(), "server").unwrap();
        let refused = rotate(dir.path(), true).unwrap_err().to_string();
        assert!(refused.contains("lock held by pid"), "{refused}");
    }

    #[test]
    fn a_next_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let next = dir.path().join("server.key.next");
        let (made, _) = Identity::load_or_create(&next).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(pins(dir.path(), made.pin()).is_err());
    }
}
