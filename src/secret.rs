//! A value that must not reach a log, and the way in for those that systemd hands over. Not encryption: it
//! only keeps `Debug` and `Display` from telling.

pub mod file;
pub mod password;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// A secret has a few kilobytes at most; more is something else.
const CREDENTIAL_MAX: u64 = 64 * 1024;

/// Wraps a secret so that printing it by accident shows `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Takes the value in.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself; each caller is a place where the secret leaves the wrapper on purpose.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The secret that systemd hands to this service under a name (`LoadCredential=`), if it does. Who may
/// read it is systemd's business: its files have modes of their own.
pub fn credential(name: &str) -> io::Result<Option<Secret<Vec<u8>>>> {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(dir) => credential_in(Path::new(&dir), name),
        None => Ok(None),
    }
}

fn credential_in(dir: &Path, name: &str) -> io::Result<Option<Secret<Vec<u8>>>> {
    let file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut secret = Vec::new();
    file.take(CREDENTIAL_MAX + 1).read_to_end(&mut secret)?;
    if secret.is_empty() || secret.len() as u64 > CREDENTIAL_MAX {
        return Err(io::Error::other(format!(
            "the credential {name} is empty or over {CREDENTIAL_MAX} bytes"
        )));
    }
    Ok(Some(Secret::new(secret)))
}

#[cfg(test)]
mod tests {
    use super::{CREDENTIAL_MAX, Secret, credential_in};

    #[test]
    fn a_credential_is_there_or_not_and_never_half() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
        put("key", b"hunter2");
        put("empty", b"");
        put(
            "long",
            &vec![7; usize::try_from(CREDENTIAL_MAX).unwrap() + 1],
        );
        let read = |name: &str| credential_in(dir.path(), name);
        let key = read("key").unwrap().expect("it is there");
        assert_eq!(key.expose(), b"hunter2");
        assert!(read("none").unwrap().is_none());
        assert!(read("empty").is_err() && read("long").is_err());
    }

    #[test]
    fn printing_a_secret_does_not_tell_it() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
        assert_eq!(*secret.expose(), "hunter2");
    }
}
