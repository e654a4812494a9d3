//! `join`, `leave`, `status`, `reload`: this device and its daemon, and the server's status beside them.

use std::io::{BufRead as _, BufReader, Read};
use std::time::Duration;

use serde_json::{Value, json};

use super::Cli;
use super::error::CtlError;
use super::figures::{of_link, size};
use super::setup::{Consent, started};
use super::text::{Times, about, facts};
use crate::admin::certificates::CertificateJson;
use crate::admin::types::{
    ClientStatusJson, JoinAsk, JoinJson, LinkJson, ReloadJson, ServerStatusJson,
};
use crate::wire::token::JoinToken;

/// The daemon tries each of the token's addresses.
const JOIN_DEADLINE: Duration = Duration::from_secs(90);
/// Certificates that a person is told of; there may be one for each of a thousand domains.
const CERTIFICATES_SHOWN: usize = 5;
/// A token is 4 KiB at most.
const TOKEN_MAX: u64 = 8 * 1024;

pub(super) async fn join(
    cli: &mut Cli,
    given: &str,
    replace: bool,
    start: Option<Consent>,
) -> Result<(), CtlError> {
    let token = read_token(cli, given)?;
    // A damaged copy is found here, before anyone is asked.
    let parsed = JoinToken::parse(&token)?;
    if let Some(consent) = start
        && let Some(domain) = started(cli, &parsed, consent).await?
        && !replace
    {
        return already(cli, &domain, &parsed.addresses).await;
    }
    let ask = JoinAsk { token, replace };
    let (_, joined): (_, JoinJson) = cli
        .api
        .with_deadline(JOIN_DEADLINE)
        .post("/v1/join", &ask)
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&joined);
    }
    cli.line(&format!(
        "joined {} as a device of {}",
        super::text::clean(&joined.domain),
        super::text::clean(&joined.user)
    ))?;
    cli.hint("open a tunnel with: wormkeyctl open 3000");
    Ok(())
}

/// What was asked for is so already.
async fn already(cli: &mut Cli, domain: &str, addresses: &[String]) -> Result<(), CtlError> {
    if cli.json {
        let status: Value = (cli.api.get("/v1/status").await).map_err(|err| cli.failed(err))?;
        let joined = json!({
            "device": status["device"], "user": status["user"], "domain": status["domain"],
            "addresses": addresses,
        });
        return cli.document(&joined);
    }
    cli.line(&format!("joined {} already", super::text::clean(domain)))
}

fn read_token(cli: &mut Cli, given: &str) -> Result<String, CtlError> {
    if given == "-" {
        if cli.io.in_is_terminal {
            cli.hint("paste the join token, then press Enter:");
        }
        return first_line(&mut cli.io.input).map_err(|err| CtlError::Read {
            what: "standard input".to_owned(),
            err,
        });
    }
    match given.strip_prefix('@') {
        None => Ok(given.trim().to_owned()),
        Some(path) => std::fs::File::open(cli.io.current_dir.join(path))
            .and_then(first_line)
            .map_err(|err| CtlError::Read {
                what: path.to_owned(),
                err,
            }),
    }
}

fn first_line(from: impl Read) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(from.take(TOKEN_MAX)).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

pub(super) async fn leave(cli: &mut Cli, forget_key: bool) -> Result<(), CtlError> {
    let ask = json!({ "forget_key": forget_key });
    let (_, answer): (_, Value) = cli
        .api
        .post("/v1/leave", &ask)
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&answer);
    }
    cli.line("left the server; this device has no tunnels any more")
}

pub(super) async fn reload(cli: &mut Cli) -> Result<(), CtlError> {
    let (_, reloaded): (_, ReloadJson) = cli
        .api
        .post("/v1/reload", &json!({}))
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&reloaded);
    }
    if reloaded.notes.is_empty() {
        return cli.line("reloaded; nothing changed");
    }
    cli.line("reloaded")?;
    let notes: Vec<String> = reloaded
        .notes
        .iter()
        .map(|note| format!("  {}", super::text::clean(note)))
        .collect();
    cli.lines(&notes)
}

pub(super) async fn client(cli: &mut Cli) -> Result<(), CtlError> {
    let status: ClientStatusJson = cli
        .api
        .get("/v1/status")
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&status);
    }
    let times = cli.times();
    let joined = match (&status.domain, &status.user) {
        (Some(domain), Some(user)) if status.joined => format!("{domain}, a device of {user}"),
        (Some(domain), None) if status.joined => domain.clone(),
        _ if status.joined => "yes".to_owned(),
        _ => "not yet".to_owned(),
    };
    let rows = [
        (
            "daemon",
            Some(daemon(
                &status.software,
                status.pid,
                status.started_at,
                &times,
            )),
        ),
        ("joined", Some(joined)),
        ("link", status.joined.then(|| link(&status.link, &times))),
    ]
    .into_iter()
    .chain(of_link(&status.link))
    .chain([
        ("tunnels", Some(status.tunnels.to_string())),
        ("device", status.device.map(|id| id.to_string())),
    ]);
    let rows: Vec<_> = rows.collect();
    let lines = facts(&rows, "", cli.style);
    cli.lines(&lines)?;
    for problem in &status.problems {
        cli.line(&format!("problem: {}", super::text::clean(problem)))?;
    }
    if !status.joined {
        cli.line("get a join token with `wormkeyctl server invite` on the server, then here:")?;
        cli.line("  wormkeyctl join wkj_…")?;
    }
    Ok(())
}

