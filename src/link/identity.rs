//! A daemon's long-lived key: the file it lives in, its self-signed certificate, its pin, and the
//! secrets derived from it. Not trust: whom to believe is decided by pins and by the store.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::tls;
use crate::names::Pin;
use crate::secret::Secret;

/// A key file has a few hundred bytes; more is something else.
const FILE_MAX: u64 = 16 * 1024;

/// A long-lived key with a self-signed certificate. The other end knows it by its [`pin`](Self::pin).
#[derive(Clone)]
pub struct Identity {
    /// PKCS#8, exactly as in the file: derived secrets hang on these bytes.
    key: Secret<Vec<u8>>,
    /// Made anew at each start; nobody looks at more of it than its key.
    certificate: CertificateDer<'static>,
    pin: Pin,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No such file.
    #[error("there is no key at {}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file or its directory cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A symlink could lead anywhere, so it is not followed.
    #[error("{} is a symlink; put the key file itself there", path.display())]
    Symlink {
        /// Where it is.
        path: PathBuf,
    },
    /// A directory, a pipe or a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Where it is.
        path: PathBuf,
    },
    /// Others on this machine can read or write it.
    #[error("others can use the key {0} (mode {mode:03o}); run: chmod 600 {0}", path.display())]
    Exposed {
        /// Where it is.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What it holds is no Ed25519 or P-256 private key.
    #[error(
        "{} holds no Ed25519 or P-256 private key in PKCS#8 PEM; restore it from a backup, or move it away for a new identity",
        path.display()
    )]
    Garbage {
        /// Where it is.
        path: PathBuf,
    },
    /// A new key could not be written.
    #[error("cannot write the key {}", path.display())]
    Write {
        /// Where it should go.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The cryptographic library failed.
    #[error("cannot make a key or its certificate")]
    Make(#[source] rcgen::Error),
}

impl Identity {
    /// Loads the key at `path`, or makes one there; `true` when it was made now. A file that is
    /// there but no good is an error, never replaced: clients would no longer know the server.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Missing { .. }) => {}
            other => return other.map(|identity| (identity, false)),
        }
        let key =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(IdentityError::Make)?;
        match write_new(path, key.serialize_pem().as_bytes()) {
            Ok(()) => Self::from_key(&key).map(|identity| (identity, true)),
            // Somebody else made one in between: theirs it is.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path).map(|identity| (identity, false))
            }
            Err(source) => Err(IdentityError::Write {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Loads the key at `path`.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read_private(path)?, path)
    }

    /// The key that somebody else has read; `path` is where it comes from, for errors.
    pub fn from_pem(pem: &Secret<Vec<u8>>, path: &Path) -> Result<Self, IdentityError> {
        let garbage = || IdentityError::Garbage {
            path: path.to_owned(),
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose()).map_err(|_| garbage())?;
        let key = rcgen::KeyPair::try_from(&der).map_err(|_| garbage())?;
        let usable = key.is_compatible(&rcgen::PKCS_ED25519)
            || key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256);
        if !usable {
            return Err(garbage());
        }
        let mut identity = Self::from_key(&key)?;
        identity.key = Secret::new(der.secret_pkcs8_der().to_vec());
        Ok(identity)
    }

    /// A key that lives only as long as the process, for tests and throw-away servers.
    pub fn ephemeral() -> Result<Self, IdentityError> {
        let key =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(IdentityError::Make)?;
        Self::from_key(&key)
    }

    fn from_key(key: &rcgen::KeyPair) -> Result<Self, IdentityError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "wormkey");
        let certificate = params
            .self_signed(key)
            .map_err(IdentityError::Make)?
            .der()
            .clone();
        let pin = tls::pin_of(&certificate)
            .map_err(|_| IdentityError::Make(rcgen::Error::CouldNotParseCertificate))?;
        Ok(Self {
            key: Secret::new(key.serialize_der()),
            certificate,
            pin,
        })
    }

    /// SHA-256 of the public key (SPKI): what the other end knows.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// A secret that depends on the key and `label` alone, so it lasts as long as the key file:
    /// the stateless-reset, connection-id and address-token keys must outlive a restart.
    pub fn derive(&self, label: &str) -> [u8; 32] {
        let mut out = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"wormkey identity")
            .extract(self.key.expose())
            .expand(&[label.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within what HKDF-SHA256 gives");
        out
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.expose().clone()).into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// Reads a file that only its owner may read; never waits (a pipe) and never follows a symlink.
fn read_private(path: &Path) -> Result<Secret<Vec<u8>>, IdentityError> {
    let owned = || path.to_owned();
    let read = |source| IdentityError::Read {
        path: owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT) => IdentityError::Missing { path: owned() },
            Some(libc::ELOOP) => IdentityError::Symlink { path: owned() },
            _ => read(source),
        })?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(IdentityError::NotAFile { path: owned() });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            path: owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(read)?;
    Ok(Secret::new(bytes))
}

