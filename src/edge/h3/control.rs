//! The streams of one direction: ours, on which our settings and the goodbye go out, and the peer's, which
//! carry settings and what belongs to QPACK. Nearly all of it is there to be checked and passed over.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::{Buf as _, BytesMut};
use quinn::{RecvStream, SendStream};

use super::codes::{Code, Trouble};
use super::frames::{
    CANCEL_PUSH, DATA, GOAWAY, HEADERS, MAX_PUSH_ID, PUSH_PROMISE, SETTINGS, frame_head,
    is_of_http2, put_varint, varint,
};
use super::line::Line;
use super::qpack;
use crate::edge::connection::H2_HEADER_LIST;

const CONTROL: u64 = 0;
const PUSH: u64 = 1;
const ENCODER: u64 = 2;
const DECODER: u64 = 3;

const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;

/// More than any settings have.
const SETTINGS_MAX: u64 = 4 * 1024;

/// What is read at once.
const READ: usize = 1024;

/// Begins our control stream; QPACK's defaults say that there is no dynamic table.
pub(super) async fn open(line: &Line) -> Option<SendStream> {
    let mut send = line.quic.open_uni().await.ok()?;
    let mut settings = BytesMut::new();
    put_varint(&mut settings, MAX_FIELD_SECTION_SIZE);
    put_varint(&mut settings, u64::from(H2_HEADER_LIST));
    let mut out = BytesMut::new();
    put_varint(&mut out, CONTROL);
    put_varint(&mut out, SETTINGS);
    put_varint(&mut out, settings.len() as u64);
    out.extend_from_slice(&settings);
    send.write_chunk(out.freeze()).await.ok()?;
    Some(send)
}

/// Says that requests from `first` on are not served any more.
pub(super) async fn say_goodbye(send: &mut SendStream, first: u64) {
    let mut id = BytesMut::new();
    put_varint(&mut id, first);
    let mut out = BytesMut::new();
    put_varint(&mut out, GOAWAY);
    put_varint(&mut out, id.len() as u64);
    out.extend_from_slice(&id);
    // Who is gone needs no goodbye.
    let _ = send.write_chunk(out.freeze()).await;
}

/// Which of the streams that may come once have come.
#[derive(Debug, Default)]
pub(super) struct Seen(AtomicU8);

impl Seen {
    fn first(&self, kind: u64) -> Result<(), Trouble> {
        let bit = 1 << kind;
        if self.0.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return Err(Trouble::Connection(Code::STREAM_CREATION));
        }
        Ok(())
    }
}

/// Follows one stream of the peer's to its end, and ends the connection for what it does wrong.
pub(super) async fn follow(recv: RecvStream, line: Arc<Line>, seen: Arc<Seen>) {
    let mut reader = Reader {
        recv,
        line: Arc::clone(&line),
        buffer: BytesMut::new(),
    };
    if let Err(Trouble::Connection(code)) = reader.follow(&seen).await {
        line.fail(code);
    }
}

struct Reader {
    recv: RecvStream,
    line: Arc<Line>,
    buffer: BytesMut,
}

