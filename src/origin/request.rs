//! A visit's head -> a request an origin can be asked. Pure. Trusts nothing in the head: a server that
//! is not what it should be must not be able to smuggle a second request onto the inner hop.

use data_encoding::BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::body::RequestBody;
use super::naming::Naming;
use crate::wire::HttpHead;

/// Why a head cannot become a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("the path is no request target")]
    Path,
    #[error("the authority is none")]
    Authority,
    #[error("the content-length is not that of the body")]
    Length,
    #[error("the upgrade's protocol is no token")]
    Protocol,
}

/// A request, before it is known which HTTP version the origin speaks.
#[derive(Debug)]
pub(super) struct Plan {
    method: Method,
    path: PathAndQuery,
    /// Without hop-by-hop fields. The first is `Host`, whose value the request gets.
    fields: HeaderMap,
    has_body: bool,
    /// What the visitor said of the body's length.
    pub(super) length: Option<u64>,
    /// Whether the visitor takes trailers.
    wants_trailers: bool,
    pub(super) expects_continue: bool,
    /// Whether HTTP/2 is worth a try on a plain connection.
    pub(super) is_grpc: bool,
    pub(super) upgrade: Option<Upgrade>,
}

/// An upgrade asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upgrade {
    /// The value of `Upgrade`.
    pub(super) protocol: HeaderValue,
    /// The key we made because the visitor's HTTP version has none; the answer to it is ours to check.
    pub(super) own_key: Option<HeaderValue>,
}

impl Plan {
    /// Checks a head and its fields, taken out of it; `nonce` is for the key of a WebSocket whose visitor sent none.
    pub(super) fn new(
        head: &HttpHead,
        mut fields: HeaderMap,
        nonce: [u8; 16],
    ) -> Result<Self, BadHead> {
        let length = take_length(&mut fields, head.has_body)?;
        let wants_trailers = has_token(&fields, &TE, "trailers");
        // Not by `te: trailers`, which browsers say over HTTP/2 whatever they ask for.
        let is_grpc = fields.get(CONTENT_TYPE).is_some_and(|t| {
            t.as_bytes()
                .to_ascii_lowercase()
                .starts_with(b"application/grpc")
        });
        let mut fields = behind_host(fields);
        Ok(Self {
            method: head.method.clone(),
            path: path(&head.path, &head.method)?,
            upgrade: upgrade(head, &mut fields, nonce)?,
            fields,
            has_body: head.has_body,
            length,
            wants_trailers,
            expects_continue: head.expects_continue && head.has_body,
            is_grpc,
        })
    }

    /// Whether asking twice is harmless: nothing but a head that asks to see, or to upgrade.
    pub(super) fn is_replayable(&self) -> bool {
        !self.has_body && matches!(self.method, Method::GET | Method::HEAD)
    }

