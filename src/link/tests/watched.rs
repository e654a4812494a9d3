//! The watch and the link together, as the client role joins them: outages without a hint, a server
//! that has forgotten the link, and one that is only slow.

use std::pin::Pin as Pinned;
use std::sync::atomic::AtomicUsize;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::super::dialer::Connected;
use super::roaming::{eat, feed, stream, until_more};
use super::*;
use crate::engine::watch::{Duty, Hint, RaceNews, Watch, WatchSettings};
use crate::names::Pin;
use crate::tasks::Tasks;
use crate::times::Clock;

type Dialling = Pinned<Box<dyn Future<Output = Result<Connected, LinkError>> + Send>>;

/// What the role owns beside the watch.
struct Keeper {
    dialer: Arc<Dialer>,
    address: String,
    pins: Vec<Pin>,
    link: Link,
    watch: Watch,
    race: Option<Dialling>,
    won: Option<Connected>,
    /// What was done, and when.
    done: Vec<(Duration, Duty)>,
    start: Instant,
}

impl Keeper {
    async fn new(world: &World) -> (Self, Ends) {
        let dialer = Arc::new(world.dialer());
        let ends = world.link_by(&dialer).await;
        let settings = WatchSettings {
            keep_alive: world.settings.keep_alive,
            fallback: false,
        };
        let keeper = Self {
            dialer,
            address: world.address.to_string(),
            pins: vec![world.key.pin()],
            link: ends.client.clone(),
            watch: Watch::new(Clock.now().monotonic, settings),
            race: None,
            won: None,
            done: Vec::new(),
            start: Instant::now(),
        };
        (keeper, ends)
    }

    async fn hint(&mut self, hint: Hint) {
        self.feel();
        self.watch.handle_hint(Clock.now().monotonic, hint);
        self.obey().await;
    }

    fn feel(&mut self) {
        let pulse = self.link.pulse().expect("a client's link has one");
        self.watch.handle_pulse(Clock.now().monotonic, pulse);
    }

    async fn obey(&mut self) {
        while let Some(duty) = self.watch.poll_duty() {
            self.done.push((self.start.elapsed(), duty));
            match duty {
                Duty::Probe => self.link.kick(),
                Duty::RebindAndKick | Duty::KickOld => self.link.rebind().unwrap(),
                Duty::Race => self.race = Some(self.dial()),
                Duty::DropNew => (self.race, self.won) = (None, None),
                Duty::TakeNew => {
                    let won = self.won.take().expect("it was won");
                    self.link = won.greet(hello()).await.unwrap().0;
                }
                other => panic!("there is no fallback here: {other:?}"),
            }
        }
    }

    fn dial(&self) -> Dialling {
        let (dialer, address) = (Arc::clone(&self.dialer), self.address.clone());
        let pins = self.pins.clone();
        Box::pin(async move { dialer.connect(&address, &pins).await })
    }

    /// Keeps the link until another one is taken.
    async fn run(&mut self) {
        while let Some(at) = self.watch.poll_timeout() {
            let race = async {
                match &mut self.race {
                    Some(race) => race.await,
                    None => std::future::pending().await,
                }
            };
            let raced = tokio::select! {
                biased;
                raced = race => Some(raced),
                () = sleep_until(Instant::from_std(at)) => None,
            };
            self.feel();
            let now = Clock.now().monotonic;
            match raced {
                None => self.watch.handle_timeout(now),
                Some(raced) => {
                    self.race = None;
                    let news = match raced {
                        Ok(won) => {
                            let rtt = won.rtt();
                            self.won = Some(won);
                            RaceNews::Won { rtt }
                        }
                        Err(_) => RaceNews::Lost { random: u64::MAX },
                    };
                    self.watch.handle_race(now, news);
                }
            }
            self.obey().await;
        }
    }
}

