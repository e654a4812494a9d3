//! Minds one link: does what [`Watch`] decides when it falls silent, or when the system says that the
//! network or the night has changed. Not the deciding, and not the conversation.

use std::pin::Pin;
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::engine::watch::{Duty, Hint, RaceNews, Watch, WatchSettings};
use crate::link::{Connected, Link};
use crate::times::Clock;

use super::keeper::{self, Failure};
use super::session::Session;
use super::{Client, random};

type Doing<T> = Option<Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>>;

/// The watch over a link, and what it has under way.
pub(super) struct Minder {
    client: Arc<Client>,
    link: Link,
    watch: Watch,
    /// A new connection on its way, that no tunnel knows of.
    race: Doing<Connected>,
    /// One that is there, while the old link has its last word.
    won: Option<Connected>,
    /// It becomes the link.
    taking: Doing<Box<Session>>,
}

/// What happened while nothing was to be done.
enum Step {
    Taken(Result<Box<Session>, Failure>),
    Raced(Result<Connected, Failure>),
    Hint(Hint),
    Due,
}

impl Minder {
    pub(super) fn new(client: &Arc<Client>, link: &Link) -> Self {
        Self {
            watch: fresh_watch(client),
            client: Arc::clone(client),
            link: link.clone(),
            race: None,
            won: None,
            taking: None,
        }
    }

    /// Returns a new session once this link has to be given up for it. What is under way is kept when the
    /// future is dropped.
    pub(super) async fn mind(&mut self) -> Box<Session> {
        loop {
            while let Some(duty) = self.watch.poll_duty() {
                self.obey(duty);
            }
            let step = self.wait().await;
            if let Some(pulse) = self.link.pulse() {
                self.watch.handle_pulse(Clock.now().monotonic, pulse);
            }
            let now = Clock.now().monotonic;
            match step {
                Step::Taken(Ok(session)) => return session,
                Step::Taken(Err(failure)) => {
                    self.taking = None;
                    self.tell_silent(&failure);
                    self.watch = fresh_watch(&self.client);
                }
                Step::Raced(Ok(won)) => {
                    let rtt = won.rtt();
                    (self.race, self.won) = (None, Some(won));
                    self.watch.handle_race(now, RaceNews::Won { rtt });
                }
                Step::Raced(Err(failure)) => {
                    self.race = None;
                    let random = random();
                    self.watch.handle_race(now, RaceNews::Lost { random });
                    self.tell_silent(&failure);
                }
                Step::Hint(hint) => {
                    debug!(?hint, "hint from the system");
                    self.watch.handle_hint(now, hint);
                }
                Step::Due => self.watch.handle_timeout(now),
            }
            if self.watch.silent_since().is_none() {
                self.client.stand_heard(&self.link);
            }
        }
    }

    async fn wait(&mut self) -> Step {
        let due = self.watch.poll_timeout().map(Instant::from_std);
        tokio::select! {
            biased;
            taken = under_way(&mut self.taking) => Step::Taken(taken),
            raced = under_way(&mut self.race) => Step::Raced(raced),
            Some(hint) = self.client.next_hint() => Step::Hint(hint),
            () = at(due) => Step::Due,
        }
    }

    fn obey(&mut self, duty: Duty) {
        debug!(?duty, "silent link");
        match duty {
            Duty::Probe => self.link.kick(),
            Duty::RebindAndKick | Duty::KickOld | Duty::BackToUdp => {
                if let Err(err) = self.link.rebind() {
                    // No network at all: the next hint, or the next duty, tries again.
                    debug!(%err, "link not moved");
                    self.link.kick();
                }
            }
            Duty::Race => self.race = Some(Box::pin(keeper::race(Arc::clone(&self.client)))),
            Duty::DropNew => (self.race, self.won) = (None, None),
            Duty::TakeNew => {
                if let Some(won) = self.won.take() {
                    info!("link silent, taking the new one");
                    self.taking = Some(Box::pin(async { keeper::take(won).await.map(Box::new) }));
                }
            }
            // Asked for only when there is a fallback path.
            Duty::OpenFallback | Duty::UseFallback | Duty::CloseFallback | Duty::TryUdp => {}
        }
    }

    fn tell_silent(&self, failure: &Failure) {
        let now = Clock.now().monotonic;
        let next = self.watch.poll_timeout().unwrap_or(now);
        let wait = next.saturating_duration_since(now);
        warn!(err = %failure, "link silent, and no new one to be had");
        self.client.stand_silent(&failure.to_string(), wait);
    }
}

fn fresh_watch(client: &Client) -> Watch {
    let settings = WatchSettings {
        keep_alive: client.link_settings.keep_alive,
        fallback: false,
    };
    Watch::new(Clock.now().monotonic, settings)
}

async fn under_way<T>(doing: &mut Doing<T>) -> Result<T, Failure> {
    match doing {
        Some(doing) => doing.await,
        None => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
