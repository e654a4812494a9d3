//! `doctor`: asks the daemon what it finds, and looks itself at what needs no daemon when there is none.

use std::time::Duration;

use super::Cli;
use super::error::CtlError;
use super::text::{Style, clean};
use crate::admin::CallError;
use crate::admin::checks::{CheckJson, CheckState, DoctorJson};
use crate::link::buffers;
use crate::link::outside::Opinion;

/// The daemon's own looks are over by then.
const DEADLINE: Duration = Duration::from_secs(50);

pub(super) async fn doctor(cli: &mut Cli) -> Result<u8, CtlError> {
    let api = cli.api.with_deadline(DEADLINE);
    let found: Result<DoctorJson, CallError> = api.get("/v1/doctor").await;
    let doctor = match found {
        Ok(mut doctor) => {
            let socket = cli.api.socket().display();
            let there = CheckJson::ok("daemon", format!("wormkeyd answers on {socket}"));
            doctor.checks.insert(0, there);
            doctor
        }
        Err(err) if is_no_daemon(&err) => without_daemon(cli.failed(err)),
        Err(err) => return Err(cli.failed(err)),
    };
    if cli.json {
        cli.document(&doctor)?;
    } else {
        show(cli, &doctor)?;
    }
    Ok(doctor.exit())
}

const fn is_no_daemon(err: &CallError) -> bool {
    matches!(err, CallError::DaemonUnreachable { .. })
}

/// What can be seen from here alone.
fn without_daemon(err: CtlError) -> DoctorJson {
    let daemon = CheckJson::fail("daemon", err.detail(), err.fix());
    let buffers = buffers().ok().map(|buffers| match buffers.opinion() {
        Opinion::Well(what) => CheckJson::ok("socket_buffers", what),
        Opinion::Poor(what, fix) => CheckJson::warn("socket_buffers", what, fix),
        Opinion::Bad(what, fix) => CheckJson::fail("socket_buffers", what, fix),
    });
    DoctorJson {
        checks: [daemon].into_iter().chain(buffers).collect(),
    }
}

fn show(cli: &mut Cli, doctor: &DoctorJson) -> Result<(), CtlError> {
    let title = |check: &CheckJson| {
        let name = check.name.replace('_', " ");
        match &check.tunnel {
            Some(tunnel) => format!("{name} {tunnel}"),
            None => name,
        }
    };
    let width = doctor.checks.iter().map(|c| title(c).chars().count()).max();
    let width = width.unwrap_or_default();
    for check in &doctor.checks {
        let title = title(check);
        let pad = " ".repeat(width - title.chars().count());
        let state = word(check.state, cli.style);
        cli.line(&format!(
            "{state}  {}{pad}  {}",
            clean(&title),
            clean(&check.what)
        ))?;
        if let Some(fix) = &check.fix {
            cli.line(&format!("      {}  → {}", " ".repeat(width), clean(fix)))?;
        }
    }
    let count = |state| doctor.checks.iter().filter(|c| c.state == state).count();
    let (warned, failed) = (count(CheckState::Warn), count(CheckState::Fail));
    let summary = match (failed, warned) {
        (0, 0) => "all is well".to_owned(),
        (0, warned) => format!("it works; {warned} could be better"),
        (failed, 0) => format!("{failed} to mend"),
        (failed, warned) => format!("{failed} to mend, {warned} could be better"),
    };
    cli.hint(&summary);
    Ok(())
}

fn word(state: CheckState, style: Style) -> String {
    match state {
        CheckState::Ok => "ok  ".to_owned(),
        CheckState::Warn => style.bold("warn"),
        CheckState::Fail => style.bold("fail"),
    }
}
