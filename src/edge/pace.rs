//! The minimum rate of a body: what a visitor sends while nothing but it is waited for. A window ends as
//! soon as enough has come for all of it. Pure; whoever waits tells it so, and when something came.

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
        if self.bytes >= RATE_BYTES {
            *self = Self::default();
        }
    }

    /// The window is over, and what came in it was too little; but it may be.
    pub(super) fn forgive(&mut self) {
        *self = Self::default();
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
            if now >= pace.wait(now) {
                return true;
            }
            pace.got(now, 0);
            now += own_time;
        }
        false
    }

    #[test]
    fn the_minimum_holds_at_its_last_byte() {
        assert!(is_slow(239, Duration::ZERO));
        assert!(!is_slow(240, Duration::ZERO));
        assert!(!is_slow(10_000, Duration::ZERO));
    }

    #[test]
    fn our_own_time_does_not_count() {
        assert!(!is_slow(240, Duration::from_secs(100)));
        assert!(is_slow(239, Duration::from_secs(100)));
    }

    #[test]
    fn a_beginning_in_haste_buys_no_endless_rest() {
        let mut pace = Pace::default();
        let start = Instant::from_std(crate::times::Clock.now().monotonic);
        pace.got(start, 1 << 20);
        assert_eq!(pace.wait(start).duration_since(start), RATE_WINDOW);
        pace.forgive();
        let later = start + RATE_WINDOW;
        assert_eq!(pace.wait(later).duration_since(later), RATE_WINDOW);
    }
}
