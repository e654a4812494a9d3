//! `log-level` and `server log-level`: what is wanted of a daemon's log.

use super::Cli;
use super::error::CtlError;
use super::text::clean;
use crate::admin::log_level::{LogLevelAsk, LogLevelJson};

pub(super) async fn log_level(
    cli: &mut Cli,
    level: Option<String>,
    lasts: Option<String>,
) -> Result<(), CtlError> {
    const PATH: &str = "/v1/log-level";
    let answer: Result<LogLevelJson, _> = match level {
        None => cli.api.get(PATH).await,
        Some(level) => {
            let level = Some(level).filter(|level| level != "default");
            cli.api.put(PATH, &LogLevelAsk { level, lasts }).await
        }
    };
    let found = answer.map_err(|err| cli.failed(err))?;
    if cli.json {
        return cli.document(&found);
    }
    let level = clean(&found.level);
    match found.until {
        None => cli.line(&level),
        Some(until) => {
            let until = cli.times().near(until);
            let configured = clean(&found.configured);
            cli.line(&format!("{level}, until {until}; then {configured} again"))
        }
    }
}
