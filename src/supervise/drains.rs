//! The way in for whoever asks the process to end over its admin socket, as a signal would. Not the end
//! itself: that is the role's own drain, and who runs it is one module up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::admin::drain::{DrainAsk, DrainJson};
use crate::admin::{ApiError, Caller};
use crate::codes::Code;
use crate::times::{Clock, WallTime, parse_duration};

/// The longest grace that may be asked for.
const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Asks that nobody has taken yet; the second one says all that a third could.
const ASKS: usize = 2;

/// Clones are the same way in.
#[derive(Debug, Clone)]
pub(crate) struct Drains(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ask: mpsc::Sender<Option<Duration>>,
    asked: tokio::sync::Mutex<mpsc::Receiver<Option<Duration>>>,
    stand: watch::Sender<Stand>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default)]
struct Stand {
    /// Somebody will act on what is asked.
    heeded: bool,
    ends_by: Option<WallTime>,
    finished: Option<bool>,
}

impl Drains {
    pub(crate) fn new() -> Self {
        let (ask, asked) = mpsc::channel(ASKS);
        Self(Arc::new(Inner {
            ask,
            asked: tokio::sync::Mutex::new(asked),
            stand: watch::channel(Stand::default()).0,
        }))
    }

    // The supervisor's side.

    /// From now on somebody acts on what is asked.
    pub(crate) fn heed(&self) {
        self.0.stand.send_modify(|stand| stand.heeded = true);
    }

    /// Waits for the next ask: the grace wished for, or none. One waits at a time.
    pub(crate) async fn asked(&self) -> Option<Duration> {
        let next = self.0.asked.lock().await.recv().await;
        // This keeps a sender itself, so there is always a next one to wait for.
        next.flatten()
    }

    /// The drain begins.
    pub(crate) fn begin(&self, grace: Duration) {
        let ends_by = Clock.now().wall.plus(grace);
        self.0
            .stand
            .send_modify(|stand| stand.ends_by = Some(ends_by));
    }

    /// It is over; whether all visits came to their end.
    pub(crate) fn end(&self, finished: bool) {
        self.0
            .stand
            .send_modify(|stand| stand.finished = Some(finished));
    }

    // The admin API's side. `visits` counts those that go on.

    /// Asks, and waits until the drain is over.
    pub(crate) async fn drain(
        &self,
        caller: Caller,
        ask: DrainAsk,
        visits: impl Fn() -> u64,
    ) -> Result<DrainJson, ApiError> {
        let grace = grace_of(&ask)?;
        let mut stand = self.0.stand.subscribe();
        if !stand.borrow().heeded {
            return Err(ApiError::new(
                Code::Conflict,
                "this daemon is part of another process, which has to be ended itself",
            ));
        }
        tracing::info!(uid = caller.uid, ?grace, "drain asked for");
        // Full: two have asked already, and it ends at once anyway.
        let _ = self.0.ask.try_send(grace);
        // The sender is in here, so the wait only ends with the drain.
        let _ = stand.wait_for(|stand| stand.finished.is_some()).await;
        Ok(self.stand(visits()))
    }

    /// How far it is.
    pub(crate) fn stand(&self, visits: u64) -> DrainJson {
        let stand = *self.0.stand.borrow();
        DrainJson {
            draining: stand.ends_by.is_some(),
            visits,
            ends_by: stand.ends_by,
            finished: stand.finished,
        }
    }
}

fn grace_of(ask: &DrainAsk) -> Result<Option<Duration>, ApiError> {
    let Some(text) = &ask.grace else {
        return Ok(None);
    };
    let usage = |detail: String| ApiError::new(Code::Usage, detail);
    let grace = parse_duration(text).map_err(|err| usage(format!("grace: {err}")))?;
    if grace > GRACE_MAX {
        return Err(usage("grace: at most 24h".to_owned()));
    }
    Ok(Some(grace))
}
