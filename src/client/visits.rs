//! Visits that come down a link, each on a stream of its own: found their tunnel, handed to its origin,
//! counted while they last and told of when they are over. What client and server say to each other about
//! tunnels goes by [`super::session`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::debug;

use crate::admin::types::{EventJson, VisitJson};
use crate::codes::Code;
use crate::link::{Link, LinkRecv, LinkSend};
use crate::names::{VisitId, ip_text};
use crate::origin::VisitReport;
use crate::tasks::Tasks;
use crate::times::{Clock, Now};
use crate::wire::{HttpHead, RecvChunks as _, SendChunks as _, StreamCode, StreamHead};

use super::book::Live;
use super::probe::Probes;
use super::{Client, shadows};

/// The most characters of a path in a line about a visit.
const LONGEST: usize = 512;

/// Hands out the link's datagrams until it ends.
pub(super) async fn datagrams(link: Link, tasks: Tasks) {
    let stop = tasks.stopped();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = link.carry_datagrams() => {}
    }
}

/// Takes in visits until the link ends.
pub(super) async fn accept(client: Arc<Client>, link: Link, tasks: Tasks) {
    let stop = tasks.stopped();
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = link.accept() => next,
        };
        let (head, tx, rx) = match next {
            Ok(stream) => stream,
            // There is one reason not to get another: the link is gone.
            Err(_) => return,
        };
        let visit = visit(Arc::clone(&client), link.clone(), head, tx, rx);
        // Boxed, because starting a task moves it several times.
        tasks.spawn("visit", Box::pin(visit));
    }
}

async fn visit(
    client: Arc<Client>,
    link: Link,
    head: StreamHead,
    mut tx: LinkSend,
    mut rx: LinkRecv,
) {
    // Before anything is counted: what is asked of ourselves is no visit.
    if let StreamHead::Http(head) = &head
        && Probes::is_ours(head)
    {
        return Box::pin(client.probes.answer(head, tx, rx)).await;
    }
    let id = match &head {
        StreamHead::Http(head) => head.tunnel,
        StreamHead::Bytes(head) => head.tunnel,
        StreamHead::Udp(head) => head.tunnel,
        StreamHead::Control => {
            client.oddities.note("control stream of its own");
            tx.reset(StreamCode::Protocol);
            return rx.stop(StreamCode::Protocol);
        }
    };
    let Some(live) = client.book.live(id) else {
        // One that was ours may have ended while the visit was under way.
        match client.book.row(id) {
            Some(_) => debug!(tunnel = %id, "visit for a tunnel that is over refused"),
            None => client.oddities.note("visit for an unknown tunnel"),
        }
        tx.reset(StreamCode::UnknownTunnel);
        return rx.stop(StreamCode::UnknownTunnel);
    };
    let begun = Clock.now();
    client.book.visits_total.fetch_add(1, Ordering::Relaxed);
    let count = Counted::new(Arc::clone(&live), begun);
    let line = line_of(&head, &live);
    let work = serve(&client, &link, &live, head, tx, rx);
    let report = tokio::select! {
        biased;
        () = live.ended.cancelled() => None,
        report = work => Some(report),
    };
    drop(count);
    client.visit_ended.notify_waiters();
    client.tell_visit(line, begun, report.as_ref());
}

async fn serve(
    client: &Client,
    link: &Link,
    live: &Live,
    head: StreamHead,
    mut tx: LinkSend,
    mut rx: LinkRecv,
) -> VisitReport {
    let tunnel = Arc::clone(&live.origin);
    if let Err(code) = live.guard.admit(&client.origins, &tunnel).await {
        tx.reset(code);
        rx.stop(code);
        return VisitReport {
            error: Some(code),
            ..VisitReport::default()
        };
    }
    match head {
        StreamHead::Http(head) => client.origins.http(tunnel, head, tx, rx).await,
        StreamHead::Bytes(head) => Box::pin(client.origins.bytes(tunnel, head, tx, rx)).await,
        StreamHead::Udp(head) => match link.take_flow(head.flow, tx, rx) {
            Some(flow) => Box::pin(client.origins.udp(tunnel, head, flow)).await,
            None => VisitReport {
                error: Some(StreamCode::Protocol),
                ..VisitReport::default()
            },
        },
        StreamHead::Control => VisitReport::default(),
    }
}

