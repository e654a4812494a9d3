//! `drain` and `server drain`: asks a daemon to end in order, and stays until it has.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::Cli;
use super::error::{CtlError, Role};
use crate::admin::drain::{DrainAsk, DrainJson};
use crate::admin::{ApiClient, CallError};
use crate::times::parse_duration;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// The grace of either role when none is asked for, at most.
const GRACE: Duration = Duration::from_secs(30);
/// What a daemon takes to end once its drain is over, and some.
const END_WITHIN: Duration = Duration::from_secs(30);

/// How it ended.
#[derive(Serialize)]
struct Done {
    /// Whether every visit came to its end by itself.
    finished: bool,
    /// Those that were seen going on when it began.
    visits: u64,
}

pub(super) async fn drain(cli: &mut Cli, grace: Option<String>) -> Result<(), CtlError> {
    right_daemon(cli).await?;
    let before = look(&cli.api).await.map_err(|err| cli.failed(err))?;
    let finished = watched(cli, grace, before.visits).await?;
    gone(&cli.api).await;
    if cli.json {
        return cli.document(&Done {
            finished,
            visits: before.visits,
        });
    }
    cli.line(if finished {
        "drained: all visits came to their end, and the daemon has ended"
    } else {
        "ended: visits that were still going on were cut"
    })
}

/// Both roles would take this call, and only one of them was meant.
async fn right_daemon(cli: &Cli) -> Result<(), CtlError> {
    let status: Value = cli
        .api
        .get("/v1/status")
        .await
        .map_err(|err| cli.failed(err))?;
    let found = if status.get("joined").is_some() {
        Role::Client
    } else {
        Role::Server
    };
    if found == cli.role {
        return Ok(());
    }
    Err(CtlError::OtherDaemon {
        socket: cli.api.socket().to_owned(),
        found,
    })
}

/// Asks, and tells how many visits are left until the answer is there: whether all finished.
async fn watched(cli: &mut Cli, grace: Option<String>, visits: u64) -> Result<bool, CtlError> {
    let longest = grace.as_deref().and_then(|text| parse_duration(text).ok());
    let deadline = longest.unwrap_or(GRACE) + END_WITHIN;
    let (asker, watcher) = (cli.api.with_deadline(deadline), cli.api.clone());
    let ask = DrainAsk { grace };
    let asked = asker.post::<_, DrainJson>("/v1/drain", &ask);
    tokio::pin!(asked);
    tell(cli, visits);
    let mut told = visits;
    loop {
        let looked = async {
            tokio::time::sleep(LOOK).await;
            look(&watcher).await
        };
        tokio::select! {
            biased;
            answer = &mut asked => return match answer {
                Ok((_, done)) => Ok(done.finished == Some(true)),
                // It ended without another word: somebody did not want to wait.
                Err(CallError::Broken { .. }) => Ok(false),
                Err(err) => Err(cli.failed(err)),
            },
            // A look that fails says nothing; the answer will.
            looked = looked => if let Ok(now) = looked && now.visits != told {
                told = now.visits;
                tell(cli, told);
            },
        }
    }
}

fn tell(cli: &mut Cli, visits: u64) {
    let left = match visits {
        0 => "no visits left".to_owned(),
        1 => "1 visit left".to_owned(),
        visits => format!("{visits} visits left"),
    };
    cli.hint(&format!("draining: {left}"));
}

async fn look(api: &ApiClient) -> Result<DrainJson, CallError> {
    api.get("/v1/drain").await
}

/// Waits, within bounds, until nobody answers any more.
async fn gone(api: &ApiClient) {
    let silent = async {
        while look(api).await.is_ok() {
            tokio::time::sleep(LOOK / 5).await;
        }
    };
    let _ = tokio::time::timeout(END_WITHIN, silent).await;
}
