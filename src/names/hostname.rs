//! Host names as they stand in a `Host` header, in SNI and in settings: canonical, without port.

use std::fmt;

/// A DNS host name in canonical form: lower case, no trailing dot, no port, letters, digits,
/// hyphens and dots only (RFC 1123), at most 253 characters. IP literals are not host names here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Box<str>);

/// Why a text is no host name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Empty, or over 253 characters, or a label empty or over 63.
    #[error("a host name has 1 to 253 characters in labels of 1 to 63")]
    Length,
    /// A character that DNS host names do not have.
    #[error("{found:?} cannot stand in a host name")]
    Character {
        /// The first offender.
        found: char,
    },
    /// A label that starts or ends with a hyphen.
    #[error("a label cannot start or end with a hyphen")]
    Hyphen,
}

impl Hostname {
    /// Canonicalises: lower-cases and drops one trailing dot.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > 253 {
            return Err(HostnameError::Length);
        }
        // Bytes: every visit comes by here, and what is not ASCII cannot stand here anyway.
        for label in text.as_bytes().split(|b| *b == b'.') {
            if label.is_empty() || label.len() > 63 {
                return Err(HostnameError::Length);
            }
            if !label
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            {
                let known = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
                let found = text.chars().find(|c| !known(c)).unwrap_or_default();
                return Err(HostnameError::Character { found });
            }
            if label.starts_with(b"-") || label.ends_with(b"-") {
                return Err(HostnameError::Hyphen);
            }
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The single label left of `domain`: `app` of `app.tunnel.example.com` under
    /// `tunnel.example.com`; none for the domain itself, other domains and deeper names.
    pub fn label_under(&self, domain: &Hostname) -> Option<&str> {
        let label = self.0.strip_suffix(&*domain.0)?.strip_suffix('.')?;
        (!label.contains('.')).then_some(label)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Hostname {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_canonical() {
        assert_eq!(
            Hostname::parse("App.Example.COM.").map(|h| h.to_string()),
            Ok("app.example.com".into())
        );
        for bad in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "a:1",
            "evil@a",
            "ü.de",
            &"a".repeat(64),
        ] {
            assert!(Hostname::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_one_label_counts_as_a_slug() {
        let domain = Hostname::parse("t.example.com").unwrap();
        let label = |h: &str| {
            Hostname::parse(h)
                .unwrap()
                .label_under(&domain)
                .map(str::to_owned)
        };
        assert_eq!(label("app.t.example.com"), Some("app".into()));
        for other in [
            "t.example.com",
            "a.b.t.example.com",
            "appt.example.com",
            "app.example.com",
        ] {
            assert_eq!(label(other), None, "{other}");
        }
    }
}
