//! Backends for tests: they remember what they were asked and answer from a list.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::broadcast;

use super::checks::{CheckJson, DoctorJson};
use super::domains::DomainsAsk;
use super::drain::{DrainAsk, DrainJson};
use super::figures::{LinkFiguresJson, LinkPage};
use super::health::PartJson;
use super::log_level::{LogLevelAsk, LogLevelJson};
use super::types::{
    AuditJson, ClientStatusJson, DeviceJson, EndsNextJson, EventJson, InviteAsk, InviteJson,
    JoinAsk, JoinJson, LinkJson, OpenAsk, PacketsJson, PolicyAsk, ReloadJson, ServerStatusJson,
    ShareJson, ShareLinkAsk, ShareLinkJson, SuspendAsk, TunnelJson, UserJson, VisitJson, VisitPage,
};
use super::{
    ApiClient, ApiError, AuditAsk, Caller, ClientBackend, CommonBackend, EventStream,
    ServerBackend, socket,
};
use crate::codes::Code;
use crate::names::{DeviceId, Target, TunnelId, UserId};
use crate::tasks::Tasks;
use crate::telemetry::metrics::{Page, VISITS_NOW};
use crate::times::WallTime;

/// 2023-11-14T22:13:20Z, when every test takes place.
pub(crate) const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

/// A tunnel id that sorts by its number.
pub(crate) fn tunnel_id(number: u8) -> TunnelId {
    let mut bytes = [0; 16];
    bytes[15] = number;
    TunnelId::from_bytes(bytes)
}

/// `https://<slug>.t.example.com` → `http://localhost:3000`, open for ever.
pub(crate) fn tunnel(number: u8, slug: &str) -> TunnelJson {
    TunnelJson {
        id: tunnel_id(number),
        slug: Some(slug.to_owned()),
        url: Some(format!("https://{slug}.t.example.com")),
        kind: "http".to_owned(),
        target: Some("http://localhost:3000".to_owned()),
        state: "open".to_owned(),
        expires_at: None,
        created_at: NOW,
        ended_at: None,
        last_seen_at: None,
        idle_seconds: Some(86_400),
        ends_next: EndsNextJson::default(),
        hold_seconds: Some(10.0),
        declared: false,
        labels: BTreeMap::new(),
        host: Some("auto".to_owned()),
        host_in_use: Some("keep".to_owned()),
        visits: 0,
        visits_total: 0,
        public_port: None,
        proxy_protocol: None,
        policy: None,
        domains: Vec::new(),
        device: None,
        user: None,
        probe: None,
        warnings: Vec::new(),
    }
}

/// A visit of `GET path`.
pub(crate) fn visit(slug: &str, path: &str) -> EventJson {
    EventJson::Visit(VisitJson {
        id: "vis_1".to_owned(),
        slug: slug.to_owned(),
        at: NOW,
        method: "GET".to_owned(),
        path: path.to_owned(),
        status: Some(200),
        peer: "192.0.2.7".to_owned(),
        millis: 12,
        bytes_out: 42,
        error: None,
        shadowed: Vec::new(),
    })
}

