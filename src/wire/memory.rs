//! A stream in memory, for tests of what rides on one: bounded, resettable, with both halves' signals.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::udp::{Datagrams, FlowEnd};
use super::{QueueRecv, QueueSend, RecvChunks, SendChunks, StreamCode, StreamError, queue};

#[derive(Debug, Default)]
struct Shared {
    chunks: VecDeque<Bytes>,
    held: usize,
    window: usize,
    finished: bool,
    reset: Option<StreamCode>,
    stopped: Option<StreamCode>,
    is_broken: bool,
    wakers: Vec<Waker>,
}

impl Shared {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct MemorySend(Arc<Mutex<Shared>>);

/// The receiving half.
#[derive(Debug)]
pub(crate) struct MemoryRecv(Arc<Mutex<Shared>>);

/// One direction of a stream that holds at most `window` unread bytes.
pub(crate) fn pipe(window: usize) -> (MemorySend, MemoryRecv) {
    let shared = Arc::new(Mutex::new(Shared {
        window,
        ..Shared::default()
    }));
    (MemorySend(Arc::clone(&shared)), MemoryRecv(shared))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared
        .lock()
        .expect("no test panics while it holds the lock")
}

impl MemorySend {
    /// Makes whoever reads from now on panic, as a fault of ours would.
    pub(crate) fn break_reader(&self) {
        let mut s = lock(&self.0);
        s.is_broken = true;
        s.wake();
    }
}

impl SendChunks for MemorySend {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<(), StreamError>> {
        let mut s = lock(&self.0);
        if let Some(code) = s.stopped {
            return Poll::Ready(Err(StreamError::Reset(code)));
        }
        let mut took = false;
        for buf in bufs {
            let room = s.window - s.held;
            if room == 0 {
                break;
            }
            let piece = buf.split_to(buf.len().min(room));
            s.held += piece.len();
            took |= !piece.is_empty();
            s.chunks.push_back(piece);
        }
        if !took {
            s.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        s.wake();
        Poll::Ready(Ok(()))
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamError>> {
        let mut s = lock(&self.0);
        match s.stopped {
            Some(code) => Poll::Ready(Some(StreamError::Reset(code))),
            None => {
                s.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn finish(&mut self) {
        let mut s = lock(&self.0);
        s.finished = true;
        s.wake();
    }

    fn reset(&mut self, code: StreamCode) {
        let mut s = lock(&self.0);
        if !s.finished {
            s.reset.get_or_insert(code);
            s.wake();
        }
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        self.reset(StreamCode::Cancelled);
    }
}

impl RecvChunks for MemoryRecv {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        let mut s = lock(&self.0);
        if s.is_broken {
            drop(s);
            panic!("on purpose");
        }
        if let Some(code) = s.reset {
            return Poll::Ready(Err(StreamError::Reset(code)));
        }
        let mut count = 0;
        while count < bufs.len() {
            let Some(chunk) = s.chunks.pop_front() else {
                break;
            };
            s.held -= chunk.len();
            bufs[count] = chunk;
            count += 1;
        }
        if count > 0 || s.finished {
            s.wake();
            return Poll::Ready(Ok(count));
        }
        s.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn stop(&mut self, code: StreamCode) {
        let mut s = lock(&self.0);
        s.stopped.get_or_insert(code);
        s.chunks.clear();
        s.held = 0;
        s.wake();
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        // As with QUIC: a stream that was read to its end is not stopped.
        let ended = {
            let s = lock(&self.0);
            s.finished && s.chunks.is_empty()
        };
        if !ended {
            self.stop(StreamCode::Cancelled);
        }
    }
}

/// One end of a flow in memory.
#[derive(Debug)]
pub(crate) struct MemoryFlow {
    out: QueueSend,
    queue: QueueRecv,
    tx: MemorySend,
    rx: MemoryRecv,
}

/// Both ends of a flow.
pub(crate) fn flow() -> (MemoryFlow, MemoryFlow) {
    let ends = || (queue(64, 1 << 20), pipe(1));
    let (((out, far_queue), (tx, far_rx)), ((far_out, queue), (far_tx, rx))) = (ends(), ends());
    let near = MemoryFlow { out, queue, tx, rx };
    let far = MemoryFlow {
        out: far_out,
        queue: far_queue,
        tx: far_tx,
        rx: far_rx,
    };
    (near, far)
}

impl Datagrams for MemoryFlow {
    fn send(&mut self, payload: Bytes) {
        self.out.send(payload);
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, FlowEnd>> {
        if let Poll::Ready(Some(payload)) = self.queue.poll_recv(cx) {
            return Poll::Ready(Ok(payload));
        }
        match self.rx.poll_recv(cx, &mut [Bytes::new()]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Err(FlowEnd::Ended)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        }
    }

    fn fail(&mut self, code: StreamCode) {
        self.tx.reset(code);
        self.rx.stop(code);
    }
}

impl Drop for MemoryFlow {
    fn drop(&mut self) {
        self.tx.finish();
    }
}
