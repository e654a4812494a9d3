//! What the operating system tells a client about its network and its sleep, as [`Hint`]s. Not what is
//! done about them: that is [`watch`](crate::engine::watch). Needs no privileges; what cannot be had
//! (in some containers) is said once and done without, because silence is noticed anyway.

mod netlink;
mod outlook;
mod resume;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::netlink::Changes;
use self::outlook::Outlook;
use self::resume::Clocks;
pub use crate::engine::watch::Hint;
use crate::tasks::Tasks;

/// After a hint, later changes of the same burst are gathered for so long.
const BURST: Duration = Duration::from_millis(250);

/// Between two looks at what may be no news: a router's table may change a thousand times a second.
const BLINK: Duration = Duration::from_millis(10);

/// Hints that nobody has taken yet. When full, further ones are dropped: those before them say to act.
const QUEUE: usize = 4;

/// The senses of a client. Dropped, they fall asleep.
#[derive(Debug)]
pub struct Senses {
    hints: mpsc::Receiver<Hint>,
    known: Arc<Mutex<Outlook>>,
}

impl Senses {
    /// Starts to listen, in tasks of `tasks`.
    pub fn start(tasks: &Tasks) -> Self {
        let (tell, hints) = mpsc::channel(QUEUE);
        let known = Arc::new(Mutex::new(Outlook::towards(None)));
        match Changes::listen() {
            Ok(changes) => {
                let sight = Sight {
                    changes,
                    known: Arc::clone(&known),
                    tell: tell.clone(),
                    stop: tasks.stopped(),
                };
                tasks.spawn("sense-network", sight.run());
            }
            Err(err) => {
                info!(%err, "no word of network changes here; links wait for silence instead")
            }
        }
        match Clocks::watch() {
            Ok(clocks) => {
                tasks.spawn("sense-resume", sleep_sense(clocks, tell, tasks.stopped()));
            }
            Err(err) => info!(%err, "no word of sleep here; links wait for silence instead"),
        }
        Self { hints, known }
    }

    /// From now on the way to this address is what counts. Until this is said, it is the default
    /// routes alone.
    pub fn towards(&self, server: SocketAddr) {
        *self.known.lock().expect("nothing panics in here") = Outlook::towards(Some(server));
    }

    /// The next hint; `None` once there will be none any more. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Hint> {
        self.hints.recv().await
    }
}

/// Watches routes and addresses.
struct Sight {
    changes: Changes,
    known: Arc<Mutex<Outlook>>,
    tell: mpsc::Sender<Hint>,
    stop: CancellationToken,
}

impl Sight {
    async fn run(mut self) {
        let mut quiet_until = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.tell.closed() => return,
                changed = self.changes.next() => if let Err(err) = changed {
                    info!(%err, "no more word of network changes; links wait for silence instead");
                    return;
                }
            }
            // The first change of a burst is acted on at once; the ones after it once it has passed.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep_until(quiet_until) => {}
            }
            self.changes.forget();
            quiet_until = Instant::now() + BLINK;
            if self.finds_another_way() {
                let _ = self.tell.try_send(Hint::NetworkChanged);
                quiet_until = Instant::now() + BURST;
            }
        }
    }

    /// Looks; whether there is a way out, and another than before. With none there is nothing to move
    /// to, and what comes next is the news.
    fn finds_another_way(&self) -> bool {
        let mut known = self.known.lock().expect("nothing panics in here");
        let seen = known.again();
        if seen == *known {
            return false;
        }
        debug!(?seen, "the network changed");
        *known = seen;
        known.leads_out()
    }
}

/// Watches the clocks.
async fn sleep_sense(mut clocks: Clocks, tell: mpsc::Sender<Hint>, stop: CancellationToken) {
    loop {
        let jumped = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tell.closed() => return,
            jumped = clocks.jumped() => jumped,
        };
        match jumped {
            Ok(hint) => {
                debug!(?hint, "the clock jumped");
                let _ = tell.try_send(hint);
            }
            Err(err) => {
                info!(%err, "no more word of sleep; links wait for silence instead");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