    /// The request for an origin that speaks `version`.
    pub(super) fn request(
        &self,
        version: Version,
        secure: bool,
        naming: &Naming,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, BadHead> {
        let authority: Authority = naming.host().parse().map_err(|_| BadHead::Authority)?;
        if authority.as_str().contains('@') {
            return Err(BadHead::Authority);
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        let mut fields = self.fields.clone();
        if version == Version::HTTP_2 {
            *request.uri_mut() = self.full_uri(secure, authority)?;
            fields.remove(HOST);
            if self.wants_trailers {
                fields.insert(TE, HeaderValue::from_static("trailers"));
            }
        } else {
            *request.uri_mut() = Uri::from(self.path.clone());
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BadHead::Authority)?;
            fields.insert(HOST, host);
            self.add_http1_fields(&mut fields);
        }
        naming.map_request(&mut fields);
        *request.headers_mut() = fields;
        Ok(request)
    }

    fn full_uri(&self, secure: bool, authority: Authority) -> Result<Uri, BadHead> {
        Uri::builder()
            .scheme(if secure { Scheme::HTTPS } else { Scheme::HTTP })
            .authority(authority)
            .path_and_query(self.path.clone())
            .build()
            .map_err(|_| BadHead::Path)
    }

    /// What HTTP/1.1 wants besides: the hop-by-hop fields of this hop.
    fn add_http1_fields(&self, out: &mut HeaderMap) {
        join_cookies(out);
        if let Some(upgrade) = &self.upgrade {
            out.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            out.insert(UPGRADE, upgrade.protocol.clone());
        } else if self.wants_trailers {
            out.insert(CONNECTION, HeaderValue::from_static("te"));
            out.insert(TE, HeaderValue::from_static("trailers"));
        }
        if self.expects_continue {
            out.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        if self.has_body && self.length.is_none() {
            // Said outright, because hyper leaves out the body of a GET otherwise.
            out.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        } else if !self.has_body && self.length.is_none() && has_payload_semantics(&self.method) {
            out.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    }
}

/// What goes on of these fields, behind a place for `Host`.
fn behind_host(fields: HeaderMap) -> HeaderMap {
    let named = named_by_connection(&fields);
    // Two for what an origin is told besides.
    let mut kept = HeaderMap::with_capacity(fields.len() + 3);
    kept.insert(HOST, HeaderValue::from_static(""));
    let mut last = HOST;
    for (name, value) in fields {
        // A further line of a field comes without its name.
        last = name.unwrap_or(last);
        if last != HOST && last != EXPECT && !is_hop_by_hop(&last) && !named.contains(&last) {
            kept.append(last.clone(), value);
        }
    }
    kept
}

fn has_payload_semantics(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn path(text: &str, method: &Method) -> Result<PathAndQuery, BadHead> {
    let is_form = text.starts_with('/') || (text == "*" && *method == Method::OPTIONS);
    let path: PathAndQuery = text.parse().map_err(|_| BadHead::Path)?;
    // The parser drops a fragment; what is asked must be what was sent, byte for byte.
    if !is_form || path.as_str() != text || *method == Method::CONNECT {
        return Err(BadHead::Path);
    }
    Ok(path)
}

fn upgrade(
    head: &HttpHead,
    fields: &mut HeaderMap,
    nonce: [u8; 16],
) -> Result<Option<Upgrade>, BadHead> {
    let Some(protocol) = &head.protocol else {
        return Ok(None);
    };
    // h2c would take the connection out of our hands; a body may not stand before an upgrade here.
    if head.has_body
        || protocol
            .split(',')
            .any(|p| p.trim().eq_ignore_ascii_case("h2c"))
    {
        return Ok(None);
    }
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/, ".contains(&b);
    if protocol.is_empty() || !protocol.bytes().all(is_token) || head.method != Method::GET {
        return Err(BadHead::Protocol);
    }
    let value = HeaderValue::from_str(protocol).map_err(|_| BadHead::Protocol)?;
    let mut own_key = None;
    if protocol.eq_ignore_ascii_case("websocket") && !fields.contains_key(SEC_WEBSOCKET_KEY) {
        let key = HeaderValue::from_str(&BASE64.encode(&nonce)).map_err(|_| BadHead::Protocol)?;
        fields.insert(SEC_WEBSOCKET_KEY, key.clone());
        fields
            .entry(SEC_WEBSOCKET_VERSION)
            .or_insert(HeaderValue::from_static("13"));
        own_key = Some(key);
    }
    Ok(Some(Upgrade {
        protocol: value,
        own_key,
    }))
}

/// Reads `Content-Length` into one canonical field, or none.
fn take_length(fields: &mut HeaderMap, has_body: bool) -> Result<Option<u64>, BadHead> {
    let length = one_length(fields).map_err(|()| BadHead::Length)?;
    match length {
        // The origin would wait for bytes that never come, and take the next request for them.
        Some(1..) if !has_body => return Err(BadHead::Length),
        Some(length) => write_length(fields, length),
        None => {}
    }
    Ok(length)
}

/// Leaves one field with this length, on which all agree, in its one canonical form.
pub(super) fn write_length(fields: &mut HeaderMap, length: u64) {
    let digits = length.checked_ilog10().unwrap_or_default() + 1;
    let mut values = fields.get_all(CONTENT_LENGTH).iter();
    let first = values.next().map_or(0, HeaderValue::len);
    if first != digits as usize || values.next().is_some() {
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// The one length that all `Content-Length` fields agree on.
pub(super) fn one_length(fields: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut found = None;
    for value in fields.get_all(CONTENT_LENGTH) {
        for text in value.as_bytes().split(|b| *b == b',') {
            let text = text.trim_ascii();
            if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
                return Err(());
            }
            let text = std::str::from_utf8(text).map_err(|_| ())?;
            let length: u64 = text.parse().map_err(|_| ())?;
            if found.is_some_and(|other| other != length) {
                return Err(());
            }
            found = Some(length);
        }
    }
    Ok(found)
}

/// Takes out what concerns one hop only.
pub(super) fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let named = named_by_connection(fields);
    let unwanted: Vec<HeaderName> = (fields.keys())
        .filter(|name| is_hop_by_hop(name) || named.contains(name))
        .cloned()
        .collect();
    for name in unwanted {
        fields.remove(name);
    }
}

/// Fields that concern one hop only (RFC 9110 section 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Further ones, that `Connection` names.
fn named_by_connection(fields: &HeaderMap) -> Vec<HeaderName> {
    (fields.get_all(CONNECTION).iter())
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // Naming these would take the message apart; they are not anyone's to nominate.
        .filter(|name| *name != CONTENT_LENGTH && *name != HOST)
        .collect()
}

fn has_token(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    fields
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|t| {
            t.split(';')
                .next()
                .is_some_and(|t| t.trim().eq_ignore_ascii_case(token))
        })
}

/// HTTP/2 may send one cookie a field; HTTP/1 wants a single field (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = fields
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        fields.insert(COOKIE, joined);
    }
}

#[cfg(test)]
#[path = "tests/request.rs"]
mod tests;
