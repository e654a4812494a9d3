//! When to renew, whom to ask, how to prove a name, how long to wait after a failure. Pure: the time and
//! every random number are arguments, nothing is read and nobody is asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::times::WallTime;

/// The share of a certificate's life after which it is renewed when its CA gives no window. A share, not
/// a number of days: lives get shorter every year.
const RENEW_AFTER: (u32, u32) = (2, 3);

/// Renewals without a window are spread over this share of a life, so that a thousand servers of one day
/// do not come back on one minute.
const SPREAD: u32 = 20;

/// The latest share of a life that a CA's window may move a renewal to.
const LATEST: (u32, u32) = (9, 10);

/// A wait that a CA asks for is kept to, up to its longest limits (a week).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A certificate that lives for less is tried for again sooner: its CA cannot count by the hour.
const WAITS_PER_LIFE: u32 = 20;

/// How often a CA is asked for its window when it does not say, and within which bounds when it does.
const WINDOW_EVERY: Duration = Duration::from_secs(6 * 3600);
const WINDOW_LEAST: Duration = Duration::from_secs(60);
const WINDOW_MOST: Duration = Duration::from_secs(86_400);

/// From when until when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its first instant.
    pub from: WallTime,
    /// Its last.
    pub until: WallTime,
}

impl Life {
    /// How long it is.
    pub fn length(self) -> Duration {
        self.until.since(self.from)
    }

    /// Whether it is over.
    pub fn is_over(self, now: WallTime) -> bool {
        now >= self.until
    }

    fn at(self, (part, of): (u32, u32)) -> WallTime {
        self.from.plus(self.length() / of * part)
    }
}

/// When a CA wishes a certificate to be renewed (RFC 9773).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub start: WallTime,
    /// Better before.
    pub end: WallTime,
}

/// However a CA moves its windows, one certificate after another is not got more often than this: a share of
/// a life, and an hour at most, so that one that is to be revoked goes soon.
const REST: (u32, Duration) = (10, Duration::from_secs(3600));

/// When to renew what was got at `since`: somewhere in the CA's window, else after two thirds of the life; `roll` is any number,
/// evenly drawn and kept for the certificate, so that the answer stays the same.
pub fn renew_at(life: Life, since: WallTime, window: Option<Window>, roll: u64) -> WallTime {
    match window {
        // A window that begins after the end is a slip of the CA's; nobody must see it.
        Some(window) if window.start < life.until => {
            let length = window.end.since(window.start);
            let rested = since.plus((life.length() / REST.0).min(REST.1));
            let at = window.start.plus(share(length, roll)).max(rested);
            at.min(life.at(LATEST))
        }
        _ => life
            .at(RENEW_AFTER)
            .plus(share(life.length() / SPREAD, roll)),
    }
}

/// How long until the window is asked for again, given what the CA said about that.
pub fn window_again(life: Life, said: Option<Duration>) -> Duration {
    // A life of minutes would be over before the usual least wait.
    let least = WINDOW_LEAST.min(life.length() / WAITS_PER_LIFE);
    let least = least.max(Duration::from_secs(1));
    said.unwrap_or(WINDOW_EVERY).clamp(least, WINDOW_MOST)
}

/// A random part of a length.
fn share(length: Duration, roll: u64) -> Duration {
    let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    let part = (u128::from(roll) * u128::from(nanos)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(nanos))
}

/// Whose fault a failure was, which decides how soon another try is polite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody answered: the CA or the way to it. Costs nobody's allowance.
    Unreachable,
    /// Something of ours did not work, such as a hook. The CA has seen an order at most.
    Ours,
    /// The CA said no, and counts that: five refused proofs an hour is a usual limit.
    Refused,
}

impl Blame {
    /// The first wait and the longest.
    const fn waits(self) -> (Duration, Duration) {
        const MINUTE: u64 = 60;
        let (first, most) = match self {
            Self::Unreachable => (10, 60 * MINUTE),
            Self::Ours => (MINUTE, 120 * MINUTE),
            Self::Refused => (15 * MINUTE, 24 * 60 * MINUTE),
        };
        (Duration::from_secs(first), Duration::from_secs(most))
    }
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault.
    pub blame: Blame,
    /// How long the CA wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// Where one certificate stands on its way: how often it failed, whom to ask next, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// When each CA may be asked again by its own word.
    closed: Vec<Option<WallTime>>,
    ca: usize,
    failures: u32,
    due: WallTime,
}