/// What a line about a visit says before it begins.
struct Line {
    id: String,
    slug: String,
    method: String,
    path: String,
    peer: String,
    shadowed: Vec<String>,
}

fn line_of(head: &StreamHead, live: &Live) -> Line {
    let slug = live.origin.slug.to_string();
    let line = match head {
        StreamHead::Http(head) => http_line(head, slug),
        StreamHead::Bytes(head) => raw_line("BYTES", head.visit, head.peer, slug),
        StreamHead::Udp(head) => raw_line("UDP", head.visit, head.peer, slug),
        StreamHead::Control => Line {
            id: String::new(),
            slug,
            method: String::new(),
            path: String::new(),
            peer: String::new(),
            shadowed: Vec::new(),
        },
    };
    let shadowed = shadows::of(head);
    Line { shadowed, ..line }
}

fn http_line(head: &HttpHead, slug: String) -> Line {
    let method = match head.protocol.as_deref() {
        Some(protocol) => protocol.to_ascii_uppercase(),
        None => head.method.to_string(),
    };
    let path = head.path.split('?').next().unwrap_or_default();
    let end = if path.len() > LONGEST {
        path.char_indices().nth(LONGEST).map_or(path.len(), |c| c.0)
    } else {
        path.len()
    };
    Line {
        id: head.visit.to_string(),
        slug,
        method,
        path: path[..end].to_owned(),
        peer: ip_text(head.peer.ip()),
        shadowed: Vec::new(),
    }
}

fn raw_line(kind: &str, visit: VisitId, peer: SocketAddr, slug: String) -> Line {
    Line {
        id: visit.to_string(),
        slug,
        method: kind.to_owned(),
        path: String::new(),
        peer: peer.ip().to_string(),
        shadowed: Vec::new(),
    }
}

impl Client {
    fn tell_visit(&self, line: Line, begun: Now, report: Option<&VisitReport>) {
        let millis = Clock
            .now()
            .monotonic
            .saturating_duration_since(begun.monotonic)
            .as_millis() as u64;
        let status = report.and_then(|r| r.status);
        let error = match report {
            Some(report) => report.error.map(|code| failure(code).as_str()),
            None => Some("tunnel_closed"),
        };
        debug!(
            visit = line.id,
            slug = line.slug,
            method = line.method,
            path = line.path,
            status,
            error,
            millis,
            "visit"
        );
        self.events.tell(EventJson::Visit(VisitJson {
            id: line.id,
            slug: line.slug,
            at: begun.wall,
            method: line.method,
            path: line.path,
            status,
            peer: line.peer,
            millis,
            bytes_out: report.map_or(0, |r| r.bytes_out),
            error: error.map(str::to_owned),
            shadowed: line.shadowed,
        }));
    }
}

/// What a visit's report to its owner calls its failure. More exact than what the visitor reads, who learns
/// nothing of what is wrong inside.
const fn failure(code: StreamCode) -> Code {
    match code {
        StreamCode::OriginUnreachable => Code::OriginUnreachable,
        StreamCode::OriginError | StreamCode::BrokeAfter(_) => Code::OriginError,
        StreamCode::OriginTimeout => Code::OriginTimeout,
        StreamCode::NotAllowed => Code::TargetNotAllowed,
        StreamCode::Exposed => Code::ExposedOrigin,
        StreamCode::Cancelled => Code::Cancelled,
        StreamCode::Overloaded | StreamCode::TooSlow => Code::Overloaded,
        StreamCode::TunnelEnded => Code::TunnelClosed,
        StreamCode::Unsupported => Code::NotImplemented,
        StreamCode::UnknownTunnel => Code::NoSuchTunnel,
        StreamCode::Protocol | StreamCode::Internal | StreamCode::Unknown(_) => Code::Internal,
    }
}

/// Counts a visit while it lasts.
struct Counted(Arc<Live>);

impl Counted {
    fn new(live: Arc<Live>, now: Now) -> Self {
        live.visits.fetch_add(1, Ordering::Relaxed);
        live.visits_total.fetch_add(1, Ordering::Relaxed);
        live.last_seen
            .store(now.wall.as_millis().unsigned_abs(), Ordering::Relaxed);
        Self(live)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let now = Clock.now();
        self.0.note_end(now.monotonic);
        self.0.visits.fetch_sub(1, Ordering::Relaxed);
        self.0
            .last_seen
            .store(now.wall.as_millis().unsigned_abs(), Ordering::Relaxed);
    }
}
