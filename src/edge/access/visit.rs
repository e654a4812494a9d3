//! What is gathered about one visit on its way. Its line is written when the last part of the visit lets go
//! of it, so there is exactly one, however the visit ends: also when the visitor just goes away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{StatusCode, Version, header};
use tracing::debug;

use super::{AccessLog, Line};
use crate::codes::Code;
use crate::edge::respond::Failure;
use crate::edge::{Inner, Tally};
use crate::engine::policy::share;
use crate::engine::{Refusal, Route};
use crate::names::{Kind, VisitId};
use crate::times::Clock;

/// The most of a path or a host that a log line shows.
const LONGEST: usize = 256;

/// A visit's part of the logs; clones share it. Nothing is gathered unless somebody listens.
#[derive(Clone, Default)]
pub(in crate::edge) struct VisitLog {
    entry: Option<Arc<Entry>>,
    /// What is counted whether anybody listens or not; of requests.
    counted: Option<Arc<Counted>>,
}

/// A visit's place in the tally.
struct Counted {
    tally: Arc<Tally>,
    start: Instant,
    /// It turned out to be no visit.
    silent: AtomicBool,
}

impl Counted {
    fn age(&self) -> Duration {
        Clock.now().monotonic.saturating_duration_since(self.start)
    }
}

/// What a visit asked for, fit for a log, and what became of it.
struct Entry {
    log: Arc<AccessLog>,
    id: VisitId,
    kind: Kind,
    peer: SocketAddr,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    version: Option<&'static str>,
    start: Instant,
    up: AtomicU64,
    down: AtomicU64,
    fate: Mutex<Fate>,
}

/// What is known later.
#[derive(Default)]
struct Fate {
    tunnel: Option<String>,
    decision: Option<&'static str>,
    rule: Option<String>,
    shadowed: Option<String>,
    code: Option<Code>,
    status: Option<u16>,
    first: Option<Duration>,
    complete: bool,
    /// It turned out to be no visit.
    silent: bool,
}

impl VisitLog {
    /// Of a request; without `parts` when what was asked for was none.
    pub(in crate::edge) fn of_request<S>(
        edge: &Inner<S>,
        id: VisitId,
        peer: SocketAddr,
        parts: Option<&Parts>,
    ) -> Self {
        let counted = Some(Arc::new(Counted {
            tally: Arc::clone(&edge.tally),
            start: Clock.now().monotonic,
            silent: AtomicBool::new(false),
        }));
        if !Self::gathers(&edge.access) {
            return Self {
                counted,
                ..Self::default()
            };
        }
        let mut entry = Entry::new(&edge.access, id, Kind::Http, peer);
        if let Some(parts) = parts {
            entry.method = Some(logged(parts.method.as_str()));
            entry.host = Some(host_of(parts));
            entry.path = Some(logged_path(parts.uri.path()));
            entry.version = version_of(parts.version);
        }
        Self {
            counted,
            ..Self::holding(entry)
        }
    }

    /// Of a connection or a flow; `tunnel` is what leads to it, `host` the name asked for in TLS.
    pub(in crate::edge) fn of_bytes(
        log: &Arc<AccessLog>,
        id: VisitId,
        peer: SocketAddr,
        (kind, tunnel): (Kind, &str),
        host: Option<&str>,
    ) -> Self {
        if !Self::gathers(log) {
            return Self::default();
        }
        let mut entry = Entry::new(log, id, kind, peer);
        entry.host = host.map(logged);
        entry.fate().tunnel = Some(logged(tunnel));
        Self::holding(entry)
    }

    fn gathers(log: &AccessLog) -> bool {
        log.is_on() || tracing::enabled!(tracing::Level::DEBUG)
    }

    fn holding(entry: Entry) -> Self {
        Self {
            entry: Some(Arc::new(entry)),
            counted: None,
        }
    }

    /// It is no visit after all.
    pub(in crate::edge) fn silence(&self) {
        if let Some(counted) = &self.counted {
            counted.silent.store(true, Ordering::Relaxed);
        }
        if let Some(entry) = &self.entry {
            entry.fate().silent = true;
        }
    }

    /// The engine let it in.
    pub(in crate::edge) fn admitted(&self, route: &Route) {
        let Some(entry) = &self.entry else { return };
        let mut fate = entry.fate();
        fate.decision = Some("admit");
        fate.tunnel = Some(route.slug.to_string());
        fate.rule = Some(route.rule.to_string());
        let shadowed: Vec<_> = route.shadowed.iter().map(ToString::to_string).collect();
        fate.shadowed = (!shadowed.is_empty()).then(|| shadowed.join(", "));
    }

    /// The engine did not let it in, or does no more.
    pub(in crate::edge) fn turned_away(&self, refusal: &Refusal) {
        let Some(entry) = &self.entry else { return };
        let mut fate = entry.fate();
        fate.decision = Some("refuse");
        fate.rule = refusal.rule().map(|rule| rule.to_string());
        if let Some(tunnel) = refusal.tunnel() {
            fate.tunnel = Some(tunnel.to_string());
        }
    }

