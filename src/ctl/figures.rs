//! How links do, for people: the client's own, and the server's table of all.

use std::time::Duration;

use serde::Serialize;

use super::Cli;
use super::error::CtlError;
use super::text::{Times, about, clean_short, facts, table};
use crate::admin::figures::{LinkFiguresJson, LinkPage};
use crate::admin::types::{LinkJson, PacketsJson, ServerStatusJson};

/// Links below the server's status; the others are behind `server links`.
const SHOWN: u32 = 50;

type Fact = (&'static str, Option<String>);

/// What is worth knowing of a client's link beside that it is up.
pub(super) fn of_link(link: &LinkJson) -> Vec<Fact> {
    let is_up = link.state == "up";
    let path = link
        .path
        .as_ref()
        .map(|path| match &link.unverified_issuer {
            Some(issuer) => format!("{path}, its certificate issued by {issuer}"),
            None => path.clone(),
        });
    let times_moved = link.moves.map(|moves| match moves {
        1 => "once to another socket".to_owned(),
        moves => format!("{moves} times to another socket"),
    });
    vec![
        ("path", path),
        ("packets", link.packets.map(packets)),
        ("moved", times_moved),
        (
            "stalled",
            link.longest_stall_ms
                .map(|ms| format!("{} at most", short(ms))),
        ),
        // Of a link that is not up it stands beside its state.
        ("last error", link.last_error.clone().filter(|_| is_up)),
    ]
}

fn packets(packets: PacketsJson) -> String {
    format!(
        "{} sent, {} lost ({})",
        packets.sent,
        packets.lost,
        loss(packets)
    )
}

fn loss(packets: PacketsJson) -> String {
    match packets.sent {
        0 => "-".to_owned(),
        sent => format!("{:.1}%", packets.lost as f64 * 100.0 / sent as f64),
    }
}

fn short(millis: f64) -> String {
    if millis < 1000.0 {
        format!("{millis:.0} ms")
    } else {
        about(Duration::from_secs_f64(millis / 1000.0))
    }
}

/// `96 KiB`, `1.5 MiB`
pub(super) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let bytes = bytes as f64;
    match bytes {
        0.0..KIB => format!("{bytes} B"),
        _ if bytes < KIB * KIB => format!("{:.0} KiB", bytes / KIB),
        _ if bytes < KIB * KIB * KIB => format!("{:.1} MiB", bytes / KIB / KIB),
        _ => format!("{:.1} GiB", bytes / KIB / KIB / KIB),
    }
}

/// The server's status with the first of its links.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    status: ServerStatusJson,
    link_list: Vec<LinkFiguresJson>,
    link_next: Option<String>,
}

pub(super) async fn server_status(cli: &mut Cli) -> Result<(), CtlError> {
    let status: ServerStatusJson = cli
        .api
        .get("/v1/status")
        .await
        .map_err(|err| cli.failed(err))?;
    let page = page(cli, None, (!cli.json).then_some(SHOWN)).await?;
    if cli.json {
        return cli.document(&Document {
            status,
            link_list: page.links,
            link_next: page.next,
        });
    }
    let rows = super::status::of_server(&status, &cli.times());
    let lines = facts(&rows, "", cli.style);
    cli.lines(&lines)?;
    if page.links.is_empty() {
        return Ok(());
    }
    cli.line("")?;
    show(cli, &page)
}

/// `server links`.
pub(super) async fn links(
    cli: &mut Cli,
    after: Option<String>,
    limit: Option<u32>,
) -> Result<(), CtlError> {
    let page = page(cli, after, limit).await?;
    if cli.json {
        return cli.document(&page);
    }
    if page.links.is_empty() {
        cli.hint("no links");
        return Ok(());
    }
    show(cli, &page)
}

async fn page(cli: &Cli, after: Option<String>, limit: Option<u32>) -> Result<LinkPage, CtlError> {
    let mut path = format!("/v1/links?limit={}", limit.unwrap_or(100));
    if let Some(after) = after {
        path = crate::admin::ApiClient::path(&format!("{path}&cursor="), &after);
    }
    cli.api.get(&path).await.map_err(|err| cli.failed(err))
}

fn show(cli: &mut Cli, page: &LinkPage) -> Result<(), CtlError> {
    let times = cli.times();
    let rows: Vec<Vec<String>> = page.links.iter().map(|link| row(link, &times)).collect();
    let head = [
        "DEVICE",
        "USER",
        "LINK",
        "PATH",
        "FROM",
        "RTT",
        "LOSS",
        "MOVES",
        "STALL",
        "VISITS",
        "SINCE",
        "GENERATION",
        "LAST ERROR",
    ];
    let lines = table(&head, &rows, cli.style);
    cli.lines(&lines)?;
    if let Some(next) = &page.next {
        let next = clean_short(next);
        cli.hint(&format!(
            "more with: wormkeyctl server links --after {next}"
        ));
    }
    Ok(())
}

fn row(link: &LinkFiguresJson, times: &Times) -> Vec<String> {
    let state = match link.dormant_since {
        Some(since) => format!("{} {}", link.state, about(times.now.since(since))),
        None => link.state.clone(),
    };
    vec![
        link.device_name.clone(),
        link.user.clone(),
        state,
        link.path.clone(),
        link.address.clone(),
        format!("{:.1} ms", link.rtt_ms),
        loss(link.packets),
        link.moves.to_string(),
        short(link.longest_stall_ms),
        link.streams.to_string(),
        times.at(link.since),
        link.generation.clone(),
        link.last_error.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}