/// Writes a new file that appears whole, on disk, or not at all; an existing one stays.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // tempfile makes it 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.key");
        (dir, path)
    }

    #[test]
    fn a_key_is_made_once_and_stays_the_same() {
        let (dir, path) = place();
        let (made, created) = Identity::load_or_create(&path).unwrap();
        assert!(created);
        let (again, created) = Identity::load_or_create(&path).unwrap();
        assert!(!created);
        assert_eq!(made.pin(), again.pin());
        assert_eq!(made.derive("a"), again.derive("a"));
        assert_ne!(made.derive("a"), made.derive("b"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // Nothing but the key is left behind.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_pin_is_the_sha256_of_the_spki() {
        let (_dir, path) = place();
        let (made, _) = Identity::load_or_create(&path).unwrap();
        let key = rcgen::KeyPair::from_pem(&fs::read_to_string(&path).unwrap()).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
        assert_eq!(made.pin().0, hash.as_ref());
    }

    #[test]
    fn a_p256_key_made_elsewhere_will_do_and_a_p384_key_will_not() {
        let (_dir, path) = place();
        for (algorithm, good) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, true),
            (&rcgen::PKCS_ECDSA_P384_SHA384, false),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            fs::write(&path, key.serialize_pem()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(Identity::load(&path).is_ok(), good);
        }
    }

    #[test]
    fn a_key_that_others_can_use_is_refused() {
        let (_dir, path) = place();
        Identity::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o602, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Exposed { mode: m, .. } if m == mode));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_symlink_a_pipe_and_a_directory_are_refused() {
        let (dir, path) = place();
        let real = dir.path().join("real.key");
        Identity::load_or_create(&real).unwrap();
        symlink(&real, &path).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Symlink { .. }), "{error}");
        fs::remove_file(&path).unwrap();
        // A dangling one too: a key must not appear where it points.
        symlink(dir.path().join("nowhere"), &path).unwrap();
        assert!(Identity::load_or_create(&path).is_err());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::NotAFile { .. }), "{error}");
        let error = Identity::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(error, IdentityError::NotAFile { .. }), "{error}");
    }

    #[test]
    fn garbage_is_refused_and_left_alone() {
        let (_dir, path) = place();
        let (made, _) = Identity::load_or_create(&path).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for text in ["", "hello", &whole[..whole.len() / 2], certificate] {
            fs::write(&path, text).unwrap();
            let error = Identity::load_or_create(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Garbage { .. }), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(Identity::load(&path).unwrap().pin(), made.pin());
    }

    #[test]
    fn a_missing_directory_is_said_so() {
        let (dir, _) = place();
        let error = Identity::load_or_create(&dir.path().join("no/server.key")).unwrap_err();
        assert!(matches!(error, IdentityError::Write { .. }), "{error}");
    }

    #[test]
    fn printing_an_identity_shows_its_pin_alone() {
        let identity = Identity::ephemeral().unwrap();
        let shown = format!("{identity:?}");
        assert_eq!(
            shown,
            format!("Identity {{ pin: {:?}, .. }}", identity.pin())
        );
    }
}
