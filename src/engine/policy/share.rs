//! Share links: made by the owner of a tunnel, good until a time, for so many visitors, for some methods and
//! paths. A link never widens what the tunnel allows: it stands for credentials and for nothing else.
//!
//! The token in a link and the proof in a visitor's cookie are the share's id, the end of its time and an
//! HMAC-SHA-256 over both, the tunnel and what the share is for. Pure: the key is handed in.

use ::http::Method;
use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;

use super::PathPattern;
use crate::names::{DeviceId, ShareId, TunnelId};
use crate::times::WallTime;

/// Where on a tunnel's host share links lead; the token follows.
pub const PATH: &str = "/.wormkey/share/";

/// The most visitors of one link.
pub const USES_MAX: u32 = 100_000;

/// The most methods, and the most paths, of one link.
pub const RESTRICTIONS_MAX: usize = 16;

/// A share link's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRow {
    /// Id.
    pub id: ShareId,
    /// The tunnel it lets into.
    pub tunnel: TunnelId,
    /// Whose it is.
    pub device: DeviceId,
    /// The only methods it is for; empty: all that the tunnel allows.
    pub methods: Vec<Method>,
    /// The only paths it is for; empty: all that the tunnel allows.
    pub paths: Vec<PathPattern>,
    /// How many visitors may still open it; None = any number.
    pub uses_left: Option<u32>,
    /// When it was made.
    pub created_at: WallTime,
    /// When it stops working.
    pub expires_at: WallTime,
    /// When it was withdrawn.
    pub revoked_at: Option<WallTime>,
}

impl ShareRow {
    /// Whether it works no more for those who are in.
    pub fn is_over(&self, now: WallTime) -> bool {
        self.revoked_at.is_some() || self.expires_at <= now
    }

    /// Whether one more visitor may come in.
    pub fn has_room(&self, now: WallTime) -> bool {
        !self.is_over(now) && self.uses_left != Some(0)
    }
}

/// What a token is good for; one is never taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// In a link: to come in, which uses it up.
    Link,
    /// In a cookie: to stay in.
    Cookie,
}

/// Makes the token of a share.
pub fn token(key: &[u8; 32], purpose: Purpose, row: &ShareRow) -> String {
    let mac = hmac::sign(&hmac_key(key), &message(purpose, row));
    let mut bytes = row.id.to_bytes().to_vec();
    bytes.extend_from_slice(mac.as_ref());
    BASE64URL_NOPAD.encode(&bytes)
}

/// The share that a token says it is of; it proves nothing yet.
pub fn claimed(token: &str) -> Option<ShareId> {
    let (id, _) = split(token)?;
    Some(ShareId::from_bytes(id))
}

/// Whether a token is really of this share, and for this purpose.
pub fn proves(key: &[u8; 32], purpose: Purpose, row: &ShareRow, token: &str) -> bool {
    let Some((id, mac)) = split(token) else {
        return false;
    };
    id == row.id.to_bytes() && hmac::verify(&hmac_key(key), &message(purpose, row), &mac).is_ok()
}

fn hmac_key(key: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

fn split(token: &str) -> Option<([u8; 16], [u8; 32])> {
    // 48 bytes are 64 letters; what is longer is not worth decoding.
    let bytes = BASE64URL_NOPAD
        .decode(Some(token).filter(|t| t.len() == 64)?.as_bytes())
        .ok()?;
    let (id, mac) = bytes.split_at_checked(16)?;
    Some((id.try_into().ok()?, mac.try_into().ok()?))
}

/// What is signed: every part with its length or count before it, so that no two shares have the same.
fn message(purpose: Purpose, row: &ShareRow) -> Vec<u8> {
    let mut out = match purpose {
        Purpose::Link => b"wormkey share link\0".to_vec(),
        Purpose::Cookie => b"wormkey share cookie\0".to_vec(),
    };
    out.extend_from_slice(&row.tunnel.to_bytes());
    out.extend_from_slice(&row.id.to_bytes());
    out.extend_from_slice(&row.expires_at.as_millis().to_be_bytes());
    let methods = row.methods.iter().map(Method::as_str);
    let paths = row.paths.iter().map(PathPattern::as_str);
    for list in [methods.collect::<Vec<_>>(), paths.collect()] {
        out.extend_from_slice(&(list.len() as u64).to_be_bytes());
        for text in list {
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}
