//! From the lines of a field section to a request as [`crate::http::head`] judges it, and from a response
//! to lines. What the RFC calls malformed ends here; what it leaves open is judged there, for every version.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Version};

use super::qpack::Line;

/// Names that HTTP/3 has no use for, both ways (RFC 9114 section 4.2).
const CONNECTION_SPECIFIC: [&[u8]; 5] = [
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
];

/// Why lines are no message. It goes no further than a reset of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub(super) struct Malformed(&'static str);

/// The four that a request may have.
#[derive(Default)]
struct Pseudo {
    method: Option<Vec<u8>>,
    scheme: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
}

impl Pseudo {
    fn put(&mut self, name: &[u8], value: Vec<u8>) -> Result<(), Malformed> {
        let slot = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            // `:protocol` among them: extended CONNECT is not offered.
            _ => return Err(Malformed("an unknown pseudo-header")),
        };
        if slot.replace(value).is_some() {
            return Err(Malformed("a pseudo-header twice"));
        }
        Ok(())
    }

    /// The URI, from what there must be of it.
    fn uri(self, method: &Method, has_host: bool) -> Result<Uri, Malformed> {
        let mut uri = http::uri::Parts::default();
        uri.authority = (self.authority)
            .map(Authority::from_maybe_shared)
            .transpose()
            .map_err(|_| Malformed("an :authority that is none"))?;
        if *method == Method::CONNECT {
            if uri.authority.is_none() || self.scheme.is_some() || self.path.is_some() {
                return Err(Malformed("a CONNECT with another's pseudo-headers"));
            }
            return Uri::from_parts(uri).map_err(|_| Malformed("no target"));
        }
        if uri.authority.is_none() && !has_host {
            return Err(Malformed("no :authority and no host"));
        }
        let scheme = self.scheme.ok_or(Malformed("no :scheme"))?;
        let path = self.path.ok_or(Malformed("no :path"))?;
        if path.is_empty() || path.contains(&b'#') {
            return Err(Malformed("a :path that is none"));
        }
        let path =
            PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed("a :path that is none"))?;
        if uri.authority.is_none() {
            // A URI with a scheme has an authority; here Host alone says whom it is for.
            uri.path_and_query = Some(path);
        } else {
            let scheme = Scheme::try_from(scheme.as_slice());
            uri.scheme = Some(scheme.map_err(|_| Malformed("a :scheme that is none"))?);
            uri.path_and_query = Some(path);
        }
        Uri::from_parts(uri).map_err(|_| Malformed("no target"))
    }
}

/// A request's head, and the length that it states.
pub(super) fn request(lines: Vec<Line>) -> Result<(Parts, Option<u64>), Malformed> {
    let (mut pseudo, mut headers) = (Pseudo::default(), HeaderMap::new());
    for (name, value) in lines {
        if name.first() != Some(&b':') {
            add(&mut headers, &name, &value)?;
        } else if headers.is_empty() {
            pseudo.put(&name, value)?;
        } else {
            return Err(Malformed("a pseudo-header behind a field"));
        }
    }
    let method = pseudo.method.take().ok_or(Malformed("no :method"))?;
    let method = Method::from_bytes(&method).map_err(|_| Malformed("a :method that is none"))?;
    let length = length(&headers)?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.version = Version::HTTP_3;
    parts.uri = pseudo.uri(&method, headers.contains_key(header::HOST))?;
    parts.method = method;
    parts.headers = headers;
    Ok((parts, length))
}

/// Fields alone.
pub(super) fn trailers(lines: Vec<Line>) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        add(&mut headers, &name, &value)?;
    }
    Ok(headers)
}

