//! What falls due when, on two clocks. Not a clock: the caller says what time it is.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::names::{DeviceId, InviteId, ShareId, TunnelId};
use crate::times::{Now, WallTime};

/// Wall deadlines are looked at this often at least, because the wall clock may step and the
/// monotonic one stands still while the machine sleeps.
const WALL_LOOK: Duration = Duration::from_secs(30);

/// Everything that happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// `expires_at` of a tunnel. Wall.
    Expire(TunnelId),
    /// A tunnel's client stayed away too long. Wall.
    Gone(TunnelId),
    /// An ended tunnel's quarantine is over. Wall.
    Forget(TunnelId),
    /// A join token that works no more need not be remembered. Wall.
    ForgetInvite(InviteId),
    /// A tunnel's hold is over. Monotonic.
    Hold(TunnelId),
    /// A tunnel may have been idle long enough. Monotonic; may come early, never late.
    Idle(TunnelId),
    /// A device's link may have been silent long enough. Monotonic; may come early, never late.
    Silence(DeviceId),
    /// The socket of a tunnel's port is to be tried again. Monotonic.
    Port(TunnelId),
    /// A share link works no longer for those who are in. Wall.
    Share(ShareId),
    /// The proof of an own domain, by its number, is to be looked at. Monotonic.
    Domain(u64),
    /// What visits changed is to be written. Monotonic.
    Seen,
    /// What could not be written is to be tried again. Monotonic.
    Retry,
}

/// All timers; each is set at most once.
#[derive(Debug, Default)]
pub(super) struct Timers {
    monotonic: Queue<Instant>,
    wall: Queue<WallTime>,
}

impl Timers {
    /// Sets or moves a timer of the monotonic clock; a time beyond all clocks is never.
    pub(super) fn set(&mut self, timer: Timer, from: Instant, after: Duration) {
        match from.checked_add(after) {
            Some(at) => self.monotonic.set(timer, at),
            None => self.monotonic.cancel(timer),
        }
    }

    /// Sets or moves a timer of the wall clock.
    pub(super) fn set_wall(&mut self, timer: Timer, at: WallTime) {
        self.wall.set(timer, at);
    }

    /// Forgets a timer.
    pub(super) fn cancel(&mut self, timer: Timer) {
        self.monotonic.cancel(timer);
        self.wall.cancel(timer);
    }

    /// Whether a timer of the monotonic clock is set.
    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.monotonic.at.contains_key(&timer)
    }

    /// Takes the next timer that is due, with the monotonic moment when it was.
    pub(super) fn pop_due(&mut self, now: Now) -> Option<(Timer, Instant)> {
        if let Some((timer, _)) = self.wall.pop_due(now.wall) {
            return Some((timer, now.monotonic));
        }
        self.monotonic.pop_due(now.monotonic)
    }

    /// When to look again.
    pub(super) fn next(&self, now: Now) -> Option<Instant> {
        let wall = self.wall.first().map(|at| {
            let wait = at.since(now.wall).min(WALL_LOOK);
            now.monotonic.checked_add(wait).unwrap_or(now.monotonic)
        });
        [self.monotonic.first(), wall].into_iter().flatten().min()
    }

    /// How many are set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.monotonic.due.len() + self.wall.due.len()
    }
}

/// The timers of one clock.
#[derive(Debug)]
struct Queue<T> {
    due: BTreeSet<(T, Timer)>,
    at: HashMap<Timer, T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            at: HashMap::new(),
        }
    }
}

impl<T: Copy + Ord> Queue<T> {
    fn set(&mut self, timer: Timer, at: T) {
        self.cancel(timer);
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    fn cancel(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    fn first(&self) -> Option<T> {
        self.due.first().map(|(at, _)| *at)
    }

    fn pop_due(&mut self, now: T) -> Option<(Timer, T)> {
        let (at, timer) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.cancel(timer);
        Some((timer, at))
    }
}
