//! Questions on the control stream and who waits for their answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::admin::ApiError;
use crate::codes::Code;
use crate::engine::book::BookRow;
use crate::names::TunnelId;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Open a tunnel, or take it back.
    Bind(TunnelId),
    /// End a tunnel.
    Close(TunnelId),
    /// Change a tunnel's policy.
    Set(TunnelId),
    /// Make a share link.
    Share,
    /// Tell of the share links of a tunnel.
    Shares,
    /// Withdraw a share link.
    Unshare,
    /// Give up everything.
    Leave,
}

/// The answer: the tunnel as it is now, where there is one.
pub(super) type Answer = Result<Option<BookRow>, ApiError>;

/// Who waits for the answer, if anybody does.
pub(super) type Waiter = Option<oneshot::Sender<Answer>>;

type Open = HashMap<u64, (Question, Waiter)>;

#[derive(Default)]
pub(super) struct Requests {
    next: AtomicU64,
    open: Mutex<Open>,
}

impl Requests {
    /// Numbers a question. Its answer comes to the receiver, if anybody keeps it.
    pub(super) fn ask(&self, question: Question) -> (u64, oneshot::Receiver<Answer>) {
        let request = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (tx, rx) = oneshot::channel();
        self.lock().insert(request, (question, Some(tx)));
        (request, rx)
    }

    /// What a number asked; asks no more afterwards.
    pub(super) fn take(&self, request: u64) -> Option<(Question, Waiter)> {
        self.lock().remove(&request)
    }

    /// How many have no answer yet.
    pub(super) fn open(&self) -> usize {
        self.lock().len()
    }

    /// The link is gone: nobody answers any more.
    pub(super) fn link_lost(&self) {
        for (_, waiter) in self.lock().drain().map(|(_, v)| v) {
            if let Some(waiter) = waiter {
                let lost = ApiError::new(
                    Code::ServerUnreachable,
                    "the link was lost before the server answered",
                );
                let _ = waiter.send(Err(lost));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open
            .lock()
            .expect("nothing panics while it holds the questions")
    }
}
