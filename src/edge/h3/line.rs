//! What everything on one QUIC connection shares: the way to end it, and what the peer may still send
//! that serves no visit.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;
use tracing::debug;

use super::codes::{Code, Trouble};
use crate::http::limits::{FRAMES_BURST, FRAMES_PER_SECOND};
use crate::times::Clock;

/// One visitor's QUIC connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) quic: quinn::Connection,
    /// What may still come, and as of when.
    allowance: Mutex<(f64, Instant)>,
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl Line {
    pub(super) fn new(quic: quinn::Connection) -> Self {
        Self {
            quic,
            allowance: Mutex::new((f64::from(FRAMES_BURST), now())),
        }
    }

    /// Ends the connection.
    pub(super) fn fail(&self, code: Code) {
        debug!(peer = %self.quic.remote_address(), ?code, "http/3 connection ended");
        self.quic.close(code.wire(), b"");
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
