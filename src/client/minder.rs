//! Minds one link: does what [`Watch`] decides when it falls silent, or when the system says that the
//! network or the night has changed. Not the deciding, and not the conversation.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::engine::watch::{Duty, FallbackNews, Hint, RaceNews, Watch, WatchSettings};
use crate::link::path::{Fallback, PathError, PathKind};
use crate::link::{Connected, Link};
use crate::times::Clock;

use super::keeper::{self, Failure};
use super::session::Session;
use super::{Client, random};

type Doing<T, E = Failure> = Option<Pin<Box<dyn Future<Output = Result<T, E>> + Send>>>;

/// The watch over a link, and what it has under way.
pub(super) struct Minder {
    client: Arc<Client>,
    link: Link,
    watch: Watch,
    /// A new connection on its way, that no tunnel knows of.
    race: Doing<(Connected, String)>,
    /// One that is there, while the old link has its last word.
    won: Option<(Connected, String)>,
    /// It becomes the link.
    taking: Doing<Box<Session>>,
    /// The way round, for where UDP is blocked.
    fallback: Fallback,
    /// It is being opened; the link takes it as soon as it is.
    opening: Doing<(), PathError>,
    /// UDP is being tried; the link takes it if it works.
    returning: Doing<(), PathError>,
    pace: Pace,
}

/// Notices a busy link that stops: a download gives its receiver nothing to wait for, so that without
/// asking its end would only be noticed at the next keep-alive.
struct Pace {
    heard: u64,
    busy: bool,
    look_at: Instant,
}

/// Between two looks at a busy link, and at a quiet one.
const LOOK_BUSY: Duration = Duration::from_millis(250);
const LOOK_QUIET: Duration = Duration::from_secs(1);
/// Datagrams between two looks that make a link busy.
const BUSY: u64 = 4;

impl Pace {
    fn new(link: &Link) -> Self {
        Self {
            heard: link.heard(),
            busy: false,
            look_at: Instant::now() + LOOK_QUIET,
        }
    }

    /// Whether a busy link has fallen silent since the last look.
    fn stopped(&mut self, heard: u64) -> bool {
        let came = heard.saturating_sub(self.heard);
        let stopped = self.busy && came == 0;
        self.heard = heard;
        self.busy = came >= BUSY;
        self.look_at = Instant::now() + if self.busy { LOOK_BUSY } else { LOOK_QUIET };
        stopped
    }
}

/// What happened while nothing was to be done.
enum Step {
    Taken(Result<Box<Session>, Failure>),
    Raced(Result<(Connected, String), Failure>),
    Hint(Hint),
    Opened(Result<(), PathError>),
    Returned(Result<(), PathError>),
    FallbackEnded,
    Look,
    Due,
}

