//! Tunnels, open and over.

use std::sync::Arc;

use rusqlite::{Connection, Result, Row, params};

use crate::engine::{TunnelRow, TunnelState};
use crate::names::{Slug, TunnelId};
use crate::store::columns::{
    bad, list, millis, pairs_text, parsed, span, span_opt, text, time, time_opt,
};
use crate::store::seal::Seal;
use crate::times::WallTime;

pub(in crate::store) fn put(conn: &Connection, row: &TunnelRow, seal: &Seal) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO tunnels (id, slug, device_id, user_id, kind, state, expires_at, idle_ms, hold_ms,
             declared, labels, public_port, created_at, ended_at, last_seen_at, idle_spent_ms, away_since,
             policy, policy_version, suspended_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
             $18, $19, $20)
         ON CONFLICT (id) DO UPDATE SET slug = excluded.slug, device_id = excluded.device_id,
             user_id = excluded.user_id, kind = excluded.kind, state = excluded.state,
             expires_at = excluded.expires_at, idle_ms = excluded.idle_ms, hold_ms = excluded.hold_ms,
             declared = excluded.declared, labels = excluded.labels,
             public_port = excluded.public_port, created_at = excluded.created_at,
             ended_at = excluded.ended_at, last_seen_at = excluded.last_seen_at,
             idle_spent_ms = excluded.idle_spent_ms, away_since = excluded.away_since,
             policy = excluded.policy, policy_version = excluded.policy_version,
             suspended_at = excluded.suspended_at",
    )?
    .execute(params![
        text(row.id),
        row.slug.as_str(),
        text(row.device),
        text(row.user),
        row.kind.as_str(),
        row.state.as_str(),
        row.expires_at.map(WallTime::as_millis),
        row.idle.map(millis),
        millis(row.hold),
        i64::from(row.declared),
        pairs_text(&row.labels),
        row.public_port,
        row.created_at.as_millis(),
        row.ended_at.map(WallTime::as_millis),
        row.last_seen_at.map(WallTime::as_millis),
        millis(row.idle_spent),
        row.away_since.map(WallTime::as_millis),
        seal.text(row.id, &row.policy)?,
        i64::try_from(row.policy_version).unwrap_or(i64::MAX),
        row.suspended_at.map(WallTime::as_millis),
    ])?;
    Ok(())
}

/// Only what visits and links move. A row that is gone is no error: this is no promise.
pub(in crate::store) fn put_seen(conn: &Connection, row: &TunnelRow) -> Result<()> {
    conn.prepare_cached(
        "UPDATE tunnels SET last_seen_at = $1, idle_spent_ms = $2, away_since = $3 WHERE id = $4",
    )?
    .execute(params![
        row.last_seen_at.map(WallTime::as_millis),
        millis(row.idle_spent),
        row.away_since.map(WallTime::as_millis),
        text(row.id),
    ])?;
    Ok(())
}

/// One that is over; a promise is never forgotten.
pub(in crate::store) fn forget(conn: &Connection, id: TunnelId) -> Result<()> {
    conn.prepare_cached("DELETE FROM tunnels WHERE id = $1 AND state <> 'open'")?
        .execute([text(id)])?;
    Ok(())
}

/// Open ones, and those that were over after `ended_since`.
pub(in crate::store) fn load(
    conn: &Connection,
    ended_since: WallTime,
    seal: &Seal,
) -> Result<Vec<TunnelRow>> {
    conn.prepare(
        "SELECT * FROM tunnels WHERE state = 'open' OR COALESCE(ended_at, created_at) >= $1 ORDER BY id",
    )?
    .query_map([ended_since.as_millis()], |row| read(row, seal))?
    .collect()
}

fn read(row: &Row<'_>, seal: &Seal) -> Result<TunnelRow> {
    let id = parsed(row, "id")?;
    Ok(TunnelRow {
        id,
        slug: parsed::<Slug>(row, "slug")?,
        device: parsed(row, "device_id")?,
        user: parsed(row, "user_id")?,
        kind: parsed(row, "kind")?,
        state: state(row)?,
        expires_at: time_opt(row, "expires_at")?,
        idle: span_opt(row, "idle_ms")?,
        hold: span(row, "hold_ms")?,
        declared: row.get("declared")?,
        labels: list(row, "labels")?,
        public_port: row.get("public_port")?,
        created_at: time(row, "created_at")?,
        ended_at: time_opt(row, "ended_at")?,
        last_seen_at: time_opt(row, "last_seen_at")?,
        idle_spent: span(row, "idle_spent_ms")?,
        away_since: time_opt(row, "away_since")?,
        policy: Arc::new(seal.policy(id, row)?),
        policy_version: version(row)?,
        suspended_at: time_opt(row, "suspended_at")?,
    })
}

fn version(row: &Row<'_>) -> Result<u64> {
    let number: i64 = row.get("policy_version")?;
    u64::try_from(number).map_err(|_| bad(row, "policy_version", &number.to_string()))
}

fn state(row: &Row<'_>) -> Result<TunnelState> {
    let text: String = row.get("state")?;
    [TunnelState::Open, TunnelState::Closed, TunnelState::Expired]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| bad(row, "state", &text))
}