/// Both roles at once; what differs is which routes lead to it.
pub(crate) struct Fake {
    state: Mutex<State>,
    events: broadcast::Sender<(u64, EventJson)>,
    /// Fires for each call, with its name.
    pub(crate) calls: broadcast::Sender<String>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) tunnels: Vec<TunnelJson>,
    pub(crate) remembered: Vec<(u64, EventJson)>,
    /// What every later call is refused with.
    pub(crate) refuse: Option<ApiError>,
    pub(crate) callers: Vec<Caller>,
    pub(crate) opened: Vec<OpenAsk>,
    pub(crate) set: Vec<PolicyAsk>,
    pub(crate) joined: bool,
    pub(crate) link: Option<LinkJson>,
    pub(crate) expires_at: Option<WallTime>,
    pub(crate) warnings: Vec<String>,
    pub(crate) checks: Vec<CheckJson>,
    pub(crate) panics: bool,
    pub(crate) hangs: bool,
    pub(crate) delay: Duration,
    /// Who was counted, and how many may be.
    pub(crate) counted: Vec<u32>,
    pub(crate) most: Option<usize>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::default()),
            events: broadcast::channel(64).0,
            calls: broadcast::channel(256).0,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How many listen to events now.
    pub(crate) fn watchers(&self) -> usize {
        self.events.receiver_count()
    }

    /// Something happened; remembered like the real ones do.
    pub(crate) fn emit(&self, event: EventJson) {
        let mut state = self.state();
        let id = state.remembered.len() as u64 + 1;
        state.remembered.push((id, event.clone()));
        let _ = self.events.send((id, event));
    }

    async fn called(
        &self,
        what: impl Into<String>,
        caller: Option<Caller>,
    ) -> Result<(), ApiError> {
        let (hangs, delay) = {
            let mut state = self.state();
            state.callers.extend(caller);
            assert!(!state.panics, "a panic on purpose");
            (state.hangs, state.delay)
        };
        let _ = self.calls.send(what.into());
        if hangs {
            std::future::pending::<()>().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.state().refuse.clone().map_or(Ok(()), Err)
    }

    fn find(&self, key: &str) -> Result<TunnelJson, ApiError> {
        let state = self.state();
        let found = state
            .tunnels
            .iter()
            .find(|t| t.id.to_string() == key || t.slug.as_deref() == Some(key));
        found
            .cloned()
            .ok_or_else(|| ApiError::new(Code::NoSuchTunnel, format!("there is no tunnel {key}")))
    }

    fn listed(&self, all: bool) -> Vec<TunnelJson> {
        let state = self.state();
        let lives = |t: &&TunnelJson| all || t.ended_at.is_none();
        state.tunnels.iter().filter(lives).cloned().collect()
    }

    fn end(&self, key: &str) -> Result<TunnelJson, ApiError> {
        let mut ended = self.find(key)?;
        ended.state = "closed".to_owned();
        ended.ended_at = Some(NOW);
        let mut state = self.state();
        for tunnel in &mut state.tunnels {
            if tunnel.id == ended.id {
                *tunnel = ended.clone();
            }
        }
        Ok(ended)
    }
}

impl CommonBackend for Fake {
    fn may_call(&self, caller: Caller) -> Result<(), Duration> {
        let mut state = self.state();
        if state.most.is_some_and(|most| state.counted.len() >= most) {
            return Err(Duration::from_secs(30));
        }
        state.counted.push(caller.uid);
        Ok(())
    }

    async fn reload(&self, caller: Caller) -> Result<ReloadJson, ApiError> {
        self.called("reload", Some(caller)).await?;
        Ok(ReloadJson {
            notes: vec!["[listen] https needs a restart".to_owned()],
        })
    }

    async fn drain(&self, caller: Caller, ask: DrainAsk) -> Result<DrainJson, ApiError> {
        self.called(format!("drain {:?}", ask.grace), Some(caller))
            .await?;
        Ok(DrainJson {
            finished: Some(true),
            ..self.drain_state()
        })
    }

    fn drain_state(&self) -> DrainJson {
        DrainJson {
            draining: true,
            visits: 4,
            ends_by: Some(NOW),
            finished: None,
        }
    }

    fn log_level(&self) -> LogLevelJson {
        LogLevelJson {
            level: "info".to_owned(),
            configured: "info".to_owned(),
            until: None,
        }
    }

    async fn set_log_level(
        &self,
        caller: Caller,
        ask: LogLevelAsk,
    ) -> Result<LogLevelJson, ApiError> {
        self.called(
            format!("log-level {:?} {:?}", ask.level, ask.lasts),
            Some(caller),
        )
        .await?;
        Ok(LogLevelJson {
            level: ask.level.clone().unwrap_or_else(|| "info".to_owned()),
            until: ask.level.map(|_| NOW.plus(Duration::from_secs(600))),
            ..self.log_level()
        })
    }

    async fn alive(&self) -> bool {
        self.called("alive", None).await.is_ok()
    }

    async fn parts(&self) -> Vec<PartJson> {
        let refused = self.called("parts", None).await.err();
        vec![
            PartJson::new("engine", None),
            PartJson::new("store", refused.map(|err| err.detail)),
        ]
    }

    async fn metrics(&self) -> String {
        let _ = self.called("metrics", None).await;
        let mut page = Page::default();
        page.one(VISITS_NOW, 4);
        page.text()
    }

    fn events(&self, after: Option<u64>) -> (Vec<(u64, EventJson)>, EventStream) {
        let state = self.state();
        let past = state.remembered.iter();
        let past = past.filter(|(id, _)| *id > after.unwrap_or(0)).cloned();
        (past.collect(), self.events.subscribe())
    }
}

impl ClientBackend for Fake {
    async fn join(&self, caller: Caller, ask: JoinAsk) -> Result<JoinJson, ApiError> {
        self.called(format!("join {}", ask.replace), Some(caller))
            .await?;
        self.state().joined = true;
        Ok(JoinJson {
            device: DeviceId::from_bytes([1; 16]),
            user: "alice".to_owned(),
            domain: "t.example.com".to_owned(),
            addresses: vec!["t.example.com:443".to_owned()],
        })
    }