fn daemon(software: &str, pid: u32, started_at: crate::times::WallTime, times: &Times) -> String {
    let up = about(times.now.since(started_at));
    format!("{software}, pid {pid}, running for {up}")
}

fn link(link: &LinkJson, times: &Times) -> String {
    let mut text = link.state.replace('_', " ");
    if let Some(address) = &link.address {
        text.push_str(&format!(", {address}"));
    }
    if let Some(since) = link.since {
        text.push_str(&format!(", for {}", about(times.now.since(since))));
    }
    if let Some(rtt) = link.rtt_ms {
        text.push_str(&format!(", round trip {rtt:.1} ms"));
    }
    if link.state != "up" {
        if let Some(why) = &link.last_error {
            text.push_str(&format!(": {why}"));
        }
        if let Some(next) = link.next_attempt.filter(|next| *next > times.now) {
            text.push_str(&format!("; next try in {}", about(next.since(times.now))));
        }
    }
    text
}

/// What is to be said of a server.
pub(super) fn of_server(
    status: &ServerStatusJson,
    times: &Times,
) -> Vec<(&'static str, Option<String>)> {
    let listen: Vec<String> = status
        .listen
        .iter()
        .map(|(name, at)| format!("{name} {at}"))
        .collect();
    let mut rows = vec![
        (
            "daemon",
            Some(daemon(
                &status.software,
                status.pid,
                status.started_at,
                times,
            )),
        ),
        ("domain", Some(status.domain.clone())),
        ("listens", Some(listen.join(", "))),
        ("tls", Some(status.tls.clone())),
        ("pin", Some(status.pin.clone())),
        ("links", Some(links(status))),
        ("tunnels", Some(status.tunnels.to_string())),
        (
            "visits",
            Some(format!(
                "{} now, {}, {} since the daemon started",
                status.visits,
                waiting(status),
                status.visits_total
            )),
        ),
        (
            "draining",
            status
                .draining
                .then(|| "yes: no new visits are taken".to_owned()),
        ),
    ];
    let certificates = certificates(&status.certificates).into_iter();
    rows.extend(certificates.map(|text| ("certificate", Some(text))));
    rows
}

/// Each with its names, what will happen, and what went wrong; those that need somebody come first.
fn certificates(all: &[CertificateJson]) -> Vec<String> {
    let mut all: Vec<&CertificateJson> = all.iter().collect();
    all.sort_by_key(|of| of.last_error.is_none());
    let mut lines: Vec<String> = (all.iter().take(CERTIFICATES_SHOWN))
        .map(|of| {
            let error = of.last_error.as_ref();
            let error = error.map(|error| format!("; last error: {error}"));
            let (names, error) = (of.names.join(", "), error.unwrap_or_default());
            format!("{names}: {}{error}", of.says)
        })
        .collect();
    if all.len() > lines.len() {
        lines.push(format!("{} more, told by --json", all.len() - lines.len()));
    }
    lines
}

fn links(status: &ServerStatusJson) -> String {
    let mut text = format!("{}, {} of them dormant", status.links, status.dormant);
    if status.dormant > 0 {
        text.push_str(&format!(" and holding {}", size(status.dormant_bytes)));
    }
    if status.dormant_evicted > 0 {
        text.push_str(&format!(
            "; {} closed for want of room",
            status.dormant_evicted
        ));
    }
    text
}

fn waiting(status: &ServerStatusJson) -> String {
    match status.held {
        0 => "0 waiting".to_owned(),
        held => format!("{held} waiting with {} at most", size(status.held_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_need_somebody_are_told_first_and_not_all_of_many() {
        let one = |n: usize| CertificateJson {
            names: vec![format!("n{n}.example")],
            source: "acme".to_owned(),
            not_before: None,
            not_after: None,
            renews_at: None,
            next_try: None,
            last_error: (n == 8).then(|| "no zone".to_owned()),
            ca: None,
            says: "served".to_owned(),
        };
        let all: Vec<_> = (0..9).map(one).collect();
        let lines = certificates(&all);
        assert_eq!(lines.len(), CERTIFICATES_SHOWN + 1);
        assert_eq!(lines[0], "n8.example: served; last error: no zone");
        assert_eq!(lines[1], "n0.example: served");
        assert_eq!(lines[5], "4 more, told by --json");
        assert!(certificates(&[]).is_empty());
    }
}
