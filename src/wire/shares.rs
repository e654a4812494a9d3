//! Share links on the control stream. Only between peers that both have `Capabilities::POLICY`.

use minicbor::{Decode, Encode};

use crate::names::TunnelId;

/// Asks for a share link.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Share {
    /// Ties the answer to the question.
    #[n(0)]
    pub request: u64,
    /// The tunnel.
    #[n(1)]
    pub tunnel: TunnelId,
    /// When it stops working, unix milliseconds.
    #[n(2)]
    pub expires_at: i64,
    /// How many visitors may open it; absent = any number.
    #[n(3)]
    pub uses: Option<u32>,
    /// The only methods it is for; empty = all that the tunnel allows.
    #[n(4)]
    pub methods: Vec<String>,
    /// The only paths it is for; empty = all that the tunnel allows.
    #[n(5)]
    pub paths: Vec<String>,
}

/// A share link works.
#[derive(Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Shared {
    /// Of the Share.
    #[n(0)]
    pub request: u64,
    /// `shr_…`, by which it can be withdrawn.
    #[n(1)]
    pub share: String,
    /// The link to give away: who has it gets in.
    #[n(2)]
    pub url: String,
    /// When it stops working, as the server keeps it.
    #[n(3)]
    pub expires_at: i64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

/// Asks for a tunnel's share links.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Shares {
    /// Ties the answer to the question.
    #[n(0)]
    pub request: u64,
    /// The tunnel.
    #[n(1)]
    pub tunnel: TunnelId,
    /// The one after which to go on; absent = from the oldest.
    #[n(2)]
    pub after: Option<String>,
}

/// Some share links of a tunnel, oldest first; none: there are no more.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ShareList {
    /// Of the Shares.
    #[n(0)]
    pub request: u64,
    /// Those that work; the links themselves are not told again.
    #[n(1)]
    pub shares: Vec<ShareNote>,
}

/// A share link, without the link.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ShareNote {
    /// `shr_…`
    #[n(0)]
    pub share: String,
    /// When it was made, unix milliseconds.
    #[n(1)]
    pub created_at: i64,
    /// When it stops working.
    #[n(2)]
    pub expires_at: i64,
    /// How many visitors may still open it; absent = any number.
    #[n(3)]
    pub uses_left: Option<u32>,
    /// The only methods it is for.
    #[n(4)]
    pub methods: Vec<String>,
    /// The only paths it is for.
    #[n(5)]
    pub paths: Vec<String>,
}

/// Withdraws a share link.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Unshare {
    /// Ties the answer to the question.
    #[n(0)]
    pub request: u64,
    /// `shr_…`
    #[n(1)]
    pub share: String,
}
