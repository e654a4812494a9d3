//! Webhook signatures: looked at when a visit was let in and before a byte of it goes on. A request that was
//! delivered is not taken again for as long as its signature would hold. Not what a signature is: that is
//! [`Claims`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, StatusCode};

use super::EdgeSettings;
use super::respond::Failure;
use super::sent::{Room, Sent};
use crate::engine::policy::{Claims, Part, Policy, Proof, Unsigned};
use crate::engine::{Refusal, Route};
use crate::names::TunnelId;
use crate::times::{Clock, WallTime};

/// Deliveries of one tunnel that are remembered; more in ten minutes, and the oldest is forgotten.
const DELIVERIES: usize = 4096;

/// Tunnels that are remembered before those whose deliveries are all too old are looked for.
const TIDY_AT: usize = 256;

/// What looks at signatures. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Signatures {
    seen: Arc<Mutex<Seen>>,
    room: Room,
}

#[derive(Default)]
struct Seen {
    of: HashMap<TunnelId, Deliveries>,
    tidy_at: usize,
}

/// What one tunnel was sent.
#[derive(Default)]
struct Deliveries {
    macs: HashSet<[u8; 32]>,
    /// In the order they came; one that was taken back may still stand here.
    order: VecDeque<(WallTime, [u8; 32])>,
}

impl Deliveries {
    fn tidy(&mut self, now: WallTime) {
        while let Some((until, mac)) = self.order.front() {
            if *until >= now && self.order.len() <= DELIVERIES {
                break;
            }
            self.macs.remove(mac);
            self.order.pop_front();
        }
    }
}

/// A request that was found signed and is on its way. Dropped, it is as if it had never come: who sent it
/// may try again.
pub(super) struct Delivery {
    of: Option<(Signatures, TunnelId, [u8; 32])>,
}

impl Delivery {
    /// The origin has answered. What it could not take now may come again.
    pub(super) fn answered(mut self, status: StatusCode) {
        if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
            self.of = None;
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some((signatures, tunnel, mac)) = self.of.take()
            && let Some(deliveries) = signatures.seen().of.get_mut(&tunnel)
        {
            deliveries.macs.remove(&mac);
        }
    }
}

impl Signatures {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out whether a request is signed as its tunnel asks, and has not been delivered already. The body
    /// is in memory then.
    pub(super) async fn look(
        &self,
        route: &Route,
        fields: &HeaderMap,
        (mut body, settings): (Option<&mut Sent>, &EdgeSettings),
    ) -> Result<Delivery, Failure> {
        let refuse = |why| {
            let tunnel = route.slug.clone();
            Failure::Refused(Refusal::Unsigned { tunnel, why })
        };
        let webhooks = route.policy.webhooks();
        let claims = Claims::read(webhooks, fields, Clock.now().wall).map_err(refuse)?;
        if let Some(body) = &mut body {
            let lodging = self.room.lodging(route, settings);
            body.keep(settings.signed_body, lodging).await?;
        }
        let bytes = body.as_deref().map_or(&[][..], Sent::kept);
        let proof = claims.prove(bytes).map_err(refuse)?;
        let delivery = self.deliver(route.tunnel, proof, Clock.now().wall);
        delivery.ok_or_else(|| refuse(Unsigned::Replayed))
    }

    /// None when it was delivered already, or is on its way.
    fn deliver(&self, tunnel: TunnelId, proof: Proof, now: WallTime) -> Option<Delivery> {
        let Some(until) = proof.until else {
            return Some(Delivery { of: None });
        };
        let mut seen = self.seen();
        seen.make_room(now);
        let deliveries = seen.of.entry(tunnel).or_default();
        if !deliveries.macs.insert(proof.mac) {
            return None;
        }
        deliveries.order.push_back((until, proof.mac));
        deliveries.tidy(now);
        drop(seen);
        let of = Some((self.clone(), tunnel, proof.mac));
        Some(Delivery { of })
    }
}

impl Seen {
    fn make_room(&mut self, now: WallTime) {
        if self.of.len() < self.tidy_at.max(TIDY_AT) {
            return;
        }
        self.of.retain(|_, deliveries| {
            deliveries.tidy(now);
            !deliveries.order.is_empty()
        });
        self.tidy_at = self.of.len() * 2;
    }
}

