//! One function per route: read what is asked, call the backend, shape the page. No decisions.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{delete, get, patch, post};
use http::{HeaderMap, StatusCode, Uri};
use serde::{Deserialize, Serialize};

use super::ask::{
    AuditAsk, Json, Key, ListParams, PageParams, Params, VisitParams, page_size, usage,
};
use super::checks::DoctorJson;
use super::domains::DomainsAsk;
use super::events::Watchers;
use super::pages::page_of;
use super::types::{
    AuditJson, ClientStatusJson, DeviceJson, InviteAsk, InviteJson, JoinAsk, JoinJson, OpenAsk,
    PolicyAsk, ReloadJson, ServerStatusJson, ShareJson, ShareLinkAsk, ShareLinkJson, SuspendAsk,
    TunnelJson, UserJson, VisitPage,
};
use super::{
    ApiError, Caller, ClientBackend, CommonBackend, ServerBackend, backup, drain, figures, health,
    log_level, often,
};
use crate::codes::Code;
use crate::names::TunnelId;
use crate::tasks::Tasks;

pub(super) type Answer<T> = Result<axum::Json<T>, ApiError>;

/// What every route can reach.
pub(super) struct Hub<B> {
    backend: Arc<B>,
    tasks: Tasks,
    watchers: Watchers,
}

impl<B> Clone for Hub<B> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            tasks: self.tasks.clone(),
            watchers: self.watchers.clone(),
        }
    }
}

impl<B> Hub<B> {
    pub(super) fn new(backend: Arc<B>, tasks: Tasks) -> Self {
        Self {
            backend,
            tasks,
            watchers: Watchers::default(),
        }
    }

    pub(super) fn backend(&self) -> &B {
        &self.backend
    }
}

/// The client's routes.
pub(super) fn client<B: ClientBackend>(hub: Hub<B>) -> Router {
    let routes = Router::new()
        .route("/v1/tunnels", get(list::<B>).post(open::<B>))
        .route(
            "/v1/tunnels/{key}",
            get(show::<B>).delete(close::<B>).patch(set::<B>),
        )
        .route(
            "/v1/tunnels/{key}/shares",
            get(shares::<B>).post(share::<B>),
        )
        .route("/v1/tunnels/{key}/domains", patch(set_domains::<B>))
        .route("/v1/shares/{key}", delete(unshare::<B>))
        .route("/v1/status", get(client_status::<B>))
        .route("/v1/doctor", get(doctor::<B>).post(doctor::<B>))
        .route("/v1/visits", get(visits::<B>))
        .route("/v1/join", post(join::<B>))
        .route("/v1/leave", post(leave::<B>));
    finish(routes, hub)
}

/// The server's routes.
pub(super) fn server<B: ServerBackend>(hub: Hub<B>) -> Router {
    let routes = Router::new()
        .route("/v1/tunnels", get(server_tunnels::<B>))
        .route(
            "/v1/tunnels/{key}",
            get(server_tunnel::<B>)
                .delete(server_close::<B>)
                .patch(server_set::<B>),
        )
        .route("/v1/status", get(server_status::<B>))
        .route(
            "/v1/doctor",
            get(server_doctor::<B>).post(server_doctor::<B>),
        )
        .route("/v1/devices", get(devices::<B>))
        .route("/v1/devices/{key}", delete(revoke_device::<B>))
        .route("/v1/links", get(figures::links::<B>))
        .route("/v1/users", get(users::<B>))
        .route("/v1/invites", post(invite::<B>))
        .route("/v1/revoke", post(revoke::<B>))
        .route("/v1/suspend", post(suspend::<B>))
        .route("/v1/resume", post(resume::<B>))
        .route("/v1/backup", get(backup::backup::<B>))
        .route("/v1/audit", get(audit::<B>));
    finish(routes, hub)
}

fn finish<B: CommonBackend>(routes: Router<Hub<B>>, hub: Hub<B>) -> Router {
    let routes = routes
        .route("/v1/reload", post(reload::<B>))
        .route("/v1/drain", get(drain::state::<B>).post(drain::drain::<B>))
        .route(
            "/v1/log-level",
            get(log_level::shown::<B>).put(log_level::set::<B>),
        )
        .route("/v1/events", get(events::<B>));
    let routes = often::counted(routes, hub.clone());
    closed(routes.merge(health::routes()), hub)
}

/// What scrapers get.
pub(super) fn scraped<B: CommonBackend>(hub: Hub<B>) -> Router {
    closed(health::routes(), hub)
}

