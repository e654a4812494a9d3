//! The client's side of the promise: its own tunnels, where they lead, and what is still to be told to
//! the server. Rows only; the client role decides with them.

use std::sync::Arc;
use std::time::Duration;

use super::policy::Policy;
use crate::names::{DeviceId, Domain, Hostname, Kind, Pin, Slug, Target, TunnelId};
use crate::times::WallTime;

/// How the Host header reaches the origin (`--host`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HostMode {
    /// Start with `Keep`; change to `Rewrite` when the origin refuses the public name and takes its own.
    #[default]
    Auto,
    /// The public name, always.
    Keep,
    /// The origin's own name, always.
    Rewrite,
    /// This text, always.
    Fixed(String),
}

/// Which header tells an origin who really visits (`--proxy-protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// The text in settings, in JSON and on disk.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl std::str::FromStr for ProxyVersion {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::V1, Self::V2]
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or(())
    }
}

/// Where a client's tunnel stands, as the client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BookState {
    /// Written down, not confirmed by the server yet.
    Opening,
    /// Confirmed by the server.
    Open,
    /// Closed here; the server is still to be told.
    Closing,
    /// Over by hand, by idleness or by the operator.
    Closed,
    /// Over by its time.
    Expired,
}

impl BookState {
    /// The text on disk.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Expired => "expired",
        }
    }

    /// Whether it is still to be served or told about.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Opening | Self::Open)
    }
}

/// One of the client's tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookRow {
    /// Id, made here.
    pub id: TunnelId,
    /// The name asked for.
    pub name: Option<Slug>,
    /// The name had, once confirmed.
    pub slug: Option<Slug>,
    /// The address had, once confirmed.
    pub url: Option<String>,
    /// Where it leads; the server never learns it.
    pub target: Target,
    /// How the Host header reaches it.
    pub host: HostMode,
    /// Where it stands.
    pub state: BookState,
    /// When it ends.
    pub expires_at: Option<WallTime>,
    /// As asked: None = the server's default, Some(None) = never.
    pub idle: Option<Option<Duration>>,
    /// As asked: None = the server's default.
    pub hold: Option<Duration>,
    /// Stands in client.toml.
    pub declared: bool,
    /// For people.
    pub labels: Vec<(String, String)>,
    /// The public port: as wished for, then as had.
    pub public_port: Option<u16>,
    /// Whoever opened it wants it public, whatever the exposure guard finds.
    pub yes_expose: bool,
    /// The header before each connection (tcp, tls).
    pub proxy_protocol: Option<ProxyVersion>,
    /// The domains of one's own that shall lead to it.
    pub domains: Vec<Domain>,
    /// What it lets through, as asked, then as the server has it.
    pub policy: Arc<Policy>,
    /// When it was asked for, then when the server opened it.
    pub created_at: WallTime,
    /// When it was over.
    pub ended_at: Option<WallTime>,
}

impl BookRow {
    /// What it carries.
    pub const fn kind(&self) -> Kind {
        self.target.kind()
    }

    /// An open tunnel `app` that nothing special was asked for.
    #[cfg(test)]
    pub(crate) fn sample(id: TunnelId, created_at: WallTime) -> Self {
        let app = Slug::parse("app").ok();
        Self {
            id,
            name: app.clone(),
            slug: app,
            url: None,
            target: "3000".parse().expect("a port is a target"),
            host: HostMode::Auto,
            state: BookState::Open,
            expires_at: None,
            idle: None,
            hold: None,
            declared: false,
            labels: Vec::new(),
            public_port: None,
            yes_expose: false,
            proxy_protocol: None,
            domains: Vec::new(),
            policy: Arc::default(),
            created_at,
            ended_at: None,
        }
    }
}

/// The client's enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// `host:port`, tried in order.
    pub addresses: Vec<String>,
    /// The server's keys: current, next.
    pub pins: Vec<Pin>,
    /// This device's row on the server.
    pub device: DeviceId,
    /// The user it belongs to.
    pub user: String,
    /// The tunnel domain.
    pub domain: Hostname,
    /// When it joined.
    pub joined_at: WallTime,
}

/// Which way last carried the link on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRow {
    /// Which network.
    pub key: String,
    /// A WebSocket, for UDP was blocked; else UDP.
    pub websocket: bool,
    /// When it was last so.
    pub used_at: WallTime,
}

/// Everything the client starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BookSnapshot {
    /// None before `join`.
    pub enrolment: Option<Enrolment>,
    /// What worked where, the least recently used first.
    pub networks: Vec<NetworkRow>,
    /// Tunnels that live, that are still to be told about, and ended ones of the last 30 days.
    pub tunnels: Vec<BookRow>,
}

/// What a commit of the client changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookChange {
    /// Joined, or learnt new pins or addresses.
    Enrolment(Enrolment),
    /// Left; tunnels are forgotten too.
    Left,
    /// A tunnel as it is now (insert or replace by id).
    Tunnel(BookRow),
    /// A tunnel that never was: refused by the server at its first Bind.
    Forget(TunnelId),
    /// What worked on a network.
    Network(NetworkRow),
}
