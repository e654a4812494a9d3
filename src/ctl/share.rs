//! `share`: makes, lists and withdraws share links.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Cli;
use super::args::ShareArgs;
use super::error::CtlError;
use super::text::{clean, table};
use crate::admin::ApiClient;
use crate::admin::types::{ShareJson, ShareLinkAsk, ShareLinkJson};

pub(super) async fn share(cli: &mut Cli, args: ShareArgs) -> Result<(), CtlError> {
    match (args.list, &args.revoke, args.expires) {
        (true, _, _) => list(cli, &args.tunnel).await,
        (_, Some(share), _) => revoke(cli, share).await,
        (_, None, expires) => {
            let ask = ShareLinkAsk {
                expires: expires.unwrap_or_default(),
                uses: args.uses,
                methods: args.methods,
                paths: args.paths,
            };
            make(cli, &args.tunnel, &ask).await
        }
    }
}

fn path_of(tunnel: &str) -> String {
    format!("{}/shares", ApiClient::path("/v1/tunnels/", tunnel))
}

async fn make(cli: &mut Cli, tunnel: &str, ask: &ShareLinkAsk) -> Result<(), CtlError> {
    let (_, link): (_, ShareLinkJson) = cli
        .api
        .post(&path_of(tunnel), ask)
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&link);
    }
    // Alone on standard output, so that it can be piped to where it is needed.
    cli.line(&clean(&link.url))?;
    let until = cli.times().near(link.expires_at);
    let whom = match ask.uses {
        None => "anybody who has it".to_owned(),
        Some(1) => "one visitor".to_owned(),
        Some(uses) => format!("{uses} visitors"),
    };
    cli.hint(&format!(
        "it works for {whom}, until {until}, and is not shown again"
    ));
    cli.hint(&format!(
        "withdraw it with: wormkeyctl share {} --revoke {}",
        clean(tunnel),
        clean(&link.id)
    ));
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Shares {
    shares: Vec<ShareJson>,
}

async fn list(cli: &mut Cli, tunnel: &str) -> Result<(), CtlError> {
    let found: Shares = cli
        .api
        .get(&path_of(tunnel))
        .await
        .map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&found);
    }
    if found.shares.is_empty() {
        cli.hint("no links that work");
        return Ok(());
    }
    let times = cli.times();
    let words = |list: &[String]| match list {
        [] => "all".to_owned(),
        list => list.join(" "),
    };
    let row = |share: &ShareJson| {
        let uses = share.uses_left;
        vec![
            times.near(share.expires_at),
            uses.map_or_else(|| "any".to_owned(), |uses| uses.to_string()),
            words(&share.methods),
            words(&share.paths),
            times.at(share.created_at),
            share.id.clone(),
        ]
    };
    let rows: Vec<_> = found.shares.iter().map(row).collect();
    let head = ["ENDS", "USES LEFT", "METHODS", "PATHS", "MADE", "ID"];
    let lines = table(&head, &rows, cli.style);
    cli.lines(&lines)
}

async fn revoke(cli: &mut Cli, share: &str) -> Result<(), CtlError> {
    let path = ApiClient::path("/v1/shares/", share);
    let answer: Value = cli.api.delete(&path).await.map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&answer);
    }
    cli.line(&format!("withdrew {}", clean(share)))
}
