//! Bad heads: refused at once, with our answer, in order, and nothing reaches the client.

use super::*;

/// A refused head gets its status and code, the connection ends, and nobody behind the edge hears of it.
async fn refused(head: &[u8], expected: u16, code: &str) {
    let world = World::new();
    let response = world.raw(head).await;
    let shown = head.escape_ascii();
    assert_eq!(status(&response), expected, "{shown}");
    assert_eq!(header(&response, "wormkey-error"), Some(code), "{shown}");
    assert!(header(&response, "wormkey-request-id").is_some_and(|id| id.starts_with("vis_")));
    assert_eq!(header(&response, "connection"), Some("close"), "{shown}");
    assert_eq!(world.opened(), 0, "{shown}");
    assert!(world.shared.lock().unwrap().admitted.is_empty(), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn bad_heads_are_refused_before_they_end() {
    // None of these has an end: the answer comes with the offending byte.
    for (head, status) in [
        (&b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 5\r\nTransfer-Encoding:"[..], 400),
        (b"POST / HTTP/1.1\r\nHost: app.t.example\r\nTransfer-Encoding: chunked\r\nContent-Length:", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r", 400),
        (b"POST / HTTP/1.0\r\nHost: app.t.example\r\nTransfer-Encoding:", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app.t.example\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app.t.example\r\nX: y\r\n ", 400),
        (b"GET / HTTP/1.1\r\nHost ", 400),
        (b"GET / HTTP/1.1\r\n:", 400),
        (b"GET / HTTP/1.1\r\nHost\r", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost:", 400),
        (b"GET / HTTP/1.1\r\nHost: evil@app.t.example\r", 400),
        (b"GET foo ", 400),
        (b"GET *", 400),
        (b"GET /\r", 400),
        (b"GET / HTTP/1.2", 400),
        (b"GET / HTTP/2", 400),
        (b"GET / http", 400),
        (b"GET\t", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
    ] {
        refused(head, status, "bad_request").await;
    }
    refused(b"CONNECT ", 405, "method_not_allowed").await;
    refused(b"TRACE ", 405, "method_not_allowed").await;
    refused("M".repeat(300).as_bytes(), 501, "not_implemented").await;
    refused(
        format!("GET /{}", "a".repeat(8192)).as_bytes(),
        414,
        "too_large",
    )
    .await;
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", "X: y\r\n".repeat(100));
    refused(many.as_bytes(), 431, "too_large").await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(32 * 1024));
    refused(large.as_bytes(), 431, "too_large").await;
}

#[tokio::test(start_paused = true)]
async fn bad_heads_that_are_whole_are_refused_too() {
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET https://b.t.example/ HTTP/1.1\r\nHost: app.t.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.t.example\r\nConnection: host\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: app.t.example\r\nConnection: Content-Length\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: app.t.example\r\n\r\n",
    ] {
        refused(head.as_bytes(), 400, "bad_request").await;
    }
}

#[tokio::test(start_paused = true)]
async fn limits_hold_at_their_last_byte() {
    let fields = format!(
        "GET / HTTP/1.1\r\nHost: app.t.example\r\n{}\r\n",
        "X: y\r\n".repeat(99)
    );
    let target = format!(
        "GET /{} HTTP/1.1\r\nHost: app.t.example\r\n\r\n",
        "a".repeat(8191)
    );
    let start = "GET / HTTP/1.1\r\nHost: app.t.example\r\nX: ";
    let size = format!("{start}{}\r\n\r\n", "y".repeat(32 * 1024 - start.len() - 4));
    for head in [fields, target, size] {
        let mut world = World::new();
        let mut visitor = world.visitor();
        visitor.send(head.as_bytes()).await;
        world
            .stream()
            .await
            .answer(200, &[("content-length", "2")], "ok")
            .await;
        assert_eq!(status(&visitor.until("ok").await), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_may_come_byte_by_byte() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    for b in b"\r\nGET /slow HTTP/1.1\r\nHost: app.t.example\r\n\r\n" {
        visitor.send(&[*b]).await;
        tokio::task::yield_now().await;
    }
    let stream = world.stream().await;
    assert_eq!(stream.head.path, "/slow");
    stream.answer(200, &[("content-length", "2")], "ok").await;
    visitor.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn answers_of_a_pipeline_leave_in_order_before_the_refusal() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    let good = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: app.t.example\r\n\r\n");
    let bytes = [
        good("/1"),
        good("/2"),
        "GET / HTTP/1.1\nHost: app.t.example\r\n\r\n".into(),
        good("/4"),
    ];
    visitor.send(bytes.concat().as_bytes()).await;
    for path in ["/1", "/2"] {
        let stream = world.stream().await;
        assert_eq!(stream.head.path, path);
        stream
            .answer(
                200,
                &[("content-length", "2")],
                if path == "/1" { "11" } else { "22" },
            )
            .await;
    }
    let all = visitor.rest().await;
    let answers: Vec<_> = all.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 3, "{all}");
    assert!(answers[0].starts_with("200") && answers[0].ends_with("11"));
    assert!(answers[1].starts_with("200") && answers[1].ends_with("22"));
    assert!(answers[2].starts_with("400"), "{all}");
    assert_eq!(world.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_head_request_gets_no_body() {
    let response = World::new().raw(b"HEAD / HTTP/1.1\r\nHost: a b\r\n").await;
    assert_eq!(status(&response), 400);
    assert!(response.ends_with("\r\n\r\n"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_alive_and_each_request_is_routed_for_itself() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    for path in ["/a", "/b?c=%00&d"] {
        visitor.get(path).await;
        let stream = world.stream().await;
        assert_eq!(stream.head.path, path);
        assert!(!stream.head.has_body);
        stream.answer(200, &[("content-length", "2")], "ok").await;
        visitor.until("ok").await;
    }
    visitor
        .send(b"GET / HTTP/1.1\r\nHost: other.t.example\r\n\r\n")
        .await;
    let misdirected = visitor.until("vis_").await;
    assert_eq!(status(&misdirected), 421);
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn forwarded_fields_are_exactly_ours() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(
            b"GET / HTTP/1.1\r\nHost: APP.t.example.:443\r\nX-Forwarded-For: 1.1.1.1\r\nx_forwarded_for: 2.2.2.2\r\n\
              Forwarded: for=3.3.3.3\r\nX-Real-IP: 4.4.4.4\r\nWormkey-User: root\r\nConnection: x-forwarded-for\r\n\
              X-Forwarded-Proto: gopher\r\nCookie: a=1; __Host-wormkey-x=2\r\n\r\n",
        )
        .await;
    let stream = world.stream().await;
    assert_eq!(stream.head.authority, "app.t.example");
    assert_eq!(stream.head.scheme, "https");
    assert_eq!(stream.head.peer, "192.0.2.7:1234".parse().unwrap());
    assert_eq!(stream.field("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(stream.field("x-forwarded-proto"), Some("https"));
    assert_eq!(stream.field("x-forwarded-host"), Some("app.t.example"));
    assert_eq!(
        stream.field("forwarded"),
        Some("for=192.0.2.7;host=app.t.example;proto=https")
    );
    assert_eq!(stream.field("cookie"), Some("a=1"));
    assert_eq!(stream.field("wormkey-http-version"), Some("1.1"));
    assert_eq!(stream.head.fields.len(), 7, "{:?}", stream.head.fields);
}

#[tokio::test(start_paused = true)]
async fn addresses_and_ports_are_quoted_in_forwarded() {
    let mut world = World::new();
    let mut facts = World::facts(false);
    facts.peer = "[2001:db8::1]:9".parse().unwrap();
    let mut visitor = world.connect(facts);
    visitor
        .send(b"GET / HTTP/1.1\r\nHost: app.t.example:8443\r\n\r\n")
        .await;
    let stream = world.stream().await;
    assert_eq!(
        stream.field("forwarded"),
        Some("for=\"[2001:db8::1]\";host=\"app.t.example:8443\";proto=https")
    );
    assert_eq!(stream.field("x-forwarded-for"), Some("2001:db8::1"));
    assert_eq!(stream.head.authority, "app.t.example:8443");
}
