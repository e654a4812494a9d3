//! `/v1/log-level` of both roles: what is wanted of the log, and something else for a while.

use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::ask::Json;
use super::routes::{Answer, Hub};
use super::{Caller, CommonBackend};
use crate::times::WallTime;

/// `PUT /v1/log-level`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevelAsk {
    /// `error`, `warn`, `info`, `debug`, `trace` or a filter; the configured one if absent.
    #[serde(default)]
    pub level: Option<String>,
    /// For how long, such as 10m; that if absent, and 24h at most.
    #[serde(default, rename = "for")]
    pub lasts: Option<String>,
}

/// `GET /v1/log-level`, and the answer to the `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelJson {
    /// What is in force.
    pub level: String,
    /// What the configuration says.
    pub configured: String,
    /// When the configured one is in force again; null when it is.
    #[serde(default)]
    pub until: Option<WallTime>,
}

pub(super) async fn shown<B: CommonBackend>(State(hub): State<Hub<B>>) -> Answer<LogLevelJson> {
    Ok(axum::Json(hub.backend().log_level()))
}

pub(super) async fn set<B: CommonBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<LogLevelAsk>,
) -> Answer<LogLevelJson> {
    hub.backend()
        .set_log_level(caller, ask)
        .await
        .map(axum::Json)
}
