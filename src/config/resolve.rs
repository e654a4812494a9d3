//! What was written -> a configuration that holds: every key, its default, and what fits together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::acme::acme;
use super::file::Document;
use super::front::{FrontConfig, front};
use super::problem::ConfigError;
use super::section::{Findings, Section};
use super::site::site;
use super::sizes;
use super::values::{
    address, count, domain, duration, duration_or_never, host_port, log_level, path, port_range,
    socket, switch, text, word,
};
use super::{
    AccessLines, AdminConfig, KeepConfig, LinkConfig, LogConfig, LogFormat, MetricsConfig,
    ServerConfig, TlsMode, TunnelDefaults,
};
use crate::names::Hostname;

/// Resolves a server's files.
pub(super) fn server(document: Document, findings: &Findings) -> Result<ServerConfig, ConfigError> {
    let mut top = Section::top(document, findings);
    let domain = top.need("domain", "\"tunnel.example.com\"", domain);
    let listen = listen(top.section("listen"), domain.as_ref());
    let site = site(top.section("site"));
    let tls = tls(top.section("tls"));
    let acme = acme(
        top.section("acme"),
        tls == Some(TlsChoice::Acme),
        domain.as_ref(),
        listen.http.is_some(),
    );
    let tls = tls.map(|tls| match tls {
        TlsChoice::Other(mode) => mode,
        TlsChoice::Acme => TlsMode::Acme(Box::new(acme)),
    });
    let (state_dir, keep) = server_state(top.section("state"), "/var/lib/wormkey".into());
    let admin = admin(top.section("admin"), "/run/wormkey/server.sock".into());
    let tunnels = tunnels(top.section("tunnels"));
    let dormant = sizes::dormant(top.section("dormant"));
    let limits = super::limits::limits(top.section("limits"));
    let domains = super::domains::domains(top.section("domains"));
    let link = link(top.section("link"));
    let log = server_log(top.section("log"));
    let metrics = metrics(top.section("metrics"));
    top.finish();
    findings.settle(domain.zip(tls).map(|(domain, tls)| ServerConfig {
        domain,
        https: listen.https,
        http3: listen.http3,
        http: listen.http,
        front: listen.front,
        site,
        tcp_ports: listen.tcp_ports,
        advertise: listen.advertise,
        tls,
        state_dir,
        admin,
        keep,
        tunnels,
        dormant,
        limits,
        domains,
        link,
        log,
        metrics,
    }))
}

struct Listen {
    https: SocketAddr,
    http3: bool,
    http: Option<SocketAddr>,
    front: FrontConfig,
    tcp_ports: Option<(u16, u16)>,
    advertise: Vec<String>,
}

fn listen(mut section: Section<'_>, domain: Option<&Hostname>) -> Listen {
    let any = |port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let https = section.get("https", address(443)).unwrap_or(any(443));
    let http = section
        .get("http", |node| match text(node).as_deref() {
            Ok("off") => Ok(None),
            _ => address(80)(node).map(Some),
        })
        .unwrap_or(Some(any(80)));
    let http3 = section.get("http3", switch);
    if http == Some(https) && https.port() != 0 {
        section.object(
            "http",
            "is the same as https; write another port, or \"off\"",
        );
    }
    let front = front(&mut section, [Some(https), http]);
    // What stands in front may not pass UDP on, or hide who visits.
    let http3 = http3.unwrap_or_else(|| front == FrontConfig::default());
    let tcp_ports = section.get("tcp_ports", port_range);
    if let Some((first, last)) = tcp_ports {
        let ours = [Some(https), http, front.plain_http].into_iter().flatten();
        for port in ours.map(|address| address.port()) {
            if (first..=last).contains(&port) {
                let what = format!("holds {port}, which we listen on; leave that one out");
                section.object("tcp_ports", what);
            }
        }
    }
    let example = "\"tunnel.example.com:443\"";
    let advertise = section.list("advertise", example, host_port(https.port()));
    if advertise.as_ref().is_some_and(Vec::is_empty) {
        section.object("advertise", "is empty; leave it out, or write an address");
    }
    section.finish();
    Listen {
        https,
        http3,
        http,
        front,
        tcp_ports,
        advertise: advertise.unwrap_or_else(|| advertised(https, domain)),
    }
}

/// Where clients are sent when nobody says: the https address when it names one, else the domain.
fn advertised(https: SocketAddr, domain: Option<&Hostname>) -> Vec<String> {
    match domain {
        Some(domain) if https.ip().is_unspecified() => vec![format!("{domain}:{}", https.port())],
        _ => vec![https.to_string()],
    }
}