/// Accepts whoever comes, and keeps their links.
fn accept_all(world: &World, tasks: &Tasks) {
    let listener = Arc::clone(&world.listener);
    let stop = tasks.stopped();
    tasks.spawn("accept", async move {
        let mut kept = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                arriving = listener.accept() => kept.push(arriving.unwrap().establish().await),
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn without_any_hint_bytes_flow_within_four_seconds_of_the_networks_return() {
    for length in [60, 3600] {
        for download in [true, false] {
            let world = World::new();
            let (mut keeper, ends) = Keeper::new(&world).await;
            let tasks = Tasks::new();
            accept_all(&world, &tasks);
            let (mut server, mut client) = stream(&ends).await;
            let count = Arc::new(AtomicUsize::new(0));
            let counting = Arc::clone(&count);
            let stop = tasks.stopped();
            tasks.spawn("transfer", async move {
                let (from, to) = if download {
                    (&mut server, &mut client)
                } else {
                    (&mut client, &mut server)
                };
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = feed(&mut from.0, usize::MAX / 2) => {}
                    end = eat(&mut to.1, &counting) => panic!("it has no end: {end:?}"),
                }
            });
            let outage = async {
                sleep(Duration::from_millis(70)).await;
                world.network.set_down(true);
                sleep(secs(length)).await;
                world.network.set_down(false);
                until_more(&count, secs(60)).await
            };
            let took = tokio::select! {
                biased;
                took = outage => took,
                () = keeper.run() => panic!("the link was given up: {:?}", keeper.done),
            };
            let races = keeper.done.iter().filter(|(_, d)| *d == Duty::Race).count();
            println!("{length} s, download {download}: {took:?}, {races} races");
            // An hour into an outage the kicks come less often.
            let limit = if length > 300 { secs(12) } else { secs(4) };
            assert!(took <= limit, "{length} s, download {download}: {took:?}");
            tasks.shutdown(secs(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_on_a_working_network_disturbs_nothing() {
    let world = World::new();
    let (mut keeper, _ends) = Keeper::new(&world).await;
    keeper.hint(Hint::NetworkChanged).await;
    assert!(timeout(secs(60), keeper.run()).await.is_err());
    let duties: Vec<_> = keeper.done.iter().map(|(_, duty)| *duty).collect();
    assert_eq!(duties, [Duty::RebindAndKick]);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_the_server_has_forgotten_is_replaced_soon_after_a_hint() {
    let mut world = World::new();
    let (mut keeper, _ends) = Keeper::new(&world).await;
    let old = keeper.link.clone();
    // With another key it sends no resets for the old link either: nothing tells, but silence.
    world.key = Identity::ephemeral().unwrap();
    world.restart();
    keeper.pins = vec![world.key.pin()];
    let tasks = Tasks::new();
    accept_all(&world, &tasks);
    let start = Instant::now();
    keeper.hint(Hint::NetworkChanged).await;
    timeout(secs(60), keeper.run())
        .await
        .expect("it is replaced");
    let took = start.elapsed();
    println!("replaced after {took:?}");
    assert!(took <= Duration::from_millis(3500), "{took:?}");
    let mut duties: Vec<_> = keeper.done.iter().map(|(_, duty)| *duty).collect();
    duties.retain(|duty| *duty != Duty::Probe);
    assert!(
        duties.ends_with(&[Duty::Race, Duty::KickOld, Duty::TakeNew]),
        "{duties:?}"
    );
    assert_ne!(keeper.link.raw().stable_id(), old.raw().stable_id());
    assert_eq!(keeper.link.pin(), world.key.pin());
    tasks.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_comes_back_during_the_race_is_kept() {
    for down_for in [3010, 3600, 4500] {
        let world = World::new();
        let (mut keeper, _ends) = Keeper::new(&world).await;
        let tasks = Tasks::new();
        accept_all(&world, &tasks);
        world.network.set_down(true);
        keeper.hint(Hint::NetworkChanged).await;
        let back = async {
            sleep(Duration::from_millis(down_for)).await;
            world.network.set_down(false);
            sleep(secs(30)).await;
        };
        tokio::select! {
            biased;
            () = back => {}
            () = keeper.run() => panic!("the link was given up: {:?}", keeper.done),
        }
        let duties: Vec<_> = keeper.done.iter().map(|(_, duty)| *duty).collect();
        let races = duties.iter().filter(|duty| **duty == Duty::Race).count();
        assert_eq!(races, 1, "{duties:?}");
        assert!(duties.contains(&Duty::DropNew), "{duties:?}");
        assert!(keeper.race.is_none() && keeper.won.is_none());
        assert!(keeper.link.raw().close_reason().is_none());
        tasks.shutdown(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_greeted_is_no_link_to_the_server() {
    let world = World::new();
    let dialer = world.dialer();
    let pins = [world.key.pin()];
    let address = world.address.to_string();
    let unasked = async {
        let connected = dialer.connect(&address, &pins).await.unwrap();
        sleep(secs(1)).await;
        assert!(connected.rtt() > Duration::ZERO);
    };
    let ((), established) = both(unasked, world.establish()).await;
    assert!(established.is_err());
}
