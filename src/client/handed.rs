//! Joining by a token that systemd hands over (`LoadCredential=join-token:…`), so that a machine joins by
//! itself at its first start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tracing::{error, warn};

use super::backend::Backend;
use crate::admin::types::JoinAsk;
use crate::admin::{Caller, ClientBackend as _};
use crate::codes::Code;
use crate::secret::{Secret, credential};
use crate::tasks::Tasks;

/// Between two tries while the server cannot be reached.
const AGAIN: Duration = Duration::from_secs(30);

/// The token, if there is one.
pub(super) fn token() -> anyhow::Result<Option<Secret<String>>> {
    let handed = credential("join-token").context("reading the credential join-token")?;
    let Some(bytes) = handed else {
        return Ok(None);
    };
    let text =
        std::str::from_utf8(bytes.expose()).context("the credential join-token is no text")?;
    Ok(Some(Secret::new(text.trim().to_owned())))
}

/// Joins with it unless the device has joined; tries as long as the server cannot be reached.
pub(super) fn join(backend: Arc<Backend>, token: Secret<String>, tasks: &Tasks) {
    let stop = tasks.stopped();
    tasks.spawn("join-token", async move {
        let caller = Caller {
            uid: nix::unistd::geteuid().as_raw(),
            pid: None,
        };
        loop {
            let ask = JoinAsk {
                token: token.expose().clone(),
                replace: false,
            };
            let joining = backend.join(caller, ask);
            let joined = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                joined = joining => joined,
            };
            let Err(err) = joined else { return };
            match err.code {
                // At every start but the first.
                Code::AlreadyJoined => return,
                Code::ServerUnreachable | Code::TimedOut | Code::Overloaded | Code::Draining => {
                    warn!(%err, retry_in = ?AGAIN, "not joined yet");
                }
                _ => return error!(%err, "the join token that was handed over does not serve"),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    });
}
