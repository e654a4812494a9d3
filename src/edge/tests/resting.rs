//! Kept-alive connections of which hyper is let go while nothing happens: nobody notices.

use super::*;

/// Longer than anything keeps its buffers, shorter than an idle connection may stay.
const A_WHILE: Duration = Duration::from_secs(30);

async fn asks(world: &mut World, visitor: &mut Visitor) {
    visitor.get("/").await;
    let stream = world.stream().await;
    stream.answer(200, &[("content-length", "2")], "ok").await;
    visitor.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn after_a_rest_a_connection_serves_on() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    for _ in 0..5 {
        asks(&mut world, &mut visitor).await;
        tokio::time::sleep(A_WHILE).await;
    }
    // A head that wakes it byte by byte, and one that is longer than what wakes it.
    for byte in b"GET /slow HTTP/1.1\r\nHost: app.t.example\r\n\r\n" {
        visitor.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stream = world.stream().await;
    stream.answer(200, &[("content-length", "2")], "ok").await;
    visitor.until("ok").await;
    tokio::time::sleep(A_WHILE).await;
    let long = format!(
        "POST /long HTTP/1.1\r\nHost: app.t.example\r\nX: {}\r\nContent-Length: 3\r\n\r\nabc",
        "x".repeat(5000)
    );
    visitor.send(long.as_bytes()).await;
    let (body, response) = world.stream().await.body().await;
    assert_eq!(body.unwrap(), "abc");
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_bad_head_is_refused_after_a_rest_too() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    asks(&mut world, &mut visitor).await;
    tokio::time::sleep(A_WHILE).await;
    visitor
        .send(b"GET / HTTP/1.1\nHost: app.t.example\n\n")
        .await;
    assert_eq!(status(&visitor.rest().await), 400);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_stops_after_a_rest_gets_its_408() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    asks(&mut world, &mut visitor).await;
    tokio::time::sleep(A_WHILE).await;
    visitor.send(b"GET / HTTP/1.1\r\n").await;
    assert_eq!(status(&visitor.rest().await), 408);
}

#[tokio::test(start_paused = true)]
async fn a_drain_closes_what_rests() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    asks(&mut world, &mut visitor).await;
    tokio::time::sleep(A_WHILE).await;
    let edge = world.edge.clone();
    let drained = world.tasks.spawn("test-drain", async move {
        edge.drain(Duration::from_secs(5)).await
    });
    assert_eq!(visitor.rest().await, "");
    assert!(drained.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_visitor_may_leave_during_a_rest() {
    let mut world = World::new();
    let before = world.tasks.running();
    let mut visitor = world.visitor();
    asks(&mut world, &mut visitor).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.tasks.running(), before + 1);
    drop(visitor);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.tasks.running(), before);
    world.is_empty().await;
}
