//! The first hop of a visit: from hyper's request to the engine's answer. What is refused here never
//! leaves this machine.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use tracing::error;

pub(super) use super::access::VisitLog;
use super::body::EdgeBody;
use super::connection::Conn;
use super::credentials::share_proofs;
use super::front::Visitor;
use super::incoming::RequestBody;
use super::respond::{Asker, Failure, respond};
use super::{
    Admit, Attach, EdgeSettings, OpenStream, cors, door, forward, home, interstitial, own, proof,
    redirect, reserved,
};
use crate::http::head;
use crate::http::{HeadError, Scheme};
use crate::names::VisitId;
use crate::wire::probe;

/// Answers one request, whatever happens.
pub(super) async fn answer<S: Admit + Attach + OpenStream>(
    conn: &Arc<Conn<S>>,
    request: Request<RequestBody>,
) -> Response<EdgeBody<S::Rx>> {
    let turn = conn.turn();
    let id = VisitId::random();
    let (mut parts, body) = request.into_parts();
    conn.edge.tally.asked(parts.version);
    let settings = conn.edge.settings.load_full();
    let visitor = Visitor::of(&settings.front, &conn.facts, &mut parts);
    let asker = Asker::of(&parts);
    let refusal = turn.refusal();
    let asked = refusal.is_none().then_some(&parts);
    let log = VisitLog::of_request(&conn.edge, id, visitor.addr, asked);
    let result = match refusal {
        Some(error) => Err(Failure::Head(error)),
        None => {
            caught(pin!(visit(
                conn,
                &settings,
                (id, visitor),
                &log,
                parts,
                body
            )))
            .await
        }
    };
    let response = result.unwrap_or_else(|failure| {
        log.refused(&failure);
        respond(&failure, id, asker, conn.ledger.is_some())
    });
    log.answered(response.status(), response.body().own_size());
    turn.settle(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    response.map(|body| body.in_turn(turn, conn))
}

/// Answers a head that was refused before it was a request.
pub(super) fn refuse<S: Admit + Attach + OpenStream>(
    conn: &Arc<Conn<S>>,
    error: HeadError,
) -> Response<EdgeBody<S::Rx>> {
    let (id, failure) = (VisitId::random(), Failure::Head(error));
    let log = VisitLog::of_request(&conn.edge, id, conn.facts.peer, None);
    log.refused(&failure);
    let (parts, ()) = Request::new(()).into_parts();
    let response = respond(&failure, id, Asker::of(&parts), conn.ledger.is_some());
    log.answered(response.status(), response.body().own_size());
    response
}

/// A panic in one visit is that visit's 500 and nobody else's business. Where it lies is the caller's: as a
/// value it would lie here twice.
async fn caught<T>(
    mut visit: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
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
    settings: &EdgeSettings,
    (id, visitor): (VisitId, Visitor),
    log: &VisitLog,
    mut parts: Parts,
    body: RequestBody,
) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
    let mut upgrade = parts.extensions.remove::<OnUpgrade>();
    let extended = parts.extensions.remove::<hyper::ext::Protocol>();
    let extended = extended.as_ref().map(hyper::ext::Protocol::as_str);
    let has_body = !body.is_end_stream();
    if let Some(answer) = door::knock(conn, settings, &visitor, &parts, has_body, &mut upgrade) {
        if answer.is_ok() {
            log.silence();
        }
        return answer;
    }
    let proofs = share_proofs(&parts.headers);
    let is_new = settings.site.interstitial && !interstitial::is_past(&parts.headers);
    let head = head::check(parts, extended, conn.facts.scheme).map_err(Failure::Head)?;
    if conn.facts.scheme == Scheme::Http {
        if let Some(answer) = proof::answer(&conn.edge, &head) {
            return Ok(answer);
        }
        return redirect::to_https(&conn.edge.inside, settings, &head, visitor.addr);
    }
    // One certificate covers all tunnels, so browsers share connections between them (RFC 9113
    // section 9.1.1); a 421 makes them open another.
    let other_sni = conn.facts.sni.as_ref().is_some_and(|sni| *sni != head.host);
    if other_sni && !visitor.is_brought {
        return Err(Failure::Misdirected);
    }
    if let Some(answer) = home::answer(settings, id, &head) {
        return Ok(answer);
    }
    // The operator speaks for names below the domain, and for nobody else's.
    let is_below = head.host.label_under(&settings.domain).is_some();
    let Some(place) = own::place(&conn.edge.inside, settings, &head.host) else {
        return Err(own::nobodys(&conn.edge.inside, visitor.addr));
    };
    let (label, wall) = (place.label, place.wall);
    // Each visit may fill buffers of a known size, so this bounds memory too.
    let place = Arc::clone(&conn.edge.visits_free)
        .try_acquire_owned()
        .map_err(|_| Failure::Overloaded)?;
    let mut visiting = forward::Visiting {
        id,
        visitor,
        label,
        wall,
        head,
        proofs,
        log: log.clone(),
        place: Arc::new(place),
    };
    if probe::is_ours(&visiting.head.path) {
        log.silence();
        visiting.log = VisitLog::default();
        return Box::pin(reserved::answer(conn, settings, visiting, has_body)).await;
    }
    conn.edge.visits.fetch_add(1, Ordering::Relaxed);
    if cors::is_preflight(&visiting.head)
        && let Ok(policy) = conn.edge.inside.greet(&visiting.label, visitor.addr)
        && let Some(cors) = policy.cors()
    {
        let answer = cors::preflight(cors, &visiting.head.fields);
        visiting.log.served(answer.status(), true);
        return Ok(answer);
    }
    if is_new
        && is_below
        && interstitial::is_for(&visiting.head)
        && conn
            .edge
            .inside
            .greet(&visiting.label, visitor.addr)
            .is_ok()
    {
        let answer = interstitial::page(settings, id, &visiting.head);
        visiting.log.served(answer.status(), true);
        return Ok(answer);
    }
    let mut answer = forward::run(conn, settings, visiting, body, upgrade).await?;
    if is_below {
        home::unindexed(settings, &mut answer);
    }
    Ok(answer)
}
