//! Whether a link is away, or only quiet. Pure: datagrams counted and times handed in.

use std::time::{Duration, Instant};

/// Tells a link that is away from one that is only quiet: a visit that was sent gets at least an
/// acknowledgement. Counts datagrams heard, as the link does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Silence(Option<(Sent, Sent)>);

/// When something was sent, and how much had been heard by then.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    heard: u64,
}

/// What an answer may take beside three round trips, before the link counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

impl Silence {
    /// Something was sent, when so much had been heard. Of two that were sent at once the later one may
    /// be told of first: what had been heard by then goes for both, for it is still to be answered.
    pub(super) fn note(&mut self, at: Instant, heard: u64) {
        let heard = self.0.map_or(heard, |(_, last)| last.heard.max(heard));
        let sent = Sent { at, heard };
        self.0 = Some((self.0.map_or(sent, |(first, _)| first), sent));
    }

    /// Since when something waits for an answer, as far as was looked.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.map(|(first, _)| first.at)
    }

    /// Whether the peer has been silent for too long after something was sent.
    pub(super) fn is_away(&mut self, now: Instant, heard: u64, rtt: Duration) -> bool {
        let Some((first, last)) = self.0 else {
            return false;
        };
        if heard > last.heard {
            self.0 = None;
            return false;
        }
        let oldest = if heard > first.heard { last } else { first };
        self.0 = Some((oldest, last));
        now.saturating_duration_since(oldest.at) >= ANSWER_WITHIN + 3 * rtt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Clock;

    #[test]
    fn a_link_is_away_when_nothing_is_heard_after_a_visit_was_sent() {
        let (start, rtt) = (Clock.now().monotonic, Duration::from_millis(100));
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        assert!(
            !silence.is_away(at(60_000), 7, rtt),
            "a quiet link is only quiet"
        );
        silence.note(at(0), 7);
        assert!(!silence.is_away(at(1299), 7, rtt));
        assert!(silence.is_away(at(1300), 7, rtt));
        assert!(!silence.is_away(at(1300), 8, rtt), "heard");
        assert!(!silence.is_away(at(60_000), 8, rtt), "and quiet again");
    }

    #[test]
    fn visits_that_are_told_of_in_another_order_hide_no_silence() {
        let start = Clock.now().monotonic;
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        silence.note(at(0), 8);
        // It waited for its stream while the last sign of life came.
        silence.note(at(100), 7);
        assert!(!silence.is_away(at(900), 8, Duration::ZERO));
        assert!(silence.is_away(at(1000), 8, Duration::ZERO));
    }

    #[test]
    fn a_visit_sent_after_the_last_sign_of_life_counts_for_itself() {
        let (start, rtt) = (Clock.now().monotonic, Duration::ZERO);
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        silence.note(at(0), 7);
        // The first was acknowledged, the second was not.
        silence.note(at(500), 8);
        assert!(!silence.is_away(at(1400), 8, rtt));
        assert!(silence.is_away(at(1500), 8, rtt));
    }
}
