//! What would end a tunnel next, as far as its client knows: from what the server said last of the
//! tunnel's clocks, and from the visits and absences seen since. Pure; nothing here ends anything.

use std::time::{Duration, Instant};

use crate::admin::types::EndsNextJson;
use crate::engine::{EndsNext, EndsWhy};
use crate::times::{Now, WallTime};
use crate::wire::{Bind, Bound, Standing};

/// What is in force of a tunnel, by the server's word.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    idle_ms: u64,
    hold_ms: u64,
    /// How its clocks stood, and when we heard it; none from a server that does not say.
    heard: Option<(Standing, Now)>,
}

impl Terms {
    pub(super) fn of(bound: &Bound, now: Now) -> Self {
        Self {
            idle_ms: bound.idle_ms,
            hold_ms: bound.hold_ms,
            heard: bound.standing.map(|standing| (standing, now)),
        }
    }

    /// News of the clocks.
    pub(super) fn hear(&mut self, standing: Standing, now: Now) {
        self.heard = Some((standing, now));
    }

    /// None = never.
    pub(super) fn idle(&self) -> Option<Duration> {
        (self.idle_ms != Bind::NEVER).then(|| Duration::from_millis(self.idle_ms))
    }

    pub(super) const fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }
}

/// How far the server's wall clock is ahead of ours, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ahead(i64);

impl Ahead {
    /// By what the server says; one that does not say is taken to agree with us.
    pub(super) fn of(standing: Option<&Standing>, now: WallTime) -> Self {
        Self(standing.map_or(0, |s| s.now.saturating_sub(now.as_millis())))
    }

    /// A moment of our clock, on the server's.
    pub(super) const fn shift(self, ours: WallTime) -> WallTime {
        WallTime::from_millis(ours.as_millis().saturating_add(self.0))
    }
}

/// What this client has seen itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Visits going on.
    pub(super) visits: u64,
    /// When the latest visit that is over ended.
    pub(super) ended: Option<Instant>,
    /// When the latest visit began or ended, by our wall clock.
    pub(super) latest: Option<WallTime>,
    /// Whether the link is there.
    pub(super) up: bool,
    /// Since when it is not, by our wall clock; none when that is not known.
    pub(super) away: Option<WallTime>,
    pub(super) ahead: Option<Ahead>,
}

impl Seen {
    fn on_server(&self, ours: WallTime) -> WallTime {
        self.ahead.map_or(ours, |ahead| ahead.shift(ours))
    }
}

/// The latest visit, by the server's clock.
pub(super) fn last_seen(terms: Option<&Terms>, seen: &Seen) -> Option<WallTime> {
    let told = terms
        .and_then(|terms| terms.heard)
        .and_then(|(standing, _)| standing.last_seen_at)
        .map(WallTime::from_millis);
    told.max(seen.latest.map(|at| seen.on_server(at)))
}

/// What would end an open tunnel next.
pub(super) fn ends_next(
    expires_at: Option<WallTime>,
    terms: Option<&Terms>,
    seen: &Seen,
    now: Now,
) -> EndsNextJson {
    // Known to run, or known to stand still; a clock of which the time is not known has no place among
    // those that have one, and is only told of when there is no other.
    let (clock, why) = if seen.up {
        (idle_at(terms, seen, now), EndsWhy::Idle)
    } else {
        (gone_at(terms, seen), EndsWhy::Offline)
    };
    let runs = if seen.up {
        seen.visits == 0 && terms.is_some_and(|terms| terms.idle().is_some())
    } else {
        true
    };
    let expires = expires_at.map(|at| (at, EndsWhy::Expires));
    let next = EndsNext::first([expires, clock.map(|at| (at, why)), None]);
    match next {
        Some(next) => EndsNextJson {
            at: Some(next.at),
            why: Some(next.why.as_str().to_owned()),
        },
        None => EndsNextJson {
            at: None,
            why: runs.then(|| why.as_str().to_owned()),
        },
    }
}

/// When it will have been idle long enough: from the end of the latest visit, or from what the server
/// said, whichever is later.
fn idle_at(terms: Option<&Terms>, seen: &Seen, now: Now) -> Option<WallTime> {
    if seen.visits > 0 {
        return None;
    }
    let terms = terms?;
    let idle = terms.idle()?;
    let told = terms
        .heard
        .and_then(|(standing, at)| Some((at.monotonic, standing.idle_left_ms?)));
    let (from, left) = match (told, seen.ended) {
        (Some((heard, left)), ended) if ended.is_none_or(|ended| ended <= heard) => {
            (heard, Duration::from_millis(left))
        }
        (_, Some(ended)) => (ended, idle),
        (_, None) => return None,
    };
    let since = now.monotonic.saturating_duration_since(from);
    let left = left.saturating_sub(since);
    Some(seen.on_server(now.wall).plus(left))
}

