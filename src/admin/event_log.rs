//! What happened, for `GET /v1/events`: a short memory and a live feed. Bounded; late readers see a gap.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::broadcast;

use super::EventStream;
use super::types::EventJson;

/// How many events are remembered for `Last-Event-ID`.
const REMEMBERED: usize = 256;

/// Numbered events.
#[derive(Debug)]
pub struct EventLog {
    state: Mutex<(u64, VecDeque<(u64, EventJson)>)>,
    live: broadcast::Sender<(u64, EventJson)>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            state: Mutex::new((0, VecDeque::new())),
            live: broadcast::channel(REMEMBERED).0,
        }
    }
}

impl EventLog {
    /// Numbers an event, remembers it, and sends it to whoever watches.
    pub fn tell(&self, event: EventJson) {
        let mut state = self
            .state
            .lock()
            .expect("nothing panics while it holds the events");
        state.0 += 1;
        let numbered = (state.0, event);
        if state.1.len() == REMEMBERED {
            state.1.pop_front();
        }
        state.1.push_back(numbered.clone());
        // Sent under the lock, so that a reader who subscribes sees each event once. No reader is no error.
        let _ = self.live.send(numbered);
    }

    /// What is remembered behind `last`, and everything from now on; each event once.
    pub fn after(&self, last: Option<u64>) -> (Vec<(u64, EventJson)>, EventStream) {
        let state = self
            .state
            .lock()
            .expect("nothing panics while it holds the events");
        let remembered = match last {
            Some(last) => state
                .1
                .iter()
                .filter(|(id, _)| *id > last)
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        (remembered, self.live.subscribe())
    }
}
