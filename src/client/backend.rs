//! What the client's admin API does. Each change runs in a task of its own, so that a caller who hangs up
//! leaves nothing half done.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::admin::checks::DoctorJson;
use crate::admin::domains::DomainsAsk;
use crate::admin::drain::{DrainAsk, DrainJson, not_by_itself};
use crate::admin::health::PartJson;
use crate::admin::log_level::{LogLevelAsk, LogLevelJson};
use crate::admin::types::{
    ClientStatusJson, EventJson, JoinAsk, JoinJson, LinkJson, OpenAsk, PacketsJson, PolicyAsk,
    ReloadJson, ShareJson, ShareLinkAsk, ShareLinkJson, TunnelJson, VisitPage,
};
use crate::admin::{ApiError, Caller, ClientBackend, CommonBackend, EventStream, LogOverride};
use crate::codes::Code;
use crate::config::ClientConfig;
use crate::link::Link;
use crate::link::path::PathKind;
use crate::supervise::Vital as _;
use crate::times::Clock;
use crate::wire::token::JoinToken;

use super::calls::Calls;
use super::open::{ANSWER_WITHIN, answer_within};
use super::requests::Question;
use super::{Client, Own, SOFTWARE, keeper, session};

/// How long a link that ends may take to be gone before the next step.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The client as its admin socket sees it.
pub struct Backend {
    client: Arc<Client>,
    config: Mutex<ClientConfig>,
    own: Own,
    log_override: LogOverride,
    calls: Calls,
}

impl Backend {
    pub(super) fn new(client: Arc<Client>, config: ClientConfig, own: Own) -> Self {
        Self {
            log_override: LogOverride::new(client.tasks.clone()),
            client,
            config: Mutex::new(config),
            own,
            calls: Calls::default(),
        }
    }

    /// Runs a change to its end even when the caller hangs up.
    async fn run<T, F>(&self, name: &'static str, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let done = self.client.tasks.spawn(name, work).await;
        done.unwrap_or_else(|_| {
            Err(ApiError::new(
                Code::Internal,
                "the request failed inside the daemon",
            ))
        })
    }

    /// Validates the file and puts it in force; SIGHUP and `reload` alike.
    pub async fn reload_now(&self) -> Result<ReloadJson, ApiError> {
        let fresh = ClientConfig::load(self.own.config_path.as_deref())
            .map_err(|e| ApiError::new(Code::BadConfiguration, e.to_string()))
            .inspect_err(
                |err| tracing::error!(%err, "configuration not reloaded, the old one stays"),
            )?;
        let old = self
            .config
            .lock()
            .expect("nothing panics while it holds the configuration")
            .clone();
        let mut notes: Vec<String> = old
            .changed_needs_restart(&fresh)
            .into_iter()
            .map(|key| format!("{key} takes effect at the next start"))
            .collect();
        let in_force = old.reloaded(&fresh);
        self.client.origins.set_policy(self.own.policy(&in_force));
        self.client.probes.set_every(in_force.probe.every);
        notes.extend(self.client.declare(&in_force.tunnels).await);
        *self
            .config
            .lock()
            .expect("nothing panics while it holds the configuration") = in_force;
        tracing::info!(notes = notes.len(), "configuration reloaded");
        Ok(ReloadJson { notes })
    }
}

impl CommonBackend for Backend {
    fn may_call(&self, caller: Caller) -> Result<(), Duration> {
        self.calls.may(Clock.now().monotonic, caller.uid)
    }

    async fn reload(&self, _: Caller) -> Result<ReloadJson, ApiError> {
        self.reload_now().await
    }

    async fn drain(&self, caller: Caller, ask: DrainAsk) -> Result<DrainJson, ApiError> {
        let grace = ask.grace()?;
        tracing::info!(uid = caller.uid, ?grace, "drain asked for");
        if !self.client.drains.ask(grace).await {
            return Err(not_by_itself());
        }
        Ok(self.drain_state())
    }

    fn drain_state(&self) -> DrainJson {
        let stand = self.client.drains.stand();
        DrainJson {
            draining: stand.ends_by.is_some(),
            visits: self.client.book.visits(),
            ends_by: stand.ends_by,
            finished: stand.finished,
        }
    }

    fn log_level(&self) -> LogLevelJson {
        self.log_override.shown()
    }

    async fn set_log_level(
        &self,
        caller: Caller,
        ask: LogLevelAsk,
    ) -> Result<LogLevelJson, ApiError> {
        self.log_override.set(caller, &ask)
    }

    async fn alive(&self) -> bool {
        self.client.answers().await
    }

