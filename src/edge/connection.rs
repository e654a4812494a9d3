//! One connection of a visitor, from its first byte to its last: HTTP/1 behind the guard, or HTTP/2.
//! Not what its requests mean: that is `serve`.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::frames::Frames;
use super::guard::Guard;
use super::incoming::RequestBody;
use super::ledger::Ledger;
use super::outflow::{Outflow, Outgoing};
use super::slots::Slot;
use super::{Admit, Attach, Inner, OpenStream, h3, serve};
use crate::http::limits::{FIELDS_MAX, HEAD_MAX, IDLE_TIMEOUT, RATE_MIN};
use crate::http::{HeadError, Scheme};
use crate::names::Hostname;
use crate::tasks::Tasks;

/// hyper's read buffer must hold the largest head; its write buffer is what a visitor that stands still
/// costs us, so not more than that.
pub(super) const H1_BUFFER: usize = 64 * 1024;

/// Requests at once on one HTTP/2 connection; browsers use about 100.
pub(super) const H2_STREAMS: u32 = 256;

/// How far an upload may run ahead: 1 MiB is 80 Mbit/s at 100 ms for one stream, and four such streams
/// fill the connection. More would let one connection fill much memory with what no origin takes.
pub(super) const H2_STREAM_WINDOW: u32 = 1 << 20;
pub(super) const H2_CONNECTION_WINDOW: u32 = 4 << 20;

/// h2 counts 32 bytes more for each field than the head would have in HTTP/1. Its limit must not come
/// before ours, which alone answers 431 with a page.
pub(super) const H2_HEADER_LIST: u32 = (HEAD_MAX + (FIELDS_MAX + 4) * 32) as u32;

/// Per stream: what waits for the visitor's window beside what h2 has framed.
const H2_SEND_BUFFER: usize = 64 * 1024;

/// Streams the visitor reset before we took them, and ones we reset for errors, before the connection
/// is a rapid-reset attack and ends with GOAWAY (CVE-2023-44487, CVE-2025-8671).
const H2_PENDING_RESETS: usize = 32;
const H2_ERROR_RESETS: usize = 256;

/// A visitor that is silent this long is asked for a sign of life, and has as long again.
const H2_PING: Duration = Duration::from_secs(20);

/// How long a connection that is in trouble has to get its GOAWAY out.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// For how long we go on reading once a drain has begun: what a visitor asked before he could know of it is
/// on its way, or lies unread in a socket, and HTTP/1.1 has no word by which he would learn that it was not
/// read.
pub(super) const LAST_QUESTIONS: Duration = Duration::from_millis(100);

/// How long a connection that is idle for us may take for what h2 still holds of its last answers: all of
/// it, at the minimum rate.
const LEAVES_WITHIN: Duration = Duration::from_secs(H2_SEND_BUFFER as u64 / RATE_MIN);

/// What is known of a connection before its first byte of HTTP.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) peer: SocketAddr,
    pub(super) scheme: Scheme,
    /// The name TLS was asked for.
    pub(super) sni: Option<Hostname>,
    /// Whether many requests share it: ALPN chose HTTP/2, or it is HTTP/3.
    pub(super) is_multiplexed: bool,
    /// Whether something of the operator's stands in between: a visitor cannot come to us past it.
    pub(super) is_behind: bool,
    /// Its place among the connections; kept by what outlives the HTTP on it.
    pub(super) slot: Option<Arc<Slot>>,
}

/// A connection, as its requests see it.
pub(super) struct Conn<S> {
    pub(super) edge: Arc<Inner<S>>,
    pub(super) facts: Facts,
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) activity: Arc<Activity>,
    /// Ends the connection at once.
    pub(super) abort: CancellationToken,
}

/// What idleness and slowness are judged by.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests under way, and how many there were.
    busy: AtomicUsize,
    begun: AtomicU64,
    /// Whether what was written last waits for the visitor to take it.
    blocked: AtomicBool,
    /// What is under way that may be as slow as it likes.
    patient: AtomicUsize,
    /// Responses that were given up while HTTP/2 keeps their stream.
    given_up: AtomicUsize,
}

impl Activity {
    /// The socket takes no more at the moment: what stands still stands behind that.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    pub(super) fn is_patient(&self) -> bool {
        self.patient.load(Ordering::Relaxed) > 0
    }

    pub(super) fn give_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn give_up_ended(&self) {
        self.given_up.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing is under way but what was given up.
    pub(super) fn is_useless(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) >= self.busy.load(Ordering::Relaxed)
    }
}

