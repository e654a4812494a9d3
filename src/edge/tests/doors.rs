//! The server's own door: who is let in, and that nobody else feels it.

use super::*;

/// A knock at `host`, whose SNI is the same name if it is one that TLS can ask for.
async fn knock(world: &World, host: &str, request: &str) -> Visitor {
    let sni = Hostname::parse(host)
        .ok()
        .filter(|_| host.contains("example"));
    let mut visitor = world.connect(Facts {
        sni,
        ..World::facts(false)
    });
    visitor.send(request.as_bytes()).await;
    visitor
}

fn at(host: &str, start: &str, more: &str) -> String {
    format!("{start}\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{more}\r\n")
}

const OPEN: &str = "GET /door HTTP/1.1";
const WORD: &str = "Sesame: open\r\n";

#[tokio::test(start_paused = true)]
async fn the_door_takes_the_connection_on_the_base_domain_and_on_bare_addresses() {
    let world = World::new();
    for host in [
        "t.example",
        "192.0.2.1:8443",
        "[2001:db8::1]",
        "vpn.example",
    ] {
        // What comes right behind the request belongs to the door too.
        let request = at(host, OPEN, WORD) + "early GET / HTTP/1.1\n\0";
        let mut visitor = knock(&world, host, &request).await;
        let response = visitor.until("\0").await;
        assert_eq!(status(&response), 101, "{host}");
        assert_eq!(header(&response, "upgrade"), Some("websocket"));
        assert!(
            response.contains("\r\n\r\nhello 192.0.2.7:1234\nearly GET"),
            "{response}"
        );
        // Longer than an idle connection of HTTP may stay.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        visitor.send(b"still here").await;
        visitor.until("still here").await;
        visitor.0.shutdown().await.unwrap();
        assert_eq!(visitor.rest().await, "");
    }
    assert_eq!((world.opened(), world.edge.visits_total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_knocks_wrongly_on_the_base_domain_is_told_what_is_wrong() {
    let world = World::new();
    let plain = "GET /door HTTP/1.1\r\nHost: t.example\r\nConnection: close\r\n\r\n".to_owned();
    let body = "Content-Length: 2\r\n";
    for (request, expected, field) in [
        (
            at("t.example", "POST /door HTTP/1.1", WORD),
            405,
            ("allow", "GET"),
        ),
        (plain, 426, ("upgrade", "websocket")),
        (
            at("t.example", OPEN, ""),
            400,
            ("wormkey-error", "bad_request"),
        ),
        (
            at("t.example", OPEN, &format!("{WORD}Crowd: yes\r\n")),
            503,
            ("wormkey-error", "overloaded"),
        ),
        (
            at("t.example", OPEN, &format!("{WORD}{body}")) + "no",
            400,
            ("wormkey-error", "bad_request"),
        ),
    ] {
        let mut visitor = knock(&world, "t.example", &request).await;
        let response = visitor.until("vis_").await;
        assert_eq!(status(&response), expected, "{request}");
        assert_eq!(header(&response, field.0), Some(field.1), "{response}");
    }
    assert_eq!((world.opened(), world.edge.visits_total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_for_the_door_goes_where_it_always_went() {
    let world = World::new();
    for (host, request, expected) in [
        (
            "t.example",
            at("t.example", "GET /elsewhere HTTP/1.1", WORD),
            404,
        ),
        (
            "t.example",
            at("t.example", "GET /door/ HTTP/1.1", WORD),
            404,
        ),
        (
            "t.example",
            at("t.example", "GET /door?a HTTP/1.1", WORD),
            404,
        ),
        ("vpn.example", at("vpn.example", OPEN, ""), 404),
        (
            "192.0.2.1",
            at("192.0.2.1", "POST /door HTTP/1.1", WORD),
            404,
        ),
        ("app.t.example", at("t.example", OPEN, WORD), 421),
        ("app.t.example", at("192.0.2.1", OPEN, WORD), 421),
    ] {
        let mut visitor = knock(&world, host, &request).await;
        assert_eq!(status(&visitor.until("vis_").await), expected, "{request}");
    }
    assert_eq!(world.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_keeps_that_path_for_itself() {
    let mut world = World::new();
    let request = at("app.t.example", OPEN, WORD);
    let mut visitor = knock(&world, "app.t.example", &request).await;
    let stream = world.stream().await;
    assert_eq!(stream.head.path, "/door");
    stream.answer(200, &[("content-length", "2")], "ok").await;
    assert_eq!(status(&visitor.until("ok").await), 200);
}

#[tokio::test(start_paused = true)]
async fn http_without_tls_has_no_door() {
    let world = World::new();
    let mut visitor = world.connect(Facts {
        scheme: Scheme::Http,
        sni: None,
        ..World::facts(false)
    });
    visitor.send(at("t.example", OPEN, WORD).as_bytes()).await;
    assert_eq!(status(&visitor.until("\r\n\r\n").await), 308);
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_the_door_and_the_end_ends_it() {
    let world = World::new();
    let mut visitor = knock(&world, "t.example", &at("t.example", OPEN, WORD)).await;
    visitor.until("hello").await;
    assert!(world.edge.drain(Duration::from_secs(5)).await);
    visitor.send(b"still here").await;
    visitor.until("still here").await;
    assert!(world.tasks.shutdown(Duration::from_secs(5)).await);
    assert_eq!(visitor.rest().await, "");
}

#[tokio::test]
async fn a_connection_through_the_door_counts_until_it_ends() {
    let world = World::with(|s| s.connections_max = 1);
    let slots = &world.edge.inner.slots;
    let slot = slots.enter(&Front::default(), World::facts(false).peer);
    let mut visitor = world.connect(Facts {
        sni: None,
        slot: Some(Arc::new(slot.unwrap())),
        ..World::facts(false)
    });
    visitor.send(at("t.example", OPEN, WORD).as_bytes()).await;
    visitor.until("hello").await;
    assert_eq!(world.edge.connections(), 1);
    drop(visitor);
    let gone = async {
        while world.edge.connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("its place is given back");
}