/// What was found of a visit's signature, and by which policy; a visit that is tried twice may meet two.
pub(super) struct Found {
    policy: Arc<Policy>,
    delivery: Option<Delivery>,
}

impl Found {
    pub(super) const fn new(policy: Arc<Policy>, delivery: Option<Delivery>) -> Self {
        Self { policy, delivery }
    }

    /// Whether it says all there is to say under a policy.
    pub(super) fn holds(&self, policy: &Policy) -> bool {
        let shadow = |policy: &Policy| policy.is_shadow(Part::Webhook);
        self.policy.webhooks() == policy.webhooks() && shadow(&self.policy) == shadow(policy)
    }

    /// The origin has answered.
    pub(super) fn answered(self, status: StatusCode) {
        if let Some(delivery) = self.delivery {
            delivery.answered(status);
        }
    }
}

/// Whether a failure is about the signature, so that a shadow only tells of it.
pub(super) const fn is_about_signature(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused(Refusal::Unsigned { .. }) | Failure::SignedTooLarge | Failure::Overloaded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: WallTime = WallTime::from_millis(1_700_000_000_000);

    fn tunnel(n: u8) -> TunnelId {
        TunnelId::from_bytes([n; 16])
    }

    fn proof(n: usize, until: WallTime) -> Proof {
        let mut mac = [0; 32];
        mac[..8].copy_from_slice(&n.to_be_bytes());
        let until = Some(until);
        Proof { mac, until }
    }

    fn later(secs: u64) -> WallTime {
        START.plus(std::time::Duration::from_secs(secs))
    }

    #[test]
    fn what_was_delivered_is_not_taken_again_while_its_signature_holds() {
        let signatures = Signatures::default();
        let deliver = |n, now| signatures.deliver(tunnel(1), proof(n, later(300)), now);
        let first = deliver(1, START).unwrap();
        assert!(deliver(1, START).is_none(), "it is on its way");
        assert!(deliver(2, START).is_some());
        assert!(
            signatures
                .deliver(tunnel(2), proof(1, later(300)), START)
                .is_some()
        );
        first.answered(StatusCode::NO_CONTENT);
        assert!(deliver(1, later(300)).is_none());
    }

    #[test]
    fn what_could_not_be_delivered_may_come_again() {
        let signatures = Signatures::default();
        let deliver = || signatures.deliver(tunnel(1), proof(1, later(300)), START);
        drop(deliver().unwrap());
        for status in [500, 502, 503, 429] {
            let status = StatusCode::from_u16(status).unwrap();
            deliver().unwrap().answered(status);
        }
        deliver().unwrap().answered(StatusCode::BAD_REQUEST);
        assert!(deliver().is_none());
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_too_old_leaves_it() {
        let signatures = Signatures::default();
        for n in 0..3 * DELIVERIES {
            let delivery = signatures.deliver(tunnel(1), proof(n, later(300)), START);
            delivery.unwrap().answered(StatusCode::OK);
        }
        let mut seen = signatures.seen();
        let deliveries = &seen.of[&tunnel(1)];
        let sizes = (deliveries.macs.len(), deliveries.order.len());
        assert_eq!(sizes, (DELIVERIES, DELIVERIES));
        for n in 0..TIDY_AT {
            let mut id = [9; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            seen.of.entry(TunnelId::from_bytes(id)).or_default();
        }
        seen.make_room(later(300));
        assert_eq!(seen.of.len(), 1, "only what may still come again");
        seen.tidy_at = 0;
        seen.of
            .extend((2..=255).map(|n| (tunnel(n), Deliveries::default())));
        seen.of.entry(tunnel(0)).or_default();
        seen.make_room(later(301));
        assert!(seen.of.is_empty());
    }

    #[test]
    fn signatures_without_a_time_are_not_remembered() {
        let signatures = Signatures::default();
        let untimed = Proof {
            mac: [7; 32],
            until: None,
        };
        for _ in 0..2 {
            let delivery = signatures.deliver(tunnel(1), untimed, START);
            delivery.unwrap().answered(StatusCode::OK);
        }
        assert!(signatures.seen().of.is_empty());
    }
}
