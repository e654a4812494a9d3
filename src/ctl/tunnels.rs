//! `list`, `show`, `close`, on either role's socket.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cli;
use super::error::{CtlError, Role};
use super::text::{Times, about, facts, table};
use crate::admin::types::TunnelJson;
use crate::admin::{ApiClient, CallError};
use crate::names::TunnelId;

#[derive(Deserialize)]
struct Page {
    tunnels: Vec<TunnelJson>,
    next: Option<TunnelId>,
}

#[derive(Serialize)]
struct Listed<'a> {
    tunnels: &'a [TunnelJson],
}

/// What `close` prints.
#[derive(Serialize)]
struct Closed {
    closed: Vec<ClosedTunnel>,
}

#[derive(Serialize)]
struct ClosedTunnel {
    id: TunnelId,
    slug: Option<String>,
    state: String,
}

impl From<TunnelJson> for ClosedTunnel {
    fn from(tunnel: TunnelJson) -> Self {
        Self {
            id: tunnel.id,
            slug: tunnel.slug,
            state: tunnel.state,
        }
    }
}

/// All pages.
async fn fetch(cli: &Cli, all: bool) -> Result<Vec<TunnelJson>, CtlError> {
    let mut tunnels = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/tunnels?all={all}&limit=1000{cursor}");
        let page: Page = cli.api.get(&path).await.map_err(|err| cli.failed(err))?;
        tunnels.extend(page.tunnels);
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(tunnels),
        }
    }
}

pub(super) async fn list(cli: &mut Cli, all: bool) -> Result<(), CtlError> {
    let tunnels = fetch(cli, all).await?;
    if cli.json {
        return cli.document(&Listed { tunnels: &tunnels });
    }
    if tunnels.is_empty() {
        cli.hint(match cli.role {
            Role::Client => "no tunnels; open one with: wormkeyctl open 3000",
            Role::Server => "no tunnels",
        });
        return Ok(());
    }
    let times = cli.times();
    let rows: Vec<_> = tunnels.iter().map(|t| row(t, cli.role, &times)).collect();
    let head: &[&str] = match cli.role {
        Role::Client => &["NAME", "TARGET", "STATE", "ENDS", "URL"],
        Role::Server => &["NAME", "USER", "STATE", "ENDS", "URL"],
    };
    let lines = table(head, &rows, cli.style);
    cli.lines(&lines)
}

fn row(tunnel: &TunnelJson, role: Role, times: &Times) -> Vec<String> {
    let second = match role {
        Role::Client => &tunnel.target,
        Role::Server => &tunnel.user,
    };
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        tunnel.slug.clone().unwrap_or_else(|| tunnel.id.to_string()),
        shown(second),
        tunnel.state.clone(),
        ends(tunnel, times),
        super::domains::beside(&shown(&tunnel.url), &tunnel.domains),
    ]
}

fn ends(tunnel: &TunnelJson, times: &Times) -> String {
    match (tunnel.ended_at, tunnel.expires_at) {
        (Some(ended), _) => times.near(ended),
        (None, Some(at)) => times.near(at),
        (None, None) => match tunnel.idle_seconds.map(Duration::from_secs) {
            Some(idle) => format!("after {} idle", about(idle)),
            None => "never".to_owned(),
        },
    }
}

/// What would end it if nothing else happened.
fn ends_next(tunnel: &TunnelJson, times: &Times) -> Option<String> {
    let next = &tunnel.ends_next;
    let why = match next.why.as_deref()? {
        "expires" => "its time is over",
        "idle" => "nobody visits it",
        "offline" => "its client stays away",
        // A newer daemon's.
        other => other,
    };
    let why = super::text::clean(why);
    Some(match next.at {
        Some(at) => format!("{}, because {why}", times.near(at)),
        None => format!("if {why} for too long"),
    })
}

pub(super) async fn show(cli: &mut Cli, key: &str) -> Result<(), CtlError> {
    let path = ApiClient::path("/v1/tunnels/", key);
    let tunnel: TunnelJson = cli.api.get(&path).await.map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&tunnel);
    }
    let name = tunnel.slug.clone().unwrap_or_else(|| tunnel.id.to_string());
    let heading = cli.style.bold(&super::text::clean(&name));
    cli.line(&heading)?;
    let mut described = described(&tunnel, &cli.times());
    // What it lets through stands before the id, which is last.
    let rules = tunnel.policy.iter().flat_map(super::policy::facts);
    let rules = rules.map(|(name, text)| (name, Some(text)));
    let last = described.len() - 1;
    described.splice(last..last, rules);
    let domains = super::domains::lines(&tunnel.domains, &cli.times());
    let named = domains.into_iter().enumerate();
    let named = named.map(|(i, line)| (if i == 0 { "domains" } else { "" }, Some(line)));
    described.splice(1..1, named);
    let lines = facts(&described, "  ", cli.style);
    cli.lines(&lines)?;
    for warning in &tunnel.warnings {
        cli.hint(&format!("warning: {warning}"));
    }
    Ok(())
}

