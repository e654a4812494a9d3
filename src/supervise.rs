//! What every role does around its work: its name and state directory, signals, systemd's readiness, an
//! orderly end. Knows no role.

mod drains;
mod inherited;
mod pulse;

use std::convert::Infallible;
use std::future::Future;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use drains::Drains;
pub(crate) use inherited::{Inherited, keep_socket};
pub(crate) use pulse::{Vital, count, keep, roughly};

/// Which build this is.
pub(crate) const SOFTWARE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The same with its name.
pub(crate) const SOFTWARE: &str = concat!("wormkeyd ", env!("CARGO_PKG_VERSION"));

/// How long visits in flight have to finish when the server drains; a client that has dialled anew
/// keeps the old link as long.
pub(crate) const SERVER_GRACE: Duration = Duration::from_secs(30);

/// What systemd is asked for beyond a drain. The end asks for its own time once it begins.
const UNTIL_THE_END: Duration = Duration::from_secs(15);

/// What the end is given beyond the patience of its parts.
const SPARE: Duration = Duration::from_secs(5);

/// How often systemd is asked for more time during a drain. It is told in a number that ends at 71 minutes, and a
/// daemon that hangs should not be let be for a day.
const MORE_TIME_EVERY: Duration = Duration::from_secs(60);

/// Why a role ends that nobody has asked to.
const FAILED: &str = "a part without which there is no service has ended";

/// Makes the state directory for its owner alone; one that is there is left as its administrator made it.
pub(crate) fn prepare_state_dir(dir: &Path) -> anyhow::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("making the state directory {}", dir.display()))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("closing the state directory {} to others", dir.display()))
}

/// Runs until SIGTERM, SIGINT or an ask at the admin socket, then drains within the grace given or asked
/// for; a second one ends the drain at once. SIGHUP reloads. An error, also in a drain, when a critical task
/// ended by itself.
pub(crate) async fn until_stopped<R, RF, D, DF>(
    failed: &CancellationToken,
    drains: &Drains,
    reload: R,
    (grace, drain): (Duration, D),
) -> anyhow::Result<()>
where
    R: Fn() -> RF,
    RF: Future<Output = ()>,
    D: FnOnce(Duration) -> DF,
    DF: Future<Output = bool>,
{
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    drains.heed();
    notify(&[sd_notify::NotifyState::Ready]);
    let grace = tokio::select! {
        biased;
        // Deaf is worse than dead: systemd starts a dead one again.
        () = failed.cancelled() => {
            notify(&[sd_notify::NotifyState::Stopping]);
            bail!(FAILED);
        }
        _ = terminate.recv() => grace,
        _ = interrupt.recv() => grace,
        asked = drains.asked() => asked.unwrap_or(grace),
        never = reload_on(&mut hangup, reload) => match never {},
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    info!(?grace, "stopping: draining");
    drains.begin(grace);
    let patient = ask_for_time(grace, more_time);
    let finished = tokio::select! {
        biased;
        // What is broken finishes no visits.
        () = failed.cancelled() => {
            drains.end(false);
            bail!(FAILED);
        }
        _ = terminate.recv() => at_once("signal"),
        _ = interrupt.recv() => at_once("signal"),
        _ = drains.asked() => at_once("ask"),
        never = patient => match never {},
        finished = drain(grace) => finished,
    };
    drains.end(finished);
    Ok(())
}

/// Reloads whenever it is asked to, one after the other; what is asked for meanwhile is done once, afterwards. May
/// be dropped half way, by an end: the next start reads the whole configuration anyway.
async fn reload_on<R, RF>(hangup: &mut Signal, reload: R) -> Infallible
where
    R: Fn() -> RF,
    RF: Future<Output = ()>,
{
    loop {
        hangup.recv().await;
        let reloading = sd_notify::NotifyState::Reloading;
        match sd_notify::NotifyState::monotonic_usec_now() {
            Ok(stamp) => notify(&[reloading, stamp]),
            Err(_) => notify(&[reloading]),
        }
        reload().await;
        notify(&[sd_notify::NotifyState::Ready]);
    }
}

/// systemd would kill us at its own time, which knows nothing of a grace that somebody asked for: it is asked for
/// more as long as the drain takes.
async fn ask_for_time(grace: Duration, mut tell: impl FnMut(Duration)) -> Infallible {
    let mut left = grace;
    loop {
        // Until two more turns are over, since one may come late.
        tell(left.min(MORE_TIME_EVERY * 2) + UNTIL_THE_END);
        tokio::time::sleep(MORE_TIME_EVERY).await;
        left = left.saturating_sub(MORE_TIME_EVERY);
    }
}

/// How long the parts of a role may take to their ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Until the other ends of links are told.
    pub(crate) links: Duration,
    /// Until all tasks have ended.
    pub(crate) tasks: Duration,
    /// Until the last of the state is on disk. What was acknowledged is there already.
    pub(crate) store: Duration,
}

