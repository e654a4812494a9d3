//! A queue of datagrams with one reader: bounded in number and in bytes. When it is full the oldest goes,
//! for a late datagram is worth less than a fresh one. Never waits to send.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

#[derive(Debug, Default)]
struct Shared {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    reader: Option<Waker>,
    closed: bool,
}

/// The sending end. Dropping the last one ends the queue once it is empty.
#[derive(Debug)]
pub struct QueueSend {
    shared: Arc<Mutex<Shared>>,
    most: usize,
    most_bytes: usize,
}

/// The receiving end.
#[derive(Debug)]
pub struct QueueRecv(Arc<Mutex<Shared>>);

/// A queue of at most `most` datagrams and `most_bytes` bytes.
pub fn queue(most: usize, most_bytes: usize) -> (QueueSend, QueueRecv) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let send = QueueSend {
        shared: Arc::clone(&shared),
        most,
        most_bytes,
    };
    (send, QueueRecv(shared))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Plain values: a panic cannot leave them half changed.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QueueSend {
    /// Puts one in; the oldest make room.
    pub fn send(&self, datagram: Bytes) {
        let mut shared = lock(&self.shared);
        if datagram.len() > self.most_bytes {
            return;
        }
        shared.bytes += datagram.len();
        shared.waiting.push_back(datagram);
        while shared.waiting.len() > self.most || shared.bytes > self.most_bytes {
            let Some(oldest) = shared.waiting.pop_front() else {
                break;
            };
            shared.bytes -= oldest.len();
        }
        if let Some(reader) = shared.reader.take() {
            drop(shared);
            reader.wake();
        }
    }
}

impl Drop for QueueSend {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.closed = true;
        if let Some(reader) = shared.reader.take() {
            drop(shared);
            reader.wake();
        }
    }
}

impl QueueRecv {
    /// The oldest; `None` when no more will come.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut shared = lock(&self.0);
        if let Some(datagram) = shared.waiting.pop_front() {
            shared.bytes -= datagram.len();
            return Poll::Ready(Some(datagram));
        }
        if shared.closed {
            return Poll::Ready(None);
        }
        shared.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The same to wait for. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room_and_the_end_comes_after_the_last() {
        let (send, mut recv) = queue(3, 10);
        for text in ["a", "b", "c", "d"] {
            send.send(text.into());
        }
        send.send("too long by far".into());
        assert_eq!(recv.recv().await.unwrap(), "b");
        send.send("12345678".into());
        assert_eq!(
            recv.recv().await.unwrap(),
            "c",
            "ten bytes are within the bound"
        );
        send.send("x".into());
        send.send("yy".into());
        drop(send);
        let mut left = Vec::new();
        while let Some(datagram) = recv.recv().await {
            left.push(datagram);
        }
        assert_eq!(left, ["x", "yy"], "the long one had to go");
    }
}
