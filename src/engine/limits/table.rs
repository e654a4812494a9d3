//! Buckets and counters by key, in bounded memory. A busy entry is never thrown out to make room, so nobody
//! gets a fresh bucket by filling the table; who finds it full shares an overflow bucket with others.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};
use std::net::IpAddr;
use std::time::Instant;

use super::Bucket;

/// Shared buckets of a table that is full. One per 64 strangers is coarse, and bounded.
const OVERFLOW: usize = 64;

/// How many old entries a newcomer looks at for one that may be forgotten.
const LOOKS: usize = 8;

/// Who visits, for limits: an IPv4 address, or the /64 of an IPv6 one, because a single machine has all of
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visitor {
    /// An address.
    V4([u8; 4]),
    /// The first half of an address.
    V6([u8; 8]),
}

impl From<IpAddr> for Visitor {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let mut half = [0; 8];
                half.copy_from_slice(&ip.octets()[..8]);
                Self::V6(half)
            }
        }
    }
}

/// What is known of one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// What was taken lately.
    pub bucket: Bucket,
    /// What goes on now.
    pub open: u32,
}

impl Meter {
    /// Whether forgetting it changes nothing.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.open == 0 && self.bucket.is_full(now)
    }
}

/// Where a key is counted; stays true while something of it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat<K> {
    /// In an entry of its own.
    Own(K),
    /// In a shared one.
    Shared(usize),
}

/// Meters by key.
#[derive(Debug)]
pub struct Table<K> {
    most: usize,
    meters: HashMap<K, Meter>,
    /// The keys, in the order in which they are looked at for one that may go.
    ring: VecDeque<K>,
    shared: Vec<Meter>,
}

impl<K: Copy + Eq + Hash> Table<K> {
    /// An empty table for so many keys.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            meters: HashMap::new(),
            ring: VecDeque::new(),
            shared: Vec::new(),
        }
    }

    /// What is known of a key, without taking a place for it.
    pub fn look(&self, key: K) -> Meter {
        match self.meters.get(&key) {
            Some(meter) => *meter,
            None if self.meters.len() < self.most => Meter::default(),
            None => self.shared.get(shard(&key)).copied().unwrap_or_default(),
        }
    }

    /// Makes room, if that hurts nobody; to be called before [`Table::look`], so that a table full of the
    /// past is not taken for a full one.
    pub fn tidy(&mut self, now: Instant, key: K) {
        if self.meters.len() < self.most || self.meters.contains_key(&key) {
            return;
        }
        for _ in 0..LOOKS {
            let Some(old) = self.ring.pop_front() else {
                return;
            };
            match self.meters.get(&old) {
                Some(meter) if !meter.is_idle(now) => self.ring.push_back(old),
                Some(_) => {
                    self.meters.remove(&old);
                    return;
                }
                None => {}
            }
        }
    }

    /// The place where a key is counted from now on.
    pub fn seat(&mut self, key: K) -> Seat<K> {
        if self.meters.contains_key(&key) {
            return Seat::Own(key);
        }
        if self.meters.len() < self.most {
            self.meters.insert(key, Meter::default());
            self.ring.push_back(key);
            return Seat::Own(key);
        }
        if self.shared.is_empty() {
            self.shared = vec![Meter::default(); OVERFLOW];
        }
        Seat::Shared(shard(&key))
    }

    /// The meter of a place; none when it has been forgotten.
    pub fn meter(&mut self, seat: Seat<K>) -> Option<&mut Meter> {
        match seat {
            Seat::Own(key) => self.meters.get_mut(&key),
            Seat::Shared(shard) => self.shared.get_mut(shard),
        }
    }

    /// Forgets what was taken, and nothing that goes on.
    pub fn forget_rates(&mut self) {
        let meters = self.meters.values_mut().chain(&mut self.shared);
        meters.for_each(|meter| meter.bucket = Bucket::default());
    }

    /// How many keys have a place of their own.
    pub fn len(&self) -> usize {
        self.meters.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.meters.is_empty()
    }
}

/// The same for the same key, in every run: nothing here may depend on chance.
fn shard<K: Hash>(key: &K) -> usize {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    usize::try_from(hash % OVERFLOW as u64).expect("it is below 64")
}
