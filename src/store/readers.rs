//! A few read-only connections for queries, so that a long read never stands in a commit's way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{StoreError, open};

const READERS: u32 = 2;

/// The pool; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// No connection is opened before the first query.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path: Arc::new(path),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(READERS as usize)),
        }
    }

    /// Runs a query off the async threads.
    pub(super) async fn query<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            let result = this.run(query);
            drop(permit);
            result
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    fn run<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let sql = |source| StoreError::sql(&self.path, source);
        let conn = match self.lock().pop() {
            Some(conn) => conn,
            None => open::open_reader(&self.path).map_err(sql)?,
        };
        let result = query(&conn).map_err(sql);
        self.lock().push(conn);
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The size of the database and its log; nothing of what cannot be seen.
    pub(super) async fn bytes(&self) -> u64 {
        let path = Arc::clone(&self.path);
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let look = tokio::task::spawn_blocking(move || size(&path) + size(&open::wal_of(&path)));
        look.await.unwrap_or_default()
    }

    /// Waits for queries that run and closes the connections: the writer shall be the last to close,
    /// since that one removes the log.
    pub(super) async fn close(&self) {
        let all = self.permits.acquire_many(READERS).await;
        self.permits.close();
        drop(all);
        self.lock().clear();
    }
}