    async fn parts(&self) -> Vec<PartJson> {
        self.client.parts().await
    }

    async fn metrics(&self) -> String {
        self.client.page().await
    }

    fn events(&self, after: Option<u64>) -> (Vec<(u64, EventJson)>, EventStream) {
        self.client.events.after(after)
    }
}

impl ClientBackend for Backend {
    async fn join(&self, caller: Caller, ask: JoinAsk) -> Result<JoinJson, ApiError> {
        let client = Arc::clone(&self.client);
        self.run("join", async move { client.join(caller, ask).await })
            .await
    }

    async fn leave(&self, caller: Caller, forget_key: bool) -> Result<(), ApiError> {
        let client = Arc::clone(&self.client);
        self.run(
            "leave",
            async move { client.leave(caller, forget_key).await },
        )
        .await
    }

    async fn open(&self, caller: Caller, ask: OpenAsk) -> Result<(TunnelJson, bool), ApiError> {
        let client = Arc::clone(&self.client);
        let opened = self.run("open", client.open(ask)).await?;
        tracing::info!(uid = caller.uid, tunnel = %opened.0.id, slug = opened.0.slug, new = opened.1, "tunnel opened");
        Ok(opened)
    }

    async fn visits(&self, slug: Option<String>, limit: u32) -> Result<VisitPage, ApiError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.client.events.visits(slug.as_deref(), limit))
    }

    async fn list(&self, all: bool) -> Result<Vec<TunnelJson>, ApiError> {
        let up = self.client.link_up();
        let rows = self.client.book.rows();
        Ok(rows
            .iter()
            .filter(|r| all || r.state.is_live())
            .map(|r| self.client.book.json(r, up))
            .collect())
    }

    async fn show(&self, key: String) -> Result<TunnelJson, ApiError> {
        let row = self.client.book.find(&key);
        let row =
            row.ok_or_else(|| ApiError::new(Code::NotFound, format!("there is no tunnel {key}")))?;
        Ok(self.client.book.json(&row, self.client.link_up()))
    }

    async fn close(&self, caller: Caller, key: String) -> Result<TunnelJson, ApiError> {
        let client = Arc::clone(&self.client);
        let closed = self.run("close", client.close(key)).await?;
        tracing::info!(uid = caller.uid, tunnel = %closed.id, slug = closed.slug, "tunnel closed");
        Ok(closed)
    }

    async fn doctor(&self) -> Result<DoctorJson, ApiError> {
        self.client.doctor().await
    }

    async fn set(
        &self,
        caller: Caller,
        key: String,
        ask: PolicyAsk,
    ) -> Result<TunnelJson, ApiError> {
        let client = Arc::clone(&self.client);
        let set = self.run("set", client.set(key, ask)).await?;
        tracing::info!(uid = caller.uid, tunnel = %set.id, slug = set.slug, "policy set");
        Ok(set)
    }

    async fn set_domains(
        &self,
        caller: Caller,
        key: String,
        ask: DomainsAsk,
    ) -> Result<TunnelJson, ApiError> {
        let client = Arc::clone(&self.client);
        let set = self.run("set", client.set_domains(key, ask)).await?;
        tracing::info!(uid = caller.uid, tunnel = %set.id, slug = set.slug, "domains set");
        Ok(set)
    }

    async fn share(
        &self,
        caller: Caller,
        key: String,
        ask: ShareLinkAsk,
    ) -> Result<ShareLinkJson, ApiError> {
        let client = Arc::clone(&self.client);
        let link = self.run("share", client.share(key, ask)).await?;
        tracing::info!(uid = caller.uid, share = link.id, "share link made");
        Ok(link)
    }

    async fn shares(&self, key: String) -> Result<Vec<ShareJson>, ApiError> {
        let client = Arc::clone(&self.client);
        self.run("shares", client.shares_of(key)).await
    }

    async fn unshare(&self, caller: Caller, share: String) -> Result<(), ApiError> {
        let client = Arc::clone(&self.client);
        self.run("unshare", client.unshare(share.clone())).await?;
        tracing::info!(uid = caller.uid, share, "share link withdrawn");
        Ok(())
    }

    async fn status(&self) -> Result<ClientStatusJson, ApiError> {
        let client = &self.client;
        let enrolment = client.book.enrolment();
        let mut link = client.standing.borrow().clone();
        if let Some(live) = client.link() {
            tell_live(&mut link, &live);
        }
        Ok(ClientStatusJson {
            software: SOFTWARE.into(),
            pid: std::process::id(),
            started_at: client.started_at,
            joined: enrolment.is_some(),
            domain: enrolment.as_ref().map(|e| e.domain.to_string()),
            user: enrolment.as_ref().map(|e| e.user.clone()),
            device: enrolment.as_ref().map(|e| e.device),
            link,
            tunnels: client.book.live_count() as u64,
            problems: client.all_problems(),
        })
    }
}

