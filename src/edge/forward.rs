//! The last hops of a visit: admitted by the engine, carried by a stream, answered by an origin. Both
//! directions run at once; the visit is over when both have ended.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::access::{Asked, version_named};
use super::body::{EdgeBody, Ends, Held, VisitBody};
use super::connection::{Conn, Patience};
use super::front::Visitor;
use super::incoming::RequestBody;
use super::respond::Failure;
use super::sent::Sent;
use super::serve::VisitLog;
use super::shape::{Throttle, Way};
use super::signed::{self, Found};
use super::stall::Outlet;
use super::upload::{Manner, Progress, Upload};
use super::{Admit, EdgeSettings, OpenError, OpenStream, Pass};
use super::{dress, held, upgrade};
use crate::engine::policy::{Part, Policy, RuleId, Unsigned};
use crate::engine::{HttpAsk, Refusal, Route, Visit};
use crate::http::HeadError;
use crate::http::head::Head;
use crate::http::response::{self, Body as Expected};
use crate::names::{Hostname, Kind, LinkId, TunnelId, VisitId, ip_text};
use crate::wire::{
    FrameDecoder, HttpHead, RecvChunks, ResponseHead, SendChunks, StreamHead, WireBody,
    read_response_head,
};

/// A link that was lost this moment is known to the engine a moment later.
pub(super) const LINK_NEWS: Duration = Duration::from_millis(50);

/// How long the end of a stream may come after a head that has no body.
const END_GRACE: Duration = Duration::from_millis(200);

/// A visit on its way.
pub(super) struct Visiting {
    pub(super) id: VisitId,
    pub(super) visitor: Visitor,
    pub(super) label: String,
    /// Cookies for this name, or for one above it, are not the tunnel's to set.
    pub(super) wall: Hostname,
    pub(super) head: Head,
    /// What its share cookie says.
    pub(super) proofs: Vec<String>,
    pub(super) log: VisitLog,
    /// Its place among the visits under way.
    pub(super) place: Arc<OwnedSemaphorePermit>,
}

/// What stays the same when a visit is tried twice.
struct Errand<'a, S> {
    conn: &'a Arc<Conn<S>>,
    wall: Hostname,
    head: StreamHead,
    /// Whose script asks.
    origin: Option<HeaderValue>,
    method: Method,
    protocol: Option<String>,
    expects_continue: bool,
    is_extended: bool,
    is_conversation: bool,
    timeout: Duration,
    body: Option<Sent>,
    upgrade: Option<OnUpgrade>,
    log: VisitLog,
    /// What was found of its signature, where one is asked for.
    found: Option<Found>,
}

/// Admits and carries a visit. It is tried once more when provably no byte of it left for an origin.
///
/// What is done but once is done before there is a future, which would carry it to the visit's end.
pub(super) fn run<'a, S: Admit + OpenStream>(
    conn: &'a Arc<Conn<S>>,
    settings: &EdgeSettings,
    visiting: Visiting,
    body: RequestBody,
    upgrade: Option<OnUpgrade>,
) -> impl Future<Output = Result<Response<EdgeBody<S::Rx>>, Failure>> + use<'a, S> {
    let visit = Visit {
        http: Some(ask(conn, &visiting)),
        id: visiting.id,
        kind: Kind::Http,
        label: visiting.label,
        peer: visiting.visitor.addr,
        bytes: held::bytes(conn.facts.is_multiplexed, &visiting.head, &body),
    };
    let head = visiting.head;
    let is_extended = head.protocol.is_some() && head.version >= 20;
    let has_body = head.protocol.is_none() && !body.is_end_stream();
    let mut errand = Errand {
        conn,
        wall: visiting.wall,
        origin: head.fields.get(header::ORIGIN).cloned(),
        method: head.method.clone(),
        protocol: head.protocol.clone(),
        expects_continue: head.expects_continue && has_body,
        is_extended,
        is_conversation: is_conversation(&head),
        timeout: settings.origin_timeout,
        head: wire_head(&visiting.visitor, settings, visiting.id, head, has_body),
        body: has_body.then(|| Sent::new(body, visiting.log.clone())),
        upgrade,
        log: visiting.log,
        found: None,
    };
    let place = visiting.place;
    async move {
        let mut earlier: Option<(LinkId, Failure)> = None;
        loop {
            let admitted = conn.edge.inside.admit(visit.clone()).await;
            let is_last = earlier.is_some();
            let pass = errand.may_go(admitted, &place, earlier.take())?;
            let link = pass.route.link;
            match errand.go(pass).await {
                result if is_last => return result,
                Err(failure) if failure.nothing_was_sent() && errand.body.is_some() == has_body => {
                    debug!(visit = %visit.id, %link, why = %failure, "nothing was sent, trying once more");
                    if matches!(failure, Failure::Open(OpenError::LinkGone)) {
                        tokio::time::sleep(LINK_NEWS).await;
                    }
                    earlier = Some((link, failure));
                }
                Err(Failure::Cut) => return Err(Box::pin(why_cut(conn, visit)).await),
                result => return result,
            }
        }
    }
}

