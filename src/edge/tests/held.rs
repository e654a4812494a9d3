//! A visit in the hold reads no further than it says.

use std::task::Poll;

use super::*;

/// What a visitor can send to a visit that waits for ever, in tiny pieces over a pipe that holds almost
/// nothing; and what the engine was told that it keeps.
async fn fill(head: &str, is_multiplexed: bool) -> (usize, u64) {
    let world = World::new();
    world.change(|shared| shared.holds = true);
    let (mut near, far) = tokio::io::duplex(16);
    let facts = World::facts(is_multiplexed);
    let run = connection::run(Arc::clone(&world.edge.inner), far, facts);
    world.tasks.spawn("test-connection", run);
    near.write_all(head.as_bytes()).await.unwrap();
    let piece = [b'x'; 1024];
    let mut sent = 0;
    // Nothing else runs on paused time: when a write takes a second, nobody reads any more.
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), near.write(&piece)).await {
        sent += written.unwrap();
    }
    let told = world.shared.lock().unwrap().admitted[0].bytes;
    (sent, told)
}

#[tokio::test(start_paused = true)]
async fn a_held_upload_over_http1_keeps_what_was_told() {
    let head = "POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 99999999\r\n\r\n";
    let (sent, told) = fill(head, false).await;
    assert!(sent as u64 <= told, "{sent} bytes were read, told {told}");
    assert!(told < 70 * 1024, "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_held_upgrade_keeps_what_was_told() {
    let head = "GET / HTTP/1.1\r\nHost: app.t.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (sent, told) = fill(head, false).await;
    assert!(sent as u64 <= told, "{sent} bytes were read, told {told}");
    assert!(sent > 8 * 1024, "{sent}: this test looks at nothing");
    assert!(told < 140 * 1024, "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_held_upload_over_http2_keeps_what_was_told() {
    let world = World::new();
    world.change(|shared| shared.holds = true);
    let mut browser = http2::browser(&world).await;
    let (frames, body) = mpsc::channel(1);
    let request = Request::post("https://app.t.example/").body(http2::streamed(body));
    let answer = browser.send_request(request.unwrap());
    world.tasks.spawn("test-answer", async move {
        let _ = answer.await;
    });
    let mut sent = 0;
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_secs(5), frames.send(piece.clone())).await
    {
        sent += piece.len();
    }
    let told = world.shared.lock().unwrap().admitted[0].bytes;
    // What the visitor's own side of the connection has taken is not here yet.
    let own = 1024 * 1024;
    assert!(
        sent as u64 <= told + own,
        "{sent} bytes were read, told {told}"
    );
    assert!(sent > 512 * 1024, "{sent}: this test looks at nothing");
}

#[tokio::test(start_paused = true)]
async fn a_small_upload_over_http2_counts_as_what_it_announces() {
    let world = World::new();
    world.change(|shared| shared.holds = true);
    let mut browser = http2::browser(&world).await;
    for (length, body) in [(0, ""), (5, "hello")] {
        let whole = Full::new(Bytes::from(body)).map_err(|e| match e {}).boxed();
        let request = Request::post("https://app.t.example/").body(whole);
        let mut answer = Box::pin(browser.send_request(request.unwrap()));
        let seen = std::future::poll_fn(|cx| {
            let _ = answer.as_mut().poll(cx);
            Poll::Ready(())
        });
        seen.await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let shared = world.shared.lock().unwrap();
        let told = shared.admitted.last().unwrap().bytes;
        assert!((length..length + 3000).contains(&told), "{told}");
    }
}
