//! `GET /v1/backup` of a server: a copy of its database, as bytes. The file is the caller's to write.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use tokio_util::io::ReaderStream;

use super::routes::Hub;
use super::{ApiError, Caller, ServerBackend};

/// Read from the disk and written to the caller in pieces of this size.
const PIECE: usize = 64 * 1024;

pub(super) async fn backup<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
) -> Result<Response, ApiError> {
    let (file, size) = hub.backend().backup(caller).await?;
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
    let head = [
        (CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        // One that breaks off is known by it.
        (CONTENT_LENGTH, size.to_string()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((head, Body::from_stream(pieces)).into_response())
}
