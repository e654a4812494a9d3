//! What a metric is called, and how metrics are written for Prometheus. Not where they are counted: each
//! room counts its own, and a role gathers them into one [`Page`]. Labels come from closed sets only, so
//! that nobody outside can make a page grow.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the text format calls itself, for `Content-Type`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric: its name, its kind and what it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// One sentence.
    pub help: &'static str,
}

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the next start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in classes.
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Metric = Metric { name: $name, kind: Kind::$kind, help: $help };)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($id,)*];
    };
}

metrics! {
    BUILD = Gauge "wormkey_build_info" "Which build this is; always 1.";
    STARTED = Gauge "wormkey_start_time_seconds" "When the daemon started, in seconds since 1970.";
    READY = Gauge "wormkey_ready" "Whether a part that is needed to serve is well (1) or not (0), as /readyz tells.";
    REQUESTS = Counter "wormkey_requests_total" "Requests of visitors, by HTTP version.";
    VISITS = Counter "wormkey_visits_total" "Visits that are over, by the class of their status and by the code of our own answer, or origin.";
    DURATION = Histogram "wormkey_visit_duration_seconds" "How long visits took, to their last byte.";
    PASSED = Counter "wormkey_visits_passed_total" "Visits that were let through to a client.";
    VISITS_NOW = Gauge "wormkey_visits_in_progress" "Visits going on.";
    HELD = Gauge "wormkey_visits_held" "Visits that wait for a client that is away.";
    HELD_BYTES = Gauge "wormkey_visits_held_bytes" "The most memory that waiting visits take.";
    CONNECTIONS = Gauge "wormkey_connections" "Visitors' connections.";
    LINKS = Gauge "wormkey_links" "Links of clients, by state.";
    DORMANT_BYTES = Gauge "wormkey_links_dormant_bytes" "What sleeping links hold in memory, an estimate.";
    DORMANT_EVICTED = Counter "wormkey_links_dormant_evicted_total" "Links closed because sleeping ones cost too much.";
    TUNNELS = Gauge "wormkey_tunnels" "Open tunnels, by state.";
    LIMIT = Gauge "wormkey_limit" "The most there may be, by what is limited.";
    CERTIFICATE = Gauge "wormkey_certificate_expiry_timestamp_seconds" "When the certificate that visitors see ends, in seconds since 1970.";
    STORE_TRANSACTIONS = Counter "wormkey_store_transactions_total" "Transactions put on disk.";
    STORE_PENDING = Gauge "wormkey_store_commits_pending" "Changes that wait for the disk.";
    STORE_BYTES = Gauge "wormkey_store_size_bytes" "The size of the state database and its log.";
    DRAINING = Gauge "wormkey_draining" "Whether the daemon takes nothing new (1).";
    LINK_UP = Gauge "wormkey_link_up" "Whether the link to the server is up (1).";
    LINK_RTT = Gauge "wormkey_link_round_trip_seconds" "The round trip to the server.";
    LINK_PACKETS = Counter "wormkey_link_packets_total" "Packets of the present link, by what became of them.";
    LINK_MOVES = Counter "wormkey_link_moves_total" "How often the present link moved to another socket.";
}

/// The upper ends of the classes of durations, in seconds.
const CLASSES: [(f64, &str); 14] = [
    (0.005, "0.005"),
    (0.01, "0.01"),
    (0.025, "0.025"),
    (0.05, "0.05"),
    (0.1, "0.1"),
    (0.25, "0.25"),
    (0.5, "0.5"),
    (1.0, "1"),
    (2.5, "2.5"),
    (5.0, "5"),
    (10.0, "10"),
    (30.0, "30"),
    (60.0, "60"),
    (300.0, "300"),
];

