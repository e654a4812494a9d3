//! How fast one link may ask. Pure: times are handed in.

use std::time::{Duration, Instant};

/// Questions a second, in the long run.
const PER_SECOND: u32 = 50;
/// Questions at once, at least: a client that returns takes all its tunnels back.
const BURST: u32 = 2048;

/// What has to be done for so many tunnels costs as much as a question.
const TUNNELS_A_QUESTION: u32 = 16;

/// A token bucket. Who is over it is not refused: what was asked waits unread, and the asker with it.
#[derive(Debug)]
pub(super) struct Pace {
    burst: u32,
    /// When the bucket is full again if nothing more is asked; it is as empty as that is far away.
    full_at: Instant,
}

impl Pace {
    /// A full bucket, with room for every tunnel that the device may have, twice.
    pub(super) fn new(now: Instant, tunnels: usize) -> Self {
        let twice = u32::try_from(tunnels.saturating_mul(2)).unwrap_or(u32::MAX);
        Self {
            burst: twice.max(BURST),
            full_at: now,
        }
    }

    /// Something was asked.
    pub(super) fn note(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + Duration::from_secs(1) / PER_SECOND;
    }

    /// What was asked means work for each of so many tunnels, though it is one message.
    pub(super) fn note_for_each(&mut self, now: Instant, tunnels: usize) {
        let more = u32::try_from(tunnels).unwrap_or(u32::MAX) / TUNNELS_A_QUESTION;
        self.full_at = self.full_at.max(now) + Duration::from_secs(1) / PER_SECOND * more;
    }

    /// When the next question may be read; in the past while there is room.
    pub(super) fn next(&self) -> Instant {
        let room = Duration::from_secs(1) / PER_SECOND * (self.burst - 1);
        self.full_at.checked_sub(room).unwrap_or(self.full_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Clock;

    #[test]
    fn a_burst_is_free_and_what_follows_is_paced() {
        let start = Clock.now().monotonic + Duration::from_secs(3600);
        let mut pace = Pace::new(start, 1000);
        for n in 0..BURST {
            assert!(pace.next() <= start, "{n}");
            pace.note(start);
        }
        assert_eq!(pace.next(), start + Duration::from_millis(20));
        let later = start + Duration::from_secs(2);
        for n in 0..100 {
            assert!(pace.next() <= later, "{n}");
            pace.note(later);
        }
        assert!(pace.next() > later);
    }

    #[test]
    fn messages_about_all_tunnels_cost_no_more_than_one_about_one() {
        let start = Clock.now().monotonic + Duration::from_secs(3600);
        let mut pace = Pace::new(start, 1000);
        let mut toggles = 0;
        while pace.next() <= start {
            pace.note(start);
            pace.note_for_each(start, 1000);
            toggles += 1;
        }
        assert_eq!(toggles, BURST.div_ceil(63));
        // A device with few pays what any other message costs.
        let mut pace = Pace::new(start, 1000);
        for _ in 0..BURST {
            assert!(pace.next() <= start);
            pace.note(start);
            pace.note_for_each(start, 15);
        }
        assert!(pace.next() > start);
    }

    #[test]
    fn a_quiet_link_gets_its_burst_back_and_no_more() {
        let start = Clock.now().monotonic + Duration::from_secs(3600);
        let mut pace = Pace::new(start, 5000);
        for _ in 0..10_000 {
            assert!(pace.next() <= start);
            pace.note(start);
        }
        assert!(pace.next() > start);
        let later = start + Duration::from_secs(86_400);
        for _ in 0..10_000 {
            assert!(pace.next() <= later);
            pace.note(later);
        }
        assert!(pace.next() > later);
    }
}
