//! Changing when a tunnel ends, how long it may be idle, its hold and its labels, as people ask for it.

use std::time::Duration;

use crate::admin::ApiError;
use crate::admin::types::LifeChange;
use crate::codes::Code;
use crate::engine::book::BookRow;
use crate::times::parse_duration;
use crate::wire::Life;

/// What a text means; none of it is the server's to guess.
pub(super) fn read(ask: &LifeChange) -> Result<Option<Life>, ApiError> {
    if ask.is_empty() {
        return Ok(None);
    }
    let labels = ask.labels.clone();
    Ok(Some(Life {
        expires_in_ms: or_never("expires", ask.expires.as_deref())?,
        idle_ms: or_never("idle", ask.idle.as_deref())?,
        hold_ms: ask
            .hold
            .as_deref()
            .map(|text| millis("hold", text))
            .transpose()?,
        labels: labels.map(|labels| labels.into_iter().collect()),
    }))
}

fn or_never(what: &str, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    match text {
        None => Ok(None),
        Some("never") => Ok(Some(u64::MAX)),
        Some(text) => millis(what, text).map(Some),
    }
}

fn millis(what: &str, text: &str) -> Result<u64, ApiError> {
    let wrong = |e| ApiError::new(Code::Usage, format!("{what}: {e}"));
    let span = parse_duration(text).map_err(wrong)?;
    Ok(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// A declared tunnel is what its entry says, also after the next reload.
pub(super) fn may_change(row: &BookRow, name: &str) -> Result<(), ApiError> {
    match row.declared {
        false => Ok(()),
        true => Err(ApiError::new(
            Code::Conflict,
            format!(
                "{name} is declared in client.toml; change its entry there, then run wormkeyctl reload"
            ),
        )),
    }
}

/// The row with what the server has put in force; when it ends the server says itself.
pub(super) fn changed(row: BookRow, life: &Life) -> BookRow {
    let never = |millis: u64| (millis != u64::MAX).then(|| Duration::from_millis(millis));
    BookRow {
        idle: life.idle_ms.map(never).or(row.idle),
        hold: life.hold_ms.map(Duration::from_millis).or(row.hold),
        labels: life.labels.clone().unwrap_or(row.labels),
        ..row
    }
}
