//! Files of the operator's that hold a secret: a password, a key. One that others on the machine can read is
//! refused, and the way out is said. Not the identity keys: those are ours alone, and judged more strictly.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Group, getegid, geteuid};

/// Others could read it, or change it. A group may read it: that is how root hands a file to a daemon.
const LOOSE: u32 = 0o027;

/// Why a file is not used, inside of an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("others on this machine can use it (mode {mode:04o}); run: {remedy}")]
pub struct Exposed {
    mode: u32,
    remedy: String,
}

impl Exposed {
    fn new(path: &Path, facts: &Metadata) -> Self {
        let path = path.display();
        let remedy = if facts.uid() == geteuid().as_raw() {
            format!("chmod 600 {path}")
        } else {
            // Its owner's alone, it would be of no use to us.
            let group = Group::from_gid(getegid()).ok().flatten();
            let group = group.map_or_else(|| getegid().to_string(), |group| group.name);
            format!("chgrp {group} {path} && chmod 640 {path}")
        };
        Self {
            mode: facts.mode() & 0o7777,
            remedy,
        }
    }
}

/// Opens a file with a secret; the error names the file's mode and the remedy. A pipe is nobody else's, so only what
/// lies in a file system is judged.
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if facts.is_file() && facts.mode() & LOOSE != 0 {
        let exposed = Exposed::new(path, &facts);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, exposed));
    }
    Ok(file)
}

/// The first `most` bytes of a file with a secret, as text.
pub fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether an error is that others can use the file; its text has the remedy then.
pub fn is_exposed(err: &io::Error) -> bool {
    err.get_ref().is_some_and(|inner| inner.is::<Exposed>())
}

/// A file as this module takes it.
#[cfg(test)]
pub(crate) fn write(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("a test may write there");
    let own = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, own).expect("it is the test's");
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_secret_that_others_can_use_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "hunter2").unwrap();
        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o440, true),
            (0o644, false),
            (0o604, false),
            (0o602, false),
            (0o660, false),
            (0o620, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match read(&path, 100) {
                Ok(text) => assert!(good && text == "hunter2", "{mode:o}"),
                Err(err) => {
                    let said = err.to_string();
                    let remedy = format!("(mode 0{mode:o}); run: chmod 600 {}", path.display());
                    assert!(
                        !good && is_exposed(&err) && said.ends_with(&remedy),
                        "{said}"
                    );
                }
            }
        }
        assert!(!is_exposed(&read(&dir.path().join("none"), 1).unwrap_err()));
    }

    #[test]
    fn what_comes_through_a_pipe_has_no_mode_to_judge() {
        use std::io::Write as _;
        use std::os::fd::AsRawFd as _;
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"hunter2").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        assert_eq!(read(&path, 100).unwrap(), "hunter2");
    }
}
