//! `open`: asks for a tunnel, prints its three lines, and stays when it shall be watched.

use std::time::Duration;

use http::StatusCode;

use super::args::{OpenArgs, OpenFlags};
use super::ask::open_ask;
use super::error::CtlError;
use super::io::Signals;
use super::policy::{Compiled, Credentials};
use super::text::{ClosedBy, opened};
use super::{Cli, domains, policy, qr, watch};
use crate::admin::types::{OpenAsk, TunnelJson};
use crate::names::Target;
use crate::times::parse_duration;

/// What the daemon may take besides waiting for the service.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// `--wait-for` without `--wait-timeout`, as the daemon has it.
const WAIT_FOR: Duration = Duration::from_secs(60);

/// How long an answer that is no longer wanted is waited for.
const LATE: Duration = Duration::from_secs(1);

pub(super) async fn open(cli: &mut Cli, args: OpenArgs) -> Result<(), CtlError> {
    let mut ask = open_ask(&args.target, &args.flags, &cli.io.current_dir)?;
    let compiled = compiled(cli, &mut ask, &args.flags)?;
    if args.print_policy {
        return cli.document(&compiled.policy.unwrap_or_default().shown());
    }
    let made = compiled.made;
    if !args.flags.watch {
        let tunnel = ask_for(cli, &ask).await?;
        return announce(cli, &tunnel, made.as_ref(), &args.flags, ClosedBy::Command);
    }
    // Caught before the tunnel is there: Ctrl-C at any moment must not leave it behind.
    let mut signals = Signals::listen(&mut cli.io).map_err(CtlError::System)?;
    // Subscribed before it opens, so that the first visit is seen.
    let events = cli.api.events(None).await.map_err(|err| cli.failed(err))?;
    let Ok(tunnel) = ask_unless(cli, &ask, signals.next()).await? else {
        return Ok(());
    };
    let watched = match announce(cli, &tunnel, made.as_ref(), &args.flags, ClosedBy::CtrlC) {
        Ok(()) => watch::until_signal(cli, &tunnel, events, &mut signals).await,
        Err(err) => Err(err),
    };
    if matches!(watched, Ok(watch::End::Over)) {
        return Ok(());
    }
    // A second signal means now.
    tokio::select! {
        biased;
        _ = signals.next() => return Ok(()),
        closed = watch::close(cli, &tunnel, true) => closed?,
    }
    watched.map(|_| ())
}

/// What the flags say of visitors, put into what is asked.
pub(super) fn compiled(
    cli: &Cli,
    ask: &mut OpenAsk,
    flags: &OpenFlags,
) -> Result<Compiled, CtlError> {
    let compiled = policy::compile(cli, &flags.policy)?;
    if let Ok(target) = ask.target.parse::<Target>() {
        policy::check_kind(target.kind(), compiled.policy.as_ref())?;
    }
    ask.policy = compiled.policy.clone();
    Ok(compiled)
}

/// Asks, unless `stop` comes first. Then an answer that is on its way already is waited for, so that
/// the tunnel it tells of can be closed; one that is not there yet is given up by the daemon.
pub(super) async fn ask_unless<T>(
    cli: &mut Cli,
    ask: &OpenAsk,
    stop: impl Future<Output = T>,
) -> Result<Result<TunnelJson, T>, CtlError> {
    let (stopped, late) = {
        let mut asking = std::pin::pin!(ask_for(cli, ask));
        tokio::select! {
            biased;
            stopped = stop => (stopped, tokio::time::timeout(LATE, asking).await),
            answered = &mut asking => return answered.map(Ok),
        }
    };
    if let Ok(Ok(tunnel)) = late {
        watch::close(cli, &tunnel, true).await?;
    }
    Ok(Err(stopped))
}

/// Sends the request; warnings go beside the result.
async fn ask_for(cli: &mut Cli, ask: &OpenAsk) -> Result<TunnelJson, CtlError> {
    let waits = match (&ask.wait_for, &ask.wait_timeout) {
        (None, _) => Duration::ZERO,
        (Some(_), None) => WAIT_FOR,
        // It was read when the command line was.
        (Some(_), Some(text)) => parse_duration(text).unwrap_or(WAIT_FOR),
    };
    let api = cli.api.with_deadline(OPEN_DEADLINE.saturating_add(waits));
    let (status, tunnel): (StatusCode, TunnelJson) = api
        .post("/v1/tunnels", ask)
        .await
        .map_err(|err| cli.failed(err))?;
    if status == StatusCode::OK && !cli.json {
        cli.hint("this tunnel was open already");
    }
    for warning in &tunnel.warnings {
        cli.hint(&format!("warning: {warning}"));
    }
    Ok(tunnel)
}

/// The three lines, or the document; the QR code beside them.
pub(super) fn announce(
    cli: &mut Cli,
    tunnel: &TunnelJson,
    made: Option<&Credentials>,
    flags: &OpenFlags,
    by: ClosedBy,
) -> Result<(), CtlError> {
    if flags.qr {
        match tunnel
            .url
            .as_deref()
            .and_then(|url| qr::code(url, cli.style.has_colour()))
        {
            Some(code) => cli.io.block(&code),
            None => cli.hint("warning: there is no address yet to make a QR code of"),
        }
    }
    if cli.json {
        return cli.document(&policy::document(tunnel, made)?);
    }
    let lines = opened(tunnel, &cli.times(), by);
    cli.lines(&lines)?;
    for line in domains::lines(&tunnel.domains, &cli.times()) {
        cli.line(&format!("  {line}"))?;
    }
    policy::tell_made(cli, made)
}
