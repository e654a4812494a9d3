//! How often somebody calls: each call of the API is counted before anything else is done about it. Not
//! those that look whether the daemon is well, nor scrapers'. How much is too much is the role's to say.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;

use super::routes::Hub;
use super::{ApiError, Caller, CommonBackend};
use crate::codes::Code;
use crate::times::show_duration;

/// The same routes, counted.
pub(super) fn counted<B: CommonBackend>(routes: Router<Hub<B>>, hub: Hub<B>) -> Router<Hub<B>> {
    routes.route_layer(from_fn_with_state(hub, count::<B>))
}

async fn count<B: CommonBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    hub.backend().may_call(caller).map_err(|retry_in| {
        let wait = show_duration(retry_in);
        ApiError::new(Code::RateLimited, format!("too many calls; wait {wait}"))
    })?;
    Ok(next.run(request).await)
}
