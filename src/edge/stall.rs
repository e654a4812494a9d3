//! Visitors that stand still in the middle of a response hold flow-control window of their link. Each
//! link has a budget of them; over it the one that stood longest is cut, and whoever takes less than the
//! minimum rate is cut anyway, of our own answers too. Not a throttle. Where the socket itself is blocked, `outflow` judges.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::connection::Activity;
use crate::http::limits::{RATE_BYTES, RATE_WINDOW};
use crate::names::{LinkId, QuickMap};
use crate::wire::StreamCode;

/// How often the board is looked over; the grain of all times here.
const SWEEP: Duration = Duration::from_secs(1);

/// So many sweeps without a move is standing still.
const STALLED: u32 = 5;

/// So many sweeps of waiting are one window of the minimum rate.
const RATE_SWEEPS: u32 = (RATE_WINDOW.as_millis() / SWEEP.as_millis()) as u32;

/// What the board may do with a response body.
pub(super) trait Reader: Send + Sync {
    /// Changes with every poll; and whether the last poll gave something, so that the next move is the
    /// visitor's and not the origin's.
    fn moves(&self) -> (u64, bool);
    /// How many bytes it gave in all.
    fn given(&self) -> u64;
    /// Gives everything back that it holds: its stream to the link, its place among the visits.
    fn give_up(&self, code: StreamCode);
}

/// The connection that a response goes out on.
pub(super) struct Outlet {
    pub(super) activity: Arc<Activity>,
    /// Ends the connection.
    pub(super) abort: CancellationToken,
    /// Whether the visit has the connection alone (HTTP/1).
    pub(super) is_alone: bool,
    /// Whether the visitor may be as slow as it likes.
    pub(super) is_patient: bool,
}

struct Seat {
    /// Whose window it holds; an answer of ours holds nobody's.
    link: Option<LinkId>,
    reader: Arc<dyn Reader>,
    /// Fires when the visit must end; a body that nobody polls cannot notice by itself.
    cut: CancellationToken,
    outlet: Outlet,
    seen: u64,
    still: u32,
    /// Sweeps in which only the visitor was waited for, and what had been given when they began.
    waits: u32,
    had: u64,
    given_up: bool,
}

impl Seat {
    /// HTTP/2 keeps the stream until its visitor moves, so what is given up stays seated.
    fn give_up(&mut self, code: StreamCode) {
        self.reader.give_up(code);
        if self.outlet.is_alone {
            self.outlet.abort.cancel();
        } else if !self.given_up {
            self.outlet.activity.give_up();
        }
        self.given_up = true;
    }
}

/// All responses with a body that are under way.
pub(super) struct StallBoard {
    seats: Mutex<QuickMap<u64, Seat>>,
    next: AtomicU64,
    budget: AtomicUsize,
}

/// A place on the board; dropping it leaves.
pub(super) struct Place {
    board: Arc<StallBoard>,
    number: u64,
}

impl StallBoard {
    pub(super) fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self {
            seats: Mutex::default(),
            next: AtomicU64::new(0),
            budget: AtomicUsize::new(budget),
        })
    }

    pub(super) fn set_budget(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    fn seats(&self) -> MutexGuard<'_, QuickMap<u64, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        link: Option<LinkId>,
        reader: Arc<dyn Reader>,
        cut: CancellationToken,
        outlet: Outlet,
    ) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (seen, _) = reader.moves();
        let seat = Seat {
            link,
            reader,
            cut,
            outlet,
            seen,
            still: 0,
            waits: 0,
            had: 0,
            given_up: false,
        };
        self.seats().insert(number, seat);
        Place {
            board: Arc::clone(self),
            number,
        }
    }

    /// Looks the board over until told to stop.
    pub(super) async fn sweep_until(&self, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.sweep(),
            }
        }
    }

    pub(super) fn sweep(&self) {
        let budget = self.budget.load(Ordering::Relaxed);
        let mut seats = self.seats();
        let mut stalled: HashMap<LinkId, Vec<(u32, u64)>> = HashMap::new();
        for (number, seat) in seats.iter_mut() {
            let still = seat.look();
            if let Some(link) = seat.link
                && still >= STALLED
                && !seat.given_up
            {
                stalled.entry(link).or_default().push((still, *number));
            }
        }
        for (link, mut of_link) in stalled {
            let excess = of_link.len().saturating_sub(budget);
            if excess == 0 {
                continue;
            }
            debug!(%link, stalled = of_link.len(), excess, "cutting visitors that stand still");
            // Who stood longest goes first; of equals, who came first.
            of_link.sort_unstable_by_key(|(still, number)| (Reverse(*still), *number));
            for (_, number) in &of_link[..excess] {
                if let Some(seat) = seats.get_mut(number) {
                    seat.give_up(StreamCode::TooSlow);
                }
            }
        }
    }
}