impl Patience {
    /// Has systemd wait until the parts have ended, in the worst case one after the other: what it was asked for
    /// before may be used up by a drain.
    pub(crate) fn tell_systemd(self) {
        more_time(self.links + self.tasks + self.store + SPARE);
    }

    /// After a part has failed, less than a second in all: what is broken may never end by itself, and
    /// visitors wait for whoever starts the role again.
    pub(crate) const FAILED: Self = Self {
        links: Duration::from_millis(200),
        tasks: Duration::from_millis(300),
        store: Duration::from_millis(200),
    };
}

/// What was begun is not waited for any more.
fn at_once(by: &'static str) -> bool {
    warn!(by, "asked a second time, ending at once");
    false
}

/// Asks systemd, where there is one, to wait this long from now. It never waits less than it would have.
fn more_time(patience: Duration) {
    let patience = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
    notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(patience)]);
}

/// Tells systemd, where there is one.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        warn!(%err, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds that systemd is asked for, each time, while a drain of this grace goes on for `lasts`.
    async fn asked(grace: u64, lasts: u64) -> Vec<u64> {
        let mut told = Vec::new();
        let asking = ask_for_time(Duration::from_secs(grace), |more| told.push(more.as_secs()));
        let _ = tokio::time::timeout(Duration::from_secs(lasts), asking).await;
        told
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_of_a_day_asks_systemd_for_time_until_it_is_over() {
        let told = asked(86_400, 86_399).await;
        assert_eq!(told.len(), 1440);
        assert!(told[..1438].iter().all(|more| *more == 135));
        assert_eq!(told[1438..], [135, 75]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_in_a_drain_ends_it() {
        let (failed, drains) = (CancellationToken::new(), Drains::new());
        let grace = Duration::from_secs(3600);
        let endless = |_| std::future::pending::<bool>();
        let running = until_stopped(&failed, &drains, || async {}, (grace, endless));
        let fails = async {
            tokio::join!(drains.ask(None), async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                failed.cancel();
            })
        };
        let ended = async { tokio::join!(running, fails) };
        let (ended, (heeded, ())) = tokio::time::timeout(grace / 2, ended).await.unwrap();
        assert!(heeded);
        assert_eq!(ended.unwrap_err().to_string(), FAILED);
    }

    /// How it ends when `what` happens while a reload hangs. The drain is over at once.
    async fn in_a_reload(what: impl AsyncFn(&CancellationToken, &Drains)) -> anyhow::Result<()> {
        let (failed, drains) = (CancellationToken::new(), Drains::new());
        let began = tokio::sync::Notify::new();
        let hangs = || async {
            began.notify_one();
            std::future::pending().await
        };
        let drain = |_| async { true };
        let running = until_stopped(&failed, &drains, hangs, (Duration::ZERO, drain));
        let happens = async {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGHUP).unwrap();
            began.notified().await;
            what(&failed, &drains).await;
        };
        let ended = async { tokio::join!(running, happens).0 };
        (tokio::time::timeout(Duration::from_secs(20), ended).await).expect("it ends in the reload")
    }

    #[tokio::test]
    async fn a_reload_that_hangs_keeps_nobody_from_ending_it() {
        let ended = in_a_reload(async |failed, _| failed.cancel()).await;
        assert_eq!(ended.unwrap_err().to_string(), FAILED);
        let ended = in_a_reload(async |_, drains| assert!(drains.ask(None).await)).await;
        ended.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_drain_asks_for_no_more_than_it_needs() {
        assert_eq!(asked(30, 29).await, [45]);
    }
}
