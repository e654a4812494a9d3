//! The audit: rows are added, never changed.

use rusqlite::types::Value;
use rusqlite::{Connection, Result, params, params_from_iter};

use crate::engine::{Actor, AuditRow};
use crate::store::columns::time;
use crate::store::{AuditFilter, StoredAudit};

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
    wanted: &AuditFilter,
    after: i64,
    limit: u32,
) -> Result<Vec<StoredAudit>> {
    // SQLite counts parameters as they first appear, whatever their numbers say.
    let mut values = vec![Value::Integer(after)];
    let mut sql = "SELECT seq, at, actor, peer, action, subject, detail FROM audit \
                   WHERE seq > $1"
        .to_owned();
    if let Some(since) = wanted.since {
        values.push(Value::Integer(since.as_millis()));
        sql.push_str(&format!(" AND at >= ${}", values.len()));
    }
    for (column, texts) in [("subject", &wanted.subjects), ("actor", &wanted.actors)] {
        if let Some(texts) = texts {
            sql.push_str(&one_of(column, texts, &mut values));
        }
    }
    values.push(Value::Integer(limit.into()));
    sql.push_str(&format!(" ORDER BY seq LIMIT ${}", values.len()));
    conn.prepare(&sql)?
        .query_map(params_from_iter(values), |row| {
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

/// ` AND column IN (…)`; with no texts, what nothing fulfils.
fn one_of(column: &str, texts: &[String], values: &mut Vec<Value>) -> String {
    let mut places = Vec::with_capacity(texts.len());
    for text in texts {
        values.push(Value::Text(text.clone()));
        places.push(format!("${}", values.len()));
    }
    match places.is_empty() {
        true => " AND 1 = 0".to_owned(),
        false => format!(" AND {column} IN ({})", places.join(", ")),
    }
}
