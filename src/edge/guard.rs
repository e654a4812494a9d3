//! Stands between the socket and hyper on an HTTP/1 connection and looks at the raw bytes first:
//! hyper gets only whole heads that [`crate::http::raw`] accepts, and chunked bodies that
//! [`crate::http::chunked`] accepts. Not a parser, and no copy of bodies: bytes are read where hyper
//! wants them and only looked at.
//!
//! A refused head never reaches hyper. In its place goes a small request of our own, noted in the
//! [`Ledger`], so that earlier answers of a pipeline leave in order, then ours, then the connection ends.
//! After a request with `Upgrade` nothing more is handed on until the service has answered: what
//! follows is raw bytes after a 101 and the next head otherwise.
//!
//! It also finds out that hyper has nothing left of a connection that idles, and then waits in its place.

use std::future::Future as _;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::ledger::Ledger;
use crate::http::chunked::ChunkScanner;
use crate::http::limits::{HEAD_TIMEOUT, IDLE_TIMEOUT};
use crate::http::raw::{Framing, HeadScanner, RawHead};
use crate::http::{HeadError, Scheme};
use crate::times::Clock;

/// What stands for a refused head; HEAD when that is what was refused, so that hyper sends no body.
const REFUSED_GET: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
const REFUSED_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// How much is kept of what comes after an upgrade request before its answer.
pub(super) const HELD_MAX: usize = 64 * 1024;

/// How much is read at a time by the guard itself.
pub(super) const READ: usize = 8 * 1024;

/// How long a connection has nothing to do until what serves it is let go. Longer than a page's requests
/// are apart, so that they do not pay for it.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How much is read at first of what wakes a connection that rests: most heads fit.
const WAKE_READ: usize = 1024;

/// How much is read and thrown away, and for how long, so that a refused visitor gets our answer and
/// not a reset (RFC 9112 section 9.6).
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

enum Phase {
    Head(HeadScanner),
    Length(u64),
    Chunked(ChunkScanner),
    /// Behind an upgrade request: nothing passes until its answer is known.
    Upgrade,
    /// Behind a 101: all passes.
    Raw,
    /// The body broke its framing; hyper is told so with an error.
    BadBody,
    /// This made-up head goes in, and nothing after it.
    Refused(&'static [u8]),
}

/// What the clock runs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// The first head, from the connection's start.
    FirstHead,
    /// The rest of a head.
    Head,
    /// The next request.
    Idle,
}

/// The guarded stream.
pub(super) struct Guard<I> {
    io: I,
    scheme: Scheme,
    ledger: Arc<Ledger>,
    phase: Phase,
    /// The number of the upgrade request whose answer decides what follows; zero is none.
    upgrade: u64,
    /// Read, but not handed on: `clear` bytes that may be, then what was only looked at up to
    /// `looked`, then the rest.
    held: BytesMut,
    clear: usize,
    looked: usize,
    heads: u64,
    eof: bool,
    last_write: Instant,
    /// Whether something was written and not flushed since.
    unflushed: bool,
    wait: Wait,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// While lingering: what may still be read.
    linger: Option<usize>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Guard<I> {
    pub(super) fn new(io: I, scheme: Scheme, ledger: Arc<Ledger>) -> Self {
        Self {
            io,
            scheme,
            ledger,
            phase: Phase::Head(HeadScanner::new(scheme)),
            upgrade: 0,
            held: BytesMut::new(),
            clear: 0,
            looked: 0,
            heads: 0,
            eof: false,
            last_write: now(),
            unflushed: false,
            wait: Wait::Nothing,
            deadline: now(),
            timer: None,
            linger: None,
        }
    }

    /// Looks at bytes that follow what was looked at: how many of them may be handed on, counted from
    /// the last such border, and how many were looked at.
    fn look(&mut self, bytes: &[u8]) -> (usize, usize) {
        let (mut clear, mut at) = (0, 0);
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.phase {
                Phase::Head(scanner) => match scanner.feed(rest) {
                    Ok(None) => at = bytes.len(),
                    Ok(Some((size, head))) => {
                        at += size;
                        clear = at;
                        self.begin_body(head);
                    }
                    Err(error) => {
                        self.refuse(error);
                        break;
                    }
                },
                Phase::Length(left) => {
                    let take = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= take as u64;
                    let done = *left == 0;
                    at += take;
                    clear = at;
                    if done {
                        self.end_message();
                    }
                }
                Phase::Chunked(scanner) => match scanner.feed(rest) {
                    Ok((size, done)) => {
                        at += size;
                        clear = at;
                        if done {
                            self.end_message();
                        }
                    }
                    Err((size, _)) => {
                        at += size;
                        clear = at;
                        self.ledger.break_body();
                        self.phase = Phase::BadBody;
                        break;
                    }
                },
                Phase::Raw => {
                    at = bytes.len();
                    clear = at;
                }
                Phase::Upgrade | Phase::BadBody | Phase::Refused(_) => break,
            }
        }
        (clear, at)
    }

