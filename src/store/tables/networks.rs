//! What worked on which network: few rows, and none that is old.

use std::time::Duration;

use rusqlite::{Connection, Result, params};

use crate::engine::book::NetworkRow;
use crate::store::columns::{bad, millis, time};
use crate::times::WallTime;

/// A laptop has a handful of networks; a traveller's fit too.
const MOST: i64 = 32;

/// A network that changed its mind is asked anew after this long.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// Puts one in; the least recently used and the old ones go.
pub(in crate::store) fn put(conn: &Connection, row: &NetworkRow) -> Result<()> {
    let path = if row.websocket { "websocket" } else { "udp" };
    conn.prepare_cached(
        "INSERT INTO networks (key, path, used_at) VALUES ($1, $2, $3)
         ON CONFLICT (key) DO UPDATE SET path = excluded.path, used_at = excluded.used_at",
    )?
    .execute(params![row.key, path, row.used_at.as_millis()])?;
    conn.prepare_cached(
        "DELETE FROM networks WHERE used_at < $1 OR key NOT IN
             (SELECT key FROM networks ORDER BY used_at DESC, key LIMIT $2)",
    )?
    .execute(params![since(row.used_at), MOST])?;
    Ok(())
}

/// Those that are not old, the least recently used first.
pub(in crate::store) fn load(conn: &Connection, now: WallTime) -> Result<Vec<NetworkRow>> {
    conn.prepare("SELECT * FROM networks WHERE used_at >= $1 ORDER BY used_at, key")?
        .query_map([since(now)], |row| {
            let path: String = row.get("path")?;
            Ok(NetworkRow {
                key: row.get("key")?,
                websocket: match path.as_str() {
                    "udp" => false,
                    "websocket" => true,
                    other => return Err(bad(row, "path", other)),
                },
                used_at: time(row, "used_at")?,
            })
        })?
        .collect()
}

/// They say something of the way to one server, and go with it.
pub(in crate::store) fn forget_all(conn: &Connection) -> Result<()> {
    conn.execute("DELETE FROM networks", [])?;
    Ok(())
}

fn since(now: WallTime) -> i64 {
    now.as_millis().saturating_sub(millis(KEPT))
}
