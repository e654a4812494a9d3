//! The only caller of `tokio::spawn`: every task has an owner that can stop it and wait for it.
//! Not a supervisor: what a task's end means is decided by the role that spawned it.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// A group of tasks with one stop signal. Clones share the group.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops when this one does, and can be stopped and awaited alone.
    pub fn child(&self) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: self.stop.child_token(),
        }
    }

    /// Starts a task owned by this group.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one owner of spawned tasks"
    )]
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(
            self.tracker
                .track_future(task.instrument(tracing::trace_span!("task", name))),
        )
    }

    /// Starts a task without which the process is no use: if it panics or returns before the stop
    /// signal, the group stops, so that the process ends rather than staying alive but deaf.
    pub fn spawn_critical<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = StopOnDrop {
            stop: self.stop.clone(),
            name,
        };
        self.spawn(name, async move {
            let _guard = guard;
            task.await;
        });
    }

    /// The signal that tells every task of the group to stop.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells every task to stop; does not wait.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// How many tasks run now, for tests and status.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Tells every task to stop and waits; false when some were still running at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.finished(deadline).await
    }

    /// Waits until no task runs, without telling any to stop; false at the deadline.
    pub async fn finished(&self, deadline: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
    }
}

struct StopOnDrop {
    stop: CancellationToken,
    name: &'static str,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!(task = self.name, "critical task ended, stopping");
            self.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_waits_for_its_tasks() {
        let tasks = Tasks::new();
        let stop = tasks.stopped();
        tasks.spawn("test", async move { stop.cancelled().await });
        assert!(!tasks.finished(Duration::from_secs(1)).await);
        assert!(tasks.shutdown(Duration::from_secs(1)).await);
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_critical_task_that_panics_stops_the_group() {
        let tasks = Tasks::new();
        tasks.spawn_critical("doomed", async { panic!("on purpose") });
        tasks.stopped().cancelled().await;
    }
}
