//! What a request asks, read with limits: extractors whose refusals are [`ApiError`]s.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, de::DeserializeOwned};

use super::{ApiError, Caller};
use crate::codes::Code;

/// The most bytes of a request's body.
pub(super) const BODY_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries of a page when nothing is asked, and the most that may be.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1000;

/// A JSON body; an empty one reads as `{}`.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let read = Limited::new(request.into_body(), BODY_MAX).collect();
        let bytes = match tokio::time::timeout(BODY_TIMEOUT, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(err)) if err.is::<LengthLimitError>() => {
                return Err(ApiError::new(
                    Code::TooLarge,
                    format!("the body is over {BODY_MAX} bytes"),
                ));
            }
            Ok(Err(err)) => return Err(ApiError::new(Code::BadRequest, err.to_string())),
            Err(_) => {
                return Err(ApiError::new(
                    Code::RequestTimeout,
                    "the body took too long to arrive",
                ));
            }
        };
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|err| usage(format!("the body is not what this call takes: {err}")))
    }
}

/// The query string.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(refused) => Err(usage(refused.body_text())),
        }
    }
}

/// The one variable segment of a path: an id, a slug, a device's name.
pub(super) struct Key(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(key)) => Ok(Self(key)),
            Err(refused) => Err(usage(refused.body_text())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .copied()
            .ok_or_else(|| ApiError::new(Code::Internal, "the caller is not known"))
    }
}

/// `?all=&cursor=&limit=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Also what is over.
    #[serde(default, deserialize_with = "flag")]
    pub(super) all: bool,
    /// The id after which to go on: a page's `next`.
    pub(super) cursor: Option<String>,
    /// Entries a page.
    pub(super) limit: Option<u32>,
}

/// `?cursor=&limit=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    /// A page's `next`.
    pub(super) cursor: Option<String>,
    /// Entries a page.
    pub(super) limit: Option<u32>,
}

/// `GET /v1/audit?after=&limit=&since=&subject=&actor=`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditAsk {
    /// The row after which to go on.
    pub after: Option<i64>,
    /// Rows a page.
    pub limit: Option<u32>,
    /// Not older: an RFC 3339 time, or a duration before now.
    pub since: Option<String>,
    /// What changed: an id, or the name of a tunnel, a device or a user.
    pub subject: Option<String>,
    /// Who changed it: a uid, a device's id or name, a user's name, `engine`, `newcomer` or `visitor`.
    pub actor: Option<String>,
}

/// `?tunnel=&limit=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VisitParams {
    /// Of this name only.
    pub(super) tunnel: Option<String>,
    /// At most so many, the last ones.
    pub(super) limit: Option<u32>,
}

/// The page size asked for, within bounds.
pub(super) fn page_size(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked.unwrap_or(PAGE) {
        0 => Err(usage("limit is 0; ask for 1 to 1000")),
        limit => Ok(limit.min(PAGE_MAX)),
    }
}

/// `?all`, `?all=1` and `?all=true` are the same wish.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match &*<std::borrow::Cow<'de, str>>::deserialize(deserializer)? {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(D::Error::custom(format!(
            "{other:?} is neither true nor false"
        ))),
    }
}

pub(super) fn usage(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::Usage, detail)
}