    async fn leave(&self, caller: Caller, forget_key: bool) -> Result<(), ApiError> {
        self.called(format!("leave {forget_key}"), Some(caller))
            .await
    }

    async fn open(&self, caller: Caller, ask: OpenAsk) -> Result<(TunnelJson, bool), ApiError> {
        self.called("open", Some(caller)).await?;
        let mut state = self.state();
        state.opened.push(ask.clone());
        let slug = ask.name.as_deref().unwrap_or("quiet-lime-82");
        let known = state
            .tunnels
            .iter()
            .find(|t| t.slug.as_deref() == Some(slug));
        if let Some(known) = known {
            return Ok((known.clone(), false));
        }
        let target: Target = ask
            .target
            .parse()
            .map_err(|err| ApiError::new(Code::Usage, format!("{err}")))?;
        let mut new = tunnel(u8::try_from(state.tunnels.len() + 1).unwrap(), slug);
        new.target = Some(target.to_string());
        new.kind = target.kind().to_string();
        new.expires_at = state.expires_at;
        new.warnings = state.warnings.clone();
        new.labels = ask.labels;
        new.policy = ask.policy.map(|policy| policy.shown());
        state.tunnels.push(new.clone());
        Ok((new, true))
    }

    async fn list(&self, all: bool) -> Result<Vec<TunnelJson>, ApiError> {
        self.called("list", None).await?;
        Ok(self.listed(all))
    }

    async fn show(&self, key: String) -> Result<TunnelJson, ApiError> {
        self.called(format!("show {key}"), None).await?;
        self.find(&key)
    }

    async fn close(&self, caller: Caller, key: String) -> Result<TunnelJson, ApiError> {
        self.called(format!("close {key}"), Some(caller)).await?;
        self.end(&key)
    }

    async fn set(
        &self,
        caller: Caller,
        key: String,
        ask: PolicyAsk,
    ) -> Result<TunnelJson, ApiError> {
        self.called(format!("set {key} {:?}", ask.parts), Some(caller))
            .await?;
        self.state().set.push(ask);
        self.find(&key)
    }

    async fn set_domains(
        &self,
        caller: Caller,
        key: String,
        ask: DomainsAsk,
    ) -> Result<TunnelJson, ApiError> {
        let called = format!("domains {key} +{:?} -{:?}", ask.add, ask.remove);
        self.called(called, Some(caller)).await?;
        self.find(&key)
    }

    async fn share(
        &self,
        caller: Caller,
        key: String,
        ask: ShareLinkAsk,
    ) -> Result<ShareLinkJson, ApiError> {
        self.called(format!("share {key} {}", ask.expires), Some(caller))
            .await?;
        let tunnel = self.find(&key)?;
        Ok(ShareLinkJson {
            id: "shr_1".to_owned(),
            url: format!("{}/.wormkey/share/x", tunnel.url.unwrap_or_default()),
            expires_at: NOW,
        })
    }

    async fn visits(&self, slug: Option<String>, limit: u32) -> Result<VisitPage, ApiError> {
        self.called(format!("visits {slug:?} {limit}"), None)
            .await?;
        let state = self.state();
        let visits = state
            .remembered
            .iter()
            .filter_map(|(_, event)| match event {
                EventJson::Visit(visit) => Some(visit.clone()),
                EventJson::Tunnel(_) | EventJson::Link(_) => None,
            });
        let wanted = |visit: &VisitJson| slug.as_ref().is_none_or(|slug| *slug == visit.slug);
        Ok(VisitPage {
            visits: visits.filter(wanted).collect(),
            last: state.remembered.len() as u64,
        })
    }

    async fn shares(&self, key: String) -> Result<Vec<ShareJson>, ApiError> {
        self.called(format!("shares {key}"), None).await?;
        self.find(&key)?;
        Ok(vec![ShareJson {
            id: "shr_1".to_owned(),
            created_at: NOW,
            expires_at: NOW.plus(Duration::from_secs(600)),
            uses_left: Some(3),
            methods: vec!["GET".to_owned()],
            paths: vec!["/report/*".to_owned()],
        }])
    }

    async fn unshare(&self, caller: Caller, share: String) -> Result<(), ApiError> {
        self.called(format!("unshare {share}"), Some(caller)).await
    }

