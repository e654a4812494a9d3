//! Frames of a request stream, as they come out of QUIC. Knows which frame may come when, and bounds what
//! it keeps: a field section, or a piece of a body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::RecvStream;
use tokio_util::io::poll_read_buf;

use super::codes::{Code, Trouble};
use super::line::Line;
use crate::edge::connection::H2_HEADER_LIST;

pub(super) const DATA: u64 = 0x0;
pub(super) const HEADERS: u64 = 0x1;
pub(super) const CANCEL_PUSH: u64 = 0x3;
pub(super) const SETTINGS: u64 = 0x4;
pub(super) const PUSH_PROMISE: u64 = 0x5;
pub(super) const GOAWAY: u64 = 0x7;
pub(super) const MAX_PUSH_ID: u64 = 0xd;

/// The largest field section that is taken in, as coded: what a head may have.
const BLOCK_MAX: u64 = H2_HEADER_LIST as u64;

/// What is read at once: of a head, most of which are small, and of a body.
const READ_HEAD: usize = 2 * 1024;
const READ: usize = 16 * 1024;

/// Frames that HTTP/2 has and HTTP/3 must not (RFC 9114 section 7.2.8).
pub(super) const fn is_of_http2(kind: u64) -> bool {
    matches!(kind, 0x2 | 0x6 | 0x8 | 0x9)
}

/// A variable-length number (RFC 9000 section 16), and the bytes it took; None when more must come.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let number = rest
        .iter()
        .fold(u64::from(first & 0x3f), |n, byte| n << 8 | u64::from(*byte));
    Some((number, length))
}

/// Writes one.
pub(super) fn put_varint(out: &mut BytesMut, number: u64) {
    let bytes = number.to_be_bytes();
    let (length, mark) = match number {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let at = out.len();
    out.extend_from_slice(&bytes[8 - length..]);
    out[at] |= mark;
}

/// Kind and length of the frame that begins here, and the bytes they took.
pub(super) fn frame_head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, first) = varint(bytes)?;
    let (length, second) = varint(&bytes[first..])?;
    Some((kind, length, first + second))
}

/// A piece of a message.
#[derive(Debug)]
pub(super) enum Piece {
    /// A field section, coded: the head, then the trailers.
    Section(Bytes),
    /// Of the body.
    Data(Bytes),
}

/// What stood next.
enum Begun {
    /// A field section, whole.
    Section(Bytes),
    /// The head of another frame.
    Frame,
    /// Not enough of one.
    NotYet,
}

/// The receiving half of a request stream.
#[derive(Debug)]
pub(super) struct Frames {
    recv: RecvStream,
    line: Arc<Line>,
    buffer: BytesMut,
    /// Of the frame at hand: body still to come, or bytes to be passed over.
    data: u64,
    skip: u64,
    sections: u8,
    /// Bytes of a field section that is not whole, as the line knows.
    held: usize,
    /// The peer has said all.
    has_ended: bool,
}

impl Frames {
    pub(super) fn new(recv: RecvStream, line: Arc<Line>) -> Self {
        Self {
            recv,
            line,
            buffer: BytesMut::new(),
            data: 0,
            skip: 0,
            sections: 0,
            held: 0,
            has_ended: false,
        }
    }

    /// Whether nothing follows, as far as is known now.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.buffer.is_empty() && self.data == 0 && self.skip == 0
    }

    /// Wants no more of it.
    pub(super) fn stop(&mut self, code: Code) {
        if !self.has_ended {
            // A stream that ended meanwhile needs no word.
            let _ = self.recv.stop(code.wire());
        }
    }

    /// Ready when something more, or the end, is there to be looked at.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        if self.buffer.is_empty() && !self.has_ended {
            return self.poll_fill(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece; None at the end.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Piece>, Trouble>> {
        loop {
            self.pass_over();
            if self.data > 0 && !self.buffer.is_empty() {
                let size = least(self.data, self.buffer.len());
                self.data -= size as u64;
                return Poll::Ready(Ok(Some(Piece::Data(self.buffer.split_to(size).freeze()))));
            }
            if self.data == 0 && self.skip == 0 {
                if self.is_over() {
                    return Poll::Ready(Ok(None));
                }
                match self.begin()? {
                    Begun::Section(section) => {
                        return Poll::Ready(Ok(Some(Piece::Section(section))));
                    }
                    Begun::Frame => continue,
                    Begun::NotYet => {}
                }
            }
            if self.has_ended {
                return Poll::Ready(Err(Trouble::Connection(Code::FRAME)));
            }
            ready!(self.poll_fill(cx))?;
        }
    }

    fn pass_over(&mut self) {
        let size = least(self.skip, self.buffer.len());
        self.skip -= size as u64;
        self.buffer.advance(size);
    }

    /// Begins the frame that stands next, if its head is there; a field section is given whole.
    fn begin(&mut self) -> Result<Begun, Trouble> {
        let Some((kind, length, taken)) = frame_head(&self.buffer) else {
            return Ok(Begun::NotYet);
        };
        match (kind, self.sections) {
            (DATA, 1) => {
                self.buffer.advance(taken);
                self.data = length;
                if length == 0 {
                    self.line.charge(1)?;
                }
                Ok(Begun::Frame)
            }
            (HEADERS, 0 | 1) => {
                if length > BLOCK_MAX {
                    return Err(Trouble::TooLarge);
                }
                let end = taken + least(length, usize::MAX);
                if self.buffer.len() < end {
                    self.hold(self.buffer.len())?;
                    return Ok(Begun::NotYet);
                }
                self.hold(0)?;
                self.sections += 1;
                let frame = self.buffer.split_to(end).freeze();
                Ok(Begun::Section(frame.slice(taken..)))
            }
            (DATA | HEADERS | CANCEL_PUSH | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID, _) => {
                Err(Trouble::Connection(Code::FRAME_UNEXPECTED))
            }
            (kind, _) if is_of_http2(kind) => Err(Trouble::Connection(Code::FRAME_UNEXPECTED)),
            // Kinds that nobody knows are there to be passed over.
            _ => {
                self.line.charge(1)?;
                self.buffer.advance(taken);
                self.skip = length;
                Ok(Begun::Frame)
            }
        }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Trouble> {
        let before = std::mem::replace(&mut self.held, bytes);
        self.line.hold(before, bytes)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        self.buffer.reserve(match self.sections {
            0 => READ_HEAD,
            _ => READ,
        });
        let read = ready!(poll_read_buf(
            Pin::new(&mut self.recv),
            cx,
            &mut self.buffer
        ));
        // A reset or a lost connection: the peer knows why.
        let read = read.map_err(|_| Trouble::Gone)?;
        self.has_ended = read == 0;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // Less is never too much.
        let _ = self.hold(0);
    }
}

fn least(one: u64, other: usize) -> usize {
    usize::try_from(one).unwrap_or(usize::MAX).min(other)
}
