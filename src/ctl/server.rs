//! The operator's own commands: invites, devices, users, revocation, the audit.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Cli;
use super::error::CtlError;
use super::text::{clean, table};
use crate::admin::ApiClient;
use crate::admin::types::{AuditJson, DeviceJson, InviteAsk, InviteJson, SuspendAsk, UserJson};

pub(super) async fn invite(
    cli: &mut Cli,
    user: Option<String>,
    uses: Option<u32>,
    expires: Option<String>,
) -> Result<(), CtlError> {
    let devices = uses.unwrap_or(1);
    let ask = InviteAsk {
        user,
        uses,
        expires,
    };
    let (_, invite): (_, InviteJson) = cli
        .api
        .post("/v1/invites", &ask)
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&invite);
    }
    // Alone on standard output, so that it can be piped to where it is needed.
    cli.line(&clean(&invite.token))?;
    let until = cli.times().near(invite.expires_at);
    let what = if devices == 1 {
        "one device".to_owned()
    } else {
        format!("{devices} devices")
    };
    cli.hint(&format!(
        "it works for {what}, until {until}, and is not shown again"
    ));
    cli.hint("on the machine that shall join: wormkeyctl join TOKEN");
    if let Some(id) = invite.id {
        cli.hint(&format!("take it back with: wormkeyctl server revoke {id}"));
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Users {
    users: Vec<UserJson>,
}

pub(super) async fn users(cli: &mut Cli) -> Result<(), CtlError> {
    let found: Users = cli
        .api
        .get("/v1/users")
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&found);
    }
    if found.users.is_empty() {
        cli.hint("no users; the first invite makes one: wormkeyctl server invite");
        return Ok(());
    }
    let times = cli.times();
    let rows: Vec<Vec<String>> = found
        .users
        .iter()
        .map(|user| {
            vec![
                user.name.clone(),
                (user.suspended_at).map_or_else(|| "active".into(), |_| "suspended".into()),
                user.devices.to_string(),
                user.tunnels.to_string(),
                times.at(user.created_at),
                user.id.to_string(),
            ]
        })
        .collect();
    let head = ["NAME", "STATE", "DEVICES", "TUNNELS", "SINCE", "ID"];
    let lines = table(&head, &rows, cli.style);
    cli.lines(&lines)
}

#[derive(Serialize, Deserialize)]
struct Devices {
    devices: Vec<DeviceJson>,
}

pub(super) async fn devices(cli: &mut Cli) -> Result<(), CtlError> {
    let found: Devices = cli
        .api
        .get("/v1/devices")
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&found);
    }
    if found.devices.is_empty() {
        cli.hint("no devices; invite one with: wormkeyctl server invite");
        return Ok(());
    }
    let times = cli.times();
    let rows: Vec<Vec<String>> = found
        .devices
        .iter()
        .map(|device| {
            let link = if device.revoked_at.is_some() {
                "revoked".to_owned()
            } else if device.suspended_at.is_some() {
                "suspended".to_owned()
            } else {
                device.link.clone()
            };
            vec![
                device.name.clone(),
                device.user.clone(),
                link,
                device.tunnels.to_string(),
                device.peer.clone().unwrap_or_else(|| "-".to_owned()),
                times.at(device.created_at),
                device.id.to_string(),
            ]
        })
        .collect();
    let head = ["NAME", "USER", "LINK", "TUNNELS", "FROM", "SINCE", "ID"];
    let lines = table(&head, &rows, cli.style);
    cli.lines(&lines)
}

pub(super) async fn revoke(cli: &mut Cli, what: &str) -> Result<(), CtlError> {
    let (_, answer): (_, Value) = cli
        .api
        .post("/v1/revoke", &json!({ "what": what }))
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&answer);
    }
    cli.line(&format!("revoked {}", clean(what)))
}

/// `suspend`, and `resume`.
pub(super) async fn suspend(
    cli: &mut Cli,
    what: &str,
    reason: Option<String>,
    on: bool,
) -> Result<(), CtlError> {
    let (path, done) = match on {
        true => ("/v1/suspend", "suspended"),
        false => ("/v1/resume", "resumed"),
    };
    let ask = SuspendAsk {
        what: what.to_owned(),
        reason,
    };
    let (_, answer): (_, Value) = cli
        .api
        .post(path, &ask)
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&answer);
    }
    cli.line(&format!("{done} {}", clean(what)))
}

#[derive(Serialize, Deserialize)]
struct Audit {
    audit: Vec<AuditJson>,
    next: Option<i64>,
}

pub(super) async fn audit(
    cli: &mut Cli,
    after: Option<i64>,
    limit: Option<u32>,
    filters: [(&str, Option<String>); 3],
) -> Result<(), CtlError> {
    let mut path = format!("/v1/audit?limit={}", limit.unwrap_or(100));
    if let Some(after) = after {
        path.push_str(&format!("&after={after}"));
    }
    let mut again = String::new();
    for (name, text) in filters {
        if let Some(text) = text {
            path.push_str(&ApiClient::path(&format!("&{name}="), &text));
            again.push_str(&format!(" --{name} '{}'", clean(&text)));
        }
    }
    let found: Audit = cli.api.get(&path).await.map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&found);
    }
    if found.audit.is_empty() {
        cli.hint("nothing there");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = found
        .audit
        .iter()
        .map(|row| {
            let actor = match (&row.user, &row.device) {
                (Some(user), Some(device)) => format!("{user}/{device}"),
                _ => row.actor.clone(),
            };
            let actor = match &row.peer {
                Some(peer) => format!("{actor} from {peer}"),
                None => actor,
            };
            vec![
                row.seq.to_string(),
                row.at.to_string(),
                actor,
                row.action.clone(),
                row.subject.clone(),
                row.detail.clone(),
            ]
        })
        .collect();
    let head = ["SEQ", "AT", "WHO", "WHAT", "SUBJECT", "DETAIL"];
    let lines = table(&head, &rows, cli.style);
    cli.lines(&lines)?;
    if let Some(next) = found.next {
        cli.hint(&format!(
            "more with: wormkeyctl server audit --after {next}{again}"
        ));
    }
    Ok(())
}
