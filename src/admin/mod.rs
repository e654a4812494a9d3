//! The admin API over a Unix socket: types, routes, peer credentials, the caller's side. Not what the
//! calls do: the roles implement [`ClientBackend`] and [`ServerBackend`].
//!
//! A call in three hops: `socket::bind` → `serve` (who calls, and whether a browser sent it) →
//! `routes` (one function per route) → the backend. `respond` turns every error into problem+json.

use std::future::Future;
use std::time::Duration;

use crate::codes::Code;

mod ask;
mod backup;
pub mod call;
pub mod certificates;
pub mod checks;
pub mod domains;
pub mod drain;
mod event_log;
mod events;
pub mod figures;
pub mod health;
pub mod log_level;
mod log_override;
mod often;
mod pages;
mod respond;
mod routes;
mod scrape;
mod serve;
pub mod socket;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod types;

pub use ask::AuditAsk;
pub use call::{ApiClient, CallError, EventReader};
pub use event_log::EventLog;
pub use log_override::LogOverride;
pub use scrape::scrapers;
pub use serve::{serve_client, serve_server};
pub use socket::{AdminSocket, SocketError};

use checks::DoctorJson;
use types::{
    AuditJson, ClientStatusJson, DeviceJson, EventJson, InviteAsk, InviteJson, JoinAsk, JoinJson,
    OpenAsk, PolicyAsk, ReloadJson, ServerStatusJson, ShareJson, ShareLinkAsk, ShareLinkJson,
    SuspendAsk, TunnelJson, UserJson, VisitPage,
};

/// Who calls, from the socket's peer credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its uid.
    pub uid: u32,
    /// Its pid, when the kernel tells.
    pub pid: Option<i32>,
}

/// Why a call is refused or failed: a row of the table of codes and one sentence for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    /// The code; gives the status and the exit code.
    pub code: Code,
    /// What happened, lowercase, no full stop.
    pub detail: String,
}

impl ApiError {
    /// An error with its sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

type Reply<T> = Result<T, ApiError>;

/// Numbered events from some point on; late readers may miss some, and see a gap in the numbers.
pub type EventStream = tokio::sync::broadcast::Receiver<(u64, EventJson)>;

/// What both roles do.
pub trait CommonBackend: Send + Sync + 'static {
    /// Whether somebody may call once more, and counts it if so; else in how long.
    fn may_call(&self, caller: Caller) -> Result<(), Duration>;
    /// Validates the configuration and puts it in force; the old one stays when it is bad.
    fn reload(&self, caller: Caller) -> impl Future<Output = Reply<ReloadJson>> + Send;
    /// Ends the daemon in order; answers when it is about to end.
    fn drain(
        &self,
        caller: Caller,
        ask: drain::DrainAsk,
    ) -> impl Future<Output = Reply<drain::DrainJson>> + Send;
    /// How far that is.
    fn drain_state(&self) -> drain::DrainJson;
    /// What is wanted of the log.
    fn log_level(&self) -> log_level::LogLevelJson;
    /// Wants something else of it, for a while.
    fn set_log_level(
        &self,
        caller: Caller,
        ask: log_level::LogLevelAsk,
    ) -> impl Future<Output = Reply<log_level::LogLevelJson>> + Send;
    /// Whether every part without which the daemon is no use answers; waits as long as one does not.
    fn alive(&self) -> impl Future<Output = bool> + Send;
    /// What is needed to serve, and how it is.
    fn parts(&self) -> impl Future<Output = Vec<health::PartJson>> + Send;
    /// The page for Prometheus.
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// Events from `after` on as far as they are remembered, then live ones.
    fn events(&self, after: Option<u64>) -> (Vec<(u64, EventJson)>, EventStream);
}

