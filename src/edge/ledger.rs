//! What the guard below hyper and the service above it tell each other about one HTTP/1 connection.
//! hyper hands requests over in the order of their heads, so a number is enough to tell which is which.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::http::HeadError;

/// Shared by the two ends of one connection.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: Mutex<Entries>,
    /// Requests that the service has seen.
    seen: AtomicU64,
    /// Whether hyper is not needed for the time being.
    resting: AtomicBool,
}

#[derive(Debug, Default)]
struct Entries {
    /// Heads handed to hyper.
    delivered: u64,
    /// Answers whose body hyper has let go of.
    finished: u64,
    refused: Option<(u64, HeadError)>,
    bad_body: bool,
    verdict: Option<(u64, bool)>,
    waiting: Option<Waker>,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Plain values: a panic cannot leave them half changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Guard: a head goes to hyper. Its number.
    pub(super) fn deliver(&self) -> u64 {
        let mut entries = self.entries();
        entries.delivered += 1;
        entries.delivered
    }

    /// Guard: the next head hyper gets is made up, and stands for a refused one.
    pub(super) fn refuse(&self, error: HeadError) {
        let mut entries = self.entries();
        entries.delivered += 1;
        entries.refused = Some((entries.delivered, error));
    }

    /// Guard: a body broke its framing.
    pub(super) fn break_body(&self) {
        self.entries().bad_body = true;
    }

    /// Guard: whether every request has had its answer.
    pub(super) fn is_idle(&self) -> bool {
        let entries = self.entries();
        entries.delivered == entries.finished
    }

    /// Guard: whether the request of that number was answered with a 101.
    pub(super) fn poll_verdict(&self, number: u64, cx: &mut Context<'_>) -> Poll<bool> {
        let mut entries = self.entries();
        match entries.verdict {
            Some((settled, switched)) if settled == number => Poll::Ready(switched),
            _ => {
                entries.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Guard: hyper has nothing left to do, or something again.
    pub(super) fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::Relaxed);
    }

    /// Connection: whether hyper may be let go, until there is something to do.
    pub(super) fn is_resting(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// Service: the number of the request at hand.
    pub(super) fn next_number(&self) -> u64 {
        self.seen.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Service: why the request of that number is no real one.
    pub(super) fn refusal(&self, number: u64) -> Option<HeadError> {
        match self.entries().refused {
            Some((refused, error)) if refused == number => Some(error),
            _ => None,
        }
    }

    /// Service: whether a body broke its framing; it was the last thing on the connection.
    pub(super) fn has_bad_body(&self) -> bool {
        self.entries().bad_body
    }

    /// Service: how the request of that number was answered.
    pub(super) fn settle(&self, number: u64, switched: bool) {
        let mut entries = self.entries();
        entries.verdict = Some((number, switched));
        if let Some(waker) = entries.waiting.take() {
            waker.wake();
        }
    }

    /// Service: one more answer has left.
    pub(super) fn finish(&self) {
        self.entries().finished += 1;
    }
}
