//! The documented numbers, the same for every HTTP version. Each holds at N and refuses at N + 1.

use std::time::Duration;

/// The most bytes of a request head: request line, fields and the empty line. Over it: 431.
pub const HEAD_MAX: usize = 32 * 1024;

/// The most field lines of a head, `Host` (or `:authority`) among them. Over it: 431.
pub const FIELDS_MAX: usize = 100;

/// The most bytes of a request target. Over it: 414.
pub const TARGET_MAX: usize = 8 * 1024;

/// The most bytes of a method. Over it: 501.
pub const METHOD_MAX: usize = 32;

/// The largest Content-Length: what fits a signed 64-bit number, so that no party downstream overflows.
pub const CONTENT_LENGTH_MAX: u64 = i64::MAX as u64;

/// The most bytes of chunk extensions in one body. Nobody uses them but attackers.
pub const CHUNK_EXTENSIONS_MAX: usize = 4 * 1024;

/// The most bytes of the trailer section of a chunked body.
pub const TRAILERS_MAX: usize = 8 * 1024;

/// How long a head may take from its first byte, and the first head of a connection from its start.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a kept-alive connection may be idle.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the client may leave a visitor without its 100 (Continue) before we send it ourselves.
pub const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The fewest bytes a second that a visitor sends of a body or takes of a response, while only the visitor
/// is waited for; judged over [`RATE_WINDOW`] of such waiting. Our own back-pressure, an origin that takes
/// its time, upgraded connections and event streams do not count.
pub const RATE_MIN: u64 = 240;

/// How long a visitor may stay below [`RATE_MIN`]. Over it: 408 for a body, the end for a response.
pub const RATE_WINDOW: Duration = Duration::from_secs(20);

/// What has to move in one [`RATE_WINDOW`].
pub const RATE_BYTES: u64 = RATE_MIN * RATE_WINDOW.as_secs();

/// Frames without use for a visit (HTTP/2: PING, SETTINGS, PRIORITY, empty DATA, CONTINUATION and such)
/// that a connection may send at once, and then each second. Over it: GOAWAY and the end.
pub const FRAMES_BURST: u32 = 5_000;

/// See [`FRAMES_BURST`].
pub const FRAMES_PER_SECOND: u32 = 1_000;

/// How many of those frames one RST_STREAM counts for: it may have cost a visit to the origin.
pub const RESET_COST: u32 = 10;

/// The most connections at once, unless told otherwise. Over it new ones are closed.
pub const CONNECTIONS_MAX: usize = 16_384;

/// What one source may have of them, an IPv4 address or an IPv6 network of 64 bits: one part in so many.
pub const SOURCE_PART: usize = 8;

/// The most visits under way at once, unless told otherwise. Over it: 503.
pub const VISITS_MAX: usize = 8_192;

/// The most bytes of a body that is signed, on a tunnel that asks for signatures, unless told otherwise: it is
/// looked at whole before any of it goes on. Over it: 413.
pub const SIGNED_BODY_MAX: usize = 1 << 20;

/// The most bytes of all such bodies at once, unless told otherwise. Over it: 503.
pub const SIGNED_MEMORY_MAX: usize = 64 << 20;

/// What one user's tunnels may have of them, if that is more than one body: one part in so many. A tunnel may
/// have half of that, and a visitor an eighth.
pub const SIGNED_PART: usize = 4;

/// How long such a body may take, besides [`RATE_MIN`]. Over it: 408.
pub const SIGNED_BODY_TIMEOUT: Duration = Duration::from_secs(60);
