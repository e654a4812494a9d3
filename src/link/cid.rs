//! Connection ids that carry meaning. Not secrets: they only sort packets, TLS decides who is who.
//!
//! ```text
//! a client's first one := 12 random bytes, 8 bytes HMAC-SHA-256(server's pin, "wormkey link" + random)
//! the server's own     := node byte, 11 random bytes, 4 bytes HMAC-SHA-256(own key, the first 12)
//! ```
//!
//! The first lets links and visitors' HTTP/3 share a UDP port: the server knows before it
//! answers whether to ask for a client certificate. The second lets a restarted server recognise
//! packets of the process before it and answer them with a stateless reset.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::names::Pin;

const CONTEXT: &[u8] = b"wormkey link";
const TAG: usize = 8;
const FIRST_RANDOM: usize = 12;

const OWN_BODY: usize = 12;
const OWN_CHECK: usize = 4;
const OWN: usize = OWN_BODY + OWN_CHECK;

fn fill(random: &mut [u8]) {
    rand::fill(random).expect("the system has random numbers");
}

fn key_of(pin: &Pin) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &pin.0)
}

fn tag(key: &hmac::Key, random: &[u8]) -> [u8; TAG] {
    let mut context = hmac::Context::with_key(key);
    context.update(CONTEXT);
    context.update(random);
    let mut out = [0; TAG];
    out.copy_from_slice(&context.sign().as_ref()[..TAG]);
    out
}

/// A first connection id that says "a link, please" to the server of `pin`.
pub(super) fn first_cid(pin: &Pin) -> ConnectionId {
    let mut bytes = [0; FIRST_RANDOM + TAG];
    fill(&mut bytes[..FIRST_RANDOM]);
    let tag = tag(&key_of(pin), &bytes[..FIRST_RANDOM]);
    bytes[FIRST_RANDOM..].copy_from_slice(&tag);
    ConnectionId::new(&bytes)
}

/// The pins whose tags a server answers to: its own, and while keys rotate the one before or after.
#[derive(Debug)]
pub(super) struct KnownTags(RwLock<Vec<hmac::Key>>);

impl KnownTags {
    pub(super) fn new(pins: &[Pin]) -> Self {
        Self(RwLock::new(pins.iter().map(key_of).collect()))
    }

    pub(super) fn replace(&self, pins: &[Pin]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = pins.iter().map(key_of).collect();
    }

    /// Whether a connection attempt with this first id is for a link.
    pub(super) fn recognise(&self, cid: &ConnectionId) -> bool {
        if cid.len() != FIRST_RANDOM + TAG {
            return false;
        }
        let (random, claimed) = cid.split_at(FIRST_RANDOM);
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|key| verify_slices_are_equal(&tag(key, random), claimed).is_ok())
    }
}

/// Makes and recognises a server's own connection ids.
#[derive(Clone)]
pub(super) struct OwnCids {
    node: u8,
    key: hmac::Key,
}

impl OwnCids {
    pub(super) fn new(node: u8, key: &[u8; 32]) -> Self {
        Self {
            node,
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    fn check(&self, body: &[u8]) -> [u8; OWN_CHECK] {
        let mut out = [0; OWN_CHECK];
        out.copy_from_slice(&hmac::sign(&self.key, body).as_ref()[..OWN_CHECK]);
        out
    }
}

impl ConnectionIdGenerator for OwnCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; OWN];
        bytes[0] = self.node;
        fill(&mut bytes[1..OWN_BODY]);
        let check = self.check(&bytes[..OWN_BODY]);
        bytes[OWN_BODY..].copy_from_slice(&check);
        ConnectionId::new(&bytes)
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let Some((body, claimed)) = cid.split_at_checked(OWN_BODY) else {
            return Err(InvalidCid);
        };
        verify_slices_are_equal(&self.check(body), claimed).map_err(|_| InvalidCid)
    }

    fn cid_len(&self) -> usize {
        OWN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        // They live as long as the connection: a sleeping client could not learn of new ones.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_knows_the_tags_of_its_pins_and_no_others() {
        let (current, next, other) = (Pin([1; 32]), Pin([2; 32]), Pin([3; 32]));
        let known = KnownTags::new(&[current, next]);
        assert!(known.recognise(&first_cid(&current)));
        assert!(known.recognise(&first_cid(&next)));
        assert!(!known.recognise(&first_cid(&other)));
        for short in [&[][..], &[7; 8], &[7; 20]] {
            assert!(!known.recognise(&ConnectionId::new(short)));
        }
        known.replace(&[other]);
        assert!(known.recognise(&first_cid(&other)));
        assert!(!known.recognise(&first_cid(&current)));
    }

    #[test]
    fn own_ids_are_recognised_by_the_same_key_alone() {
        let mut cids = OwnCids::new(7, &[1; 32]);
        let cid = cids.generate_cid();
        assert_eq!((cid.len(), cid[0]), (cids.cid_len(), 7));
        assert_ne!(cid, cids.generate_cid());
        assert!(OwnCids::new(0, &[1; 32]).validate(&cid).is_ok());
        assert!(OwnCids::new(7, &[2; 32]).validate(&cid).is_err());
        for at in 0..cid.len() {
            let mut bytes = cid.to_vec();
            bytes[at] ^= 1;
            assert!(cids.validate(&ConnectionId::new(&bytes)).is_err(), "{at}");
        }
        for short in [&[][..], &[0; 12], &[0; 20]] {
            assert!(cids.validate(&ConnectionId::new(short)).is_err());
        }
    }
}
