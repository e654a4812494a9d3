//! Frames of an http stream: `{ varint type, varint length, bytes }`.
//! DATA is handed on piece by piece as it arrives; HEAD and TRAILERS are collected whole.

use std::collections::VecDeque;
use std::ops::Deref;

use bytes::{Buf, Bytes, BytesMut};

use super::{DATA_MAX, HEAD_MAX, WireError, get_varint, put_varint};

const DATA: u64 = 0;
pub(super) const HEAD: u64 = 1;
const TRAILERS: u64 = 2;

/// A frame, or a piece of a DATA frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the body.
    Data(Bytes),
    /// A response head: CBOR.
    Head(Bytes),
    /// Trailer fields: CBOR.
    Trailers(Bytes),
}

/// The bytes that stand before `length` bytes of body.
pub fn data_header(length: usize) -> Bytes {
    debug_assert!(length <= DATA_MAX, "callers split at DATA_MAX");
    Bytes::copy_from_slice(&Front::new(DATA, length))
}

/// The two numbers before what they tell of, without a block of their own.
pub(super) struct Front {
    bytes: [u8; FRONT_MAX],
    length: usize,
}

/// Two varints.
pub(super) const FRONT_MAX: usize = 16;

impl Front {
    pub(super) fn new(kind: u64, length: usize) -> Self {
        let mut bytes = [0; FRONT_MAX];
        let mut rest = &mut bytes[..];
        put_varint(&mut rest, kind);
        put_varint(&mut rest, length as u64);
        let length = FRONT_MAX - rest.len();
        Self { bytes, length }
    }
}

impl Deref for Front {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A kind, a length, and what `write` writes in about `room` bytes: one block for all.
pub(super) fn fronted(kind: u64, room: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(FRONT_MAX + room);
    out.resize(FRONT_MAX, 0);
    write(&mut out);
    let front = Front::new(kind, out.len() - FRONT_MAX);
    let begin = FRONT_MAX - front.len();
    out[begin..FRONT_MAX].copy_from_slice(&front);
    let mut out = Bytes::from(out);
    out.advance(begin);
    out
}

/// A whole HEAD or TRAILERS frame.
pub fn encode_frame(frame: &Frame) -> Bytes {
    let (kind, payload) = match frame {
        Frame::Data(bytes) => (DATA, bytes),
        Frame::Head(bytes) => (HEAD, bytes),
        Frame::Trailers(bytes) => (TRAILERS, bytes),
    };
    fronted(kind, payload.len(), |out| out.extend_from_slice(payload))
}

#[derive(Debug)]
enum State {
    /// Between frames, or inside a frame's two varints.
    Header,
    Data {
        left: usize,
    },
    Collect {
        kind: u64,
        left: usize,
        got: BytesMut,
    },
    Skip {
        left: u64,
    },
}

/// Reads frames from chunks as they arrive. Copies no body byte.
#[derive(Debug)]
pub struct FrameDecoder {
    queue: VecDeque<Bytes>,
    state: State,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            state: State::Header,
        }
    }
}

impl FrameDecoder {
    /// A decoder at the start of a stream's payload.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that arrived.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.queue.push_back(chunk);
        }
    }

    /// The next frame or piece of DATA; `None` until more bytes are pushed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some((kind, length)) = self.take_header() else {
                        return Ok(None);
                    };
                    self.state = state_for(kind, length)?;
                }
                State::Data { left: 0 } => self.state = State::Header,
                State::Data { left } => {
                    let Some(piece) = pop_up_to(&mut self.queue, *left) else {
                        return Ok(None);
                    };
                    *left -= piece.len();
                    return Ok(Some(Frame::Data(piece)));
                }
                State::Collect { kind, left: 0, got } => {
                    let payload = std::mem::take(got).freeze();
                    let frame = if *kind == HEAD {
                        Frame::Head(payload)
                    } else {
                        Frame::Trailers(payload)
                    };
                    self.state = State::Header;
                    return Ok(Some(frame));
                }
                State::Collect { left, got, .. } => {
                    let Some(piece) = pop_up_to(&mut self.queue, *left) else {
                        return Ok(None);
                    };
                    *left -= piece.len();
                    got.extend_from_slice(&piece);
                }
                State::Skip { left: 0 } => self.state = State::Header,
                State::Skip { left } => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let Some(piece) = pop_up_to(&mut self.queue, most) else {
                        return Ok(None);
                    };
                    *left -= piece.len() as u64;
                }
            }
        }
    }

    /// Whether the stream may end here: no frame is half read.
    pub fn at_border(&self) -> bool {
        self.queue.is_empty()
            && matches!(
                self.state,
                State::Header | State::Data { left: 0 } | State::Skip { left: 0 }
            )
    }

    /// Hands out what was pushed and not read: the first raw bytes after a 101.
    pub fn into_rest(self) -> VecDeque<Bytes> {
        self.queue
    }

    fn take_header(&mut self) -> Option<(u64, u64)> {
        let mut peek = [0u8; 16];
        let mut have = 0;
        for chunk in &self.queue {
            let n = chunk.len().min(peek.len() - have);
            peek[have..have + n].copy_from_slice(&chunk[..n]);
            have += n;
            if have == peek.len() {
                break;
            }
        }
        let (kind, first) = get_varint(&peek[..have])?;
        let (length, second) = get_varint(&peek[first..have])?;
        self.skip(first + second);
        Some((kind, length))
    }

    fn skip(&mut self, mut count: usize) {
        while count > 0 {
            let piece = pop_up_to(&mut self.queue, count).expect("the bytes were peeked above");
            count -= piece.len();
        }
    }
}

