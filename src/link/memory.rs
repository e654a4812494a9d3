//! A network in memory, for two endpoints on tokio's paused clock: every datagram arrives after the
//! same delay, or not at all. An hour of it passes in milliseconds. Clients sit behind one of several
//! uplinks, of which one may be up at a time, and behind a NAT that can be made to forget them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

/// One way, as if to the next country.
const DELAY: Duration = Duration::from_millis(10);

/// The network. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Network(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    inboxes: HashMap<SocketAddr, Arc<Mutex<Inbox>>>,
    clients: u16,
    deaf: HashSet<SocketAddr>,
    down: bool,
    /// Everything waits on the way.
    held: bool,
    /// The uplink that client sockets are made on, and whether the others are down.
    uplink: u8,
    only: bool,
    /// Client sockets that the world knows by another address than their own.
    nat: HashMap<SocketAddr, SocketAddr>,
}

impl State {
    /// Whether a socket can send and receive now.
    fn reaches(&self, addr: SocketAddr) -> bool {
        let elsewhere = self.only && uplink_of(addr).is_some_and(|uplink| uplink != self.uplink);
        !self.down && !elsewhere
    }

    /// By which address the world knows a socket.
    fn public(&self, addr: SocketAddr) -> SocketAddr {
        self.nat.get(&addr).copied().unwrap_or(addr)
    }

    /// Which socket an address leads to; the own address of one that has another leads nowhere.
    fn private(&self, addr: SocketAddr) -> Option<SocketAddr> {
        let known_as = self.nat.iter().find(|(_, public)| **public == addr);
        match known_as {
            Some((private, _)) => Some(*private),
            None => (!self.nat.contains_key(&addr)).then_some(addr),
        }
    }
}

/// The uplink on which a client's socket was made.
fn uplink_of(addr: SocketAddr) -> Option<u8> {
    match addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[2].checked_sub(1),
        std::net::IpAddr::V6(_) => None,
    }
}

#[derive(Debug, Default)]
struct Inbox {
    queue: VecDeque<Datagram>,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Datagram {
    due: Instant,
    from: SocketAddr,
    bytes: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no test panics while it holds the lock")
}

impl Network {
    /// A socket at `addr`; one that was there before hears nothing more, as after a kill.
    pub(super) fn socket(&self, addr: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let inbox = Arc::default();
        lock(&self.0).inboxes.insert(addr, Arc::clone(&inbox));
        Arc::new(MemorySocket {
            addr,
            network: self.clone(),
            inbox,
            timer: Mutex::new(Box::pin(sleep_until(Instant::now()))),
        })
    }

    /// A socket at an address nobody else has.
    pub(super) fn client_socket(&self) -> Arc<dyn AsyncUdpSocket> {
        let mut state = lock(&self.0);
        state.clients += 1;
        let addr = SocketAddr::from(([10, 0, 1 + state.uplink, 1], 1000 + state.clients));
        drop(state);
        self.socket(addr)
    }

    /// A socket that hears nothing, as behind a forged address.
    pub(super) fn deaf_socket(&self) -> Arc<dyn AsyncUdpSocket> {
        let socket = self.client_socket();
        let addr = socket.local_addr().expect("it has one");
        self.deafen(addr);
        socket
    }

    /// The socket there hears nothing from now on; what it sends arrives.
    pub(super) fn deafen(&self, addr: SocketAddr) {
        lock(&self.0).deaf.insert(addr);
    }

    /// Swallows everything from now on, or no longer.
    pub(super) fn set_down(&self, down: bool) {
        lock(&self.0).down = down;
    }

    /// Keeps everything on its way from now on; released, it arrives at once, as at a process that was
    /// stopped and goes on.
    pub(super) fn set_held(&self, held: bool) {
        let mut state = lock(&self.0);
        state.held = held;
        for inbox in state.inboxes.values() {
            if let Some(reader) = lock(inbox).reader.take() {
                reader.wake();
            }
        }
    }

    /// Takes all uplinks but this one down; new client sockets are made on it.
    pub(super) fn switch_to(&self, uplink: u8) {
        let mut state = lock(&self.0);
        (state.uplink, state.only) = (uplink, true);
    }

    /// The NAT forgets the socket known as `known_as`: its next packet comes from `becomes`.
    pub(super) fn renumber(&self, known_as: SocketAddr, becomes: SocketAddr) {
        let mut state = lock(&self.0);
        let private = state.private(known_as).expect("somebody has that address");
        state.nat.insert(private, becomes);
    }

    fn deliver(&self, from: SocketAddr, transmit: &Transmit<'_>) {
        let state = lock(&self.0);
        let Some(to) = state.private(transmit.destination) else {
            return;
        };
        let Some(inbox) = state.inboxes.get(&to) else {
            return;
        };
        if !state.reaches(from) || !state.reaches(to) || state.deaf.contains(&to) {
            return;
        }
        let from = state.public(from);
        let due = Instant::now() + DELAY;
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        let mut inbox = lock(inbox);
        for bytes in transmit.contents.chunks(size) {
            let bytes = bytes.to_vec();
            inbox.queue.push_back(Datagram { due, from, bytes });
        }
        if let Some(reader) = inbox.reader.take() {
            reader.wake();
        }
    }

    fn is_current(&self, socket: &MemorySocket) -> bool {
        let state = lock(&self.0);
        let current = state.inboxes.get(&socket.addr);
        current.is_some_and(|inbox| Arc::ptr_eq(inbox, &socket.inbox))
    }
}

#[derive(Debug)]
struct MemorySocket {
    addr: SocketAddr,
    network: Network,
    inbox: Arc<Mutex<Inbox>>,
    timer: Mutex<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for MemorySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.network.is_current(self) {
            self.network.deliver(self.addr, transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (reaches, held) = {
            let state = lock(&self.network.0);
            (state.reaches(self.addr), state.held)
        };
        let mut inbox = lock(&self.inbox);
        if !reaches {
            // What was on its way when the way broke.
            inbox.queue.clear();
        }
        if held {
            inbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let now = Instant::now();
        let mut count = 0;
        while count < bufs.len() && inbox.queue.front().is_some_and(|d| d.due <= now) {
            let Some(datagram) = inbox.queue.pop_front() else {
                break;
            };
            let length = datagram.bytes.len();
            bufs[count][..length].copy_from_slice(&datagram.bytes);
            meta[count] = RecvMeta {
                addr: datagram.from,
                len: length,
                stride: length,
                ..RecvMeta::default()
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.reader = Some(cx.waker().clone());
        if let Some(next) = inbox.queue.front() {
            let mut timer = lock(&self.timer);
            timer.as_mut().reset(next.due);
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
