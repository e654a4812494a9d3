//! Upgrades: after the origin's 101 the visitor's connection (HTTP/1.1) or stream (RFC 8441 over
//! HTTP/2) and the link's stream carry raw bytes both ways, until both directions have ended.
//! Not WebSocket: frames are nobody's business here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::{poll_read_buf, poll_write_buf};
use tracing::debug;

use super::body::EdgeBody;
use super::both::{Early, both};
use super::connection::{Busy, Conn, Patience};
use super::serve::VisitLog;
use super::shape::{self, Throttle};
use super::{OpenStream, Pass};
use crate::http::response;
use crate::wire::{RecvChunks, ResponseHead, SendChunks, StreamCode, StreamError, send_all};

/// hyper hands the connection over once the 101 is written; a visitor that does not even take that has
/// gone.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// One read from the visitor, and how many of them go into one write.
const READ_SIZE: usize = 16 * 1024;
const BATCH: usize = 16;

/// The answer that completes an upgrade: 101, or 200 to an extended CONNECT.
pub(super) fn head<R: RecvChunks>(
    head: ResponseHead,
    asked: &str,
    is_extended: bool,
) -> Response<EdgeBody<R>> {
    let mut fields = head.fields;
    let chosen = fields.get(header::UPGRADE).cloned();
    response::clean_switch(&mut fields);
    let mut response = Response::new(EdgeBody::own(Bytes::new()));
    if is_extended {
        // The handshake of RFC 6455 has no place in HTTP/2; negotiated fields stay.
        fields.remove(header::SEC_WEBSOCKET_ACCEPT);
        *response.status_mut() = StatusCode::OK;
    } else {
        let asked = HeaderValue::from_str(asked).ok();
        if let Some(protocol) = chosen.or(asked) {
            fields.insert(header::UPGRADE, protocol);
        }
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    *response.headers_mut() = fields;
    response
}

/// Both ends of a connection that is to become one.
pub(super) struct Splice<T, R> {
    pub(super) tx: T,
    pub(super) rx: R,
    /// What came right behind the 101.
    pub(super) first: VecDeque<Bytes>,
    pub(super) pass: Arc<Pass>,
    /// What holds it back, up and down.
    pub(super) throttles: [Throttle; 2],
    pub(super) log: VisitLog,
    pub(super) status: StatusCode,
}

impl<T: SendChunks, R: RecvChunks> Splice<T, R> {
    /// Runs in a task of its own once hyper hands the connection over.
    pub(super) fn start<S: OpenStream>(self, conn: &Conn<S>, on: OnUpgrade) {
        let stop = conn.edge.connections.stopped();
        let held = (
            Busy::new(&conn.activity),
            Patience::new(&conn.activity),
            conn.facts.slot.clone(),
        );
        let cut = self.pass.cut.clone();
        conn.edge.connections.spawn("edge-splice", async move {
            let _held = held;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = cut.cancelled() => {}
                () = self.run(on) => {}
            }
        });
    }

    async fn run(mut self, on: OnUpgrade) {
        let Some(visitor) = switched(on).await else {
            return;
        };
        let (from_visitor, to_visitor) = tokio::io::split(visitor);
        let ended = {
            let [slow_up, slow_down] = self.throttles;
            let up = up(from_visitor, &mut self.tx, slow_up, &self.log);
            let given = Given::new(&self.log);
            let down = down(&mut self.rx, self.first, to_visitor, slow_down, &given);
            both(up, down, || given.flushed.load(Ordering::Relaxed)).await
        };
        if let Err(why) = &ended {
            debug!(%why, "splice ended early");
            self.tx.reset(StreamCode::Cancelled);
            self.rx.stop(StreamCode::Cancelled);
        }
        self.log.served(self.status, ended.is_ok());
    }
}

/// The connection, once hyper has handed it over.
pub(super) async fn switched(on: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match tokio::time::timeout(SWITCH_TIMEOUT, on).await {
        Ok(Ok(upgraded)) => return Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => debug!(%error, "visitor gone before the switch"),
        Err(_) => debug!("visitor too slow to switch"),
    }
    None
}

