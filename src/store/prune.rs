//! Takes old rows out of the server's database in small commits among all others, so that nobody waits
//! for a large one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use super::tables::old;
use crate::times::WallTime;

/// Rows of a table that go in one commit: a few milliseconds of the writer's time.
const BATCH: usize = 500;

/// What is old enough to go; None = nothing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Old {
    /// Tunnels that ended, and join tokens that expired, before this.
    pub ended: Option<WallTime>,
    /// Lines of the audit from before this.
    pub audit: Option<WallTime>,
}

/// One commit's worth of it.
#[derive(Debug)]
pub(super) struct Pruning {
    old: Old,
    more: Arc<AtomicBool>,
}

impl Pruning {
    /// The second half tells, after the commit, whether there is more.
    pub(super) fn new(old: Old) -> (Self, Arc<AtomicBool>) {
        let more = Arc::new(AtomicBool::new(false));
        let pruning = Self {
            old,
            more: Arc::clone(&more),
        };
        (pruning, more)
    }

    pub(super) fn apply(&self, conn: &Connection) -> rusqlite::Result<()> {
        let mut most = 0;
        if let Some(before) = self.old.ended {
            most = most.max(old::prune_tunnels(conn, before, BATCH)?);
            most = most.max(old::prune_invites(conn, before, BATCH)?);
        }
        if let Some(before) = self.old.audit {
            most = most.max(old::prune_audit(conn, before, BATCH)?);
        }
        self.more.store(most == BATCH, Ordering::Relaxed);
        Ok(())
    }
}
