//! The thread that owns the writing connection: group commits, replies after the fsync, checkpoints.
//! Knows nothing of tables; a [`Batch`] applies itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::{StoreError, open};

/// What is called once a commit is on disk, or has failed. Runs on the writer's thread: be brief.
pub type CommitDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What one commit changes; all of it or nothing.
pub(super) trait Batch: Send + 'static {
    /// Runs the statements inside the transaction that is open.
    fn apply(&self, conn: &Connection) -> rusqlite::Result<()>;
}

// A thousand returning clients fit four times over; beyond that, callers wait or hear Busy.
const QUEUE: usize = 4096;

// Checkpoint when the log has grown to this; a start after a crash replays no more than that.
const WAL_LIMIT: u64 = 4 << 20;

/// The handle; clones share the thread.
#[derive(Debug)]
pub(super) struct Writer<B> {
    queue: mpsc::Sender<Work<B>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    groups: Arc<AtomicU64>,
}

impl<B> Clone for Writer<B> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            thread: self.thread.clone(),
            groups: self.groups.clone(),
        }
    }
}

impl<B: Batch> Writer<B> {
    /// Starts the thread.
    pub(super) fn start(conn: Connection, path: PathBuf) -> Result<Self, StoreError> {
        let (queue, inbox) = mpsc::channel(QUEUE);
        let groups = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            conn,
            inbox,
            groups: groups.clone(),
            failing: false,
            path: path.clone(),
        };
        let thread = Builder::new()
            .name("store-writer".into())
            .spawn(move || worker.run())
            .map_err(|source| StoreError::io(&path, source))?;
        Ok(Self {
            queue,
            thread: Arc::new(Mutex::new(Some(thread))),
            groups,
        })
    }

    /// Waits for room in the queue, then for the fsync. Once queued, it is carried out even if the
    /// caller goes away.
    pub(super) async fn commit(&self, batch: B) -> Result<(), StoreError> {
        let (tell, told) = oneshot::channel();
        let done = Done::new(Box::new(move |result| {
            // Whoever asked may be gone.
            let _ = tell.send(result);
        }));
        self.queue
            .send(Work::Commit(Job { batch, done }))
            .await
            .map_err(|_| StoreError::Closed)?;
        told.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Queues without waiting. On an error `done` is not called, else exactly once.
    pub(super) fn commit_then(&self, batch: B, done: CommitDone) -> Result<(), StoreError> {
        let done = Done::new(done);
        let (err, work) = match self.queue.try_send(Work::Commit(Job { batch, done })) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(work)) => (StoreError::Busy, work),
            Err(mpsc::error::TrySendError::Closed(work)) => (StoreError::Closed, work),
        };
        if let Work::Commit(mut job) = work {
            job.done.disarm();
        }
        Err(err)
    }

    /// Commits what is queued, folds the log, closes the database and joins the thread.
    pub(super) async fn close(self) {
        // A writer that is gone has nothing left to do.
        let _ = self.queue.send(Work::Stop).await;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else {
            return self.queue.closed().await;
        };
        if !matches!(
            tokio::task::spawn_blocking(move || thread.join()).await,
            Ok(Ok(()))
        ) {
            error!("the store's writer had panicked");
        }
    }

    /// Resolves when the thread is gone: closed, or dead.
    pub(super) async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Transactions committed so far.
    pub(super) fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    /// Resolves when the writer has come round to this: it is there, and works through its queue.
    pub(super) async fn answers(&self) -> Result<(), StoreError> {
        let (tell, told) = oneshot::channel();
        let round = Work::Do(Box::new(move |_| {
            // Whoever asked may be gone.
            let _ = tell.send(());
        }));
        let sent = self.queue.send(round).await;
        sent.map_err(|_| StoreError::Closed)?;
        told.await.map_err(|_| StoreError::Closed)
    }

    /// Runs something on the writer's connection, in its place in the queue.
    #[cfg(test)]
    pub(super) async fn with_connection(&self, work: impl FnOnce(&Connection) + Send + 'static) {
        let sent = self.queue.send(Work::Do(Box::new(work))).await;
        assert!(sent.is_ok(), "the writer is there");
    }
}

