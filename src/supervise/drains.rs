//! The way in for whoever asks the process to end over its admin socket, as a signal would. Not the end
//! itself: that is the role's own drain, and who runs it is one module up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::times::{Clock, WallTime};

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
pub(crate) struct Stand {
    /// Somebody will act on what is asked.
    heeded: bool,
    /// When what is left will be cut, once it has begun.
    pub(crate) ends_by: Option<WallTime>,
    /// Whether all visits came to their end, once it is over.
    pub(crate) finished: Option<bool>,
}

impl Stand {
    /// Whether it has begun and is not over.
    pub(crate) const fn goes_on(&self) -> bool {
        self.ends_by.is_some() && self.finished.is_none()
    }
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

    // The side of who asks.

    /// Asks, and waits until the drain is over. False when nobody acts on it: the daemon is a part of a
    /// process that ends otherwise.
    pub(crate) async fn ask(&self, grace: Option<Duration>) -> bool {
        let mut stand = self.0.stand.subscribe();
        if !stand.borrow().heeded {
            return false;
        }
        // Full: two have asked already, and it ends at once anyway.
        let _ = self.0.ask.try_send(grace);
        // The sender is in here, so the wait only ends with the drain.
        let _ = stand.wait_for(|stand| stand.finished.is_some()).await;
        true
    }

    /// How far it is.
    pub(crate) fn stand(&self) -> Stand {
        *self.0.stand.borrow()
    }
}
