//! What of an origin's response head may go out to a visitor.

use http::header::{self, HeaderMap};
use http::{Method, StatusCode};

use super::fields;

/// Why an origin's answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// A 1xx as the final head, or a 101 that nobody asked for.
    #[error("unexpected status {0}")]
    Status(StatusCode),
    /// More than one Content-Length, or one that is no number.
    #[error("unacceptable content-length")]
    ContentLength,
}

/// What a response's body is, as its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// None: HEAD, 204, 304.
    None,
    /// Exactly that long.
    Length(u64),
    /// As long as it comes.
    Open,
}

/// Judges a final head that is no 101, and removes what must not go out.
pub fn clean(
    method: &Method,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<Body, ResponseError> {
    if status.is_informational() {
        return Err(ResponseError::Status(status));
    }
    let length = fields::content_length(headers).map_err(|_| ResponseError::ContentLength)?;
    clean_fields(headers);
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    let has_none = method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    Ok(match length {
        _ if has_none => Body::None,
        Some(length) => Body::Length(length),
        None => Body::Open,
    })
}

/// Removes what must not go out of a 101.
pub fn clean_switch(headers: &mut HeaderMap) {
    clean_fields(headers);
    headers.remove(header::CONTENT_LENGTH);
}

fn clean_fields(headers: &mut HeaderMap) {
    // A Connection that is no list of names nominates nothing; the rest goes all the same.
    if fields::remove_hop_by_hop(headers).is_err() {
        headers.remove(header::CONNECTION);
        let _ = fields::remove_hop_by_hop(headers);
    }
    fields::remove_if(headers, |name| name.starts_with("wormkey-"));
    let ours = |v: &header::HeaderValue| fields::is_our_cookie(v.as_bytes());
    if headers.get_all(header::SET_COOKIE).iter().any(ours) {
        let kept: Vec<_> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter(|v| !ours(v))
            .cloned()
            .collect();
        headers.remove(header::SET_COOKIE);
        for cookie in kept {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .fold(
                HeaderMap::new(),
                |mut map, (n, v): (header::HeaderName, _)| {
                    map.append(n, v);
                    map
                },
            )
    }

    fn judge(method: &Method, status: u16, headers: &mut HeaderMap) -> Result<Body, ResponseError> {
        clean(method, StatusCode::from_u16(status).unwrap(), headers)
    }

    #[test]
    fn hop_by_hop_fields_and_ours_stay_here() {
        let mut headers = map(&[
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("wormkey-error", "forged"),
            ("set-cookie", "__Host-wormkey-visit=forged; Secure; Path=/"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("server", "theirs"),
        ]);
        assert_eq!(judge(&Method::GET, 200, &mut headers), Ok(Body::Open));
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(headers["server"], "theirs");
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn a_connection_that_nominates_content_length_does_not_remove_it() {
        let mut headers = map(&[("connection", "content-length"), ("content-length", "3")]);
        assert_eq!(judge(&Method::GET, 200, &mut headers), Ok(Body::Length(3)));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn bodies_follow_method_status_and_length() {
        let mut length = map(&[("content-length", "9")]);
        assert_eq!(judge(&Method::HEAD, 200, &mut length), Ok(Body::None));
        assert_eq!(length["content-length"], "9");
        assert_eq!(judge(&Method::GET, 304, &mut length), Ok(Body::None));
        assert_eq!(judge(&Method::GET, 200, &mut length), Ok(Body::Length(9)));
        assert_eq!(judge(&Method::GET, 204, &mut length), Ok(Body::None));
        assert!(length.is_empty());
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        for status in [100, 101, 103] {
            assert!(judge(&Method::GET, status, &mut HeaderMap::new()).is_err());
        }
        for bad in [
            &[("content-length", "1"), ("content-length", "1")][..],
            &[("content-length", "1, 1")],
            &[("content-length", "-1")],
        ] {
            let refused = judge(&Method::GET, 200, &mut map(bad));
            assert_eq!(refused, Err(ResponseError::ContentLength));
        }
    }
}
