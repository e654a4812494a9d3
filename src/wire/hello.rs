//! How a link begins on the control stream: what each end speaks, who it is, and a device's enrolment.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::names::{DeviceId, Generation, Kind, Pin};

/// The newest protocol version this build speaks. Version 1 is the first.
pub const VERSION: u32 = 1;

/// What a peer can do beyond the version; unknown bits are another release's and mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Capabilities(#[n(0)] pub u64);

impl Capabilities {
    /// Carries `bytes` streams.
    pub const BYTES: Self = Self(1);
    /// Carries flows of datagrams.
    pub const UDP: Self = Self(2);
    /// Keeps to policies: `Bind.policy`, Set, Share.
    pub const POLICY: Self = Self(4);
    /// Changes lives: `Set.life`.
    pub const LIFE: Self = Self(8);
    /// Knows own domains: `Bind.domains`, SetDomains, DomainNews.
    pub const DOMAINS: Self = Self(16);
    /// All that this build can do.
    pub const OURS: Self =
        Self(Self::BYTES.0 | Self::UDP.0 | Self::POLICY.0 | Self::LIFE.0 | Self::DOMAINS.0);

    /// What both ends need for tunnels of a kind.
    pub const fn needed_for(kind: Kind) -> Self {
        match kind {
            Kind::Http => Self(0),
            Kind::Tcp | Kind::Tls => Self::BYTES,
            Kind::Udp => Self::UDP,
        }
    }

    /// Whether all of `other` is in here.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The client's first message.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// The versions it speaks, any order.
    #[n(0)]
    pub versions: Vec<u32>,
    /// What else it can do.
    #[n(1)]
    pub capabilities: Capabilities,
    /// `wormkeyd 0.1.0`; for people only.
    #[n(2)]
    pub software: String,
    /// The machine's name; for people only.
    #[n(3)]
    pub device_name: String,
    /// Whether an Enroll follows.
    #[n(4)]
    pub enrolling: bool,
}

/// What both ends keep to.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct LinkTerms {
    /// Milliseconds between the client's keep-alives that the server reckons with.
    #[n(0)]
    pub keep_alive_ms: u64,
}

/// The server's answer to a Hello.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The version to speak: the highest both have.
    #[n(0)]
    pub version: u32,
    /// What else the server can do.
    #[n(1)]
    pub capabilities: Capabilities,
    /// For people only.
    #[n(2)]
    pub software: String,
    /// This link's generation.
    #[n(3)]
    pub generation: Generation,
    /// Keep-alive and such.
    #[n(4)]
    pub terms: LinkTerms,
    /// The tunnel domain.
    #[n(5)]
    pub domain: String,
    /// Pins of the server's keys: current first, then the next.
    #[n(6)]
    pub pins: Vec<ByteArray<32>>,
    /// Where to reach the server; empty = as before.
    #[n(7)]
    pub addresses: Vec<String>,
    /// The device's row.
    #[n(8)]
    pub device: DeviceId,
    /// The user it belongs to.
    #[n(9)]
    pub user: String,
}

/// Uses a join token.
#[derive(Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Enroll {
    /// The token's secret; the server keeps only its SHA-256.
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pub secret: [u8; 32],
    /// HMAC-SHA-256(secret, TLS exporter of this connection): binds the token to this link and key.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    pub proof: [u8; 32],
    /// The machine's name.
    #[n(2)]
    pub device_name: String,
}

impl std::fmt::Debug for Enroll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enroll")
            .field("device_name", &self.device_name)
            .finish_non_exhaustive()
    }
}

/// The device is known.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Enrolled {
    /// Its row.
    #[n(0)]
    pub device: DeviceId,
    /// The user it belongs to.
    #[n(1)]
    pub user: String,
}

impl Welcome {
    /// The pins as pins.
    pub fn pins(&self) -> Vec<Pin> {
        self.pins.iter().map(|pin| Pin(**pin)).collect()
    }
}