/// What the engine is asked, with what the request says of who sends it.
fn ask<S: Admit>(conn: &Conn<S>, visiting: &Visiting) -> HttpAsk {
    let (edge, head) = (&conn.edge, &visiting.head);
    let mut proofs = visiting.proofs.iter();
    HttpAsk {
        credentials: edge.digester.credentials(&head.fields),
        share: proofs.find_map(|proof| edge.inside.share_of(&visiting.label, proof)),
        ..HttpAsk::new(head.method.clone(), head.path.clone())
    }
}

/// A visit that was cut before its answer gets what the next one gets: its tunnel expired or closed, was
/// suspended, or has another policy now.
async fn why_cut<S: Admit>(conn: &Conn<S>, visit: Visit) -> Failure {
    // A question of its own: what is left of the visit may still end under the old id.
    let visit = Visit {
        id: VisitId::random(),
        ..visit
    };
    match conn.edge.inside.admit(visit).await {
        Err(refusal) => Failure::Refused(refusal),
        // Others sign now. Not that the tunnel is gone: senders would take it off their lists.
        Ok(pass) if !pass.route.policy.webhooks().is_empty() => {
            let (tunnel, why) = (pass.route.slug.clone(), Unsigned::Wrong);
            Failure::Refused(Refusal::Unsigned { tunnel, why })
        }
        Ok(_) => Failure::Cut,
    }
}

/// Carries what is admitted already and has neither body nor upgrade; once.
pub(super) async fn once<S: Admit + OpenStream>(
    conn: &Arc<Conn<S>>,
    settings: &EdgeSettings,
    visiting: Visiting,
    pass: Pass,
    timeout: Duration,
) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
    let head = visiting.head;
    let mut errand = Errand {
        conn,
        wall: visiting.wall,
        origin: None,
        method: head.method.clone(),
        protocol: None,
        expects_continue: false,
        is_extended: false,
        is_conversation: false,
        timeout,
        head: wire_head(&visiting.visitor, settings, visiting.id, head, false),
        body: None,
        upgrade: None,
        log: visiting.log,
        found: None,
    };
    errand.go(Arc::new(in_place(pass, &visiting.place))).await
}

/// The visit keeps its place until it is over.
fn in_place(pass: Pass, place: &Arc<OwnedSemaphorePermit>) -> Pass {
    Pass {
        guard: Box::new((pass.guard, Arc::clone(place))),
        ..pass
    }
}

/// gRPC's calls may rest as long as they like, also before they are answered. Only HTTP/2 carries them,
/// where a call that rests costs a stream and no connection.
fn is_conversation(head: &Head) -> bool {
    let kind = head.fields.get(header::CONTENT_TYPE);
    head.version >= 20 && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn is_event_stream(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| {
        kind.as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"text/event-stream")
    })
}

/// The one request that goes on: parsed values only, and what we alone know of the visitor.
fn wire_head(
    visitor: &Visitor,
    settings: &EdgeSettings,
    visit: VisitId,
    head: Head,
    has_body: bool,
) -> StreamHead {
    let mut fields = head.fields;
    // Six fields of ours come.
    fields.reserve(6);
    add_forwarded(&mut fields, visitor, &head.authority);
    add_ours(&mut fields, visit, head.version);
    StreamHead::Http(Box::new(HttpHead {
        // Filled in once the engine has named it.
        tunnel: TunnelId::from_bytes([0; 16]),
        visit,
        method: head.method,
        scheme: visitor.scheme.as_str().to_owned(),
        authority: head.authority,
        path: head.path,
        fields,
        peer: visitor.addr,
        protocol: head.protocol,
        version: head.version,
        has_body,
        expects_continue: head.expects_continue && has_body,
        timeout_ms: u64::try_from(settings.origin_timeout.as_millis()).unwrap_or(u64::MAX),
        // Filled in then, too.
        shadowed: Vec::new(),
    }))
}

