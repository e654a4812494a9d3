//! What the server tells monitoring: which of its parts are well, and its numbers.

use std::time::Duration;

use super::backend::Backend;
use crate::admin::health::PartJson;
use crate::engine::{Counts, Engine};
use crate::supervise::SOFTWARE_VERSION;
use crate::telemetry::metrics::{self, Page};
use crate::times::WallTime;

/// A part that does not answer for so long is not well; below the patience of whoever asks.
const WITHIN: Duration = Duration::from_secs(2);

/// How tunnels stand, in the order in which they are told.
const STATES: [&str; 3] = ["open", "held", "offline"];

impl Backend {
    pub(super) async fn parts_now(&self) -> Vec<PartJson> {
        let silent = || Some(format!("does not answer within {} s", WITHIN.as_secs()));
        let engine = match tokio::time::timeout(WITHIN, self.desk().answers()).await {
            Ok(true) => None,
            Ok(false) => Some("has failed".to_owned()),
            Err(_) => silent(),
        };
        let store = match tokio::time::timeout(WITHIN, self.store().answers()).await {
            Ok(answered) => answered.err().map(|err| err.to_string()),
            Err(_) => silent(),
        };
        let now = self.desk().now().wall;
        let ended = self.certificate_until().filter(|until| *until <= now);
        let certificate = ended.map(|until| format!("has ended at {until}"));
        let draining = self.is_draining().then(|| "takes no new visits".to_owned());
        vec![
            PartJson::new("engine", engine),
            PartJson::new("store", store),
            self.certificate_part(certificate),
            PartJson::new("draining", draining),
        ]
    }

    /// Without its name server it gets no certificate; one that is good is served on meanwhile.
    fn certificate_part(&self, ended: Option<String>) -> PartJson {
        let trouble = self.parts.certificates.dns_trouble();
        let all = self.parts.certificates.status();
        let wants = all.iter().any(|one| one.not_after.is_none());
        PartJson {
            name: "certificate".to_owned(),
            ready: ended.is_none() && !(wants && trouble.is_some()),
            reason: ended.or(trouble),
        }
    }

    /// Until when all certificates are good that visitors see; none where there is none of ours.
    fn certificate_until(&self) -> Option<WallTime> {
        let shown = self.parts.certificates.status();
        shown.iter().filter_map(|one| one.not_after).min()
    }

    /// The page for Prometheus.
    pub(super) async fn page(&self) -> String {
        let mut page = Page::default();
        page.each(
            metrics::BUILD,
            ["version"],
            [([SOFTWARE_VERSION.to_owned()], 1)],
        );
        page.one(metrics::STARTED, secs(self.parts.started_at));
        let parts = self.parts_now().await;
        let well = parts
            .into_iter()
            .map(|part| ([part.name], u8::from(part.ready)));
        page.each(metrics::READY, ["part"], well);
        page.one(metrics::DRAINING, u8::from(self.is_draining()));
        self.tell_visits(&mut page);
        let (counts, tunnels) = self.desk().read(|engine| (engine.counts(), states(engine)));
        tell_counts(&mut page, &counts);
        let tunnels = STATES.into_iter().zip(tunnels);
        let tunnels = tunnels.map(|(state, count)| ([state.to_owned()], count));
        page.each(metrics::TUNNELS, ["state"], tunnels);
        self.tell_limits(&mut page);
        if let Some(until) = self.certificate_until() {
            page.one(metrics::CERTIFICATE, secs(until));
        }
        page.one(metrics::STORE_TRANSACTIONS, self.store().groups());
        page.one(metrics::STORE_PENDING, counts.pending);
        if let Ok(bytes) = tokio::time::timeout(WITHIN, self.store().bytes()).await {
            page.one(metrics::STORE_BYTES, bytes);
        }
        page.text()
    }

    fn tell_visits(&self, page: &mut Page) {
        let tally = self.parts.edge.tally();
        let versions = tally.versions();
        let versions = versions.map(|(version, count)| ([version.to_owned()], count));
        page.each(metrics::REQUESTS, ["version"], versions);
        let counts = tally.counts().map(|(class, code, count)| {
            let code = code.map_or("origin", |code| code.as_str());
            ([format!("{class}xx"), code.to_owned()], count)
        });
        page.each(metrics::VISITS, ["status", "code"], counts);
        page.durations(metrics::DURATION, tally.durations());
        page.one(metrics::CONNECTIONS, self.parts.edge.connections());
    }

    fn tell_limits(&self, page: &mut Page) {
        let connections = self.parts.edge.connections_max() as u64;
        let limits = self.config(|config| {
            [
                ("connections", connections),
                ("held_visits", config.tunnels.held_visits_total as u64),
                ("held_bytes", config.tunnels.held_memory_total),
                ("dormant_links", config.dormant.links as u64),
                ("dormant_bytes", config.dormant.memory),
                ("tunnels_per_device", config.tunnels.per_device as u64),
            ]
        });
        let limits = limits.map(|(of, most)| ([of.to_owned()], most));
        page.each(metrics::LIMIT, ["of"], limits);
    }
}

fn tell_counts(page: &mut Page, counts: &Counts) {
    page.one(metrics::PASSED, counts.visits_total);
    page.one(metrics::VISITS_NOW, counts.visits);
    page.one(metrics::HELD, counts.held);
    page.one(metrics::HELD_BYTES, counts.held_bytes);
    let awake = counts.links.saturating_sub(counts.dormant);
    let links = [("up", awake), ("dormant", counts.dormant)];
    let links = links.map(|(state, count)| ([state.to_owned()], count));
    page.each(metrics::LINKS, ["state"], links);
    page.one(metrics::DORMANT_BYTES, counts.dormant_bytes);
    page.one(metrics::DORMANT_EVICTED, counts.dormant_evicted);
}

/// How many open tunnels there are in each of the [`STATES`].
fn states(engine: &Engine) -> [u64; STATES.len()] {
    let mut counts = [0; STATES.len()];
    for state in engine.open_states() {
        if let Some(at) = STATES.iter().position(|known| *known == state) {
            counts[at] += 1;
        }
    }
    counts
}

/// Seconds since 1970, as Prometheus counts.
fn secs(at: WallTime) -> i64 {
    at.as_millis() / 1000
}
