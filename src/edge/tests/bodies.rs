//! Bodies both ways over HTTP/1: whole, streaming, early, late, and broken off.

use super::*;

const OK: &[(&str, &str)] = &[("content-length", "2")];

async fn post(visitor: &mut Visitor, fields: &str, body: &[u8]) {
    let head = format!("POST /up HTTP/1.1\r\nHost: app.t.example\r\n{fields}\r\n");
    visitor.send(&[head.as_bytes(), body].concat()).await;
}

#[tokio::test(start_paused = true)]
async fn bodies_of_any_framing_arrive_whole() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    for (fields, body) in [
        ("Content-Length: 5\r\n", &b"hello"[..]),
        (
            "Transfer-Encoding: chunked\r\n",
            b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n",
        ),
    ] {
        post(&mut visitor, fields, body).await;
        let stream = world.stream().await;
        assert!(stream.head.has_body);
        assert_eq!(stream.field("transfer-encoding"), None);
        let (body, mut response) = stream.body().await;
        assert_eq!(body.unwrap(), "hello");
        send_head(&mut response, 200, OK).await;
        send_body(&mut response, Full::new(Bytes::from("ok")))
            .await
            .unwrap();
        visitor.until("ok").await;
    }
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn request_trailers_go_on_without_those_that_frame_or_route() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    let body = b"1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nX_Forwarded_For: x\r\n\r\n";
    post(
        &mut visitor,
        "Trailer: x-sum\r\nTransfer-Encoding: chunked\r\n",
        body,
    )
    .await;
    let stream = world.stream().await;
    let body = WireBody::new(stream.request, FrameDecoder::new())
        .collect()
        .await
        .unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers.len(), 1);
    assert_eq!(trailers["x-sum"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_bad_chunk_is_an_aborted_body_for_the_origin_and_a_400_for_the_visitor() {
    for bad in [
        &b"3\r\nabc\r\n0x1\r\n"[..],
        b"3\r\nabcX",
        b"3\nabc",
        b"3\r\nabc\r\n0\r\nX\n",
        b"fffffffffffffffff",
    ] {
        let mut world = World::new();
        let mut visitor = world.visitor();
        post(&mut visitor, "Transfer-Encoding: chunked\r\n", bad).await;
        let (body, _response) = world.stream().await.body().await;
        assert!(body.is_err(), "{}", bad.escape_ascii());
        let response = visitor.rest().await;
        assert_eq!(status(&response), 400, "{}", bad.escape_ascii());
        assert_eq!(header(&response, "connection"), Some("close"));
        world.is_empty().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_cut_is_an_aborted_body() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    post(&mut visitor, "Content-Length: 10\r\n", b"half").await;
    let stream = world.stream().await;
    drop(visitor);
    let (body, _response) = stream.body().await;
    assert!(body.is_err());
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_of_unknown_length_is_chunked_with_the_trailers_it_announces() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(b"GET / HTTP/1.1\r\nHost: app.t.example\r\nTE: trailers\r\n\r\n")
        .await;
    let mut stream = world.stream().await;
    send_head(
        &mut stream.response,
        200,
        &[("trailer", "x-sum"), ("wormkey-error", "forged")],
    )
    .await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let body = Full::new(Bytes::from("data")).with_trailers(async move { Some(Ok(trailers)) });
    send_body(&mut stream.response, Box::pin(body))
        .await
        .unwrap();
    let response = visitor.until("x-sum: 7\r\n\r\n").await;
    assert!(response.contains("4\r\ndata\r\n0\r\n"), "{response}");
    assert_eq!(header(&response, "transfer-encoding"), Some("chunked"));
    assert_eq!(header(&response, "wormkey-error"), None);
}

#[tokio::test(start_paused = true)]
async fn head_204_and_304_have_no_body_and_keep_the_connection() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(b"HEAD / HTTP/1.1\r\nHost: app.t.example\r\n\r\n")
        .await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "1234"), ("x", "head")], "")
        .await;
    let response = visitor.until("\r\n\r\n").await;
    assert_eq!(header(&response, "content-length"), Some("1234"));
    for (code, fields) in [
        (204, &[("x", "y")][..]),
        (304, &[("etag", "\"a\""), ("content-length", "9")]),
    ] {
        visitor.get("/").await;
        world.stream().await.answer(code, fields, "").await;
        let response = visitor.until("\r\n\r\n").await;
        assert_eq!(status(&response), code);
        assert!(response.ends_with("\r\n\r\n"));
        assert_eq!(header(&response, "transfer-encoding"), None);
    }
    visitor.get("/").await;
    world.stream().await.answer(200, OK, "ok").await;
    visitor.until("ok").await;
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_read_to_its_end_is_not_given_up() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    for (request, status) in [("GET", 200), ("HEAD", 200), ("GET", 204)] {
        visitor
            .send(format!("{request} / HTTP/1.1\r\nHost: app.t.example\r\n\r\n").as_bytes())
            .await;
        let mut stream = world.stream().await;
        send_head(&mut stream.response, status, &[("content-length", "2")]).await;
        let body = if request == "GET" && status == 200 {
            "ok"
        } else {
            ""
        };
        send_body(&mut stream.response, Full::new(Bytes::from(body)))
            .await
            .unwrap();
        visitor
            .until(if body.is_empty() { "\r\n\r\n" } else { "ok" })
            .await;
        world.is_empty().await;
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(
            stream.response.poll_stopped(&mut cx).is_pending(),
            "{request} {status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_visitor_sends_its_body_only_when_the_origin_asks_for_it() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    post(
        &mut visitor,
        "Content-Length: 4\r\nExpect: 100-continue\r\n",
        b"",
    )
    .await;
    let mut stream = world.stream().await;
    assert!(stream.head.expects_continue);
    assert_eq!(stream.field("expect"), None);
    send_head(&mut stream.response, 103, &[("link", "</a.css>")]).await;
    send_head(&mut stream.response, 100, &[]).await;
    let started = tokio::time::Instant::now();
    assert_eq!(
        visitor.until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert!(started.elapsed() < Duration::from_millis(500));
    visitor.send(b"body").await;
    let (body, mut response) = stream.body().await;
    assert_eq!(body.unwrap(), "body");
    send_head(&mut response, 200, OK).await;
    send_body(&mut response, Full::new(Bytes::from("ok")))
        .await
        .unwrap();
    visitor.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_waits_for_100_waits_a_second_at_most() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    post(
        &mut visitor,
        "Content-Length: 4\r\nExpect: 100-continue\r\n",
        b"",
    )
    .await;
    let _stream = world.stream().await;
    let started = tokio::time::Instant::now();
    visitor.until("100 Continue").await;
    assert_eq!(started.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_final_answer_instead_of_100_means_the_body_is_never_read() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    post(
        &mut visitor,
        "Content-Length: 4\r\nExpect: 100-continue\r\n",
        b"",
    )
    .await;
    let stream = world.stream().await;
    stream.answer(417, OK, "no").await;
    let response = visitor.until("no").await;
    assert_eq!(status(&response), 417);
    assert!(!response.contains("100 Continue"));
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_comes_through_while_the_upload_goes_on() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    post(&mut visitor, "Content-Length: 10\r\n", b"half").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 200, OK).await;
    send_body(&mut stream.response, Full::new(Bytes::from("ok")))
        .await
        .unwrap();
    visitor.until("ok").await;
    assert_eq!(world.visits(), 1, "the visit goes on with its upload");
    visitor.send(b"-other").await;
    let (body, _response) = stream.body().await;
    assert_eq!(body.unwrap(), "half-other");
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_refuses_an_upload_midway_is_heard() {
    let mut world = World::new();
    let visitor = world.visitor();
    let (mut from, mut to) = tokio::io::split(visitor.0);
    to.write_all(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 100000000\r\n\r\n")
        .await
        .unwrap();
    let writer = world.tasks.spawn("test-upload", async move {
        while to.write_all(&[0; 8192]).await.is_ok() {}
    });
    let mut stream = world.stream().await;
    stream.request.stop(StreamCode::Cancelled);
    send_head(&mut stream.response, 413, &[("content-length", "5")]).await;
    send_body(&mut stream.response, Full::new(Bytes::from("large")))
        .await
        .unwrap();
    let mut response = Vec::new();
    // The connection ends in the middle of the upload, but only after the answer.
    let _ = from.read_to_end(&mut response).await;
    drop(from);
    let response = String::from_utf8(response).unwrap();
    assert_eq!(status(&response), 413);
    assert!(response.ends_with("large"), "{response}");
    writer.await.unwrap();
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_breaks_off_is_never_complete() {
    for (fields, is_reset) in [
        (OK, true),
        (&[("content-length", "9")][..], false),
        (&[], true),
    ] {
        let mut world = World::new();
        let mut visitor = world.visitor();
        visitor.get("/").await;
        let mut stream = world.stream().await;
        send_head(&mut stream.response, 200, fields).await;
        crate::wire::send_all(
            &mut stream.response,
            &mut [crate::wire::data_header(1), Bytes::from("x")],
        )
        .await
        .unwrap();
        if is_reset {
            stream.response.reset(StreamCode::OriginError);
        } else {
            stream.response.finish();
        }
        let response = visitor.rest().await;
        assert!(!response.ends_with("0\r\n\r\n"), "{response}");
        world.is_empty().await;
    }
}

#[tokio::test(start_paused = true)]
async fn extra_bytes_after_a_body_reach_nobody() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor.get("/").await;
    world
        .stream()
        .await
        .answer(200, OK, "okHTTP/1.1 200 OK\r\n\r\n")
        .await;
    let response = visitor.rest().await;
    assert!(!response.contains("okHTTP"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_is_a_502() {
    for (code, fields) in [
        (101, &[][..]),
        (200, &[("content-length", "1"), ("content-length", "2")]),
    ] {
        let mut world = World::new();
        let mut visitor = world.visitor();
        visitor.get("/").await;
        world.stream().await.answer(code, fields, "x").await;
        let response = visitor.until("vis_").await;
        assert_eq!(status(&response), 502);
        assert_eq!(header(&response, "wormkey-error"), Some("origin_error"));
        world.is_empty().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_goes_away_is_felt_at_the_far_end() {
    let mut world = World::new();
    // While it waits for an answer.
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let mut stream = world.stream().await;
    drop(visitor);
    let stopped = std::future::poll_fn(|cx| stream.response.poll_stopped(cx)).await;
    assert_eq!(
        stopped,
        Some(crate::wire::StreamError::Reset(StreamCode::Cancelled))
    );
    world.is_empty().await;
    // In the middle of one.
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 200, &[]).await;
    visitor.until("\r\n\r\n").await;
    drop(visitor);
    std::future::poll_fn(|cx| stream.response.poll_stopped(cx)).await;
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_ends_cuts_its_visits() {
    let mut world = World::new();
    let cut = CancellationToken::new();
    world.change(|s| s.cut = cut.clone());
    let mut waiting = world.visitor();
    waiting.get("/").await;
    let _stream = world.stream().await;
    let mut reading = world.visitor();
    reading.get("/").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 200, &[]).await;
    reading.until("\r\n\r\n").await;
    cut.cancel();
    assert_eq!(status(&waiting.until("vis_").await), 410);
    // Asked why under a number of its own: what is left of the visit ends under the old one.
    let asked: Vec<VisitId> = {
        let shared = world.shared.lock().unwrap();
        shared.admitted.iter().map(|visit| visit.id).collect()
    };
    assert_eq!(asked.len(), 3);
    assert!(asked[2] != asked[0] && asked[2] != asked[1]);
    assert!(!reading.rest().await.contains("0\r\n\r\n"));
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_stays_away_gives_up_visits_without_an_answer_only() {
    let mut world = World::new();
    let offline = CancellationToken::new();
    world.change(|s| s.offline = offline.clone());
    let mut waiting = world.visitor();
    waiting.get("/").await;
    let _stream = world.stream().await;
    let mut reading = world.visitor();
    reading.get("/").await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 200, &[("content-length", "4")]).await;
    reading.until("\r\n\r\n").await;
    offline.cancel();
    let answer = waiting.until("vis_").await;
    assert_eq!(status(&answer), 502);
    assert!(answer.contains("wormkey-error: tunnel_offline") && answer.contains("retry-after:"));
    let late = Bytes::from_static(b"late");
    let mut wire = [crate::wire::data_header(late.len()), late];
    crate::wire::send_all(&mut stream.response, &mut wire)
        .await
        .unwrap();
    stream.response.finish();
    assert!(reading.until("late").await.ends_with("late"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_under_way_waits_for_its_link_after_the_hold_is_over() {
    let mut world = World::new();
    let offline = CancellationToken::new();
    world.change(|s| s.offline = offline.clone());
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 3000000\r\n\r\n")
        .await;
    let stream = world.stream().await;
    let tasks = world.tasks.clone();
    let (mut from, mut to) = tokio::io::split(visitor.0);
    tasks.spawn("test-upload", async move {
        for _ in 0..300 {
            to.write_all(&[7; 10_000]).await.unwrap();
        }
    });
    // The link takes nothing for far longer than an answer may take.
    tokio::time::sleep(Duration::from_secs(5)).await;
    offline.cancel();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (body, mut response) = stream.body().await;
    assert_eq!(
        body.unwrap().len(),
        3_000_000,
        "all of it, once the link was back"
    );
    send_head(&mut response, 200, &[]).await;
    let mut answer = [0; 12];
    from.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_sent_is_given_up_with_the_hold() {
    let mut world = World::new();
    let offline = CancellationToken::new();
    world.change(|s| s.offline = offline.clone());
    let mut visitor = world.visitor();
    visitor
        .send(b"POST / HTTP/1.1\r\nHost: app.t.example\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let _stream = world.stream().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    offline.cancel();
    let answer = visitor.until("vis_").await;
    assert!(answer.contains("wormkey-error: tunnel_offline"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_long_body_passes_a_slow_reader_through_small_windows() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let mut stream = world.stream().await;
    let sent = Bytes::from(
        (0..3_000_000u32)
            .map(|i| (i % 251) as u8)
            .collect::<Vec<_>>(),
    );
    let body = sent.clone();
    world.tasks.spawn("test-origin", async move {
        send_head(&mut stream.response, 200, &[("content-length", "3000000")]).await;
        send_body(&mut stream.response, Full::new(body))
            .await
            .unwrap();
    });
    let mut got = Vec::new();
    let mut room = vec![0; 7777];
    let head = |got: &[u8]| {
        got.windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map(|at| at + 4)
    };
    while head(&got).is_none_or(|at| got.len() < at + sent.len()) {
        let count = visitor.0.read(&mut room).await.unwrap();
        got.extend_from_slice(&room[..count]);
    }
    assert!(got[head(&got).unwrap()..] == sent[..]);
    world.is_empty().await;
}