impl Minder {
    /// Minds a link that keeps itself alive at this interval.
    pub(super) fn new(
        client: &Arc<Client>,
        link: &Link,
        address: &str,
        keep_alive: Duration,
    ) -> Self {
        client.ways.remember(link.path().kind);
        Self {
            watch: fresh_watch(link, keep_alive),
            client: Arc::clone(client),
            link: link.clone(),
            race: None,
            won: None,
            taking: None,
            fallback: client.ways.fallback(address),
            opening: None,
            returning: None,
            pace: Pace::new(link),
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
                    self.watch.handle_not_taken(now, random());
                    self.tell_silent(&failure);
                }
                Step::Raced(Ok(won)) => {
                    let rtt = won.0.rtt();
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
                Step::Opened(opened) => {
                    self.opening = None;
                    self.opened(now, opened);
                }
                Step::Returned(returned) => {
                    self.returning = None;
                    let works = returned.is_ok();
                    if works {
                        info!("link back on udp");
                        self.client.ways.remember(PathKind::Udp);
                    }
                    self.watch.handle_udp(now, works);
                }
                Step::FallbackEnded => {
                    debug!("websocket ended");
                    self.watch.handle_fallback(now, FallbackNews::Failed);
                }
                Step::Look => {
                    if self.pace.stopped(self.link.heard()) && self.client.book.visits() > 0 {
                        // An answer is due from now on.
                        self.link.kick();
                    }
                }
                Step::Due => self.watch.handle_timeout(now),
            }
            if self.watch.silent_since().is_none() {
                self.client.stand_heard(&self.link);
            }
        }
    }

    /// From its Hello on, a new connection is the link.
    pub(super) fn take(&mut self, won: Connected, address: String) {
        let taking = async move { keeper::take(won, &address).await.map(Box::new) };
        self.taking = Some(Box::pin(taking));
    }

    /// Whether the link hears nothing.
    pub(super) fn is_silent(&self) -> bool {
        self.watch.silent_since().is_some()
    }

    /// The link has ended. Gives the session that is being made in its stead, if one is: the server ends
    /// a link as soon as it knows the next, which may be heard before the next one's Welcome.
    pub(super) async fn successor(&mut self) -> Option<Box<Session>> {
        let taking = self.taking.take()?;
        taking.await.ok()
    }

    async fn wait(&mut self) -> Step {
        let due = self.watch.poll_timeout().map(Instant::from_std);
        // While UDP is tried no WebSocket carries the link, which is not the end of it; one that ends meanwhile
        // has still ended afterwards.
        let in_websocket = self.watch.is_on_fallback() && self.returning.is_none();
        tokio::select! {
            biased;
            taken = under_way(&mut self.taking) => Step::Taken(taken),
            raced = under_way(&mut self.race) => Step::Raced(raced),
            Some(hint) = self.client.next_hint() => Step::Hint(hint),
            opened = under_way(&mut self.opening) => Step::Opened(opened),
            returned = under_way(&mut self.returning) => Step::Returned(returned),
            () = self.link.fallback_ended(), if in_websocket => Step::FallbackEnded,
            () = at(due) => Step::Due,
            () = sleep_until(self.pace.look_at) => Step::Look,
        }
    }

    fn obey(&mut self, duty: Duty) {
        debug!(?duty, "silent link");
        match duty {
            Duty::Probe => self.link.kick(),
            // The move itself was made by what tried it.
            Duty::BackToUdp => self.link.kick(),
            Duty::RebindAndKick | Duty::KickOld => {
                if let Err(err) = self.link.rebind() {
                    // No network at all: the next hint, or the next duty, tries again.
                    debug!(%err, "link not moved");
                    self.link.kick();
                }
            }
            Duty::Race => self.race = Some(Box::pin(keeper::race(Arc::clone(&self.client)))),
            Duty::DropNew => (self.race, self.won) = (None, None),
            Duty::TakeNew => {
                if let Some((won, address)) = self.won.take() {
                    info!("link silent, taking the new one");
                    self.take(won, address);
                }
            }
            Duty::OpenFallback => {
                let (link, fallback) = (self.link.clone(), self.fallback.clone());
                let opening =
                    async move { link.open_fallback_if_silent(&fallback).await.map(drop) };
                self.opening = Some(Box::pin(opening));
            }
            // What opens it also takes it.
            Duty::UseFallback => self.link.kick(),
            Duty::CloseFallback => {
                // The question whether UDP works keeps the path to itself while it is asked.
                (self.opening, self.returning) = (None, None);
                // It may be open already: the watch reckons with UDP from here on.
                self.link.leave_fallback();
            }
            Duty::TryUdp => {
                let link = self.link.clone();
                self.returning = Some(Box::pin(async move { link.back_to_udp().await }));
            }
        }
    }

    fn opened(&mut self, now: std::time::Instant, opened: Result<(), PathError>) {
        let news = match opened {
            Ok(()) => {
                // Not verified is a self-signed server as well as a middlebox: the pin inside tells the
                // server, and the issuer tells people which of the two it is.
                let path = self.link.path();
                info!(
                    verified = path.outer_verified,
                    issuer = path.outer_issuer,
                    "udp is blocked, link goes on in a websocket"
                );
                self.client.ways.remember(PathKind::WebSocket);
                FallbackNews::Up
            }
            Err(err) => {
                debug!(%err, "no websocket to be had");
                FallbackNews::Failed
            }
        };
        self.watch.handle_fallback(now, news);
    }

    fn tell_silent(&self, failure: &Failure) {
        let now = Clock.now().monotonic;
        let next = self.watch.poll_timeout().unwrap_or(now);
        let wait = next.saturating_duration_since(now);
        warn!(err = %failure, "link silent, and no new one to be had");
        self.client.stand_silent(&failure.to_string(), wait);
    }
}

