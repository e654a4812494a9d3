//! What is gathered about one visit on its way. Its line is written when the last part of the visit lets go
//! of it, so there is exactly one, however the visit ends: also when the visitor just goes away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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

/// A visit's part of the logs; clones share it. What it asked for is gathered only once somebody listens: a
/// log, or the owner of a rule that it would have broken.
#[derive(Clone, Default)]
pub(in crate::edge) struct VisitLog {
    visit: Option<Arc<Facts>>,
}

/// What is known of every visit.
struct Facts {
    log: Arc<AccessLog>,
    id: VisitId,
    kind: Kind,
    peer: SocketAddr,
    start: Instant,
    /// Where it is counted; requests are.
    tally: Option<Arc<Tally>>,
    /// It turned out to be no visit.
    silent: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    entry: OnceLock<Box<Entry>>,
}

/// What a visit asked for, as it came.
#[derive(Clone, Copy, Default)]
pub(in crate::edge) struct Asked<'a> {
    pub(in crate::edge) method: Option<&'a str>,
    pub(in crate::edge) host: Option<&'a str>,
    pub(in crate::edge) path: Option<&'a str>,
    pub(in crate::edge) version: Option<&'static str>,
}

/// The same fit for a log, and what became of it.
struct Entry {
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    version: Option<&'static str>,
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
}

impl VisitLog {
    /// Of a request; without `parts` when what was asked for was none.
    pub(in crate::edge) fn of_request<S>(
        edge: &Inner<S>,
        id: VisitId,
        peer: SocketAddr,
        parts: Option<&Parts>,
    ) -> Self {
        let tally = Some(Arc::clone(&edge.tally));
        let visit = Facts::new(&edge.access, (id, Kind::Http), peer, tally);
        if edge.access.gathers() {
            let host = parts.map(host_of);
            let asked = parts.map(|parts| Asked {
                method: Some(parts.method.as_str()),
                host: host.as_deref(),
                path: Some(parts.uri.path()),
                version: version_of(parts.version),
            });
            visit.gather(asked.unwrap_or_default());
        }
        Self::of(visit)
    }

    /// Of a connection or a flow; `tunnel` is what leads to it, `host` the name asked for in TLS.
    pub(in crate::edge) fn of_bytes(
        log: &Arc<AccessLog>,
        id: VisitId,
        peer: SocketAddr,
        (kind, tunnel): (Kind, &str),
        host: Option<&str>,
    ) -> Self {
        let visit = Facts::new(log, (id, kind), peer, None);
        if log.gathers() {
            let asked = Asked {
                host,
                ..Asked::default()
            };
            visit.gather(asked).fate().tunnel = Some(logged(tunnel));
        }
        Self::of(visit)
    }

    fn of(visit: Facts) -> Self {
        Self {
            visit: Some(Arc::new(visit)),
        }
    }

    fn gathered(&self) -> Option<(&Facts, &Entry)> {
        let visit = self.visit.as_deref()?;
        Some((visit, visit.entry.get()?))
    }

    /// It is no visit after all.
    pub(in crate::edge) fn silence(&self) {
        if let Some(visit) = &self.visit {
            visit.silent.store(true, Ordering::Relaxed);
        }
    }

