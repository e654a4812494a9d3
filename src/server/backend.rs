//! What the server's admin API does: questions to the engine, and looks at it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::admin::checks::DoctorJson;
use crate::admin::drain::{DrainAsk, DrainJson, not_by_itself};
use crate::admin::figures::LinkPage;
use crate::admin::health::PartJson;
use crate::admin::log_level::{LogLevelAsk, LogLevelJson};
use crate::admin::types::{
    AuditJson, DeviceJson, EndsNextJson, EventJson, InviteAsk, InviteJson, PolicyAsk, ReloadJson,
    ServerStatusJson, SuspendAsk, TunnelJson, UserJson,
};
use crate::admin::{
    ApiError, AuditAsk, Caller, CommonBackend, EventStream, LogOverride, ServerBackend,
};
use crate::codes::Code;
use crate::config::{ServerConfig, TlsMode};
use crate::edge::Edge;
use crate::engine::limits::{Act, Source};
use crate::engine::{
    Actor, Answer, AskError, AuditRow, DeviceView, Engine, Event, LifeAsk, SetAsk, TunnelState,
    TunnelView,
};
use crate::link::Listener;
use crate::names::{Generation, InviteId, LinkId, Pin, UserId};
use crate::secret::Secret;
use crate::store::ServerStore;
use crate::supervise::{Drains, Vital as _};
use crate::times::{Now, WallTime, parse_duration, show_duration};
use crate::wire::token::JoinToken;

use super::desk::Desk;
use super::keys::{self, Pins};
use super::visits::Inside;
use super::{Certificates, SOFTWARE, audit};

/// How long a join token works when nothing is said.
const INVITE_EXPIRES: Duration = Duration::from_secs(8 * 3600);
/// The most devices that one join token may enrol.
const INVITE_USES_MAX: u32 = 10_000;

/// What the backend is made of.
pub(super) struct Parts {
    pub(super) desk: Desk,
    pub(super) store: ServerStore,
    pub(super) edge: Edge<Inside>,
    pub(super) certificates: Certificates,
    pub(super) pin: Pin,
    pub(super) pins: Pins,
    pub(super) listener: Arc<Listener>,
    pub(super) listen: BTreeMap<String, String>,
    pub(super) started_at: WallTime,
    pub(super) config_path: Option<PathBuf>,
    pub(super) https: SocketAddr,
    pub(super) config: ServerConfig,
    pub(super) drains: Drains,
    pub(super) log_override: LogOverride,
}

/// The server as its admin socket sees it.
pub struct Backend {
    pub(super) parts: Parts,
    config: Mutex<ServerConfig>,
    draining: AtomicBool,
    /// Held by the one doctor at work.
    doctor: tokio::sync::Mutex<()>,
    /// Held while a copy is made.
    backups: tokio::sync::Mutex<()>,
}