impl Seat {
    /// For how many sweeps it has stood still.
    fn look(&mut self) -> u32 {
        if self.given_up {
            if self.outlet.activity.is_useless() {
                self.outlet.abort.cancel();
            }
            return self.still;
        }
        let (moves, gave) = self.reader.moves();
        if moves != self.seen || !gave {
            self.seen = moves;
            self.still = 0;
        } else {
            self.still = self.still.saturating_add(1);
            if self.cut.is_cancelled() {
                self.give_up(StreamCode::TunnelEnded);
            } else if self.is_too_slow() {
                debug!(link = ?self.link, "cutting a visitor that takes too little");
                self.give_up(StreamCode::TooSlow);
            }
        }
        self.still
    }

    /// One more sweep without a move.
    fn is_too_slow(&mut self) -> bool {
        let activity = &self.outlet.activity;
        // Where the socket is blocked `outflow` judges, unless somebody on the connection asked for patience:
        // that is for one response, and not for all beside it.
        if self.outlet.is_patient || (activity.is_blocked() && !activity.is_patient()) {
            return false;
        }
        let given = self.reader.given();
        if given - self.had >= RATE_BYTES {
            self.had = given;
            self.waits = 0;
        }
        self.waits += 1;
        self.waits > RATE_SWEEPS
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let seat = self.board.seats().remove(&self.number);
        if let Some(seat) = seat
            && seat.given_up
            && !seat.outlet.is_alone
        {
            seat.outlet.activity.give_up_ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Busy, Patience};
    use super::*;
    use crate::names::Generation;

    #[derive(Default)]
    struct Fake {
        moves: AtomicU64,
        given: AtomicU64,
        code: Mutex<Option<StreamCode>>,
    }

    impl Reader for Fake {
        fn moves(&self) -> (u64, bool) {
            (self.moves.load(Ordering::Relaxed), true)
        }
        fn given(&self) -> u64 {
            self.given.load(Ordering::Relaxed)
        }
        fn give_up(&self, code: StreamCode) {
            self.code.lock().unwrap().get_or_insert(code);
        }
    }

    impl Fake {
        fn code(&self) -> Option<StreamCode> {
            *self.code.lock().unwrap()
        }
    }

    fn link(counter: u64) -> LinkId {
        LinkId(Generation { boot: 1, counter })
    }

    fn outlet() -> Outlet {
        Outlet {
            activity: Arc::default(),
            abort: CancellationToken::new(),
            is_alone: false,
            is_patient: false,
        }
    }

    fn sit(board: &Arc<StallBoard>, at: LinkId) -> (Arc<Fake>, Place, CancellationToken) {
        let cut = CancellationToken::new();
        let (reader, place) = sit_on(board, at, cut.clone(), outlet());
        (reader, place, cut)
    }

    fn sit_on(
        board: &Arc<StallBoard>,
        at: LinkId,
        cut: CancellationToken,
        outlet: Outlet,
    ) -> (Arc<Fake>, Place) {
        let reader = Arc::new(Fake::default());
        let place = board.enter(Some(at), Arc::clone(&reader) as _, cut, outlet);
        (reader, place)
    }

    /// Gives so many bytes a second for a minute, with a second of standing still after each.
    fn minute(board: &Arc<StallBoard>, reader: &Fake, rate: u64) -> Option<StreamCode> {
        for _ in 0..60 {
            reader.given.fetch_add(rate, Ordering::Relaxed);
            board.sweep();
        }
        reader.code()
    }

    #[test]
    fn the_minimum_rate_is_240_bytes_a_second() {
        let board = StallBoard::new(9);
        let (enough, _a, _) = sit(&board, link(1));
        assert_eq!(minute(&board, &enough, 240), None);
        let (slow, _b, _) = sit(&board, link(1));
        assert_eq!(minute(&board, &slow, 239), Some(StreamCode::TooSlow));
    }

    #[test]
    fn where_the_socket_is_blocked_or_patience_was_asked_for_nobody_is_cut() {
        let board = StallBoard::new(9);
        let blocked = outlet();
        blocked.activity.set_blocked(true);
        let patient = Outlet {
            is_patient: true,
            ..outlet()
        };
        for outlet in [blocked, patient] {
            let cut = CancellationToken::new();
            let (reader, _place) = sit_on(&board, link(1), cut, outlet);
            assert_eq!(minute(&board, &reader, 0), None);
        }
    }

    #[test]
    fn one_event_stream_freed_everything_beside_it_from_the_minimum_rate() {
        let board = StallBoard::new(9);
        let (own, beside) = (outlet(), outlet());
        let activity = Arc::clone(&own.activity);
        let patience = Patience::new(&activity);
        activity.set_blocked(true);
        let sit = |outlet| sit_on(&board, link(1), CancellationToken::new(), outlet);
        let (events, _a) = sit(Outlet {
            is_patient: true,
            ..own
        });
        let (slow, _b) = sit(Outlet {
            activity: Arc::clone(&activity),
            ..beside
        });
        assert_eq!(minute(&board, &slow, 239), Some(StreamCode::TooSlow));
        assert_eq!(events.code(), None);
        drop(patience);
        let (alone, _c) = sit(Outlet {
            activity,
            ..outlet()
        });
        assert_eq!(
            minute(&board, &alone, 0),
            None,
            "the socket is timed itself"
        );
    }

    #[test]
    fn a_connection_with_nothing_but_what_was_given_up_ends() {
        let board = StallBoard::new(9);
        let out = outlet();
        let (activity, abort) = (Arc::clone(&out.activity), out.abort.clone());
        let visits = [Busy::new(&activity), Busy::new(&activity)];
        let (reader, place) = sit_on(&board, link(1), CancellationToken::new(), out);
        assert_eq!(minute(&board, &reader, 0), Some(StreamCode::TooSlow));
        assert!(!abort.is_cancelled(), "another visit is under way");
        let [one, other] = visits;
        drop(one);
        board.sweep();
        assert!(abort.is_cancelled());
        drop(place);
        assert!(!activity.is_useless(), "a stream that ends is forgotten");
        drop(other);
    }

    #[test]
    fn over_the_budget_the_one_that_stood_longest_is_cut() {
        let board = StallBoard::new(1);
        let (old, _a, _) = sit(&board, link(1));
        board.sweep();
        let (new, _b, _) = sit(&board, link(1));
        let (mover, _c, _) = sit(&board, link(1));
        let (elsewhere, _d, _) = sit(&board, link(2));
        for _ in 0..STALLED {
            mover.moves.fetch_add(1, Ordering::Relaxed);
            assert_eq!(old.code(), None);
            board.sweep();
        }
        assert_eq!(old.code(), Some(StreamCode::TooSlow));
        for reader in [new, mover, elsewhere] {
            assert_eq!(reader.code(), None);
        }
    }

    #[test]
    fn a_cut_reaches_a_body_that_nobody_polls() {
        let board = StallBoard::new(9);
        let (reader, _place, cut) = sit(&board, link(1));
        board.sweep();
        assert_eq!(reader.code(), None);
        cut.cancel();
        board.sweep();
        assert_eq!(reader.code(), Some(StreamCode::TunnelEnded));
    }

    #[test]
    fn nothing_is_left_of_those_who_leave() {
        let board = StallBoard::new(1);
        let (reader, place, _) = sit(&board, link(1));
        drop(place);
        assert!(board.seats().is_empty());
        assert_eq!(Arc::strong_count(&reader), 1);
    }
}
