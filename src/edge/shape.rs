//! Bandwidth: bytes a second of a tunnel, of each of its visitors, of its device and its user, each way.
//! What goes too fast is not read yet, so that whoever sends it waits; nothing is kept in a queue. Not a
//! counter of visits: that is the engine's.

use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::Pass;
use crate::engine::Bandwidth;
use crate::engine::limits::Visitor;
use crate::names::{DeviceId, TunnelId, UserId};
use crate::times::Clock;

/// What may go at once after a rest.
const BURST: Duration = Duration::from_millis(50);

/// How late datagrams may be: they do not wait, so they are dropped beyond it.
const LATE: Duration = Duration::from_millis(500);

/// Pieces are a tenth of a second's worth, within these: visits that share a rate take turns.
const PIECE: (u64, u64) = (64, 64 * 1024);

/// How long another rate may take to be noticed by who waits.
const LOOK: Duration = Duration::from_millis(500);

/// Lanes that are kept before those that nobody uses are looked for.
const TIDY_AT: usize = 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// Visitor to origin.
    Up,
    /// Origin to visitor.
    Down,
}

/// Whose bytes count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    Tunnel(TunnelId),
    Visitor(TunnelId, Visitor),
    Device(DeviceId),
    User(UserId),
}

/// Bytes that count together, one way.
#[derive(Debug)]
struct Lane {
    rate: NonZeroU64,
    /// When all that went will have been its time's worth.
    paid_at: Mutex<Instant>,
}

impl Lane {
    /// Counts bytes that go now; the time when the next may.
    fn take(&self, now: Instant, bytes: u64) -> Instant {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = (*paid_at).max(now.checked_sub(BURST).unwrap_or(now));
        // Far away, and not for ever: what cannot be told is a rate of less than a byte a year.
        *paid_at = from.checked_add(cost).unwrap_or(from);
        *paid_at
    }

