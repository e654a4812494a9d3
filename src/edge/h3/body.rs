//! A request's body out of its stream, as hyper's is: pieces, then trailers. It is as long as its head
//! says, or it is malformed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::codes::{Code, Trouble};
use super::frames::{Frames, Piece};
use super::line::Line;
use super::{head, qpack};
use crate::http::limits::{FIELDS_MAX, TRAILERS_MAX};

/// What the body tells the request that it is of.
#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    /// Somebody asks for the body: a visitor that waits for a 100 may have it.
    pub(super) wanted: Arc<Notify>,
    /// The message is malformed, whatever the answer says.
    pub(super) malformed: CancellationToken,
}

/// A request's body.
#[derive(Debug)]
pub(in crate::edge) struct H3Body {
    frames: Frames,
    line: Arc<Line>,
    signals: Signals,
    /// What is still to come, when the head says so.
    left: Option<u64>,
    trailers: Option<HeaderMap>,
    has_ended: bool,
}

impl H3Body {
    pub(super) fn new(
        frames: Frames,
        line: Arc<Line>,
        length: Option<u64>,
        signals: Signals,
    ) -> Self {
        Self {
            has_ended: frames.is_over() && length.unwrap_or(0) == 0,
            frames,
            line,
            signals,
            left: length,
            trailers: None,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Trouble>> {
        loop {
            match ready!(self.frames.poll_piece(cx))? {
                Some(Piece::Data(bytes)) => {
                    if let Some(left) = &mut self.left {
                        let size = bytes.len() as u64;
                        *left = left
                            .checked_sub(size)
                            .ok_or(Trouble::Stream(Code::MESSAGE))?;
                    }
                    return Poll::Ready(Ok(Some(Frame::data(bytes))));
                }
                Some(Piece::Section(block)) => self.trailers = Some(read_trailers(&block)?),
                None if self.left.unwrap_or(0) > 0 => {
                    return Poll::Ready(Err(Trouble::Stream(Code::MESSAGE)));
                }
                None => return Poll::Ready(Ok(self.trailers.take().map(Frame::trailers))),
            }
        }
    }

    fn give_up(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Connection(code) => return self.line.fail(code),
            Trouble::Stream(code) => {
                self.signals.malformed.cancel();
                self.frames.stop(code);
            }
            Trouble::TooLarge => {
                self.signals.malformed.cancel();
                self.frames.stop(Code::EXCESSIVE_LOAD);
            }
            Trouble::Gone => {}
        }
        self.line.charge_reset();
    }
}

fn read_trailers(block: &[u8]) -> Result<HeaderMap, Trouble> {
    let lines =
        qpack::decode(block, FIELDS_MAX, TRAILERS_MAX).map_err(|problem| match problem {
            qpack::Problem::Malformed => Trouble::Connection(Code::DECOMPRESSION),
            qpack::Problem::TooLarge => Trouble::TooLarge,
        })?;
    head::trailers(lines).map_err(|_| Trouble::Stream(Code::MESSAGE))
}

impl Body for H3Body {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.signals.wanted.notify_one();
        let polled = ready!(self.poll_body(cx));
        match &polled {
            Ok(Some(frame)) => self.has_ended = frame.is_trailers(),
            Ok(None) => self.has_ended = true,
            Err(trouble) => {
                self.has_ended = true;
                self.give_up(*trouble);
            }
        }
        Poll::Ready(polled.transpose())
    }

    fn is_end_stream(&self) -> bool {
        let is_whole = self.left.unwrap_or(0) == 0 && self.trailers.is_none();
        self.has_ended || self.frames.is_over() && is_whole
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for H3Body {
    fn drop(&mut self) {
        // What is not read by now has no reader.
        if !self.frames.is_over() {
            self.frames.stop(Code::NO_ERROR);
        }
    }
}
