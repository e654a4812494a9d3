//! HTTP/2 by hand: frames and header blocks that no client library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::visitor::Visitor;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// SETTINGS of a client that keeps no header table, so that every status arrives spelled out.
pub(super) fn settings(more: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in [(1, 0)].iter().chain(more) {
        payload.extend_from_slice(&u16::to_be_bytes(*id));
        payload.extend_from_slice(&u32::to_be_bytes(*value));
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// A header block of literals: no table, no Huffman (RFC 7541 section 6.2.2).
pub(super) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for part in [name.as_ref(), value.as_ref()] {
            length(&mut bytes, part.len());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// An integer with a seven-bit prefix (RFC 7541 section 5.1).
fn length(bytes: &mut Vec<u8>, value: usize) {
    if value < 127 {
        bytes.push(u8::try_from(value).unwrap());
        return;
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

/// HEADERS, and CONTINUATION where they do not fit one frame.
pub(super) fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pieces = block.chunks(16_384).peekable();
    let mut kind = HEADERS;
    let mut flags = flags;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        bytes.extend(frame(kind, flags | end, stream, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes
}

/// What became of a request, or of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// A connection after its preface.
pub(super) struct Raw2 {
    tls: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl Raw2 {
    pub(super) async fn new(visitor: &Visitor) -> Self {
        Self::with(visitor, &[]).await
    }

    pub(super) async fn with(visitor: &Visitor, more: &[(u16, u32)]) -> Self {
        let mut this = Self {
            tls: visitor.connect("h2").await.unwrap(),
            read: Vec::new(),
        };
        let mut bytes = PREFACE.to_vec();
        bytes.extend(settings(more));
        // What the server says first is acknowledged blindly.
        bytes.extend(frame(SETTINGS, 1, 0, &[]));
        this.tls.write_all(&bytes).await.unwrap();
        this.tls.flush().await.unwrap();
        this
    }

    /// Whether it could be sent: the other end may have had enough.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        let work = async {
            self.tls.write_all(bytes).await?;
            self.tls.flush().await
        };
        let sent = tokio::time::timeout(Duration::from_secs(5), work).await;
        matches!(sent, Ok(Ok(())))
    }

    /// The next frame: type, flags, stream and payload.
    pub(super) async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let [a, b, c, kind, flags, s @ ..] = &self.read[..] {
                let size = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if s.len() >= 4 + size {
                    let stream = u32::from_be_bytes([s[0] & 127, s[1], s[2], s[3]]);
                    let found = (*kind, *flags, stream, s[4..4 + size].to_vec());
                    self.read.drain(..9 + size);
                    return Some(found);
                }
            }
            let mut room = [0u8; 16 * 1024];
            match self.tls.read(&mut room).await {
                Ok(count) if count > 0 => self.read.extend_from_slice(&room[..count]),
                _ => return None,
            }
        }
    }

    /// The first thing that decides what became of `stream`; for stream 0, of the connection.
    pub(super) async fn outcome(&mut self, stream: u32) -> Outcome {
        let work = async {
            while let Some((kind, _, on, payload)) = self.next().await {
                match kind {
                    HEADERS if on == stream => return Outcome::Status(status(&payload)),
                    RST_STREAM if on == stream => return Outcome::Reset(word(&payload)),
                    GOAWAY => return Outcome::GoAway(word(&payload[4..])),
                    _ => {}
                }
            }
            Outcome::Closed
        };
        tokio::time::timeout(Duration::from_secs(40), work)
            .await
            .expect("the server decides")
    }
}

fn word(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// `:status`, always the first field: indexed, or a literal whose digits are Huffman coded or not.
fn status(block: &[u8]) -> u16 {
    let mut rest = block;
    while let [first, more @ ..] = rest
        && first & 0xe0 == 0x20
    {
        rest = more;
    }
    let known = [200, 204, 206, 304, 400, 404, 500];
    match rest {
        [index, ..] if index & 0x80 != 0 => known[usize::from(index & 0x7f) - 8],
        [_, size, text @ ..] if size & 0x80 == 0 => {
            std::str::from_utf8(&text[..usize::from(*size)])
                .unwrap()
                .parse()
                .unwrap()
        }
        [_, size, text @ ..] => digits(&text[..usize::from(size & 0x7f)]),
        _ => panic!("no status in {block:?}"),
    }
}

/// Three digits in the Huffman code of RFC 7541: five bits for 0 to 2, six for the others.
fn digits(bytes: &[u8]) -> u16 {
    let mut bits = bytes
        .iter()
        .flat_map(|b| (0..8).rev().map(move |n| u16::from(b >> n & 1)));
    let mut value = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | bits.next().unwrap();
        }
        let digit = if code <= 2 {
            code
        } else {
            (code << 1 | bits.next().unwrap()) - 0b01_1001 + 3
        };
        value = value * 10 + digit;
    }
    value
}