#[derive(Clone, Copy, PartialEq)]
enum TlsWord {
    SelfSigned,
    Files,
    Acme,
}

/// What `[tls]` says; the rest of ACME stands in its own table.
#[derive(PartialEq)]
enum TlsChoice {
    Other(TlsMode),
    Acme,
}

fn tls(mut section: Section<'_>) -> Option<TlsChoice> {
    let words = [
        ("self-signed", TlsWord::SelfSigned),
        ("files", TlsWord::Files),
        ("acme", TlsWord::Acme),
    ];
    let written = section.get("mode", word(&words));
    let bad_mode = section.has("mode") && written.is_none();
    let cert = section.get("cert", path);
    let key = section.get("key", path);
    let mode = match written.unwrap_or(TlsWord::SelfSigned) {
        TlsWord::Files => {
            for name in ["cert", "key"] {
                if !section.has(name) {
                    let what =
                        format!("is missing; mode \"files\" needs {name} = \"/path/to.pem\"");
                    section.object(name, what);
                }
            }
            cert.zip(key)
                .map(|(cert, key)| TlsChoice::Other(TlsMode::Files { cert, key }))
        }
        word @ (TlsWord::SelfSigned | TlsWord::Acme) => {
            for name in ["cert", "key"] {
                if section.has(name) && !bad_mode {
                    section.object(name, "would not be used; write mode = \"files\" above it");
                }
            }
            Some(match word {
                TlsWord::Acme => TlsChoice::Acme,
                _ => TlsChoice::Other(TlsMode::SelfSigned),
            })
        }
    };
    section.finish();
    mode
}

pub(super) fn state(mut section: Section<'_>, default: PathBuf) -> PathBuf {
    let dir = section.get("dir", path).unwrap_or(default);
    section.finish();
    dir
}

fn server_state(mut section: Section<'_>, default: PathBuf) -> (PathBuf, KeepConfig) {
    let dir = section.get("dir", path).unwrap_or(default);
    let no_time =
        "would keep nothing of what is over; write \"30d\", or \"never\" to prune nothing";
    let default = KeepConfig::default();
    let keep = KeepConfig {
        ended: (section.get("ended_keep", duration_or_never(no_time))).unwrap_or(default.ended),
        audit: (section.get("audit_keep", duration_or_never(no_time))).unwrap_or(default.audit),
    };
    section.finish();
    (dir, keep)
}

pub(super) fn admin(mut section: Section<'_>, default: PathBuf) -> AdminConfig {
    let socket = section.get("socket", socket).unwrap_or(default);
    let group = section.get("group", text);
    section.finish();
    AdminConfig { socket, group }
}