fn closed<B: CommonBackend>(routes: Router<Hub<B>>, hub: Hub<B>) -> Router {
    routes
        .fallback(async |uri: Uri| {
            ApiError::new(Code::NotFound, format!("there is no {} here", uri.path()))
        })
        .method_not_allowed_fallback(async |uri: Uri| {
            ApiError::new(
                Code::MethodNotAllowed,
                format!("{} does not take this method", uri.path()),
            )
        })
        .with_state(hub)
}

async fn reload<B: CommonBackend>(State(hub): State<Hub<B>>, caller: Caller) -> Answer<ReloadJson> {
    hub.backend.reload(caller).await.map(axum::Json)
}

async fn events<B: CommonBackend>(
    State(hub): State<Hub<B>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = match headers.get("last-event-id") {
        None => None,
        Some(text) => Some(
            text.to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| usage("Last-Event-ID is no number; leave it out to start now"))?,
        ),
    };
    hub.watchers
        .stream(&hub.tasks, after, || hub.backend.events(after))
}

#[derive(Serialize)]
struct TunnelPage {
    tunnels: Vec<TunnelJson>,
    next: Option<TunnelId>,
}

/// Ids sort by the time they were made, so a page's last id is where the next one starts, whatever
/// came or went in between.
fn tunnel_page(mut tunnels: Vec<TunnelJson>, page: &ListParams) -> Answer<TunnelPage> {
    tunnels.sort_by_key(|tunnel| tunnel.id);
    if let Some(cursor) = &page.cursor {
        let after: TunnelId = cursor
            .parse()
            .map_err(|_| usage("the cursor is not one; use a page's `next`"))?;
        tunnels.retain(|tunnel| tunnel.id > after);
    }
    let limit = usize::try_from(page_size(page.limit)?).unwrap_or(usize::MAX);
    let more = tunnels.len() > limit;
    tunnels.truncate(limit);
    let next = tunnels.last().map(|tunnel| tunnel.id).filter(|_| more);
    Ok(axum::Json(TunnelPage { tunnels, next }))
}

async fn list<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    Params(page): Params<ListParams>,
) -> Answer<TunnelPage> {
    tunnel_page(hub.backend.list(page.all).await?, &page)
}

async fn open<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<OpenAsk>,
) -> Result<(StatusCode, axum::Json<TunnelJson>), ApiError> {
    let (tunnel, new) = hub.backend.open(caller, ask).await?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(tunnel)))
}

async fn show<B: ClientBackend>(State(hub): State<Hub<B>>, Key(key): Key) -> Answer<TunnelJson> {
    hub.backend.show(key).await.map(axum::Json)
}

async fn close<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
) -> Answer<TunnelJson> {
    hub.backend.close(caller, key).await.map(axum::Json)
}

async fn set<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
    Json(ask): Json<PolicyAsk>,
) -> Answer<TunnelJson> {
    hub.backend.set(caller, key, ask).await.map(axum::Json)
}

async fn set_domains<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
    Json(ask): Json<DomainsAsk>,
) -> Answer<TunnelJson> {
    hub.backend
        .set_domains(caller, key, ask)
        .await
        .map(axum::Json)
}

async fn share<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
    Json(ask): Json<ShareLinkAsk>,
) -> Result<(StatusCode, axum::Json<ShareLinkJson>), ApiError> {
    let link = hub.backend.share(caller, key, ask).await?;
    Ok((StatusCode::CREATED, axum::Json(link)))
}

#[derive(Serialize)]
struct Shares {
    shares: Vec<ShareJson>,
    next: Option<String>,
}

async fn shares<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    Key(key): Key,
    Params(page): Params<PageParams>,
) -> Answer<Shares> {
    let shares = hub.backend.shares(key).await?;
    // Ids are of one length, so their text sorts as they do.
    let (shares, next) = page_of(shares, &page, |share| share.id.clone())?;
    Ok(axum::Json(Shares { shares, next }))
}

async fn unshare<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
) -> Answer<Revoked> {
    hub.backend.unshare(caller, key.clone()).await?;
    Ok(axum::Json(Revoked { revoked: key }))
}

async fn server_set<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
    Json(ask): Json<PolicyAsk>,
) -> Answer<TunnelJson> {
    hub.backend.set(caller, key, ask).await.map(axum::Json)
}

#[derive(Serialize)]
struct Suspension {
    what: String,
    suspended: bool,
}

async fn suspend<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<SuspendAsk>,
) -> Answer<Suspension> {
    keep(&hub, caller, ask, true).await
}

async fn resume<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<SuspendAsk>,
) -> Answer<Suspension> {
    keep(&hub, caller, ask, false).await
}

