//! Heads and contents of what the file server answers.

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, LOCATION, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::beneath::Opened;
use super::range::{Part, Version, part};
use crate::wire::{HttpHead, ResponseHead};

/// A whole answer; a HEAD gets its head alone.
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    pub(super) content: Content,
}

/// What follows a head.
pub(super) enum Content {
    None,
    Text(Bytes),
    File {
        file: std::fs::File,
        from: u64,
        length: u64,
    },
}

impl Answer {
    fn new(status: StatusCode, content: Content) -> Self {
        let mut fields = HeaderMap::new();
        fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Self {
            head: ResponseHead {
                status,
                fields,
                ends: false,
            },
            content,
        }
    }

    /// The status' own words.
    pub(super) fn plain(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("error");
        let text = format!("{} {reason}\n", status.as_u16());
        Self::text(status, "text/plain; charset=utf-8", text)
    }

    pub(super) fn html(page: String) -> Self {
        let mut answer = Self::text(StatusCode::OK, "text/html; charset=utf-8", page);
        // Names in it are strangers' text: should one slip through the escaping, it still does nothing.
        let policy = "default-src 'none'; style-src 'unsafe-inline'";
        answer.set(CONTENT_SECURITY_POLICY, policy);
        answer.set(CACHE_CONTROL, "no-cache");
        answer
    }

    pub(super) fn redirect(to: &str) -> Self {
        // Not a permanent one: the next directory under this name may be another.
        let mut answer = Self::plain(StatusCode::FOUND);
        answer.set(LOCATION, to);
        answer
    }

    pub(super) fn method_not_allowed() -> Self {
        let mut answer = Self::plain(StatusCode::METHOD_NOT_ALLOWED);
        answer.set(ALLOW, "GET, HEAD");
        answer
    }

    fn text(status: StatusCode, kind: &str, text: String) -> Self {
        let text = Bytes::from(text);
        let length = text.len();
        let mut answer = Self::new(status, Content::Text(text));
        answer.set(CONTENT_TYPE, kind);
        answer.set(CONTENT_LENGTH, &length.to_string());
        answer
    }

    /// Sets a field; what can stand in none is left out.
    fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.head.fields.insert(name, value);
        }
    }
}

/// The answer to a request for a file.
pub(super) fn file(opened: Opened, head: &HttpHead) -> Answer {
    let version = Version::new(opened.length, opened.modified);
    let whole = opened.length;
    let mut answer = if version.is_known_by(&head.fields) {
        Answer::new(StatusCode::NOT_MODIFIED, Content::None)
    } else {
        match part(&head.fields, whole, &version) {
            Part::Unsatisfiable => {
                let mut answer = Answer::plain(StatusCode::RANGE_NOT_SATISFIABLE);
                answer.set(CONTENT_RANGE, &format!("bytes */{whole}"));
                return answer;
            }
            Part::Whole => content(opened, StatusCode::OK, 0, whole),
            Part::Range { from, length } => {
                let mut answer = content(opened, StatusCode::PARTIAL_CONTENT, from, length);
                let last = from + length - 1;
                answer.set(CONTENT_RANGE, &format!("bytes {from}-{last}/{whole}"));
                answer
            }
        }
    };
    answer.set(ETAG, &version.etag);
    if let Some(modified) = version.modified {
        answer.set(LAST_MODIFIED, &httpdate::fmt_http_date(modified));
    }
    // Asked again each time and mostly answered 304: what is edited is seen at once.
    answer.set(CACHE_CONTROL, "no-cache");
    answer.set(ACCEPT_RANGES, "bytes");
    answer
}

fn content(opened: Opened, status: StatusCode, from: u64, length: u64) -> Answer {
    let kind = mime_guess::from_path(&opened.name).first_or_octet_stream();
    let is_text = kind.type_() == mime_guess::mime::TEXT
        || matches!(kind.subtype().as_str(), "javascript" | "json");
    let kind = if is_text {
        format!("{kind}; charset=utf-8")
    } else {
        kind.to_string()
    };
    let file = opened.file;
    let mut answer = Answer::new(status, Content::File { file, from, length });
    answer.set(CONTENT_TYPE, &kind);
    answer.set(CONTENT_LENGTH, &length.to_string());
    answer
}
