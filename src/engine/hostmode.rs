//! What Host the origin gets to see: the decision of `--host auto`, one tunnel at a time. Not the rewriting
//! of heads: that is the origin adapter's, which asks here what to do.

use std::time::{Duration, Instant};

use super::book::HostMode;

/// How long an origin that refused both hosts is left alone with the question.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// What to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostUse {
    /// The public name.
    Keep,
    /// The origin's own name (with [`HostMode::Fixed`], that text).
    Rewrite,
}

impl HostUse {
    /// The text that `show` prints.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Rewrite => "rewrite",
        }
    }
}

/// One tunnel's mind about the Host header. Starts as its mode says; only [`HostMode::Auto`] can change
/// it, once, from [`HostUse::Keep`] to [`HostUse::Rewrite`].
#[derive(Debug, Clone)]
pub struct HostMind {
    mode: HostMode,
    current: HostUse,
    /// When the origin refused its own host too.
    refused_at: Option<Instant>,
}

impl HostMind {
    /// A mind at its start.
    pub fn new(mode: HostMode) -> Self {
        let current = match &mode {
            HostMode::Auto | HostMode::Keep => HostUse::Keep,
            HostMode::Rewrite | HostMode::Fixed(_) => HostUse::Rewrite,
        };
        Self {
            mode,
            current,
            refused_at: None,
        }
    }

    /// What to send now.
    pub const fn current(&self) -> HostUse {
        self.current
    }

    /// What was asked for; the text of [`HostMode::Fixed`] is here.
    pub const fn mode(&self) -> &HostMode {
        &self.mode
    }

    /// Whether a request that was sent with `used` and answered with `status` is to be sent once more
    /// with the origin's own host. `replayable`: a GET, HEAD or upgrade without a body.
    pub fn should_retry(&self, now: Instant, used: HostUse, status: u16, replayable: bool) -> bool {
        self.mode == HostMode::Auto
            && used == HostUse::Keep
            && replayable
            && is_refusal(status)
            && !self.asked_lately(now)
    }

    /// Takes the status that the second try got. Returns the change of mind, if it is one, to be logged.
    pub fn retried(&mut self, now: Instant, status: u16) -> Option<HostUse> {
        // A slower request of the same burst finds the mind made up already.
        if self.mode != HostMode::Auto || self.current == HostUse::Rewrite {
            return None;
        }
        if is_refusal(status) {
            self.refused_at = Some(now);
            return None;
        }
        self.current = HostUse::Rewrite;
        self.refused_at = None;
        Some(HostUse::Rewrite)
    }

    fn asked_lately(&self, now: Instant) -> bool {
        self.refused_at
            .is_some_and(|at| now.saturating_duration_since(at) < ASK_AGAIN)
    }
}

/// What development servers answer to a host they do not know.
const fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 403 | 421)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        crate::times::Clock.now().monotonic
    }

    #[test]
    fn only_a_refused_replayable_request_under_auto_is_asked_again() {
        let check = |mode: HostMode, used, status, replayable, expected| {
            let mind = HostMind::new(mode.clone());
            let got = mind.should_retry(start(), used, status, replayable);
            assert_eq!(got, expected, "{mode:?} {used:?} {status} {replayable}");
        };
        for status in [400, 403, 421] {
            check(HostMode::Auto, HostUse::Keep, status, true, true);
            check(HostMode::Auto, HostUse::Keep, status, false, false);
            check(HostMode::Auto, HostUse::Rewrite, status, true, false);
            check(HostMode::Keep, HostUse::Keep, status, true, false);
            check(HostMode::Rewrite, HostUse::Rewrite, status, true, false);
            let fixed = HostMode::Fixed("app.test".into());
            check(fixed, HostUse::Rewrite, status, true, false);
        }
        for status in [101, 200, 301, 401, 404, 405, 500, 502] {
            check(HostMode::Auto, HostUse::Keep, status, true, false);
        }
    }

    #[test]
    fn a_mind_starts_as_its_mode_says() {
        for (mode, expected) in [
            (HostMode::Auto, HostUse::Keep),
            (HostMode::Keep, HostUse::Keep),
            (HostMode::Rewrite, HostUse::Rewrite),
            (HostMode::Fixed("a.test".into()), HostUse::Rewrite),
        ] {
            let mind = HostMind::new(mode.clone());
            assert_eq!(mind.current(), expected, "{mode:?}");
            assert_eq!(*mind.mode(), mode);
        }
    }

    #[test]
    fn an_origin_that_takes_its_own_host_changes_the_mind_once() {
        for accepted in [101, 200, 204, 302, 401, 404, 500] {
            let mut mind = HostMind::new(HostMode::Auto);
            assert_eq!(mind.retried(start(), accepted), Some(HostUse::Rewrite));
            assert_eq!(mind.current(), HostUse::Rewrite);
            // A second answer of the same burst, whatever it is, is no news.
            assert_eq!(mind.retried(start(), accepted), None);
            assert_eq!(mind.retried(start(), 403), None);
            assert_eq!(mind.current(), HostUse::Rewrite);
        }
    }

    #[test]
    fn a_request_overtaken_by_the_change_of_mind_is_still_asked_again() {
        let mut mind = HostMind::new(HostMode::Auto);
        mind.retried(start(), 200);
        assert!(mind.should_retry(start(), HostUse::Keep, 403, true));
    }

    #[test]
    fn an_origin_that_refuses_both_hosts_is_left_alone_for_a_minute() {
        let now = start();
        let mut mind = HostMind::new(HostMode::Auto);
        assert_eq!(mind.retried(now, 403), None);
        assert_eq!(mind.current(), HostUse::Keep);
        let at = |secs| now + Duration::from_secs(secs);
        assert!(!mind.should_retry(at(0), HostUse::Keep, 403, true));
        assert!(!mind.should_retry(at(59), HostUse::Keep, 403, true));
        assert!(mind.should_retry(at(60), HostUse::Keep, 403, true));
        assert_eq!(mind.retried(at(60), 200), Some(HostUse::Rewrite));
    }
}
