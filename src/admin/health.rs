//! `/healthz`, `/readyz` and `/metrics` of both roles, on the admin socket and on the listener for
//! scrapers. What is well and what is counted is the role's to say.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::{Deserialize, Serialize};

use super::routes::Hub;
use super::{ApiError, CommonBackend};
use crate::codes::Code;
use crate::telemetry::metrics;

/// A part that does not answer for so long is not well.
const WITHIN: Duration = Duration::from_secs(5);

/// Something that is needed to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartJson {
    /// `engine`, `store`, `certificate`, `draining`; on a client `store`, `joined`, `link`, `draining`.
    pub name: String,
    /// Whether it is well.
    pub ready: bool,
    /// What is wrong, or will be before long where `ready` is true; null when nothing is.
    #[serde(default)]
    pub reason: Option<String>,
}

impl PartJson {
    /// A part that is well, or what is wrong with it.
    pub fn new(name: &str, wrong: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            ready: wrong.is_none(),
            reason: wrong,
        }
    }
}

/// `GET /readyz`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyJson {
    /// Whether all parts are well.
    pub ready: bool,
    /// Each of them.
    pub parts: Vec<PartJson>,
}

/// The three routes.
pub(super) fn routes<B: CommonBackend>() -> Router<Hub<B>> {
    Router::new()
        .route("/healthz", get(health::<B>))
        .route("/readyz", get(ready::<B>))
        .route("/metrics", get(scrape::<B>))
}

/// Whether the daemon lives; one that does not is to be started again.
async fn health<B: CommonBackend>(State(hub): State<Hub<B>>) -> Response {
    match tokio::time::timeout(WITHIN, hub.backend().alive()).await {
        Ok(true) => fresh(
            StatusCode::OK,
            axum::Json(serde_json::json!({"alive": true})),
        ),
        _ => {
            ApiError::new(Code::Overloaded, "a part of the daemon does not answer").into_response()
        }
    }
}

/// Whether it serves; one that does not is to be left alone for now.
async fn ready<B: CommonBackend>(State(hub): State<Hub<B>>) -> Response {
    let parts = (tokio::time::timeout(WITHIN, hub.backend().parts()).await)
        .unwrap_or_else(|_| vec![PartJson::new("daemon", Some("does not answer".to_owned()))]);
    let ready = parts.iter().all(|part| part.ready);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    fresh(status, axum::Json(ReadyJson { ready, parts }))
}

async fn scrape<B: CommonBackend>(State(hub): State<Hub<B>>) -> Response {
    match tokio::time::timeout(WITHIN, hub.backend().metrics()).await {
        Ok(page) => {
            let kind = [(CONTENT_TYPE, metrics::CONTENT_TYPE)];
            fresh(StatusCode::OK, (kind, page))
        }
        Err(_) => {
            ApiError::new(Code::Overloaded, "a part of the daemon does not answer").into_response()
        }
    }
}

/// An answer that is true only now.
fn fresh(status: StatusCode, body: impl IntoResponse) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], body).into_response()
}
