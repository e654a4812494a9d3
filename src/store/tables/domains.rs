//! Own domains of open tunnels.

use rusqlite::{Connection, Result, Row, params};

use crate::engine::domains::DomainRow;
use crate::names::TunnelId;
use crate::store::columns::{parsed, text, time, time_opt};
use crate::times::WallTime;

/// All of a tunnel's: those that are not among these go.
pub(in crate::store) fn put(conn: &Connection, tunnel: TunnelId, rows: &[DomainRow]) -> Result<()> {
    free(conn, tunnel)?;
    let mut insert = conn.prepare_cached(
        "INSERT INTO domains (domain, tunnel_id, claimed_at, proven_at, lost_at, missing_since)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )?;
    for row in rows {
        insert.execute(params![
            text(&row.domain),
            text(tunnel),
            row.claimed_at.as_millis(),
            row.proven_at.map(WallTime::as_millis),
            row.lost_at.map(WallTime::as_millis),
            row.missing_since.map(WallTime::as_millis),
        ])?;
    }
    Ok(())
}

/// None leads to a tunnel any more.
pub(in crate::store) fn free(conn: &Connection, tunnel: TunnelId) -> Result<()> {
    conn.prepare_cached("DELETE FROM domains WHERE tunnel_id = $1")?
        .execute([text(tunnel)])?;
    Ok(())
}

/// The earliest claims first.
pub(in crate::store) fn load(conn: &Connection) -> Result<Vec<DomainRow>> {
    conn.prepare("SELECT * FROM domains ORDER BY claimed_at, domain, tunnel_id")?
        .query_map([], read)?
        .collect()
}

fn read(row: &Row<'_>) -> Result<DomainRow> {
    Ok(DomainRow {
        domain: parsed(row, "domain")?,
        tunnel: parsed(row, "tunnel_id")?,
        claimed_at: time(row, "claimed_at")?,
        proven_at: time_opt(row, "proven_at")?,
        lost_at: time_opt(row, "lost_at")?,
        missing_since: time_opt(row, "missing_since")?,
    })
}
