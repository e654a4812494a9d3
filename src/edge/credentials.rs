//! What a request says of who sends it, for the engine: credentials with their keyed digest, and the
//! share that its cookie proves. Not the check of a password: that is the role's.

use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use http::HeaderMap;

use crate::engine::Credentials;
use crate::http::{basic, cookies};

/// The cookie of those who opened a share link. Host-only by its name, and never forwarded.
pub(super) const SHARE_COOKIE: &str = "__Host-wormkey-share";

/// Digests credentials. The key is drawn when the process starts and is in no file, so a digest is of no
/// use to who finds it.
pub(super) struct Digester(hmac::Key);

impl Digester {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("the system has random numbers");
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// What `Authorization: Basic` says, if it says it well.
    pub(super) fn credentials(&self, fields: &HeaderMap) -> Option<Credentials> {
        let said = basic::credentials(fields)?;
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(said.user.len() as u64).to_be_bytes());
        context.update(said.user.as_bytes());
        context.update(said.password.expose().as_bytes());
        let tag = context.sign();
        Some(Credentials {
            user: said.user,
            digest: tag
                .as_ref()
                .try_into()
                .expect("an HMAC-SHA-256 is 32 bytes"),
            password: said.password,
            checked: None,
            given_up: false,
        })
    }
}

/// What the share cookie of a request says; to be read before the head is cleaned of what is ours.
pub(super) fn share_proofs(fields: &HeaderMap) -> Vec<String> {
    cookies::values(fields, SHARE_COOKIE)
        .filter(|proof| proof.len() <= 128)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> HeaderMap {
        let value = format!("Basic {}", data_encoding::BASE64.encode(text.as_bytes()));
        HeaderMap::from_iter([(http::header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_digest_is_the_same_for_the_same_and_another_in_another_process() {
        let (one, other) = (Digester::new(), Digester::new());
        let digest = |by: &Digester, text| by.credentials(&fields(text)).unwrap().digest;
        assert_eq!(digest(&one, "bob:a"), digest(&one, "bob:a"));
        assert_ne!(digest(&one, "bob:a"), digest(&one, "bob:b"));
        assert_ne!(digest(&one, "bob:aa"), digest(&one, "boba:a"));
        assert_ne!(digest(&one, "bob:a"), digest(&other, "bob:a"));
    }
}