fn tunnels(mut section: Section<'_>) -> TunnelDefaults {
    const MANY: usize = 1_000_000;
    // What one link carries at once.
    const STREAMS: usize = 512;
    // The store knows ended tunnels for that long.
    const LONGEST_QUARANTINE: Duration = Duration::from_secs(60 * 86_400);
    // The largest upload that waits keeps a little over a mebibyte.
    const LEAST_HELD_MEMORY: u64 = 2 << 20;
    const LEAST_SIGNED_BODY: u64 = 64 << 10;
    let default = TunnelDefaults::default();
    let no_hold = "would refuse every visit that comes while a link is away; write \"1s\" or more";
    let no_idle = "would close every tunnel at once; write \"never\" for no limit";
    let no_away = "would close every tunnel whose client blinks; write \"7d\"";
    let no_quiet = "would cut whatever pauses; write \"60s\" or more";
    let no_wait = "would give no origin any time; write \"60s\"";
    let hold_max = (section.get("hold_max", duration(no_hold))).unwrap_or(default.hold_max);
    let hold = (section.get("hold", duration(no_hold))).unwrap_or(default.hold.min(hold_max));
    if hold > hold_max {
        let most = times_text(hold_max);
        section.object(
            "hold",
            format!("is over hold_max; write \"{most}\" or less"),
        );
    }
    let held_visits = (section.get("held_visits", count(1, MANY))).unwrap_or(default.held_visits);
    let total = section.get("held_visits_total", count(1, MANY));
    if total.is_some_and(|total| total < held_visits) {
        let what = format!("is below held_visits; write {held_visits} or more");
        section.object("held_visits_total", what);
    }
    let (held_memory, held_memory_total) = sizes::memory_pair(
        &mut section,
        ("held_memory", "held_memory_total"),
        LEAST_HELD_MEMORY,
        (default.held_memory, default.held_memory_total),
    );
    let (signed_body, signed_memory) = sizes::memory_pair(
        &mut section,
        ("signed_body", "signed_memory"),
        LEAST_SIGNED_BODY,
        (default.signed_body, default.signed_memory),
    );
    let quarantine = section.get("quarantine", |node| match text(node).as_deref() {
        Ok("0s") => Ok(Duration::ZERO),
        _ => duration("is written \"0s\" here")(node),
    });
    if quarantine.is_some_and(|quarantine| quarantine > LONGEST_QUARANTINE) {
        section.object("quarantine", "is too long; write \"60d\" or less");
    }
    let no_idle_max = "would refuse every idle time; leave it out for no maximum";
    let idle_max = section.get("idle_max", duration(no_idle_max));
    let within = |idle: Option<Duration>| idle_max.is_none_or(|max| idle.is_some_and(|i| i <= max));
    let idle = section.get("idle", duration_or_never(no_idle));
    if let Some(max) = idle_max.filter(|_| idle.is_some_and(|idle| !within(idle))) {
        let most = times_text(max);
        section.object(
            "idle",
            format!("is over idle_max; write \"{most}\" or less"),
        );
    }
    let default_idle = Some(default.idle).filter(|idle| within(*idle));
    let resolved = TunnelDefaults {
        hold,
        hold_max,
        held_visits,
        held_visits_total: total.unwrap_or(default.held_visits_total.max(held_visits)),
        held_memory,
        held_memory_total,
        signed_body,
        signed_memory,
        idle: idle.or(default_idle).unwrap_or(idle_max),
        idle_max,
        offline_max: (section.get("offline_max", duration(no_away))).unwrap_or(default.offline_max),
        quarantine: quarantine.unwrap_or(default.quarantine),
        origin_timeout: section
            .get("origin_timeout", duration(no_wait))
            .unwrap_or(default.origin_timeout),
        per_device: (section.get("per_device", count(1, MANY))).unwrap_or(default.per_device),
        tcp_connections: (section.get("tcp_connections", count(1, STREAMS)))
            .unwrap_or(default.tcp_connections),
        tcp_idle: section
            .get("tcp_idle", duration_or_never(no_quiet))
            .unwrap_or(default.tcp_idle),
        udp_flows: (section.get("udp_flows", count(1, STREAMS))).unwrap_or(default.udp_flows),
        udp_idle: (section.get("udp_idle", duration(no_quiet))).unwrap_or(default.udp_idle),
    };
    section.finish();
    resolved
}

/// A duration as it would be written in a file.
fn times_text(duration: Duration) -> String {
    crate::times::show_duration(duration).replace(' ', "")
}

pub(super) fn link(mut section: Section<'_>) -> LinkConfig {
    let default = LinkConfig::default();
    let no_beat = "would never rest; write \"5s\"";
    let no_idle = "would end every link at once; write \"72h\"";
    let keep_alive = (section.get("keep_alive", duration(no_beat))).unwrap_or(default.keep_alive);
    let idle_timeout =
        (section.get("idle_timeout", duration(no_idle))).unwrap_or(default.idle_timeout);
    if keep_alive < Duration::from_secs(1) || keep_alive > Duration::from_secs(3600) {
        section.object("keep_alive", "is out of range; write \"1s\" to \"1h\"");
    } else if idle_timeout <= keep_alive * 3 {
        let least = times_text(keep_alive * 4);
        let what = format!("ends links that are well; write \"{least}\" or more");
        section.object("idle_timeout", what);
    }
    section.finish();
    LinkConfig {
        keep_alive,
        idle_timeout,
    }
}

fn server_log(mut section: Section<'_>) -> LogConfig {
    let access = [
        ("off", AccessLines::Off),
        ("sampled", AccessLines::Sampled),
        ("full", AccessLines::Full),
    ];
    let access = section.get("access", word(&access)).unwrap_or_default();
    LogConfig {
        access,
        ..log(section)
    }
}

pub(super) fn log(mut section: Section<'_>) -> LogConfig {
    let formats = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journald", LogFormat::Journald),
    ];
    let default = LogConfig::default();
    let format = section
        .get("format", word(&formats))
        .unwrap_or(default.format);
    let level = section.get("level", log_level).unwrap_or(default.level);
    section.finish();
    LogConfig {
        format,
        level,
        ..default
    }
}

pub(super) fn metrics(mut section: Section<'_>) -> MetricsConfig {
    let listen = section.get("listen", address(9464));
    let remote = section.get("remote", switch).unwrap_or(false);
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback() && !remote) {
        let what = format!(
            "would tell everybody who reaches {} how this daemon does; write \"127.0.0.1:{}\", or add remote = true where a firewall keeps others out",
            listen.ip(),
            listen.port()
        );
        section.object("listen", what);
    }
    section.finish();
    MetricsConfig { listen }
}
