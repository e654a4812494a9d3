//! When the client asks itself: soon after a tunnel opened, a while after a new link, then rarely, one
//! tunnel at a time. Never while the link is silent: there is nothing to find out, and nobody to wake.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::engine::book::{BookRow, BookState};
use crate::names::{Kind, TunnelId};

use super::judge::BROKEN;
use super::{Client, NEWS, Probes};

/// After a tunnel opened: its row is everywhere by then.
const OPENED: Duration = Duration::from_millis(500);
/// After a new link: a restarted server has a thousand of them, so they spread.
const LINKED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// The most tunnels that one new link is worth.
const PER_LINK: usize = 8;
/// A tunnel that does not work is looked at more often, but for those who asked for less.
const WORRIED: Duration = Duration::from_secs(60);

/// Asks until the client stops.
pub(in crate::client) async fn keep_probing(client: Arc<Client>) {
    let stop = client.tasks.stopped();
    let mut every = client.probes.every.subscribe();
    let mut plan = Plan::new(*every.borrow_and_update());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = every.changed() => plan = Plan::new(*every.borrow_and_update()),
            () = client.probes.called.notified() => plan.hear(&client.probes),
            () = due(plan.due()) => {
                let tunnels = plan.take(&client, Instant::now());
                let round = ask_all(&client, &tunnels);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = round => {}
                }
                plan.settle(client.worried());
            }
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn ask_all(client: &Client, tunnels: &[TunnelId]) {
    for id in tunnels {
        client.probe(*id).await;
    }
}

/// What is to be asked next, and when.
struct Plan {
    every: Option<Duration>,
    opened: Vec<TunnelId>,
    opened_at: Option<Instant>,
    linked_at: Option<Instant>,
    round_at: Option<Instant>,
}

impl Plan {
    fn new(every: Option<Duration>) -> Self {
        Self {
            every,
            opened: Vec::new(),
            opened_at: None,
            linked_at: None,
            round_at: every.map(|every| Instant::now() + spread(every)),
        }
    }

    fn hear(&mut self, probes: &Probes) {
        let news = std::mem::take(&mut *probes.news());
        if self.every.is_none() {
            return;
        }
        if !news.opened.is_empty() {
            self.opened.extend(news.opened);
            self.opened.truncate(NEWS);
            self.opened_at.get_or_insert(Instant::now() + OPENED);
        }
        if news.linked {
            let (least, most) = LINKED;
            self.linked_at = Some(Instant::now() + least + part_of(most - least));
        }
    }

    fn due(&self) -> Option<Instant> {
        [self.opened_at, self.linked_at, self.round_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// The tunnels whose time has come.
    fn take(&mut self, client: &Client, now: Instant) -> Vec<TunnelId> {
        let come = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        let mut tunnels = Vec::new();
        if come(&mut self.opened_at) {
            tunnels.append(&mut self.opened);
        }
        let count = match (come(&mut self.linked_at), come(&mut self.round_at)) {
            (true, _) => PER_LINK,
            (false, true) => 1,
            (false, false) => 0,
        };
        if client.link_up() {
            let next = client.next_to_probe().into_iter().take(count);
            tunnels.extend(next);
        }
        tunnels.dedup();
        tunnels
    }

    fn settle(&mut self, worried: bool) {
        let Some(every) = self.every else { return };
        let pause = if worried { every.min(WORRIED) } else { every };
        let next = Instant::now() + spread(pause);
        let next = self.round_at.map_or(next, |at| at.min(next));
        self.round_at = Some(next);
    }
}

/// Somewhere from four fifths to six fifths of it.
fn spread(pause: Duration) -> Duration {
    pause * 4 / 5 + part_of(pause * 2 / 5)
}

/// A random part of it.
fn part_of(whole: Duration) -> Duration {
    let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(crate::client::random() % millis)
}

impl Client {
    /// Tunnels that can be asked for: those that do not work first, then by how long ago they were asked for.
    fn next_to_probe(&self) -> Vec<TunnelId> {
        let is_asked = |row: &BookRow| {
            row.state == BookState::Open && row.target.kind() == Kind::Http && row.url.is_some()
        };
        let rows = self.book.rows().into_iter().filter(is_asked);
        let mut tunnels: Vec<_> = rows
            .filter_map(|row| {
                let found = self.book.live(row.id)?.probe();
                let order = found.map(|probe| (probe.state != BROKEN, probe.at.as_millis()));
                Some((order, row.id))
            })
            .collect();
        tunnels.sort();
        tunnels.into_iter().map(|(_, id)| id).collect()
    }

    /// Whether some tunnel does not work.
    fn worried(&self) -> bool {
        let mut served = self.book.served().into_iter();
        served.any(|live| live.probe().is_some_and(|probe| probe.state == BROKEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn probes() -> Probes {
        Probes::new(None).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_no_probes_is_asked_nothing() {
        let (mut plan, probes) = (Plan::new(None), probes());
        probes.opened(TunnelId::from_bytes([1; 16]));
        probes.linked();
        plan.hear(&probes);
        plan.settle(true);
        assert_eq!(plan.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_opened_is_asked_for_soon_and_a_new_link_is_given_time() {
        for _ in 0..100 {
            let (mut plan, probes) = (Plan::new(Some(5 * MINUTE)), probes());
            let now = Instant::now();
            let rounds = plan.due().expect("a round") - now;
            assert!((4 * MINUTE..=6 * MINUTE).contains(&rounds), "{rounds:?}");
            probes.linked();
            plan.hear(&probes);
            let linked = plan.due().expect("a link") - now;
            assert!((LINKED.0..LINKED.1).contains(&linked), "{linked:?}");
            probes.opened(TunnelId::from_bytes([1; 16]));
            plan.hear(&probes);
            assert_eq!(plan.due(), Some(now + OPENED));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_does_not_work_is_looked_at_more_often() {
        let mut plan = Plan::new(Some(5 * MINUTE));
        plan.settle(true);
        let now = Instant::now();
        let next = plan.due().expect("a round") - now;
        assert!(next <= MINUTE * 6 / 5, "{next:?}");
        let mut rare = Plan::new(Some(60 * MINUTE));
        rare.round_at = None;
        rare.settle(false);
        let next = rare.due().expect("a round") - now;
        assert!(
            next >= 48 * MINUTE,
            "who asked for less is left in peace: {next:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tunnels_is_a_handful_of_questions() {
        let (mut plan, probes) = (Plan::new(Some(5 * MINUTE)), probes());
        for number in 0..200 {
            probes.opened(TunnelId::from_bytes([number; 16]));
        }
        plan.hear(&probes);
        assert_eq!(plan.opened.len(), NEWS);
    }
}
