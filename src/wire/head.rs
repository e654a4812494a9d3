//! The head of a stream: `varint kind, varint length, CBOR`, and the response head inside a HEAD frame.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::frame::{self, fronted};
use super::{HEAD_MAX, WireError, fields, get_varint};
use crate::names::{TunnelId, VisitId, address_text};

const CONTROL: u64 = 0;
const HTTP: u64 = 1;
const BYTES: u64 = 2;
const UDP: u64 = 3;

/// CBOR of a map with nothing in it.
const EMPTY_MAP: u8 = 0xa0;

/// About how many bytes a head takes without its longer texts.
const ROOM: usize = 160;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamHead {
    /// The control stream; the client opens it first.
    Control,
    /// One HTTP exchange.
    Http(Box<HttpHead>),
    /// One connection of bytes.
    Bytes(BytesHead),
    /// One flow of datagrams.
    Udp(UdpHead),
}

/// A visit's request, canonical: the edge has validated it and removed hop-by-hop fields.
#[derive(Debug, Clone, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct HttpHead {
    /// Which tunnel; the client alone maps it to an origin.
    #[n(0)]
    pub tunnel: TunnelId,
    /// The request id that the visitor sees too.
    #[n(1)]
    pub visit: VisitId,
    /// The method. An upgrade and an RFC 8441 CONNECT are both `GET` with `protocol` set.
    #[n(2)]
    #[cbor(encode_with = "encode_method", decode_with = "decode_method")]
    pub method: Method,
    /// `http` or `https`, as the visitor used it.
    #[n(3)]
    pub scheme: String,
    /// The canonical public authority: host, and port when it is not the scheme's own.
    #[n(4)]
    pub authority: String,
    /// Path and query, byte for byte; `*` for `OPTIONS *`.
    #[n(5)]
    pub path: String,
    /// Fields, without hop-by-hop ones, `host` and ours; X-Forwarded-* and Forwarded are the edge's.
    #[n(6)]
    #[cbor(encode_with = "fields::encode", decode_with = "fields::decode")]
    pub fields: HeaderMap,
    /// The visitor's address.
    #[n(7)]
    #[cbor(encode_with = "encode_addr", decode_with = "decode_addr")]
    pub peer: SocketAddr,
    /// The upgrade asked for: `websocket`, or any other token of `Upgrade`.
    #[n(8)]
    pub protocol: Option<String>,
    /// The visitor's HTTP version: 10, 11, 20 or 30.
    #[n(9)]
    pub version: u8,
    /// Whether a body follows (DATA frames); without one the stream's first half ends at once.
    #[n(10)]
    pub has_body: bool,
    /// Whether the visitor waits for a 100 before it sends the body.
    #[n(11)]
    pub expects_continue: bool,
    /// How long the server waits for the first byte of an answer, milliseconds; 0 = no limit.
    #[n(12)]
    pub timeout_ms: u64,
    /// Rules that would have refused it if its owner did not only want to be told: for the owner.
    #[n(13)]
    #[cbor(default)]
    pub shadowed: Vec<String>,
}

/// One connection's bytes: TCP, TLS pass-through.
#[derive(Debug, Clone, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct BytesHead {
    /// Which tunnel.
    #[n(0)]
    pub tunnel: TunnelId,
    /// The visit's id.
    #[n(1)]
    pub visit: VisitId,
    /// The visitor's address.
    #[n(2)]
    #[cbor(encode_with = "encode_addr", decode_with = "decode_addr")]
    pub peer: SocketAddr,
    /// The public address the visitor connected to.
    #[n(3)]
    #[cbor(encode_with = "encode_addr", decode_with = "decode_addr")]
    pub local: SocketAddr,
    /// The name asked for in TLS, when there is one.
    #[n(4)]
    pub sni: Option<String>,
    /// As [`HttpHead::shadowed`].
    #[n(5)]
    #[cbor(default)]
    pub shadowed: Vec<String>,
}

