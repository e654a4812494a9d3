//! What everything on one QUIC connection shares: the way to end it, and what the peer may still send
//! that serves no visit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use tracing::debug;

use super::codes::{Code, Trouble};
use crate::http::limits::{FRAMES_BURST, FRAMES_PER_SECOND, RESET_COST};
use crate::times::Clock;

/// Bytes of field sections that are not whole, over all streams of a connection: what a visitor that ends
/// none of them costs us. Seven of the largest.
const HELD_MAX: usize = 256 * 1024;

/// One visitor's QUIC connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) quic: quinn::Connection,
    /// What may still come, and as of when.
    allowance: Mutex<(f64, Instant)>,
    /// Bytes of field sections that are not whole.
    held: AtomicUsize,
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl Line {
    pub(super) fn new(quic: quinn::Connection) -> Self {
        Self {
            quic,
            allowance: Mutex::new((f64::from(FRAMES_BURST), now())),
            held: AtomicUsize::new(0),
        }
    }

    /// Ends the connection.
    pub(super) fn fail(&self, code: Code) {
        debug!(peer = %self.quic.remote_address(), ?code, "http/3 connection ended");
        self.quic.close(code.wire(), b"");
    }

    /// A stream holds so much now of a field section that is not whole; over the bound for all of them the
    /// connection must end.
    pub(super) fn hold(&self, before: usize, now: usize) -> Result<(), Trouble> {
        if now <= before {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
            return Ok(());
        }
        let more = now - before;
        if self.held.fetch_add(more, Ordering::Relaxed) + more > HELD_MAX {
            return Err(Trouble::Connection(Code::EXCESSIVE_LOAD));
        }
        Ok(())
    }

    /// Counts a request that the visitor spoilt or took back: it may have cost a visit to the origin.
    pub(super) fn charge_reset(&self) {
        if let Err(Trouble::Connection(code)) = self.charge(RESET_COST) {
            self.fail(code);
        }
    }

    /// Counts something of no use for any visit; over the bound the connection must end.
    pub(super) fn charge(&self, cost: u32) -> Result<(), Trouble> {
        let mut allowance = self
            .allowance
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (left, since) = *allowance;
        let now = now();
        let earned =
            now.saturating_duration_since(since).as_secs_f64() * f64::from(FRAMES_PER_SECOND);
        let left = (left + earned).min(f64::from(FRAMES_BURST)) - f64::from(cost);
        *allowance = (left, now);
        if left < 0.0 {
            return Err(Trouble::Connection(Code::EXCESSIVE_LOAD));
        }
        Ok(())
    }
}
