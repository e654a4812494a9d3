//! Upgrades over HTTP/1.1: nothing passes before the 101, everything after it, half-close included.

use super::*;

const SWITCH: &[(&str, &str)] = &[("upgrade", "websocket"), ("sec-websocket-accept", "k")];

async fn ask(visitor: &mut Visitor, more: &[u8]) {
    let head = b"GET /ws HTTP/1.1\r\nHost: app.t.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Key: a\r\n\r\n";
    visitor.send(&[&head[..], more].concat()).await;
}

async fn read(stream: &mut MemoryRecv) -> Option<Bytes> {
    let mut chunks = [const { Bytes::new() }; 8];
    let count = std::future::poll_fn(|cx| stream.poll_recv(cx, &mut chunks))
        .await
        .unwrap();
    (count > 0).then(|| chunks[..count].concat().into())
}

async fn write(stream: &mut MemorySend, bytes: &'static str) {
    crate::wire::send_all(stream, &mut [Bytes::from(bytes)])
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_101_bytes_go_both_ways_and_each_way_ends_for_itself() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    ask(&mut visitor, b"early\n bytes\0").await;
    let mut stream = world.stream().await;
    assert_eq!(stream.head.protocol.as_deref(), Some("websocket"));
    assert_eq!(stream.field("sec-websocket-key"), Some("a"));
    assert_eq!(stream.field("upgrade"), None);
    assert!(!stream.head.has_body);
    // Nothing before the 101, however long it takes.
    tokio::select! {
        _ = read(&mut stream.request) => panic!("data before the switch"),
        () = tokio::time::sleep(Duration::from_secs(5)) => {}
    }
    send_head(&mut stream.response, 101, SWITCH).await;
    write(&mut stream.response, "first").await;
    let response = visitor.until("first").await;
    assert_eq!(status(&response), 101);
    assert_eq!(header(&response, "upgrade"), Some("websocket"));
    assert_eq!(header(&response, "connection"), Some("upgrade"));
    assert_eq!(header(&response, "sec-websocket-accept"), Some("k"));
    assert_eq!(read(&mut stream.request).await.unwrap(), "early\n bytes\0");
    visitor.send(b"GET / HTTP/1.1\n\n").await;
    assert_eq!(
        read(&mut stream.request).await.unwrap(),
        "GET / HTTP/1.1\n\n"
    );
    // Half-close from the visitor is the end of one direction.
    visitor.0.shutdown().await.unwrap();
    assert_eq!(read(&mut stream.request).await, None);
    write(&mut stream.response, "last words").await;
    visitor.until("last words").await;
    stream.response.finish();
    assert_eq!(visitor.rest().await, "");
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn half_close_from_the_origin_goes_through() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    ask(&mut visitor, b"").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 101, SWITCH).await;
    visitor.until("\r\n\r\n").await;
    stream.response.finish();
    let mut room = [0; 16];
    assert_eq!(visitor.0.read(&mut room).await.unwrap(), 0);
    visitor.send(b"still here").await;
    assert_eq!(read(&mut stream.request).await.unwrap(), "still here");
    drop(visitor);
    assert_eq!(read(&mut stream.request).await, None);
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_101_what_follows_is_the_next_request() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    ask(
        &mut visitor,
        b"GET /next HTTP/1.1\r\nHost: app.t.example\r\n\r\n",
    )
    .await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 400, &[("content-length", "2")]).await;
    send_body(&mut stream.response, Full::new(Bytes::from("no")))
        .await
        .unwrap();
    assert_eq!(
        read(&mut stream.request).await,
        None,
        "the request ended without a byte"
    );
    assert_eq!(status(&visitor.until("no").await), 400);
    let next = world.stream().await;
    assert_eq!(next.head.path, "/next");
    next.answer(200, &[("content-length", "2")], "ok").await;
    visitor.until("ok").await;
    visitor.send(b"GET / HTTP/1.1\n").await;
    assert_eq!(status(&visitor.rest().await), 400);
}

#[tokio::test(start_paused = true)]
async fn h2c_is_never_asked_for() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(
            b"GET / HTTP/1.1\r\nHost: app.t.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
              HTTP2-Settings: AAMAAABkAAQ\r\n\r\n",
        )
        .await;
    let stream = world.stream().await;
    assert_eq!(stream.head.protocol, None);
    assert_eq!(stream.field("http2-settings"), None);
    stream.answer(200, &[("content-length", "2")], "ok").await;
    assert_eq!(status(&visitor.until("ok").await), 200);
    visitor.get("/").await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "2")], "ok")
        .await;
    visitor.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_goes_away_before_the_101_is_felt() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    ask(&mut visitor, b"x").await;
    let mut stream = world.stream().await;
    drop(visitor);
    std::future::poll_fn(|cx| stream.response.poll_stopped(cx)).await;
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_at_either_end_is_an_abort_at_the_other() {
    let mut world = World::new();
    let cut = CancellationToken::new();
    world.change(|s| s.cut = cut.clone());
    for by_cut in [false, true] {
        let mut visitor = world.visitor();
        ask(&mut visitor, b"").await;
        let mut stream = world.stream().await;
        send_head(&mut stream.response, 101, SWITCH).await;
        visitor.until("\r\n\r\n").await;
        if by_cut {
            cut.cancel();
        } else {
            stream.response.reset(StreamCode::OriginError);
        }
        let mut chunks = [const { Bytes::new() }; 8];
        let ended = std::future::poll_fn(|cx| stream.request.poll_recv(cx, &mut chunks)).await;
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(visitor.rest().await, "");
        world.is_empty().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_origin_said_before_it_broke_off_is_heard() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    ask(&mut visitor, b"").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 101, SWITCH).await;
    write(&mut stream.response, "early").await;
    stream.request.stop(StreamCode::BrokeAfter(9));
    visitor.until("early").await;
    write(&mut stream.response, "late").await;
    assert_eq!(visitor.rest().await, "late");
    std::future::poll_fn(|cx| stream.response.poll_stopped(cx)).await;
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_counts_until_it_ends() {
    let mut world = World::with(|s| s.connections_max = 1);
    let slots = &world.edge.inner.slots;
    let slot = slots.enter(&Front::default(), World::facts(false).peer);
    let mut visitor = world.connect(Facts {
        slot: Some(Arc::new(slot.unwrap())),
        ..World::facts(false)
    });
    ask(&mut visitor, b"").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 101, SWITCH).await;
    visitor.until("\r\n\r\n").await;
    visitor.send(b"x").await;
    assert_eq!(read(&mut stream.request).await.unwrap(), "x");
    assert_eq!(world.edge.connections(), 1);
    drop((visitor, stream));
    world.is_empty().await;
    assert_eq!(world.edge.connections(), 0);
}
