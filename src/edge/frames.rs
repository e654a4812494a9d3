//! Stands between the socket and hyper on an HTTP/2 connection and counts: frames of no use for any
//! visit, and the time that half a head takes. The stack bounds some of them (resets, the size of a
//! head), not all: empty DATA frames pile up, PING and SETTINGS keep a core busy. Over the bound nothing
//! more is read, and the connection is told to end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::http::frames::FrameScanner;
use crate::http::limits::{FRAMES_BURST, FRAMES_PER_SECOND, HEAD_TIMEOUT};
use crate::times::Clock;

/// The counted stream.
pub(super) struct Frames<I> {
    io: I,
    scanner: FrameScanner,
    /// What may still come, as of `counted`.
    allowance: f64,
    counted: Instant,
    /// Since when a head is under way.
    head: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    trouble: CancellationToken,
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl<I> Frames<I> {
    pub(super) fn new(io: I, trouble: CancellationToken) -> Self {
        Self {
            io,
            scanner: FrameScanner::new(),
            allowance: f64::from(FRAMES_BURST),
            counted: now(),
            head: Some(now()),
            timer: None,
            trouble,
        }
    }

    /// Fires when the connection must end.
    pub(super) fn trouble(&self) -> CancellationToken {
        self.trouble.clone()
    }

    fn look(&mut self, bytes: &[u8]) {
        let cost = self.scanner.feed(bytes);
        match (self.scanner.is_in_head(), self.head) {
            (true, None) => self.head = Some(now()),
            (false, Some(_)) => self.head = None,
            _ => {}
        }
        if cost == 0 {
            return;
        }
        let (at, rate) = (now(), f64::from(FRAMES_PER_SECOND));
        let earned = at.saturating_duration_since(self.counted).as_secs_f64() * rate;
        self.counted = at;
        self.allowance = (self.allowance + earned).min(f64::from(FRAMES_BURST)) - f64::from(cost);
        if self.allowance < 0.0 {
            self.trouble.cancel();
        }
    }

    /// Ready when half a head has been there for too long.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.head else {
            return Poll::Pending;
        };
        let deadline = since + HEAD_TIMEOUT;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Frames<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.trouble.is_cancelled() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(read) => {
                this.look(&buf.filled()[before..]);
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(this.poll_head(cx));
                this.trouble.cancel();
                Poll::Pending
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Frames<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