enum Work<B> {
    Commit(Job<B>),
    Stop,
    Do(Box<dyn FnOnce(&Connection) + Send>),
}

struct Job<B> {
    batch: B,
    done: Done,
}

/// Answers exactly once: a job that is dropped unanswered (the thread is gone) answers `Closed`.
struct Done(Option<CommitDone>);

impl Done {
    fn new(done: CommitDone) -> Self {
        Self(Some(done))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }

    fn answer(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(StoreError::Closed));
        }
    }
}

struct Worker<B> {
    conn: Connection,
    inbox: mpsc::Receiver<Work<B>>,
    groups: Arc<AtomicU64>,
    failing: bool,
    path: PathBuf,
}

impl<B: Batch> Worker<B> {
    fn run(mut self) {
        while let Some(first) = self.inbox.blocking_recv() {
            let (group, next) = self.gather(first);
            if !group.is_empty() {
                self.commit(group);
                self.fold_if_long();
            }
            match next {
                Some(Work::Stop) => break,
                Some(Work::Do(work)) => work(&self.conn),
                Some(Work::Commit(_)) | None => {}
            }
        }
        self.finish();
    }

    /// All commits queued now, and what stands behind them.
    fn gather(&mut self, first: Work<B>) -> (Vec<Job<B>>, Option<Work<B>>) {
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(Work::Commit(job)) = next {
            group.push(job);
            next = if group.len() < QUEUE {
                self.inbox.try_recv().ok()
            } else {
                None
            };
        }
        (group, next)
    }

    fn commit(&mut self, group: Vec<Job<B>>) {
        let mut whole = self.transact(group.iter().map(|job| &job.batch));
        if whole.as_ref().is_err_and(is_full) {
            // A log that is folded in is written over from its start, which takes no new room.
            self.fold("PRAGMA wal_checkpoint(PASSIVE)");
            whole = self.transact(group.iter().map(|job| &job.batch));
        }
        if group.len() == 1 || whole.is_ok() {
            let mut whole = Some(whole);
            for job in group {
                let result = whole.take().unwrap_or(Ok(()));
                self.answer(job.done, result);
            }
            return;
        }
        // One of them spoils the group; alone, only that one fails.
        for job in group {
            let result = self.transact(std::iter::once(&job.batch));
            self.answer(job.done, result);
        }
    }

    fn transact<'a>(&self, batches: impl Iterator<Item = &'a B>) -> rusqlite::Result<()> {
        if !self.conn.is_autocommit() {
            // A full disk can fail even the rollback of the last one.
            self.conn.execute_batch("ROLLBACK")?;
        }
        let group = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
        for batch in batches {
            batch.apply(&group)?;
        }
        group.commit()?;
        self.groups.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn answer(&mut self, done: Done, result: rusqlite::Result<()>) {
        let result = result.map_err(|source| StoreError::sql(&self.path, source));
        self.note(&result);
        done.answer(result);
    }

    /// Says once that writing fails, and once that it works again.
    fn note(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                info!("the state database takes writes again");
            }
            Ok(()) | Err(StoreError::Refused { .. }) => {}
            Err(err) if !self.failing => {
                self.failing = true;
                error!(%err, "the state database takes no writes");
            }
            Err(_) => {}
        }
    }

    fn fold_if_long(&self) {
        let wal = std::fs::metadata(open::wal_of(&self.path)).map_or(0, |meta| meta.len());
        if wal > WAL_LIMIT {
            // Passive: readers are not waited for, the next commit tries again.
            self.fold("PRAGMA wal_checkpoint(PASSIVE)");
        }
    }

    fn fold(&self, how: &str) {
        match self.conn.query_row(how, [], |_| Ok(())) {
            Ok(()) => {}
            // Said already, and every commit that is tried comes by here.
            Err(err) if self.failing => debug!(%err, "log not folded in"),
            Err(err) => warn!(%err, "the state database's log could not be folded in"),
        }
    }

    fn finish(self) {
        self.fold("PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err((_, err)) = self.conn.close() {
            warn!(%err, "the state database did not close cleanly");
        }
    }
}

fn is_full(err: &rusqlite::Error) -> bool {
    err.sqlite_error_code() == Some(ErrorCode::DiskFull)
}