/// One visitor's datagrams. They ride the link's own datagrams; the stream says that the flow is there,
/// and its end is the flow's.
#[derive(Debug, Clone, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct UdpHead {
    /// Which tunnel.
    #[n(0)]
    pub tunnel: TunnelId,
    /// The visit's id.
    #[n(1)]
    pub visit: VisitId,
    /// The visitor's address.
    #[n(2)]
    #[cbor(encode_with = "encode_addr", decode_with = "decode_addr")]
    pub peer: SocketAddr,
    /// The public address the visitor sends to.
    #[n(3)]
    #[cbor(encode_with = "encode_addr", decode_with = "decode_addr")]
    pub local: SocketAddr,
    /// The number that its datagrams carry; the opener counts, and uses none twice.
    #[n(4)]
    pub flow: u64,
    /// Milliseconds without a datagram after which the opener ends it; 0 = never.
    #[n(5)]
    pub idle_ms: u64,
    /// As [`HttpHead::shadowed`].
    #[n(6)]
    #[cbor(default)]
    pub shadowed: Vec<String>,
}

/// A response head: any number of interim ones (1xx), then the final one.
#[derive(Debug, Clone, PartialEq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct ResponseHead {
    /// Status. 101 turns the stream raw.
    #[n(0)]
    #[cbor(encode_with = "encode_status", decode_with = "decode_status")]
    pub status: StatusCode,
    /// Fields, without hop-by-hop ones.
    #[n(1)]
    #[cbor(encode_with = "fields::encode", decode_with = "fields::decode")]
    pub fields: HeaderMap,
    /// Nothing follows, known already: gRPC's trailers-only answers need the end in the very head.
    #[n(2)]
    #[cbor(default)]
    pub ends: bool,
}

type EncodeResult<W> = Result<(), minicbor::encode::Error<<W as minicbor::encode::Write>::Error>>;
type DecodeResult<T> = Result<T, minicbor::decode::Error>;

fn encode_method<C, W: minicbor::encode::Write>(
    m: &Method,
    e: &mut minicbor::Encoder<W>,
    _: &mut C,
) -> EncodeResult<W> {
    e.str(m.as_str())?.ok()
}

fn decode_method<C>(d: &mut minicbor::Decoder<'_>, _: &mut C) -> DecodeResult<Method> {
    Method::from_bytes(d.str()?.as_bytes())
        .map_err(|_| minicbor::decode::Error::message("no method"))
}

fn encode_status<C, W: minicbor::encode::Write>(
    s: &StatusCode,
    e: &mut minicbor::Encoder<W>,
    _: &mut C,
) -> EncodeResult<W> {
    e.u16(s.as_u16())?.ok()
}

fn decode_status<C>(d: &mut minicbor::Decoder<'_>, _: &mut C) -> DecodeResult<StatusCode> {
    StatusCode::from_u16(d.u16()?).map_err(|_| minicbor::decode::Error::message("no status"))
}

fn encode_addr<C, W: minicbor::encode::Write>(
    a: &SocketAddr,
    e: &mut minicbor::Encoder<W>,
    _: &mut C,
) -> EncodeResult<W> {
    e.str(&address_text(*a))?.ok()
}

fn decode_addr<C>(d: &mut minicbor::Decoder<'_>, _: &mut C) -> DecodeResult<SocketAddr> {
    d.str()?
        .parse()
        .map_err(|_| minicbor::decode::Error::message("no address"))
}

/// The bytes that open a stream.
pub fn encode_stream_head(head: &StreamHead) -> Bytes {
    // Writing to a Vec cannot fail, so neither can these.
    match head {
        StreamHead::Control => fronted(CONTROL, 1, |out| out.push(EMPTY_MAP)),
        StreamHead::Http(head) => {
            fronted(HTTP, head.room(), |out| drop(minicbor::encode(head, out)))
        }
        StreamHead::Bytes(head) => fronted(BYTES, ROOM, |out| drop(minicbor::encode(head, out))),
        StreamHead::Udp(head) => fronted(UDP, ROOM, |out| drop(minicbor::encode(head, out))),
    }
}

