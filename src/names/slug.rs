//! The tunnel's name: the first DNS label of its public address.

use std::fmt;
use std::str::FromStr;

/// Slugs that no tunnel may have; kept for wormkey's own pages and services.
pub const RESERVED_SLUGS: [&str; 7] = ["auth", "api", "www", "admin", "status", "docs", "wormkey"];

/// A tunnel's name, such as `quiet-lime-82`: lower-case letters, digits and single hyphens inside,
/// 1 to 40 characters, so that it is a DNS label (RFC 1123) everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(Box<str>);

/// Why a text is no slug.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlugError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// Over 40 characters.
    #[error("the name has {length} characters; at most {max} are allowed", max = Slug::MAX)]
    TooLong {
        /// Characters given.
        length: usize,
    },
    /// A character outside `a-z 0-9 -`.
    #[error("{found:?} cannot stand in a name; use a-z, 0-9 and single hyphens")]
    Character {
        /// The first offender.
        found: char,
    },
    /// A hyphen first, last or twice in a row.
    #[error("hyphens stand only single and inside a name")]
    Hyphen,
}

impl Slug {
    /// The most characters a slug may have.
    pub const MAX: usize = 40;

    /// Checks the grammar; reserved names pass here and are refused by the engine.
    pub fn parse(text: &str) -> Result<Self, SlugError> {
        if text.is_empty() {
            return Err(SlugError::Empty);
        }
        if text.chars().count() > Self::MAX {
            return Err(SlugError::TooLong {
                length: text.chars().count(),
            });
        }
        if let Some(found) = text
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
        {
            return Err(SlugError::Character { found });
        }
        if text.starts_with('-') || text.ends_with('-') || text.contains("--") {
            return Err(SlugError::Hyphen);
        }
        Ok(Self(text.into()))
    }

    /// Whether the name is kept for wormkey itself.
    pub fn is_reserved(&self) -> bool {
        RESERVED_SLUGS.contains(&&*self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = SlugError;
    fn from_str(text: &str) -> Result<Self, SlugError> {
        Self::parse(text)
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets maps keyed by slug be asked with a plain label, without building a slug first.
impl std::borrow::Borrow<str> for Slug {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for Slug {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_slugs() {
        for good in ["a", "quiet-lime-82", "8", &"a".repeat(40)] {
            assert!(Slug::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", SlugError::Empty),
            (&*"a".repeat(41), SlugError::TooLong { length: 41 }),
            ("Upper", SlugError::Character { found: 'U' }),
            ("a.b", SlugError::Character { found: '.' }),
            ("ä", SlugError::Character { found: 'ä' }),
            ("-a", SlugError::Hyphen),
            ("a-", SlugError::Hyphen),
            ("8726--slug", SlugError::Hyphen),
            ("xn--abc", SlugError::Hyphen),
        ] {
            assert_eq!(Slug::parse(bad), Err(why), "{bad}");
        }
        assert!(Slug::parse("admin").is_ok_and(|s| s.is_reserved()));
    }
}
