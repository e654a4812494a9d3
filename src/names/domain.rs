//! A domain of somebody's own, such as `app.example.org` or `*.app.example.org`, that leads to a tunnel.

use std::fmt;
use std::str::FromStr;

use super::{Hostname, HostnameError};

/// The label below which the owner of a domain shows that it is theirs.
const CHALLENGE: &str = "_wormkey-challenge";

/// A domain in canonical form: a host name of two labels or more, or all names one label below one (`*.`).
/// Names that no public DNS has (`localhost`, addresses, single labels) are none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain {
    base: Hostname,
    wildcard: bool,
}

/// Why a text is no domain of somebody's own.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Letters beyond ASCII: what looks alike is not the same name.
    #[error(
        "{text:?} has letters beyond a-z; write it as DNS has it, such as xn--bcher-kva.example"
    )]
    Foreign {
        /// What was given.
        text: String,
    },
    /// No host name.
    #[error("{text:?} is no domain: {why}")]
    Host {
        /// What was given.
        text: String,
        /// Why.
        why: HostnameError,
    },
    /// A star elsewhere than as the first label.
    #[error("{text:?}: a star stands only as the whole first label, such as *.app.example.org")]
    Star {
        /// What was given.
        text: String,
    },
    /// An address, a single label or a name that only this machine or this network knows.
    #[error("{text:?} is no name of the public DNS; write one such as app.example.org")]
    NotPublic {
        /// What was given.
        text: String,
    },
    /// Longer than the record that proves it can be.
    #[error("{text:?} is too long: _wormkey-challenge in front of it must fit into 253 characters")]
    Long {
        /// What was given.
        text: String,
    },
}

/// Top labels that never stand in the public DNS (RFC 6761, RFC 6762, RFC 8375, RFC 9476, and ICANN's `internal`).
const PRIVATE: [&str; 6] = ["localhost", "local", "invalid", "onion", "alt", "internal"];

impl Domain {
    /// Canonicalises: lower case, no trailing dot, no `:443`.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let given = || text.chars().take(300).collect::<String>();
        if !text.is_ascii() {
            return Err(DomainError::Foreign { text: given() });
        }
        let name = text.strip_suffix(":443").unwrap_or(text);
        let (wildcard, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        if rest.contains('*') {
            return Err(DomainError::Star { text: given() });
        }
        let base = Hostname::parse(rest).map_err(|why| DomainError::Host { text: given(), why })?;
        let last = base.as_str().rsplit('.').next().unwrap_or_default();
        // No top label is a number (RFC 3696, section 2); such a name is an address to some programs.
        let is_number = last.starts_with(|c: char| c.is_ascii_digit());
        if !base.as_str().contains('.') || is_number || PRIVATE.contains(&last) {
            return Err(DomainError::NotPublic { text: given() });
        }
        if base.as_str().len() + CHALLENGE.len() + 1 > 253 {
            return Err(DomainError::Long { text: given() });
        }
        Ok(Self { base, wildcard })
    }

    /// The name without a star.
    pub const fn base(&self) -> &Hostname {
        &self.base
    }

    /// Whether it is all names one label below its base, and not the base.
    pub const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The very name of a host.
    pub const fn of_host(host: Hostname) -> Self {
        Self {
            base: host,
            wildcard: false,
        }
    }

    /// The wildcard that a host is one of; none for a single label.
    pub fn around(host: &Hostname) -> Option<Self> {
        let (_, parent) = host.as_str().split_once('.')?;
        Some(Self {
            base: Hostname::parse(parent).ok()?,
            wildcard: true,
        })
    }

    /// Whether it is a name that a server under `domain` gives away itself, or has for itself.
    pub fn is_within(&self, domain: &Hostname) -> bool {
        let below = self.base.as_str().strip_suffix(domain.as_str());
        below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name of the TXT record that proves it.
    pub fn challenge(&self) -> String {
        format!("{CHALLENGE}.{}", self.base)
    }
}

impl FromStr for Domain {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.base)
    }
}

impl serde::Serialize for Domain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Domain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    #[test]
    fn domains_become_canonical() {
        for (given, kept) in [
            ("App.Example.ORG", "app.example.org"),
            ("app.example.org.", "app.example.org"),
            ("app.example.org:443", "app.example.org"),
            ("*.App.Example.org.", "*.app.example.org"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(Domain::parse(given).unwrap().to_string(), kept);
        }
    }

    #[test]
    fn what_is_no_domain_of_ones_own_is_refused() {
        let long = format!("{}.example", "a.".repeat(118) + "a");
        for bad in [
            "",
            "*",
            "*.",
            "app",
            "*.org",
            "localhost",
            "app.localhost",
            "printer.local",
            "127.0.0.1",
            "10.1",
            "[::1]",
            "app.0x7f",
            "app.example.org:8443",
            "https://app.example.org",
            "a*.example.org",
            "*.*.example.org",
            "app.*.example.org",
            "bücher.example",
            "app..org",
            "_dmarc.example.org",
            &long,
        ] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
        let foreign = Domain::parse("bücher.example").unwrap_err().to_string();
        assert!(foreign.contains("xn--"), "{foreign}");
    }

    #[test]
    fn a_servers_own_names_are_told_from_others() {
        let own = host("t.example.org");
        for (domain, within) in [
            ("t.example.org", true),
            ("a.t.example.org", true),
            ("a.b.t.example.org", true),
            ("*.t.example.org", true),
            ("*.example.org", false),
            ("at.example.org", false),
            ("example.org", false),
        ] {
            assert_eq!(
                Domain::parse(domain).unwrap().is_within(&own),
                within,
                "{domain}"
            );
        }
    }

    #[test]
    fn a_wildcard_is_proven_where_its_base_is() {
        let both = ["*.app.example.org", "app.example.org"];
        for domain in both.map(|text| Domain::parse(text).unwrap()) {
            assert_eq!(domain.challenge(), "_wormkey-challenge.app.example.org");
        }
        let around = Domain::around(&host("x.app.example.org")).unwrap();
        assert_eq!(around, Domain::parse(both[0]).unwrap());
    }

    proptest! {
        #[test]
        fn every_way_of_writing_a_name_is_the_same_domain(
            labels in proptest::collection::vec("[a-z][a-z0-9]{0,8}", 2..5),
            upper in proptest::collection::vec(any::<bool>(), 48),
            dot in any::<bool>(),
            port in any::<bool>(),
            star in any::<bool>(),
        ) {
            let plain = format!("{}{}", if star { "*." } else { "" }, labels.join("."));
            let mut odd: String = plain
                .chars()
                .zip(upper.iter().cycle())
                .map(|(c, up)| if *up { c.to_ascii_uppercase() } else { c })
                .collect();
            if dot { odd.push('.'); }
            if port { odd.push_str(":443"); }
            prop_assert_eq!(Domain::parse(&odd), Domain::parse(&plain));
        }

        #[test]
        fn a_domain_reads_as_what_it_shows(text in "\\PC{0,40}") {
            if let Ok(domain) = Domain::parse(&text) {
                prop_assert_eq!(Domain::parse(&domain.to_string()), Ok(domain));
            }
        }
    }
}
