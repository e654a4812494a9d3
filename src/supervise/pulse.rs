//! What systemd hears of a daemon that runs: that it lives, for the watchdog, and one line on how it
//! stands. Not whether it lives: that is the role's to find out, through [`Vital`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::tasks::Tasks;
use crate::times::{Clock, show_duration};

/// Between two looks at what the line says.
const REFRESH: Duration = Duration::from_secs(10);

/// Visits are counted over this long.
const RATE_OVER: Duration = Duration::from_secs(60);

/// A role, as the watchdog and the status line see it.
pub(crate) trait Vital: Send + Sync + 'static {
    /// Resolves when every part without which there is no service has answered; waits as long as one
    /// does not, and is dropped then.
    fn answers(&self) -> impl Future<Output = bool> + Send;
    /// How it stands; `rate` is told at the end where there is something to tell.
    fn line(&self) -> String;
    /// Visits since the start.
    fn visits_total(&self) -> u64;
}

/// Keeps systemd informed until `tasks` stops; nothing where there is no systemd.
pub(crate) fn keep<V: Vital>(vital: Arc<V>, tasks: &Tasks) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Some(patience) = sd_notify::watchdog_enabled() {
        let (vital, stop) = (Arc::clone(&vital), tasks.stopped());
        tasks.spawn("watchdog", async move {
            feed(&*vital, patience, &stop, || tell(&[NotifyState::Watchdog])).await;
        });
    }
    let stop = tasks.stopped();
    tasks.spawn("status-line", async move {
        inform(&*vital, &stop, |line| tell(&[NotifyState::Status(line)])).await;
    });
}

/// Says that it lives for as long as it does. Asks four times within the patience of systemd, and the
/// next time follows at once on a question that got no answer, so that late turns are no death.
async fn feed<V: Vital>(
    vital: &V,
    patience: Duration,
    stop: &CancellationToken,
    mut alive: impl FnMut(),
) {
    let turn = patience / 4;
    let mut turns = tokio::time::interval(turn);
    // A process that was stopped for an hour need not ask for an hour's worth of turns.
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well = true;
    loop {
        let asked = async {
            turns.tick().await;
            tokio::time::timeout(turn, vital.answers()).await == Ok(true)
        };
        let answered = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            answered = asked => answered,
        };
        if answered {
            alive();
        } else if well {
            error!(after = ?turn, "a part of the daemon does not answer, the watchdog is not fed");
        }
        well = answered;
    }
}

/// Tells the line whenever it says something new.
async fn inform<V: Vital>(vital: &V, stop: &CancellationToken, mut say: impl FnMut(&str)) {
    let (mut rate, mut said) = (Rate::default(), String::new());
    loop {
        let now = Clock.now().monotonic;
        let line = with_rate(vital.line(), rate.per_minute(now, vital.visits_total()));
        if line != said {
            say(&line);
            said = line;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REFRESH) => {}
        }
    }
}

fn with_rate(line: String, per_minute: u64) -> String {
    match per_minute {
        0 => line,
        1 => format!("{line} · 1 visit/min"),
        many => format!("{line} · {many} visits/min"),
    }
}

/// Totals of the last minute.
#[derive(Debug, Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Notes a total; how many came in the last minute.
    fn per_minute(&mut self, now: Instant, total: u64) -> u64 {
        self.0.push_back((now, total));
        while (self.0.get(1)).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            self.0.pop_front();
        }
        let first = self.0.front().map_or(total, |(_, first)| *first);
        total.saturating_sub(first)
    }
}

/// `3 tunnels open`, `1 link`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    let what = if number == 1 { one } else { many };
    format!("{number} {what}")
}

/// The largest unit alone, so that the line does not change with every second.
pub(crate) fn roughly(duration: Duration) -> String {
    let shown = show_duration(duration);
    let first = shown.split(' ').next().unwrap_or_default();
    if duration < Duration::from_secs(60) {
        "less than a minute".to_owned()
    } else {
        first.to_owned()
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // It comes often, and a systemd that is gone for good is noticed otherwise.
    if let Err(err) = sd_notify::notify(states) {
        debug!(%err, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[derive(Default)]
    struct Fake {
        hangs: AtomicBool,
        fails: AtomicBool,
        visits: AtomicU64,
    }

    impl Vital for Fake {
        async fn answers(&self) -> bool {
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            !self.fails.load(Ordering::Relaxed)
        }

        fn line(&self) -> String {
            "3 tunnels open".to_owned()
        }

        fn visits_total(&self) -> u64 {
            self.visits.load(Ordering::Relaxed)
        }
    }

    /// How often it was fed within these many seconds.
    async fn fed(fake: &Fake, secs: u64) -> u32 {
        let (stop, times) = (CancellationToken::new(), Cell::new(0));
        let feeding = feed(fake, PATIENCE, &stop, || {
            times.set(times.get() + 1);
        });
        let _ = tokio::time::timeout(Duration::from_secs(secs), feeding).await;
        times.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_lives_feeds_the_watchdog_within_its_patience() {
        assert_eq!(fed(&Fake::default(), 99).await, 14);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_or_fails_stops_the_feeding_and_a_part_that_is_back_resumes_it() {
        let fake = Fake::default();
        fake.hangs.store(true, Ordering::Relaxed);
        assert_eq!(fed(&fake, 300).await, 0);
        fake.hangs.store(false, Ordering::Relaxed);
        fake.fails.store(true, Ordering::Relaxed);
        assert_eq!(fed(&fake, 300).await, 0);
        fake.fails.store(false, Ordering::Relaxed);
        assert_eq!(fed(&fake, 7).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_for_a_turn_is_fed_before_the_patience_is_over() {
        for hangs_at in 0..30 {
            let (fake, stop) = (Fake::default(), CancellationToken::new());
            let (last, longest) = (Cell::new(Clock.now().monotonic), Cell::new(Duration::ZERO));
            let feeding = feed(&fake, PATIENCE, &stop, || {
                let now = Clock.now().monotonic;
                longest.set(longest.get().max(now - last.replace(now)));
            });
            let hanging = async {
                tokio::time::sleep(Duration::from_secs(hangs_at)).await;
                fake.hangs.store(true, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(11)).await;
                fake.hangs.store(false, Ordering::Relaxed);
                tokio::time::sleep(PATIENCE * 2).await;
                stop.cancel();
            };
            tokio::join!(feeding, hanging);
            let longest = longest.get();
            assert!(longest > PATIENCE / 5, "{longest:?}");
            assert!(
                longest < PATIENCE,
                "hung at {hangs_at} s, unfed for {longest:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_told_when_it_says_something_new_and_only_then() {
        let (fake, stop) = (Fake::default(), CancellationToken::new());
        let said = RefCell::new(Vec::new());
        let busy = async {
            tokio::time::sleep(Duration::from_secs(25)).await;
            fake.visits.store(41, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(600)).await;
            stop.cancel();
        };
        let informing = inform(&fake, &stop, |line| said.borrow_mut().push(line.to_owned()));
        tokio::join!(informing, busy);
        let expected = [
            "3 tunnels open",
            "3 tunnels open · 41 visits/min",
            "3 tunnels open",
        ];
        assert_eq!(said.into_inner(), expected);
    }

    #[test]
    fn times_in_the_line_are_rough() {
        assert_eq!(roughly(Duration::from_secs(59)), "less than a minute");
        assert_eq!(roughly(Duration::from_secs(2 * 86_400 + 7200)), "2d");
    }
}
