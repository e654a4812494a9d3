//! How HTTP/3 says that something is wrong: on a stream or, where nothing after it can be trusted, for the
//! whole connection.

use quinn::VarInt;

/// An error code of RFC 9114 or RFC 9204.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) struct Code(u32);

impl Code {
    pub(super) const NO_ERROR: Self = Self(0x100);
    pub(super) const GENERAL_PROTOCOL: Self = Self(0x101);
    pub(super) const INTERNAL: Self = Self(0x102);
    pub(super) const STREAM_CREATION: Self = Self(0x103);
    pub(super) const CLOSED_CRITICAL_STREAM: Self = Self(0x104);
    pub(super) const FRAME_UNEXPECTED: Self = Self(0x105);
    pub(super) const FRAME: Self = Self(0x106);
    pub(super) const EXCESSIVE_LOAD: Self = Self(0x107);
    pub(super) const ID: Self = Self(0x108);
    pub(super) const SETTINGS: Self = Self(0x109);
    pub(super) const MISSING_SETTINGS: Self = Self(0x10a);
    pub(super) const REQUEST_REJECTED: Self = Self(0x10b);
    pub(super) const REQUEST_CANCELLED: Self = Self(0x10c);
    pub(super) const REQUEST_INCOMPLETE: Self = Self(0x10d);
    pub(super) const MESSAGE: Self = Self(0x10e);
    pub(super) const DECOMPRESSION: Self = Self(0x200);
    pub(super) const ENCODER_STREAM: Self = Self(0x201);
    pub(super) const DECODER_STREAM: Self = Self(0x202);

    pub(super) fn wire(self) -> VarInt {
        VarInt::from_u32(self.0)
    }
}

/// Why reading a stream ends before the stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::edge) enum Trouble {
    /// The peer breaks the protocol: the connection ends.
    #[error("the connection breaks the protocol ({0:?})")]
    Connection(Code),
    /// The message is malformed: its stream ends.
    #[error("a malformed message ({0:?})")]
    Stream(Code),
    /// A field section larger than any we look at.
    #[error("a field section over its limit")]
    TooLarge,
    /// The peer has reset the stream, or the connection is lost.
    #[error("the stream broke off")]
    Gone,
}
