//! The same for the client: what it may dial, and the tunnels that are declared.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::file::{Document, Node, Place};
use super::problem::ConfigError;
use super::resolve::{admin, link, log, metrics, state};
use super::section::{Findings, Fix, Section};
use super::values::{duration, duration_or_never, path, switch, text, word};
use super::{ClientConfig, DeclaredTunnel, OriginsConfig, ProbeConfig};
use crate::engine::book::{HostMode, ProxyVersion};
use crate::names::{Kind, Slug, Target};

/// More often would be a load.
const PROBE_LEAST: Duration = Duration::from_secs(60);

/// Where a client keeps its things when the file does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Homes {
    pub(super) state_dir: PathBuf,
    pub(super) socket: PathBuf,
}

/// Resolves a client's files.
pub(super) fn client(
    document: Document,
    homes: Homes,
    findings: &Findings,
) -> Result<ClientConfig, ConfigError> {
    let mut top = Section::top(document, findings);
    let config = ClientConfig {
        state_dir: state(top.section("state"), homes.state_dir),
        admin: admin(top.section("admin"), homes.socket),
        origins: origins(top.section("origins")),
        link: link(top.section("link")),
        log: log(top.section("log")),
        metrics: metrics(top.section("metrics")),
        probe: probe(top.section("probe")),
        tunnels: declared(top.sections("tunnel")),
    };
    top.finish();
    findings.settle(Some(config))
}

fn origins(mut section: Section<'_>) -> OriginsConfig {
    let default = OriginsConfig::default();
    let allow = section.list("allow", "\"127.0.0.1\", \"::1\"", network);
    let unix = section.list("unix", "\"/run/*\"", pattern);
    let files = section.list("files", "\"/srv\"", path);
    section.finish();
    OriginsConfig {
        allow: allow.unwrap_or(default.allow),
        unix: unix.unwrap_or(default.unix),
        files: files.unwrap_or(default.files),
    }
}

fn probe(mut section: Section<'_>) -> ProbeConfig {
    let every = section.get("every", duration_or_never("would never stop asking"));
    if every.is_some_and(|every| every.is_some_and(|every| every < PROBE_LEAST)) {
        section.object("every", "is too often; write \"1m\" or more, or \"never\"");
    }
    section.finish();
    ProbeConfig {
        every: every.unwrap_or(ProbeConfig::default().every),
    }
}

/// `10.0.0.0/8`, or one address.
fn network(node: &Node) -> Result<IpNet, Fix> {
    let text = text(node)?;
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Ok(ip.into());
    }
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!(
            "{text:?} has bits beyond its prefix; write \"{}\" or \"{}\"",
            net.trunc(),
            net.addr()
        )),
        Err(_) => Err(format!(
            "{text:?} is no address or network; names are judged by their address, write that, such as \"192.168.1.0/24\""
        )),
    }
}

fn pattern(node: &Node) -> Result<glob::Pattern, Fix> {
    let path = path(node)?;
    let text = path.to_string_lossy();
    glob::Pattern::new(&text)
        .map_err(|err| format!("{text:?} is no pattern ({err}); write it like \"/run/*.sock\""))
}

fn declared(sections: Vec<Section<'_>>) -> Vec<DeclaredTunnel> {
    let mut tunnels = Vec::new();
    let mut names: Vec<(Slug, Place)> = Vec::new();
    for mut section in sections {
        let name = section.need("name", "\"blog\"", slug);
        let tunnel = tunnel(&mut section, name.clone());
        if let Some(name) = name {
            match names.iter().find(|(taken, _)| *taken == name) {
                Some((_, first)) => section.object("name", twice(&name, first)),
                None => names.push((name, section.place_of("name").clone())),
            }
        }
        tunnels.extend(tunnel);
        section.finish();
    }
    tunnels
}

fn twice(name: &Slug, first: &Place) -> Fix {
    let line = first.line.unwrap_or(1);
    let file = first.file.display();
    format!("\"{name}\" is declared already ({file} line {line}); give one of them another name")
}

fn tunnel(section: &mut Section<'_>, name: Option<Slug>) -> Option<DeclaredTunnel> {
    let target = section.need("target", "\"3000\"", target);
    let expires = section.get("expires", duration_or_never("would be over at once"));
    let idle = section.get("idle", duration_or_never("would close it at once"));
    let hold = section.get(
        "hold",
        duration("would refuse every visit that comes while the link is away; leave it out"),
    );
    let host = section.get("host", host_mode);
    let labels = labels(section);
    let public_port = section.get("public_port", |node| {
        super::values::count(1, 65_535)(node).map(|port| u16::try_from(port).unwrap_or(u16::MAX))
    });
    let yes_expose = section.get("yes_expose", switch);
    let kind = target.as_ref().map(Target::kind);
    if public_port.is_some() && matches!(kind, Some(Kind::Http | Kind::Tls)) {
        section.object(
            "public_port",
            "is for tcp:// and udp:// targets; leave it out",
        );
    }
    let versions = [("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];
    let proxy_protocol = section.get("proxy_protocol", word(&versions));
    if proxy_protocol.is_some() && matches!(kind, Some(Kind::Http | Kind::Udp)) {
        section.object(
            "proxy_protocol",
            "is for tcp:// and tls:// targets; leave it out",
        );
    }
    let domains = super::domains::of_tunnel(section, kind);
    let policy = super::policy::policy(section, kind);
    Some(DeclaredTunnel {
        name: name?,
        target: target?,
        expires: expires.flatten(),
        idle: idle.flatten(),
        hold,
        host: host.unwrap_or_default(),
        labels,
        public_port,
        yes_expose: yes_expose.unwrap_or_default(),
        proxy_protocol,
        policy,
        domains,
    })
}

fn slug(node: &Node) -> Result<Slug, Fix> {
    let text = text(node)?;
    let slug = Slug::parse(&text).map_err(|err| format!("{text:?}: {err}"))?;
    if slug.is_reserved() {
        return Err(format!("{text:?} is reserved; choose another name"));
    }
    Ok(slug)
}

fn target(node: &Node) -> Result<Target, Fix> {
    let text = match node {
        // A bare port reads the same with and without quotes.
        Node::Integer(port) => port.to_string(),
        node => text(node)?,
    };
    text.parse()
        .map_err(|err: crate::names::TargetError| err.to_string())
}

fn host_mode(node: &Node) -> Result<HostMode, Fix> {
    let text = text(node)?;
    match text.as_str() {
        "auto" => Ok(HostMode::Auto),
        "keep" => Ok(HostMode::Keep),
        "rewrite" => Ok(HostMode::Rewrite),
        value => {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            if value.chars().all(fits) {
                Ok(HostMode::Fixed(text))
            } else {
                Err(format!(
                    "{value:?} is no Host header; write \"auto\", \"keep\", \"rewrite\" or a host and port"
                ))
            }
        }
    }
}

fn labels(section: &mut Section<'_>) -> Vec<(String, String)> {
    let labels = section.pairs("labels");
    let long = |text: &str| text.is_empty() || text.len() > 64;
    if labels.len() > 16 {
        section.object("labels", "are more than 16; leave some out");
    }
    if let Some((key, _)) = labels.iter().find(|(k, v)| long(k) || v.len() > 64) {
        let what = format!("has {key:?} with an empty name or over 64 bytes; shorten it");
        section.object("labels", what);
    }
    labels
}