impl Course {
    /// Nothing was tried yet: due at once. There is at least one CA.
    pub fn new(cas: usize, now: WallTime) -> Self {
        Self {
            closed: vec![None; cas.max(1)],
            ca: 0,
            failures: 0,
            due: now,
        }
    }

    /// What a process before this one has left: its failures stand, and so do its waits. When the CAs are
    /// others now, their waits are nobody's.
    #[must_use]
    pub fn resumed(self, cas: usize, now: WallTime) -> Self {
        if self.closed.len() == cas && self.ca < cas {
            self
        } else {
            Self::new(cas, now)
        }
    }

    /// When the next try is due.
    pub const fn due(&self) -> WallTime {
        self.due
    }

    /// Which CA it goes to.
    pub const fn ca(&self) -> usize {
        self.ca
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// How often all CAs have failed since then: each is given the next proof only when the others had
    /// this one, too.
    pub fn rounds(&self) -> u32 {
        let cas = u32::try_from(self.closed.len()).unwrap_or(u32::MAX);
        self.failures / cas.max(1)
    }

    /// A try failed. The next CA is asked soon; only when all have failed the wait grows. `life` is how
    /// long certificates live, as far as that is known.
    pub fn failed(&mut self, now: WallTime, failure: Failure, life: Option<Duration>, roll: u64) {
        let cas = self.closed.len();
        if let Some(wait) = failure.retry_after {
            self.closed[self.ca] = Some(now.plus(wait.min(RETRY_AFTER_MAX)));
        }
        self.failures = self.failures.saturating_add(1);
        self.ca = (self.ca + 1) % cas;
        let wait = if self.ca == 0 {
            wait(failure.blame, self.rounds(), life, roll)
        } else {
            // Another CA has done nothing wrong, but is not to be stormed for it.
            share(Duration::from_secs(5), roll)
        };
        self.due = now.plus(wait);
        self.respect_closed();
    }

    /// It worked: the first CA is asked first again, at the time of renewal.
    pub fn succeeded(&mut self, renew_at: WallTime) {
        self.failures = 0;
        self.ca = 0;
        self.due = renew_at;
    }

    /// The certificate is good and its renewal moved.
    pub fn moved(&mut self, renew_at: WallTime) {
        if self.failures == 0 {
            self.due = renew_at;
        }
    }

    /// Somebody has mended something: a wait of ours is over, one that a CA asked for is not.
    pub fn hurry(&mut self, now: WallTime) {
        if self.failures > 0 && self.due > now {
            self.due = now;
            self.respect_closed();
        }
    }

    /// Skips CAs that want to be left alone; when all do, waits for the one that opens first.
    fn respect_closed(&mut self) {
        let cas = self.closed.len();
        let opens = |ca: usize| self.closed[ca].filter(|opens| *opens > self.due);
        let open = (0..cas)
            .map(|n| (self.ca + n) % cas)
            .find(|ca| opens(*ca).is_none());
        if let Some(ca) = open {
            self.ca = ca;
        } else if let Some((opens, ca)) = (0..cas).filter_map(|ca| Some((opens(ca)?, ca))).min() {
            (self.due, self.ca) = (opens, ca);
        }
    }
}

/// Doubles with each round; half of it is random, so that it neither storms nor comes in waves.
fn wait(blame: Blame, rounds: u32, life: Option<Duration>, roll: u64) -> Duration {
    let (first, most) = blame.waits();
    let full = first
        .saturating_mul(1 << rounds.saturating_sub(1).min(16))
        .min(most);
    let most = life.map_or(most, |life| {
        (life / WAITS_PER_LIFE).max(Duration::from_secs(1))
    });
    let full = full.min(most);
    full / 2 + share(full / 2, roll)
}

/// A way to prove that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A TXT record; the only one for wildcards.
    Dns,
    /// A certificate shown on our own HTTPS port.
    TlsAlpn,
    /// A text served on our own HTTP port.
    Http,
}

impl Proof {
    /// As ACME calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns-01",
            Self::TlsAlpn => "tls-alpn-01",
            Self::Http => "http-01",
        }
    }
}

