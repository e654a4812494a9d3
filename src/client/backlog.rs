//! Tunnels of which the server is still to be told, and how many questions it is asked at once. However
//! many a client has, none is left out, and neither end keeps more than a few of them on its way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::names::TunnelId;

/// Questions without an answer yet; above it, those of the backlog wait.
const UNANSWERED: usize = 512;

/// Ids only: what is said of each is looked up when its turn comes.
#[derive(Default)]
pub(super) struct Backlog {
    waiting: Mutex<VecDeque<TunnelId>>,
    /// There is something new, or an answer made room.
    moved: Notify,
}

impl Backlog {
    /// A link is up: all of these, and nothing of before.
    pub(super) fn fill(&self, ids: impl IntoIterator<Item = TunnelId>) {
        let mut waiting = self.lock();
        waiting.clear();
        waiting.extend(ids);
    }

    /// One more, at the end.
    pub(super) fn push(&self, id: TunnelId) {
        let mut waiting = self.lock();
        // Each is in here once: what is said when its turn comes is what is true then.
        if !waiting.contains(&id) {
            waiting.push_back(id);
        }
        drop(waiting);
        self.moved.notify_one();
    }

    /// An answer came.
    pub(super) fn answered(&self) {
        self.moved.notify_one();
    }

    /// The next one, as soon as fewer than so many questions are open. Dropping the future loses nothing.
    pub(super) async fn next(&self, unanswered: impl Fn() -> usize) -> TunnelId {
        loop {
            if unanswered() < UNANSWERED
                && let Some(id) = self.lock().pop_front()
            {
                return id;
            }
            self.moved.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<TunnelId>> {
        self.waiting
            .lock()
            .expect("nothing panics while it holds the backlog")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll(backlog: &Backlog, unanswered: usize) -> Poll<TunnelId> {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(backlog.next(|| unanswered)).poll(&mut cx)
    }

    #[test]
    fn all_come_in_turn_and_only_while_few_are_unanswered() {
        let ids: Vec<TunnelId> = (0..3).map(|_| TunnelId::random()).collect();
        let backlog = Backlog::default();
        backlog.fill(ids.clone());
        backlog.push(ids[2]);
        assert_eq!(poll(&backlog, UNANSWERED), Poll::Pending);
        for id in ids {
            assert_eq!(poll(&backlog, UNANSWERED - 1), Poll::Ready(id));
        }
        assert_eq!(poll(&backlog, 0), Poll::Pending, "each came once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_makes_room_for_the_next() {
        let backlog = Backlog::default();
        let id = TunnelId::random();
        let open = std::sync::atomic::AtomicUsize::new(UNANSWERED);
        let read = || open.load(std::sync::atomic::Ordering::Relaxed);
        backlog.fill([id]);
        let answer = async {
            tokio::task::yield_now().await;
            open.store(UNANSWERED - 1, std::sync::atomic::Ordering::Relaxed);
            backlog.answered();
        };
        let (next, ()) = tokio::join!(backlog.next(read), answer);
        assert_eq!(next, id);
    }
}
