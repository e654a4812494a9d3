//! What the edge changes about heads: rules only, checked; the edge applies them.

use std::collections::{BTreeMap, BTreeSet};

use ::http::{HeaderName, HeaderValue, Method};

/// Fields to take out, then fields to put in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderRules {
    pub(super) set: BTreeMap<String, HeaderValue>,
    pub(super) remove: BTreeSet<String>,
}

impl HeaderRules {
    /// Fields to put in, instead of what stands there.
    pub fn set(&self) -> impl Iterator<Item = (HeaderName, &HeaderValue)> {
        self.set.iter().map(|(name, value)| (field(name), value))
    }

    /// Fields to take out.
    pub fn remove(&self) -> impl Iterator<Item = HeaderName> {
        self.remove.iter().map(|name| field(name))
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

fn field(name: &str) -> HeaderName {
    HeaderName::from_bytes(name.as_bytes()).expect("it was checked when the policy was read")
}

/// Why a field is not a rule's to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("is no field name")]
    Name,
    #[error("has a value that is none: visible characters, at most 1024 bytes")]
    Value,
    #[error("is not a rule's to change: it frames or routes the message")]
    Ours,
}

pub(super) fn name(text: &str) -> Result<String, HeaderError> {
    const OURS: [&str; 14] = [
        "connection",
        "content-length",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "via",
    ];
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| HeaderError::Name)?;
    let name = name.as_str();
    let ours = OURS.contains(&name)
        || ["wormkey-", "x-forwarded-", "sec-websocket-"]
            .iter()
            .any(|ours| name.starts_with(ours));
    if ours || name.len() > 128 {
        return Err(HeaderError::Ours);
    }
    Ok(name.to_owned())
}

pub(super) fn value(text: &str) -> Result<HeaderValue, HeaderError> {
    let value = HeaderValue::from_str(text).map_err(|_| HeaderError::Value)?;
    let plain = text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if text.len() > 1024 || !plain {
        return Err(HeaderError::Value);
    }
    Ok(value)
}

/// Fields that tell browsers to be careful. What is absent has a careful default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecureHeaders {
    pub(super) hsts: Option<HeaderValue>,
    pub(super) csp: Option<HeaderValue>,
    pub(super) frame_ancestors: Option<HeaderValue>,
    pub(super) referrer_policy: Option<HeaderValue>,
}

impl SecureHeaders {
    /// The fields to put into a response.
    pub fn fields(&self) -> Vec<(HeaderName, HeaderValue)> {
        use ::http::header as h;
        let or = |value: &Option<HeaderValue>, default| {
            value
                .clone()
                .unwrap_or_else(|| HeaderValue::from_static(default))
        };
        vec![
            (
                h::STRICT_TRANSPORT_SECURITY,
                or(&self.hsts, "max-age=31536000"),
            ),
            (
                h::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
            (
                h::REFERRER_POLICY,
                or(&self.referrer_policy, "strict-origin-when-cross-origin"),
            ),
            (h::CONTENT_SECURITY_POLICY, self.content_security_policy()),
        ]
    }

    fn content_security_policy(&self) -> HeaderValue {
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let csp = self.csp.as_ref().map(text).unwrap_or_default();
        let csp = csp.trim().trim_end_matches(';');
        if csp.contains("frame-ancestors") && self.frame_ancestors.is_none() {
            return HeaderValue::from_str(csp).expect("it is part of a checked value");
        }
        let ancestors = self.frame_ancestors.as_ref().map(text);
        let ancestors = ancestors.as_deref().unwrap_or("'self'");
        let separator = if csp.is_empty() { "" } else { "; " };
        HeaderValue::from_str(&format!("{csp}{separator}frame-ancestors {ancestors}"))
            .expect("both are checked values")
    }
}

/// Whose scripts may read responses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cors {
    pub(super) origins: BTreeSet<String>,
    pub(super) methods: Vec<Method>,
    pub(super) headers: BTreeSet<String>,
    pub(super) credentials: bool,
    pub(super) max_age: Option<u32>,
}

impl Cors {
    /// Whether an `Origin` is one of them.
    pub fn allows(&self, origin: &str) -> bool {
        self.is_open() || self.origins.contains(origin)
    }

    /// Whether every origin is.
    pub fn is_open(&self) -> bool {
        self.origins.contains("*")
    }

    /// Methods beyond the simple ones; empty: those that are asked for.
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// Request fields beyond the simple ones; empty: those that are asked for.
    pub const fn headers(&self) -> &BTreeSet<String> {
        &self.headers
    }

    /// Whether cookies may go along.
    pub const fn credentials(&self) -> bool {
        self.credentials
    }

    /// For how many seconds a preflight's answer holds.
    pub const fn max_age(&self) -> Option<u32> {
        self.max_age
    }
}

/// `https://app.example.com`, or `*`.
pub(super) fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let rest = ["https://", "http://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]_".contains(&b);
    rest.is_some_and(|host| !host.is_empty() && host.len() <= 260 && host.bytes().all(plain))
}
