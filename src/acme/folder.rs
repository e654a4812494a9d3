//! What survives a restart: account keys, certificates with their keys, and the waits that CAs have earned.
//! One file each below `acme/` in the state directory, 0600, whole or not at all.

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use instant_acme::AccountCredentials;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::plan::Course;
use super::x509::Facts;

/// Where things are kept.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    dir: PathBuf,
}

/// Why something is not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file or the folder.
    #[error("cannot read or write {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An account file that is none.
    #[error("{} is damaged; remove it, and a new account is made", path.display())]
    Account {
        /// Which.
        path: PathBuf,
    },
    /// A certificate that cannot be used.
    #[error("the certificate in {} cannot be used", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: PairError,
    },
}

/// Why a PEM text is no certificate with its key.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// No certificate in it, or one that cannot be read.
    #[error("no certificate that can be read")]
    NoCertificate,
    /// No key in it.
    #[error("no private key")]
    NoKey,
    /// Not a pair, or of an unknown kind.
    #[error(transparent)]
    Unusable(#[from] rustls::Error),
}

/// A certificate that can be served.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) facts: Facts,
}

impl Pair {
    /// From a chain, leaf first, and its key in one text.
    pub(super) fn from_pem(pem: &str) -> Result<Self, PairError> {
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| PairError::NoCertificate)?;
        let leaf = chain.first().ok_or(PairError::NoCertificate)?;
        let facts = Facts::read(leaf).ok_or(PairError::NoCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| PairError::NoKey)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // Refuses a key that is not the certificate's.
        let key = Arc::new(CertifiedKey::from_der(chain, key, &provider)?);
        Ok(Self { key, facts })
    }
}

/// What is remembered of failures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failures {
    /// Whose CAs these are: others have other waits.
    pub(super) cas: Vec<String>,
    pub(super) course: Course,
    pub(super) last_error: String,
}

impl Folder {
    /// Makes the folder when it is missing.
    pub(super) fn open(state_dir: &Path) -> Result<Self, FolderError> {
        let dir = state_dir.join("acme");
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        made.map_err(|source| FolderError::Io {
            path: dir.clone(),
            source,
        })?;
        Ok(Self { dir })
    }

    /// The account with a CA, when there is one.
    pub(super) fn account(&self, ca: &str) -> Result<Option<AccountCredentials>, FolderError> {
        let path = self.account_path(ca);
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|_| FolderError::Account { path })
    }

    pub(super) fn keep_account(
        &self,
        ca: &str,
        account: &AccountCredentials,
    ) -> Result<(), FolderError> {
        let path = self.account_path(ca);
        let text =
            serde_json::to_vec(account).map_err(|_| FolderError::Account { path: path.clone() })?;
        write(&path, &text)
    }

    /// The CA does not know it any more; it is put aside, not destroyed.
    pub(super) fn put_account_aside(&self, ca: &str) -> Result<(), FolderError> {
        let path = self.account_path(ca);
        let aside = path.with_extension("json.old");
        std::fs::rename(&path, &aside).map_err(|source| FolderError::Io { path, source })
    }

    /// A certificate, when there is one.
    pub(super) fn certificate(&self, id: &str) -> Result<Option<Pair>, FolderError> {
        let path = self.path(id, "pem");
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        Pair::from_pem(&text)
            .map(Some)
            .map_err(|source| FolderError::Certificate { path, source })
    }

    pub(super) fn keep_certificate(&self, id: &str, pem: &str) -> Result<(), FolderError> {
        write(&self.path(id, "pem"), pem.as_bytes())
    }

    /// What an earlier process learnt; a file that cannot be read has nothing to say.
    pub(super) fn failures(&self, id: &str) -> Option<Failures> {
        let text = read(&self.path(id, "failures")).ok()??;
        serde_json::from_str(&text).ok()
    }

    /// None: all is well.
    pub(super) fn keep_failures(
        &self,
        id: &str,
        failures: Option<&Failures>,
    ) -> Result<(), FolderError> {
        let path = self.path(id, "failures");
        match failures.map(serde_json::to_vec) {
            Some(Ok(text)) => write(&path, &text),
            Some(Err(_)) | None => match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(FolderError::Io { path, source })
                }
                _ => Ok(()),
            },
        }
    }

    fn account_path(&self, ca: &str) -> PathBuf {
        // An address has characters that no file name has.
        let hash = digest::digest(&digest::SHA256, ca.as_bytes());
        let name = data_encoding::HEXLOWER.encode(&hash.as_ref()[..8]);
        self.path(&format!("account-{name}"), "json")
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{id}.{extension}"))
    }
}

fn read(path: &Path) -> Result<Option<String>, FolderError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FolderError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A temporary file, 0600 from its first byte, takes the old one's place; on disk when this returns.
fn write(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let written = (|| {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        std::fs::File::open(dir)?.sync_all()
    })();
    written.map_err(|source| FolderError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::acme::testing::pem;
    use crate::times::WallTime;

    #[test]
    fn certificates_are_kept_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.certificate("t.example").unwrap().is_none());
        folder
            .keep_certificate("t.example", &pem(&["t.example"]))
            .unwrap();
        let pair = folder.certificate("t.example").unwrap().unwrap();
        assert_eq!(pair.facts.names, ["t.example"]);
        let file = dir.path().join("acme/t.example.pem");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&dir.path().join("acme")), 0o700);
    }

    #[test]
    fn a_damaged_certificate_is_told_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let two = [pem(&["t.example"]), pem(&["t.example"])];
        let (chain, _) = two[0].split_once("-----BEGIN PRIVATE").unwrap();
        let (_, key) = two[1].split_once("-----BEGIN PRIVATE").unwrap();
        for bad in [
            "",
            "junk",
            chain,
            &format!("{chain}-----BEGIN PRIVATE{key}"),
        ] {
            folder.keep_certificate("a", bad).unwrap();
            assert!(folder.certificate("a").is_err(), "{bad}");
        }
    }

    #[test]
    fn failures_outlive_the_process_until_all_is_well() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let failures = Failures {
            cas: vec!["https://ca.example/".into()],
            course: Course::new(1, WallTime::from_millis(5)),
            last_error: "no".into(),
        };
        folder.keep_failures("a", Some(&failures)).unwrap();
        assert_eq!(folder.failures("a"), Some(failures));
        folder.keep_failures("a", None).unwrap();
        folder.keep_failures("a", None).unwrap();
        assert_eq!(folder.failures("a"), None);
        std::fs::write(dir.path().join("acme/a.failures"), "{").unwrap();
        assert_eq!(folder.failures("a"), None);
    }
}
