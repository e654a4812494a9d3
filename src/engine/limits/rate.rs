//! How often something may happen: `50/s`, `10/m burst 30`; and the bucket that counts it.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What a rate counts per.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Per {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Per {
    const fn duration(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }

    const fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }
}

/// So many per second, minute or hour, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate {
    count: NonZeroU32,
    per: Per,
    burst: NonZeroU32,
}

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no rate; write 50/s, 100/m or 10/h, and perhaps: 50/s burst 200")]
pub struct RateError {
    text: String,
}

/// The most of a rate and of a burst: beyond it no visit is ever refused.
const MOST: u32 = 1_000_000;

impl Rate {
    /// So many per unit; the burst is one second's worth, at least 1.
    ///
    /// # Panics
    /// Never for a count within 1 to 1,000,000, which is what constants have.
    pub const fn new(count: u32, per: Per) -> Self {
        let count = NonZeroU32::new(count).expect("a constant rate is at least 1");
        Self {
            count,
            per,
            burst: one_second(count, per),
        }
    }

    /// The same with another burst; 0 is 1.
    #[must_use]
    pub const fn burst(self, burst: u32) -> Self {
        let burst = match NonZeroU32::new(burst) {
            Some(burst) => burst,
            None => NonZeroU32::MIN,
        };
        Self { burst, ..self }
    }

    /// How many may come at once.
    pub const fn at_once(self) -> NonZeroU32 {
        self.burst
    }

    /// How many a second in the long run, rounded up.
    pub fn per_second(self) -> u32 {
        let secs = u32::try_from(self.per.duration().as_secs()).unwrap_or(u32::MAX);
        self.count.get().div_ceil(secs)
    }

    /// The time that one takes.
    fn each(self) -> Duration {
        self.per.duration() / self.count.get()
    }
}

/// One second's worth, at least 1.
const fn one_second(count: NonZeroU32, per: Per) -> NonZeroU32 {
    let worth = count.get() as u64 / per.duration().as_secs();
    match NonZeroU32::new(worth as u32) {
        Some(worth) => worth,
        None => NonZeroU32::MIN,
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.letter())?;
        if self.burst == one_second(self.count, self.per) {
            return Ok(());
        }
        write!(f, " burst {}", self.burst)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        read(text.trim()).ok_or_else(|| RateError {
            text: text.chars().take(64).collect(),
        })
    }
}

fn read(text: &str) -> Option<Rate> {
    let (rate, burst) = match text.split_once(" burst ") {
        Some((rate, burst)) => (rate, Some(number(burst)?)),
        None => (text, None),
    };
    let (count, unit) = rate.split_once('/')?;
    let per = match unit.trim() {
        "s" => Per::Second,
        "m" => Per::Minute,
        "h" => Per::Hour,
        _ => return None,
    };
    let rate = Rate::new(number(count)?, per);
    Some(burst.map_or(rate, |burst| rate.burst(burst)))
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (1..=MOST).contains(&number).then_some(number)
}

/// Counts what a [`Rate`] allows. One instant, however many come: when all that was taken has been earned
/// back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    paid_at: Option<Instant>,
}

impl Bucket {
    /// Whether one more may come now; else in how long.
    pub fn peek(&self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let owed = self.owed(now);
        let room = rate.each().saturating_mul(rate.burst.get() - 1);
        if owed <= room {
            Ok(())
        } else {
            Err(owed - room)
        }
    }

    /// Counts one, whether or not there is room for it.
    pub fn count(&mut self, now: Instant, rate: Rate) {
        let owed = self.owed(now).saturating_add(rate.each());
        // A flood that is counted while it is refused must not lock its source out for days.
        let most = rate.each().saturating_mul(rate.burst.get());
        self.paid_at = now.checked_add(owed.min(most));
    }

    /// Takes one if there is room; else says in how long there is.
    pub fn take(&mut self, now: Instant, rate: Rate) -> Result<(), Duration> {
        self.peek(now, rate)?;
        self.count(now, rate);
        Ok(())
    }

    /// Gives one back that should not have counted.
    pub fn give_back(&mut self, now: Instant, rate: Rate) {
        let owed = self.owed(now).saturating_sub(rate.each());
        self.paid_at = now.checked_add(owed);
    }

    /// Whether forgetting it changes nothing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.owed(now).is_zero()
    }

    fn owed(&self, now: Instant) -> Duration {
        self.paid_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}
