//! What became of visits, in numbers. Not a log: nothing in here tells one visit from another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{StatusCode, Version};

use crate::codes::Code;
use crate::telemetry::metrics::Durations;

const CLASSES: usize = 5;

/// The HTTP versions that are told apart.
const VERSIONS: [(Version, &str); 4] = [
    (Version::HTTP_10, "1.0"),
    (Version::HTTP_11, "1.1"),
    (Version::HTTP_2, "2"),
    (Version::HTTP_3, "3"),
];

/// Counts visits that are over.
#[derive(Debug)]
pub struct Tally {
    /// Requests, in the order of [`VERSIONS`].
    asked: [AtomicU64; VERSIONS.len()],
    /// Those that an origin answered, by the first digit of the status.
    answered: [AtomicU64; CLASSES],
    /// Those that got an answer of ours, in the order of the table of codes.
    refused: Vec<AtomicU64>,
    durations: Durations,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            asked: Default::default(),
            answered: Default::default(),
            refused: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            durations: Durations::default(),
        }
    }
}

impl Tally {
    /// A request has come.
    pub(super) fn asked(&self, version: Version) {
        let row = VERSIONS.iter().position(|(known, _)| *known == version);
        if let Some(count) = row.and_then(|row| self.asked.get(row)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each HTTP version with how many requests came over it.
    pub fn versions(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let asked = VERSIONS.iter().zip(&self.asked);
        asked.map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
    }

    /// A visit that an origin answered is over.
    pub(super) fn answered(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.answered[class].fetch_add(1, Ordering::Relaxed);
        self.durations.note(took);
    }

    /// A visit got an answer of ours.
    pub(super) fn refused(&self, code: Code, took: Duration) {
        let row = Code::ALL.iter().position(|known| *known == code);
        if let Some(count) = row.and_then(|row| self.refused.get(row)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.durations.note(took);
    }

    /// Each class of status with its count: all of the origins', and those of ours that there were.
    pub fn counts(&self) -> impl Iterator<Item = (u16, Option<Code>, u64)> + '_ {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let answered = (1..).zip(&self.answered);
        let answered = answered.map(move |(class, count)| (class, None, load(count)));
        let refused = Code::ALL.iter().zip(&self.refused);
        let refused =
            refused.map(move |(code, count)| (code.status() / 100, Some(*code), load(count)));
        answered.chain(refused.filter(|(_, _, count)| *count > 0))
    }

    /// How long they took.
    pub const fn durations(&self) -> &Durations {
        &self.durations
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn requests_are_counted_by_version() {
        let tally = Tally::default();
        tally.asked(Version::HTTP_3);
        tally.asked(Version::HTTP_3);
        tally.asked(Version::HTTP_11);
        let all: Vec<_> = tally.versions().collect();
        assert_eq!(all, [("1.0", 0), ("1.1", 1), ("2", 0), ("3", 2)]);
    }

    #[test]
    fn answers_are_counted_by_class_and_refusals_by_code() {
        let tally = Tally::default();
        tally.answered(StatusCode::OK, Duration::ZERO);
        tally.answered(StatusCode::CREATED, Duration::ZERO);
        tally.refused(Code::NoSuchTunnel, Duration::ZERO);
        let some: Vec<_> = tally.counts().filter(|(.., count)| *count > 0).collect();
        assert_eq!(some, [(2, None, 2), (4, Some(Code::NoSuchTunnel), 1)]);
        assert_eq!(
            tally.counts().count(),
            CLASSES + 1,
            "no row for what never was"
        );
    }
}
