//! `join --start`: has the client run, now and at each boot or login, before the device joins.

use super::{ANSWER_WITHIN, ASK_EVERY, Consent, SetupError, answers, confirm};
use crate::admin::ApiClient;
use crate::admin::types::ClientStatusJson;
use crate::ctl::units::{self, Manager};
use crate::ctl::{Cli, default_socket};
use crate::wire::token::JoinToken;

/// Starts the client if need be; the domain, when the device has joined that token's server already.
pub(in crate::ctl) async fn started(
    cli: &mut Cli,
    token: &JoinToken,
    consent: Consent,
) -> Result<Option<String>, SetupError> {
    let manager = Manager::current();
    let running = answers(cli).await;
    let managed = manager.has(units::CLIENT).await;
    let by_hand = "wormkeyd client &".to_owned();
    if !managed && !running {
        return Err(SetupError::NoUnit {
            unit: units::CLIENT,
            line: by_hand,
        });
    }
    let joined = joined(cli, token).await;
    cli.hint("this will:");
    if managed {
        cli.hint(&format!("  run {}", manager.line(units::CLIENT, !running)));
    } else {
        cli.hint("  leave the client as it runs: systemd has no unit for it");
    }
    match &joined {
        Some(domain) => cli.hint(&format!("  not join {domain} again")),
        None => cli.hint(&format!(
            "  join the server at {}",
            token.addresses.join(", ")
        )),
    }
    confirm(&mut cli.io, consent.yes)?;
    if managed {
        manager.enable(units::CLIENT, !running).await?;
    }
    if !running {
        reached(cli).await?;
    }
    if managed && manager == Manager::Person {
        cli.hint("it runs while you are logged in; to keep it after that: loginctl enable-linger");
    }
    // A client that was just started knows more than one that did not run.
    match joined {
        None => Ok(self::joined(cli, token).await),
        known => Ok(known),
    }
}

/// The domain of the token's server, when this device belongs to it.
async fn joined(cli: &Cli, token: &JoinToken) -> Option<String> {
    let status: ClientStatusJson = cli.api.get("/v1/status").await.ok()?;
    let domain = status.domain.filter(|_| status.joined)?;
    let host = |address: &String| address.rsplit_once(':').map(|(host, _)| host.to_owned());
    let is_same = token.addresses.iter().any(|address| {
        Some(address) == status.link.address.as_ref() || host(address).as_ref() == Some(&domain)
    });
    is_same.then_some(domain)
}

/// Waits for the socket, which may be another one than before: a person's own is known by being there.
async fn reached(cli: &mut Cli) -> Result<(), SetupError> {
    let is_default = cli.api.socket() == default_socket(cli.role, &cli.io);
    let asked = async {
        loop {
            if is_default {
                cli.api = ApiClient::new(default_socket(cli.role, &cli.io));
            }
            if answers(cli).await {
                return;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    if tokio::time::timeout(ANSWER_WITHIN, asked).await.is_ok() {
        return Ok(());
    }
    Err(SetupError::Silent {
        unit: units::CLIENT,
        socket: cli.api.socket().to_owned(),
    })
}
