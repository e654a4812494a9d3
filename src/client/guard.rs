//! The exposure guard: no tunnel without a lock leads to what should never be public, unless whoever
//! opened it says so. What to look for, and how, is the origin's; here is what follows from it.
//!
//! - `open` looks before anything is asked of the server, and refuses.
//! - An origin that was not there at `open`, a declared tunnel and a tunnel of an earlier life of this
//!   daemon are looked at when the first visit comes, before any byte of it goes on. What is found then
//!   does not close the tunnel: it is withheld. Visits are refused with 403, `show` and `status` say why,
//!   and the origin is looked at again as visits come, so that mending it is enough.
//! - An origin that does not answer in the time of a look is let through, and looked at again later: it
//!   may be slow. What was withheld stays withheld until it is known to be harmless.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::admin::ApiError;
use crate::codes::Code;
use crate::engine::book::BookRow;
use crate::origin::{Exposure, OriginTunnel, Origins, Sight};
use crate::times::Clock;
use crate::wire::StreamCode;

/// How long what was found stands before the origin is looked at again.
const STANDS: Duration = Duration::from_secs(5);

/// One that never answers all that is asked is looked at less and less often, down to this.
const STANDS_LONGEST: Duration = Duration::from_secs(300);

/// Whether a tunnel has to be looked at: nothing else stands between strangers and its origin, and
/// nobody has said that this is meant.
pub(super) fn needs_guard(row: &BookRow) -> bool {
    !row.yes_expose && !row.policy.keeps_strangers_out()
}

/// The refusal of an `open`.
pub(super) fn refusal(exposure: &Exposure) -> ApiError {
    let detail = format!("{exposure}. If you mean it to be public, open it with --yes-expose");
    ApiError::new(Code::ExposedOrigin, detail)
}

/// What `status` says of a tunnel that is withheld.
pub(super) fn problem(name: &str, exposure: &Exposure) -> String {
    format!(
        "tunnel {name} is withheld: {exposure}. If you mean it to be public, open it again with \
         --yes-expose, or write yes_expose = true in its entry"
    )
}

/// Where one tunnel stands with the guard.
#[derive(Debug)]
pub(super) struct Guard {
    state: Mutex<State>,
    /// Held by whoever looks; the others wait and share what is seen.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    standing: Standing,
    /// Counts looks.
    looks: u64,
    /// What the latest look let visits do.
    latest: Result<(), StreamCode>,
}

#[derive(Debug, Clone)]
enum Standing {
    /// Not looked at yet, or nobody was there.
    Unseen,
    /// Nothing was found, and not all was answered: passes until the next look.
    Unclear { stands: Duration, seen: Instant },
    /// Nothing was found, or nothing has to be looked for.
    Passed,
    /// Kept back.
    Withheld { exposure: Exposure, seen: Instant },
}

