//! The minimum rate of a body: what a visitor sends while nothing but it is waited for. Pure; whoever
//! waits tells it so, and when something came.

use std::time::Duration;

use tokio::time::Instant;

use crate::http::limits::{RATE_BYTES, RATE_WINDOW};

/// One body's pace, in windows of waiting: time that others take does not count.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Waited in this window, but for the wait under way.
    waited: Duration,
    bytes: u64,
    since: Option<Instant>,
}

impl Pace {
    /// The visitor is waited for. When the window is over if nothing comes.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.since.get_or_insert(now);
        since + RATE_WINDOW.saturating_sub(self.waited)
    }

    /// Something came.
    pub(super) fn got(&mut self, now: Instant, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited >= RATE_WINDOW && self.bytes >= RATE_BYTES {
            *self = Self::default();
        }
    }

    /// At the end of a window: whether too little came in it. Begins the next.
    pub(super) fn is_slow(&mut self, now: Instant) -> bool {
        let bytes = self.bytes;
        *self = Self {
            since: Some(now),
            ..Self::default()
        };
        bytes < RATE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether so many bytes a second, one piece each second, are too slow within five minutes.
    fn is_slow(rate: u64, own_time: Duration) -> bool {
        let mut pace = Pace::default();
        let mut now = Instant::from_std(crate::times::Clock.now().monotonic);
        for _ in 0..300 {
            pace.wait(now);
            now += Duration::from_secs(1);
            pace.got(now, rate);
            if now >= pace.wait(now) && pace.is_slow(now) {
                return true;
            }
            pace.got(now, 0);
            now += own_time;
        }
        false
    }

    #[test]
    fn b18_the_minimum_holds_at_its_last_byte() {
        assert!(is_slow(239, Duration::ZERO));
        assert!(!is_slow(240, Duration::ZERO));
        assert!(!is_slow(10_000, Duration::ZERO));
    }

    #[test]
    fn b18_our_own_time_does_not_count() {
        assert!(!is_slow(240, Duration::from_secs(100)));
        assert!(is_slow(239, Duration::from_secs(100)));
    }

    #[test]
    fn a_beginning_in_haste_buys_no_endless_rest() {
        let mut pace = Pace::default();
        let start = Instant::from_std(crate::times::Clock.now().monotonic);
        pace.got(start, 1 << 20);
        let first = pace.wait(start);
        assert!(!pace.is_slow(first));
        let second = pace.wait(first);
        assert_eq!(second.duration_since(start), 2 * RATE_WINDOW);
        assert!(pace.is_slow(second));
    }
}
