//! The control stream: messages both ways, ahead of everything else on the link.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::error::LinkError;
use super::handle::Live;
use super::streams::{LinkRecv, LinkSend};
use crate::wire::{
    Control, ControlDecoder, RecvChunks as _, SendChunks as _, StreamError, StreamHead, WireError,
    encode_control, encode_stream_head, poll_send_all,
};
use bytes::Bytes;
use tokio::time::timeout;

/// Before every visit's bytes: a Close must not wait behind a download.
const PRIORITY: i32 = 100;

/// The sending half. Dropping it resets the stream, which ends the link for the peer.
#[derive(Debug)]
pub struct ControlSend {
    live: Arc<Live>,
    stream: LinkSend,
    /// What a cancelled send left over; it goes first, so that messages stay whole.
    unsent: Bytes,
}

/// The receiving half.
#[derive(Debug)]
pub struct ControlRecv {
    live: Arc<Live>,
    stream: LinkRecv,
    decoder: ControlDecoder,
}

impl ControlSend {
    /// The half of a stream whose head is behind it, or not sent yet (`with_head`).
    pub(super) fn new(live: Arc<Live>, stream: quinn::SendStream, with_head: bool) -> Self {
        // Only a stream that is over refuses a priority, and that shows with the first message.
        let _ = stream.set_priority(PRIORITY);
        let unsent = if with_head {
            encode_stream_head(&StreamHead::Control)
        } else {
            Bytes::new()
        };
        Self {
            live,
            stream: LinkSend::new(stream, None),
            unsent,
        }
    }

    /// Hands a message to the link. It waits only while the peer reads nothing and the window is
    /// full, or while the network is away with the send window full; the caller bounds that. Dropped
    /// midway, the message still goes out whole, before the next one.
    pub async fn send(&mut self, message: &Control) -> Result<(), LinkError> {
        self.push(message);
        self.sent().await
    }

    /// Puts a message behind what is not handed over yet; [`sent`](Self::sent) hands it over. To be
    /// bounded by the caller, who sees with [`has_unsent`](Self::has_unsent) whether there is any.
    pub fn push(&mut self, message: &Control) {
        let message = encode_control(message);
        self.unsent = if self.unsent.is_empty() {
            message
        } else {
            [&self.unsent[..], &message].concat().into()
        };
    }

    /// Whether something is not handed to the link yet.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Waits until all that was said is handed to the link. Dropping the future loses nothing.
    pub async fn sent(&mut self) -> Result<(), LinkError> {
        let mut bufs = [std::mem::take(&mut self.unsent)];
        let sent = poll_fn(|cx| {
            let polled = poll_send_all(&mut self.stream, cx, &mut bufs);
            if polled.is_pending() {
                self.unsent = bufs[0].clone();
            }
            polled
        })
        .await;
        match sent {
            Ok(()) => {
                self.unsent = Bytes::new();
                Ok(())
            }
            Err(error) => Err(failed(&self.live, error)),
        }
    }

    /// No more messages will come; waits, at most for `within`, until the peer has them all.
    pub async fn flush(&mut self, within: Duration) {
        self.stream.finish();
        let _ = timeout(within, poll_fn(|cx| self.stream.poll_stopped(cx))).await;
    }

    /// No more messages will come. The link lives on until it is closed.
    pub fn finish(&mut self) {
        self.stream.finish();
    }
}

impl ControlRecv {
    pub(super) fn new(live: Arc<Live>, stream: LinkRecv) -> Self {
        Self {
            live,
            stream,
            decoder: ControlDecoder::new(),
        }
    }

    /// The next message this version knows; `None` when the peer has said all. A peer that breaks the
    /// protocol is closed here, so no caller can forget to. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Result<Option<Control>, LinkError> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(error) => return Err(self.broken(error)),
            }
            let mut chunk = [Bytes::new()];
            let received = poll_fn(|cx| self.stream.poll_recv(cx, &mut chunk)).await;
            match received {
                Ok(0) if self.decoder.at_border() => return Ok(None),
                Ok(0) => {
                    return Err(self.broken(WireError::Truncated {
                        what: "a control message",
                    }));
                }
                Ok(_) => self.decoder.push(&chunk[0]),
                Err(error) => return Err(failed(&self.live, error)),
            }
        }
    }

    fn broken(&self, error: WireError) -> LinkError {
        let error = LinkError::Protocol(error);
        self.live.close(error.code(), &error.to_string());
        error
    }
}

/// A control stream that fails while its link lives was given up by the peer, which nobody may.
fn failed(live: &Live, error: StreamError) -> LinkError {
    if let Some(end) = live.end() {
        return end.into();
    }
    let what = match error {
        StreamError::Reset(_) => "a reset of the control stream",
        StreamError::LinkLost => "the end of the control stream",
    };
    let error = LinkError::Protocol(WireError::OutOfPlace { what });
    live.close(error.code(), &error.to_string());
    error
}
