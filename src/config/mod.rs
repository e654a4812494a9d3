//! TOML as written (`file.rs`) -> a configuration that holds (`resolve.rs`). Read only by bins and roles.
//! Not a check of the world: whether a certificate or a directory is there is found by whoever opens it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::limits::LimitSettings;
use crate::names::{Domain, Hostname, Slug, Target};

mod acme;
mod domains;
mod file;
mod front;
mod keys;
mod limits;
mod load;
mod policy;
mod problem;
mod reload;
mod resolve;
mod resolve_client;
mod section;
mod site;
mod sizes;
mod values;

pub use acme::{AcmeConfig, AcmeDns, SingleProof};
pub use domains::DomainsConfig;
pub use front::FrontConfig;
pub use keys::Key;
pub use policy::DeclaredPolicy;
pub use problem::{ConfigError, Problem};
pub use site::SiteConfig;

#[cfg(test)]
mod tests;

/// `server.toml`, resolved: what it says can be done.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Tunnels answer under it.
    pub domain: Hostname,
    /// TCP for visitors, UDP for links.
    pub https: SocketAddr,
    /// Whether visitors get HTTP/3 on the links' UDP port.
    pub http3: bool,
    /// Redirects; None = off.
    pub http: Option<SocketAddr>,
    /// Proxies in front of it.
    pub front: FrontConfig,
    /// `[site]`.
    pub site: SiteConfig,
    /// Public ports of tcp and udp tunnels; None = none.
    pub tcp_ports: Option<(u16, u16)>,
    /// Where join tokens send clients (`host:port`); never empty.
    pub advertise: Vec<String>,
    /// Where visitors' certificates come from.
    pub tls: TlsMode,
    /// Holds `server.{db,key,lock}`.
    pub state_dir: PathBuf,
    /// The admin socket.
    pub admin: AdminConfig,
    /// How long `[state]` keeps what is over.
    pub keep: KeepConfig,
    /// `[tunnels]`.
    pub tunnels: TunnelDefaults,
    /// `[dormant]`.
    pub dormant: DormantConfig,
    /// `[limits]`.
    pub limits: LimitSettings,
    /// `[domains]`.
    pub domains: DomainsConfig,
    /// `[link]`.
    pub link: LinkConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
}

/// `[metrics]`, on both roles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where scrapers are served over TCP; None = on the admin socket only.
    pub listen: Option<SocketAddr>,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsMode {
    /// A wildcard made here, kept in the state directory.
    SelfSigned,
    /// PEM files.
    Files {
        /// Chain, leaf first.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
    },
    /// A CA's, got and renewed by ourselves.
    Acme(Box<AcmeConfig>),
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// A group that may use it besides the daemon's own.
    pub group: Option<String>,
}

/// `[tunnels]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelDefaults {
    /// Hold when nothing is asked.
    pub hold: Duration,
    /// The most that may be asked.
    pub hold_max: Duration,
    /// Per tunnel.
    pub held_visits: usize,
    /// In all; 4096.
    pub held_visits_total: usize,
    /// Bytes that the held visits of one tunnel may keep; 64 MiB.
    pub held_memory: u64,
    /// Bytes that all held visits may keep; 320 MiB.
    pub held_memory_total: u64,
    /// The largest body whose signature is checked; 1 MiB.
    pub signed_body: u64,
    /// Bytes that all bodies whose signatures are being checked may keep; 64 MiB.
    pub signed_memory: u64,
    /// Ad-hoc tunnels; None = never.
    pub idle: Option<Duration>,
    /// The most idle time that a tunnel may ask for; None = no maximum.
    pub idle_max: Option<Duration>,
    /// A tunnel whose client is gone this long closes.
    pub offline_max: Duration,
    /// How long an ended tunnel's name is kept; 7d.
    pub quarantine: Duration,
    /// To the first byte of an answer.
    pub origin_timeout: Duration,
    /// The most open tunnels of one device; 1000.
    pub per_device: usize,
    /// Connections of one tcp or tls tunnel at once; 256.
    pub tcp_connections: usize,
    /// How long such a connection may carry nothing; None = for ever.
    pub tcp_idle: Option<Duration>,
    /// Flows of one udp tunnel at once; 256.
    pub udp_flows: usize,
    /// How long a flow may carry nothing; 60s.
    pub udp_idle: Duration,
}

