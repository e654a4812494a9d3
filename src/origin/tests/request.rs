//! Heads that become requests, and those that do not.

use super::*;
use crate::engine::book::HostMode;
use crate::engine::{HostMind, HostUse};
use crate::origin::tests::{get, post, with};

fn naming() -> Naming {
    let mind = HostMind::new(HostMode::Keep);
    Naming::new(
        &mind,
        HostUse::Keep,
        &"3000".parse().unwrap(),
        "https",
        "app.t.example.com",
    )
}

fn request(head: &HttpHead, version: Version) -> Request<RequestBody> {
    let plan = Plan::new(head, head.fields.clone(), [7; 16]).unwrap();
    plan.request(version, false, &naming(), RequestBody::empty())
        .unwrap()
}

#[test]
fn an_http2_request_has_an_authority_and_no_host() {
    let mut head = with(
        with(get("/x"), "te", "trailers, deflate"),
        "connection",
        "te",
    );
    head.version = 20;
    let request = request(&head, Version::HTTP_2);
    assert_eq!(request.uri(), "http://app.t.example.com/x");
    assert_eq!(request.headers()["te"], "trailers");
    assert!(!request.headers().contains_key("host"));
    assert!(!request.headers().contains_key("connection"));
}

#[test]
fn te_reaches_an_http1_origin_only_as_trailers() {
    let asked = request(&with(get("/"), "te", "trailers, deflate"), Version::HTTP_11);
    assert_eq!(asked.headers()["te"], "trailers");
    assert_eq!(asked.headers()["connection"], "te");
    let other = request(&with(get("/"), "te", "deflate"), Version::HTTP_11);
    assert!(!other.headers().contains_key("te"));
}

#[test]
fn lengths_are_one_canonical_number_or_refused() {
    for (values, has_body, expected) in [
        (&[][..], true, Ok(None)),
        (&["4"], true, Ok(Some(4))),
        (&["4", "4"], true, Ok(Some(4))),
        (&["4, 4"], true, Ok(Some(4))),
        (&["0"], false, Ok(Some(0))),
        (&["4"], false, Err(BadHead::Length)),
        (&["4", "5"], true, Err(BadHead::Length)),
        (&["+4"], true, Err(BadHead::Length)),
        (&["0x4"], true, Err(BadHead::Length)),
        (&[""], true, Err(BadHead::Length)),
        (&["18446744073709551616"], true, Err(BadHead::Length)),
    ] {
        let mut head = post("/", None);
        head.has_body = has_body;
        for value in values {
            head = with(head, "content-length", value);
        }
        let got = Plan::new(&head, head.fields.clone(), [0; 16]).map(|plan| plan.length);
        assert_eq!(got, expected, "{values:?} {has_body}");
        if let Ok(Some(length)) = got {
            let sent = request(&head, Version::HTTP_11);
            let sent: Vec<_> = sent.headers().get_all("content-length").iter().collect();
            assert_eq!(sent, [&length.to_string()]);
        }
    }
}

#[test]
fn a_post_without_a_body_says_so() {
    let mut head = post("/", None);
    head.has_body = false;
    assert_eq!(
        request(&head, Version::HTTP_11).headers()["content-length"],
        "0"
    );
    assert!(
        !request(&get("/"), Version::HTTP_11)
            .headers()
            .contains_key("content-length")
    );
}

#[test]
fn only_a_visitor_without_a_key_gets_one_of_ours() {
    let mut head = get("/");
    head.protocol = Some("websocket".into());
    let plan = Plan::new(&head, head.fields.clone(), [7; 16]).unwrap();
    assert_eq!(
        plan.upgrade.unwrap().own_key.unwrap(),
        "BwcHBwcHBwcHBwcHBwcHBw=="
    );
    let with_key = with(head.clone(), "sec-websocket-key", "x");
    assert_eq!(
        Plan::new(&with_key, with_key.fields.clone(), [7; 16])
            .unwrap()
            .upgrade
            .unwrap()
            .own_key,
        None
    );
    head.protocol = Some("other".into());
    assert_eq!(
        Plan::new(&head, head.fields.clone(), [7; 16])
            .unwrap()
            .upgrade
            .unwrap()
            .own_key,
        None
    );
    for bad in ["", "a\r\nb: c", "a;b", "a\"b"] {
        head.protocol = Some(bad.into());
        assert_eq!(
            Plan::new(&head, head.fields.clone(), [7; 16]).err(),
            Some(BadHead::Protocol),
            "{bad:?}"
        );
    }
}

#[test]
fn grpc_is_told_by_its_content_type_alone() {
    for (kind, te, version, expected) in [
        ("application/grpc", None, 20, true),
        ("Application/GRPC+proto", None, 11, true),
        ("application/json", None, 20, false),
        // Browsers say so with every request over HTTP/2.
        ("application/json", Some("trailers"), 20, false),
        ("application/json", Some("trailers"), 11, false),
    ] {
        let mut head = with(post("/", None), "content-type", kind);
        if let Some(te) = te {
            head = with(head, "te", te);
        }
        head.version = version;
        assert_eq!(
            Plan::new(&head, head.fields.clone(), [0; 16])
                .unwrap()
                .is_grpc,
            expected,
            "{kind} {te:?} {version}"
        );
    }
}

#[test]
fn options_may_ask_for_the_whole_server() {
    let mut head = get("*");
    head.method = Method::OPTIONS;
    assert_eq!(request(&head, Version::HTTP_11).uri(), "*");
}