/// Until this is dropped the visitor may take what is sent as slowly as it likes: an upgraded
/// connection, or an event stream.
#[derive(Debug)]
pub(super) struct Patience(Arc<Activity>);

impl Patience {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.patient.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.0.patient.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something is under way on a connection until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        activity.begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request's turn on its connection: from its head until hyper has let go of its answer.
#[derive(Debug)]
pub(super) struct Turn {
    ledger: Option<(Arc<Ledger>, u64)>,
    _busy: Busy,
}

impl Turn {
    /// Why the guard refused this request before hyper saw it.
    pub(super) fn refusal(&self) -> Option<HeadError> {
        let (ledger, number) = self.ledger.as_ref()?;
        ledger.refusal(*number)
    }

    /// How it was answered: the guard may be holding back what follows.
    pub(super) fn settle(&self, switched: bool) {
        if let Some((ledger, number)) = &self.ledger {
            ledger.settle(*number, switched);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((ledger, _)) = &self.ledger {
            ledger.finish();
        }
    }
}

impl<S> Conn<S> {
    pub(super) fn turn(&self) -> Turn {
        Turn {
            ledger: self
                .ledger
                .as_ref()
                .map(|ledger| (Arc::clone(ledger), ledger.next_number())),
            _busy: Busy::new(&self.activity),
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn run<S, I>(edge: Arc<Inner<S>>, io: I, facts: Facts)
where
    S: Admit + Attach + OpenStream,
    I: Outgoing + AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let conn = Arc::new(Conn {
        edge,
        ledger: (!facts.is_multiplexed).then(Arc::default),
        facts,
        activity: Arc::default(),
        abort: CancellationToken::new(),
    });
    let io = Outflow::new(io, Arc::clone(&conn.activity));
    match &conn.ledger {
        Some(ledger) => {
            let guard = Guard::new(io, conn.facts.scheme, Arc::clone(ledger));
            run_http1(&conn, ledger, guard).await;
        }
        None => {
            let frames = Frames::new(io, conn.abort.child_token());
            // In a box: most connections are of one kind or the other, and pay for their own.
            Box::pin(run_http2(&conn, frames)).await;
        }
    }
}

/// What hyper holds of a connection, its buffers above all, is let go while that has nothing to do.
async fn run_http1<S, I>(conn: &Arc<Conn<S>>, ledger: &Ledger, mut io: Guard<I>)
where
    S: Admit + Attach + OpenStream,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // In a box, which is gone while the connection rests.
    while let Some(resting) = Box::pin(serve_http1(conn, ledger, io)).await {
        io = resting;
        let woken = rest(conn, &mut io).await;
        ledger.set_resting(false);
        match woken {
            Some(Ok(())) => {}
            Some(Err(error)) => return log_error(conn, &error),
            None => return,
        }
    }
}

/// Serves requests to the end of the connection, or until it rests: then it comes back.
async fn serve_http1<S, I>(conn: &Arc<Conn<S>>, ledger: &Ledger, io: Guard<I>) -> Option<Guard<I>>
where
    S: Admit + Attach + OpenStream,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = http1::Builder::new()
        // Half-close stays off: a visitor that closes its side has gone, and its visit is cancelled.
        // Heads and their times are the guard's.
        .header_read_timeout(None)
        .max_buf_size(H1_BUFFER)
        .serve_connection(TokioIo::new(io), service(conn))
        .with_upgrades();
    let (stop, draining) = (conn.edge.connections.stopped(), &conn.edge.draining);
    let mut farewell = pin!(farewell(draining));
    let resting = || match ledger.is_resting() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    };
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = conn.abort.cancelled() => return None,
            // Before the farewell: what can be read by then is still answered.
            ended = &mut connection => {
                log_end(conn, ended);
                return None;
            }
            () = farewell.as_mut(), if !is_draining => {
                is_draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            // Polled behind the connection, whose guard finds it out. Nothing rests in a drain: hyper says goodbye.
            () = poll_fn(|_| resting()), if !draining.is_cancelled() => break,
        }
    }
    // An idle hyper has read nothing that it has not used; what it had would be lost.
    let parts = connection.into_parts()?;
    parts.read_buf.is_empty().then(|| parts.io.into_inner())
}

