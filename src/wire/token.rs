//! Join tokens: `wkj_` + base64url( CBOR { addresses, pins, secret } + 4 bytes of SHA-256 over it ).
//! The text is shown once and used once; the server stores only SHA-256 of the secret.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64URL_NOPAD;
use minicbor::bytes::ByteArray;

use crate::names::Pin;
use crate::secret::Secret;

const PREFIX: &str = "wkj_";
const CHECK: usize = 4;
/// A token is typed or pasted; nothing longer is one.
const TEXT_MAX: usize = 4096;

/// What a join token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `host:port`, to be tried in order.
    pub addresses: Vec<String>,
    /// The server's keys: current, then next.
    pub pins: Vec<Pin>,
    /// 256 bits.
    pub secret: Secret<[u8; 32]>,
}

/// Why a text is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not start as one.
    #[error("a join token starts with wkj_")]
    Prefix,
    /// Cut, mistyped or of another make.
    #[error("the join token is damaged; copy it whole")]
    Damaged,
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Raw {
    #[n(0)]
    addresses: Vec<String>,
    #[n(1)]
    pins: Vec<ByteArray<32>>,
    #[n(2)]
    secret: ByteArray<32>,
}

impl JoinToken {
    /// The text a person copies.
    pub fn to_text(&self) -> Secret<String> {
        let raw = Raw {
            addresses: self.addresses.clone(),
            pins: self.pins.iter().map(|p| p.0.into()).collect(),
            secret: (*self.secret.expose()).into(),
        };
        // Writing to a Vec cannot fail.
        let mut bytes = minicbor::to_vec(&raw).unwrap_or_default();
        let check = digest(&SHA256, &bytes);
        bytes.extend_from_slice(&check.as_ref()[..CHECK]);
        Secret::new(format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes)))
    }

    /// Reads a token; white space around it is dropped.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if body.len() > TEXT_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| TokenError::Damaged)?;
        let (cbor, check) = bytes
            .len()
            .checked_sub(CHECK)
            .map(|at| bytes.split_at(at))
            .ok_or(TokenError::Damaged)?;
        if digest(&SHA256, cbor).as_ref()[..CHECK] != *check {
            return Err(TokenError::Damaged);
        }
        let raw: Raw = minicbor::decode(cbor).map_err(|_| TokenError::Damaged)?;
        if raw.addresses.is_empty() || raw.pins.is_empty() {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            addresses: raw.addresses,
            pins: raw.pins.into_iter().map(|p| Pin(p.into())).collect(),
            secret: Secret::new(raw.secret.into()),
        })
    }

    /// What the server stores and looks up.
    pub fn secret_hash(secret: &[u8; 32]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, secret).as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_notices_a_typo() {
        let token = JoinToken {
            addresses: vec!["tunnel.example.com:443".into()],
            pins: vec![Pin([7; 32])],
            secret: Secret::new([9; 32]),
        };
        let text = token.to_text();
        let text = text.expose();
        assert!(text.len() < 150, "short enough to be read out: {text}");
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Ok(token));
        assert_eq!(JoinToken::parse("hello"), Err(TokenError::Prefix));
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let typo = String::from_utf8(bytes).unwrap();
            assert_eq!(
                JoinToken::parse(&typo),
                Err(TokenError::Damaged),
                "typo at {at}"
            );
        }
        assert_eq!(
            JoinToken::parse(&text[..text.len() - 1]),
            Err(TokenError::Damaged)
        );
    }
}
