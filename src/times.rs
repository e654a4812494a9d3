//! Two clocks and the texts of times and durations. Not a timer: waiting is the adapters' business.
//!
//! Monotonic time drives timeouts and limits; wall time drives expiry, because tunnels outlive the
//! process.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::{Span, SpanRelativeTo, Timestamp};

/// A wall-clock instant: unix milliseconds, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(i64);

impl WallTime {
    /// From unix milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Unix milliseconds.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This instant plus a duration; saturates at the far future.
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long from `earlier` to here; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses RFC 3339 text.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<Timestamp>()
            .ok()
            .map(|t| Self(t.as_millisecond()))
    }
}

/// The first and the last instant that RFC 3339 can write: within the years 0 to 9999, as far as jiff goes.
const WRITABLE: (i64, i64) = (-62_167_219_200_000, 253_402_207_200_000);

/// RFC 3339, UTC, always milliseconds and `Z`: the same text for the same instant for ever. What lies
/// beyond is shown as the nearest instant: a peer may name any number, and a list with it stays readable.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = WRITABLE;
        match Timestamp::from_millisecond(self.0.clamp(first, last)) {
            Ok(t) => write!(f, "{}", t.strftime("%Y-%m-%dT%H:%M:%S.%3fZ")),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl serde::Serialize for WallTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for WallTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

/// Both clocks at one moment, handed to every engine call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timeouts and limits. Stands still while a Linux machine sleeps.
    pub monotonic: Instant,
    /// For expiry. May step.
    pub wall: WallTime,
}

/// Reads both clocks; the one lawful caller of the two `now` functions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// Both clocks, now. Under tokio's paused time the monotonic one is tokio's.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock the others are sent to"
    )]
    pub fn now(self) -> Now {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        Now {
            monotonic: tokio::time::Instant::now().into_std(),
            wall: WallTime(wall),
        }
    }
}

/// Why a text is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It does not read as one.
    #[error("{text:?} is not a duration; write 30s, 30m, 8h, 7d or 1h30m")]
    Unreadable {
        /// What was given.
        text: String,
    },
    /// Negative or beyond a thousand years.
    #[error("{text:?} is out of range")]
    OutOfRange {
        /// What was given.
        text: String,
    },
}

const LONGEST: Duration = Duration::from_secs(1000 * 366 * 86_400);

/// Reads `30s`, `30m`, `8h`, `7d`, `2w`, `1h30m`, `500ms`; a day is 24 hours.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unreadable = || DurationError::Unreadable {
        text: text.to_owned(),
    };
    let out_of_range = || DurationError::OutOfRange {
        text: text.to_owned(),
    };
    // ISO 8601 ("P1D") is jiff's other dialect; here only what people type.
    if text.starts_with(['P', 'p', '+', '-']) || text.is_empty() {
        return Err(unreadable());
    }
    let span: Span = text.parse().map_err(|_| unreadable())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(unreadable());
    }
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| out_of_range())?;
    let duration = Duration::try_from(signed).map_err(|_| out_of_range())?;
    if duration > LONGEST {
        Err(out_of_range())
    } else {
        Ok(duration)
    }
}

/// Prints a duration for people in at most two units: `2d 3h`, `29m 58s`, `250ms`.
pub fn show_duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let Some(first) = units.iter().position(|(_, size)| secs >= *size) else {
        return format!("{}ms", duration.as_millis());
    };
    let (name, size) = units[first];
    let rest = units
        .get(first + 1)
        .map(|(next, small)| (next, secs % size / small));
    match rest {
        Some((next, amount)) if amount > 0 => format!("{}{name} {amount}{next}", secs / size),
        _ => format!("{}{name}", secs / size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let secs = |s| Ok(Duration::from_secs(s));
        assert_eq!(parse_duration("30s"), secs(30));
        assert_eq!(parse_duration("30m"), secs(1800));
        assert_eq!(parse_duration("1h30m"), secs(5400));
        assert_eq!(parse_duration("7d"), secs(7 * 86_400));
        assert_eq!(parse_duration("0s"), secs(0));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "soon", "-5m", "5", "P1D", "1mo", "99999y"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_instant_has_one_text() {
        let t = WallTime::from_millis(1_700_000_000_000);
        assert_eq!(t.to_string(), "2023-11-14T22:13:20.000Z");
        assert_eq!(WallTime::parse_rfc3339(&t.to_string()), Some(t));
    }

    #[test]
    fn every_number_has_a_text_that_can_be_read() {
        for (millis, text) in [
            (i64::MAX, "9999-12-30T22:00:00.000Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            let shown = WallTime::from_millis(millis).to_string();
            assert_eq!(shown, text);
            assert!(WallTime::parse_rfc3339(&shown).is_some(), "{shown}");
        }
    }

    #[test]
    fn durations_show_in_two_units() {
        assert_eq!(show_duration(Duration::from_secs(1798)), "29m 58s");
        assert_eq!(show_duration(Duration::from_secs(86_400)), "1d");
        assert_eq!(show_duration(Duration::from_millis(250)), "250ms");
    }
}