/// Waits in hyper's place until there is something for it. None when the connection shall just end.
async fn rest<S, I>(conn: &Conn<S>, io: &mut Guard<I>) -> Option<std::io::Result<()>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let stop = conn.edge.connections.stopped();
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        () = conn.abort.cancelled() => None,
        // It is hyper that says goodbye.
        () = conn.edge.draining.cancelled() => Some(Ok(())),
        woken = poll_fn(|cx| io.poll_wake(cx)) => Some(woken),
    }
}

/// Ends when a drain has begun, and what was asked before it has had time to be read.
pub(super) async fn farewell(draining: &CancellationToken) {
    draining.cancelled().await;
    tokio::time::sleep(LAST_QUESTIONS).await;
}

async fn run_http2<S, I>(conn: &Arc<Conn<S>>, io: Frames<I>)
where
    S: Admit + Attach + OpenStream,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (service, trouble) = (service(conn), io.trouble());
    let connection = http2::Builder::new(OnTasks(conn.edge.connections.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(H2_HEADER_LIST)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS)
        .max_local_error_reset_streams(H2_ERROR_RESETS)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let (stop, draining) = (conn.edge.connections.stopped(), &conn.edge.draining);
    let mut idle = pin!(idle(&conn.activity));
    let mut last_words = pin!(last_words(&trouble));
    let left = CancellationToken::new();
    let mut leaves = pin!(leaves(&left, &conn.activity));
    let (mut is_closing, mut is_troubled) = (false, false);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = conn.abort.cancelled() => return,
            () = draining.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = trouble.cancelled(), if !is_troubled => {
                debug!(peer = %conn.facts.peer, "too many useless frames, or half a head");
                is_troubled = true;
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = last_words.as_mut() => return,
            ended = connection.as_mut() => return log_end(conn, ended),
            // After the connection: whatever it has to do makes it busy. A peer that does not even
            // answer GOAWAY has its last chance with the ping's timeout.
            () = idle.as_mut(), if !is_closing => {
                is_closing = true;
                left.cancel();
                connection.as_mut().graceful_shutdown();
            }
            () = leaves.as_mut() => return,
        }
    }
}

/// Ends when a connection in trouble has had time for its GOAWAY.
async fn last_words(trouble: &CancellationToken) {
    trouble.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Ends some time after an idle connection was told to go, with nothing under way: a visitor that opens no
/// window for the last bytes of an answer would keep it for good.
async fn leaves(left: &CancellationToken, activity: &Activity) {
    left.cancelled().await;
    loop {
        tokio::time::sleep(LEAVES_WITHIN).await;
        if !activity.is_busy() {
            return;
        }
    }
}

/// Ends when nothing was under way for the idle time, or up to half of it more.
pub(super) async fn idle(activity: &Activity) {
    let mut quiet = 0;
    let mut seen = 0;
    while quiet < 2 {
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
        let begun = activity.begun.load(Ordering::Relaxed);
        let is_quiet = begun == seen && activity.busy.load(Ordering::Relaxed) == 0;
        seen = begun;
        quiet = if is_quiet { quiet + 1 } else { 0 };
    }
}

fn log_end<S>(conn: &Conn<S>, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        log_error(conn, &error);
    }
}

fn log_error<S>(conn: &Conn<S>, error: &dyn std::error::Error) {
    debug!(peer = %conn.facts.peer, %error, "connection ended early");
}

type Answer<S> = http::Response<super::body::EdgeBody<<S as OpenStream>::Rx>>;
type Answering<S> = Pin<Box<dyn Future<Output = Result<Answer<S>, Infallible>> + Send>>;

fn service<S: Admit + Attach + OpenStream>(
    conn: &Arc<Conn<S>>,
) -> impl hyper::service::Service<
    http::Request<Incoming>,
    Response = Answer<S>,
    Error = Infallible,
    Future = Answering<S>,
> + use<S> {
    let conn = Arc::clone(conn);
    service_fn(move |request| -> Answering<S> {
        let conn = Arc::clone(&conn);
        Box::pin(async move {
            let mut response = serve::answer(&conn, request.map(RequestBody::from)).await;
            h3::advertise(&conn, &mut response);
            let is_http1 = conn.ledger.is_some();
            if is_http1 && conn.edge.draining.is_cancelled() && !is_switch(&response) {
                // The next question belongs on another connection.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(response)
        })
    })
}

fn is_switch<B>(response: &http::Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// hyper's HTTP/2 tasks, owned like all others.
#[derive(Clone)]
struct OnTasks(Tasks);

impl<F> Executor<F> for OnTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("edge-h2-stream", future);
    }
}