impl Client {
    async fn join(self: Arc<Self>, caller: Caller, ask: JoinAsk) -> Result<JoinJson, ApiError> {
        let token = JoinToken::parse(&ask.token)
            .map_err(|e| ApiError::new(Code::BadToken, e.to_string()))?;
        let _alone = self.membership.lock().await;
        if let Some(there) = self.book.enrolment() {
            if !ask.replace {
                let detail = format!("this device has joined {} already", there.domain);
                return Err(ApiError::new(Code::AlreadyJoined, detail));
            }
            self.replace(&token).await?;
        }
        let (session, enrolment) = keeper::enrol(&self, &token)
            .await
            .map_err(keeper::Failure::into_api)?;
        self.book.enrol(enrolment.clone()).await?;
        self.hand(session);
        self.hurry.notify_one();
        tracing::info!(uid = caller.uid, domain = %enrolment.domain, device = %enrolment.device, "joined");
        Ok(JoinJson {
            device: enrolment.device,
            user: enrolment.user,
            domain: enrolment.domain.to_string(),
            addresses: enrolment.addresses,
        })
    }

    /// `join --replace`: the old server's tunnels end here; it is told if it can be reached.
    async fn replace(&self, token: &JoinToken) -> Result<(), ApiError> {
        let same_server = self
            .book
            .enrolment()
            .is_some_and(|e| e.pins.iter().any(|p| token.pins.contains(p)));
        // With the same server the device stays who it is: its tunnels are its own under the new token too.
        if same_server {
            return Ok(());
        }
        let _ = self.tell_leaving().await;
        self.book.leave().await?;
        self.end_link().await;
        Ok(())
    }

    async fn leave(self: Arc<Self>, caller: Caller, forget_key: bool) -> Result<(), ApiError> {
        let _alone = self.membership.lock().await;
        if self.book.enrolment().is_none() {
            return Err(ApiError::new(
                Code::NotJoined,
                "this device has not joined a server",
            ));
        }
        match self.tell_leaving().await {
            Ok(()) => {}
            Err(e) if forget_key => tracing::warn!(err = %e, "left without telling the server"),
            Err(e) => {
                let detail =
                    format!("{e}; `leave --forget-key` gives up without telling the server");
                return Err(ApiError::new(e.code, detail));
            }
        }
        self.book.leave().await?;
        self.end_link().await;
        // The server keeps a key that left revoked for ever, so a new enrolment needs a new one.
        remove_key(&self.state_dir.join("client.key"))?;
        tracing::info!(uid = caller.uid, "left");
        Ok(())
    }

    async fn tell_leaving(&self) -> Result<(), ApiError> {
        let Some(enrolment) = self.book.enrolment() else {
            return Ok(());
        };
        let (request, answer) = self.requests.ask(Question::Leave);
        let answer = self.ask(
            request,
            session::leave_message(request, enrolment.device),
            answer,
        )?;
        answer_within(answer, ANSWER_WITHIN, "leaving")
            .await
            .map(drop)
    }

    async fn end_link(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
        self.hurry.notify_one();
        let mut standing = self.standing.subscribe();
        let down = standing.wait_for(|link| link.state != "up");
        let _ = tokio::time::timeout(GONE_WITHIN, down).await;
    }
}

fn remove_key(path: &std::path::Path) -> Result<(), ApiError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ApiError::new(
            Code::Storage,
            format!("the key could not be removed: {e}"),
        )),
        _ => Ok(()),
    }
}

/// What is known of a link only while it is up.
fn tell_live(json: &mut LinkJson, link: &Link) {
    let (stats, path) = (link.stats(), link.path());
    let millis = |d: Duration| d.as_secs_f64() * 1000.0;
    json.rtt_ms = Some(millis(stats.rtt));
    json.path = Some(match path.kind {
        PathKind::Udp => "udp".into(),
        PathKind::WebSocket => "websocket".into(),
    });
    let unverified = path.kind == PathKind::WebSocket && !path.outer_verified;
    json.unverified_issuer = path.outer_issuer.filter(|_| unverified);
    json.moves = Some(stats.rebinds);
    json.longest_stall_ms = Some(millis(stats.longest_stall));
    json.packets = Some(PacketsJson {
        sent: stats.sent_packets,
        lost: stats.lost_packets,
    });
}
