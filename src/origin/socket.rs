//! A connected socket of either family, and a look at it from outside while hyper owns it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A silent origin is asked for a sign of life after the first, and again after each of the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));

/// How long an origin may acknowledge nothing. Long: to the kernel one that has stopped reading for a
/// while looks the same.
const UNHEARD: Duration = Duration::from_secs(600);

/// A connection to an origin, in clear or inside TLS.
pub(super) enum OriginIo {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl OriginIo {
    /// The socket underneath.
    pub(super) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// A connected stream socket. Shared, so that [`Probe`] can look at it; closed when this one drops.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(Arc<TcpStream>),
    Unix(Arc<UnixStream>),
}

impl Socket {
    pub(super) fn probe(&self) -> Probe {
        match self {
            Self::Tcp(stream) => Probe::Tcp(Arc::downgrade(stream)),
            Self::Unix(stream) => Probe::Unix(Arc::downgrade(stream)),
        }
    }

    /// Less came than there was room for, so there is no more: the next read waits for news without asking
    /// the kernel first, as tokio's own reads do.
    fn has_no_more(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, nothing),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, nothing),
        };
    }

    /// Makes the close that follows a reset, so that the origin sees an abort and no orderly end.
    pub(super) fn abort_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // A socket that cannot linger closes in the ordinary way.
            let _ = SockRef::from(&**stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// What long quiet connections need: a peer that is gone is noticed.
    pub(super) fn keep_alive(&self) {
        if let Self::Tcp(stream) = self {
            let socket = SockRef::from(&**stream);
            let (after, every) = KEEP_ALIVE;
            let keep_alive = TcpKeepalive::new().with_time(after).with_interval(every);
            // A socket without it carries bytes all the same.
            let _ = socket.set_tcp_keepalive(&keep_alive);
            let _ = socket.set_tcp_user_timeout(Some(UNHEARD));
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(&**stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(&**stream).shutdown(Shutdown::Write),
        }
    }
}

/// Looks at an idle socket without owning it.
#[derive(Debug)]
pub(super) enum Probe {
    Tcp(Weak<TcpStream>),
    Unix(Weak<UnixStream>),
}

impl Probe {
    /// Whether the peer has sent nothing, not even its end. Asks the kernel itself: the runtime may
    /// not have heard yet of what arrived a moment ago.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::<u8>::uninit(); 1];
        let peeked = match self {
            Self::Tcp(weak) => weak.upgrade().map(|s| SockRef::from(&*s).peek(&mut byte)),
            Self::Unix(weak) => weak.upgrade().map(|s| SockRef::from(&*s).peek(&mut byte)),
        };
        matches!(peeked, Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Tries an operation until the socket is really not ready.
macro_rules! when_ready {
    ($cx:expr, $poll:ident, $stream:expr, $try:expr) => {
        loop {
            ready!($stream.$poll($cx))?;
            match $try {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => break Poll::Ready(done),
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        let read = match &*self {
            Self::Tcp(s) => when_ready!(cx, poll_read_ready, s, s.try_read_buf(buf)),
            Self::Unix(s) => when_ready!(cx, poll_read_ready, s, s.try_read_buf(buf)),
        };
        if let Poll::Ready(Ok(count)) = read
            && (1..room).contains(&count)
        {
            self.has_no_more();
        }
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &*self {
            Self::Tcp(s) => when_ready!(cx, poll_write_ready, s, s.try_write(buf)),
            Self::Unix(s) => when_ready!(cx, poll_write_ready, s, s.try_write(buf)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &*self {
            Self::Tcp(s) => when_ready!(cx, poll_write_ready, s, s.try_write_vectored(bufs)),
            Self::Unix(s) => when_ready!(cx, poll_write_ready, s, s.try_write_vectored(bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.shutdown_write() {
            // The peer went first: there is nobody left to tell.
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        })
    }
}

/// Calls the same method on whichever stream it is.
macro_rules! either {
    ($self:ident, $method:ident $(, $arg:expr)*) => {
        match $self.get_mut() {
            OriginIo::Plain(io) => Pin::new(io).$method($($arg),*),
            OriginIo::Tls(io) => Pin::new(io).$method($($arg),*),
        }
    };
}

impl AsyncRead for OriginIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for OriginIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown, cx)
    }
}
