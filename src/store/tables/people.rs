//! Users, their devices, and the invites that make devices.

use rusqlite::{Connection, Result, Row, params};

use crate::engine::{DeviceRow, InviteRow, UserRow};
use crate::store::columns::{bad, parsed, text, time, time_opt};
use crate::times::WallTime;

pub(in crate::store) fn put_user(conn: &Connection, row: &UserRow) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO users (id, name, created_at, suspended_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, created_at = excluded.created_at,
             suspended_at = excluded.suspended_at",
    )?
    .execute(params![
        text(row.id),
        row.name,
        row.created_at.as_millis(),
        row.suspended_at.map(WallTime::as_millis),
    ])?;
    Ok(())
}

pub(in crate::store) fn users(conn: &Connection) -> Result<Vec<UserRow>> {
    conn.prepare("SELECT id, name, created_at, suspended_at FROM users ORDER BY id")?
        .query_map([], |row| {
            Ok(UserRow {
                id: parsed(row, "id")?,
                name: row.get("name")?,
                created_at: time(row, "created_at")?,
                suspended_at: time_opt(row, "suspended_at")?,
            })
        })?
        .collect()
}

/// A revocation never un-happens, whatever a later row says.
pub(in crate::store) fn put_device(conn: &Connection, row: &DeviceRow) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO devices (id, user_id, pin, name, created_at, revoked_at, suspended_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, pin = excluded.pin,
             name = excluded.name, created_at = excluded.created_at,
             revoked_at = COALESCE(devices.revoked_at, excluded.revoked_at),
             suspended_at = excluded.suspended_at",
    )?
    .execute(params![
        text(row.id),
        text(row.user),
        text(row.pin),
        row.name,
        row.created_at.as_millis(),
        row.revoked_at.map(WallTime::as_millis),
        row.suspended_at.map(WallTime::as_millis),
    ])?;
    Ok(())
}

pub(in crate::store) fn devices(conn: &Connection) -> Result<Vec<DeviceRow>> {
    conn.prepare("SELECT * FROM devices ORDER BY id")?
        .query_map([], |row| {
            Ok(DeviceRow {
                id: parsed(row, "id")?,
                user: parsed(row, "user_id")?,
                pin: parsed(row, "pin")?,
                name: row.get("name")?,
                created_at: time(row, "created_at")?,
                revoked_at: time_opt(row, "revoked_at")?,
                suspended_at: time_opt(row, "suspended_at")?,
            })
        })?
        .collect()
}

/// As with devices, a revocation stays.
pub(in crate::store) fn put_invite(conn: &Connection, row: &InviteRow) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO invites (id, user_id, secret_hash, uses_left, created_at, expires_at, revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id,
             secret_hash = excluded.secret_hash, uses_left = excluded.uses_left,
             created_at = excluded.created_at, expires_at = excluded.expires_at,
             revoked_at = COALESCE(invites.revoked_at, excluded.revoked_at)",
    )?
    .execute(params![
        text(row.id),
        text(row.user),
        data_encoding::HEXLOWER.encode(&row.secret_hash),
        row.uses_left,
        row.created_at.as_millis(),
        row.expires_at.as_millis(),
        row.revoked_at.map(WallTime::as_millis),
    ])?;
    Ok(())
}

/// Those whose time is not over; used-up ones too, so that they are told apart from wrong ones.
pub(in crate::store) fn invites(conn: &Connection, now: WallTime) -> Result<Vec<InviteRow>> {
    conn.prepare(
        "SELECT id, user_id, secret_hash, uses_left, created_at, expires_at, revoked_at
         FROM invites WHERE expires_at > $1 ORDER BY id",
    )?
    .query_map([now.as_millis()], |row| {
        Ok(InviteRow {
            id: parsed(row, "id")?,
            user: parsed(row, "user_id")?,
            secret_hash: hash(row, "secret_hash")?,
            uses_left: row.get("uses_left")?,
            created_at: time(row, "created_at")?,
            expires_at: time(row, "expires_at")?,
            revoked_at: time_opt(row, "revoked_at")?,
        })
    })?
    .collect()
}

fn hash(row: &Row<'_>, column: &str) -> Result<[u8; 32]> {
    let text: String = row.get(column)?;
    data_encoding::HEXLOWER
        .decode(text.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        // Not the text itself: even the hash of a secret stays out of messages.
        .ok_or_else(|| bad(row, column, "no hash"))
}
