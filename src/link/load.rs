//! What a link holds in memory for its streams, estimated from what goes in and out of them: QUIC does
//! not tell. An upper bound for the streams that this end opened. Not a limit, only a measure.
//!
//! | | counts as |
//! |---|---|
//! | the link itself | [`LINK`] |
//! | a stream's sent bytes, which may not have arrived | what was written to it, up to its window; all together up to the link's send window |
//! | a stream's received bytes that nobody reads | its window, unless its reader waits for more |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::OwnedSemaphorePermit;

/// A link without streams: QUIC's and TLS's state, measured over thousands of idle links.
const LINK: u64 = 32 * 1024;

/// One of the streams that may be open at once; both halves hold it.
pub(super) type Slot = Option<Arc<Place>>;

/// What a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLoad {
    /// Streams that this end has open.
    pub streams: usize,
    /// The estimate of what the link holds in memory, in bytes.
    pub bytes: u64,
}

/// What all streams of a link hold.
#[derive(Debug)]
pub(super) struct Load {
    stream_window: u64,
    send_window: u64,
    streams: AtomicUsize,
    written: AtomicU64,
    unread: AtomicUsize,
}

impl Load {
    pub(super) fn new(stream_window: u32, send_window: u32) -> Arc<Self> {
        Arc::new(Self {
            stream_window: stream_window.into(),
            send_window: send_window.into(),
            streams: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
        })
    }

    pub(super) fn now(&self) -> LinkLoad {
        let sent = self.written.load(Ordering::Relaxed).min(self.send_window);
        let unread = self.unread.load(Ordering::Relaxed) as u64;
        LinkLoad {
            streams: self.streams.load(Ordering::Relaxed),
            bytes: LINK + sent + unread.saturating_mul(self.stream_window),
        }
    }
}

/// A stream's place among those of its link.
#[derive(Debug)]
pub(super) struct Place {
    load: Arc<Load>,
    /// Never over the window.
    written: AtomicU64,
    /// 1 while the reader does something else than to wait for more.
    unread: AtomicUsize,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(super) fn new(load: &Arc<Load>, permit: OwnedSemaphorePermit) -> Arc<Self> {
        load.streams.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            load: Arc::clone(load),
            written: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            _permit: permit,
        })
    }

    /// So many bytes were taken by QUIC. Only the sending half says so, so nothing comes in between.
    pub(super) fn wrote(&self, bytes: usize) {
        let before = self.written.load(Ordering::Relaxed);
        let after = before.saturating_add(bytes as u64);
        let after = after.min(self.load.stream_window);
        if after > before {
            self.written.store(after, Ordering::Relaxed);
            self.load
                .written
                .fetch_add(after - before, Ordering::Relaxed);
        }
    }

    /// Whether something may lie there unread. Only the receiving half says so.
    pub(super) fn unread(&self, unread: bool) {
        let before = self.unread.swap(usize::from(unread), Ordering::Relaxed);
        match (before, unread) {
            (0, true) => self.load.unread.fetch_add(1, Ordering::Relaxed),
            (1, false) => self.load.unread.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unread(false);
        let written = *self.written.get_mut();
        self.load.written.fetch_sub(written, Ordering::Relaxed);
        self.load.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
