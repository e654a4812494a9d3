//! Identifiers: prefixed UUIDv7 for rows, key hashes for peers, generations for links.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Why a text is no identifier.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id; ids look like {prefix}_0198c0de…")]
pub struct IdError {
    /// What was given.
    pub text: String,
    /// The prefix this kind of id has.
    pub prefix: &'static str,
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The text before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: a UUIDv7, so that rows sort by the time they were made.
            pub fn random() -> Self {
                Self(Uuid::now_v7())
            }

            /// From its 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Its 16 bytes.
            pub const fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // In one piece: each visit writes its own id.
                const BEFORE: &[u8] = concat!($prefix, "_").as_bytes();
                let mut text = [0; BEFORE.len() + 32];
                let (before, hex) = text.split_at_mut(BEFORE.len());
                before.copy_from_slice(BEFORE);
                self.0.simple().encode_lower(hex);
                f.write_str(std::str::from_utf8(&text).expect("a prefix and hexadecimal digits"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .filter(|hex| hex.len() == 32)
                    .and_then(|hex| Uuid::try_parse(hex).ok())
                    .map(Self)
                    .ok_or_else(|| IdError { text: text.chars().take(64).collect(), prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(self.0.as_bytes())?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let bytes: [u8; 16] = d
                    .bytes()?
                    .try_into()
                    .map_err(|_| minicbor::decode::Error::message("an id has 16 bytes"))?;
                Ok(Self::from_bytes(bytes))
            }
        }
    };
}

prefixed_id!(
    /// A tunnel. Made by the client, so that asking twice for the same tunnel is harmless.
    TunnelId, "tun"
);
prefixed_id!(
    /// A client machine's row on the server.
    DeviceId, "dev"
);
prefixed_id!(
    /// Who owns devices and tunnels.
    UserId, "usr"
);
prefixed_id!(
    /// A join token's row; not the secret.
    InviteId, "inv"
);
prefixed_id!(
    /// A share link's row; not its token.
    ShareId, "shr"
);
prefixed_id!(
    /// One visit: the `wormkey-request-id` that visitors see and logs carry.
    VisitId, "vis"
);

/// SHA-256 of a public key's SPKI (RFC 7469's pin): how both ends of a link know each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

impl FromStr for Pin {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| IdError {
                text: text.chars().take(80).collect(),
                prefix: "pin",
            })
    }
}

/// The age of a link: (server's boot, counter). A later one fences all earlier ones of its device.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode,
)]
pub struct Generation {
    /// The server's start, unix milliseconds; comparable across nodes.
    #[n(0)]
    pub boot: u64,
    /// Counts links since that start.
    #[n(1)]
    pub counter: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}", self.boot, self.counter)
    }
}

impl FromStr for Generation {
    type Err = BadGeneration;

    fn from_str(text: &str) -> Result<Self, BadGeneration> {
        let (boot, counter) = text.split_once('.').ok_or(BadGeneration)?;
        Ok(Self {
            boot: u64::from_str_radix(boot, 16).map_err(|_| BadGeneration)?,
            counter: counter.parse().map_err(|_| BadGeneration)?,
        })
    }
}

/// A text that is no generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no generation of a link")]
pub struct BadGeneration;

/// One link: the generation alone tells it, since no two links share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub Generation);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text() {
        let id = TunnelId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "tun_",
            "dev_0198c0de0198c0de0198c0de0198c0de",
            "tun_xyz",
        ] {
            assert!(bad.parse::<TunnelId>().is_err(), "{bad}");
        }
    }
}
