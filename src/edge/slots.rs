//! Places of connections: so many in all, and of them a share for one source, so that no host takes the
//! doors from everybody. A proxy that speaks for many is no source; whom it introduces is.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::front::Front;
use crate::http::limits::SOURCE_PART;

/// All places for connections.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    max: usize,
    of: Mutex<HashMap<IpAddr, usize>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    _permit: OwnedSemaphorePermit,
    /// Whom it counts for.
    source: Option<IpAddr>,
}

impl Slots {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(max)),
            max,
            of: Mutex::default(),
        })
    }

    /// The most at once.
    pub(super) const fn max(&self) -> usize {
        self.max
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.max - self.free.available_permits()
    }

    /// A place for a connection from there. None when all are taken, or the source has its share.
    pub(super) fn enter(self: &Arc<Self>, front: &Front, peer: SocketAddr) -> Option<Slot> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let mut slot = Slot {
            slots: Arc::clone(self),
            _permit: permit,
            source: None,
        };
        // It counts as soon as it is known whose connection it is.
        let is_counted = front.introduces(peer.ip()) || slot.count_for(front, peer.ip());
        is_counted.then_some(slot)
    }

    fn of(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// A load balancer says who connects. Whether that one may have the place.
    pub(super) fn introduce(&mut self, front: &Front, peer: SocketAddr) -> bool {
        self.source.is_some() || self.count_for(front, peer.ip())
    }

    fn count_for(&mut self, front: &Front, ip: IpAddr) -> bool {
        // What comes from this machine is a proxy of the operator's, or the operator.
        if front.trusts(ip) || ip.to_canonical().is_loopback() {
            return true;
        }
        let source = host_of(ip);
        let mut of = self.slots.of();
        let own = of.entry(source).or_default();
        if *own >= (self.slots.max / SOURCE_PART).max(1) {
            return false;
        }
        *own += 1;
        self.source = Some(source);
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut of = self.slots.of();
        if let Some(own) = of.get_mut(&source) {
            *own -= 1;
            if *own == 0 {
                of.remove(&source);
            }
        }
    }
}

/// What may be one host: an IPv4 address, or the 64 bits of IPv6 that everyone has.
fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    #[test]
    fn one_host_took_the_places_of_all_others() {
        let (slots, front) = (Slots::new(32), Front::default());
        let enter = |ip: &str| slots.enter(&front, at(ip));
        let mut held: Vec<_> = (0..4).map_while(|_| enter("192.0.2.1")).collect();
        held.extend((1..5).map_while(|n| enter(&format!("2001:db8::{n}"))));
        assert_eq!((held.len(), slots.taken()), (8, 8));
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("::ffff:192.0.2.1").is_none());
        assert!(enter("2001:db8::9").is_none());
        assert_eq!(slots.taken(), 8, "what is refused keeps nothing");
        held.extend(enter("192.0.2.2"));
        held.extend(enter("2001:db8:0:1::1"));
        held.remove(0);
        held.extend(enter("192.0.2.1"));
        assert_eq!(held.len(), 10);
        held.clear();
        assert!(slots.of().is_empty() && slots.taken() == 0);
    }

    #[test]
    fn proxies_speak_for_many_and_whom_they_introduce_counts() {
        let slots = Slots::new(16);
        let front = Front {
            proxy_protocol_from: vec!["10.1.0.0/16".parse().unwrap()],
            trusted_proxies: vec!["10.2.0.0/16".parse().unwrap()],
        };
        let enter = |ip: &str| slots.enter(&front, at(ip)).unwrap();
        let mut held: Vec<_> = (0..3).map(|_| enter("10.2.0.1")).collect();
        held.extend((0..3).map(|_| enter("127.0.0.1")));
        assert!(slots.of().is_empty());
        let mut introduced: Vec<_> = (0..3).map(|_| enter("10.1.0.1")).collect();
        assert!(introduced[0].introduce(&front, at("192.0.2.1")));
        assert!(introduced[1].introduce(&front, at("192.0.2.1")));
        assert!(!introduced[2].introduce(&front, at("192.0.2.1")));
        assert!(introduced[2].introduce(&front, at("10.2.0.9")));
        assert_eq!(slots.of().values().sum::<usize>(), 2);
    }
}