const REQUEST_ID: HeaderName = HeaderName::from_static("wormkey-request-id");
const HTTP_VERSION: HeaderName = HeaderName::from_static("wormkey-http-version");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What only we know: the id that logs and visitors see, and the version the visitor speaks. Not Via, which
/// would say the same: nginx and others stop compressing for requests that carry one.
fn add_ours(fields: &mut HeaderMap, visit: VisitId, version: u8) {
    fields.insert(REQUEST_ID, value(visit.to_string()));
    let version = HeaderValue::from_static(version_named(version));
    fields.insert(HTTP_VERSION, version);
}

/// `X-Forwarded-*` and `Forwarded` (RFC 7239), exactly ours: the visitor's own were dropped.
fn add_forwarded(fields: &mut HeaderMap, visitor: &Visitor, authority: &str) {
    let ip = visitor.addr.ip();
    let (is_ipv6, ip) = (ip.is_ipv6(), ip_text(ip));
    let scheme = visitor.scheme.as_str();
    let [open, close] = if is_ipv6 { ["\"[", "]\""] } else { [""; 2] };
    let quote = if authority.contains(':') { "\"" } else { "" };
    let forwarded = [
        "for=", open, &ip, close, ";host=", quote, authority, quote, ";proto=", scheme,
    ];
    fields.insert(header::FORWARDED, value(forwarded.concat()));
    fields.insert(FORWARDED_FOR, value(ip));
    fields.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    fields.insert(FORWARDED_HOST, value(authority.to_owned()));
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("ids, addresses and host names are visible ASCII")
}

