//! What an import makes: tunnels as they can stand in client.toml, and a note for whatever they leave out. A
//! tunnel whose guard is lost is kept back, so that no import opens a door that was locked.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::rules::{Keys, Rules, SecretFile, Side};
use super::tree::{Field, Node};
use crate::config::OriginsConfig;
use crate::names::{Kind, RESERVED_SLUGS, Slug, Target};

/// Something that was not carried over, or that wants a look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Note {
    /// Of the other tool's file.
    pub(super) line: usize,
    /// The key, with its tunnel in front.
    pub(super) key: String,
    /// What is lost, or what to do.
    pub(super) what: String,
}

/// One `[[tunnel]]` to be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Carried {
    pub(super) name: String,
    pub(super) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) public_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_protocol: Option<&'static str>,
    /// Who may visit, as keys.
    #[serde(flatten)]
    pub(super) rules: Keys,
    /// What the keys name files of.
    #[serde(skip)]
    pub(super) secrets: Vec<SecretFile>,
    /// The guards that it would lose; while there is one it is written as a comment.
    pub(super) kept_back: Vec<String>,
}

/// A tunnel as the other tool has it, before it is fit for a `[[tunnel]]`.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) line: usize,
    /// What the notes call it.
    pub(super) called: String,
    /// What it wants to be named.
    pub(super) name: String,
    pub(super) target: String,
    pub(super) host: Option<String>,
    pub(super) public_port: Option<u16>,
    pub(super) proxy_protocol: Option<&'static str>,
    pub(super) rules: Rules,
    pub(super) kept_back: Vec<String>,
}

/// A key that guards a tunnel, what that did, and the rule of ours that does the same. The rule says whether
/// there is one.
pub(super) type Guard = (&'static str, &'static str, fn(&Node, &mut Rules) -> bool);

/// A guard that no rule of ours replaces.
pub(super) fn none(_: &Node, _: &mut Rules) -> bool {
    false
}

/// Where secrets go.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The folder of their files.
    pub(super) folder: PathBuf,
    /// Whether the import puts them there.
    pub(super) written: bool,
}

/// An import under way.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) tunnels: Vec<Carried>,
    pub(super) notes: Vec<Note>,
    /// Tunnels that were found, carried or not.
    pub(super) found: usize,
    origins: OriginsConfig,
    secrets: Secrets,
    knows_proxy_protocol: bool,
}

impl Draft {
    /// For a client that may dial these origins, and whose configuration has these keys.
    pub(super) fn new(origins: OriginsConfig, keys: &[String], secrets: Secrets) -> Self {
        Self {
            tunnels: Vec::new(),
            notes: Vec::new(),
            found: 0,
            origins,
            secrets,
            knows_proxy_protocol: keys.iter().any(|key| key == "tunnel.proxy_protocol"),
        }
    }

    pub(super) fn note(&mut self, line: usize, key: impl Into<String>, what: impl Into<String>) {
        self.notes.push(Note {
            line,
            key: key.into(),
            what: what.into(),
        });
    }

    /// Notes what nothing was made of: why, for the keys that are known, and that there is nothing like it for
    /// the others.
    pub(super) fn rest(
        &mut self,
        before: &str,
        table: &Node,
        used: &[&str],
        reasons: &[(&str, &str)],
    ) {
        for Field { key, line, node } in table.fields() {
            if used.contains(&key.as_str()) || node.is_idle() {
                continue;
            }
            let reason = reasons.iter().find(|(known, _)| known == key);
            let what = reason.map_or("is left out: wormkey has no such setting", |(_, why)| why);
            self.note(*line, format!("{before}{key}"), what);
        }
    }

    /// Carries the guards of a tunnel over; notes those that it would lose, and keeps it back for them.
    pub(super) fn guards(&mut self, table: &Node, guards: &[Guard], found: &mut Found) {
        for Field { key, line, node } in table.fields() {
            let Some((_, what, carry)) = guards.iter().find(|(known, ..)| known == key) else {
                continue;
            };
            if node.is_idle() {
                continue;
            }
            let before = found.rules.clone();
            if !carry(node, &mut found.rules) {
                found.rules = before;
                self.guard(*line, key, what, found);
            }
        }
    }