/// The proof to try: of those we can give, in our order, one that the CA takes; after a round
/// of failures the next. None when there is none.
pub fn proof(ours: &[Proof], offered: &[Proof], rounds: u32) -> Option<Proof> {
    let common: Vec<Proof> = (ours.iter().copied())
        .filter(|proof| offered.contains(proof))
        .collect();
    let turn = usize::try_from(rounds)
        .unwrap_or(0)
        .checked_rem(common.len())?;
    common.get(turn).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: i64) -> WallTime {
        WallTime::from_millis(secs * 1000)
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const DAY: i64 = 86_400;
    const NINETY_DAYS: Life = Life {
        from: at(0),
        until: at(90 * DAY),
    };

    fn refused() -> Failure {
        Failure {
            blame: Blame::Refused,
            retry_after: None,
        }
    }

    #[test]
    fn without_a_window_two_thirds_of_the_life_are_used_whatever_its_length() {
        for (length, first, last) in [(90 * DAY, 60 * DAY, 64 * DAY + DAY / 2), (90, 60, 65)] {
            let life = Life {
                from: at(0),
                until: at(length),
            };
            assert_eq!(renew_at(life, at(0), None, 0), at(first));
            let latest = renew_at(life, at(0), None, u64::MAX);
            assert!(latest > at(first) && latest <= at(last), "{latest}");
        }
    }

    #[test]
    fn a_window_decides_even_when_it_lies_in_the_past() {
        let window = Window {
            start: at(10 * DAY),
            end: at(12 * DAY),
        };
        let renew = |window, roll| renew_at(NINETY_DAYS, at(0), Some(window), roll);
        assert_eq!(renew(window, 0), at(10 * DAY));
        assert_eq!(renew(window, u64::MAX / 2 + 1), at(11 * DAY));
        assert!(renew(window, u64::MAX) <= at(12 * DAY));
    }

    #[test]
    fn windows_that_are_always_over_do_not_make_a_storm() {
        let over = Window {
            start: at(-2 * DAY),
            end: at(-DAY),
        };
        let renew = |since| renew_at(NINETY_DAYS, at(since), Some(over), 0);
        assert_eq!(renew(0), at(3600));
        assert_eq!(renew(DAY), at(DAY + 3600));
        assert_eq!(renew(-DAY), at(3600 - DAY), "an old one goes at once");
    }

    #[test]
    fn a_window_never_moves_a_renewal_beyond_the_certificate() {
        let late = Window {
            start: at(89 * DAY),
            end: at(200 * DAY),
        };
        assert_eq!(
            renew_at(NINETY_DAYS, at(0), Some(late), u64::MAX),
            at(81 * DAY)
        );
        let absurd = Window {
            start: at(91 * DAY),
            end: at(92 * DAY),
        };
        assert_eq!(renew_at(NINETY_DAYS, at(0), Some(absurd), 0), at(60 * DAY));
        let backwards = Window {
            start: at(20 * DAY),
            end: at(10 * DAY),
        };
        assert_eq!(
            renew_at(NINETY_DAYS, at(0), Some(backwards), u64::MAX),
            at(20 * DAY)
        );
    }

    #[test]
    fn the_window_is_asked_for_as_often_as_the_ca_says_within_reason() {
        let hours = |h: u64| Some(secs(h * 3600));
        assert_eq!(window_again(NINETY_DAYS, hours(6)), secs(6 * 3600));
        assert_eq!(window_again(NINETY_DAYS, hours(9000)), WINDOW_MOST);
        assert_eq!(window_again(NINETY_DAYS, Some(secs(0))), WINDOW_LEAST);
        let short = Life {
            from: at(0),
            until: at(90),
        };
        assert!(window_again(short, Some(secs(0))) < secs(10));
    }

    #[test]
    fn refusals_wait_longer_each_time_and_stay_below_five_an_hour() {
        let mut course = Course::new(1, at(0));
        let (mut now, mut tries) = (at(0), 0);
        while now < at(3600) {
            tries += 1;
            course.failed(now, refused(), None, 0);
            assert!(course.due() > now);
            now = course.due();
        }
        assert!(tries <= 4, "{tries} tries in an hour");
        for _ in 0..100 {
            course.failed(now, refused(), None, u64::MAX);
        }
        assert!(course.due().since(now) <= secs(86_400));
    }

    #[test]
    fn a_ca_that_does_not_answer_is_asked_again_within_seconds() {
        let mut course = Course::new(1, at(0));
        let down = Failure {
            blame: Blame::Unreachable,
            retry_after: None,
        };
        course.failed(at(0), down, None, u64::MAX);
        assert!(course.due() > at(4) && course.due() <= at(10));
    }

    #[test]
    fn short_lives_wait_less() {
        let mut course = Course::new(1, at(0));
        course.failed(at(0), refused(), Some(secs(90)), u64::MAX);
        assert!(course.due() <= at(5), "{}", course.due());
    }

    #[test]
    fn the_next_ca_is_asked_before_anybody_waits() {
        let mut course = Course::new(2, at(0));
        assert_eq!(course.ca(), 0);
        course.failed(at(0), refused(), None, u64::MAX);
        assert_eq!(course.ca(), 1);
        assert!(course.due() <= at(5));
        course.failed(at(5), refused(), None, u64::MAX);
        assert_eq!(course.ca(), 0);
        assert!(course.due() >= at(450));
        course.succeeded(at(1000));
        assert_eq!(
            (course.ca(), course.due(), course.failures()),
            (0, at(1000), 0)
        );
    }

    #[test]
    fn a_wait_that_a_ca_asked_for_outlasts_our_own_and_a_hurry() {
        let told = Failure {
            blame: Blame::Refused,
            retry_after: Some(secs(7200)),
        };
        let mut alone = Course::new(1, at(0));
        alone.failed(at(0), told, None, 0);
        assert_eq!(alone.due(), at(7200));
        alone.hurry(at(10));
        assert_eq!(alone.due(), at(7200));
        alone.hurry(at(7300));
        assert_eq!(alone.due(), at(7200), "it is due already");

        let mut two = Course::new(2, at(0));
        two.failed(at(0), told, None, 0);
        assert_eq!(two.ca(), 1);
        two.failed(at(5), refused(), None, 0);
        assert_eq!(two.ca(), 1, "the first is left alone");
        two.hurry(at(10));
        assert_eq!((two.ca(), two.due()), (1, at(10)));
    }

    #[test]
    fn a_course_survives_on_paper_while_the_cas_are_the_same() {
        let mut course = Course::new(2, at(0));
        course.failed(at(0), refused(), None, 0);
        let text = serde_json::to_string(&course).unwrap();
        let read: Course = serde_json::from_str(&text).unwrap();
        assert_eq!(read.clone().resumed(2, at(9)), course);
        assert_eq!(read.resumed(1, at(9)), Course::new(1, at(9)));
    }

    #[test]
    fn no_ca_can_ask_for_more_than_a_week() {
        let mut course = Course::new(1, at(0));
        let told = Failure {
            blame: Blame::Refused,
            retry_after: Some(Duration::MAX),
        };
        course.failed(at(0), told, None, 0);
        assert_eq!(course.due(), at(7 * DAY));
    }

    #[test]
    fn a_hurry_does_not_renew_what_is_good() {
        let mut course = Course::new(1, at(0));
        course.succeeded(at(500));
        course.hurry(at(10));
        assert_eq!(course.due(), at(500));
        course.moved(at(300));
        assert_eq!(course.due(), at(300));
    }

    #[test]
    fn proofs_take_turns_after_failures_and_wildcards_have_one() {
        let all = [Proof::Dns, Proof::TlsAlpn, Proof::Http];
        let ports = [Proof::TlsAlpn, Proof::Http];
        assert_eq!(proof(&ports, &all, 0), Some(Proof::TlsAlpn));
        assert_eq!(proof(&ports, &all, 1), Some(Proof::Http));
        assert_eq!(proof(&ports, &all, 2), Some(Proof::TlsAlpn));
        assert_eq!(proof(&ports, &[Proof::Http], 0), Some(Proof::Http));
        assert_eq!(proof(&ports, &[Proof::Dns], 0), None);
        assert_eq!(proof(&[Proof::Dns], &all, 7), Some(Proof::Dns));
    }

    #[test]
    fn every_ca_sees_every_proof() {
        let ports = [Proof::TlsAlpn, Proof::Http];
        let mut course = Course::new(2, at(0));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push((course.ca(), proof(&ports, &ports, course.rounds()).unwrap()));
            course.failed(course.due(), refused(), None, 0);
        }
        let expected = [
            (0, Proof::TlsAlpn),
            (1, Proof::TlsAlpn),
            (0, Proof::Http),
            (1, Proof::Http),
        ];
        assert_eq!(seen, expected);
    }
}