fn state_for(kind: u64, length: u64) -> Result<State, WireError> {
    let bounded = |what, max: usize| match usize::try_from(length) {
        Ok(left) if left <= max => Ok(left),
        _ => Err(WireError::TooLong { what, length, max }),
    };
    Ok(match kind {
        DATA => State::Data {
            left: bounded("a DATA frame", DATA_MAX)?,
        },
        HEAD => State::Collect {
            kind,
            left: bounded("a HEAD frame", HEAD_MAX)?,
            got: BytesMut::new(),
        },
        TRAILERS => State::Collect {
            kind,
            left: bounded("a TRAILERS frame", HEAD_MAX)?,
            got: BytesMut::new(),
        },
        // A newer peer's frame: skipped whole, held nowhere.
        _ => State::Skip { left: length },
    })
}

fn pop_up_to(queue: &mut VecDeque<Bytes>, most: usize) -> Option<Bytes> {
    let front = queue.front_mut()?;
    if front.len() > most {
        let piece = front.slice(..most);
        front.advance(most);
        return Some(piece);
    }
    queue.pop_front()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(wire: &[u8], cuts: usize) -> Result<Vec<Frame>, WireError> {
        let mut decoder = FrameDecoder::new();
        let mut frames: Vec<Frame> = Vec::new();
        for chunk in wire.chunks(cuts.max(1)) {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(frame) = decoder.next_frame()? {
                match (frames.last_mut(), frame) {
                    (Some(Frame::Data(have)), Frame::Data(more)) => {
                        *have = [&have[..], &more[..]].concat().into()
                    }
                    (_, frame) => frames.push(frame),
                }
            }
        }
        assert!(decoder.at_border());
        Ok(frames)
    }

    #[test]
    fn frames_survive_any_cut_and_unknown_ones_are_skipped() {
        let head = Frame::Head(Bytes::from_static(b"head"));
        let data = Bytes::from(vec![7; 300]);
        let trailers = Frame::Trailers(Bytes::new());
        let mut wire = BytesMut::new();
        wire.extend_from_slice(&encode_frame(&head));
        put_varint(&mut wire, 0x21);
        put_varint(&mut wire, 3);
        wire.extend_from_slice(b"new");
        wire.extend_from_slice(&data_header(300));
        wire.extend_from_slice(&data);
        wire.extend_from_slice(&encode_frame(&trailers));
        for cuts in 1..wire.len() {
            let frames = decode_all(&wire, cuts);
            assert_eq!(
                frames,
                Ok(vec![
                    head.clone(),
                    Frame::Data(data.clone()),
                    trailers.clone()
                ]),
                "cut at {cuts}"
            );
        }
    }

    #[test]
    fn lengths_hold_at_their_limit_and_not_beyond() {
        for (kind, max) in [(DATA, DATA_MAX), (HEAD, HEAD_MAX), (TRAILERS, HEAD_MAX)] {
            assert!(state_for(kind, max as u64).is_ok());
            assert!(state_for(kind, max as u64 + 1).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(wire in proptest::collection::vec(any::<u8>(), 0..512), cuts in 1usize..64) {
            let mut decoder = FrameDecoder::new();
            'outer: for chunk in wire.chunks(cuts) {
                decoder.push(Bytes::copy_from_slice(chunk));
                loop {
                    match decoder.next_frame() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'outer,
                    }
                }
            }
        }
    }
}
