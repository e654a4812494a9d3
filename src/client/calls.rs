//! How often a person of this machine calls the admin API: the same rate as a server has where nothing else
//! is set, generous for a person and a script, tight for a loop that went wrong.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::limits::{Act, Source, SourceRates, Sources};

/// What was called lately, and by whom.
#[derive(Debug, Default)]
pub(super) struct Calls {
    rates: SourceRates,
    sources: Mutex<Sources>,
}

impl Calls {
    /// Whether somebody may call once more, and counts it if so; else in how long.
    pub(super) fn may(&self, now: Instant, uid: u32) -> Result<(), Duration> {
        // Plain numbers: a panic cannot leave them half changed.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.take(now, &self.rates, Act::ApiCall, Source::Uid(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limits::{Per, Rate};
    use crate::times::Clock;

    #[test]
    fn each_person_has_as_many_calls_as_the_rate_says() {
        let rates = SourceRates {
            api_calls: Rate::new(1, Per::Minute).burst(2),
            ..SourceRates::default()
        };
        let calls = Calls {
            rates,
            sources: Mutex::default(),
        };
        let now = Clock.now().monotonic;
        assert_eq!(calls.may(now, 1000), Ok(()));
        assert_eq!(calls.may(now, 1000), Ok(()));
        assert_eq!(calls.may(now, 1000), Err(Duration::from_secs(60)));
        assert_eq!(calls.may(now, 1001), Ok(()), "somebody else");
        let later = now + Duration::from_secs(60);
        assert_eq!(calls.may(later, 1000), Ok(()));
        assert!(calls.may(later, 1000).is_err());
    }
}
