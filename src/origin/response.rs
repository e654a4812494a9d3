//! An origin's answer -> a head on the wire. Pure. Refuses what could be read in two ways.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SET_COOKIE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, response};

use super::naming::Naming;
use super::request::{Upgrade, one_length, strip_hop_by_hop, write_length};
use crate::wire::{HEAD_MAX, ResponseHead};

/// The most fields of an answer; the wire carries no more.
const FIELDS_MAX: usize = 500;

/// Why an answer is not handed on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadResponse {
    #[error("it has both Content-Length and Transfer-Encoding")]
    TwoLengths,
    #[error("its Content-Length is no number, or several")]
    Length,
    #[error("its Transfer-Encoding is not chunked")]
    Coding,
    #[error("its head is too large")]
    TooLarge,
    #[error("it switches protocols unasked, or to another one")]
    Switch,
    #[error("its answer to the WebSocket key is wrong")]
    Accept,
}

/// The head to send on, of an answer that switches nothing.
pub(super) fn final_head(
    mut parts: response::Parts,
    naming: &Naming,
    ends: bool,
) -> Result<ResponseHead, BadResponse> {
    if parts.status.is_informational() {
        return Err(BadResponse::Switch);
    }
    let mut fields = std::mem::take(&mut parts.headers);
    judge_framing(parts.status, &mut fields)?;
    clean(&mut fields);
    naming.map_response(&mut fields);
    bounded(ResponseHead {
        status: parts.status,
        fields,
        ends,
    })
}

/// The head of a 1xx to send on.
pub(super) fn interim_head(status: StatusCode, fields: &HeaderMap) -> Option<ResponseHead> {
    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let mut fields = fields.clone();
    clean(&mut fields);
    fields.remove(CONTENT_LENGTH);
    let ends = false;
    bounded(ResponseHead {
        status,
        fields,
        ends,
    })
    .ok()
}

/// The head of a 101 that answers `asked`.
pub(super) fn switch_head(
    parts: &response::Parts,
    asked: Option<&Upgrade>,
    naming: &Naming,
) -> Result<ResponseHead, BadResponse> {
    let asked = asked.ok_or(BadResponse::Switch)?;
    let got = parts.headers.get(UPGRADE).ok_or(BadResponse::Switch)?;
    let offered = asked.protocol.as_bytes().split(|b| *b == b',');
    if !offered
        .map(<[u8]>::trim_ascii)
        .any(|p| p.eq_ignore_ascii_case(got.as_bytes().trim_ascii()))
    {
        return Err(BadResponse::Switch);
    }
    let protocol = got.clone();
    let mut fields = parts.headers.clone();
    if let Some(key) = &asked.own_key {
        let expected = accept_of(key.as_bytes());
        if fields.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes) != Some(expected.as_bytes())
        {
            return Err(BadResponse::Accept);
        }
        fields.remove(SEC_WEBSOCKET_ACCEPT);
    }
    clean(&mut fields);
    fields.remove(CONTENT_LENGTH);
    naming.map_response(&mut fields);
    // Which of several offers was taken only the origin knows; an HTTP/1.1 visitor is to be told.
    fields.insert(UPGRADE, protocol);
    bounded(ResponseHead {
        status: StatusCode::SWITCHING_PROTOCOLS,
        fields,
        ends: false,
    })
}

/// Trailers, without what may not stand in them.
pub(super) fn clean_trailers(fields: &mut HeaderMap) {
    clean(fields);
    fields.remove(CONTENT_LENGTH);
    fields.remove(SET_COOKIE);
}

/// Whether the connection that gave this answer may give another.
pub(super) fn may_be_reused(parts: &response::Parts) -> bool {
    let closes = parts
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
    parts.version != Version::HTTP_10 && !closes && parts.status != StatusCode::SWITCHING_PROTOCOLS
}

fn judge_framing(status: StatusCode, fields: &mut HeaderMap) -> Result<(), BadResponse> {
    let length = one_length(fields).map_err(|()| BadResponse::Length)?;
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err(BadResponse::TwoLengths);
        }
        let is_chunked = coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked");
        if !is_chunked || codings.next().is_some() {
            return Err(BadResponse::Coding);
        }
    }
    match length {
        // RFC 9110 section 8.6: none may stand here.
        Some(_) if status == StatusCode::NO_CONTENT => {
            fields.remove(CONTENT_LENGTH);
        }
        Some(length) => write_length(fields, length),
        None => {}
    }
    Ok(())
}

/// Takes out what concerns one hop, and names that are wormkey's alone.
fn clean(fields: &mut HeaderMap) {
    strip_hop_by_hop(fields);
    let ours: Vec<HeaderName> = fields
        .keys()
        .filter(|name| name.as_str().starts_with("wormkey-"))
        .cloned()
        .collect();
    for name in ours {
        fields.remove(name);
    }
    if fields.get_all(SET_COOKIE).iter().any(is_our_cookie) {
        let kept: Vec<_> = fields
            .get_all(SET_COOKIE)
            .iter()
            .filter(|cookie| !is_our_cookie(cookie))
            .cloned()
            .collect();
        fields.remove(SET_COOKIE);
        for cookie in kept {
            fields.append(SET_COOKIE, cookie);
        }
    }
}

fn is_our_cookie(cookie: &HeaderValue) -> bool {
    const OURS: &[u8] = b"__host-wormkey-";
    let name = cookie.as_bytes().trim_ascii_start();
    name.get(..OURS.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OURS))
}

fn bounded(head: ResponseHead) -> Result<ResponseHead, BadResponse> {
    if fits(&head.fields) {
        Ok(head)
    } else {
        Err(BadResponse::TooLarge)
    }
}

/// Whether the wire carries these fields: each text costs its bytes and at most five before them.
pub(super) fn fits(fields: &HeaderMap) -> bool {
    let size: usize = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 10)
        .sum();
    fields.len() <= FIELDS_MAX && size + 32 <= HEAD_MAX
}

/// The answer that RFC 6455 section 4.2.2 wants to a key.
pub(super) fn accept_of(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    BASE64.encode(hash.as_ref())
}

#[cfg(test)]
#[path = "tests/response.rs"]
mod tests;