    /// It gets an answer of ours because of this.
    pub(in crate::edge) fn refused(&self, failure: &Failure) {
        if let Some(counted) = &self.counted {
            counted.tally.refused(failure.answer().code, counted.age());
        }
        let Some(entry) = &self.entry else { return };
        if let Failure::Refused(refusal) = failure {
            self.turned_away(refusal);
        }
        let outside = failure.answer();
        let mut fate = entry.fate();
        fate.decision.get_or_insert("refuse");
        fate.code = Some(outside.code);
        fate.silent = false;
        drop(fate);
        let (method, host, path) = entry.asked();
        debug!(
            visit = %entry.id, host, method, path, status = outside.status.as_u16(),
            code = %outside.code, peer = %entry.peer, why = %failure, "visit refused"
        );
    }

    /// A head goes back; `ours` is the size of a body of our own.
    pub(in crate::edge) fn answered(&self, status: StatusCode, ours: Option<u64>) {
        let Some(entry) = &self.entry else { return };
        let mut fate = entry.fate();
        fate.status = Some(status.as_u16());
        fate.first.get_or_insert_with(|| entry.age());
        if let Some(bytes) = ours {
            fate.complete = true;
            fate.decision.get_or_insert("answer");
            entry.down.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes came from the visitor.
    pub(in crate::edge) fn received(&self, bytes: u64) {
        if let Some(entry) = &self.entry {
            entry.up.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes went to the visitor.
    pub(in crate::edge) fn sent(&self, bytes: u64) {
        let Some(entry) = &self.entry else { return };
        if entry.down.fetch_add(bytes, Ordering::Relaxed) == 0 {
            entry.fate().first.get_or_insert_with(|| entry.age());
        }
    }

    /// Says that the response, or the conversation after it, is over.
    pub(in crate::edge) fn served(&self, status: StatusCode, complete: bool) {
        if let Some(counted) = &self.counted
            && !counted.silent.load(Ordering::Relaxed)
        {
            counted.tally.answered(status, counted.age());
        }
        let Some(entry) = &self.entry else { return };
        entry.fate().complete = complete;
        let bytes = entry.down.load(Ordering::Relaxed);
        let (method, host, path) = entry.asked();
        debug!(
            visit = %entry.id, host, method, path, status = status.as_u16(), bytes,
            whole = complete, "visit served"
        );
    }

    /// A connection or a flow is over: in order, or for a reason that may have a code.
    pub(in crate::edge) fn ended(&self, how: Result<(), Option<Code>>) {
        let Some(entry) = &self.entry else { return };
        let mut fate = entry.fate();
        fate.complete = how.is_ok();
        fate.code = how.err().flatten();
    }
}

impl Entry {
    fn new(log: &Arc<AccessLog>, id: VisitId, kind: Kind, peer: SocketAddr) -> Self {
        Self {
            log: Arc::clone(log),
            id,
            kind,
            peer,
            method: None,
            host: None,
            path: None,
            version: None,
            start: Clock.now().monotonic,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            fate: Mutex::default(),
        }
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        // Plain values: a panic cannot leave them half changed.
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        Clock.now().monotonic.saturating_duration_since(self.start)
    }

    fn asked(&self) -> (&str, &str, &str) {
        (
            self.method.as_deref().unwrap_or(""),
            self.host.as_deref().unwrap_or(""),
            self.path.as_deref().unwrap_or(""),
        )
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let whole = self.age();
        let fate = std::mem::take(self.fate.get_mut().unwrap_or_else(PoisonError::into_inner));
        if fate.silent || !self.log.is_on() {
            return;
        }
        self.log.put(Line {
            id: self.id,
            kind: self.kind,
            tunnel: fate.tunnel,
            method: self.method.take(),
            host: self.host.take(),
            path: self.path.take(),
            version: self.version,
            status: fate.status,
            bytes_in: *self.up.get_mut(),
            bytes_out: *self.down.get_mut(),
            first: fate.first,
            whole,
            complete: fate.complete,
            decision: fate.decision.unwrap_or("none"),
            rule: fate.rule,
            shadowed: fate.shadowed,
            code: fate.code,
            peer: self.peer,
            unlogged: 0,
        });
    }
}

const fn version_of(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

fn host_of(parts: &Parts) -> String {
    let named = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let host = named.or_else(|| parts.headers.get(header::HOST).map(|h| h.as_bytes()));
    logged(&String::from_utf8_lossy(host.unwrap_or_default()))
}

/// A path as a log line may show it: without query, and without the token of a share link, which lets in
/// whoever has it.
fn logged_path(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    match path.starts_with(share::PATH) {
        true => format!("{}…", share::PATH),
        false => logged(path),
    }
}

/// Escaped and capped.
fn logged(text: &str) -> String {
    text.chars()
        .flat_map(char::escape_debug)
        .take(LONGEST)
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn logged_paths_are_escaped_and_capped() {
        assert_eq!(logged_path("/a\u{202e}b?secret"), "/a\\u{202e}b");
        assert_eq!(logged_path(&"ü".repeat(9000)).chars().count(), LONGEST);
    }

    #[test]
    fn a_share_links_token_is_not_logged() {
        assert_eq!(
            logged_path("/.wormkey/share/c2VjcmV0?x"),
            "/.wormkey/share/…"
        );
    }
}