    fn begin_body(&mut self, head: RawHead) {
        let number = self.ledger.deliver();
        self.heads += 1;
        self.wait = Wait::Nothing;
        self.upgrade = if head.wants_upgrade { number } else { 0 };
        match head.framing {
            Framing::None => self.end_message(),
            Framing::Length(length) => self.phase = Phase::Length(length),
            Framing::Chunked => self.phase = Phase::Chunked(ChunkScanner::new()),
        }
    }

    fn end_message(&mut self) {
        self.phase = if self.upgrade > 0 {
            Phase::Upgrade
        } else {
            Phase::Head(HeadScanner::new(self.scheme))
        };
    }

    fn refuse(&mut self, error: HeadError) {
        let is_head = matches!(&self.phase, Phase::Head(scanner) if scanner.is_head());
        self.ledger.refuse(error);
        self.phase = Phase::Refused(if is_head { REFUSED_HEAD } else { REFUSED_GET });
    }

    /// Takes the outcome of [`look`](Self::look) at `held[looked..]` into account.
    fn look_at_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        let (clear, seen) = self.look(&held[self.looked..]);
        self.held = held;
        if clear > 0 {
            self.clear = self.looked + clear;
        }
        self.looked += seen;
        self.add_refusal();
    }

    /// After a refusal what was held of the refused head goes, and the made-up one comes.
    fn add_refusal(&mut self) {
        if let Phase::Refused(head) = self.phase {
            self.held.truncate(self.clear);
            self.held.extend_from_slice(head);
            self.clear = self.held.len();
            self.looked = self.clear;
        }
    }

    /// Reads straight into hyper's buffer and takes out again what may not be handed on yet.
    fn read_in_place(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            self.eof = true;
            return Poll::Ready(Ok(()));
        }
        let (clear, seen) = self.look(fresh);
        if clear < fresh.len() {
            self.held.extend_from_slice(&fresh[clear..]);
            self.looked = seen - clear;
            buf.set_filled(before + clear);
        }
        self.clear = 0;
        self.add_refusal();
        Poll::Ready(Ok(()))
    }

    fn read_to_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.reserve(READ);
        let count = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.held))?;
        self.eof = count == 0;
        self.look_at_held();
        Poll::Ready(Ok(()))
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.clear.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.clear -= count;
        self.looked -= count;
    }

    /// Ready when the clock has changed something.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wait = match &self.phase {
            Phase::Head(_) if self.heads == 0 => Wait::FirstHead,
            Phase::Head(scanner) if scanner.started() => Wait::Head,
            Phase::Head(_) => Wait::Idle,
            _ => Wait::Nothing,
        };
        if self.wait != wait {
            self.wait = wait;
            self.deadline = now() + wait.duration();
        }
        if wait == Wait::Nothing {
            return Poll::Pending;
        }
        ready!(self.poll_deadline(cx));
        match &self.phase {
            Phase::Head(scanner) if scanner.started() => {
                self.refuse(HeadError::Timeout);
                self.add_refusal();
            }
            _ if self.wait == Wait::FirstHead => self.eof = true,
            _ => self.check_idle(),
        }
        Poll::Ready(())
    }

    /// The clock ran since the last head. What counts is the last answer: hyper does not ask again
    /// when that has left, so it is found out now.
    fn check_idle(&mut self) {
        if !self.ledger.is_idle() {
            self.deadline = now() + IDLE_TIMEOUT;
        } else if self.last_write + IDLE_TIMEOUT > now() {
            self.deadline = self.last_write + IDLE_TIMEOUT;
            if self.may_rest() {
                self.ledger.set_resting(true);
            }
        } else {
            self.eof = true;
        }
    }

    /// Whether hyper has nothing that is not in here: all answers have left, and not a byte of the next
    /// head has come.
    fn may_rest(&self) -> bool {
        let is_between = matches!(&self.phase, Phase::Head(scanner) if !scanner.started());
        is_between && self.held.is_empty() && !self.eof && !self.unflushed
    }

    /// While it rests, in hyper's place: ready when there is something for hyper again.
    pub(super) fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = [MaybeUninit::uninit(); WAKE_READ];
        let mut room = ReadBuf::uninit(&mut room);
        while !self.eof {
            match Pin::new(&mut self.io).poll_read(cx, &mut room)? {
                Poll::Ready(()) if room.filled().is_empty() => self.eof = true,
                Poll::Ready(()) => {
                    self.held.extend_from_slice(room.filled());
                    self.look_at_held();
                    break;
                }
                Poll::Pending => ready!(self.poll_clock(cx)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn note_write(&mut self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        if wrote.is_ready() {
            self.last_write = now();
        }
        wrote
    }

    /// One timer serves all waits: it is moved only when it would ring too late.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// Whether the visitor may still be sending what nobody will read.
    fn may_be_sending(&self) -> bool {
        match &self.phase {
            Phase::Head(scanner) => !self.eof && (scanner.started() || !self.held.is_empty()),
            Phase::Raw => false,
            _ => !self.eof,
        }
    }
}

impl Wait {
    const fn duration(self) -> Duration {
        match self {
            Self::Nothing => Duration::ZERO,
            Self::FirstHead | Self::Head => HEAD_TIMEOUT,
            // Then it is looked at, for the first time.
            Self::Idle => REST_AFTER,
        }
    }
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.clear > 0 {
                this.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            match &this.phase {
                Phase::Raw if this.held.is_empty() => {
                    return Pin::new(&mut this.io).poll_read(cx, buf);
                }
                Phase::BadBody => return Poll::Ready(Err(bad_body())),
                // The answer to the made-up head ends the connection.
                Phase::Refused(_) => return Poll::Pending,
                Phase::Upgrade => {
                    if let Poll::Ready(switched) = this.ledger.poll_verdict(this.upgrade, cx) {
                        this.upgrade = 0;
                        this.phase = if switched {
                            Phase::Raw
                        } else {
                            Phase::Head(HeadScanner::new(this.scheme))
                        };
                        this.look_at_held();
                        continue;
                    }
                    if this.held.len() >= HELD_MAX {
                        return Poll::Pending;
                    }
                }
                _ => {}
            }
            if this.eof {
                return Poll::Ready(Ok(()));
            }
            let read = if this.held.is_empty() && !matches!(this.phase, Phase::Upgrade) {
                this.read_in_place(cx, buf)
            } else {
                this.read_to_held(cx)
            };
            // What comes in the moment when it was to rest is for hyper.
            if read.is_ready() {
                this.ledger.set_resting(false);
            }
            match read {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => ready!(this.poll_clock(cx)),
            }
        }
    }
}

fn bad_body() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, HeadError::Chunk)
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write(cx, buf);
        this.note_write(wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.note_write(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            this.unflushed = false;
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
            this.linger = Some(LINGER_BYTES);
            this.deadline = now() + LINGER_TIME;
        }
        this.poll_linger(cx)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Guard<I> {
    /// Reads on and throws away, until the visitor stops, the time is over or it was too much.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.held.clear();
            self.held.reserve(8 * 1024);
            let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut self.held);
            match (read, self.linger) {
                (Poll::Ready(Ok(count)), Some(left)) if count > 0 && left > count => {
                    self.linger = Some(left - count);
                }
                // An error now is the visitor's end too: our answer is out.
                (Poll::Ready(_), _) => return Poll::Ready(Ok(())),
                (Poll::Pending, _) => return self.poll_deadline(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
