//! The server's socket: UDP and all sessions, as one. Never waits for a session: what it cannot take
//! is dropped.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::pump::Arrived;
use super::sessions::{Sessions, is_virtual};
use super::{PathLimits, Recognise};

/// Datagrams that wait for the endpoint, of all sessions together; each waits for its turn. Three megabytes
/// if all are of the largest.
const INBOX: usize = 512;

/// The composite socket.
#[derive(Debug)]
pub(in crate::link) struct Hub {
    udp: Arc<dyn AsyncUdpSocket>,
    inbox: Inbox,
    sessions: Arc<Sessions>,
}

impl Hub {
    pub(in crate::link) fn over(
        udp: Arc<dyn AsyncUdpSocket>,
        limits: PathLimits,
        recognise: Recognise,
    ) -> (Arc<Self>, Arc<Sessions>) {
        let (sender, inbox) = inbox(INBOX);
        let sessions = Arc::new(Sessions::new(limits, recognise, sender));
        let hub = Self {
            udp,
            inbox,
            sessions: Arc::clone(&sessions),
        };
        (Arc::new(hub), sessions)
    }
}

impl AsyncUdpSocket for Hub {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.udp).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_virtual(&transmit.destination) {
            return self.udp.try_send(transmit);
        }
        let (contents, segment) = (transmit.contents, transmit.segment_size);
        self.sessions.push(&transmit.destination, contents, segment);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inbox.by_turns(
            cx,
            bufs,
            meta,
            |cx, bufs, meta| {
                let received = self.udp.poll_recv(cx, bufs, meta);
                if let Poll::Ready(Ok(count)) = received {
                    disown(&mut meta[..count]);
                }
                received
            },
            |from| from,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

/// Empties what a network claims to bring from a session: answers to it would go to a stranger's.
fn disown(meta: &mut [RecvMeta]) {
    for meta in meta.iter_mut().filter(|meta| is_virtual(&meta.addr)) {
        meta.len = 0;
    }
}

/// What WebSockets brought, for a socket to hand on beside what UDP brings.
#[derive(Debug)]
pub(super) struct Inbox {
    arrived: Mutex<mpsc::Receiver<Arrived>>,
    turn: AtomicBool,
}

/// One for `depth` datagrams, and the end that fills it.
pub(super) fn inbox(depth: usize) -> (mpsc::Sender<Arrived>, Inbox) {
    let (sender, receiver) = mpsc::channel(depth);
    let inbox = Inbox {
        arrived: Mutex::new(receiver),
        turn: AtomicBool::new(false),
    };
    (sender, inbox)
}

impl Inbox {
    /// From UDP or from here, whichever has something; when both have, by turns. `name` tells QUIC
    /// whom a datagram is from.
    pub(super) fn by_turns(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        mut udp: impl FnMut(
            &mut Context<'_>,
            &mut [IoSliceMut<'_>],
            &mut [RecvMeta],
        ) -> Poll<io::Result<usize>>,
        name: impl Fn(SocketAddr) -> SocketAddr,
    ) -> Poll<io::Result<usize>> {
        let udp_first = self.turn.fetch_xor(true, Ordering::Relaxed);
        if udp_first {
            let received = udp(cx, bufs, meta);
            if received.is_ready() {
                return received;
            }
        }
        if let Poll::Ready(count) = self.poll(cx, bufs, meta, name) {
            return Poll::Ready(Ok(count));
        }
        if udp_first {
            return Poll::Pending;
        }
        udp(cx, bufs, meta)
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        name: impl Fn(SocketAddr) -> SocketAddr,
    ) -> Poll<usize> {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()) {
            // Closed is as good as empty: UDP is still there.
            let Poll::Ready(Some((from, datagram))) = arrived.poll_recv(cx) else {
                break;
            };
            // Larger than QUIC takes; an empty one is passed over.
            let length = Some(datagram.len())
                .filter(|l| *l <= buf.len())
                .unwrap_or(0);
            buf[..length].copy_from_slice(&datagram[..length]);
            *meta = RecvMeta {
                addr: name(from),
                len: length,
                stride: length,
                ..RecvMeta::default()
            };
            count += 1;
        }
        if count > 0 {
            Poll::Ready(count)
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_udp_claims_to_bring_from_a_session_is_dropped() {
        let from = |text: &str| RecvMeta {
            addr: text.parse().unwrap(),
            len: 1200,
            stride: 1200,
            ..RecvMeta::default()
        };
        let mut meta = [
            from("[fd77:6f72:6d6b:6579::5]:1"),
            from("[fd77:6f72:6d6b:657a::5]:1"),
            from("192.0.2.1:1"),
        ];
        disown(&mut meta);
        assert_eq!(meta.map(|meta| meta.len), [0, 1200, 1200]);
    }
}
