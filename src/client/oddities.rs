//! What a server does that it should not, refused each time and told of once a minute: a hostile one must not
//! fill the log, and a broken one must not go unseen.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::times::Clock;

/// Between two lines of the log.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Counts what it does not say. One for all links of a client: a new link is no new line.
#[derive(Debug, Default)]
pub(super) struct Oddities(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    at: Option<Instant>,
    unsaid: u64,
}

impl Oddities {
    /// The server did this, and got nothing for it.
    pub(super) fn note(&self, what: &'static str) {
        match self.lock().count(Clock.now().monotonic) {
            Some(unsaid) => warn!(what, unsaid, "server does what it should not, refused"),
            None => debug!(what, "server does what it should not, refused"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        // Plain numbers: a panic cannot leave them half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    /// How many were not said since the last line, when it is time for one.
    fn count(&mut self, now: Instant) -> Option<u64> {
        let fresh = |at| now.saturating_duration_since(at) >= LOG_EVERY;
        if !self.at.is_none_or(fresh) {
            self.unsaid += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_are_counted_for_a_minute() {
        let (mut said, start) = (Said::default(), Clock.now().monotonic);
        assert_eq!(said.count(start), Some(0));
        for second in 0..60 {
            assert_eq!(said.count(start + Duration::from_secs(second)), None);
        }
        let later = start + LOG_EVERY;
        assert_eq!(said.count(later), Some(60));
        assert_eq!(said.count(later), None);
        assert_eq!(said.count(later + 2 * LOG_EVERY), Some(1));
    }
}
