//! How long a client waits before it tries its server again: full jitter, for ever. Not the waiting, and
//! not the drawing of random numbers: both are the caller's.

use std::time::Duration;

/// The ceiling of the first wait.
const BASE: Duration = Duration::from_millis(500);

/// The ceiling of every later wait.
const CAP: Duration = Duration::from_secs(30);

/// A server that was started again tells its clients so one by one, which spreads them already.
const TOLD: u32 = 5;

/// Counts failed tries and says how long to wait: a random part of a ceiling that doubles from half a
/// second to thirty seconds and stays there. Never gives up.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failed: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub const fn new() -> Self {
        Self { failed: 0 }
    }

    /// The wait after one more failed try; `random` is any number, evenly drawn.
    pub fn next(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling();
        self.failed = self.failed.saturating_add(1);
        // Full jitter, from nothing to the ceiling: a thousand clients that lost the same server come
        // back evenly spread, instead of in waves.
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        let part = (u128::from(random) * (u128::from(nanos) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
    }

    /// The wait after the server itself has told that it is there, and that the link is not: a part of what
    /// it would be.
    pub fn next_told(&mut self, random: u64) -> Duration {
        self.next(random) / TOLD
    }

    /// A try succeeded: the next wait is short again.
    pub const fn reset(&mut self) {
        self.failed = 0;
    }

    fn ceiling(&self) -> Duration {
        BASE.saturating_mul(1 << self.failed.min(16)).min(CAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_to_thirty_seconds_and_stays() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(
            waits,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]
        );
        for _ in 0..100_000 {
            backoff.next(0);
        }
        assert_eq!(backoff.next(u64::MAX), CAP);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), BASE);
    }

    #[test]
    fn clients_told_by_a_server_that_is_back_waited_as_if_it_were_away() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next_told(u64::MAX), BASE / TOLD);
        // One that tells it again and again is left alone all the same.
        for _ in 0..20 {
            backoff.next_told(u64::MAX);
        }
        assert_eq!(backoff.next_told(u64::MAX), CAP / TOLD);
    }

    #[test]
    fn the_wait_is_any_part_of_the_ceiling() {
        for (random, millis) in [(0, 0), (u64::MAX / 2, 250), (u64::MAX / 4, 125)] {
            let wait = Backoff::new().next(random);
            assert_eq!(wait.as_millis(), millis, "{random}");
        }
    }
}
