//! What happened, for `GET /v1/events`: a short memory and a live feed. Bounded; late readers see a gap.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::broadcast;

use super::EventStream;
use super::types::{EventJson, VisitJson, VisitPage};

/// How many events are remembered for `Last-Event-ID`.
const REMEMBERED: usize = 256;

/// How many visits are remembered for `logs`; less than 1 MiB, but for what a hostile server makes up.
const VISITS: usize = 1024;

/// Numbered events.
#[derive(Debug)]
pub struct EventLog {
    state: Mutex<State>,
    live: broadcast::Sender<(u64, EventJson)>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last event.
    last: u64,
    events: VecDeque<(u64, Remembered)>,
    /// Longer than the events, so that what else happens does not push them out.
    visits: VecDeque<Arc<VisitJson>>,
}

/// An event. Visits are many, so both memories hold the same one.
#[derive(Debug)]
enum Remembered {
    Visit(Arc<VisitJson>),
    Other(Box<EventJson>),
}

impl Remembered {
    fn event(&self) -> EventJson {
        match self {
            Self::Visit(visit) => EventJson::Visit(VisitJson::clone(visit)),
            Self::Other(event) => EventJson::clone(event),
        }
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            live: broadcast::channel(REMEMBERED).0,
        }
    }
}

impl EventLog {
    /// Numbers an event, remembers it, and sends it to whoever watches.
    pub fn tell(&self, event: EventJson) {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        // Sent under the lock, so that a reader who subscribes sees each event once. No reader is no error.
        if self.live.receiver_count() > 0 {
            let _ = self.live.send((number, event.clone()));
        }
        let event = match event {
            EventJson::Visit(visit) => {
                let visit = Arc::new(visit);
                keep(&mut state.visits, VISITS, Arc::clone(&visit));
                Remembered::Visit(visit)
            }
            other => Remembered::Other(Box::new(other)),
        };
        keep(&mut state.events, REMEMBERED, (number, event));
    }

    /// What is remembered behind `last`, and everything from now on; each event once. A number that was
    /// not given yet is of the time before a restart: everything came after that.
    pub fn after(&self, last: Option<u64>) -> (Vec<(u64, EventJson)>, EventStream) {
        let state = self.state();
        let remembered = match last {
            Some(last) => (state.events.iter())
                .filter(|(id, _)| *id > last || last > state.last)
                .map(|(id, event)| (*id, event.event()))
                .collect(),
            None => Vec::new(),
        };
        (remembered, self.live.subscribe())
    }

    /// The last visits, oldest first: of one tunnel or of all, at most `limit`.
    pub fn visits(&self, slug: Option<&str>, limit: usize) -> VisitPage {
        let state = self.state();
        let newest = state.visits.iter().rev();
        let wanted = newest.filter(|visit| slug.is_none_or(|slug| slug == visit.slug));
        let wanted = wanted.take(limit).map(|visit| VisitJson::clone(visit));
        let mut visits: Vec<_> = wanted.collect();
        visits.reverse();
        VisitPage {
            visits,
            last: state.last,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the events")
    }
}

fn keep<T>(queue: &mut VecDeque<T>, most: usize, item: T) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::visit;
    use crate::admin::types::LinkJson;

    #[test]
    fn visits_outlast_other_events_and_the_oldest_go_first() {
        let log = EventLog::default();
        for n in 0..VISITS + 10 {
            let slug = if n % 2 == 0 { "even" } else { "odd" };
            log.tell(visit(slug, &format!("/{n}")));
        }
        for _ in 0..REMEMBERED {
            log.tell(EventJson::Link(LinkJson::default()));
        }
        let all = log.visits(None, 10_000);
        let path = |visit: &VisitJson| visit.path.clone();
        assert_eq!(all.visits.len(), VISITS);
        assert_eq!(all.visits.first().map(path).as_deref(), Some("/10"));
        assert_eq!(all.last, (VISITS + 10 + REMEMBERED) as u64);
        let odd = log.visits(Some("odd"), 2).visits;
        let odd: Vec<_> = odd.iter().map(path).collect();
        assert_eq!(
            odd,
            [format!("/{}", VISITS + 7), format!("/{}", VISITS + 9)]
        );
        assert!(log.visits(Some("none"), 2).visits.is_empty());
    }

    #[test]
    fn who_comes_back_after_a_restart_misses_nothing() {
        let log = EventLog::default();
        log.tell(visit("app", "/1"));
        log.tell(visit("app", "/2"));
        let ids = |last| -> Vec<u64> { log.after(Some(last)).0.iter().map(|e| e.0).collect() };
        assert_eq!((ids(1), ids(2)), (vec![2], vec![]));
        assert_eq!(ids(900), [1, 2], "a number of the daemon before");
    }
}
