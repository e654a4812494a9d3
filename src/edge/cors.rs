//! CORS for tunnels whose policy says who may read: preflights are answered here, before anybody is asked
//! who they are, because browsers send no credentials with them; and answers name the one origin that asked.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use super::body::EdgeBody;
use super::dress::vary;
use crate::engine::policy::Cors;
use crate::http::head::Head;
use crate::wire::RecvChunks;

/// The most bytes of the field names that a preflight asks for.
const ASKED_MAX: usize = 2048;

/// What the origin says of it is not what holds.
const THEIRS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// Whether a browser asks what a script may send.
pub(super) fn is_preflight(head: &Head) -> bool {
    head.method == Method::OPTIONS
        && head.fields.contains_key(header::ORIGIN)
        && head
            .fields
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight. Who is not allowed is told nothing, which browsers take for a no.
pub(super) fn preflight<R: RecvChunks>(cors: &Cors, asked: &HeaderMap) -> Response<EdgeBody<R>> {
    let mut response = Response::new(EdgeBody::own(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    allow(cors, asked.get(header::ORIGIN), fields);
    for name in [
        header::ACCESS_CONTROL_REQUEST_METHOD,
        header::ACCESS_CONTROL_REQUEST_HEADERS,
    ] {
        vary(fields, &name);
    }
    if !fields.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return response;
    }
    let methods = list(cors.methods().iter().map(Method::as_str));
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned();
    if let Some(methods) = methods.or(wanted) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    let names = list(cors.headers().iter().map(String::as_str));
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let wanted = wanted.filter(|value| value.len() <= ASKED_MAX).cloned();
    if let Some(names) = names.or(wanted) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    if let Some(age) = cors.max_age() {
        fields.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age));
    }
    response
}

/// None when there is nothing to list.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    let text = Some(names.join(", ")).filter(|text| !text.is_empty())?;
    Some(HeaderValue::from_str(&text).expect("methods and field names are visible ASCII"))
}

/// Says in an answer whether the script that asked may read it.
pub(super) fn allow(cors: &Cors, origin: Option<&HeaderValue>, fields: &mut HeaderMap) {
    for name in &THEIRS {
        fields.remove(name);
    }
    if cors.is_open() && !cors.credentials() {
        let everybody = HeaderValue::from_static("*");
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, everybody);
        return;
    }
    vary(fields, &header::ORIGIN);
    let Some(origin) = origin.filter(|o| o.to_str().is_ok_and(|o| cors.allows(o))) else {
        return;
    };
    fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.credentials() {
        let yes = HeaderValue::from_static("true");
        fields.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::Policy;
    use crate::wire::memory::MemoryRecv;

    fn policy(text: &str) -> Policy {
        Policy::parse(text).unwrap()
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    const NAMED: &str = r#"{"cors":{"origins":["https://a.example"],"methods":["PUT","DELETE"],
        "headers":["x-b","x-a"],"credentials":true,"max_age":60}}"#;

    #[test]
    fn a_preflight_of_who_is_named_gets_what_the_policy_says() {
        let policy = policy(NAMED);
        let asked = map(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PATCH"),
        ]);
        let response = preflight::<MemoryRecv>(policy.cors().unwrap(), &asked);
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let expected = map(&[
            ("vary", "origin"),
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-credentials", "true"),
            ("vary", "access-control-request-method"),
            ("vary", "access-control-request-headers"),
            ("access-control-allow-methods", "DELETE, PUT"),
            ("access-control-allow-headers", "x-a, x-b"),
            ("access-control-max-age", "60"),
        ]);
        assert_eq!(*response.headers(), expected);
    }

    #[test]
    fn a_preflight_of_anybody_else_gets_nothing() {
        let policy = policy(NAMED);
        for other in [
            "https://b.example",
            "null",
            "https://a.example.evil",
            "http://a.example",
        ] {
            let asked = map(&[("origin", other), ("access-control-request-method", "PUT")]);
            let response = preflight::<MemoryRecv>(policy.cors().unwrap(), &asked);
            let names: Vec<_> = response.headers().keys().collect();
            assert_eq!(names, ["vary"], "{other}");
        }
    }

    #[test]
    fn an_open_tunnel_lets_everybody_ask_for_anything() {
        let policy = policy(r#"{"cors":{"origins":["*"]}}"#);
        let asked = map(&[
            ("origin", "https://x.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a,x-b"),
        ]);
        let response = preflight::<MemoryRecv>(policy.cors().unwrap(), &asked);
        let fields = response.headers();
        assert_eq!(fields["access-control-allow-origin"], "*");
        assert_eq!(fields["access-control-allow-methods"], "PUT");
        assert_eq!(fields["access-control-allow-headers"], "x-a,x-b");
        assert!(!fields.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn answers_say_what_the_policy_says_and_not_what_the_origin_says() {
        let policy = policy(NAMED);
        let cors = policy.cors().unwrap();
        let sent = map(&[
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "x-c"),
            ("vary", "accept, Origin"),
        ]);
        let mut fields = sent.clone();
        allow(
            cors,
            Some(&HeaderValue::from_static("https://a.example")),
            &mut fields,
        );
        assert_eq!(fields["access-control-allow-origin"], "https://a.example");
        assert_eq!(fields["access-control-expose-headers"], "x-c");
        assert_eq!(fields.get_all("vary").iter().count(), 1);
        for other in [None, Some(HeaderValue::from_static("https://b.example"))] {
            let mut fields = sent.clone();
            allow(cors, other.as_ref(), &mut fields);
            assert!(!fields.contains_key("access-control-allow-origin"));
        }
    }
}
