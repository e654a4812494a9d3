//! Own domains on the control stream. Only between peers that both have `Capabilities::DOMAINS`.

use minicbor::{Decode, Encode};

use crate::names::TunnelId;

/// Says which own domains shall lead to a tunnel: all of them. Answered with a Bound.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct SetDomains {
    /// Ties the answer to the question.
    #[n(0)]
    pub request: u64,
    /// The tunnel.
    #[n(1)]
    pub tunnel: TunnelId,
    /// The domains.
    #[n(2)]
    pub domains: Vec<String>,
}

/// How the own domains of a tunnel stand; before every Bound of a tunnel that has some, and whenever it
/// changes.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct DomainNews {
    /// The tunnel.
    #[n(0)]
    pub tunnel: TunnelId,
    /// What the TXT record at `_wormkey-challenge.` and the domain has to say.
    #[n(1)]
    pub proof: String,
    /// All of them.
    #[n(2)]
    pub domains: Vec<DomainNote>,
}

/// How one stands.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct DomainNote {
    /// The domain.
    #[n(0)]
    pub domain: String,
    /// `pending`, `proven`, `lost`; others are a newer server's.
    #[n(1)]
    pub state: String,
    /// Since when, unix milliseconds.
    #[n(2)]
    pub since: i64,
    /// Since when the record is not found any more, while it still counts.
    #[n(3)]
    pub missing_since: Option<i64>,
    /// When it was looked for last.
    #[n(4)]
    pub looked_at: Option<i64>,
    /// What stood in the way then, for people.
    #[n(5)]
    pub said: Option<String>,
    /// How its certificate does, for people.
    #[n(6)]
    pub certificate: Option<String>,
}
