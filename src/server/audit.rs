//! The audit as operators ask for it: by the names that they know, which the audit itself does not keep.

use crate::admin::types::AuditJson;
use crate::admin::{ApiError, AuditAsk};
use crate::codes::Code;
use crate::engine::Engine;
use crate::names::DeviceId;
use crate::store::{AuditFilter, ServerStore, StoredAudit};
use crate::times::{WallTime, parse_duration};

use super::desk::Desk;

/// The rows that are asked for, oldest first.
pub(super) async fn page(
    desk: &Desk,
    store: &ServerStore,
    ask: AuditAsk,
    limit: u32,
) -> Result<Vec<AuditJson>, ApiError> {
    let now = desk.now().wall;
    let since = ask.since.as_deref().map(|text| since(now, text));
    let wanted = desk.read(|engine| AuditFilter {
        since: None,
        subjects: ask.subject.as_deref().map(|text| subjects(engine, text)),
        actors: ask.actor.as_deref().map(|text| actors(engine, text)),
    });
    let wanted = AuditFilter {
        since: since.transpose()?,
        ..wanted
    };
    let rows = store.audit_of(wanted, ask.after, limit).await;
    let rows = rows.map_err(|e| ApiError::new(e.code(), e.to_string()))?;
    Ok(desk.read(|engine| rows.into_iter().map(|row| json(engine, row)).collect()))
}

/// A time, or so long before now.
fn since(now: WallTime, text: &str) -> Result<WallTime, ApiError> {
    if let Some(at) = WallTime::parse_rfc3339(text) {
        return Ok(at);
    }
    let before = parse_duration(text).map_err(|e| {
        ApiError::new(
            Code::Usage,
            format!("since: {e}, or a time such as 2026-01-31T12:00:00Z"),
        )
    })?;
    let before = i64::try_from(before.as_millis()).unwrap_or(i64::MAX);
    Ok(WallTime::from_millis(
        now.as_millis().saturating_sub(before),
    ))
}

/// The ids that a text may mean: itself, and all that have it as their name, also what is over.
fn subjects(engine: &Engine, text: &str) -> Vec<String> {
    let tunnels = engine.tunnels().filter(|t| t.row.slug.as_str() == text);
    let devices = engine.devices().filter(|d| d.row.name == text);
    let users = engine.users().filter(|u| u.row.name == text);
    std::iter::once(text.to_owned())
        .chain(tunnels.map(|tunnel| tunnel.row.id.to_string()))
        .chain(devices.map(|device| device.row.id.to_string()))
        .chain(users.map(|user| user.row.id.to_string()))
        .collect()
}

/// Who a text may mean: a uid, or a device by its id, its name or its user's.
fn actors(engine: &Engine, text: &str) -> Vec<String> {
    if text.parse::<u32>().is_ok() {
        return vec![format!("uid {text}")];
    }
    let meant = engine
        .devices()
        .filter(|device| device.row.name == text || device.user == text);
    std::iter::once(text.to_owned())
        .chain(meant.map(|device| device.row.id.to_string()))
        .collect()
}

fn json(engine: &Engine, row: StoredAudit) -> AuditJson {
    let device = row.actor.parse::<DeviceId>().ok();
    let device = device.and_then(|id| engine.device(id));
    let (device, user) = device.map(|d| (d.row.name, d.user)).unzip();
    AuditJson {
        seq: row.seq,
        at: row.at,
        actor: row.actor,
        device,
        user,
        peer: row.peer,
        action: row.action,
        subject: row.subject,
        detail: row.detail,
    }
}