fn described(tunnel: &TunnelJson, times: &Times) -> Vec<(&'static str, Option<String>)> {
    let idle = tunnel.idle_seconds.map(Duration::from_secs);
    let hold = tunnel
        .hold_seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let host = match (&tunnel.host, &tunnel.host_in_use) {
        (Some(asked), Some(used)) if asked != used => Some(format!("{asked} (now: {used})")),
        (asked, _) => asked.clone(),
    };
    let latest = tunnel
        .last_seen_at
        .map_or_else(String::new, |at| format!(", the latest {}", times.near(at)));
    let labels: Vec<String> = tunnel
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let ended = tunnel.ended_at.is_some();
    vec![
        ("address", tunnel.url.clone()),
        ("leads to", tunnel.target.clone()),
        ("kind", Some(tunnel.kind.clone())),
        ("state", Some(tunnel.state.clone())),
        (
            "from outside",
            tunnel
                .probe
                .as_ref()
                .map(|probe| format!("{}, {}", probe.detail, times.near(probe.at))),
        ),
        (
            if ended { "ended" } else { "ends" },
            Some(ends(tunnel, times)),
        ),
        ("ends next", ends_next(tunnel, times)),
        ("opened", Some(times.near(tunnel.created_at))),
        (
            "idle",
            idle.map(|idle| format!("closes after {} without a visit", about(idle))),
        ),
        (
            "hold",
            hold.map(|hold| format!("visits wait {} while the device is away", about(hold))),
        ),
        ("host", host),
        (
            "visits",
            Some(format!(
                "{} now, {} since the daemon started{latest}",
                tunnel.visits, tunnel.visits_total
            )),
        ),
        ("port", tunnel.public_port.map(|port| port.to_string())),
        (
            "proxy",
            tunnel
                .proxy_protocol
                .as_ref()
                .map(|version| format!("PROXY {version} header")),
        ),
        ("user", tunnel.user.clone()),
        ("device", tunnel.device.map(|id| id.to_string())),
        ("labels", Some(labels.join(", ")).filter(|l| !l.is_empty())),
        (
            "declared",
            tunnel.declared.then(|| "in client.toml".to_owned()),
        ),
        ("id", Some(tunnel.id.to_string())),
    ]
}

pub(super) async fn close(cli: &mut Cli, key: &str) -> Result<(), CtlError> {
    let tunnel = close_one(cli, key).await.map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&Closed {
            closed: vec![tunnel.into()],
        });
    }
    say_closed(cli, &tunnel)
}

pub(super) async fn close_all(cli: &mut Cli) -> Result<(), CtlError> {
    let tunnels = fetch(cli, false).await?;
    let of = tunnels.len();
    let mut closed = Vec::new();
    let mut failures = Vec::new();
    for tunnel in tunnels {
        match close_one(cli, &tunnel.id.to_string()).await {
            Ok(tunnel) => {
                if !cli.json {
                    say_closed(cli, &tunnel)?;
                }
                closed.push(tunnel.into());
            }
            Err(err) => {
                let name = tunnel.slug.unwrap_or_else(|| tunnel.id.to_string());
                if !cli.json {
                    cli.hint(&format!("{name}: {err}"));
                }
                failures.push(err);
            }
        }
    }
    if cli.json {
        cli.document(&Closed { closed })?;
    } else if of == 0 {
        cli.hint("no tunnels to close");
    }
    let failed = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(CtlError::NotAllClosed { failed, of, first }),
    }
}

async fn close_one(cli: &Cli, key: &str) -> Result<TunnelJson, CallError> {
    cli.api.delete(&ApiClient::path("/v1/tunnels/", key)).await
}

fn say_closed(cli: &mut Cli, tunnel: &TunnelJson) -> Result<(), CtlError> {
    let name = tunnel.slug.clone().unwrap_or_else(|| tunnel.id.to_string());
    let name = super::text::clean(&name);
    if tunnel.state == "closing" {
        cli.line(&format!(
            "{name} is closed here; the server is told as soon as it answers"
        ))
    } else {
        cli.line(&format!("closed {name}"))
    }
}
