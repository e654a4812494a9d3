//! What the admin API says and hears, as JSON. The schema only grows; absent is null.

use serde::{Deserialize, Serialize};

use crate::engine::policy::Policy;
use crate::names::{DeviceId, InviteId, TunnelId, UserId};
use crate::times::WallTime;

/// A tunnel, as `open`, `show`, `list` print it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunnelJson {
    /// `tun_…`
    pub id: TunnelId,
    /// Its name; null until the server has confirmed it.
    pub slug: Option<String>,
    /// Its public address; null until then.
    pub url: Option<String>,
    /// `http`, `tcp`, `tls`, `udp`.
    pub kind: String,
    /// Where it leads; null on the server, which never learns it.
    pub target: Option<String>,
    /// `opening`, `open`, `held`, `offline`, `closing`, `closed`, `expired`; on a server also
    /// `suspended`; on a client also `withheld`,
    /// while its origin should not be public.
    pub state: String,
    /// When it ends.
    pub expires_at: Option<WallTime>,
    /// When it was opened.
    pub created_at: WallTime,
    /// When it was over.
    #[serde(default)]
    pub ended_at: Option<WallTime>,
    /// The latest visit.
    #[serde(default)]
    pub last_seen_at: Option<WallTime>,
    /// Seconds without a visit until it closes; null = never, or not known yet.
    #[serde(default)]
    pub idle_seconds: Option<u64>,
    /// What would end it next, if nothing else happened.
    #[serde(default)]
    pub ends_next: EndsNextJson,
    /// Seconds that visits wait for an absent link; null = not known yet.
    #[serde(default)]
    pub hold_seconds: Option<f64>,
    /// Stands in client.toml.
    #[serde(default)]
    pub declared: bool,
    /// For people.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// The Host mode asked for: `auto`, `keep`, `rewrite` or the text. Client only.
    #[serde(default)]
    pub host: Option<String>,
    /// What `auto` does at present: `keep` or `rewrite`. Client only.
    #[serde(default)]
    pub host_in_use: Option<String>,
    /// Visits going on.
    #[serde(default)]
    pub visits: u64,
    /// Visits so far, since the daemon started.
    #[serde(default)]
    pub visits_total: u64,
    /// Public port of tcp and udp tunnels.
    #[serde(default)]
    pub public_port: Option<u16>,
    /// The PROXY header before each connection: `v1`, `v2`. Client only.
    #[serde(default)]
    pub proxy_protocol: Option<String>,
    /// What it lets through, as the policy's document, without its secrets.
    #[serde(default)]
    pub policy: Option<serde_json::Value>,
    /// Domains of one's own that lead to it, or shall.
    #[serde(default)]
    pub domains: Vec<super::domains::DomainJson>,
    /// `dev_…`; server only.
    #[serde(default)]
    pub device: Option<DeviceId>,
    /// The user's name; server only.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether it works through its public name, when the client last asked. Client only.
    #[serde(default)]
    pub probe: Option<super::checks::ProbeJson>,
    /// Findings at open, one sentence each: `nothing listens on localhost:3000 yet`.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What would end a tunnel next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct EndsNextJson {
    /// When; null = nothing does, or the moment is not known.
    pub at: Option<WallTime>,
    /// `expires`, `idle` (nobody visits it), `offline` (its client stays away); null = nothing does.
    pub why: Option<String>,
}

/// `POST /v1/tunnels`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct OpenAsk {
    /// Where it shall lead, as typed.
    pub target: String,
    /// The name wished for.
    #[serde(default)]
    pub name: Option<String>,
    /// How long it lives: `30m`.
    #[serde(default)]
    pub expires: Option<String>,
    /// How long it may be without visits: `2h`, `never`.
    #[serde(default)]
    pub idle: Option<String>,
    /// How long visits wait for an absent link: `10s`.
    #[serde(default)]
    pub hold: Option<String>,
    /// `auto`, `keep`, `rewrite` or a value.
    #[serde(default)]
    pub host: Option<String>,
    /// For people.
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// A path that must answer below 500 before the tunnel opens.
    #[serde(default)]
    pub wait_for: Option<String>,
    /// How long `wait_for` may take; 60s.
    #[serde(default)]
    pub wait_timeout: Option<String>,
    /// Public port wished for (tcp, udp).
    #[serde(default)]
    pub public_port: Option<u16>,
    /// Open it even if it should not be public.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub yes_expose: bool,
    /// A PROXY header before each connection (tcp, tls): `v1`, `v2`.
    #[serde(default)]
    pub proxy_protocol: Option<String>,
    /// What it lets through; everything when absent.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Domains of one's own that shall lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
}