/// What `wormkeyd client` does when asked.
pub trait ClientBackend: CommonBackend {
    /// Enrols this device.
    fn join(&self, caller: Caller, ask: JoinAsk) -> impl Future<Output = Reply<JoinJson>> + Send;
    /// Gives up its tunnels and its enrolment; with `forget_key` the key too.
    fn leave(&self, caller: Caller, forget_key: bool) -> impl Future<Output = Reply<()>> + Send;
    /// Opens a tunnel. The flag is true when it is new, false when it was there already.
    fn open(
        &self,
        caller: Caller,
        ask: OpenAsk,
    ) -> impl Future<Output = Reply<(TunnelJson, bool)>> + Send;
    /// All tunnels that live; with `all` also those that are over.
    fn list(&self, all: bool) -> impl Future<Output = Reply<Vec<TunnelJson>>> + Send;
    /// One tunnel, by id or slug.
    fn show(&self, key: String) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Ends a tunnel, by id or slug; remembered while the server is away.
    fn close(&self, caller: Caller, key: String) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Changes a tunnel's policy, by id or slug.
    fn set(
        &self,
        caller: Caller,
        key: String,
        ask: PolicyAsk,
    ) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Adds domains to a tunnel and takes others away, by id or slug.
    fn set_domains(
        &self,
        caller: Caller,
        key: String,
        ask: domains::DomainsAsk,
    ) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Makes a share link for a tunnel, by id or slug.
    fn share(
        &self,
        caller: Caller,
        key: String,
        ask: ShareLinkAsk,
    ) -> impl Future<Output = Reply<ShareLinkJson>> + Send;
    /// The last visits that are remembered: of the tunnel with this slug, or of all.
    fn visits(
        &self,
        slug: Option<String>,
        limit: u32,
    ) -> impl Future<Output = Reply<VisitPage>> + Send;
    /// The share links of a tunnel that are not over, by id or slug.
    fn shares(&self, key: String) -> impl Future<Output = Reply<Vec<ShareJson>>> + Send;
    /// Withdraws a share link, by id.
    fn unshare(&self, caller: Caller, share: String) -> impl Future<Output = Reply<()>> + Send;
    /// How it stands.
    fn status(&self) -> impl Future<Output = Reply<ClientStatusJson>> + Send;
    /// Looks at all that it depends on. One at a time.
    fn doctor(&self) -> impl Future<Output = Reply<DoctorJson>> + Send;
}

/// What `wormkeyd server` does when asked.
pub trait ServerBackend: CommonBackend {
    /// Makes a join token.
    fn invite(
        &self,
        caller: Caller,
        ask: InviteAsk,
    ) -> impl Future<Output = Reply<InviteJson>> + Send;
    /// All devices.
    fn devices(&self) -> impl Future<Output = Reply<Vec<DeviceJson>>> + Send;
    /// All users.
    fn users(&self) -> impl Future<Output = Reply<Vec<UserJson>>> + Send;
    /// Open tunnels; with `all` also those that are over, while they are remembered.
    fn tunnels(&self, all: bool) -> impl Future<Output = Reply<Vec<TunnelJson>>> + Send;
    /// One tunnel, by id or slug.
    fn tunnel(&self, key: String) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Ends a tunnel, by id or slug.
    fn close(&self, caller: Caller, key: String) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Changes a tunnel's policy, by id or slug.
    fn set(
        &self,
        caller: Caller,
        key: String,
        ask: PolicyAsk,
    ) -> impl Future<Output = Reply<TunnelJson>> + Send;
    /// Keeps a user, a device or a tunnel from everything, or, with `on` false, no longer.
    fn suspend(
        &self,
        caller: Caller,
        ask: SuspendAsk,
        on: bool,
    ) -> impl Future<Output = Reply<()>> + Send;
    /// Revokes a share link, a device or an invite, by id or by a device's name.
    fn revoke(&self, caller: Caller, what: String) -> impl Future<Output = Reply<()>> + Send;
    /// How it stands.
    fn status(&self) -> impl Future<Output = Reply<ServerStatusJson>> + Send;
    /// Looks at all that it depends on. One at a time.
    fn doctor(&self) -> impl Future<Output = Reply<DoctorJson>> + Send;
    /// The live links after a cursor, oldest first.
    fn links(
        &self,
        after: Option<String>,
        limit: u32,
    ) -> impl Future<Output = Reply<figures::LinkPage>> + Send;
    /// A copy of the database, at its start, and its size; all that was acknowledged before is in it.
    fn backup(&self, caller: Caller) -> impl Future<Output = Reply<(std::fs::File, u64)>> + Send;
    /// The rows of the audit that are asked for, oldest first; `limit` is within bounds.
    fn audit(
        &self,
        ask: AuditAsk,
        limit: u32,
    ) -> impl Future<Output = Reply<Vec<AuditJson>>> + Send;
}