/// Why a splice ended before both directions had.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the visitor broke off: {0}")]
    Visitor(#[from] io::Error),
    #[error("the client gave up: {0}")]
    Client(#[from] StreamError),
}

impl Early for Broken {
    fn of_client(&self) -> Option<&StreamError> {
        match self {
            Self::Client(error) => Some(error),
            Self::Visitor(_) => None,
        }
    }
}

/// Visitor to client. The visitor's end is the stream's end: half-close goes through.
async fn up<I: AsyncRead + Unpin, T: SendChunks>(
    mut visitor: I,
    tx: &mut T,
    mut throttle: Throttle,
    log: &VisitLog,
) -> Result<(), Broken> {
    let mut room = BytesMut::new();
    let mut chunks = Vec::with_capacity(BATCH);
    let mut watches = true;
    loop {
        shape::wait(&mut throttle).await;
        let batch = if throttle.slows() { 1 } else { BATCH };
        let ended = poll_fn(|cx| -> Poll<Result<bool, Broken>> {
            while chunks.len() < batch {
                room.reserve(READ_SIZE);
                match poll_read_buf(pin!(&mut visitor), cx, &mut room)? {
                    Poll::Ready(0) => return Poll::Ready(Ok(true)),
                    Poll::Ready(_) => chunks.push(room.split().freeze()),
                    Poll::Pending if !chunks.is_empty() => break,
                    Poll::Pending => {
                        if watches && let Poll::Ready(stopped) = tx.poll_stopped(cx) {
                            watches = false;
                            if let Some(error) = stopped {
                                return Poll::Ready(Err(error.into()));
                            }
                        }
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(false))
        })
        .await?;
        log.received(chunks.iter().map(|chunk| chunk.len() as u64).sum());
        throttle.took(chunks.iter().map(Bytes::len).sum());
        send_all(tx, &mut chunks).await?;
        chunks.clear();
        if ended {
            tx.finish();
            return Ok(());
        }
    }
}

/// What the visitor has got.
struct Given<'a> {
    log: &'a VisitLog,
    written: AtomicU64,
    /// Of that, what has left for the socket.
    flushed: AtomicU64,
}

impl<'a> Given<'a> {
    const fn new(log: &'a VisitLog) -> Self {
        Self {
            log,
            written: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
        }
    }

    fn wrote(&self, count: usize) {
        self.written.fetch_add(count as u64, Ordering::Relaxed);
        self.log.sent(count as u64);
    }

    fn flush(&self) {
        let written = self.written.load(Ordering::Relaxed);
        self.flushed.store(written, Ordering::Relaxed);
    }
}

/// Client to visitor: what has arrived goes in one write, and is flushed when nothing more is there.
async fn down<I: AsyncWrite + Unpin, R: RecvChunks>(
    rx: &mut R,
    mut queue: VecDeque<Bytes>,
    mut visitor: I,
    mut throttle: Throttle,
    given: &Given<'_>,
) -> Result<(), Broken> {
    loop {
        if queue.is_empty() {
            visitor.flush().await?;
            given.flush();
        }
        let mut chunks = [const { Bytes::new() }; 2 * BATCH];
        if queue.is_empty() {
            shape::wait(&mut throttle).await;
            // What is held back goes by the piece.
            let slots = if throttle.slows() { 1 } else { chunks.len() };
            let count = poll_fn(|cx| rx.poll_recv(cx, &mut chunks[..slots])).await?;
            if count == 0 {
                visitor.shutdown().await?;
                return Ok(());
            }
            queue.extend(chunks.into_iter().take(count));
        }
        let mut all = Queue(&mut queue);
        throttle.took(bytes::Buf::remaining(&all));
        while bytes::Buf::has_remaining(&all) {
            let wrote = poll_fn(|cx| poll_write_buf(pin!(&mut visitor), cx, &mut all)).await?;
            if wrote == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            given.wrote(wrote);
        }
    }
}

/// Several chunks as one buffer, so that they leave in one vectored write.
struct Queue<'a>(&'a mut VecDeque<Bytes>);

impl bytes::Buf for Queue<'_> {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |b| &b[..])
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [io::IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slot, chunk) in dst.iter_mut().zip(self.0.iter()) {
            *slot = io::IoSlice::new(chunk);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.0.front_mut() {
            if front.len() > count {
                bytes::Buf::advance(front, count);
                return;
            }
            count -= front.len();
            self.0.pop_front();
        }
    }
}