/// `PATCH /v1/tunnels/{key}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct PolicyAsk {
    /// What the parts named are to be; absent: the policy stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// `auth`, `allow`, `limits`, `limits.tunnel.rate`… as the policy calls them; empty: all of it.
    #[serde(default)]
    pub parts: Vec<String>,
    /// What is to be of its life; what is absent stays. On a client only.
    #[serde(default, skip_serializing_if = "LifeChange::is_empty")]
    pub life: LifeChange,
}

/// When a tunnel ends, and what else can be changed beside its policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct LifeChange {
    /// How long it lives from now on: `2h`, or `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// After how long without a visit it closes, from now on: `24h`, or `never`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// How long visits wait while this machine is away: `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// All its labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<std::collections::BTreeMap<String, String>>,
}

impl LifeChange {
    /// Whether everything stays.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `POST /v1/tunnels/{key}/shares`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct ShareLinkAsk {
    /// How long it works: `10m`.
    pub expires: String,
    /// How many visitors may open it; any number when absent.
    #[serde(default)]
    pub uses: Option<u32>,
    /// The only methods it is for.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The only paths it is for.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// Its answer: the link is shown this once.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareLinkJson {
    /// `shr_…`
    pub id: String,
    /// The link.
    pub url: String,
    /// When it stops working.
    pub expires_at: WallTime,
}

/// A row of `share --list`; the link itself is not shown again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareJson {
    /// `shr_…`
    pub id: String,
    /// When it was made.
    pub created_at: WallTime,
    /// When it stops working.
    pub expires_at: WallTime,
    /// How many visitors may still open it; null = any number.
    pub uses_left: Option<u32>,
    /// The only methods it is for; empty: all that the tunnel allows.
    pub methods: Vec<String>,
    /// The only paths it is for; empty: all that the tunnel allows.
    pub paths: Vec<String>,
}

/// `POST /v1/suspend` and `/v1/resume` of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendAsk {
    /// A user, a device or a tunnel, by id or name.
    pub what: String,
    /// Why, for the audit; at most 200 characters. Of a suspension only.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `POST /v1/join`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinAsk {
    /// `wkj_…`
    pub token: String,
    /// Leave the present server first.
    #[serde(default)]
    pub replace: bool,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinJson {
    /// The device's row on the server.
    pub device: DeviceId,
    /// The user it belongs to.
    pub user: String,
    /// The tunnel domain.
    pub domain: String,
    /// Where the server is.
    pub addresses: Vec<String>,
}

/// `GET /v1/status` of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientStatusJson {
    /// `wormkeyd 0.1.0`
    pub software: String,
    /// Of the daemon.
    pub pid: u32,
    /// When it started.
    pub started_at: WallTime,
    /// Whether the device has joined a server.
    pub joined: bool,
    /// The tunnel domain.
    pub domain: Option<String>,
    /// The user it belongs to.
    pub user: Option<String>,
    /// The device's row on the server.
    pub device: Option<DeviceId>,
    /// The link.
    pub link: LinkJson,
    /// Tunnels that live.
    pub tunnels: u64,
    /// Findings of the last reload and of declared tunnels.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A client's link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct LinkJson {
    /// `up`, `silent`, `connecting`, `waiting`, `not_joined`, `refused`.
    pub state: String,
    /// The server's address in use.
    pub address: Option<String>,
    /// Since when it is in that state.
    pub since: Option<WallTime>,
    /// Round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// `udp`, or `websocket` where UDP is blocked.
    #[serde(default)]
    pub path: Option<String>,
    /// Who issued a websocket's certificate that no known authority vouches for: the server itself when it
    /// is self-signed, or whoever opens TLS on the way. The link inside is to the server's pinned key.
    #[serde(default)]
    pub unverified_issuer: Option<String>,
    /// How often the link has moved to another socket.
    #[serde(default)]
    pub moves: Option<u64>,
    /// The longest time an answer was due, milliseconds.
    #[serde(default)]
    pub longest_stall_ms: Option<f64>,
    /// Packets sent and lost.
    #[serde(default)]
    pub packets: Option<PacketsJson>,
    /// The generation.
    pub generation: Option<String>,
    /// Why the last one ended, or the last try failed.
    pub last_error: Option<String>,
    /// When the next try is due.
    pub next_attempt: Option<WallTime>,
}

/// Packets of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketsJson {
    /// Sent.
    pub sent: u64,
    /// Of them lost.
    pub lost: u64,
}

