//! Share links.

use rusqlite::{Connection, Result, Row, params};

use crate::engine::policy::share::ShareRow;
use crate::store::columns::{bad, list, list_text, parsed, text, time, time_opt};
use crate::times::WallTime;

/// A withdrawal never un-happens, and a use never comes back.
pub(in crate::store) fn put(conn: &Connection, row: &ShareRow) -> Result<()> {
    let methods: Vec<&str> = row.methods.iter().map(|m| m.as_str()).collect();
    let paths: Vec<&str> = row.paths.iter().map(|p| p.as_str()).collect();
    conn.prepare_cached(
        "INSERT INTO shares (id, tunnel_id, device_id, methods, paths, uses_left, created_at,
             expires_at, revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (id) DO UPDATE SET
             uses_left = CASE WHEN excluded.uses_left < shares.uses_left
                 THEN excluded.uses_left ELSE shares.uses_left END,
             revoked_at = COALESCE(shares.revoked_at, excluded.revoked_at)",
    )?
    .execute(params![
        text(row.id),
        text(row.tunnel),
        text(row.device),
        list_text(&methods),
        list_text(&paths),
        row.uses_left,
        row.created_at.as_millis(),
        row.expires_at.as_millis(),
        row.revoked_at.map(WallTime::as_millis),
    ])?;
    Ok(())
}

/// Those that may still work.
pub(in crate::store) fn load(conn: &Connection, now: WallTime) -> Result<Vec<ShareRow>> {
    conn.prepare(
        "SELECT shares.* FROM shares JOIN tunnels ON tunnels.id = shares.tunnel_id
         WHERE tunnels.state = 'open' AND shares.revoked_at IS NULL AND shares.expires_at > $1
         ORDER BY shares.id",
    )?
    .query_map([now.as_millis()], read)?
    .collect()
}

fn read(row: &Row<'_>) -> Result<ShareRow> {
    let methods: Vec<String> = list(row, "methods")?;
    let paths: Vec<String> = list(row, "paths")?;
    Ok(ShareRow {
        id: parsed(row, "id")?,
        tunnel: parsed(row, "tunnel_id")?,
        device: parsed(row, "device_id")?,
        methods: each(row, "methods", methods)?,
        paths: each(row, "paths", paths)?,
        uses_left: row.get("uses_left")?,
        created_at: time(row, "created_at")?,
        expires_at: time(row, "expires_at")?,
        revoked_at: time_opt(row, "revoked_at")?,
    })
}

fn each<T: std::str::FromStr>(row: &Row<'_>, column: &str, texts: Vec<String>) -> Result<Vec<T>> {
    let read = |text: String| text.parse().map_err(|_| bad(row, column, &text));
    texts.into_iter().map(read).collect()
}