    /// Sets a header field, or takes one out when there is no value; notes what cannot be done.
    pub(super) fn header(
        &mut self,
        (line, key): (usize, &str),
        side: Side,
        (name, value): (&str, Option<&str>),
        found: &mut Found,
    ) {
        let done = match value {
            // What the other tool would fill in.
            Some(value) if value.contains("${") => false,
            Some(value) => found.rules.set(side, name, value),
            None => found.rules.remove(side, name),
        };
        if !done {
            let what = format!("{name} is left out: wormkey cannot do this to that field");
            self.note(line, format!("{}.{key}", found.called), what);
        }
    }

    /// One of them.
    pub(super) fn guard(&mut self, line: usize, key: &str, what: &str, found: &mut Found) {
        let told = format!("{what}; the tunnel is kept back, since it would be open without");
        self.note(line, format!("{}.{key}", found.called), told);
        found.kept_back.push(format!("{key} (line {line})"));
    }

    /// Takes a tunnel in, as far as it can be one of ours.
    pub(super) fn carry(&mut self, mut found: Found) {
        self.found += 1;
        let target: Target = match found.target.parse() {
            Ok(target) => target,
            Err(err) => {
                let what = format!("the tunnel is left out: {err}");
                return self.note(found.line, found.called, what);
            }
        };
        self.reach(&found, &target);
        let name = self.name(&found);
        let raw = matches!(target.kind(), Kind::Tcp | Kind::Udp);
        if let Some(port) = found.public_port.filter(|_| raw) {
            let what = format!(
                "asks for the public port {port}, which [listen] tcp_ports in the server's server.toml must contain"
            );
            self.note(found.line, found.called.clone(), what);
        } else if raw {
            let what = "gets a public port that the server chooses; public_port asks for one";
            self.note(found.line, found.called.clone(), what);
        }
        let host = self.host(&found).filter(|_| target.kind() == Kind::Http);
        let proxy_protocol = found.proxy_protocol.filter(|_| self.knows_proxy_protocol);
        if found.proxy_protocol != proxy_protocol {
            let what = "the PROXY header is left out: this version of wormkey sends none";
            self.note(found.line, found.called.clone(), what);
        }
        if target.kind() != Kind::Http {
            self.for_bytes(&mut found);
        }
        let (rules, secrets) = found.rules.keys(&name, &self.secrets.folder);
        self.tell_secrets(found.line, &found.called, &secrets);
        self.tunnels.push(Carried {
            rules,
            secrets,
            name,
            target: target.to_string(),
            host,
            public_port: found.public_port.filter(|_| raw),
            proxy_protocol,
            kept_back: found.kept_back,
        });
    }

    /// Bytes have no requests that could be looked at.
    fn for_bytes(&mut self, found: &mut Found) {
        if found.rules.has_headers() {
            let what = "its headers are left out: the tunnel carries bytes";
            self.note(found.line, found.called.clone(), what);
        }
        for lost in found.rules.for_bytes() {
            let what = format!(
                "asked for {lost}, which no tunnel of bytes can; the tunnel is kept back, since it would be open without"
            );
            self.note(found.line, found.called.clone(), what);
            found
                .kept_back
                .push(format!("{lost} (line {})", found.line));
        }
    }

    /// What is still to be done about secrets.
    fn tell_secrets(&mut self, line: usize, called: &str, secrets: &[SecretFile]) {
        if self.secrets.written {
            return;
        }
        for file in secrets {
            let at = self.secrets.folder.join(&file.name);
            let what = format!(
                "{} goes into {} as its first line; --write puts it there",
                file.what,
                at.display()
            );
            self.note(line, called, what);
        }
    }

    /// A `Host` that can stand in a `[[tunnel]]`.
    fn host(&mut self, found: &Found) -> Option<String> {
        let host = found.host.clone()?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if !host.is_empty() && host.chars().all(fits) {
            return Some(host);
        }
        let what = format!("the Host header {host:?} is left out: it is no host name");
        self.note(found.line, found.called.clone(), what);
        None
    }