impl Guard {
    pub(super) fn new(row: &BookRow) -> Self {
        let standing = if needs_guard(row) {
            Standing::Unseen
        } else {
            Standing::Passed
        };
        Self {
            state: Mutex::new(State {
                standing,
                looks: 0,
                latest: Ok(()),
            }),
            looking: tokio::sync::Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row has changed from `old`: what it says now holds.
    pub(super) fn follow(&self, old: &BookRow, row: &BookRow) {
        match (needs_guard(old), needs_guard(row)) {
            (true, false) => self.lock().standing = Standing::Passed,
            (false, true) => self.lock().standing = Standing::Unseen,
            _ => {}
        }
    }

    /// It was looked at before it opened.
    pub(super) fn pass(&self) {
        self.lock().standing = Standing::Passed;
    }

    /// Something was found at it.
    pub(super) fn withhold(&self, exposure: Exposure) {
        let seen = Clock.now().monotonic;
        self.lock().standing = Standing::Withheld { exposure, seen };
    }

    /// Why it is withheld, if it is.
    pub(super) fn exposure(&self) -> Option<Exposure> {
        match &self.lock().standing {
            Standing::Withheld { exposure, .. } => Some(exposure.clone()),
            _ => None,
        }
    }

    /// Whether a visit may go on to the origin; looks at it when that is not known.
    pub(super) async fn admit(
        &self,
        origins: &Origins,
        tunnel: &OriginTunnel,
    ) -> Result<(), StreamCode> {
        let looks = match self.known() {
            Ok(known) => return known,
            Err(looks) => looks,
        };
        // Apart, so that a visit to an origin that was looked at does not carry the room for a look.
        Box::pin(self.admit_after_a_look(origins, tunnel, looks)).await
    }

    async fn admit_after_a_look(
        &self,
        origins: &Origins,
        tunnel: &OriginTunnel,
        looks: u64,
    ) -> Result<(), StreamCode> {
        let _alone = self.looking.lock().await;
        {
            // Somebody looked while this one waited.
            let state = self.lock();
            if state.looks != looks {
                return state.latest;
            }
        }
        let sight = origins.sight(tunnel).await;
        self.learn(sight, tunnel)
    }

    /// What is known without looking, else how many looks there have been.
    fn known(&self) -> Result<Result<(), StreamCode>, u64> {
        let state = self.lock();
        match &state.standing {
            Standing::Passed => Ok(Ok(())),
            Standing::Unclear { stands, seen }
                if Clock.now().monotonic.saturating_duration_since(*seen) < *stands =>
            {
                Ok(Ok(()))
            }
            Standing::Withheld { seen, .. }
                if Clock.now().monotonic.saturating_duration_since(*seen) < STANDS =>
            {
                Ok(Err(StreamCode::Exposed))
            }
            _ => Err(state.looks),
        }
    }

    fn learn(&self, sight: Sight, tunnel: &OriginTunnel) -> Result<(), StreamCode> {
        let mut state = self.lock();
        state.looks += 1;
        // Meanwhile somebody may have said that it is meant.
        let before = std::mem::replace(&mut state.standing, Standing::Passed);
        state.latest = match (before, sight) {
            (Standing::Passed, _) => Ok(()),
            (Standing::Unseen | Standing::Unclear { .. }, Sight::Harmless) => Ok(()),
            (Standing::Withheld { .. }, Sight::Harmless) => {
                info!(slug = %tunnel.slug, "origin is harmless now, tunnel is no longer withheld");
                Ok(())
            }
            (Standing::Withheld { exposure, .. }, Sight::Unclear) => {
                state.standing = Standing::Withheld {
                    exposure,
                    seen: Clock.now().monotonic,
                };
                Err(StreamCode::Exposed)
            }
            (before, Sight::Unclear) => {
                let stands = match before {
                    Standing::Unclear { stands, .. } => (stands * 2).min(STANDS_LONGEST),
                    _ => STANDS,
                };
                state.standing = Standing::Unclear {
                    stands,
                    seen: Clock.now().monotonic,
                };
                Ok(())
            }
            (before, Sight::Unreachable(error)) => {
                state.standing = before;
                Err(error.code())
            }
            (before, Sight::Exposed(exposure)) => {
                if !matches!(before, Standing::Withheld { .. }) {
                    warn!(slug = %tunnel.slug, %exposure, "origin should not be public, tunnel is withheld");
                }
                state.standing = Standing::Withheld {
                    exposure,
                    seen: Clock.now().monotonic,
                };
                Err(StreamCode::Exposed)
            }
        };
        state.latest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::names::{Slug, TunnelId};
    use crate::origin::OriginPolicy;
    use crate::tasks::Tasks;

    fn row(port: u16) -> BookRow {
        BookRow {
            slug: None,
            target: format!("http://127.0.0.1:{port}").parse().unwrap(),
            ..BookRow::sample(TunnelId::random(), Clock.now().wall)
        }
    }

    /// A guard over a tunnel to an address, and what is needed to reach that.
    struct World {
        guard: Guard,
        tunnel: OriginTunnel,
        origins: Origins,
        tasks: Tasks,
        row: BookRow,
    }

    impl World {
        fn new(port: u16) -> Self {
            let (row, tasks) = (row(port), Tasks::new());
            let policy = OriginPolicy {
                allow: vec!["127.0.0.1/32".parse().unwrap()],
                ..OriginPolicy::default()
            };
            let slug = Slug::parse("app").unwrap();
            let (target, host) = (row.target.clone(), row.host.clone());
            Self {
                guard: Guard::new(&row),
                tunnel: OriginTunnel::new(row.id, slug, "app.example".into(), target, host),
                origins: Origins::new(policy, tasks.clone()).unwrap(),
                tasks,
                row,
            }
        }

        async fn admit(&self) -> Result<(), StreamCode> {
            self.guard.admit(&self.origins, &self.tunnel).await
        }

        /// Answers every connection with the same bytes.
        fn answer(&self, listener: TcpListener, answer: &'static [u8]) {
            self.tasks.spawn("origin", async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    }

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn visits_at_once_share_one_look_and_none_passes() {
        let (listener, port) = listener().await;
        let world = Arc::new(World::new(port));
        world.answer(listener, b"+PONG\r\n");
        let visits: Vec<_> = (0..8)
            .map(|_| {
                let world = Arc::clone(&world);
                let visit = Arc::clone(&world);
                world
                    .tasks
                    .spawn("visit", async move { visit.admit().await })
            })
            .collect();
        for visit in visits {
            assert_eq!(visit.await.unwrap(), Err(StreamCode::Exposed));
        }
        assert_eq!(world.guard.lock().looks, 1);
        let exposure = world.guard.exposure().unwrap();
        assert_eq!(exposure.names().collect::<Vec<_>>(), ["redis-open"]);
        let meant = BookRow {
            yes_expose: true,
            ..world.row.clone()
        };
        world.guard.follow(&world.row, &meant);
        assert_eq!(world.admit().await, Ok(()));
        assert_eq!(world.guard.exposure(), None);
        world.guard.follow(&meant, &world.row);
        assert_eq!(world.admit().await, Err(StreamCode::Exposed));
        // A lock is as good as a word, and one that only tells is none.
        for (policy, passes) in [
            (r#"{"share":"required"}"#, true),
            (r#"{"share":"required","shadow":["auth"]}"#, false),
            (r#"{"share":"allowed","methods":["GET"]}"#, false),
        ] {
            let locked = BookRow {
                policy: Arc::new(policy.parse().unwrap()),
                ..world.row.clone()
            };
            world.guard.follow(&world.row, &locked);
            assert_eq!(world.admit().await.is_ok(), passes, "{policy}");
            world.guard.follow(&locked, &world.row);
        }
    }

    #[tokio::test]
    async fn an_origin_that_was_away_is_looked_at_once_it_is_there() {
        let (listener, port) = listener().await;
        drop(listener);
        let world = World::new(port);
        for _ in 0..2 {
            assert_eq!(world.admit().await, Err(StreamCode::OriginUnreachable));
        }
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        world.answer(
            listener,
            b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
        );
        assert_eq!(world.admit().await, Ok(()));
        let looks = world.guard.lock().looks;
        assert_eq!(world.admit().await, Ok(()));
        assert_eq!(world.guard.lock().looks, looks, "known");
    }

    #[tokio::test]
    async fn an_origin_that_was_slow_once_was_never_looked_at_again() {
        let world = World::new(1);
        let learn = |sight| world.guard.learn(sight, &world.tunnel);
        assert_eq!(learn(Sight::Unclear), Ok(()));
        assert_eq!(world.guard.known(), Ok(Ok(())), "not a look for each visit");
        let stands = |guard: &Guard| match &mut guard.lock().standing {
            Standing::Unclear { stands, seen } => {
                *seen = seen.checked_sub(*stands).unwrap();
                *stands
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(stands(&world.guard), STANDS);
        assert!(world.guard.known().is_err(), "time for another look");
        for _ in 0..9 {
            assert_eq!(learn(Sight::Unclear), Ok(()));
        }
        assert_eq!(stands(&world.guard), STANDS_LONGEST);
        assert_eq!(learn(Sight::Harmless), Ok(()));
        assert_eq!(world.guard.known(), Ok(Ok(())));
    }

    #[tokio::test]
    async fn a_withheld_tunnel_came_open_when_its_origin_was_slow() {
        let (listener, port) = listener().await;
        let world = World::new(port);
        world.answer(listener, b"+PONG\r\n");
        assert_eq!(world.admit().await, Err(StreamCode::Exposed));
        let learn = |sight| world.guard.learn(sight, &world.tunnel);
        assert_eq!(learn(Sight::Unclear), Err(StreamCode::Exposed));
        assert!(world.guard.exposure().is_some());
        assert_eq!(learn(Sight::Harmless), Ok(()));
        assert!(world.guard.exposure().is_none());
    }
}
