//! What a certificate authority looks for on the plain HTTP listener, to see that a name is ours
//! (HTTP-01). Not what is shown: whoever implements [`ShowProofs`] knows.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response};

use super::Inner;
use super::body::EdgeBody;
use crate::http::head::Head;
use crate::names::Hostname;
use crate::wire::RecvChunks;

/// Knows the proofs that are shown now.
pub trait ShowProofs: Send + Sync + 'static {
    /// The text at a path of a host; none for what is no running proof.
    fn text(&self, host: &Hostname, path: &str) -> Option<String>;
}

/// Answers a request for a proof; `None` for one that is not for one.
pub(super) fn answer<S, R: RecvChunks>(
    edge: &Inner<S>,
    head: &Head,
) -> Option<Response<EdgeBody<R>>> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return None;
    }
    let text = edge.proofs.get()?.text(&head.host, &head.path)?;
    let length = HeaderValue::from(text.len());
    let body = match head.method {
        Method::HEAD => Bytes::new(),
        _ => Bytes::from(text),
    };
    let mut response = Response::new(EdgeBody::own(body));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}
