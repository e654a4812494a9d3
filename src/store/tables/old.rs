//! What is old enough to go, a few rows at a time. Each look is bounded by an index or by the batch, so
//! that the writer is back at its queue within milliseconds however large a table has grown.

use rusqlite::{Connection, Result, params};

use crate::times::WallTime;

/// Ended tunnels; gives how many went.
pub(in crate::store) fn prune_tunnels(
    conn: &Connection,
    before: WallTime,
    most: usize,
) -> Result<usize> {
    conn.prepare_cached(
        "DELETE FROM tunnels WHERE id IN (SELECT id FROM tunnels
             WHERE state <> 'open' AND ended_at < $1 ORDER BY ended_at LIMIT $2)",
    )?
    .execute(params![before.as_millis(), limit(most)])
}

/// Join tokens that work no more.
pub(in crate::store) fn prune_invites(
    conn: &Connection,
    before: WallTime,
    most: usize,
) -> Result<usize> {
    conn.prepare_cached(
        "DELETE FROM invites WHERE id IN (SELECT id FROM invites
             WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)",
    )?
    .execute(params![before.as_millis(), limit(most)])
}

/// Lines of the audit. They are numbered in the order they were written, so only the first are looked at.
pub(in crate::store) fn prune_audit(
    conn: &Connection,
    before: WallTime,
    most: usize,
) -> Result<usize> {
    conn.prepare_cached(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM
             (SELECT seq, at FROM audit ORDER BY seq LIMIT $1) AS oldest WHERE at < $2)",
    )?
    .execute(params![limit(most), before.as_millis()])
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}