impl<S: Admit + OpenStream> Errand<'_, S> {
    /// The way it goes now, after what came of the time before.
    fn may_go(
        &self,
        admitted: Result<Pass, Refusal>,
        place: &Arc<OwnedSemaphorePermit>,
        earlier: Option<(LinkId, Failure)>,
    ) -> Result<Arc<Pass>, Failure> {
        let pass = match (admitted, earlier) {
            (Err(_), Some((_, failure))) => return Err(failure),
            (Err(refusal), None) => return Err(Failure::Refused(refusal)),
            // The same client would say the same again.
            (Ok(pass), Some((link, failure)))
                if pass.route.link == link && !matches!(failure, Failure::Open(_)) =>
            {
                return Err(failure);
            }
            (Ok(pass), _) => in_place(pass, place),
        };
        self.tell_admitted(&pass.route);
        Ok(Arc::new(pass))
    }

    async fn go(&mut self, mut pass: Arc<Pass>) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
        self.look_for_signature(&mut pass).await?;
        if let StreamHead::Http(head) = &mut self.head {
            head.tunnel = pass.route.tunnel;
            head.shadowed = pass.route.shadows();
        }
        let link = pass.route.link;
        let head = self.dressed(&pass.route.policy);
        let opened = tokio::select! {
            biased;
            () = pass.cut.cancelled() => return Err(Failure::Cut),
            opened = self.conn.edge.inside.open(link, &head) => opened,
        };
        let (tx, rx) = opened.map_err(Failure::Open)?;
        if self.protocol.is_some() {
            Box::pin(self.switch(pass, tx, rx)).await
        } else {
            self.exchange(pass, tx, rx).await
        }
    }

    /// Refuses what is not signed as the tunnel asks. A shadow lets it go on, and tells.
    async fn look_for_signature(&mut self, pass: &mut Arc<Pass>) -> Result<(), Failure> {
        let policy = &pass.route.policy;
        if policy.webhooks().is_empty() || self.found.as_ref().is_some_and(|f| f.holds(policy)) {
            return Ok(());
        }
        self.found = None;
        let StreamHead::Http(head) = &mut self.head else {
            return Ok(());
        };
        let signatures = &self.conn.edge.signatures;
        let settings = self.conn.edge.settings.load_full();
        let body = (self.body.as_mut(), &*settings);
        let look = Box::pin(signatures.look(&pass.route, &head.fields, body));
        let looked = tokio::select! {
            biased;
            () = pass.cut.cancelled() => return Err(Failure::Cut),
            looked = look => looked,
        };
        if self.body.as_ref().is_some_and(Sent::has_begun) {
            // The visitor has its 100, and the origin need not be asked.
            head.expects_continue = false;
            self.expects_continue = false;
        }
        let delivery = match looked {
            Ok(delivery) => Some(delivery),
            Err(failure)
                if policy.is_shadow(Part::Webhook) && signed::is_about_signature(&failure) =>
            {
                let pass = Arc::get_mut(pass).expect("nobody else holds it before it is sent");
                pass.route.shadowed.push(RuleId::Webhook);
                self.tell_admitted(&pass.route);
                None
            }
            Err(failure) => return Err(self.blame(failure)),
        };
        self.found = Some(Found::new(Arc::clone(&pass.route.policy), delivery));
        Ok(())
    }

    fn tell_admitted(&self, route: &Route) {
        self.log.admitted(route, || match &self.head {
            StreamHead::Http(head) => Asked {
                method: Some(head.method.as_str()),
                host: Some(&head.authority),
                path: Some(&head.path),
                version: Some(version_named(head.version)),
            },
            _ => Asked::default(),
        });
    }

    /// The origin has answered: what it was sent counts as delivered.
    fn tell_answered(&mut self, status: StatusCode) {
        if let Some(found) = self.found.take() {
            found.answered(status);
        }
    }

    /// The head as the policy wants it; a visit that is tried twice may meet two policies.
    fn dressed(&self, policy: &Policy) -> Cow<'_, StreamHead> {
        let mut head = Cow::Borrowed(&self.head);
        if dress::changes_requests(policy)
            && let StreamHead::Http(head) = head.to_mut()
        {
            dress::request(policy, &mut head.fields);
        }
        head
    }

    fn throttle(&self, pass: &Pass, way: Way) -> Throttle {
        self.conn.edge.shaper.throttle(pass, way)
    }

    /// A response's fields as the policy wants them.
    fn dress_answer(&self, pass: &Pass, fields: &mut HeaderMap) {
        let (policy, domain) = (&pass.route.policy, &self.wall);
        dress::response(policy, domain, self.origin.as_ref(), fields);
    }

    /// A request and its response.
    async fn exchange(
        &mut self,
        pass: Arc<Pass>,
        mut tx: S::Tx,
        mut rx: S::Rx,
    ) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
        let cancel = CancellationToken::new();
        let undone = cancel.clone().drop_guard();
        let mut upload = match self.body.take() {
            Some(body) => Some(Upload::start(
                &self.conn.edge.connections,
                tx,
                body,
                Manner {
                    expects_continue: self.expects_continue,
                    may_pause: self.is_conversation,
                },
                Arc::clone(&pass),
                cancel.clone(),
                self.throttle(&pass, Way::Up),
            )),
            None => {
                tx.finish();
                None
            }
        };
        let mut decoder = FrameDecoder::new();
        let waiting = Waiting {
            pass: &pass,
            timeout: self.timeout,
        };
        let head = waiting
            .final_head(&mut rx, &mut decoder, upload.as_mut())
            .await
            .map_err(|failure| {
                // The client gives up a request whose body broke off; the visitor hears of its own part.
                let told = upload.as_mut().and_then(Upload::told);
                self.blame(told.unwrap_or(failure))
            })?;
        let progress = upload.map(|upload| upload.progress());
        self.answer(head, WireBody::new(rx, decoder), pass, (undone, progress))
            .await
    }

    /// A body that broke its framing is told apart from one that just ended.
    fn blame(&self, failure: Failure) -> Failure {
        let is_bad = |l: &Arc<super::ledger::Ledger>| l.has_bad_body();
        match failure {
            Failure::BodyBroken if self.conn.ledger.as_ref().is_some_and(is_bad) => {
                Failure::Head(HeadError::Chunk)
            }
            other => other,
        }
    }

    async fn answer(
        &mut self,
        head: ResponseHead,
        mut body: WireBody<S::Rx>,
        pass: Arc<Pass>,
        (undone, progress): (DropGuard, Option<Arc<Progress>>),
    ) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
        let (status, mut fields) = (head.status, head.fields);
        let stated = response::clean(&self.method, status, &mut fields).map_err(Failure::Answer)?;
        self.tell_answered(status);
        self.dress_answer(&pass, &mut fields);
        // An end that is known already goes out with the head: gRPC's trailers-only answers need that.
        let expected = match stated {
            Expected::Open | Expected::Length(0) if head.ends => Expected::None,
            stated => stated,
        };
        if expected == Expected::None {
            read_end(&mut body).await;
        }
        let is_patient = is_event_stream(&fields);
        let throttle = self.throttle(&pass, Way::Down);
        let held = Held {
            pass,
            upload: undone.disarm(),
        };
        let ends = Ends {
            throttle,
            board: Arc::clone(&self.conn.edge.stalls),
            outlet: Some(Outlet {
                activity: Arc::clone(&self.conn.activity),
                abort: self.conn.abort.clone(),
                is_alone: self.conn.ledger.is_some(),
                is_patient,
            }),
            _patience: is_patient.then(|| Patience::new(&self.conn.activity)),
            progress,
            log: self.log.clone(),
            status,
        };
        let body = VisitBody::new(body, expected, held, ends);
        let mut response = Response::new(EdgeBody::visit(body));
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        Ok(response)
    }

    /// A request that asks for another protocol.
    async fn switch(
        &mut self,
        pass: Arc<Pass>,
        mut tx: S::Tx,
        mut rx: S::Rx,
    ) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
        let mut decoder = FrameDecoder::new();
        let waiting = Waiting {
            pass: &pass,
            timeout: self.timeout,
        };
        let head = waiting.final_head(&mut rx, &mut decoder, None).await?;
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            // A 2xx would tell a CONNECT that the tunnel stands.
            if self.is_extended && head.status.is_success() {
                return Err(Failure::NoSwitch);
            }
            tx.finish();
            let undone = CancellationToken::new().drop_guard();
            return self
                .answer(head, WireBody::new(rx, decoder), pass, (undone, None))
                .await;
        }
        let on = self.upgrade.take().ok_or(Failure::NoSwitch)?;
        self.tell_answered(head.status);
        let mut head = head;
        self.dress_answer(&pass, &mut head.fields);
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let response = upgrade::head(head, protocol, self.is_extended);
        let splice = upgrade::Splice {
            tx,
            rx,
            first: decoder.into_rest(),
            throttles: [Way::Up, Way::Down].map(|way| self.throttle(&pass, way)),
            pass,
            log: self.log.clone(),
            status: response.status(),
        };
        splice.start(self.conn, on);
        Ok(response)
    }
}

