//! Visitors that stand still in the middle of a response hold flow-control window of their link. Each
//! link has a budget of them; over it the one that stood longest is cut. Not a rate limit: a slow
//! reader that moves is left alone.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::names::LinkId;
use crate::wire::StreamCode;

/// How often the board is looked over; the grain of all times here.
const SWEEP: Duration = Duration::from_secs(1);

/// So many sweeps without a move is standing still.
const STALLED: u32 = 5;

/// What the board may do with a response body.
pub(super) trait Reader: Send + Sync {
    /// Changes with every poll; and whether the last poll gave something, so that the next move is the
    /// visitor's and not the origin's.
    fn moves(&self) -> (u64, bool);
    /// Gives its stream back to the link.
    fn give_up(&self, code: StreamCode);
}

struct Seat {
    link: LinkId,
    reader: Arc<dyn Reader>,
    /// Fires when the visit must end; a body that nobody polls cannot notice by itself.
    cut: CancellationToken,
    /// Ends the connection, where the visit has it alone.
    abort: Option<CancellationToken>,
    seen: u64,
    still: u32,
}

impl Seat {
    fn give_up(&self, code: StreamCode) {
        self.reader.give_up(code);
        if let Some(abort) = &self.abort {
            abort.cancel();
        }
    }
}

/// All responses with a body that are under way.
pub(super) struct StallBoard {
    seats: Mutex<HashMap<u64, Seat>>,
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
            seats: Mutex::new(HashMap::new()),
            next: AtomicU64::new(0),
            budget: AtomicUsize::new(budget),
        })
    }

    pub(super) fn set_budget(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<u64, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        link: LinkId,
        reader: Arc<dyn Reader>,
        cut: CancellationToken,
        abort: Option<CancellationToken>,
    ) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (seen, _) = reader.moves();
        let seat = Seat {
            link,
            reader,
            cut,
            abort,
            seen,
            still: 0,
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

    fn sweep(&self) {
        let budget = self.budget.load(Ordering::Relaxed);
        let mut seats = self.seats();
        let mut stalled: HashMap<LinkId, Vec<(u32, u64)>> = HashMap::new();
        for (number, seat) in seats.iter_mut() {
            let still = seat.look();
            if still >= STALLED {
                stalled.entry(seat.link).or_default().push((still, *number));
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
                if let Some(seat) = seats.remove(number) {
                    seat.give_up(StreamCode::TooSlow);
                }
            }
        }
    }
}

impl Seat {
    /// For how many sweeps it has stood still.
    fn look(&mut self) -> u32 {
        let (moves, gave) = self.reader.moves();
        if moves != self.seen || !gave {
            self.seen = moves;
            self.still = 0;
        } else {
            self.still = self.still.saturating_add(1);
            if self.cut.is_cancelled() {
                self.give_up(StreamCode::TunnelEnded);
            }
        }
        self.still
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.board.seats().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Generation;

    #[derive(Default)]
    struct Fake {
        moves: AtomicU64,
        code: Mutex<Option<StreamCode>>,
    }

    impl Reader for Fake {
        fn moves(&self) -> (u64, bool) {
            (self.moves.load(Ordering::Relaxed), true)
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

    fn sit(board: &Arc<StallBoard>, at: LinkId) -> (Arc<Fake>, Place, CancellationToken) {
        let reader = Arc::new(Fake::default());
        let cut = CancellationToken::new();
        let place = board.enter(at, Arc::clone(&reader) as _, cut.clone(), None);
        (reader, place, cut)
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