fn fresh_watch(link: &Link, keep_alive: Duration) -> Watch {
    let settings = WatchSettings {
        keep_alive,
        fallback: true,
    };
    let now = Clock.now().monotonic;
    match link.path().kind {
        PathKind::Udp => Watch::new(now, settings),
        PathKind::WebSocket => Watch::on_fallback(now, settings),
    }
}

async fn under_way<T, E>(doing: &mut Doing<T, E>) -> Result<T, E> {
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

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::*;
    use crate::link::path::tests::{Office, Switch, dialer};

    /// As if the link had been in its WebSocket for long: UDP is tried at once.
    fn try_udp(minder: &mut Minder) {
        let settings = WatchSettings {
            keep_alive: Duration::from_secs(5),
            fallback: true,
        };
        let before = Clock.now().monotonic - Duration::from_secs(60);
        minder.watch = Watch::on_fallback(before, settings);
    }

    async fn mind_until(minder: &mut Minder, what: &str, is_so: impl Fn(&Minder) -> bool) {
        let patience = Instant::now() + Duration::from_secs(8);
        while !is_so(minder) {
            assert!(Instant::now() < patience, "never {what}");
            let step = tokio::time::timeout(Duration::from_millis(20), minder.mind()).await;
            assert!(step.is_err(), "{what}: the link was given up");
        }
    }

    fn goes_by(minder: &Minder, kind: PathKind) -> bool {
        let on_fallback = kind == PathKind::WebSocket;
        minder.link.path().kind == kind && minder.watch.is_on_fallback() == on_fallback
    }

    #[tokio::test]
    async fn a_return_to_udp_that_fails_is_made_again_and_the_end_of_the_websocket_is_heard() {
        let world = World::new().await;
        let (office, switch) = (Office::open().await, Switch::default());
        let ends = office.link(&dialer(&switch), None).await;
        ends.client.open_fallback(&office.fallback()).await.unwrap();
        let (client, link) = (&world.client.client, &ends.client);
        let mut minder = Minder::new(client, link, &office.address, Duration::from_secs(5));
        // UDP answers, and carries no link.
        switch.starve();
        try_udp(&mut minder);
        mind_until(&mut minder, "tried", |m| m.returning.is_some()).await;
        mind_until(&mut minder, "back in the websocket", |m| {
            m.returning.is_none() && goes_by(m, PathKind::WebSocket)
        })
        .await;
        switch.unblock();
        try_udp(&mut minder);
        mind_until(&mut minder, "on udp", |m| goes_by(m, PathKind::Udp)).await;

        link.open_fallback(&office.fallback()).await.unwrap();
        switch.starve();
        try_udp(&mut minder);
        mind_until(&mut minder, "tried again", |m| m.returning.is_some()).await;
        mind_until(&mut minder, "in the websocket again", |m| {
            m.returning.is_none() && goes_by(m, PathKind::WebSocket)
        })
        .await;
        switch.unblock();
        office.cut.send(()).unwrap();
        mind_until(&mut minder, "told of the end", |m| {
            goes_by(m, PathKind::Udp)
        })
        .await;
        world.client.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_busy_link_that_stops_is_asked() {
        let mut pace = Pace {
            heard: 0,
            busy: false,
            look_at: Instant::now(),
        };
        assert!(!pace.stopped(0), "quiet");
        assert!(!pace.stopped(1), "a keep-alive");
        assert!(!pace.stopped(1), "quiet again");
        assert!(!pace.stopped(100), "busy");
        assert_eq!(pace.look_at, Instant::now() + LOOK_BUSY);
        assert!(pace.stopped(100), "stopped");
        assert!(!pace.stopped(100), "said once");
        assert_eq!(pace.look_at, Instant::now() + LOOK_QUIET);
    }
}
