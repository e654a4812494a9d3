//! The audit: rows are added, never changed.

use rusqlite::{Connection, Result, params};

use crate::engine::{Actor, AuditRow};
use crate::store::StoredAudit;
use crate::store::columns::time;

pub(in crate::store) fn add(conn: &Connection, row: &AuditRow) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO audit (at, actor, peer, action, subject, detail) VALUES ($1, $2, $3, $4, $5, $6)",
    )?
    .execute(params![
        row.at.as_millis(),
        actor_text(row.actor),
        row.peer.map(|peer| peer.to_string()),
        row.action,
        row.subject,
        row.detail,
    ])?;
    Ok(())
}

fn actor_text(actor: Actor) -> String {
    match actor {
        Actor::Operator { uid } => format!("uid {uid}"),
        Actor::Device(device) => device.to_string(),
        Actor::Visitor => "visitor".into(),
        Actor::Newcomer => "newcomer".to_owned(),
        Actor::Engine => "engine".to_owned(),
    }
}

/// Oldest first, from behind the cursor.
pub(in crate::store) fn page(
    conn: &Connection,
    after: i64,
    limit: u32,
) -> Result<Vec<StoredAudit>> {
    conn.prepare_cached(
        "SELECT seq, at, actor, peer, action, subject, detail FROM audit
         WHERE seq > $1 ORDER BY seq LIMIT $2",
    )?
    .query_map(params![after, limit], |row| {
        Ok(StoredAudit {
            seq: row.get("seq")?,
            at: time(row, "at")?,
            actor: row.get("actor")?,
            peer: row.get("peer")?,
            action: row.get("action")?,
            subject: row.get("subject")?,
            detail: row.get("detail")?,
        })
    })?
    .collect()
}