    /// A name that can be one, and is no other tunnel's.
    fn name(&mut self, found: &Found) -> String {
        let mut slug = slug(&found.name);
        let taken = |name: &str, tunnels: &[Carried]| {
            RESERVED_SLUGS.contains(&name) || tunnels.iter().any(|other| other.name == name)
        };
        let base = slug.clone();
        let mut number = 2;
        while taken(&slug, &self.tunnels) {
            let end = format!("-{number}");
            let room = base.chars().take(Slug::MAX - end.len());
            slug = format!("{}{end}", room.collect::<String>().trim_end_matches('-'));
            number += 1;
        }
        if slug != found.name {
            let what = format!(
                "is named {slug} here, since {:?} cannot be or is taken",
                found.name
            );
            self.note(found.line, found.called.clone(), what);
        }
        slug
    }

    /// What the client's own settings must allow besides.
    fn reach(&mut self, found: &Found, target: &Target) {
        let allow = "list it in [origins] allow of client.toml";
        let what = match target {
            Target::Http { host: None, .. } | Target::Stream { host: None, .. } => return,
            Target::Http {
                host: Some(host), ..
            }
            | Target::Https { host, .. }
            | Target::Stream {
                host: Some(host), ..
            } => match host.parse::<IpAddr>() {
                Ok(ip) if self.origins.allow.iter().any(|net| net.contains(&ip)) => return,
                Ok(ip) => format!("leads to {ip}, which the client may not dial yet: {allow}"),
                Err(_) if host == "localhost" => return,
                Err(_) => {
                    format!("leads to {host}: unless its address is allowed already, {allow}")
                }
            },
            Target::Unix { path } => {
                if self
                    .origins
                    .unix
                    .iter()
                    .any(|known| known.matches_path(path))
                {
                    return;
                }
                let path = path.display();
                format!("leads to the socket {path}: list it in [origins] unix of client.toml")
            }
            Target::File { dir } => {
                if self
                    .origins
                    .files
                    .iter()
                    .any(|known| dir.starts_with(known))
                {
                    return;
                }
                let dir = dir.display();
                format!("serves {dir}: list it in [origins] files of client.toml")
            }
        };
        self.note(found.line, found.called.clone(), what);
    }

    /// Where files with secrets are, or will be.
    pub(super) fn secrets_folder(&self) -> &Path {
        &self.secrets.folder
    }

    /// How many are written for real.
    pub(super) fn open(&self) -> usize {
        self.tunnels
            .iter()
            .filter(|tunnel| tunnel.kept_back.is_empty())
            .count()
    }

    /// The `[[tunnel]]` entries.
    pub(super) fn toml(&self, first: &str) -> String {
        let mut text = format!("{first}\n");
        for tunnel in &self.tunnels {
            text.push('\n');
            let mark = if tunnel.kept_back.is_empty() {
                ""
            } else {
                let lost = tunnel.kept_back.join(", ");
                let _ = writeln!(text, "# Kept back: it would lose {lost}.");
                "# "
            };
            for line in tunnel.lines() {
                let _ = writeln!(text, "{mark}{line}");
            }
        }
        text
    }
}

impl Carried {
    fn lines(&self) -> Vec<String> {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut lines = vec![
            "[[tunnel]]".to_owned(),
            format!("name = {}", quoted(&self.name)),
            format!("target = {}", quoted(&self.target)),
        ];
        lines.extend(
            self.host
                .as_ref()
                .map(|host| format!("host = {}", quoted(host))),
        );
        lines.extend(self.public_port.map(|port| format!("public_port = {port}")));
        let version = self.proxy_protocol;
        lines.extend(version.map(|version| format!("proxy_protocol = {}", quoted(version))));
        let rules = self.rules.iter();
        lines.extend(rules.map(|(key, value)| format!("{key} = {value}")));
        lines
    }
}

/// The nearest name that a tunnel can have.
fn slug(wished: &str) -> String {
    let mut slug = String::new();
    for c in wished.chars().flat_map(char::to_lowercase) {
        let fits = c.is_ascii_lowercase() || c.is_ascii_digit();
        if fits {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let cut: String = slug.chars().take(Slug::MAX).collect();
    let slug = cut.trim_matches('-');
    if slug.is_empty() {
        "tunnel".to_owned()
    } else {
        slug.to_owned()
    }
}

/// The first label of a host name, as a tunnel's name.
pub(super) fn first_label(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
}
