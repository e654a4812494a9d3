//! Secrets that have to be known again, such as those that sign webhooks, are sealed before they reach the
//! disk: a database and a backup of it tell nobody what they are. The key stands beside the database and never
//! in it: the server's comes from its identity key, the client's has a file of its own, made on first use.
//!
//! AES-256-GCM with a random nonce, bound to the tunnel the secret belongs to.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use data_encoding::BASE64URL_NOPAD;
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};

use super::open::sync_dir;
use crate::engine::policy::Policy;
use crate::names::TunnelId;

/// Before what is sealed.
const MARK: &str = "sealed:1:";

const NONCE: usize = 12;

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error("the key that seals secrets is not there")]
    NoKey,
    #[error("they were sealed with another key")]
    WrongKey,
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the system gave no random numbers")]
    Random,
}

/// What seals; clones share the key.
#[derive(Debug, Clone, Default)]
pub(super) struct Seal(Arc<Keeper>);

#[derive(Debug, Default)]
struct Keeper {
    key: OnceLock<RandomizedNonceKey>,
    /// Where the key stands, or will.
    file: Option<PathBuf>,
}

impl Seal {
    /// With a key that may come later.
    pub(super) fn with(key: Option<&[u8; 32]>) -> Self {
        let seal = Self::default();
        if let Some(key) = key {
            seal.set(key);
        }
        seal
    }

    /// With the key in a file, made when the first secret is sealed.
    pub(super) fn in_file(path: PathBuf) -> Self {
        Self(Arc::new(Keeper {
            key: OnceLock::new(),
            file: Some(path),
        }))
    }

    /// Gives the key; the first one stays.
    pub(super) fn set(&self, key: &[u8; 32]) {
        self.0.key.get_or_init(|| made(key));
    }

    /// A policy as it stands in a column.
    pub(super) fn text(&self, tunnel: TunnelId, policy: &Policy) -> Result<String> {
        let text = policy.to_kept_text(|secret| self.close(tunnel, secret));
        text.map_err(|err| Error::ToSqlConversionFailure(Box::new(err)))
    }

    /// The policy in a row's column.
    pub(super) fn policy(&self, tunnel: TunnelId, row: &Row<'_>) -> Result<Policy> {
        let text: String = row.get("policy")?;
        let mut cause = None;
        let policy = Policy::parse_kept(&text, |sealed| match self.open(tunnel, sealed) {
            Ok(secret) => Some(secret),
            Err(err) => {
                cause = Some(err);
                None
            }
        });
        match (policy, cause) {
            (Ok(policy), _) => Ok(policy),
            (Err(_), Some(err)) => {
                let index = row.as_ref().column_index("policy").unwrap_or(usize::MAX);
                let err = Box::new(err);
                Err(Error::FromSqlConversionFailure(index, Type::Text, err))
            }
            (Err(_), None) => Err(super::columns::bad(row, "policy", &text)),
        }
    }

    fn close(&self, tunnel: TunnelId, secret: &str) -> std::result::Result<String, SealError> {
        let mut bytes = secret.as_bytes().to_vec();
        let nonce = self
            .key(true)?
            .seal_in_place_append_tag(bound_to(tunnel), &mut bytes)
            .map_err(|_| SealError::Random)?;
        let sealed = [nonce.as_ref(), &bytes[..]].concat();
        Ok(format!("{MARK}{}", BASE64URL_NOPAD.encode(&sealed)))
    }

    fn open(&self, tunnel: TunnelId, text: &str) -> std::result::Result<String, SealError> {
        // What an earlier release wrote, which sealed nothing; it is sealed when it is written again.
        let Some(sealed) = text.strip_prefix(MARK) else {
            return Ok(text.to_owned());
        };
        let mut sealed = BASE64URL_NOPAD
            .decode(sealed.as_bytes())
            .map_err(|_| SealError::WrongKey)?;
        let (nonce, secret) = sealed
            .split_at_mut_checked(NONCE)
            .ok_or(SealError::WrongKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::WrongKey)?;
        let secret = self
            .key(false)?
            .open_in_place(nonce, bound_to(tunnel), secret)
            .map_err(|_| SealError::WrongKey)?;
        String::from_utf8(secret.to_vec()).map_err(|_| SealError::WrongKey)
    }

    fn key(&self, make: bool) -> std::result::Result<&RandomizedNonceKey, SealError> {
        if let Some(key) = self.0.key.get() {
            return Ok(key);
        }
        let path = self.0.file.as_deref().ok_or(SealError::NoKey)?;
        let file = |source| SealError::File {
            path: path.to_owned(),
            source,
        };
        let bytes = match read(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound && make => {
                let mut bytes = [0; 32];
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::Random)?;
                write_new(path, &bytes).map_err(file)?;
                bytes
            }
            read => read.map_err(file)?,
        };
        Ok(self.0.key.get_or_init(|| made(&bytes)))
    }
}

fn made(key: &[u8; 32]) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, key).expect("32 bytes are a key of AES-256")
}

/// A secret that was moved to another row is none.
fn bound_to(tunnel: TunnelId) -> Aad<Vec<u8>> {
    Aad::from([b"wormkey webhook secret\0", &tunnel.to_bytes()[..]].concat())
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(33)
        .read_to_end(&mut bytes)?;
    bytes
        .try_into()
        .map_err(|_| io::Error::other("it is no key; a key has 32 bytes"))
}

/// On the disk before anything is sealed with it; never in the place of another.
fn write_new(path: &Path, key: &[u8; 32]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    // Its mode is 0600 from the start.
    let mut file = tempfile::Builder::new().prefix(".seal-").tempfile_in(dir)?;
    file.write_all(key)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_dir(dir).map_err(io::Error::other)
}
