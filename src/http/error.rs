//! Why a head is refused, and the code it is refused with.

use http::StatusCode;

use crate::codes::Code;

/// Why a request is not acceptable. Texts go to our log; outsiders read the code's sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The request line is not `method SP target SP version CRLF`.
    #[error("malformed request line")]
    RequestLine,
    /// Neither `HTTP/1.1` nor `HTTP/1.0`, in just this spelling.
    #[error("unknown protocol version")]
    Version,
    /// CONNECT (but for RFC 8441) or TRACE.
    #[error("method not served")]
    MethodRefused,
    /// A method longer than any that is known.
    #[error("method too long")]
    MethodTooLong,
    /// A target of a form or with a byte that has no place there.
    #[error("malformed target")]
    Target,
    /// A target over its limit.
    #[error("target too long")]
    TargetTooLong,
    /// A line that ends with LF alone.
    #[error("bare line feed")]
    BareLf,
    /// CR without LF.
    #[error("bare carriage return")]
    BareCr,
    /// A line that starts with white space.
    #[error("folded line")]
    Folded,
    /// A field name that is empty or no token, white space before the colon among it.
    #[error("malformed field name")]
    FieldName,
    /// A field line without a colon.
    #[error("field line without a colon")]
    NoColon,
    /// A control byte in a field value.
    #[error("control byte in a field value")]
    FieldValue,
    /// Too many field lines.
    #[error("too many fields")]
    TooManyFields,
    /// A head over its limit.
    #[error("head too large")]
    HeadTooLarge,
    /// Neither Host nor `:authority`.
    #[error("no host")]
    HostMissing,
    /// More than one Host.
    #[error("more than one host")]
    HostTwice,
    /// A host that is no authority.
    #[error("malformed host")]
    HostMalformed,
    /// Target, `:authority` and Host do not name the same.
    #[error("contradictory hosts")]
    HostsDiffer,
    /// Well formed, but nothing that a tunnel could be called.
    #[error("a host that no tunnel can have")]
    HostForeign,
    /// Both Content-Length and Transfer-Encoding.
    #[error("content-length with transfer-encoding")]
    LengthAndEncoding,
    /// Anything but exactly one `chunked`, or any on HTTP/1.0.
    #[error("unacceptable transfer-encoding")]
    TransferEncoding,
    /// Repeated, a list, signed, empty, not decimal, or too large.
    #[error("unacceptable content-length")]
    ContentLength,
    /// HTTP/1.0 and a method with a body, but no length: RFC 1945 section 8.3.
    #[error("a body without a length on http/1.0")]
    LengthMissing,
    /// `Connection` names a field that is not hop-by-hop and that we rely on.
    #[error("connection nominates a field of the message")]
    Nominated,
    /// A hop-by-hop field in HTTP/2 or 3, or a `Connection` that is no list of names.
    #[error("malformed connection fields")]
    HopByHop,
    /// A scheme other than `http` and `https`.
    #[error("unknown scheme")]
    Scheme,
    /// The other scheme than the connection's.
    #[error("scheme of another listener")]
    SchemeMismatch,
    /// An extended CONNECT for something else than a WebSocket.
    #[error("unknown :protocol")]
    Protocol,
    /// The head did not arrive in time.
    #[error("head too slow")]
    Timeout,
    /// Chunk framing that is none, or over its limits.
    #[error("malformed chunked body")]
    Chunk,
}

impl HeadError {
    /// The code visitors get.
    pub const fn code(self) -> Code {
        match self {
            Self::RequestLine
            | Self::Version
            | Self::Target
            | Self::BareLf
            | Self::BareCr
            | Self::Folded
            | Self::FieldName
            | Self::NoColon
            | Self::FieldValue
            | Self::HostMissing
            | Self::HostTwice
            | Self::HostMalformed
            | Self::HostsDiffer
            | Self::LengthAndEncoding
            | Self::TransferEncoding
            | Self::ContentLength
            | Self::LengthMissing
            | Self::Nominated
            | Self::HopByHop
            | Self::Scheme
            | Self::Chunk => Code::BadRequest,
            Self::MethodRefused => Code::MethodNotAllowed,
            Self::MethodTooLong | Self::Protocol => Code::NotImplemented,
            Self::TargetTooLong | Self::TooManyFields | Self::HeadTooLarge => Code::TooLarge,
            Self::HostForeign => Code::NoSuchTunnel,
            Self::SchemeMismatch => Code::Misdirected,
            Self::Timeout => Code::RequestTimeout,
        }
    }

    /// The status visitors get: the code's own, but for the two sizes that HTTP tells apart.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyFields | Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            other => StatusCode::from_u16(other.code().status()).unwrap_or(StatusCode::BAD_REQUEST),
        }
    }
}