impl Reader {
    async fn follow(&mut self, seen: &Seen) -> Result<(), Trouble> {
        // A stream that ends before it says what it is says nothing.
        let Some(kind) = self.number().await? else {
            return Ok(());
        };
        match kind {
            CONTROL => {
                seen.first(kind)?;
                self.control().await?;
            }
            ENCODER => {
                seen.first(kind)?;
                self.encoder().await?;
            }
            DECODER => {
                seen.first(kind)?;
                self.decoder().await?;
            }
            // Only servers push.
            PUSH => return Err(Trouble::Connection(Code::STREAM_CREATION)),
            _ => {
                self.line.charge(1)?;
                let _ = self.recv.stop(Code::STREAM_CREATION.wire());
                return Ok(());
            }
        }
        Err(Trouble::Connection(Code::CLOSED_CRITICAL_STREAM))
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, Trouble> {
        let chunk = self.recv.read_chunk(READ, true).await;
        match chunk {
            Ok(Some(chunk)) => {
                self.buffer.extend_from_slice(&chunk.bytes);
                Ok(true)
            }
            Ok(None) => Ok(false),
            // A critical stream may not be reset either; another one may.
            Err(quinn::ReadError::Reset(_)) => Ok(false),
            Err(_) => Err(Trouble::Gone),
        }
    }

    async fn number(&mut self) -> Result<Option<u64>, Trouble> {
        loop {
            if let Some((number, taken)) = varint(&self.buffer) {
                self.buffer.advance(taken);
                return Ok(Some(number));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The frames of the control stream.
    async fn control(&mut self) -> Result<(), Trouble> {
        let (mut is_first, mut goaway, mut push) = (true, u64::MAX, 0);
        loop {
            let Some((kind, length, taken)) = frame_head(&self.buffer) else {
                if self.fill().await? {
                    continue;
                }
                return Ok(());
            };
            self.buffer.advance(taken);
            if is_first != (kind == SETTINGS) {
                return Err(Trouble::Connection(if is_first {
                    Code::MISSING_SETTINGS
                } else {
                    Code::FRAME_UNEXPECTED
                }));
            }
            is_first = false;
            match kind {
                SETTINGS => {
                    let payload = self.payload(length).await?;
                    settings(&payload)?;
                }
                GOAWAY => {
                    let id = one_number(&self.payload(length).await?)?;
                    if id > goaway {
                        return Err(Trouble::Connection(Code::ID));
                    }
                    goaway = id;
                }
                MAX_PUSH_ID => {
                    let id = one_number(&self.payload(length).await?)?;
                    if id < push {
                        return Err(Trouble::Connection(Code::ID));
                    }
                    push = id;
                }
                CANCEL_PUSH => {
                    one_number(&self.payload(length).await?)?;
                    // Nothing was ever promised.
                    return Err(Trouble::Connection(Code::ID));
                }
                DATA | HEADERS | PUSH_PROMISE => {
                    return Err(Trouble::Connection(Code::FRAME_UNEXPECTED));
                }
                kind if is_of_http2(kind) => {
                    return Err(Trouble::Connection(Code::FRAME_UNEXPECTED));
                }
                _ => self.pass_over(length).await?,
            }
            self.line.charge(1)?;
        }
    }

    async fn payload(&mut self, length: u64) -> Result<BytesMut, Trouble> {
        if length > SETTINGS_MAX {
            return Err(Trouble::Connection(Code::EXCESSIVE_LOAD));
        }
        let length = usize::try_from(length).map_err(|_| Trouble::Connection(Code::FRAME))?;
        while self.buffer.len() < length {
            if !self.fill().await? {
                return Err(Trouble::Connection(Code::CLOSED_CRITICAL_STREAM));
            }
        }
        Ok(self.buffer.split_to(length))
    }

    async fn pass_over(&mut self, mut length: u64) -> Result<(), Trouble> {
        loop {
            let size = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            self.buffer.advance(size);
            length -= size as u64;
            if length == 0 {
                return Ok(());
            }
            if !self.fill().await? {
                return Err(Trouble::Connection(Code::CLOSED_CRITICAL_STREAM));
            }
        }
    }

    /// Without a table there is one thing to say: that it stays empty.
    async fn encoder(&mut self) -> Result<(), Trouble> {
        const PATTERN: u8 = 0b1110_0000;
        const CAPACITY: u8 = 0b0010_0000;
        self.instructions(|buffer| {
            let first = *buffer.first()?;
            if first & PATTERN != CAPACITY {
                return Some(Err(()));
            }
            match qpack::number(buffer, 5) {
                Ok(None) => None,
                Ok(Some((_, 0, taken))) => Some(Ok(taken)),
                Ok(Some(_)) | Err(_) => Some(Err(())),
            }
        })
        .await
        .map_err(|trouble| trouble.unwrap_or(Trouble::Connection(Code::ENCODER_STREAM)))
    }

    /// Nor anything to confirm: only that a stream was cancelled.
    async fn decoder(&mut self) -> Result<(), Trouble> {
        const PATTERN: u8 = 0b1100_0000;
        const CANCELLATION: u8 = 0b0100_0000;
        self.instructions(|buffer| {
            let first = *buffer.first()?;
            if first & PATTERN != CANCELLATION {
                return Some(Err(()));
            }
            match qpack::number(buffer, 6) {
                Ok(None) => None,
                Ok(Some((_, _, taken))) => Some(Ok(taken)),
                Err(_) => Some(Err(())),
            }
        })
        .await
        .map_err(|trouble| trouble.unwrap_or(Trouble::Connection(Code::DECODER_STREAM)))
    }

    /// Takes instructions off as `next` measures them; None for one that must not be.
    async fn instructions(
        &mut self,
        next: impl Fn(&[u8]) -> Option<Result<usize, ()>>,
    ) -> Result<(), Option<Trouble>> {
        loop {
            while let Some(taken) = next(&self.buffer) {
                self.buffer.advance(taken.map_err(|()| None)?);
                self.line.charge(1).map_err(Some)?;
            }
            if !self.fill().await.map_err(Some)? {
                return Ok(());
            }
        }
    }
}

/// A payload that is exactly one number.
fn one_number(payload: &[u8]) -> Result<u64, Trouble> {
    match varint(payload) {
        Some((number, taken)) if taken == payload.len() => Ok(number),
        _ => Err(Trouble::Connection(Code::FRAME)),
    }
}

/// None of them changes what we do; some must not be there.
fn settings(mut payload: &[u8]) -> Result<(), Trouble> {
    let mut seen = HashSet::new();
    while !payload.is_empty() {
        let (id, value, taken) = frame_head(payload).ok_or(Trouble::Connection(Code::FRAME))?;
        payload = &payload[taken..];
        // Those of HTTP/2 that were not taken over.
        let is_reserved = matches!(id, 0x0 | 0x2..=0x5);
        let is_false = id == ENABLE_CONNECT_PROTOCOL && value > 1;
        if is_reserved || is_false || !seen.insert(id) {
            return Err(Trouble::Connection(Code::SETTINGS));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_must_not_be_are_refused() {
        assert_eq!(settings(&[]), Ok(()));
        assert_eq!(settings(&[0x6, 0x40, 0xff, 0x1, 0x0, 0x21, 0x5]), Ok(()));
        for id in [0x0, 0x2, 0x3, 0x4, 0x5] {
            assert_eq!(
                settings(&[id, 0]),
                Err(Trouble::Connection(Code::SETTINGS)),
                "{id}"
            );
        }
        let twice = settings(&[0x6, 1, 0x6, 1]);
        assert_eq!(twice, Err(Trouble::Connection(Code::SETTINGS)));
        assert_eq!(
            settings(&[0x8, 2]),
            Err(Trouble::Connection(Code::SETTINGS))
        );
        assert_eq!(settings(&[0x6]), Err(Trouble::Connection(Code::FRAME)));
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for number in [
            0,
            63,
            64,
            16_383,
            16_384,
            (1 << 30) - 1,
            1 << 30,
            (1 << 62) - 1,
        ] {
            let mut out = BytesMut::new();
            put_varint(&mut out, number);
            assert_eq!(varint(&out), Some((number, out.len())));
            assert_eq!(varint(&out[..out.len() - 1]), None);
        }
    }
}