    async fn status(&self) -> Result<ClientStatusJson, ApiError> {
        self.called("status", None).await?;
        let state = self.state();
        let joined = |text: &str| state.joined.then(|| text.to_owned());
        Ok(ClientStatusJson {
            software: "wormkeyd 0.1.0".to_owned(),
            pid: 4711,
            started_at: WallTime::from_millis(NOW.as_millis() - 7_500_000),
            joined: state.joined,
            domain: joined("t.example.com"),
            user: joined("alice"),
            device: state.joined.then(|| DeviceId::from_bytes([1; 16])),
            link: state.link.clone().unwrap_or_else(|| LinkJson {
                state: if state.joined { "up" } else { "not_joined" }.to_owned(),
                address: joined("t.example.com:443"),
                since: state
                    .joined
                    .then(|| WallTime::from_millis(NOW.as_millis() - 90_000)),
                rtt_ms: state.joined.then_some(12.34),
                ..LinkJson::default()
            }),
            tunnels: state.tunnels.len() as u64,
            problems: Vec::new(),
        })
    }

    async fn doctor(&self) -> Result<DoctorJson, ApiError> {
        self.called("doctor", None).await?;
        Ok(DoctorJson {
            checks: self.state().checks.clone(),
        })
    }
}

impl ServerBackend for Fake {
    async fn invite(&self, caller: Caller, ask: InviteAsk) -> Result<InviteJson, ApiError> {
        self.called(
            format!("invite {:?} {:?}", ask.user, ask.uses),
            Some(caller),
        )
        .await?;
        Ok(InviteJson {
            id: None,
            token: "wkj_secret".to_owned(),
            expires_at: NOW.plus(Duration::from_secs(8 * 3600)),
        })
    }

    async fn devices(&self) -> Result<Vec<DeviceJson>, ApiError> {
        self.called("devices", None).await?;
        Ok(vec![DeviceJson {
            id: DeviceId::from_bytes([1; 16]),
            name: "laptop".to_owned(),
            user: "alice".to_owned(),
            pin: "00".to_owned(),
            created_at: NOW,
            suspended_at: None,
            revoked_at: None,
            link: "up".to_owned(),
            peer: Some("192.0.2.7:4433".to_owned()),
            tunnels: 2,
        }])
    }

    async fn users(&self) -> Result<Vec<UserJson>, ApiError> {
        self.called("users", None).await?;
        Ok(vec![UserJson {
            id: UserId::from_bytes([2; 16]),
            name: "alice".to_owned(),
            created_at: NOW,
            suspended_at: Some(NOW),
            devices: 1,
            tunnels: 2,
        }])
    }

    async fn tunnels(&self, all: bool) -> Result<Vec<TunnelJson>, ApiError> {
        self.called("tunnels", None).await?;
        Ok(self.listed(all))
    }

    async fn tunnel(&self, key: String) -> Result<TunnelJson, ApiError> {
        self.called(format!("tunnel {key}"), None).await?;
        self.find(&key)
    }

    async fn close(&self, caller: Caller, key: String) -> Result<TunnelJson, ApiError> {
        self.called(format!("close {key}"), Some(caller)).await?;
        self.end(&key)
    }

    async fn set(
        &self,
        caller: Caller,
        key: String,
        ask: PolicyAsk,
    ) -> Result<TunnelJson, ApiError> {
        self.called(format!("set {key} {:?}", ask.parts), Some(caller))
            .await?;
        self.find(&key)
    }

    async fn suspend(&self, caller: Caller, ask: SuspendAsk, on: bool) -> Result<(), ApiError> {
        let (what, why) = (ask.what, ask.reason.unwrap_or_default());
        self.called(format!("suspend {what} {on} {why}"), Some(caller))
            .await
    }

    async fn revoke(&self, caller: Caller, what: String) -> Result<(), ApiError> {
        self.called(format!("revoke {what}"), Some(caller)).await
    }

    async fn status(&self) -> Result<ServerStatusJson, ApiError> {
        self.called("status", None).await?;
        Ok(ServerStatusJson {
            software: "wormkeyd 0.1.0".to_owned(),
            pid: 4711,
            started_at: WallTime::from_millis(NOW.as_millis() - 7_500_000),
            domain: "t.example.com".to_owned(),
            listen: BTreeMap::from([("https".to_owned(), "[::]:443".to_owned())]),
            tls: "self-signed".to_owned(),
            certificates: Vec::new(),
            pin: "ab".to_owned(),
            links: 2,
            dormant: 1,
            dormant_bytes: 96 << 10,
            dormant_evicted: 0,
            tunnels: 3,
            visits: 4,
            held: 0,
            held_bytes: 0,
            visits_total: 99,
            draining: false,
        })
    }