/// What a wait for a response head ends with besides the head.
struct Waiting<'a> {
    pass: &'a Pass,
    timeout: Duration,
}

impl Waiting<'_> {
    /// The final head; a 100 on the way lets the upload go, other interim heads end here.
    async fn final_head<R: RecvChunks>(
        &self,
        rx: &mut R,
        decoder: &mut FrameDecoder,
        mut upload: Option<&mut Upload>,
    ) -> Result<ResponseHead, Failure> {
        loop {
            let head = self.next_head(rx, decoder, upload.as_deref_mut()).await?;
            match (head.status, &mut upload) {
                (StatusCode::CONTINUE, Some(upload)) => upload.go(),
                (StatusCode::SWITCHING_PROTOCOLS, _) => return Ok(head),
                (status, _) if status.is_informational() => {}
                _ => return Ok(head),
            }
        }
    }

    async fn next_head<R: RecvChunks>(
        &self,
        rx: &mut R,
        decoder: &mut FrameDecoder,
        upload: Option<&mut Upload>,
    ) -> Result<ResponseHead, Failure> {
        let offline = &self.pass.offline;
        let trouble = async {
            match upload {
                Some(upload) => upload.trouble(self.timeout, offline).await,
                None => tokio::select! {
                    biased;
                    () = offline.cancelled() => Failure::Away,
                    () = after(self.timeout) => Failure::Timeout,
                },
            }
        };
        tokio::select! {
            biased;
            () = self.pass.cut.cancelled() => Err(Failure::Cut),
            // Before the trouble: an origin may answer and close while the body still comes.
            head = read_response_head(rx, decoder) => Ok(head?),
            failure = trouble => Err(failure),
        }
    }
}

/// Never, when there is no limit.
pub(super) async fn after(limit: Duration) {
    if limit.is_zero() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(limit).await;
}

/// The end of a stream whose head has no body comes right behind it; a stream that was read to its end
/// is not one that was given up.
async fn read_end<R: RecvChunks>(body: &mut WireBody<R>) {
    let end = std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx));
    // Whatever comes instead of the end reaches nobody.
    let _ = tokio::time::timeout(END_GRACE, end).await;
}