    /// The engine let it in. What it asked for is asked when a rule would have refused it: of that there is a
    /// line whatever is logged otherwise.
    pub(in crate::edge) fn admitted<'a>(&self, route: &Route, asked: impl FnOnce() -> Asked<'a>) {
        let Some(visit) = &self.visit else { return };
        let told = !route.shadowed.is_empty();
        if visit.entry.get().is_none() && !told {
            return;
        }
        let entry = visit.entry.get_or_init(|| Entry::boxed(asked()));
        let mut fate = entry.fate();
        fate.decision = Some("admit");
        fate.tunnel = Some(route.slug.to_string());
        fate.rule = Some(route.rule.to_string());
        fate.shadowed = told.then(|| route.shadows().join(", "));
    }

    /// The engine did not let it in, or does no more.
    pub(in crate::edge) fn turned_away(&self, refusal: &Refusal) {
        let Some((_, entry)) = self.gathered() else {
            return;
        };
        let mut fate = entry.fate();
        fate.decision = Some("refuse");
        fate.rule = refusal.rule().map(|rule| rule.to_string());
        if let Some(tunnel) = refusal.tunnel() {
            fate.tunnel = Some(tunnel.to_string());
        }
    }

    /// It gets an answer of ours because of this.
    pub(in crate::edge) fn refused(&self, failure: &Failure) {
        let Some(visit) = self.visit.as_deref() else {
            return;
        };
        if let Some(tally) = &visit.tally {
            tally.refused(failure.answer().code, visit.age());
        }
        visit.silent.store(false, Ordering::Relaxed);
        let Some(entry) = visit.entry.get() else {
            return;
        };
        if let Failure::Refused(refusal) = failure {
            self.turned_away(refusal);
        }
        let outside = failure.answer();
        let mut fate = entry.fate();
        fate.decision.get_or_insert("refuse");
        fate.code = Some(outside.code);
        drop(fate);
        let (method, host, path) = entry.asked();
        debug!(
            visit = %visit.id, host, method, path, status = outside.status.as_u16(),
            code = %outside.code, peer = %visit.peer, why = %failure, "visit refused"
        );
    }

    /// A head goes back; `ours` is the size of a body of our own.
    pub(in crate::edge) fn answered(&self, status: StatusCode, ours: Option<u64>) {
        let Some((visit, entry)) = self.gathered() else {
            return;
        };
        let mut fate = entry.fate();
        fate.status = Some(status.as_u16());
        fate.first.get_or_insert_with(|| visit.age());
        if let Some(bytes) = ours {
            fate.complete = true;
            fate.decision.get_or_insert("answer");
            visit.down.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes came from the visitor.
    pub(in crate::edge) fn received(&self, bytes: u64) {
        if let Some(visit) = &self.visit {
            visit.up.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes went to the visitor.
    pub(in crate::edge) fn sent(&self, bytes: u64) {
        let Some(visit) = &self.visit else { return };
        if visit.down.fetch_add(bytes, Ordering::Relaxed) == 0
            && let Some(entry) = visit.entry.get()
        {
            entry.fate().first.get_or_insert_with(|| visit.age());
        }
    }

    /// Says that the response, or the conversation after it, is over.
    pub(in crate::edge) fn served(&self, status: StatusCode, complete: bool) {
        let Some(visit) = self.visit.as_deref() else {
            return;
        };
        if let Some(tally) = &visit.tally
            && !visit.silent.load(Ordering::Relaxed)
        {
            tally.answered(status, visit.age());
        }
        let Some(entry) = visit.entry.get() else {
            return;
        };
        entry.fate().complete = complete;
        let bytes = visit.down.load(Ordering::Relaxed);
        let (method, host, path) = entry.asked();
        debug!(
            visit = %visit.id, host, method, path, status = status.as_u16(), bytes,
            whole = complete, "visit served"
        );
    }

    /// A connection or a flow is over: in order, or for a reason that may have a code.
    pub(in crate::edge) fn ended(&self, how: Result<(), Option<Code>>) {
        let Some((_, entry)) = self.gathered() else {
            return;
        };
        let mut fate = entry.fate();
        fate.complete = how.is_ok();
        fate.code = how.err().flatten();
    }
}

impl Facts {
    fn new(
        log: &Arc<AccessLog>,
        (id, kind): (VisitId, Kind),
        peer: SocketAddr,
        tally: Option<Arc<Tally>>,
    ) -> Self {
        Self {
            log: Arc::clone(log),
            id,
            kind,
            peer,
            start: Clock.now().monotonic,
            tally,
            silent: AtomicBool::new(false),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            entry: OnceLock::new(),
        }
    }

    fn gather(&self, asked: Asked<'_>) -> &Entry {
        self.entry.get_or_init(|| Entry::boxed(asked))
    }

    fn age(&self) -> Duration {
        Clock.now().monotonic.saturating_duration_since(self.start)
    }
}

impl Entry {
    fn boxed(asked: Asked<'_>) -> Box<Self> {
        Box::new(Self {
            method: asked.method.map(logged),
            host: asked.host.map(logged),
            path: asked.path.map(logged_path),
            version: asked.version,
            fate: Mutex::default(),
        })
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        // Plain values: a panic cannot leave them half changed.
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> (&str, &str, &str) {
        (
            self.method.as_deref().unwrap_or(""),
            self.host.as_deref().unwrap_or(""),
            self.path.as_deref().unwrap_or(""),
        )
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        let whole = self.age();
        let Some(entry) = self.entry.take().filter(|_| !*self.silent.get_mut()) else {
            return;
        };
        let fate = entry.fate.into_inner();
        let fate = fate.unwrap_or_else(PoisonError::into_inner);
        self.log.put(Line {
            id: self.id,
            kind: self.kind,
            tunnel: fate.tunnel,
            method: entry.method,
            host: entry.host,
            path: entry.path,
            version: entry.version,
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

/// A visitor's version of HTTP, as the log names it.
pub(in crate::edge) const fn version_named(version: u8) -> &'static str {
    match version {
        10 => "1.0",
        11 => "1.1",
        20 => "2",
        _ => "3",
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
    String::from_utf8_lossy(host.unwrap_or_default()).into_owned()
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
