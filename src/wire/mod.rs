//! The tunnel protocol: bytes <-> values. Not transport: what carries the
//! bytes is behind [`SendChunks`] and [`RecvChunks`], which `link` implements with QUIC streams.
//!
//! ```text
//! stream  := varint kind, varint length, CBOR head, payload
//! payload := kind http: frames { varint type, varint length, bytes }
//!            kind bytes: raw
//!            kind udp: nothing; its payloads are datagrams of the link
//!            kind control: messages { varint length, CBOR }
//! ```

mod body;
mod control;
mod domains;
mod fields;
mod frame;
mod head;
mod hello;
#[cfg(test)]
pub(crate) mod memory;
pub mod probe;
pub mod proxy;
mod queue;
mod shares;
mod standing;
mod stream;
pub mod token;
pub mod udp;
mod varint;

pub use body::{
    BodyError, WireBody, read_response_head, send_answer, send_body, send_interim,
    send_response_head,
};
pub use control::{
    Bind, Bound, Close, Closed, Control, ControlDecoder, Fault, GoAway, Life, Ping, Set, TimeNote,
    Update, encode_control,
};
pub use domains::{DomainNews, DomainNote, SetDomains};
pub use frame::{Frame, FrameDecoder, data_header, encode_frame};
pub use head::{
    BytesHead, HttpHead, ResponseHead, StreamHead, UdpHead, decode_stream_head, encode_stream_head,
};
pub use hello::{Capabilities, Enroll, Enrolled, Hello, LinkTerms, VERSION, Welcome};
pub use queue::{QueueRecv, QueueSend, queue};
pub use shares::{Share, ShareList, ShareNote, Shared, Shares, Unshare};
pub use standing::Standing;
pub use stream::{RecvChunks, SendChunks, StreamCode, StreamError, poll_send_all, send_all};
pub use varint::{VARINT_MAX, get_varint, put_varint};

/// The ALPN of links; a change that old peers cannot skip gets a new one.
pub const ALPN: &[u8] = b"wormkey/1";

/// The most bytes of a stream's CBOR head, of a response head and of trailers.
pub const HEAD_MAX: usize = 64 * 1024;

/// The most bytes of one control message.
pub const CONTROL_MAX: usize = 64 * 1024;

/// The most bytes of one DATA frame; longer bodies are more frames.
pub const DATA_MAX: usize = 1 << 20;

/// Why bytes from the peer are no wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length over its limit.
    #[error("{what} of {length} bytes is over the limit of {max}")]
    TooLong {
        /// What had the length.
        what: &'static str,
        /// The length announced.
        length: u64,
        /// The limit.
        max: usize,
    },
    /// A stream kind this version does not know.
    #[error("unknown stream kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: u64,
    },
    /// CBOR that does not read as what it should be.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// minicbor's or our reason.
        why: String,
    },
    /// A frame where none of its type may stand.
    #[error("{what} out of place")]
    OutOfPlace {
        /// What stood there.
        what: &'static str,
    },
    /// The stream ended inside something.
    #[error("the stream ended inside {what}")]
    Truncated {
        /// What was cut.
        what: &'static str,
    },
}

impl WireError {
    pub(crate) fn malformed(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Malformed {
            what,
            why: why.to_string(),
        }
    }
}
