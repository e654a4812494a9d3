//! What the client tells monitoring: which of its parts are well, and its numbers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Client;
use crate::admin::health::PartJson;
use crate::supervise::SOFTWARE_VERSION;
use crate::telemetry::metrics::{self, Page};

/// A part that does not answer for so long is not well.
const WITHIN: Duration = Duration::from_secs(2);

impl Client {
    pub(super) async fn parts(&self) -> Vec<PartJson> {
        let store = match tokio::time::timeout(WITHIN, self.book.store_answers()).await {
            Ok(answered) => answered.err().map(|err| err.to_string()),
            Err(_) => Some(format!("does not answer within {} s", WITHIN.as_secs())),
        };
        let joined = match self.book.enrolment() {
            Some(_) => None,
            None => Some("this device has not joined a server".to_owned()),
        };
        let draining = self.drains.stand().ends_by.is_some();
        vec![
            PartJson::new("store", store),
            PartJson::new("joined", joined),
            PartJson::new("link", self.link_trouble()),
            PartJson::new(
                "draining",
                draining.then(|| "takes no new visits".to_owned()),
            ),
        ]
    }

    fn link_trouble(&self) -> Option<String> {
        let standing = self.standing.borrow();
        match (standing.state.as_str(), &standing.last_error) {
            ("up", _) => None,
            ("", _) => Some("not tried yet".to_owned()),
            (state, None) => Some(state.to_owned()),
            (state, Some(why)) => Some(format!("{state}: {why}")),
        }
    }

    /// The page for Prometheus.
    pub(super) async fn page(&self) -> String {
        let mut page = Page::default();
        let build = [([SOFTWARE_VERSION.to_owned()], 1)];
        page.each(metrics::BUILD, ["version"], build);
        page.one(metrics::STARTED, self.started_at.as_millis() / 1000);
        let parts = self.parts().await.into_iter();
        let well = parts.map(|part| ([part.name], u8::from(part.ready)));
        page.each(metrics::READY, ["part"], well);
        page.one(
            metrics::DRAINING,
            u8::from(self.drains.stand().ends_by.is_some()),
        );
        page.one(metrics::LINK_UP, u8::from(self.link_up()));
        let visits = self.book.visits_total.load(Ordering::Relaxed);
        page.one(metrics::PASSED, visits);
        page.one(metrics::VISITS_NOW, self.book.visits());
        let tunnels = [(["live".to_owned()], self.book.live_count())];
        page.each(metrics::TUNNELS, ["state"], tunnels);
        let figures = tokio::time::timeout(WITHIN, self.book.store_figures());
        if let Ok((transactions, bytes)) = figures.await {
            page.one(metrics::STORE_TRANSACTIONS, transactions);
            page.one(metrics::STORE_BYTES, bytes);
        }
        if let Some(link) = self.link() {
            let stats = link.stats();
            page.one(metrics::LINK_RTT, stats.rtt.as_secs_f64());
            let packets = [("sent", stats.sent_packets), ("lost", stats.lost_packets)];
            let packets = packets.map(|(what, count)| ([what.to_owned()], count));
            page.each(metrics::LINK_PACKETS, ["event"], packets);
            page.one(metrics::LINK_MOVES, stats.rebinds);
        }
        page.text()
    }
}