/// Durations counted in classes.
#[derive(Debug, Default)]
pub struct Durations {
    /// By class; the last is for what is longer than all.
    counts: [AtomicU64; CLASSES.len() + 1],
    micros: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn note(&self, duration: Duration) {
        let secs = duration.as_secs_f64();
        let class = CLASSES.iter().position(|(end, _)| secs <= *end);
        self.counts[class.unwrap_or(CLASSES.len())].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// A page of metrics in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// One value without labels.
    pub fn one(&mut self, metric: Metric, value: impl fmt::Display) {
        self.head(metric);
        self.sample(metric.name, &[], value);
    }

    /// One value for each set of labels.
    pub fn each<const N: usize, V: fmt::Display>(
        &mut self,
        metric: Metric,
        names: [&str; N],
        values: impl IntoIterator<Item = ([String; N], V)>,
    ) {
        self.head(metric);
        for (labels, value) in values {
            let labels: Vec<_> = names
                .into_iter()
                .zip(labels.iter().map(String::as_str))
                .collect();
            self.sample(metric.name, &labels, value);
        }
    }

    /// Durations with their classes.
    pub fn durations(&mut self, metric: Metric, durations: &Durations) {
        self.head(metric);
        let mut counts = durations
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let bucket = format!("{}_bucket", metric.name);
        let mut sum = 0;
        for ((_, end), count) in CLASSES.iter().zip(counts.by_ref()) {
            sum += count;
            self.sample(&bucket, &[("le", end)], sum);
        }
        sum += counts.sum::<u64>();
        self.sample(&bucket, &[("le", "+Inf")], sum);
        let secs = Duration::from_micros(durations.micros.load(Ordering::Relaxed)).as_secs_f64();
        self.sample(&format!("{}_sum", metric.name), &[], secs);
        self.sample(&format!("{}_count", metric.name), &[], sum);
    }

    /// The whole page.
    pub fn text(self) -> String {
        self.0
    }

    fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help } = metric;
        self.put(format_args!(
            "# HELP {name} {help}\n# TYPE {name} {}\n",
            kind.as_str()
        ));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.put(format_args!("{name}"));
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            self.put(format_args!("{open}{label}=\"{}\"", Escaped(value)));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.put(format_args!("{close} {value}\n"));
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        self.0
            .write_fmt(text)
            .expect("a String takes all that is written");
    }
}

/// A label's value as it stands between quotes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads() {
        let mut page = Page::default();
        page.one(VISITS_NOW, 4);
        let classes = [(["2xx".to_owned(), "a\"b\\\n".to_owned()], 7)];
        page.each(VISITS, ["status", "code"], classes);
        let text = page.text();
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("# HELP wormkey_visits_in_progress Visits going on.")
        );
        assert_eq!(
            lines.next(),
            Some("# TYPE wormkey_visits_in_progress gauge")
        );
        assert_eq!(lines.next(), Some("wormkey_visits_in_progress 4"));
        assert_eq!(
            lines.next_back(),
            Some("wormkey_visits_total{status=\"2xx\",code=\"a\\\"b\\\\\\n\"} 7")
        );
    }

    #[test]
    fn classes_of_durations_add_up() {
        let durations = Durations::default();
        for millis in [1, 5, 6, 2_000, 400_000] {
            durations.note(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.durations(DURATION, &durations);
        let text = page.text();
        for (end, count) in [
            ("0.005", 2),
            ("0.01", 3),
            ("1", 3),
            ("2.5", 4),
            ("300", 4),
            ("+Inf", 5),
        ] {
            let line = format!("wormkey_visit_duration_seconds_bucket{{le=\"{end}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("_sum 402.012\n") && text.ends_with("_count 5\n"));
    }

    #[test]
    fn names_keep_to_what_prometheus_asks_of_them() {
        for (at, metric) in ALL.iter().enumerate() {
            let name = metric.name;
            assert!(name.starts_with("wormkey_"), "{name}");
            let counts = metric.kind == Kind::Counter;
            assert_eq!(name.ends_with("_total"), counts, "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(!metric.help.contains(['\n', '\\']), "{name}");
            assert!(ALL[at + 1..].iter().all(|other| other.name != name));
        }
    }
}
