//! How a tunnel's clocks stand, beside what else is said of it. Optional everywhere: peers of older
//! releases neither send nor read it.

use minicbor::{Decode, Encode};

/// How a tunnel's clocks stand, as the server has them at the moment of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Standing {
    /// The server's wall clock, unix milliseconds.
    #[n(0)]
    pub now: i64,
    /// The latest visit; absent = none yet.
    #[n(1)]
    pub last_seen_at: Option<i64>,
    /// Milliseconds without a visit until it closes; absent = it never does for that.
    #[n(2)]
    pub idle_left_ms: Option<u64>,
    /// Milliseconds that its client may stay away.
    #[n(3)]
    pub offline_max_ms: u64,
}