    async fn links(&self, after: Option<String>, limit: u32) -> Result<LinkPage, ApiError> {
        self.called(format!("links {after:?} {limit}"), None)
            .await?;
        let up = LinkFiguresJson {
            generation: "1.1".to_owned(),
            device: DeviceId::from_bytes([1; 16]),
            device_name: "laptop".to_owned(),
            user: "alice".to_owned(),
            state: "up".to_owned(),
            since: WallTime::from_millis(NOW.as_millis() - 7_500_000),
            path: "udp".to_owned(),
            address: "192.0.2.7:4433".to_owned(),
            rtt_ms: 12.34,
            packets: PacketsJson {
                sent: 2000,
                lost: 3,
            },
            moves: 2,
            longest_stall_ms: 0.0,
            streams: 4,
            bytes: 32 << 10,
            ..LinkFiguresJson::default()
        };
        let dormant = LinkFiguresJson {
            generation: "1.2".to_owned(),
            device_name: "desk".to_owned(),
            state: "dormant".to_owned(),
            dormant_since: Some(WallTime::from_millis(NOW.as_millis() - 3_600_000)),
            path: "websocket".to_owned(),
            longest_stall_ms: 62_000.0,
            streams: 0,
            last_error: Some("timed out here".to_owned()),
            ..up.clone()
        };
        let links = [up, dormant].into_iter();
        let links =
            links.filter(|link| after.as_ref().is_none_or(|after| link.generation > *after));
        let mut links: Vec<_> = links.collect();
        let more = links.len() > limit as usize;
        links.truncate(limit as usize);
        let next = links.last().filter(|_| more).map(|l| l.generation.clone());
        Ok(LinkPage { links, next })
    }

    async fn backup(&self, caller: Caller) -> Result<(std::fs::File, u64), ApiError> {
        use std::io::{Seek as _, Write as _};
        self.called("backup", Some(caller)).await?;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 300_000]).unwrap();
        file.rewind().unwrap();
        Ok((file, 300_000))
    }

    async fn audit(&self, ask: AuditAsk, limit: u32) -> Result<Vec<AuditJson>, ApiError> {
        let wanted: Vec<_> = [&ask.since, &ask.subject, &ask.actor]
            .into_iter()
            .flatten()
            .map(|text| format!(" {text}"))
            .collect();
        let called = format!("audit {:?} {limit}{}", ask.after, wanted.concat());
        self.called(called, None).await?;
        let first = ask.after.unwrap_or(0) + 1;
        let rows = (first..=3).take(limit as usize).map(|seq| AuditJson {
            seq,
            at: NOW,
            actor: "uid 0".to_owned(),
            device: None,
            user: None,
            peer: None,
            action: "invite.create".to_owned(),
            subject: "inv_1".to_owned(),
            detail: "user alice".to_owned(),
        });
        Ok(rows.collect())
    }

    async fn doctor(&self) -> Result<DoctorJson, ApiError> {
        self.called("doctor", None).await?;
        Ok(DoctorJson {
            checks: self.state().checks.clone(),
        })
    }
}

/// A daemon on a socket in a directory of its own.
pub(crate) struct Daemon {
    pub(crate) fake: Arc<Fake>,
    pub(crate) tasks: Tasks,
    pub(crate) dir: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn client() -> Self {
        Self::start(|socket, fake, tasks| {
            let serve = super::serve_client(socket, fake, tasks.clone());
            tasks.spawn_critical("admin", serve);
        })
    }

    pub(crate) fn server() -> Self {
        Self::start(|socket, fake, tasks| {
            let serve = super::serve_server(socket, fake, tasks.clone());
            tasks.spawn_critical("admin", serve);
        })
    }

    fn start(serve: impl FnOnce(socket::AdminSocket, Arc<Fake>, &Tasks)) -> Self {
        let daemon = Self {
            fake: Fake::new(),
            tasks: Tasks::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        let socket = socket::bind(&daemon.socket(), 0o660, None).unwrap();
        serve(socket, daemon.fake.clone(), &daemon.tasks);
        daemon
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    pub(crate) fn api(&self) -> ApiClient {
        ApiClient::new(self.socket())
    }

    /// Waits until so many watch events.
    pub(crate) async fn watched_by(&self, watchers: usize) {
        while self.fake.watchers() != watchers {
            tokio::task::yield_now().await;
        }
    }

    /// Ends it, and sees that nothing is left.
    pub(crate) async fn stop(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(10)).await);
        assert!(!self.socket().exists(), "the socket's file is gone");
    }
}
