//! One connection to an origin that speaks HTTP: beginning it, and the task that drives it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::body::RequestBody;
use super::socket::{OriginIo, Probe};
use crate::tasks::Tasks;
use crate::wire::HEAD_MAX;

/// How long a server may take to show that it speaks HTTP/2 in clear.
const PREFACE_DEADLINE: Duration = Duration::from_secs(2);

/// Visits that share one HTTP/2 connection.
const STREAMS: usize = 64;

// The connection's window covers the windows of all its streams, so that visitors who stop reading
// cannot stop the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;

/// What hyper reads ahead of us at most, per HTTP/1 connection.
const READ_AHEAD: usize = 128 * 1024;

/// An HTTP/1.1 connection. Dropping it closes the connection, whatever goes on there.
pub(super) struct Http1Line {
    sender: http1::SendRequest<RequestBody>,
    probe: Probe,
    _kill: DropGuard,
}

impl Http1Line {
    pub(super) async fn begin(io: OriginIo, tasks: &Tasks) -> Result<Self, hyper::Error> {
        let probe = io.socket().probe();
        let (sender, driver) = http1::Builder::new()
            .max_headers(256)
            .max_header_size(HEAD_MAX)
            .max_buf_size(READ_AHEAD)
            .handshake(TokioIo::new(io))
            .await?;
        let kill = CancellationToken::new();
        let (killed, stopped) = (kill.clone(), tasks.stopped());
        tasks.spawn("origin-http1", async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                // hyper alone would not notice, in the middle of a silent body, that nobody listens.
                () = killed.cancelled() => {}
                ended = driver.with_upgrades() => {
                    if let Err(err) = ended {
                        debug!(%err, "origin connection ended");
                    }
                }
            }
        });
        Ok(Self {
            sender,
            probe,
            _kill: kill.drop_guard(),
        })
    }

    /// Whether an idle connection is beyond doubt: ready, and its peer has said nothing unasked.
    pub(super) fn is_clean(&self) -> bool {
        self.sender.is_ready() && self.probe.is_quiet()
    }

    /// Waits until the connection has finished with the exchange before.
    pub(super) async fn settled(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

/// An HTTP/2 connection, shared.
pub(super) struct Http2Line {
    sender: http2::SendRequest<RequestBody>,
    in_use: AtomicUsize,
    /// How many streams the origin allows now.
    allowed: Arc<AtomicUsize>,
}

impl Http2Line {
    /// Begins HTTP/2 where TLS agreed on it.
    pub(super) async fn begin(io: OriginIo, tasks: &Tasks) -> Result<Self, hyper::Error> {
        Self::handshake(io, tasks).await
    }

    /// Begins HTTP/2 with prior knowledge and waits until the origin shows that it has it too. No
    /// request is sent before, so `None` means that nothing of the visit left.
    pub(super) async fn begin_in_clear(io: OriginIo, tasks: &Tasks) -> Option<Self> {
        let (tell, told) = oneshot::channel();
        let line = Self::handshake(Sniff::new(io, tell), tasks).await.ok()?;
        match timeout(PREFACE_DEADLINE, told).await {
            Ok(Ok(true)) => Some(line),
            _ => None,
        }
    }

    async fn handshake<T>(io: T, tasks: &Tasks) -> Result<Self, hyper::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, mut driver) = http2::Builder::new(Owned(tasks.clone()))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX as u32)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .handshake(TokioIo::new(io))
            .await?;
        let allowed = Arc::new(AtomicUsize::new(STREAMS));
        let (seen, stopped) = (Arc::clone(&allowed), tasks.stopped());
        tasks.spawn("origin-http2", async move {
            let drive = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut driver).poll(cx);
                seen.store(driver.current_max_send_streams(), Ordering::Relaxed);
                polled
            });
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                ended = drive => {
                    if let Err(err) = ended {
                        debug!(%err, "origin connection ended");
                    }
                }
            }
        });
        Ok(Self {
            sender,
            in_use: AtomicUsize::new(0),
            allowed,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_use.load(Ordering::Relaxed) == 0
    }

    /// Takes one of its streams, if one is free. The pool's lock is held around this.
    pub(super) fn take_stream(&self) -> bool {
        let most = self.allowed.load(Ordering::Relaxed).min(STREAMS);
        let free = self.is_open() && self.in_use.load(Ordering::Relaxed) < most;
        if free {
            self.in_use.fetch_add(1, Ordering::Relaxed);
        }
        free
    }

    /// Takes the first stream of a new connection.
    pub(super) fn take_stream_unasked(&self) {
        self.in_use.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn give_stream_back(&self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request got no answer.
pub(super) enum SendError {
    /// Provably no byte of it was sent; here it is again.
    NotSent(Box<Request<RequestBody>>, hyper::Error),
    /// The origin may have seen some of it.
    Failed(hyper::Error),
}

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::NotSent(Box::new(request), error.into_error()),
            None => Self::Failed(error.into_error()),
        }
    }
}

pub(super) type Answer = Result<Response<Incoming>, SendError>;

pub(super) async fn ask_http1(line: &mut Http1Line, request: Request<RequestBody>) -> Answer {
    line.sender
        .try_send_request(request)
        .await
        .map_err(SendError::from)
}

pub(super) async fn ask_http2(line: &Http2Line, request: Request<RequestBody>) -> Answer {
    line.sender
        .clone()
        .try_send_request(request)
        .await
        .map_err(SendError::from)
}

/// Lets hyper start its HTTP/2 tasks as ours.
#[derive(Clone)]
struct Owned(Tasks);

impl<F> hyper::rt::Executor<F> for Owned
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn("origin-http2-stream", task);
    }
}

/// Looks at the first frame an origin sends: a server that speaks HTTP/2 begins with SETTINGS.
struct Sniff<T> {
    io: T,
    seen: [u8; 9],
    have: usize,
    tell: Option<oneshot::Sender<bool>>,
}

impl<T> Sniff<T> {
    fn new(io: T, tell: oneshot::Sender<bool>) -> Self {
        Self {
            io,
            seen: [0; 9],
            have: 0,
            tell: Some(tell),
        }
    }

    fn look(&mut self, fresh: &[u8]) {
        let count = fresh.len().min(self.seen.len() - self.have);
        self.seen[self.have..self.have + count].copy_from_slice(&fresh[..count]);
        self.have += count;
        let whole = self.have == self.seen.len();
        if (whole || fresh.is_empty())
            && let Some(tell) = self.tell.take()
        {
            // Type 4, no ACK, stream 0 (RFC 9113 section 6.5).
            let is_settings = whole && self.seen[3..] == [4, 0, 0, 0, 0, 0];
            let _ = tell.send(is_settings);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Sniff<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.tell.is_some() {
            self.look(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Sniff<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
