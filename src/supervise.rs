//! What every role does around its work: signals, systemd's readiness, an orderly end. Knows no role.

use std::future::Future;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Runs until SIGTERM or SIGINT, then drains; a second one ends the drain at once. SIGHUP reloads.
/// An error when a critical task ended by itself.
pub(crate) async fn until_stopped<R, RF, D, DF>(
    failed: &CancellationToken,
    reload: R,
    drain: D,
) -> anyhow::Result<()>
where
    R: Fn() -> RF,
    RF: Future<Output = ()>,
    D: FnOnce() -> DF,
    DF: Future<Output = ()>,
{
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            biased;
            // Deaf is worse than dead: systemd starts a dead one again.
            () = failed.cancelled() => {
                notify(&[sd_notify::NotifyState::Stopping]);
                bail!("a part without which there is no service has ended");
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                let reloading = sd_notify::NotifyState::Reloading;
                match sd_notify::NotifyState::monotonic_usec_now() {
                    Ok(stamp) => notify(&[reloading, stamp]),
                    Err(_) => notify(&[reloading]),
                }
                reload().await;
                notify(&[sd_notify::NotifyState::Ready]);
            }
        }
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    info!("stopping: draining");
    tokio::select! {
        biased;
        _ = terminate.recv() => warn!("second signal, ending at once"),
        _ = interrupt.recv() => warn!("second signal, ending at once"),
        () = drain() => {}
    }
    Ok(())
}

/// Tells systemd, where there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        warn!(%err, "systemd was not told");
    }
}
