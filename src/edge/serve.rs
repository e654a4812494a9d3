//! The first hop of a visit: from hyper's request to the engine's answer. What is refused here never
//! leaves this machine.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use tracing::{debug, error};

use super::body::EdgeBody;
use super::connection::Conn;
use super::respond::{Asker, Failure, respond};
use super::{Admit, Attach, OpenStream, Tally, door, forward, proof, redirect, reserved};
use crate::http::Scheme;
use crate::http::head;
use crate::names::VisitId;
use crate::times::Clock;
use crate::wire::probe;

/// The most of a path that a log line shows.
const LOGGED_PATH: usize = 256;

/// Answers one request, whatever happens.
pub(super) async fn answer<S: Admit + Attach + OpenStream>(
    conn: &Arc<Conn<S>>,
    request: Request<Incoming>,
) -> Response<EdgeBody<S::Rx>> {
    let turn = conn.turn();
    let id = VisitId::random();
    let (parts, body) = request.into_parts();
    let asker = Asker::of(&parts);
    let refusal = turn.refusal();
    let log = VisitLog::new(id, &conn.edge.tally, refusal.is_none().then_some(&parts));
    let result = match refusal {
        Some(error) => Err(Failure::Head(error)),
        None => caught(visit(conn, id, &log, parts, body)).await,
    };
    let response = result.unwrap_or_else(|failure| {
        log.refused(conn, &failure);
        respond(&failure, id, asker, conn.ledger.is_some())
    });
    turn.settle(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    response.map(|body| body.in_turn(turn))
}

/// A panic in one visit is that visit's 500 and nobody else's business.
async fn caught<T>(visit: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut visit = pin!(visit);
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| visit.as_mut().poll(cx))).unwrap_or_else(|_| {
            error!("a visit's task panicked");
            Poll::Ready(Err(Failure::Panicked))
        })
    })
    .await
}

async fn visit<S: Admit + Attach + OpenStream>(
    conn: &Arc<Conn<S>>,
    id: VisitId,
    log: &VisitLog,
    mut parts: Parts,
    body: Incoming,
) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
    let mut upgrade = parts.extensions.remove::<OnUpgrade>();
    let extended = parts.extensions.remove::<hyper::ext::Protocol>();
    let extended = extended.as_ref().map(hyper::ext::Protocol::as_str);
    let settings = conn.edge.settings.load_full();
    let has_body = !body.is_end_stream();
    if let Some(answer) = door::knock(conn, &settings, &parts, has_body, &mut upgrade) {
        return answer;
    }
    let head = head::check(parts, extended, conn.facts.scheme).map_err(Failure::Head)?;
    if conn.facts.scheme == Scheme::Http {
        if let Some(answer) = proof::answer(&conn.edge, &head) {
            return Ok(answer);
        }
        return redirect::to_https(&settings, &head);
    }
    // One certificate covers all tunnels, so browsers share connections between them (RFC 9113
    // section 9.1.1); a 421 makes them open another.
    if conn.facts.sni.as_ref().is_some_and(|sni| *sni != head.host) {
        return Err(Failure::Misdirected);
    }
    let Some(label) = head.host.label_under(&settings.domain) else {
        return Err(Failure::UnknownHost);
    };
    // Each visit may fill buffers of a known size, so this bounds memory too.
    let place = Arc::clone(&conn.edge.visits_free)
        .try_acquire_owned()
        .map_err(|_| Failure::Overloaded)?;
    let mut visiting = forward::Visiting {
        id,
        label: label.to_owned(),
        head,
        log: log.clone(),
        place: Arc::new(place),
    };
    if probe::is_ours(&visiting.head.path) {
        visiting.log = VisitLog::silent(id);
        return reserved::answer(conn, &settings, visiting, has_body).await;
    }
    conn.edge.visits.fetch_add(1, Ordering::Relaxed);
    forward::run(conn, &settings, visiting, body, upgrade).await
}

/// The one log line of a visit, and its place in the tally. Nothing is gathered for the line unless
/// somebody listens.
#[derive(Debug, Clone)]
pub(super) struct VisitLog {
    id: VisitId,
    tally: Option<(Arc<Tally>, Instant)>,
    asked: Option<Arc<Asked>>,
}

/// What a visit asked for, fit for a log.
#[derive(Debug, Default)]
struct Asked {
    method: String,
    host: String,
    path: String,
}

impl VisitLog {
    /// Without `parts` when what was asked for was no request.
    fn new(id: VisitId, tally: &Arc<Tally>, parts: Option<&Parts>) -> Self {
        let asked = tracing::enabled!(tracing::Level::DEBUG).then(|| {
            let asked = parts.map(|parts| Asked {
                method: parts.method.to_string(),
                host: host_of(parts),
                path: logged(parts.uri.path()),
            });
            Arc::new(asked.unwrap_or_default())
        });
        let tally = Some((Arc::clone(tally), Clock.now().monotonic));
        Self { id, tally, asked }
    }

    /// Says nothing: what passes is no visit.
    pub(super) const fn silent(id: VisitId) -> Self {
        Self {
            id,
            tally: None,
            asked: None,
        }
    }

    fn refused<S>(&self, conn: &Conn<S>, failure: &Failure) {
        if let Some((tally, begun)) = &self.tally {
            tally.refused(failure.answer().code, since(*begun));
        }
        let Some(asked) = &self.asked else { return };
        let Asked { method, host, path } = &**asked;
        let outside = failure.answer();
        debug!(
            visit = %self.id, %host, %method, %path, status = outside.status.as_u16(),
            code = %outside.code, peer = %conn.facts.peer, why = %failure, "visit refused"
        );
    }

    /// Says that the visit is over.
    pub(super) fn served(&self, status: StatusCode, bytes: u64, whole: bool) {
        if let Some((tally, begun)) = &self.tally {
            tally.answered(status, since(*begun));
        }
        let Some(asked) = &self.asked else { return };
        let Asked { method, host, path } = &**asked;
        debug!(
            visit = %self.id, %host, %method, %path, status = status.as_u16(), bytes, whole,
            "visit served"
        );
    }
}

fn since(begun: Instant) -> Duration {
    Clock.now().monotonic.saturating_duration_since(begun)
}

fn host_of(parts: &Parts) -> String {
    let named = parts.uri.authority().map(|a| a.as_str().as_bytes());
    let host = named.or_else(|| parts.headers.get(header::HOST).map(|h| h.as_bytes()));
    logged(&String::from_utf8_lossy(host.unwrap_or_default()))
}

/// A path as a log line may show it: without query, escaped, capped.
fn logged(path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    path.chars()
        .flat_map(char::escape_debug)
        .take(LOGGED_PATH)
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn b32_logged_paths_are_escaped_and_capped() {
        assert_eq!(logged("/a\u{202e}b?secret"), "/a\\u{202e}b");
        assert_eq!(logged(&"ü".repeat(9000)).chars().count(), LOGGED_PATH);
    }
}
