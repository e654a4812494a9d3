//! Stands on the socket and times what the visitor does not take: a write that stays blocked while the
//! visitor acknowledges less than the minimum rate ends the connection. Above it nobody knows how much of
//! what was written is still in the kernel, which may be megabytes. Not a throttle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::connection::Activity;
use super::rewound::Rewound;
use crate::http::limits::{RATE_BYTES, RATE_WINDOW};
use crate::times::Clock;

/// How often what is acknowledged is looked at; the grain of the window's beginning.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A socket, as far as the time that its peer takes is concerned.
pub(super) trait Outgoing {
    /// The bytes that the peer has acknowledged since the connection began, where that can be told.
    fn acknowledged(&self) -> Option<u64>;
    /// What is not sent yet need not be sent when the socket is closed.
    fn abandon(&self);
}

/// Linux's `struct tcp_info` up to `tcpi_bytes_acked`, which is its last word here.
type TcpInfo = [u64; 16];

#[derive(Debug, Clone, Copy)]
struct TcpInfoOption;

nix::getsockopt_impl!(
    TcpInfoOption,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    TcpInfo,
    nix::sys::socket::sockopt::GetStruct<TcpInfo>
);

impl Outgoing for TcpStream {
    fn acknowledged(&self) -> Option<u64> {
        let info = getsockopt(self, TcpInfoOption).ok()?;
        info.last().copied()
    }

    fn abandon(&self) {
        // A socket that is gone already has nothing left to send.
        let _ = self.set_zero_linger();
    }
}

impl<I: Outgoing> Outgoing for TlsStream<I> {
    fn acknowledged(&self) -> Option<u64> {
        self.get_ref().0.acknowledged()
    }

    fn abandon(&self) {
        self.get_ref().0.abandon();
    }
}

impl<I: Outgoing> Outgoing for Box<I> {
    fn acknowledged(&self) -> Option<u64> {
        (**self).acknowledged()
    }

    fn abandon(&self) {
        (**self).abandon();
    }
}

impl<I: Outgoing> Outgoing for Rewound<I> {
    fn acknowledged(&self) -> Option<u64> {
        self.io().acknowledged()
    }

    fn abandon(&self) {
        self.io().abandon();
    }
}

#[cfg(test)]
impl Outgoing for tokio::io::DuplexStream {
    fn acknowledged(&self) -> Option<u64> {
        None
    }
    fn abandon(&self) {}
}

/// The timed stream.
pub(super) struct Outflow<I> {
    io: I,
    activity: Arc<Activity>,
    /// Since when something waits to be taken, and what was acknowledged then.
    waits: Option<(Instant, u64)>,
    /// When to look at it again.
    look: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl<I: Outgoing> Outflow<I> {
    pub(super) const fn new(io: I, activity: Arc<Activity>) -> Self {
        Self {
            io,
            activity,
            waits: None,
            look: None,
            timer: None,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.io.acknowledged().unwrap_or(0)
    }

    /// Nothing waits any more.
    fn clear(&mut self) {
        if self.waits.take().is_some() {
            self.look = None;
            self.activity.set_blocked(false);
        }
    }

    /// The socket took nothing just now. Ready when that has lasted too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (mut since, mut had) = match self.waits {
            Some(waits) => waits,
            None => {
                self.activity.set_blocked(true);
                (now(), self.acknowledged())
            }
        };
        loop {
            self.waits = Some((since, had));
            let look = (now() + LOOK_EVERY).min(since + RATE_WINDOW);
            let look = *self.look.get_or_insert(look);
            ready!(self.poll_until(look, cx));
            self.look = None;
            let has = self.acknowledged();
            if has.saturating_sub(had) >= RATE_BYTES || self.activity.is_patient() {
                (since, had) = (now(), has);
            } else if now() >= since + RATE_WINDOW {
                self.io.abandon();
                return Poll::Ready(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the visitor takes too little of what is sent",
                ));
            }
        }
    }

    /// One timer serves all waits: it is moved only when it would ring too late.
    fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending => self.poll_late(cx).map(Err),
            ready => ready,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Outflow<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<I: Outgoing + AsyncWrite + Unpin> AsyncWrite for Outflow<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write(cx, buf);
        this.timed(cx, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.timed(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Only what is flushed has been taken: TLS accepts more than the socket does.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        if flushed.is_ready() {
            this.clear();
        }
        this.timed(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        if shut.is_ready() {
            this.clear();
        }
        this.timed(cx, shut)
    }
}