/// `GET /v1/status` of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatusJson {
    /// `wormkeyd 0.1.0`
    pub software: String,
    /// Of the daemon.
    pub pid: u32,
    /// When it started.
    pub started_at: WallTime,
    /// The tunnel domain.
    pub domain: String,
    /// Where it listens, by name.
    pub listen: std::collections::BTreeMap<String, String>,
    /// `self-signed`, `files`, `acme`.
    pub tls: String,
    /// How visitors' certificates do.
    #[serde(default)]
    pub certificates: Vec<super::certificates::CertificateJson>,
    /// Hash of the identity key that clients pin.
    pub pin: String,
    /// Live links.
    pub links: u64,
    /// Of them dormant.
    pub dormant: u64,
    /// What the dormant ones hold in memory, an estimate in bytes.
    #[serde(default)]
    pub dormant_bytes: u64,
    /// Links closed since the daemon started because dormant ones cost too much.
    #[serde(default)]
    pub dormant_evicted: u64,
    /// Open tunnels.
    pub tunnels: u64,
    /// Visits going on.
    pub visits: u64,
    /// Visits waiting.
    pub held: u64,
    /// The most bytes that those keep in memory.
    #[serde(default)]
    pub held_bytes: u64,
    /// Visits so far, since the daemon started.
    pub visits_total: u64,
    /// Whether it takes no new visits.
    pub draining: bool,
}

/// `POST /v1/invites`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct InviteAsk {
    /// Whom the device will belong to; `default` when absent, made on first use.
    #[serde(default)]
    pub user: Option<String>,
    /// How many devices may use it; 1.
    #[serde(default)]
    pub uses: Option<u32>,
    /// How long it works; 8h.
    #[serde(default)]
    pub expires: Option<String>,
}

/// Its answer: the token is shown this once.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct InviteJson {
    /// What `revoke` takes it back by; absent from older daemons.
    #[serde(default)]
    pub id: Option<InviteId>,
    /// `wkj_…`
    pub token: String,
    /// When it stops working.
    pub expires_at: WallTime,
}

/// A row of `server devices`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceJson {
    /// `dev_…`
    pub id: DeviceId,
    /// The machine's name.
    pub name: String,
    /// The user's name.
    pub user: String,
    /// Hash of its key.
    pub pin: String,
    /// When it enrolled.
    pub created_at: WallTime,
    /// Since when the operator keeps it from everything.
    #[serde(default)]
    pub suspended_at: Option<WallTime>,
    /// When it was revoked.
    pub revoked_at: Option<WallTime>,
    /// `up`, `dormant`, `away`.
    pub link: String,
    /// From where its link comes.
    pub peer: Option<String>,
    /// Open tunnels.
    pub tunnels: u64,
}

/// A row of `server users`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserJson {
    /// `usr_…`
    pub id: UserId,
    /// Name.
    pub name: String,
    /// When it was made.
    pub created_at: WallTime,
    /// Since when the operator keeps it from everything.
    #[serde(default)]
    pub suspended_at: Option<WallTime>,
    /// Devices that are not revoked.
    pub devices: u64,
    /// Open tunnels.
    pub tunnels: u64,
}

/// A row of the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditJson {
    /// Counts up; the cursor.
    pub seq: i64,
    /// When.
    pub at: WallTime,
    /// `uid 0`, `dev_…`, `newcomer`, `engine`.
    pub actor: String,
    /// The device's name, when one did it that is still known.
    pub device: Option<String>,
    /// Its user's name.
    pub user: Option<String>,
    /// From where.
    pub peer: Option<String>,
    /// `tunnel.open` and so on.
    pub action: String,
    /// The id of what changed.
    pub subject: String,
    /// Facts.
    pub detail: String,
}

/// One event of `GET /v1/events` (SSE: `id`, `event`, `data`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventJson {
    /// A visit ended (client).
    Visit(VisitJson),
    /// A tunnel changed its state.
    Tunnel(Box<TunnelJson>),
    /// The link changed its state (client).
    Link(LinkJson),
}

/// A visit, as `open --watch` and `logs -f` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisitJson {
    /// `vis_…`, the request id that the visitor saw.
    pub id: String,
    /// The tunnel's name.
    pub slug: String,
    /// When it began.
    pub at: WallTime,
    /// Method; `WEBSOCKET` for upgrades, `BYTES` for tcp.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Status; null when it was given up before one.
    pub status: Option<u16>,
    /// Who.
    pub peer: String,
    /// From the head to the end, milliseconds.
    pub millis: u64,
    /// Bytes sent to the visitor.
    pub bytes_out: u64,
    /// A code when it failed on our side: `origin_unreachable`.
    pub error: Option<String>,
    /// Rules that would have refused it, and only tell (`shadow`): `deny 10.0.0.0/8`.
    #[serde(default)]
    pub shadowed: Vec<String>,
}

/// `GET /v1/visits` of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VisitPage {
    /// The last ones that are remembered, oldest first.
    pub visits: Vec<VisitJson>,
    /// The `Last-Event-ID` with which `GET /v1/events` goes on behind them.
    pub last: u64,
}

/// What `reload` found and did, one sentence each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadJson {
    /// What changed; keys that need a restart are named.
    pub notes: Vec<String>,
}
