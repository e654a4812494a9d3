//! Keeps the database from growing without end: what is old enough goes, a little at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::config::{KeepConfig, TunnelDefaults};
use crate::store::{Old, ServerStore, StoreError};
use crate::times::{Clock, WallTime};

use super::backend::Backend;

/// After a start there is more to do than this.
const FIRST: Duration = Duration::from_secs(60);
/// Between two looks for what has grown old.
const EVERY: Duration = Duration::from_secs(3600);
/// Between two batches: the writer is everybody's.
const PAUSE: Duration = Duration::from_millis(50);

/// Prunes until the stop signal, as the configuration in force says.
pub(super) async fn prune(store: ServerStore, backend: Arc<Backend>, stop: CancellationToken) {
    let mut wait = FIRST;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = EVERY,
        }
        let what = backend.config(|config| old(Clock.now().wall, &config.keep, &config.tunnels));
        let pruned = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            pruned = prune_all(&store, what) => pruned,
        };
        match pruned {
            Ok(0 | 1) => {}
            Ok(batches) => info!(batches, "old rows pruned"),
            // The writer has told of it, and the next look tries again.
            Err(err) => debug!(%err, "old rows not pruned"),
        }
    }
}

/// Gives the number of commits that it took.
async fn prune_all(store: &ServerStore, what: Old) -> Result<usize, StoreError> {
    let mut batches = 1;
    while store.prune(what).await? {
        tokio::time::sleep(PAUSE).await;
        batches += 1;
    }
    Ok(batches)
}

/// What is old enough now. A name's quarantine is never cut short.
fn old(now: WallTime, keep: &KeepConfig, tunnels: &TunnelDefaults) -> Old {
    let before = |ago: Duration| {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        WallTime::from_millis(now.as_millis().saturating_sub(ago))
    };
    Old {
        ended: keep
            .ended
            .map(|kept| before(kept.saturating_add(tunnels.quarantine))),
        audit: keep.audit.map(before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_tunnels_are_kept_for_their_quarantine_and_some_time_after() {
        let day = Duration::from_secs(86_400);
        let now = WallTime::from_millis(0).plus(1000 * day);
        let tunnels = TunnelDefaults {
            quarantine: 7 * day,
            ..TunnelDefaults::default()
        };
        let keep = KeepConfig {
            ended: Some(30 * day),
            audit: None,
        };
        let want = Old {
            ended: Some(WallTime::from_millis(0).plus(963 * day)),
            audit: None,
        };
        assert_eq!(old(now, &keep, &tunnels), want);
        let never = KeepConfig {
            ended: None,
            audit: Some(400 * day),
        };
        let want = Old {
            ended: None,
            audit: Some(WallTime::from_millis(0).plus(600 * day)),
        };
        assert_eq!(old(now, &never, &tunnels), want);
    }
}
