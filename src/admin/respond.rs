//! The one place where a refusal becomes an answer: problem+json (RFC 9457) with the table's codes.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::codes::Code;

/// An error as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Problem {
    /// `urn:wormkey:error:name_taken`
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The table's sentence.
    pub(super) title: String,
    /// HTTP status.
    pub(super) status: u16,
    /// What happened in this case.
    pub(super) detail: String,
    /// `name_taken`
    pub(super) code: String,
}

impl From<&ApiError> for Problem {
    fn from(err: &ApiError) -> Self {
        let row = err.code.row();
        Self {
            kind: format!("urn:wormkey:error:{}", row.name),
            title: row.cause.to_owned(),
            status: row.status,
            detail: err.detail.clone(),
            code: row.name.to_owned(),
        }
    }
}

impl From<Problem> for ApiError {
    /// A newer daemon may know codes that this caller does not; those read as internal.
    fn from(problem: Problem) -> Self {
        Self::new(
            Code::from_name(&problem.code).unwrap_or(Code::Internal),
            problem.detail,
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem::from(&self);
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        tracing::debug!(code = %self.code, detail = %self.detail, "admin call refused");
        let mut response = (status, axum::Json(problem)).into_response();
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }
}
