//! `/v1/drain` of both roles: asks the daemon to end in order, and tells how far it is.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::ask::{Json, usage};
use super::routes::{Answer, Hub};
use super::{ApiError, Caller, CommonBackend};
use crate::codes::Code;
use crate::times::{WallTime, parse_duration};

/// The longest grace that may be asked for.
const GRACE_MAX: Duration = Duration::from_secs(24 * 3600);

/// `POST /v1/drain`. The answer comes when the drain is over, just before the daemon ends. A second one
/// ends the first at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct DrainAsk {
    /// How long visits in flight have to finish, such as 30s; the role's own grace if absent.
    #[serde(default)]
    pub grace: Option<String>,
}

impl DrainAsk {
    /// The grace, read.
    pub fn grace(&self) -> Result<Option<Duration>, ApiError> {
        let Some(text) = &self.grace else {
            return Ok(None);
        };
        let grace = parse_duration(text).map_err(|err| usage(format!("grace: {err}")))?;
        if grace > GRACE_MAX {
            return Err(usage("grace: at most 24h"));
        }
        Ok(Some(grace))
    }
}

/// What a caller hears of a daemon that cannot end by itself.
pub fn not_by_itself() -> ApiError {
    ApiError::new(
        Code::Conflict,
        "this daemon is part of another process, which has to be ended itself",
    )
}

/// How a drain stands: `GET /v1/drain`, and the answer to the `POST`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainJson {
    /// Whether no new visits are taken.
    pub draining: bool,
    /// Visits going on.
    pub visits: u64,
    /// When those that are left will be cut; null while nobody drains.
    #[serde(default)]
    pub ends_by: Option<WallTime>,
    /// Whether all visits came to their end; null while that is open.
    #[serde(default)]
    pub finished: Option<bool>,
}

pub(super) async fn drain<B: CommonBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<DrainAsk>,
) -> Answer<DrainJson> {
    hub.backend().drain(caller, ask).await.map(axum::Json)
}

pub(super) async fn state<B: CommonBackend>(State(hub): State<Hub<B>>) -> Answer<DrainJson> {
    Ok(axum::Json(hub.backend().drain_state()))
}
