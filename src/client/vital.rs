//! How the client shows that it lives, and tells in a line how it stands.

use std::sync::atomic::Ordering;

use super::Client;
use crate::supervise::{Vital, count, roughly};
use crate::times::Clock;

impl Vital for Client {
    async fn answers(&self) -> bool {
        // What else there is lives on the one thread that runs this.
        self.book.store_answers().await.is_ok()
    }

    fn line(&self) -> String {
        let tunnels = count(self.book.live_count(), "tunnel", "tunnels");
        let link = self.standing.borrow();
        let since = (link.since).map(|since| roughly(Clock.now().wall.since(since)));
        let link = match (link.state.as_str(), since) {
            ("", _) => "starting".to_owned(),
            ("not_joined", _) => "not joined: wormkeyctl join".to_owned(),
            ("up", Some(since)) => format!("link up {since}"),
            (state, Some(since)) => format!("link {state} {since}"),
            (state, None) => format!("link {state}"),
        };
        format!("{tunnels} open · {link}")
    }

    fn visits_total(&self) -> u64 {
        self.book.visits_total.load(Ordering::Relaxed)
    }
}