impl Backend {
    pub(super) fn new(parts: Parts) -> Self {
        let config = Mutex::new(parts.config.clone());
        Self {
            parts,
            config,
            draining: AtomicBool::new(false),
            doctor: tokio::sync::Mutex::new(()),
            backups: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) const fn desk(&self) -> &Desk {
        &self.parts.desk
    }

    pub(super) fn store(&self) -> &ServerStore {
        &self.parts.store
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn visits(&self) -> u64 {
        self.parts.desk.read(Engine::visits_now) as u64
    }

    /// A look at the configuration in force.
    pub(super) fn config<T>(&self, look: impl FnOnce(&ServerConfig) -> T) -> T {
        look(
            &self
                .config
                .lock()
                .expect("nothing panics while it holds the configuration"),
        )
    }

    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Validates the file and puts it in force; SIGHUP and `reload` alike. The old configuration stays
    /// whole when anything of the new one cannot be had.
    pub async fn reload_now(&self) -> Result<ReloadJson, ApiError> {
        self.reload_checked().inspect_err(
            |err| tracing::error!(%err, "configuration not reloaded, the old one stays"),
        )
    }

    fn reload_checked(&self) -> Result<ReloadJson, ApiError> {
        let bad = |e: String| ApiError::new(Code::BadConfiguration, e);
        let fresh = ServerConfig::load(self.parts.config_path.as_deref())
            .map_err(|e| bad(e.to_string()))?;
        let mut config = self
            .config
            .lock()
            .expect("nothing panics while it holds the configuration");
        let mut notes: Vec<String> = config
            .changed_needs_restart(&fresh)
            .into_iter()
            .map(|key| format!("{key} takes effect at the next start"))
            .collect();
        let in_force = config.reloaded(&fresh);
        let usable =
            |config: &ServerConfig| super::certified_key(config).map_err(|e| bad(format!("{e:#}")));
        // Files for the next start have to be good now, too, or the next start fails.
        super::readable(&fresh).map_err(|e| bad(format!("{e:#}")))?;
        let certificates = match &self.parts.certificates {
            Certificates::Kept(_) | Certificates::Files(_) => Some(usable(&in_force)?),
            Certificates::Own(_) | Certificates::Acme(_) => None,
        };
        let pins =
            keys::pins(&in_force.state_dir, self.parts.pin).map_err(|e| bad(format!("{e:#}")))?;
        // From here on nothing can fail.
        if let Some(next) = self.parts.pins.change(pins, &self.parts.listener) {
            tracing::info!(%next, "the next key is told to clients");
            notes.push(format!(
                "clients that link from now on learn of the next key, {next}"
            ));
        }
        match (&self.parts.certificates, certificates, &in_force.tls) {
            (Certificates::Kept(store), Some(read), _) => store.swap(read),
            (Certificates::Files(watched), Some(read), TlsMode::Files { cert, key }) => {
                watched.change(cert, key, read);
            }
            // Whoever reloads may have mended what failed.
            (Certificates::Acme(acme), ..) => acme.hurry(),
            _ => {}
        }
        let port = self.parts.https.port();
        self.parts
            .edge
            .reload(super::edge_settings(&in_force, port));
        let settings = super::engine_settings(&in_force, port);
        *config = in_force;
        drop(config);
        self.parts.desk.handle(Event::Reloaded { settings });
        tracing::info!("configuration reloaded");
        Ok(ReloadJson { notes })
    }

    /// Where join tokens send clients: as configured, with the port that was really bound.
    fn addresses(&self) -> Vec<String> {
        let config = self
            .config
            .lock()
            .expect("nothing panics while it holds the configuration");
        if config.advertise.is_empty() {
            return vec![self.parts.https.to_string()];
        }
        let port = self.parts.https.port();
        let real = |address: &String| match address.strip_suffix(":0") {
            Some(host) => format!("{host}:{port}"),
            None => address.clone(),
        };
        config.advertise.iter().map(real).collect()
    }

    /// What an operator does to the server itself is no change of the engine's, and in the audit all the
    /// same. It works with a full disk, too.
    async fn note(&self, caller: Caller, action: &'static str, detail: String) {
        let line = AuditRow {
            at: self.parts.desk.now().wall,
            actor: Actor::Operator { uid: caller.uid },
            peer: None,
            action,
            subject: "server".to_owned(),
            detail,
        };
        if let Err(err) = self.parts.store.commit(Vec::new(), vec![line]).await {
            tracing::error!(%err, action, uid = caller.uid, "not written to the audit");
        }
    }

    fn view(&self, key: &str) -> Result<TunnelView, ApiError> {
        let none = || ApiError::new(Code::NotFound, format!("there is no tunnel {key}"));
        self.parts
            .desk
            .read(|engine| engine.tunnel(key))
            .ok_or_else(none)
    }

    fn tunnel_json(&self, view: &TunnelView) -> TunnelJson {
        let now = self.parts.desk.now();
        let mut json = (self.parts.desk).read(|engine| tunnel_json(engine, view, now));
        json.domains = self.parts.desk.own().json(view);
        json
    }
}

impl CommonBackend for Backend {
    fn may_call(&self, caller: Caller) -> Result<(), Duration> {
        self.parts
            .desk
            .source_may(Act::ApiCall, Source::Uid(caller.uid))
    }

    async fn reload(&self, caller: Caller) -> Result<ReloadJson, ApiError> {
        tracing::info!(uid = caller.uid, "reload asked for");
        let done = self.reload_now().await?;
        self.note(caller, "server.reload", done.notes.join("; "))
            .await;
        Ok(done)
    }

    async fn drain(&self, caller: Caller, ask: DrainAsk) -> Result<DrainJson, ApiError> {
        let grace = ask.grace()?;
        tracing::info!(uid = caller.uid, ?grace, "drain asked for");
        let detail = grace.map_or_else(String::new, |grace| {
            format!("grace {}", show_duration(grace))
        });
        self.note(caller, "server.drain", detail).await;
        if !self.parts.drains.ask(grace).await {
            return Err(not_by_itself());
        }
        Ok(self.drain_state())
    }

    fn drain_state(&self) -> DrainJson {
        let stand = self.parts.drains.stand();
        DrainJson {
            draining: stand.ends_by.is_some(),
            visits: self.visits(),
            ends_by: stand.ends_by,
            finished: stand.finished,
        }
    }

    fn log_level(&self) -> LogLevelJson {
        self.parts.log_override.shown()
    }

    async fn set_log_level(
        &self,
        caller: Caller,
        ask: LogLevelAsk,
    ) -> Result<LogLevelJson, ApiError> {
        let shown = self.parts.log_override.set(caller, &ask)?;
        let lasts = shown.until.map(|until| format!("until {until}"));
        let row = AuditRow {
            at: self.parts.desk.now().wall,
            actor: Actor::Operator { uid: caller.uid },
            peer: None,
            action: "log.level",
            subject: shown.level.clone(),
            detail: lasts.unwrap_or_default(),
        };
        // A log that is wanted may be wanted because the disk is full: it is changed all the same.
        if let Err(err) = self.store().commit(Vec::new(), vec![row]).await {
            tracing::warn!(%err, "change of the log level not in the audit");
        }
        Ok(shown)
    }

    async fn alive(&self) -> bool {
        self.answers().await
    }

    async fn parts(&self) -> Vec<PartJson> {
        self.parts_now().await
    }

    async fn metrics(&self) -> String {
        self.page().await
    }

    fn events(&self, after: Option<u64>) -> (Vec<(u64, EventJson)>, EventStream) {
        self.parts.desk.events().after(after)
    }
}

impl ServerBackend for Backend {
    async fn invite(&self, caller: Caller, ask: InviteAsk) -> Result<InviteJson, ApiError> {
        let usage = |e: String| ApiError::new(Code::Usage, e);
        let lasts = match ask.expires.as_deref() {
            Some(text) => parse_duration(text).map_err(|e| usage(format!("expires: {e}")))?,
            None => INVITE_EXPIRES,
        };
        let uses = ask.uses.unwrap_or(1);
        if !(1..=INVITE_USES_MAX).contains(&uses) {
            return Err(usage(format!("uses: a number from 1 to {INVITE_USES_MAX}")));
        }
        let secret = fresh_secret()?;
        let (hash, user) = (
            JoinToken::secret_hash(&secret),
            ask.user.unwrap_or_else(|| "default".into()),
        );
        let now = self.parts.desk.now().wall;
        let id = InviteId::random();
        let asked = self.parts.desk.ask(caller.uid, |from| Event::InviteAsked {
            from,
            user,
            user_id: UserId::random(),
            id,
            secret_hash: hash,
            uses,
            expires_at: now.plus(lasts),
        });
        let expires_at = match asked.await? {
            Answer::Invited { expires_at } => expires_at,
            _ => {
                return Err(ApiError::new(
                    Code::Internal,
                    "the engine gave another answer",
                ));
            }
        };
        let token = JoinToken {
            addresses: self.addresses(),
            pins: self.parts.pins.all(),
            secret: Secret::new(secret),
        };
        Ok(InviteJson {
            id: Some(id),
            token: token.to_text().expose().clone(),
            expires_at,
        })
    }

    async fn devices(&self) -> Result<Vec<DeviceJson>, ApiError> {
        Ok(self
            .parts
            .desk
            .read(|engine| engine.devices().map(device_json).collect()))
    }

    async fn users(&self) -> Result<Vec<UserJson>, ApiError> {
        let json = |view: crate::engine::UserView| UserJson {
            id: view.row.id,
            name: view.row.name,
            created_at: view.row.created_at,
            suspended_at: view.row.suspended_at,
            devices: view.devices as u64,
            tunnels: view.tunnels as u64,
        };
        Ok(self
            .parts
            .desk
            .read(|engine| engine.users().map(json).collect()))
    }

    async fn tunnels(&self, all: bool) -> Result<Vec<TunnelJson>, ApiError> {
        let wanted = |view: &TunnelView| all || view.row.state == TunnelState::Open;
        let now = self.parts.desk.now();
        Ok(self.parts.desk.read(|engine| {
            engine
                .tunnels()
                .filter(wanted)
                .map(|view| {
                    let mut json = tunnel_json(engine, &view, now);
                    json.domains = self.parts.desk.own().json(&view);
                    json
                })
                .collect()
        }))
    }

    async fn tunnel(&self, key: String) -> Result<TunnelJson, ApiError> {
        Ok(self.tunnel_json(&self.view(&key)?))
    }

    async fn close(&self, caller: Caller, key: String) -> Result<TunnelJson, ApiError> {
        let tunnel = self.view(&key)?.row.id;
        self.parts
            .desk
            .ask(caller.uid, |from| Event::CloseAsked { from, tunnel })
            .await?;
        self.tunnel(tunnel.to_string()).await
    }

    async fn set(
        &self,
        caller: Caller,
        key: String,
        ask: PolicyAsk,
    ) -> Result<TunnelJson, ApiError> {
        let tunnel = self.view(&key)?.row.id;
        if !ask.life.is_empty() {
            let what = "how long a tunnel lives, its hold and its labels are its owner's to change; they stand on its machine, too";
            return Err(ApiError::new(Code::Usage, what));
        }
        let ask = SetAsk {
            tunnel,
            policy: ask.policy,
            parts: ask.parts,
            life: LifeAsk::default(),
        };
        let set = |from| Event::SetAsked { from, ask };
        self.parts.desk.ask(caller.uid, set).await?;
        self.tunnel(tunnel.to_string()).await
    }

    async fn suspend(&self, caller: Caller, ask: SuspendAsk, on: bool) -> Result<(), ApiError> {
        let SuspendAsk { what, reason } = ask;
        let event = |from| match on {
            true => Event::SuspendAsked { from, what, reason },
            false => Event::ResumeAsked { from, what },
        };
        self.parts.desk.ask(caller.uid, event).await?;
        Ok(())
    }

    async fn revoke(&self, caller: Caller, what: String) -> Result<(), ApiError> {
        self.parts
            .desk
            .ask(caller.uid, |from| Event::RevokeAsked { from, what })
            .await?;
        Ok(())
    }

    async fn status(&self) -> Result<ServerStatusJson, ApiError> {
        let counts = self.parts.desk.read(Engine::counts);
        let mut listen = self.parts.listen.clone();
        // It may come later than the others.
        if let Some(dns) = self.parts.certificates.dns_addr() {
            listen.insert("dns".to_owned(), dns.to_string());
        }
        let config = self
            .config
            .lock()
            .expect("nothing panics while it holds the configuration");
        Ok(ServerStatusJson {
            software: SOFTWARE.into(),
            pid: std::process::id(),
            started_at: self.parts.started_at,
            domain: config.domain.to_string(),
            listen,
            tls: match config.tls {
                TlsMode::SelfSigned => "self-signed".into(),
                TlsMode::Files { .. } => "files".into(),
                TlsMode::Acme(_) => "acme".into(),
            },
            certificates: self.parts.certificates.status(),
            pin: self.parts.pin.to_string(),
            links: counts.links as u64,
            dormant: counts.dormant as u64,
            dormant_bytes: counts.dormant_bytes,
            dormant_evicted: counts.dormant_evicted,
            tunnels: counts.tunnels as u64,
            visits: counts.visits as u64,
            held: counts.held as u64,
            held_bytes: counts.held_bytes,
            visits_total: counts.visits_total,
            draining: self.draining.load(Ordering::Relaxed),
        })
    }

    async fn doctor(&self) -> Result<DoctorJson, ApiError> {
        let Ok(_alone) = self.doctor.try_lock() else {
            return Err(ApiError::new(
                Code::Overloaded,
                "another doctor is at work; try again in a moment",
            ));
        };
        let domain = self
            .config
            .lock()
            .expect("nothing panics while it holds the configuration")
            .domain
            .clone();
        let mut found = super::doctor::doctor(&domain, self.parts.https).await;
        let certificates = self.parts.certificates.status();
        found.checks.extend(super::doctor::renewals(&certificates));
        Ok(found)
    }

    async fn links(&self, after: Option<String>, limit: u32) -> Result<LinkPage, ApiError> {
        let bad = |_| ApiError::new(Code::Usage, "the cursor is not one; use a page's `next`");
        let after = after.map(|text| text.parse::<Generation>().map_err(bad));
        let after = after.transpose()?.map(LinkId);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(self.parts.desk.links(after, limit))
    }

    async fn backup(&self, caller: Caller) -> Result<(std::fs::File, u64), ApiError> {
        let Ok(_alone) = self.backups.try_lock() else {
            let detail = "another backup is being made; try again when it is done";
            return Err(ApiError::new(Code::Overloaded, detail));
        };
        let failed = |e: crate::store::StoreError| ApiError::new(e.code(), e.to_string());
        let row = AuditRow {
            at: self.parts.desk.now().wall,
            actor: Actor::Operator { uid: caller.uid },
            peer: None,
            action: "server.backup",
            subject: "server.db".to_owned(),
            detail: String::new(),
        };
        // First, so that the copy tells of itself, and so that none is made in secret.
        let store = self.store();
        store.commit(Vec::new(), vec![row]).await.map_err(failed)?;
        let (file, size) = store.copy().await.map_err(failed)?;
        tracing::info!(uid = caller.uid, bytes = size, "backup made");
        Ok((file, size))
    }

    async fn audit(&self, ask: AuditAsk, limit: u32) -> Result<Vec<AuditJson>, ApiError> {
        audit::page(&self.parts.desk, &self.parts.store, ask, limit).await
    }
}

impl From<AskError> for ApiError {
    fn from(e: AskError) -> Self {
        Self::new(e.code(), e.to_string())
    }
}

fn fresh_secret() -> Result<[u8; 32], ApiError> {
    let mut secret = [0u8; 32];
    aws_lc_rs::rand::fill(&mut secret)
        .map_err(|_| ApiError::new(Code::Internal, "the system gave no random numbers"))?;
    Ok(secret)
}

pub(super) fn tunnel_json(engine: &Engine, view: &TunnelView, now: Now) -> TunnelJson {
    let row = &view.row;
    let next = engine.ends_next(now, row.id);
    TunnelJson {
        id: row.id,
        slug: Some(row.slug.to_string()),
        url: Some(view.url.clone()),
        kind: row.kind.to_string(),
        target: None,
        state: view.state.to_owned(),
        expires_at: row.expires_at,
        created_at: row.created_at,
        ended_at: row.ended_at,
        last_seen_at: row.last_seen_at,
        idle_seconds: row.idle.map(|idle| idle.as_secs()),
        ends_next: EndsNextJson {
            at: next.map(|next| next.at),
            why: next.map(|next| next.why.as_str().to_owned()),
        },
        hold_seconds: Some(row.hold.as_secs_f64()),
        declared: row.declared,
        labels: row.labels.iter().cloned().collect(),
        host: None,
        host_in_use: None,
        visits: view.visits as u64,
        visits_total: 0,
        public_port: row.public_port,
        proxy_protocol: None,
        policy: Some(row.policy.shown()),
        device: Some(row.device),
        user: engine.user_name(row.user).map(str::to_owned),
        probe: None,
        domains: Vec::new(),
        warnings: Vec::new(),
    }
}

fn device_json(view: DeviceView) -> DeviceJson {
    let link = match (view.link, view.dormant) {
        (None, _) => "away",
        (Some(_), true) => "dormant",
        (Some(_), false) => "up",
    };
    DeviceJson {
        id: view.row.id,
        name: view.row.name,
        user: view.user,
        pin: view.row.pin.to_string(),
        created_at: view.row.created_at,
        suspended_at: view.row.suspended_at,
        revoked_at: view.row.revoked_at,
        link: link.into(),
        peer: view.peer.map(|p| p.to_string()),
        tunnels: view.tunnels as u64,
    }
}