    fn paid_at(&self) -> Instant {
        *self.paid_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the visits of a tunnel may move, told to those that go on when it changes. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Rates(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Counts what was told; 0: nothing was, and what each visit was let in with holds.
    count: AtomicU64,
    latest: Mutex<Option<Bandwidth>>,
}

impl Rates {
    /// Other rates are in force.
    pub fn tell(&self, rates: Bandwidth) {
        *self.latest() = Some(rates);
        self.0.count.fetch_add(1, Ordering::Release);
    }

    fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    fn latest(&self) -> MutexGuard<'_, Option<Bandwidth>> {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All lanes that are in use, or were a moment ago. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Shaper {
    lanes: Arc<Mutex<Lanes>>,
}

#[derive(Debug)]
struct Lanes {
    of: HashMap<(Whose, Way), Arc<Lane>>,
    tidy_at: usize,
}

impl Default for Shaper {
    fn default() -> Self {
        let of = HashMap::new();
        Self {
            lanes: Arc::new(Mutex::new(Lanes {
                of,
                tidy_at: TIDY_AT,
            })),
        }
    }
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl Shaper {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds a visit back, one way.
    pub(super) fn throttle(&self, pass: &Pass, way: Way) -> Throttle {
        let (limits, tunnel) = (pass.route.bandwidth, pass.route.tunnel);
        let mut throttle = Throttle {
            shaper: self.clone(),
            rates: pass.rates.clone(),
            heard: 0,
            of: (tunnel, limits, way),
            lanes: self.lanes_of(tunnel, &limits, way),
            rest: Bytes::new(),
            until: None,
            timer: None,
        };
        throttle.listen();
        throttle
    }

    fn lanes_of(&self, tunnel: TunnelId, limits: &Bandwidth, way: Way) -> Vec<Arc<Lane>> {
        let (device, user) = limits.owner.unzip();
        let of = [
            (limits.tunnel, Some(Whose::Tunnel(tunnel))),
            (limits.visitor, Some(Whose::Visitor(tunnel, limits.from))),
            (limits.device, device.map(Whose::Device)),
            (limits.user, user.map(Whose::User)),
        ];
        let limited = of.into_iter().filter_map(|(rate, whose)| rate.zip(whose));
        limited
            .map(|(rate, whose)| self.lane(rate, whose, way))
            .collect()
    }

    fn lane(&self, rate: NonZeroU64, whose: Whose, way: Way) -> Arc<Lane> {
        let now = now();
        let mut lanes = self.lanes();
        if lanes.of.len() >= lanes.tidy_at {
            // One that still owes is kept: coming again must not be a way to owe nothing.
            lanes
                .of
                .retain(|_, lane| Arc::strong_count(lane) > 1 || lane.paid_at() > now);
            lanes.tidy_at = (lanes.of.len() * 2).max(TIDY_AT);
        }
        let fresh = || Lane {
            rate,
            paid_at: Mutex::new(now.checked_sub(BURST).unwrap_or(now)),
        };
        let lane = lanes.of.entry((whose, way));
        let lane = lane.or_insert_with(|| Arc::new(fresh()));
        // Another rate is in force; who is in hears of it, and comes over.
        if lane.rate != rate {
            *lane = Arc::new(fresh());
        }
        Arc::clone(lane)
    }
}

/// Holds one visit back, one way.
pub(super) struct Throttle {
    shaper: Shaper,
    rates: Rates,
    /// How much of what was told it has heard.
    heard: u64,
    of: (TunnelId, Bandwidth, Way),
    /// None at all: nothing holds it back.
    lanes: Vec<Arc<Lane>>,
    /// What was read and is more than a piece.
    rest: Bytes,
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Throttle {
    /// Hears of rates that are in force by now. What is owed under others is forgotten.
    fn listen(&mut self) {
        let count = self.rates.count();
        if count == self.heard {
            return;
        }
        self.heard = count;
        let (tunnel, limits, way) = &mut self.of;
        if let Some(told) = *self.rates.latest() {
            *limits = Bandwidth {
                from: limits.from,
                owner: limits.owner,
                ..told
            };
        }
        self.lanes = self.shaper.lanes_of(*tunnel, limits, *way);
        self.until = None;
    }

    /// Whether anything holds it back.
    pub(super) fn slows(&mut self) -> bool {
        self.listen();
        !self.lanes.is_empty()
    }

    /// Ready when more may go.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.listen();
            let Some(until) = self.until.filter(|until| now() < *until) else {
                self.until = None;
                return Poll::Ready(());
            };
            // A timer may ring early by its grain, and another rate may be in force meanwhile.
            let look = until.min(now() + LOOK);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(look)));
            if timer.deadline() > look || timer.is_elapsed() {
                timer.as_mut().reset(look);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// The most that goes at once.
    fn piece(&self) -> u64 {
        let slowest = self.lanes.iter().map(|lane| lane.rate.get()).min();
        slowest.map_or(u64::MAX, |rate| (rate / 10).clamp(PIECE.0, PIECE.1))
    }

    /// So many bytes went.
    pub(super) fn took(&mut self, bytes: usize) {
        self.listen();
        if self.lanes.is_empty() {
            return;
        }
        let now = now();
        let times = self.lanes.iter().map(|lane| lane.take(now, bytes as u64));
        self.until = times.max().filter(|until| *until > now);
    }

    /// Takes in what was read; gives as much of it as may go at once, and keeps the rest.
    pub(super) fn first_piece(&mut self, mut bytes: Bytes) -> Bytes {
        let most = usize::try_from(self.piece()).unwrap_or(usize::MAX);
        if bytes.len() > most {
            self.rest = bytes.split_off(most);
        }
        self.took(bytes.len());
        bytes
    }

    /// The next piece of what was read before; none when all of it has gone.
    pub(super) fn next_piece(&mut self) -> Option<Bytes> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| self.first_piece(rest))
    }

    /// Whether all that was read has gone.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether a datagram may go; if it may, it is counted.
    pub(super) fn lets_go(&mut self, bytes: usize) -> bool {
        self.listen();
        let now = now();
        if self.lanes.iter().any(|lane| lane.paid_at() > now + LATE) {
            return false;
        }
        self.took(bytes);
        true
    }
}

/// Waits until more may go.
pub(super) async fn wait(throttle: &mut Throttle) {
    poll_fn(|cx| throttle.poll_ready(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lanes(shaper: &Shaper, rates: &[(u64, Whose)]) -> Throttle {
        let lanes: Vec<_> = rates
            .iter()
            .map(|(rate, whose)| shaper.lane(NonZeroU64::new(*rate).unwrap(), *whose, Way::Down))
            .collect();
        Throttle {
            shaper: shaper.clone(),
            rates: Rates::default(),
            heard: 0,
            of: (
                TunnelId::from_bytes([1; 16]),
                Bandwidth::UNLIMITED,
                Way::Down,
            ),
            lanes,
            rest: Bytes::new(),
            until: None,
            timer: None,
        }
    }

    fn tunnel(n: u8) -> Whose {
        Whose::Tunnel(TunnelId::from_bytes([n; 16]))
    }

    /// What goes in ten seconds when more is always there.
    async fn goes(mut throttle: Throttle) -> u64 {
        let (start, mut bytes) = (now(), 0);
        while now() < start + 10 * SECOND {
            let piece = match throttle.next_piece() {
                Some(piece) => piece,
                None => throttle.first_piece(Bytes::from_static(&[0; 100_000])),
            };
            bytes += piece.len() as u64;
            poll_fn(|cx| throttle.poll_ready(cx)).await;
        }
        bytes
    }

    fn about(bytes: u64, expected: u64) {
        let off = bytes.abs_diff(expected) * 100 / expected;
        assert!(off <= 15, "{bytes} are {off} % off {expected}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_slow_or_fast() {
        for rate in [1_000, 20_000, 1_000_000, 50_000_000] {
            let shaper = Shaper::default();
            about(goes(lanes(&shaper, &[(rate, tunnel(1))])).await, rate * 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_shares_a_rate_shares_it_evenly() {
        let shaper = Shaper::default();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..5 {
            all.spawn(goes(lanes(&shaper, &[(500_000, tunnel(1))])));
        }
        for bytes in all.join_all().await {
            about(bytes, 1_000_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_several_rates_holds_and_other_tunnels_do_not_count() {
        let shaper = Shaper::default();
        let fast = lanes(&shaper, &[(1_000_000, tunnel(1)), (200_000, tunnel(2))]);
        let other = lanes(&shaper, &[(800_000, tunnel(3))]);
        let (fast, other) = tokio::join!(goes(fast), goes(other));
        about(fast, 2_000_000);
        about(other, 8_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn coming_again_is_no_way_around_and_leaves_nothing_behind() {
        let shaper = Shaper::default();
        let mut first = lanes(&shaper, &[(1000, tunnel(1))]);
        first.took(5000);
        drop(first);
        shaper.lanes().tidy_at = 0;
        let mut again = lanes(&shaper, &[(1000, tunnel(1))]);
        again.took(1);
        let start = now();
        poll_fn(|cx| again.poll_ready(cx)).await;
        assert!(now() - start > 4 * SECOND);
        drop(again);
        tokio::time::sleep(SECOND).await;
        shaper.lanes().tidy_at = 0;
        let _other = lanes(&shaper, &[(1000, tunnel(2))]);
        assert_eq!(shaper.lanes().of.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_in_hears_of_other_rates() {
        let (shaper, rates) = (Shaper::default(), Rates::default());
        let told = |rate| Bandwidth {
            tunnel: NonZeroU64::new(rate),
            ..Bandwidth::UNLIMITED
        };
        let mut throttle = Throttle {
            rates: rates.clone(),
            ..lanes(&shaper, &[])
        };
        assert!(!throttle.slows());
        let big = throttle.first_piece(Bytes::from_static(&[0; 100_000]));
        assert_eq!(big.len(), 100_000, "nothing holds it back");
        rates.tell(told(100_000));
        assert!(throttle.slows());
        about(goes(throttle).await, 1_000_000);
        // One that owes a minute need not wait for it once the rate is another, or none.
        let mut waits = Throttle {
            rates: rates.clone(),
            ..lanes(&shaper, &[(1000, tunnel(9))])
        };
        waits.heard = rates.count();
        waits.took(60_000);
        let start = now();
        let told_later = async {
            tokio::time::sleep(SECOND).await;
            rates.tell(told(0));
        };
        tokio::join!(wait(&mut waits), told_later);
        let took = now() - start;
        assert!((SECOND..=SECOND + LOOK).contains(&took), "{took:?}");
        assert!(!waits.slows());
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_beyond_the_rate_are_dropped() {
        let shaper = Shaper::default();
        let mut throttle = lanes(&shaper, &[(10_000, tunnel(1))]);
        let mut went = 0;
        for _ in 0..10_000 {
            went += u64::from(throttle.lets_go(100)) * 100;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        about(went, 100_000);
    }
}