/// Reads a stream's head from its first bytes: the head and its length in bytes; `None` until more have arrived.
pub fn decode_stream_head(bytes: &[u8]) -> Result<Option<(StreamHead, usize)>, WireError> {
    let Some((kind, first)) = get_varint(bytes) else {
        return Ok(None);
    };
    if kind > UDP {
        return Err(WireError::UnknownKind { kind });
    }
    let Some((length, second)) = get_varint(&bytes[first..]) else {
        return Ok(None);
    };
    let size = usize::try_from(length)
        .ok()
        .filter(|n| *n <= HEAD_MAX)
        .ok_or(WireError::TooLong {
            what: "a stream head",
            length,
            max: HEAD_MAX,
        })?;
    let start = first + second;
    let Some(cbor) = bytes.get(start..start + size) else {
        return Ok(None);
    };
    let malformed = |e| WireError::malformed("stream head", e);
    let head = match kind {
        CONTROL => StreamHead::Control,
        HTTP => StreamHead::Http(Box::new(minicbor::decode(cbor).map_err(malformed)?)),
        BYTES => StreamHead::Bytes(minicbor::decode(cbor).map_err(malformed)?),
        _ => StreamHead::Udp(minicbor::decode(cbor).map_err(malformed)?),
    };
    Ok(Some((head, start + size)))
}

impl HttpHead {
    /// About how many bytes it takes.
    fn room(&self) -> usize {
        let protocol = self.protocol.as_ref().map_or(0, String::len);
        ROOM + self.authority.len() + self.path.len() + protocol + fields::room(&self.fields)
    }
}

impl ResponseHead {
    /// The payload of a HEAD frame.
    pub fn to_bytes(&self) -> Bytes {
        minicbor::to_vec(self).unwrap_or_default().into()
    }

    /// The HEAD frame.
    pub(super) fn to_frame(&self) -> Bytes {
        let room = 16 + fields::room(&self.fields);
        // Writing to a Vec cannot fail.
        fronted(frame::HEAD, room, |out| drop(minicbor::encode(self, out)))
    }

    /// From the payload of a HEAD frame.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        minicbor::decode(bytes).map_err(|e| WireError::malformed("response head", e))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::super::put_varint;
    use super::*;

    fn sample() -> StreamHead {
        let mut fields = HeaderMap::new();
        fields.insert("accept", "*/*".parse().unwrap());
        StreamHead::Http(Box::new(HttpHead {
            tunnel: TunnelId::random(),
            visit: VisitId::random(),
            method: Method::POST,
            scheme: "https".into(),
            authority: "app.t.example.com".into(),
            path: "/a?b=%20".into(),
            fields,
            peer: "[2001:db8::1]:443".parse().unwrap(),
            protocol: None,
            version: 20,
            has_body: true,
            expects_continue: false,
            timeout_ms: 60_000,
            shadowed: vec!["deny 192.0.2.0/24".into()],
        }))
    }

    #[test]
    fn a_head_survives_the_wire_and_waits_for_all_of_itself() {
        let head = sample();
        let bytes = encode_stream_head(&head);
        for end in 0..bytes.len() {
            assert_eq!(decode_stream_head(&bytes[..end]), Ok(None), "{end}");
        }
        assert_eq!(decode_stream_head(&bytes), Ok(Some((head, bytes.len()))));
    }

    #[test]
    fn unknown_keys_are_skipped() {
        let head = ResponseHead {
            status: StatusCode::OK,
            fields: HeaderMap::new(),
            ends: true,
        };
        let mut bytes = head.to_bytes().to_vec();
        // One more pair in the map: 99 -> "new".
        bytes[0] += 1;
        bytes.extend_from_slice(&[0x18, 99, 0x63, b'n', b'e', b'w']);
        assert_eq!(ResponseHead::from_bytes(&bytes), Ok(head));
    }

    #[test]
    fn unknown_kinds_and_long_heads_are_refused() {
        assert_eq!(
            decode_stream_head(&[9]),
            Err(WireError::UnknownKind { kind: 9 })
        );
        let mut long = BytesMut::new();
        put_varint(&mut long, HTTP);
        put_varint(&mut long, HEAD_MAX as u64 + 1);
        assert!(matches!(
            decode_stream_head(&long),
            Err(WireError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decode_stream_head(&bytes);
            let _ = ResponseHead::from_bytes(&bytes);
        }
    }
}