async fn keep<B: ServerBackend>(
    hub: &Hub<B>,
    caller: Caller,
    ask: SuspendAsk,
    suspended: bool,
) -> Answer<Suspension> {
    let long = |text: &String| text.chars().count() > 200 || text.contains(char::is_control);
    if ask.reason.as_ref().is_some_and(long) {
        return Err(usage("a reason is one line of at most 200 characters"));
    }
    let what = ask.what.clone();
    hub.backend.suspend(caller, ask, suspended).await?;
    Ok(axum::Json(Suspension { what, suspended }))
}

async fn client_status<B: ClientBackend>(State(hub): State<Hub<B>>) -> Answer<ClientStatusJson> {
    hub.backend.status().await.map(axum::Json)
}

async fn visits<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    Params(asked): Params<VisitParams>,
) -> Answer<VisitPage> {
    let limit = page_size(asked.limit)?;
    let page = hub.backend.visits(asked.tunnel, limit).await?;
    Ok(axum::Json(page))
}

async fn doctor<B: ClientBackend>(State(hub): State<Hub<B>>) -> Answer<DoctorJson> {
    hub.backend.doctor().await.map(axum::Json)
}

async fn server_doctor<B: ServerBackend>(State(hub): State<Hub<B>>) -> Answer<DoctorJson> {
    hub.backend.doctor().await.map(axum::Json)
}

async fn join<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<JoinAsk>,
) -> Answer<JoinJson> {
    hub.backend.join(caller, ask).await.map(axum::Json)
}

/// `POST /v1/leave`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaveAsk {
    #[serde(default)]
    pub(super) forget_key: bool,
}

#[derive(Serialize)]
struct Left {
    left: bool,
}

async fn leave<B: ClientBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<LeaveAsk>,
) -> Answer<Left> {
    hub.backend.leave(caller, ask.forget_key).await?;
    Ok(axum::Json(Left { left: true }))
}

async fn server_tunnels<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    Params(page): Params<ListParams>,
) -> Answer<TunnelPage> {
    tunnel_page(hub.backend.tunnels(page.all).await?, &page)
}

async fn server_tunnel<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    Key(key): Key,
) -> Answer<TunnelJson> {
    hub.backend.tunnel(key).await.map(axum::Json)
}

async fn server_close<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
) -> Answer<TunnelJson> {
    hub.backend.close(caller, key).await.map(axum::Json)
}

async fn server_status<B: ServerBackend>(State(hub): State<Hub<B>>) -> Answer<ServerStatusJson> {
    hub.backend.status().await.map(axum::Json)
}

#[derive(Serialize)]
struct Devices {
    devices: Vec<DeviceJson>,
    next: Option<String>,
}

async fn devices<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    Params(page): Params<PageParams>,
) -> Answer<Devices> {
    let devices = hub.backend.devices().await?;
    let (devices, next) = page_of(devices, &page, |device| device.id)?;
    Ok(axum::Json(Devices { devices, next }))
}

#[derive(Serialize)]
struct Users {
    users: Vec<UserJson>,
    next: Option<String>,
}

async fn users<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    Params(page): Params<PageParams>,
) -> Answer<Users> {
    let users = hub.backend.users().await?;
    let (users, next) = page_of(users, &page, |user| user.id)?;
    Ok(axum::Json(Users { users, next }))
}

async fn invite<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<InviteAsk>,
) -> Result<(StatusCode, axum::Json<InviteJson>), ApiError> {
    let invite = hub.backend.invite(caller, ask).await?;
    Ok((StatusCode::CREATED, axum::Json(invite)))
}

/// `POST /v1/revoke`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeAsk {
    pub(super) what: String,
}

#[derive(Serialize)]
struct Revoked {
    revoked: String,
}

async fn revoke<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Json(ask): Json<RevokeAsk>,
) -> Answer<Revoked> {
    hub.backend.revoke(caller, ask.what.clone()).await?;
    Ok(axum::Json(Revoked { revoked: ask.what }))
}

async fn revoke_device<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    caller: Caller,
    Key(key): Key,
) -> Answer<Revoked> {
    hub.backend.revoke(caller, key.clone()).await?;
    Ok(axum::Json(Revoked { revoked: key }))
}

#[derive(Serialize)]
struct AuditPage {
    audit: Vec<AuditJson>,
    next: Option<i64>,
}

async fn audit<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    Params(ask): Params<AuditAsk>,
) -> Answer<AuditPage> {
    let limit = page_size(ask.limit)?;
    let audit = hub.backend.audit(ask, limit).await?;
    let full = audit.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = audit.last().map(|row| row.seq).filter(|_| full);
    Ok(axum::Json(AuditPage { audit, next }))
}