/// When a server gives this client up for gone.
fn gone_at(terms: Option<&Terms>, seen: &Seen) -> Option<WallTime> {
    let (standing, _) = terms?.heard?;
    let away = seen.on_server(seen.away?);
    Some(away.plus(Duration::from_millis(standing.offline_max_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TunnelId;
    use crate::times::Clock;

    const HOUR: u64 = 3_600_000;
    /// The server's clock is half an hour ahead.
    const AHEAD: i64 = 1_800_000;

    fn start() -> Now {
        Now {
            monotonic: Clock.now().monotonic,
            wall: WallTime::from_millis(1_700_000_000_000),
        }
    }

    fn later(now: Now, ms: u64) -> Now {
        let by = Duration::from_millis(ms);
        Now {
            monotonic: now.monotonic + by,
            wall: now.wall.plus(by),
        }
    }

    fn standing(now: Now, left: Option<u64>) -> Standing {
        Standing {
            now: now.wall.as_millis() + AHEAD,
            last_seen_at: None,
            idle_left_ms: left,
            offline_max_ms: 24 * HOUR,
        }
    }

    fn terms(now: Now, standing: Option<Standing>, idle_ms: u64) -> Terms {
        let bound = Bound {
            policy: None,
            public_port: None,
            request: 1,
            tunnel: TunnelId::random(),
            slug: "app".into(),
            url: String::new(),
            expires_at: None,
            created_at: 0,
            idle_ms,
            hold_ms: 10_000,
            standing,
        };
        Terms::of(&bound, now)
    }

    fn up(now: Now) -> Seen {
        Seen {
            up: true,
            ahead: Some(Ahead::of(Some(&standing(now, None)), now.wall)),
            ..Seen::default()
        }
    }

    fn shown(next: &EndsNextJson, from: Now) -> (Option<i64>, Option<&str>) {
        let since = |at: WallTime| at.as_millis() - from.wall.as_millis() - AHEAD;
        (next.at.map(since), next.why.as_deref())
    }

    #[test]
    fn idleness_goes_on_from_what_the_server_said_until_a_visit_starts_it_anew() {
        let start = start();
        let terms = terms(start, Some(standing(start, Some(HOUR / 2))), HOUR);
        let seen = up(start);
        let now = later(start, 60_000);
        let next = ends_next(None, Some(&terms), &seen, now);
        let half = Some(HOUR as i64 / 2);
        assert_eq!(shown(&next, start), (half, Some("idle")));

        let busy = Seen { visits: 1, ..seen };
        let next = ends_next(None, Some(&terms), &busy, now);
        assert_eq!(shown(&next, start), (None, None));

        let visited = Seen {
            ended: Some(now.monotonic),
            latest: Some(now.wall),
            ..seen
        };
        let next = ends_next(None, Some(&terms), &visited, later(now, 5));
        let want = Some(HOUR as i64 + 60_000);
        assert_eq!(shown(&next, start), (want, Some("idle")));
        assert_eq!(
            last_seen(Some(&terms), &visited).map(|at| at.as_millis()),
            Some(now.wall.as_millis() + AHEAD),
            "by the server's clock"
        );

        // The server saw a visit that did not come here: its word counts.
        let mut told = terms;
        let heard = later(now, 1000);
        told.hear(standing(heard, Some(HOUR)), heard);
        let next = ends_next(None, Some(&told), &visited, later(heard, 7));
        let want = Some(HOUR as i64 + 61_000);
        assert_eq!(shown(&next, start), (want, Some("idle")));
    }

    #[test]
    fn while_the_link_is_away_the_servers_patience_counts() {
        let start = start();
        let terms = terms(start, Some(standing(start, Some(HOUR))), HOUR);
        let away = Seen {
            up: false,
            away: Some(start.wall),
            ..up(start)
        };
        let now = later(start, 5 * HOUR);
        let next = ends_next(None, Some(&terms), &away, now);
        let want = Some(24 * HOUR as i64);
        assert_eq!(shown(&next, start), (want, Some("offline")));

        let sooner = Some(WallTime::from_millis(
            start.wall.as_millis() + AHEAD + 6 * HOUR as i64,
        ));
        let next = ends_next(sooner, Some(&terms), &away, now);
        let want = Some(6 * HOUR as i64);
        assert_eq!(shown(&next, start), (want, Some("expires")));
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let start = start();
        let shown = |next: EndsNextJson| (next.at, next.why);
        let why = |text: &str| (None, Some(text.to_owned()));
        // Started without a link: nothing was heard yet.
        let away = Seen::default();
        assert_eq!(shown(ends_next(None, None, &away, start)), why("offline"));
        // A server of an older release does not say how much is used up.
        let old = terms(start, None, HOUR);
        let next = ends_next(None, Some(&old), &up(start), start);
        assert_eq!(shown(next), why("idle"));
        let never = terms(start, None, Bind::NEVER);
        let next = ends_next(None, Some(&never), &up(start), start);
        assert_eq!(shown(next), (None, None));
    }
}
