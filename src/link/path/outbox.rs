//! What waits to leave through a WebSocket: bounded, and what does not fit is dropped, as on any
//! full network. QUIC sends it again; waiting here would hold up the other links of a server.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::codec;

/// A queue of messages with one taker.
#[derive(Debug)]
pub(super) struct Outbox {
    limit: usize,
    state: Mutex<State>,
    more: Notify,
    gone: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<BytesMut>,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

impl Outbox {
    /// An empty one, for at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
            more: Notify::new(),
            gone: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in a datagram, or a batch of them of `segment` bytes each. What finds no room is gone.
    pub(super) fn push(&self, contents: &[u8], segment: Option<usize>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        for datagram in contents.chunks(segment.unwrap_or(contents.len()).max(1)) {
            state.push(datagram, self.limit);
        }
        drop(state);
        self.more.notify_one();
    }

    /// The next message; `None` once closed and empty. Dropping the future loses none.
    pub(super) async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.lock();
                if let Some(message) = state.messages.pop_front() {
                    state.bytes -= message.len();
                    return Some(message.freeze());
                }
                if state.closed {
                    return None;
                }
            }
            self.more.notified().await;
        }
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_one();
        self.gone.notify_waiters();
    }

    /// Waits until it is closed.
    pub(super) async fn closed(&self) {
        loop {
            let gone = self.gone.notified();
            if self.is_closed() {
                return;
            }
            gone.await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many datagrams found no room.
    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }
}

impl State {
    fn push(&mut self, datagram: &[u8], limit: usize) {
        let size = codec::framed(datagram);
        if self.bytes + size > limit || !self.append(datagram) {
            self.dropped += 1;
        } else {
            self.bytes += size;
        }
    }

    fn append(&mut self, datagram: &[u8]) -> bool {
        if let Some(last) = self.messages.back_mut()
            && codec::put(last, datagram)
        {
            return true;
        }
        let mut message = BytesMut::new();
        let fits = codec::put(&mut message, datagram);
        if fits {
            self.messages.push_back(message);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(outbox: &Outbox) -> Vec<Bytes> {
        outbox.close();
        let mut all = Vec::new();
        while let Some(message) = futures_now(outbox.next()) {
            all.extend(codec::datagrams(message).map(Result::unwrap));
        }
        all
    }

    fn futures_now<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(out) => out,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_batch_comes_apart_at_its_segments() {
        let outbox = Outbox::new(1 << 20);
        let batch: Vec<u8> = (0..=255).cycle().take(1200 * 9 + 7).collect();
        outbox.push(&batch, Some(1200));
        outbox.push(&[7; 30], None);
        let all = taken(&outbox);
        assert_eq!(all.len(), 11);
        assert_eq!(all[..10].concat(), batch);
        assert_eq!((all[9].len(), all[10].len()), (7, 30));
    }

    #[test]
    fn a_full_box_drops_what_comes_and_takes_again_once_emptied() {
        let outbox = Outbox::new(10_000);
        for _ in 0..100 {
            outbox.push(&[1; 1000], None);
        }
        assert_eq!(outbox.dropped(), 91);
        let message = futures_now(outbox.next()).unwrap();
        assert_eq!(codec::datagrams(message).count(), 9);
        assert_eq!(outbox.lock().bytes, 0);
        outbox.push(&[2; 1000], None);
        assert_eq!(taken(&outbox), [vec![2; 1000]]);
    }

    #[test]
    fn the_count_of_bytes_holds_across_messages() {
        let outbox = Outbox::new(1 << 22);
        for size in (1..=1500).chain([codec::DATAGRAM_MAX, codec::DATAGRAM_MAX + 1, 1, 1]) {
            outbox.push(&vec![0; size], None);
        }
        assert_eq!(outbox.dropped(), 1);
        let held: usize = outbox.lock().messages.iter().map(BytesMut::len).sum();
        assert_eq!(outbox.lock().bytes, held);
    }

    #[test]
    fn a_closed_box_takes_nothing() {
        let outbox = Outbox::new(10_000);
        outbox.close();
        outbox.push(&[1; 10], None);
        assert!(taken(&outbox).is_empty());
    }
}
