//! Flows of datagrams on a link: a stream says that a flow is there, its payloads ride QUIC's datagrams,
//! and its end is the stream's end. One reader per link hands what arrives to the flows; the link's
//! owner runs it. The server alone opens flows, so that their numbers never meet.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::Connection;
use tracing::trace;

use super::error::OpenFailure;
use super::handle::Link;
use super::streams::{LinkRecv, LinkSend};
use crate::times::Clock;
use crate::wire::udp::{Datagrams, FlowEnd, PAYLOAD_MAX, Reassembly, Splitter, decode_datagram};
use crate::wire::{
    QueueRecv, QueueSend, RecvChunks as _, SendChunks as _, StreamCode, StreamHead, UdpHead, queue,
};

/// What waits for the reader of one flow: two of the largest payloads, and a burst of small ones.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 2 * PAYLOAD_MAX;

/// What arrived before its flow was taken: datagrams overtake the stream that announces them.
const EARLY: usize = 64;
const EARLY_BYTES: usize = 64 * 1024;

/// The flows of one link.
#[derive(Debug, Default)]
pub(super) struct Flows {
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seats: HashMap<u64, Seat>,
    early: VecDeque<(u64, Bytes)>,
    early_bytes: usize,
}

/// Where the payloads of one flow go.
#[derive(Debug)]
struct Seat {
    queue: QueueSend,
    reassembly: Reassembly,
}

impl Flows {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing half changed is left behind by a panic that matters to a datagram.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a flow; none when its number is in use.
    fn take(&self, flow: u64) -> Option<QueueRecv> {
        let mut state = self.state();
        if state.seats.contains_key(&flow) {
            return None;
        }
        let (send, recv) = queue(WAITING, WAITING_BYTES);
        let seat = Seat {
            queue: send,
            reassembly: Reassembly::default(),
        };
        state.seats.insert(flow, seat);
        let early = std::mem::take(&mut state.early);
        state.early_bytes = 0;
        for (of, datagram) in early {
            if of == flow {
                state.deliver(datagram);
            } else {
                state.keep(of, datagram);
            }
        }
        Some(recv)
    }

    fn leave(&self, flow: u64) {
        self.state().seats.remove(&flow);
    }
}

impl State {
    fn deliver(&mut self, bytes: Bytes) {
        let datagram = match decode_datagram(bytes.clone()) {
            Ok(datagram) => datagram,
            Err(error) => return trace!(%error, "datagram dropped"),
        };
        let Some(seat) = self.seats.get_mut(&datagram.flow) else {
            return self.keep(datagram.flow, bytes);
        };
        let whole = match datagram.part {
            None => Some(datagram.payload),
            Some(part) => {
                let now = Clock.now().monotonic;
                seat.reassembly.push(now, part, datagram.payload)
            }
        };
        if let Some(payload) = whole {
            seat.queue.send(payload);
        }
    }

    fn keep(&mut self, flow: u64, datagram: Bytes) {
        self.early_bytes += datagram.len();
        self.early.push_back((flow, datagram));
        while self.early.len() > EARLY || self.early_bytes > EARLY_BYTES {
            let Some((_, oldest)) = self.early.pop_front() else {
                return;
            };
            self.early_bytes -= oldest.len();
        }
    }
}

impl Link {
    /// Hands arriving datagrams to their flows, until the link is gone. Whoever runs the link runs this
    /// beside it.
    pub async fn carry_datagrams(&self) {
        let connection = self.live().connection();
        while let Ok(bytes) = connection.read_datagram().await {
            // A peer that sends without end must not keep a worker to itself.
            tokio::task::consume_budget().await;
            self.flows().state().deliver(bytes);
        }
    }

    /// Opens a flow; its number is filled in here. The server's alone.
    pub async fn open_flow(&self, mut head: UdpHead) -> Result<LinkFlow, OpenFailure> {
        head.flow = self.flows().next.fetch_add(1, Ordering::Relaxed);
        let flow = head.flow;
        // Before the stream, so that the first answer finds its place.
        let queue = self.flows().take(flow).ok_or(OpenFailure::NoStream)?;
        let left = Leaving(Arc::clone(self.flows()), flow);
        let (tx, rx) = self.open(&StreamHead::Udp(head)).await?;
        Ok(self.flow(left, tx, rx, queue))
    }

    /// Takes a flow that the peer opened with a stream of the kind udp; refused when its number is in use.
    pub fn take_flow(&self, flow: u64, mut tx: LinkSend, mut rx: LinkRecv) -> Option<LinkFlow> {
        let Some(queue) = self.flows().take(flow) else {
            tx.reset(StreamCode::Protocol);
            rx.stop(StreamCode::Protocol);
            return None;
        };
        let left = Leaving(Arc::clone(self.flows()), flow);
        Some(self.flow(left, tx, rx, queue))
    }

    /// Flows that are open, for tests.
    #[cfg(test)]
    pub(super) fn flows_open(&self) -> usize {
        self.flows().state().seats.len()
    }

    fn flow(&self, left: Leaving, tx: LinkSend, rx: LinkRecv, queue: QueueRecv) -> LinkFlow {
        LinkFlow {
            connection: self.live().connection().clone(),
            splitter: Splitter::new(left.1),
            tx,
            rx,
            queue,
            _left: left,
        }
    }
}

/// Gives the place of a flow back.
#[derive(Debug)]
struct Leaving(Arc<Flows>, u64);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// One flow in hand. Dropping it ends it in order, at both ends.
#[derive(Debug)]
pub struct LinkFlow {
    connection: Connection,
    splitter: Splitter,
    tx: LinkSend,
    rx: LinkRecv,
    queue: QueueRecv,
    _left: Leaving,
}

impl Datagrams for LinkFlow {
    fn send(&mut self, payload: Bytes) {
        let Some(max) = self.connection.max_datagram_size() else {
            return;
        };
        for datagram in self.splitter.split(&payload, max) {
            // When the buffer is full the oldest goes; when the path shrank this moment, this one does.
            let _ = self.connection.send_datagram(datagram);
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, FlowEnd>> {
        if let Poll::Ready(Some(payload)) = self.queue.poll_recv(cx) {
            return Poll::Ready(Ok(payload));
        }
        loop {
            let mut chunk = [Bytes::new()];
            match self.rx.poll_recv(cx, &mut chunk) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(FlowEnd::Ended)),
                // Nothing is said in the stream; a newer peer's words are not for us.
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn fail(&mut self, code: StreamCode) {
        self.tx.reset(code);
        self.rx.stop(code);
    }
}

impl Drop for LinkFlow {
    fn drop(&mut self) {
        // A stream that was reset stays so.
        self.tx.finish();
    }
}