fn add(headers: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
    if name.iter().any(u8::is_ascii_uppercase) {
        return Err(Malformed("a field name in upper case"));
    }
    if CONNECTION_SPECIFIC.contains(&name) {
        return Err(Malformed("a field of another version's connections"));
    }
    if name == b"te" && !value.eq_ignore_ascii_case(b"trailers") {
        return Err(Malformed("a te that is not trailers"));
    }
    if value.first().is_some_and(is_blank) || value.last().is_some_and(is_blank) {
        return Err(Malformed("blanks around a field value"));
    }
    let name = HeaderName::from_bytes(name).map_err(|_| Malformed("a field name that is none"))?;
    let value =
        HeaderValue::from_bytes(value).map_err(|_| Malformed("a field value that is none"))?;
    // The lines were counted: the map cannot be full.
    headers
        .try_append(name, value)
        .map_err(|_| Malformed("too many fields"))?;
    Ok(())
}

const fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut stated = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = stated.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text
        .parse()
        .ok()
        .filter(|_| is_number && stated.next().is_none());
    number
        .map(Some)
        .ok_or(Malformed("a content-length that is none"))
}

/// The lines of a response's fields, without those that have no place in HTTP/3.
pub(super) fn lines(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
        .filter(|(name, _)| !CONNECTION_SPECIFIC.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HeadError, head};

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "app.t.example"),
        (":path", "/a?b"),
    ];

    fn read(lines: &[(&str, &str)]) -> Result<(Parts, Option<u64>), Malformed> {
        let line = |(n, v): &(&str, &str)| (n.as_bytes().to_vec(), v.as_bytes().to_vec());
        request(lines.iter().map(line).collect())
    }

    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        GET.into_iter().filter(|(n, _)| *n != name).collect()
    }

    fn with(lines: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        GET.iter().chain(lines).copied().collect()
    }

    #[test]
    fn a_request_becomes_the_head_that_every_version_has() {
        let (parts, length) = read(&with(&[
            ("content-length", "3"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]))
        .unwrap();
        assert_eq!(length, Some(3));
        let head = head::check(parts, None, crate::http::Scheme::Https).unwrap();
        assert_eq!((head.path.as_str(), head.version), ("/a?b", 30));
        assert_eq!(head.authority, "app.t.example");
        assert_eq!(head.fields[header::COOKIE], "a=1; b=2");
        let (parts, _) =
            read(&[&without(":authority")[..], &[("host", "app.t.example")]].concat()).unwrap();
        let head = head::check(parts, None, crate::http::Scheme::Https).unwrap();
        assert_eq!(head.authority, "app.t.example");
    }

    #[test]
    fn pseudo_headers_that_are_missing_unknown_late_or_twice_are_malformed() {
        for name in [":method", ":scheme", ":authority", ":path"] {
            assert!(read(&without(name)).is_err(), "no {name}");
            let twice = GET.into_iter().find(|(n, _)| *n == name).unwrap();
            assert!(read(&with(&[twice])).is_err(), "{name} twice");
            let late = [&without(name)[..], &[("accept", "*/*"), twice]].concat();
            assert!(read(&late).is_err(), "{name} late");
        }
        for line in [(":protocol", "websocket"), (":status", "200"), (":x", "y")] {
            assert!(read(&with(&[line])).is_err(), "{line:?}");
        }
    }

    #[test]
    fn fields_without_a_place_in_http3_are_malformed() {
        for line in [
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("Accept", "*/*"),
            ("a b", "c"),
            ("", "c"),
            ("a", "b\r\nc: d"),
            ("a", " b"),
            ("content-length", "+3"),
            ("content-length", "99999999999999999999999"),
            ("content-length", ""),
        ] {
            assert!(read(&with(&[line])).is_err(), "{line:?}");
        }
        assert!(read(&with(&[("content-length", "1"), ("content-length", "1")])).is_err());
        assert!(read(&with(&[("te", "trailers")])).is_ok());
        assert!(trailers(vec![(b":status".to_vec(), b"200".to_vec())]).is_err());
    }

    #[test]
    fn a_connect_is_refused_as_everywhere() {
        let (parts, _) = read(&[(":method", "CONNECT"), (":authority", "a.example:443")]).unwrap();
        let refused = head::check(parts, None, crate::http::Scheme::Https);
        assert_eq!(refused, Err(HeadError::MethodRefused));
        assert!(read(&[&[(":method", "CONNECT")], &GET[1..]].concat()).is_err());
    }
}
