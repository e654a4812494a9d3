//! A certificate whose files only root may read, such as certbot's: systemd hands them to the unit as credentials,
//! by a drop-in that a set-up writes. Files that the daemon may read itself are left to it, since it swaps those
//! live.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, User};

use super::ServerWish;

/// Whom the unit runs as.
const ACCOUNT: &str = "wormkey";
/// What hands them over.
pub(super) const DROP_IN: &str = "/etc/systemd/system/wormkeyd-server.service.d/certificate.conf";
/// Where the daemon finds them then.
const CREDENTIALS: &str = "/run/credentials/wormkeyd-server.service";

/// The certificate's file and its key's, as they are handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handed {
    cert: PathBuf,
    key: PathBuf,
}

impl Handed {
    /// What the wish names, when the unit's account may not read it.
    pub(super) fn of(wish: &ServerWish) -> Option<Self> {
        let (cert, key) = wish.cert.clone().zip(wish.key.clone())?;
        let account = Account::named(ACCOUNT)?;
        // A file that is not there is not root's: the start tells of it by its name.
        let kept = |path: &Path| path.exists() && !account.may_read(path);
        let needed = (kept(&cert) || kept(&key)) && cert.is_absolute() && key.is_absolute();
        needed.then_some(Self { cert, key })
    }

    /// The wish as the daemon's configuration has it.
    pub(super) fn wish(&self, wish: &ServerWish) -> ServerWish {
        let below = |name| Some(Path::new(CREDENTIALS).join(name));
        ServerWish {
            cert: below("fullchain.pem"),
            key: below("privkey.pem"),
            ..wish.clone()
        }
    }

    /// The drop-in.
    pub(super) fn text(&self) -> String {
        let (cert, key) = (self.cert.display(), self.key.display());
        format!(
            "\
# Written by wormkeyd setup server: only root may read these files, so systemd hands them over.
# It reads them when the server starts. After a renewal (certbot: --deploy-hook):
#   systemctl restart wormkeyd-server
[Service]
LoadCredential=fullchain.pem:{cert}
LoadCredential=privkey.pem:{key}
"
        )
    }
}

/// Somebody, as far as files are concerned.
struct Account {
    uid: u32,
    groups: Vec<u32>,
}

impl Account {
    fn named(name: &str) -> Option<Self> {
        let user = User::from_name(name).ok().flatten()?;
        let name = std::ffi::CString::new(user.name).ok()?;
        let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or(vec![user.gid]);
        Some(Self {
            uid: user.uid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        })
    }

    /// Whether it may read a file, which it must be able to reach as well.
    fn may_read(&self, path: &Path) -> bool {
        const READ: u32 = 0o4;
        const ENTER: u32 = 0o1;
        let Ok(path) = path.canonicalize() else {
            return false;
        };
        let may = |path: &Path, right| path.metadata().is_ok_and(|found| self.has(&found, right));
        may(&path, READ) && path.ancestors().skip(1).all(|above| may(above, ENTER))
    }

    fn has(&self, found: &Metadata, right: u32) -> bool {
        let shift = if found.uid() == self.uid {
            6
        } else if self.groups.contains(&found.gid()) {
            3
        } else {
            0
        };
        (found.mode() >> shift) & right == right
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_readable_by_whom_it_and_its_folders_let() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("live"), dir.path().join("live/privkey.pem"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, "key").unwrap();
        let of = |path: &Path, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path, mode).unwrap();
        };
        of(dir.path(), 0o755);
        let found = file.metadata().unwrap();
        let owner = Account {
            uid: found.uid(),
            groups: vec![],
        };
        let member = Account {
            uid: found.uid() + 1,
            groups: vec![found.gid()],
        };
        let stranger = Account {
            uid: found.uid() + 1,
            groups: vec![found.gid() + 1],
        };
        for (folder_mode, file_mode, expected) in [
            (0o755, 0o644, [true, true, true]),
            (0o755, 0o640, [true, true, false]),
            (0o755, 0o600, [true, false, false]),
            (0o750, 0o644, [true, true, false]),
            (0o700, 0o644, [true, false, false]),
            // The owner's own bits count for the owner.
            (0o755, 0o044, [false, true, true]),
        ] {
            of(&folder, folder_mode);
            of(&file, file_mode);
            let seen = [&owner, &member, &stranger].map(|one| one.may_read(&file));
            assert_eq!(seen, expected, "{folder_mode:o} {file_mode:o}");
        }
        of(&folder, 0o755);
    }

    #[test]
    fn what_is_handed_over_is_named_where_it_will_be() {
        let handed = Handed {
            cert: "/etc/letsencrypt/live/t.example/fullchain.pem".into(),
            key: "/etc/letsencrypt/live/t.example/privkey.pem".into(),
        };
        let text = handed.text();
        let line = "\nLoadCredential=privkey.pem:/etc/letsencrypt/live/t.example/privkey.pem\n";
        assert!(text.contains(line), "{text}");
    }
}