impl Default for TunnelDefaults {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self {
            hold: Duration::from_secs(10),
            hold_max: Duration::from_secs(60),
            held_visits: 256,
            held_visits_total: 4096,
            held_memory: 64 << 20,
            held_memory_total: 320 << 20,
            signed_body: 1 << 20,
            signed_memory: 64 << 20,
            idle: Some(Duration::from_secs(DAY)),
            idle_max: None,
            offline_max: Duration::from_secs(7 * DAY),
            quarantine: Duration::from_secs(7 * DAY),
            origin_timeout: Duration::from_secs(60),
            per_device: 1000,
            tcp_connections: 256,
            tcp_idle: Some(Duration::from_secs(2 * 3600)),
            udp_flows: 256,
            udp_idle: Duration::from_secs(60),
        }
    }
}

/// `[dormant]`: what links may cost whose clients sleep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DormantConfig {
    /// In all; 4096.
    pub links: usize,
    /// Of one user; 256.
    pub links_per_user: usize,
    /// Bytes that they hold, in all; 512 MiB.
    pub memory: u64,
    /// Bytes that those of one user hold; 64 MiB.
    pub memory_per_user: u64,
}

impl Default for DormantConfig {
    fn default() -> Self {
        Self {
            links: 4096,
            links_per_user: 256,
            memory: 512 << 20,
            memory_per_user: 64 << 20,
        }
    }
}

/// `[state]` of a server: how long what is over stays on disk; None = for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepConfig {
    /// Ended tunnels, after their quarantine; 30d.
    pub ended: Option<Duration>,
    /// Lines of the audit; 400d.
    pub audit: Option<Duration>,
}

impl Default for KeepConfig {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self {
            ended: Some(Duration::from_secs(30 * DAY)),
            audit: Some(Duration::from_secs(400 * DAY)),
        }
    }
}

/// `[link]`, on both roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// The client's keep-alive; 5s.
    pub keep_alive: Duration,
    /// QUIC's idle timeout; 72h.
    pub idle_timeout: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(72 * 3600),
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// journald when started by systemd, else text.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
    /// journald's fields.
    Journald,
}

/// `[log] access`, of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLines {
    /// None.
    #[default]
    Off,
    /// Some of them each second.
    Sampled,
    /// One for each visit.
    Full,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How.
    pub format: LogFormat,
    /// How much: `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter; `info`.
    pub level: String,
    /// Lines for visits; of a server, a client has none.
    pub access: AccessLines,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            level: "info".to_owned(),
            access: AccessLines::Off,
        }
    }
}

/// `client.toml`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientConfig {
    /// Holds `client.{db,key,lock}`.
    pub state_dir: PathBuf,
    /// The admin socket.
    pub admin: AdminConfig,
    /// What may be dialled.
    pub origins: OriginsConfig,
    /// `[link]`.
    pub link: LinkConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[probe]`.
    pub probe: ProbeConfig,
    /// `[[tunnel]]`.
    pub tunnels: Vec<DeclaredTunnel>,
}

/// `[probe]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Between two looks at a tunnel through its public name; None = only when a doctor asks.
    pub every: Option<Duration>,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            every: Some(Duration::from_secs(300)),
        }
    }
}

/// `[origins]`.
#[derive(Debug, Clone, PartialEq)]
pub struct OriginsConfig {
    /// Addresses and networks, judged after DNS.
    pub allow: Vec<ipnet::IpNet>,
    /// Patterns of Unix sockets.
    pub unix: Vec<glob::Pattern>,
    /// Directories for `file:`.
    pub files: Vec<PathBuf>,
}

impl Default for OriginsConfig {
    fn default() -> Self {
        use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
        Self {
            allow: vec![
                IpAddr::from(Ipv4Addr::LOCALHOST).into(),
                IpAddr::from(Ipv6Addr::LOCALHOST).into(),
            ],
            unix: vec![glob::Pattern::new("/run/*").expect("a pattern that is one")],
            files: vec!["/srv".into()],
        }
    }
}

/// One `[[tunnel]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredTunnel {
    /// Its name; required, it is what tells entries apart.
    pub name: Slug,
    /// Where it leads.
    pub target: Target,
    /// None = never. Absolute expiry is counted from the first opening.
    pub expires: Option<Duration>,
    /// None = never (the default of declared tunnels).
    pub idle: Option<Duration>,
    /// None = the server's default.
    pub hold: Option<Duration>,
    /// The Host mode.
    pub host: crate::engine::book::HostMode,
    /// For people.
    pub labels: Vec<(String, String)>,
    /// Wished-for public port.
    pub public_port: Option<u16>,
    /// Public even if the exposure guard finds something.
    pub yes_expose: bool,
    /// The PROXY header before each connection.
    pub proxy_protocol: Option<crate::engine::book::ProxyVersion>,
    /// Who may visit.
    pub policy: DeclaredPolicy,
    /// Domains of one's own that lead to it.
    pub domains: Vec<Domain>,
}
