//! Deadlines, under paused time: tokio moves the clock when nothing else can happen.

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_slow_head_gets_a_408_after_ten_seconds() {
    let world = World::new();
    let started = Instant::now();
    let response = world.raw(b"GET / HTTP/1.1\r\nHost: app.t").await;
    assert_eq!(status(&response), 408);
    assert_eq!(header(&response, "wormkey-error"), Some("request_timeout"));
    // The visitor did not close, so we lingered for its sake.
    assert!(
        (10..=13).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_trickled_head_is_slow_too() {
    let world = World::new();
    let visitor = world.visitor();
    let (mut from, mut to) = tokio::io::split(visitor.0);
    world.tasks.spawn("test-trickle", async move {
        for b in b"GET / HTTP/1.1\r\nHost: app.t.example\r\nX: yyyyyyyyyyyyyyyyyyyyyy" {
            if to.write_all(&[*b]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut response = vec![0; 4096];
    let count = from.read(&mut response).await.unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&response[..count])), 408);
}

#[tokio::test(start_paused = true)]
async fn silence_before_the_first_head_is_closed_in_silence() {
    let world = World::new();
    let started = Instant::now();
    assert_eq!(world.visitor().rest().await, "");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_a_minute() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor.get("/").await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "2")], "ok")
        .await;
    visitor.until("ok").await;
    let started = Instant::now();
    assert_eq!(visitor.rest().await, "");
    assert!(
        (59..=61).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_answer_is_not_idle() {
    let mut world = World::with(|s| s.origin_timeout = Duration::ZERO);
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let stream = world.stream().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    stream.answer(200, &[("content-length", "2")], "ok").await;
    visitor.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_does_not_answer_is_a_504() {
    let mut world = World::with(|s| s.origin_timeout = Duration::from_secs(30));
    let mut visitor = world.visitor();
    let started = Instant::now();
    visitor.get("/").await;
    let stream = world.stream().await;
    assert_eq!(stream.head.timeout_ms, 30_000);
    let response = visitor.until("vis_").await;
    assert_eq!(header(&response, "wormkey-error"), Some("origin_timeout"));
    assert_eq!(started.elapsed().as_secs(), 30);
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn the_origins_time_runs_from_the_end_of_the_upload() {
    let mut world = World::with(|s| s.origin_timeout = Duration::from_secs(10));
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 2\r\n\r\na")
        .await;
    let stream = world.stream().await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    visitor.send(b"b").await;
    let (body, _response) = stream.body().await;
    assert_eq!(body.unwrap(), "ab");
    let started = Instant::now();
    let response = visitor.until("vis_").await;
    assert_eq!(status(&response), 504);
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn readers_that_stand_still_are_cut_over_the_budget() {
    let mut world = World::with(|s| s.stalled_max = 2);
    let mut visitors = Vec::new();
    let mut origins = Vec::new();
    for _ in 0..3 {
        let mut visitor = world.visitor();
        visitor.get("/").await;
        let mut stream = world.stream().await;
        origins.push(world.tasks.spawn("test-origin", async move {
            send_head(&mut stream.response, 200, &[]).await;
            let body = Full::new(Bytes::from(vec![7; 4_000_000]));
            send_body(&mut stream.response, body).await
        }));
        visitors.push(visitor);
        // So that the first has stood still for the longest.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let first = origins.remove(0).await.unwrap().unwrap_err();
    assert!(
        matches!(
            first,
            BodyError::Stream(crate::wire::StreamError::Reset(StreamCode::TooSlow))
        ),
        "{first:?}"
    );
    // The two others may stand still until the minimum rate ends them.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(origins.iter().all(|o| !o.is_finished()));
    // And one that moves again gets all of it.
    let last = visitors.pop().unwrap();
    let response = last.now_and_rest().await;
    assert!(response > 4_000_000);
    origins.pop().unwrap().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_takes_nothing_is_cut_after_twenty_seconds() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let mut stream = world.stream().await;
    let started = Instant::now();
    send_head(&mut stream.response, 200, &[]).await;
    let body = Full::new(Bytes::from(vec![7; 4_000_000]));
    let sent = send_body(&mut stream.response, body).await;
    assert!(sent.is_err(), "{sent:?}");
    assert!(
        (20..=22).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
    drop(visitor);
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_waits_for_its_reader() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let mut stream = world.stream().await;
    let origin = world.tasks.spawn("test-origin", async move {
        let kind = [("content-type", "text/event-stream; charset=utf-8")];
        send_head(&mut stream.response, 200, &kind).await;
        let body = Full::new(Bytes::from(vec![7; 4_000_000]));
        send_body(&mut stream.response, body).await
    });
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(visitor.now_and_rest().await > 4_000_000);
    origin.await.unwrap().unwrap();
}

/// Sends a body of 9,000 bytes, so many at a time, one piece a second; the answer.
async fn trickle(piece: usize) -> String {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 9000\r\n\r\n")
        .await;
    let stream = world.stream().await;
    let origin = world.tasks.spawn("test-origin", async move {
        let (body, response) = stream.body().await;
        let whole = body.is_ok_and(|body| body.len() == 9000);
        let mut response = response;
        if whole {
            send_head(&mut response, 200, &[("content-length", "2")]).await;
            let _ = send_body(&mut response, Full::new(Bytes::from("ok"))).await;
        }
        whole
    });
    let (mut from, mut to) = tokio::io::split(visitor.0);
    world.tasks.spawn("test-trickle", async move {
        for _ in 0..9000_usize.div_ceil(piece) {
            if to.write_all(&vec![b'x'; piece]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut response = vec![0; 4096];
    let count = from.read(&mut response).await.unwrap();
    let text = String::from_utf8_lossy(&response[..count]).into_owned();
    assert_eq!(origin.await.unwrap(), status(&text) == 200, "{text}");
    text
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_a_408_and_no_whole_body_for_the_origin() {
    let response = trickle(200).await;
    assert_eq!(status(&response), 408);
    assert_eq!(header(&response, "connection"), Some("close"));
    assert_eq!(status(&trickle(250).await), 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_we_do_not_take_is_not_slow() {
    let mut world = World::with(|s| s.origin_timeout = Duration::ZERO);
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    let stream = world.stream().await;
    let (mut from, mut to) = tokio::io::split(visitor.0);
    world.tasks.spawn("test-upload", async move {
        to.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
        std::future::pending::<()>().await;
    });
    // The client reads nothing for an hour: its window is full, and the visitor cannot send.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let (body, mut response) = stream.body().await;
    assert_eq!(body.unwrap().len(), 1_000_000);
    send_head(&mut response, 204, &[]).await;
    let mut answer = vec![0; 4096];
    let count = from.read(&mut answer).await.unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&answer[..count])), 204);
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_link_stood_still_is_not_taken_for_a_slow_one() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 1000000\r\n\r\n")
        .await;
    let stream = world.stream().await;
    let (mut from, mut to) = tokio::io::split(visitor.0);
    let (resume, resumed) = tokio::sync::oneshot::channel();
    world.tasks.spawn("test-upload", async move {
        // All that there is just now is on its way when the link stops taking it.
        let first = WINDOW + 10_000;
        to.write_all(&vec![b'x'; first]).await.unwrap();
        resumed.await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        to.write_all(&vec![b'x'; 1_000_000 - first]).await.unwrap();
        std::future::pending::<()>().await;
    });
    tokio::time::sleep(Duration::from_secs(50)).await;
    resume.send(()).unwrap();
    let (body, mut response) = stream.body().await;
    assert_eq!(body.unwrap().len(), 1_000_000);
    send_head(&mut response, 204, &[]).await;
    let mut answer = vec![0; 4096];
    let count = from.read(&mut answer).await.unwrap();
    assert_eq!(status(&String::from_utf8_lossy(&answer[..count])), 204);
}

#[tokio::test(start_paused = true)]
async fn while_both_directions_are_under_way_a_body_may_pause() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 2\r\n\r\na")
        .await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 200, &[]).await;
    visitor.until("\r\n\r\n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    visitor.send(b"b").await;
    let (body, mut response) = stream.body().await;
    assert_eq!(body.unwrap(), "ab");
    response.finish();
}

#[tokio::test]
async fn over_the_bound_of_visits_the_next_gets_a_503_and_then_a_place() {
    let mut world = World::with(|s| s.visits_max = 2);
    let (mut one, mut two, mut three) = (world.visitor(), world.visitor(), world.visitor());
    one.get("/").await;
    let first = world.stream().await;
    two.get("/").await;
    let _second = world.stream().await;
    three.get("/").await;
    let refused = three.until("vis_").await;
    assert_eq!(status(&refused), 503);
    assert_eq!(header(&refused, "wormkey-error"), Some("overloaded"));
    assert!(header(&refused, "retry-after").is_some());
    assert_eq!(world.opened(), 2, "nothing of it goes on");
    first.answer(200, &[("content-length", "2")], "ok").await;
    one.until("ok").await;
    one.get("/").await;
    let again = world.stream().await;
    again.answer(200, &[("content-length", "2")], "ok").await;
    one.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_visits_finish_and_closes_the_idle() {
    let mut world = World::new();
    let mut idle = world.visitor();
    idle.get("/").await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "2")], "ok")
        .await;
    idle.until("ok").await;
    let mut busy = world.visitor();
    busy.get("/").await;
    let stream = world.stream().await;
    let edge = world.edge.clone();
    let drained = world.tasks.spawn("test-drain", async move {
        edge.drain(Duration::from_secs(30)).await
    });
    assert_eq!(idle.rest().await, "");
    stream.answer(200, &[("content-length", "2")], "ok").await;
    assert!(busy.rest().await.ends_with("ok"));
    assert!(drained.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_question_that_a_drain_found_unread_was_lost() {
    for delay in [0, 50] {
        let mut world = World::new();
        let mut visitor = world.visitor();
        visitor.get("/").await;
        let answer = [("content-length", "2")];
        world.stream().await.answer(200, &answer, "ok").await;
        visitor.until("ok").await;
        let edge = world.edge.clone();
        if delay == 0 {
            // Sent, and nobody has looked yet when the drain begins.
            visitor.get("/late").await;
        }
        let rest = async {
            // Or it was still on its way.
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if delay > 0 {
                visitor.get("/late").await;
            }
            let stream = world.stream().await;
            assert_eq!(stream.head.path, "/late");
            stream.answer(200, &answer, "ok").await;
            visitor.rest().await
        };
        let (finished, rest) = tokio::join!(edge.drain(Duration::from_secs(30)), rest);
        assert!(finished && rest.ends_with("ok"), "{delay}: {rest}");
        assert_eq!(header(&rest, "connection"), Some("close"), "{delay}");
    }
}

impl Visitor {
    /// How many bytes come in all, until nothing more does for a while.
    async fn now_and_rest(mut self) -> usize {
        let mut room = vec![0; 65536];
        let mut total = 0;
        while let Ok(Ok(count)) =
            tokio::time::timeout(Duration::from_secs(30), self.0.read(&mut room)).await
            && count > 0
        {
            total += count;
        }
        total
    }
}
