//! The plain HTTP listener: every acceptable request is sent to HTTPS, to the same host and path.
//!
//! 308 for all methods: it is remembered like a 301, and unlike it never turns a POST into a GET.
//! Only our own names are redirected to, so this is no open redirect.

use std::net::SocketAddr;

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::body::EdgeBody;
use super::respond::Failure;
use super::{Admit, EdgeSettings, own};
use crate::http::head::Head;
use crate::wire::RecvChunks;

pub(super) fn to_https<S: Admit, R: RecvChunks>(
    inside: &S,
    settings: &EdgeSettings,
    head: &Head,
    peer: SocketAddr,
) -> Result<Response<EdgeBody<R>>, Failure> {
    let is_ours =
        head.host == settings.domain || own::place(inside, settings, &head.host).is_some();
    if !is_ours {
        return Err(own::nobodys(inside, peer));
    }
    let location = location(settings, head);
    let mut response = Response::new(EdgeBody::own(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    Ok(response)
}

fn location(settings: &EdgeSettings, head: &Head) -> HeaderValue {
    let path = if head.path == "*" { "/" } else { &head.path };
    let text = match settings.public_https_port {
        443 => format!("https://{}{path}", head.host),
        port => format!("https://{}:{port}{path}", head.host),
    };
    // A target is visible bytes or UTF-8, both of which may stand in a field value.
    HeaderValue::from_bytes(text.as_bytes()).expect("the target was judged by http::head")
}
