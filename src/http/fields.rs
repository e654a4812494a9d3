//! Field names that are somebody's: hop-by-hop ones, forwarded ones, our own.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::HeadError;

/// Fields that belong to one connection (RFC 9110 section 7.6.1, and the ones written before it).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What HTTP/2 and 3 call malformed (RFC 9113 section 8.2.2); `te: trailers` alone is allowed there.
const CONNECTION_SPECIFIC: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Names that frame or route a message: their `_` twins mean the same to CGI-like origins.
const FRAMING: [&str; 6] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
];

/// The cookie names that are ours.
const COOKIE_PREFIX: &str = "__host-wormkey-";

/// Whether a field of HTTP/2 or 3 makes the request malformed.
pub(super) fn is_connection_specific(name: &HeaderName) -> bool {
    CONNECTION_SPECIFIC.contains(name)
}

/// Whether a visitor's field is dropped because we alone write it, or because an origin could take it
/// for one that we write: `x_forwarded_for` is `X-Forwarded-For` to a CGI.
pub(super) fn is_ours(name: &str) -> bool {
    if !name.contains('_') {
        return is_ours_as_written(name);
    }
    let twin = name.replace('_', "-");
    is_ours_as_written(&twin) || FRAMING.contains(&&*twin)
}

fn is_ours_as_written(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'x') => name.starts_with("x-forwarded-") || name == "x-real-ip",
        Some(b'f') => name == "forwarded",
        Some(b'w') => name.starts_with("wormkey-"),
        _ => false,
    }
}

/// The tokens of a comma-separated field, over all its lines.
pub(super) fn tokens<'a>(
    fields: &'a HeaderMap,
    name: &'a HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    fields
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Removes hop-by-hop fields and those that `Connection` names.
pub(super) fn remove_hop_by_hop(fields: &mut HeaderMap) -> Result<(), HeadError> {
    let nominated: Vec<HeaderName> = tokens(fields, &header::CONNECTION)
        .filter(|t| !t.eq_ignore_ascii_case(b"close"))
        .map(|t| HeaderName::from_bytes(t).map_err(|_| HeadError::HopByHop))
        .collect::<Result<_, _>>()?;
    if nominated
        .iter()
        .any(|n| *n == header::HOST || *n == header::CONTENT_LENGTH)
    {
        return Err(HeadError::Nominated);
    }
    remove_names(fields, |name| {
        is_hop_by_hop(name.as_str()) || nominated.contains(name)
    });
    Ok(())
}

/// Removes every field for which `unwanted` says so.
pub(super) fn remove_if(fields: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    remove_names(fields, |name| unwanted(name.as_str()));
}

/// One look at each name that is there costs less than one for each that may be.
fn remove_names(fields: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = fields
        .keys()
        .filter(|name| unwanted(name))
        .cloned()
        .collect();
    for name in names {
        fields.remove(name);
    }
}

/// Whether a cookie of this name is ours.
pub(super) fn is_our_cookie(name: &[u8]) -> bool {
    let name = name.trim_ascii();
    name.get(..COOKIE_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(COOKIE_PREFIX.as_bytes()))
}

/// One `Cookie` field without our cookies. HTTP/2 may send several, and an HTTP/1 origin must get
/// one (RFC 9113 section 8.2.3).
pub(super) fn tidy_cookies(fields: &mut HeaderMap) {
    let lines = fields.get_all(header::COOKIE).iter().count();
    let has_ours = fields
        .get_all(header::COOKIE)
        .iter()
        .any(|v| v.as_bytes().split(|b| *b == b';').any(is_our_cookie));
    if lines < 2 && !has_ours {
        return;
    }
    let kept: Vec<&[u8]> = fields
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|v| v.as_bytes().split(|b| *b == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty() && !is_our_cookie(pair))
        .collect();
    let joined = kept.join(&b"; "[..]);
    fields.remove(header::COOKIE);
    if let Ok(value) = HeaderValue::from_bytes(&joined)
        && !joined.is_empty()
    {
        fields.insert(header::COOKIE, value);
    }
}

/// The one Content-Length of a message; an error when there are several, or it is no number.
pub(super) fn content_length(fields: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let mut values = fields.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(HeadError::ContentLength);
    }
    parse_length(value.as_bytes()).map(Some)
}

/// A Content-Length: decimal digits and nothing else.
pub(super) fn parse_length(text: &[u8]) -> Result<u64, HeadError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::ContentLength);
    }
    std::str::from_utf8(text)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .filter(|n| *n <= super::limits::CONTENT_LENGTH_MAX)
        .ok_or(HeadError::ContentLength)
}

/// Removes from trailers what may only stand in a head: framing, routing, credentials, and what is ours.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    let is_of_heads = |name: &str| {
        matches!(
            name,
            "authorization"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "expect"
                | "host"
                | "set-cookie"
                | "trailer"
        )
    };
    remove_if(trailers, |name| {
        is_of_heads(name) || is_hop_by_hop(name) || is_ours(name)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_do_not_hide_a_name() {
        for ours in [
            "x-forwarded-for",
            "x-forwarded-anything",
            "x_forwarded_for",
            "x-forwarded_for",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "wormkey-user",
            "wormkey_user",
            "content_length",
            "transfer_encoding",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in [
            "x-forward",
            "x_csrf_token",
            "from",
            "content-length",
            "x-real",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }

    #[test]
    fn our_cookies_go_and_the_rest_becomes_one_field() {
        let mut fields = HeaderMap::new();
        fields.append(
            header::COOKIE,
            HeaderValue::from_static("a=1; __Host-wormkey-s=x"),
        );
        fields.append(
            header::COOKIE,
            HeaderValue::from_static("b=2;__host-WORMKEY-t=y; c=3"),
        );
        tidy_cookies(&mut fields);
        assert_eq!(fields[header::COOKIE], "a=1; b=2; c=3");
        assert_eq!(fields.len(), 1);
        let mut only_ours = HeaderMap::new();
        only_ours.append(
            header::COOKIE,
            HeaderValue::from_static("__Host-wormkey-s=x"),
        );
        tidy_cookies(&mut only_ours);
        assert!(only_ours.is_empty());
    }
}
