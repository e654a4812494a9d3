//! What a policy changes about requests and answers on their way.

use super::*;
use crate::engine::policy::Policy;

fn world(policy: &str) -> World {
    let world = World::new();
    let policy = Arc::new(Policy::parse(policy).unwrap());
    world.change(|shared| shared.policy = policy);
    world
}

async fn ask(visitor: &mut Visitor, method: &str, fields: &str) {
    let head = format!("{method} / HTTP/1.1\r\nHost: app.t.example\r\n{fields}\r\n");
    visitor.send(head.as_bytes()).await;
}

#[tokio::test(start_paused = true)]
async fn rules_hold_for_requests_and_answers_and_the_rest_is_left_alone() {
    let mut world = world(
        r#"{"request_headers":{"set":{"x-key":"ours"},"remove":["x-gone"]},
            "response_headers":{"set":{"server":"hidden"},"remove":["x-powered-by"]},
            "secure_headers":{}}"#,
    );
    let mut visitor = world.visitor();
    ask(
        &mut visitor,
        "GET",
        "X-Key: theirs\r\nX-Gone: 1\r\nX-Kept: 1\r\n",
    )
    .await;
    let stream = world.stream().await;
    assert_eq!(stream.field("x-key"), Some("ours"));
    assert_eq!(stream.field("x-gone"), None);
    assert_eq!(stream.field("x-kept"), Some("1"));
    let sent = [
        ("content-length", "2"),
        ("server", "nginx"),
        ("x-powered-by", "php"),
        ("set-cookie", "a=1; domain=t.example"),
        ("set-cookie", "b=2"),
    ];
    stream.answer(200, &sent, "ok").await;
    let answer = visitor.until("ok").await;
    assert_eq!(header(&answer, "server"), Some("hidden"));
    assert_eq!(header(&answer, "x-powered-by"), None);
    assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"));
    assert_eq!(header(&answer, "set-cookie"), Some("b=2"));
    assert_eq!(header(&answer, "content-length"), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn a_preflight_is_answered_before_anybody_is_asked_who_they_are() {
    let mut world = world(r#"{"cors":{"origins":["https://a.example"]}}"#);
    let refused = Refusal::Unauthorized {
        realm: Slug::parse("app").unwrap(),
    };
    world.change(|shared| shared.refusals.push_back(Some(refused)));
    let mut visitor = world.visitor();
    let origin = "Origin: https://a.example\r\n";
    let fields = format!("{origin}Access-Control-Request-Method: PUT\r\n");
    ask(&mut visitor, "OPTIONS", &fields).await;
    let answer = visitor.until("\r\n\r\n").await;
    assert_eq!(status(&answer), 204);
    assert_eq!(header(&answer, "access-control-allow-methods"), Some("PUT"));
    // What is no preflight is a visit like every other.
    ask(&mut visitor, "OPTIONS", origin).await;
    assert_eq!(status(&visitor.until("\r\n\r\n").await), 401);
    let mut visitor = world.visitor();
    ask(&mut visitor, "GET", origin).await;
    let sent = [
        ("content-length", "2"),
        ("access-control-allow-origin", "*"),
    ];
    world.stream().await.answer(200, &sent, "ok").await;
    let answer = visitor.until("ok").await;
    let allowed = header(&answer, "access-control-allow-origin");
    assert_eq!(allowed, Some("https://a.example"));
    assert_eq!(header(&answer, "vary"), Some("origin"));
}

#[tokio::test(start_paused = true)]
async fn credentials_and_their_digest_come_to_the_engine() {
    let mut world = world("{}");
    let mut visitor = world.visitor();
    let right = "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
    for fields in [right, right, "Authorization: Basic nonsense\r\n"] {
        ask(&mut visitor, "GET", fields).await;
        let stream = world.stream().await;
        stream.answer(200, &[("content-length", "2")], "ok").await;
        visitor.until("ok").await;
    }
    let visits = std::mem::take(&mut world.shared.lock().unwrap().admitted);
    let said: Vec<_> = visits
        .into_iter()
        .map(|visit| visit.http.unwrap().credentials)
        .collect();
    assert_eq!(said[0].as_ref().unwrap().user, "Aladdin");
    assert_eq!(said[0], said[1]);
    assert_eq!(said[2], None);
    assert!(!format!("{said:?}").contains("sesame"));
}
