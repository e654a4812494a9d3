//! One exchange over HTTP/1.1: what crosses whole, what breaks off, and who hears of it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::*;

/// An origin that runs `serve` on its first connection and tells when that ended.
async fn once<F, Fut>(serve: F) -> (Server, oneshot::Receiver<()>)
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (done, ended) = oneshot::channel();
    let script = std::sync::Mutex::new(Some((serve, done)));
    let server = Server::new(move |stream, _| {
        let script = script.lock().unwrap().take();
        async move {
            if let Some((serve, done)) = script {
                serve(stream).await;
                let _ = done.send(());
            }
        }
    })
    .await;
    (server, ended)
}

async fn answer(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn the_request_arrives_as_one_canonical_head() {
    let origin = Server::mirror().await;
    let mut head = get("/a//b/%2e%2e/\"{}?q=%20&x=|y");
    head.version = 20;
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("connection", "x-private, content-length"),
        ("x-private", "no"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("host", "evil.example"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        head = with(head, name, value);
    }
    let world = World::new();
    let got = world.visit(&tunnel(&origin), head).whole().await.unwrap();
    assert_eq!(
        got.text(),
        "GET /a//b/%2e%2e/\"{}?q=%20&x=|y HTTP/1.1\r\nhost: app.t.example.com\r\n\
         cookie: a=1; b=2\r\nx-forwarded-for: 192.0.2.1\r\n\r\n"
    );
}

#[tokio::test]
async fn an_answer_keeps_its_fields_and_loses_what_is_not_for_the_visitor() {
    let origin = Server::repeating(
        "HTTP/1.1 418 Teapot\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nSet-Cookie: __Host-wormkey-session=stolen\r\n\
         Wormkey-Error: forged\r\nX-Raw: caf\u{e9}\r\nContent-Length: 3\r\n\r\ntea",
    )
    .await;
    let got = World::new().get(&tunnel(&origin), "/").await.unwrap();
    assert_eq!((got.status(), got.text()), (418, "tea"));
    assert_eq!(got.report.status, Some(418));
    let fields = &got.head.fields;
    let cookies: Vec<_> = fields.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(fields["content-length"], "3");
    assert_eq!(fields["x-raw"].as_bytes(), "caf\u{e9}".as_bytes());
    for gone in ["connection", "keep-alive", "x-hop", "wormkey-error"] {
        assert!(!fields.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn answers_without_a_body_end_at_their_head() {
    for (method, answer, length) in [
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            Some("1000"),
        ),
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            None,
        ),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", None),
        (
            Method::GET,
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            None,
        ),
        (
            Method::GET,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
            Some("77"),
        ),
    ] {
        let origin = Server::repeating(answer).await;
        let (world, tunnel) = (World::new(), tunnel(&origin));
        for _ in 0..2 {
            let mut head = get("/");
            head.method = method.clone();
            let got = world.visit(&tunnel, head).whole().await.unwrap();
            assert!(got.body.is_empty());
            let got_length = got
                .head
                .fields
                .get("content-length")
                .map(|v| v.to_str().unwrap());
            assert_eq!(got_length, length, "{answer}");
        }
        assert_eq!(origin.connections(), 1, "{answer}");
    }
}

#[tokio::test]
async fn hostile_heads_are_an_origin_error() {
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 999999 Huh\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\r\n\r\n\0\0\0",
    ] {
        let origin = Server::repeating(bad).await;
        let world = World::new();
        let code = world.visit(&tunnel(&origin), get("/")).refusal().await;
        assert_eq!(code, StreamCode::OriginError, "{bad:?}");
        assert_eq!(world.origins.pool.idle(), 0, "{bad:?}");
    }
}

#[tokio::test]
async fn a_head_is_taken_up_to_its_limit_and_not_beyond() {
    for (fields, status) in [(200, Some(200)), (257, None)] {
        let (origin, _) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            let many: String = (0..fields - 1).map(|i| format!("x-{i}: y\r\n")).collect();
            answer(
                &mut stream,
                &format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"),
            )
            .await;
            read_head(&mut stream).await;
        })
        .await;
        let mut visit = World::new().visit(&tunnel(&origin), get("/"));
        assert_eq!(
            visit.head().await.ok().map(|h| h.status.as_u16()),
            status,
            "{fields}"
        );
    }
    for (size, status) in [(60_000, Some(200)), (66_000, None)] {
        let (origin, _) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            let long = "y".repeat(size);
            let _ = stream
                .write_all(
                    format!("HTTP/1.1 200 OK\r\nx: {long}\r\ncontent-length: 0\r\n\r\n").as_bytes(),
                )
                .await;
            read_head(&mut stream).await;
        })
        .await;
        let mut visit = World::new().visit(&tunnel(&origin), get("/"));
        assert_eq!(
            visit.head().await.ok().map(|h| h.status.as_u16()),
            status,
            "{size}"
        );
    }
}

#[tokio::test]
async fn an_aborted_answer_is_never_a_complete_one() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ] {
        let (seen, go) = oneshot::channel::<()>();
        let (origin, _) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            answer(&mut stream, cut).await;
            go.await.unwrap();
        })
        .await;
        let mut visit = World::new().visit(&tunnel(&origin), get("/"));
        assert_eq!(visit.head().await.unwrap().status, 200);
        seen.send(()).unwrap();
        let (body, report) = visit.rest().await;
        assert_eq!(
            code_of(&body.unwrap_err()),
            StreamCode::OriginError,
            "{cut:?}"
        );
        assert_eq!(
            (report.error, report.bytes_out),
            (Some(StreamCode::OriginError), 4),
            "{cut:?}"
        );
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_whole() {
    let (origin, _) = once(|mut stream| async move {
        read_head(&mut stream).await;
        answer(&mut stream, "HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    })
    .await;
    let got = World::new().get(&tunnel(&origin), "/").await.unwrap();
    assert_eq!(got.text(), "until the end");
}

#[tokio::test]
async fn an_answer_that_streams_arrives_piece_by_piece() {
    let (more, wanted) = oneshot::channel::<()>();
    let (origin, _) = once(|mut stream| async move {
        read_head(&mut stream).await;
        answer(&mut stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n").await;
        wanted.await.unwrap();
        answer(&mut stream, "9\r\ndata: 2\n\n\r\n0\r\nX-Sum: 2\r\n\r\n").await;
        read_head(&mut stream).await;
    })
    .await;
    let mut visit = World::new().visit(&tunnel(&origin), get("/"));
    visit.head().await.unwrap();
    let mut body = WireBody::new(visit.down, visit.decoder);
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "data: 1\n\n");
    more.send(()).unwrap();
    let rest = body.collect().await.unwrap();
    assert_eq!(rest.trailers().unwrap()["x-sum"], "2");
    assert_eq!(rest.to_bytes(), "data: 2\n\n");
}

#[tokio::test]
async fn bodies_reach_the_origin_framed_as_the_visitor_framed_them() {
    for (head, expected) in [
        (post("/", Some(4)), "content-length: 4\r\n\r\nbody"),
        (
            post("/", None),
            "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
        (
            {
                let mut head = post("/", None);
                head.method = Method::GET;
                head
            },
            "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ),
    ] {
        let length = expected.len();
        let (origin, _) = once(move |mut stream| async move {
            let mut got = Vec::new();
            while !got.windows(4).any(|w| w == b"body") || got.len() < length + 40 {
                let count = stream.read_buf(&mut got).await.unwrap();
                if count == 0 || got.ends_with(b"body") || got.ends_with(b"0\r\n\r\n") {
                    break;
                }
            }
            let got = String::from_utf8(got).unwrap();
            answer(
                &mut stream,
                &format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{got}",
                    got.len()
                ),
            )
            .await;
            read_head(&mut stream).await;
        })
        .await;
        let mut visit = World::new().visit(&tunnel(&origin), head);
        visit.send("body").await;
        visit.finish();
        let got = visit.whole().await.unwrap();
        assert!(got.text().ends_with(expected), "{}", got.text());
        assert_eq!(got.report.bytes_in, 4);
    }
}

#[tokio::test]
async fn request_trailers_that_were_announced_arrive() {
    let (origin, _) = once(|mut stream| async move {
        read_head(&mut stream).await;
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut got).await.unwrap();
        }
        let got = String::from_utf8(got).unwrap();
        answer(
            &mut stream,
            &format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{got}",
                got.len()
            ),
        )
        .await;
        read_head(&mut stream).await;
    })
    .await;
    let head = with(post("/", None), "trailer", "x-sum");
    let mut visit = World::new().visit(&tunnel(&origin), head);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "4".parse().unwrap());
    let body = http_body_util::Full::new(Bytes::from_static(b"body"))
        .with_trailers(async move { Some(Ok(trailers)) });
    crate::wire::send_body(&mut visit.up, Box::pin(body))
        .await
        .unwrap();
    let got = visit.whole().await.unwrap();
    assert_eq!(got.text(), "4\r\nbody\r\n0\r\nx-sum: 4\r\n\r\n");
}

#[tokio::test]
async fn an_aborted_upload_is_never_a_complete_one() {
    let (tell, told) = oneshot::channel();
    let (origin, _) = once(|mut stream| async move {
        read_head(&mut stream).await;
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
        tell.send(got).unwrap();
    })
    .await;
    let world = World::new();
    let mut visit = world.visit(&tunnel(&origin), post("/", None));
    visit.send("half").await;
    visit.up.reset(StreamCode::Cancelled);
    let report = visit.report().await;
    assert_eq!(report.error, Some(StreamCode::Cancelled));
    let got = timeout(STUCK, told).await.unwrap().unwrap();
    assert!(!got.ends_with(b"0\r\n\r\n"), "{got:?}");
}

#[tokio::test]
async fn a_body_of_the_wrong_length_breaks_off() {
    for sent in ["abc", "abcde"] {
        let (tell, told) = oneshot::channel();
        let (origin, _) = once(|mut stream| async move {
            read_head(&mut stream).await;
            let mut got = Vec::new();
            let _ = stream.read_to_end(&mut got).await;
            tell.send(got).unwrap();
        })
        .await;
        let mut visit = World::new().visit(&tunnel(&origin), post("/", Some(4)));
        visit.send(sent).await;
        visit.finish();
        assert_eq!(visit.refusal().await, StreamCode::Protocol, "{sent}");
        let got = timeout(STUCK, told).await.unwrap().unwrap();
        assert!(got.len() < 4, "{got:?}");
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_is_noticed_by_the_origin() {
    // Before the answer, in a silent answer, and in the middle of an upload.
    for (head, said) in [
        (get("/"), ""),
        (
            get("/"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        ),
        (post("/", Some(1000)), ""),
    ] {
        let (asked, reached) = oneshot::channel();
        let (origin, ended) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            answer(&mut stream, said).await;
            asked.send(()).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        })
        .await;
        let world = World::new();
        let mut visit = world.visit(&tunnel(&origin), head);
        if !said.is_empty() {
            visit.head().await.unwrap();
        }
        timeout(STUCK, reached).await.unwrap().unwrap();
        assert_eq!(visit.abandon().await.error, Some(StreamCode::Cancelled));
        timeout(STUCK, ended)
            .await
            .expect("the origin sees the end")
            .unwrap();
        until(|| world.tasks.running() == 0).await;
    }
}

#[tokio::test]
async fn a_visit_that_is_cut_leaves_nothing_behind() {
    for said in [
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    ] {
        let (asked, reached) = oneshot::channel();
        let (origin, ended) = once(move |mut stream| async move {
            read_head(&mut stream).await;
            answer(&mut stream, said).await;
            asked.send(()).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        })
        .await;
        let world = World::new();
        let mut visit = world.visit(&tunnel(&origin), post("/", None));
        visit.send("x").await;
        timeout(STUCK, reached).await.unwrap().unwrap();
        if !said.is_empty() {
            visit.head().await.unwrap();
        }
        visit.cut();
        timeout(STUCK, ended)
            .await
            .expect("the origin sees the end")
            .unwrap();
        until(|| world.tasks.running() == 0).await;
        let stopped = std::future::poll_fn(|cx| visit.up.poll_stopped(cx));
        assert!(timeout(STUCK, stopped).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_early_answer_stops_the_rest_of_the_upload() {
    let origin = Server::new(|mut stream, _| async move {
        read_head(&mut stream).await;
        answer(
            &mut stream,
            "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig",
        )
        .await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    let mut visit = world.visit(&tunnel, post("/", Some(1 << 30)));
    visit.send(vec![0; 1000]).await;
    assert_eq!(visit.head().await.unwrap().status, 413);
    let stopped = std::future::poll_fn(|cx| visit.up.poll_stopped(cx));
    assert!(timeout(STUCK, stopped).await.unwrap().is_some());
    let (body, report) = visit.rest().await;
    assert_eq!(body.unwrap().to_bytes(), "big");
    assert_eq!((report.status, report.error), (Some(413), None));
    assert_eq!(world.origins.pool.idle(), 0);
}

#[tokio::test]
async fn a_100_is_relayed_and_the_body_flows_after_it() {
    let (origin, _) = once(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("expect: 100-continue\r\n"), "{head}");
        answer(
            &mut stream,
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n",
        )
        .await;
        answer(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        answer(
            &mut stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        read_head(&mut stream).await;
    })
    .await;
    let mut head = post("/", Some(4));
    head.expects_continue = true;
    let mut visit = World::new().visit(&tunnel(&origin), head);
    let hints = visit.head().await.unwrap();
    assert_eq!(
        (hints.status.as_u16(), &hints.fields["link"]),
        (103, &"</a.css>".parse().unwrap())
    );
    assert_eq!(visit.head().await.unwrap().status, 100);
    visit.send("body").await;
    visit.finish();
    assert_eq!(visit.whole().await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_100_that_nobody_waits_for_is_left_out() {
    let (origin, _) = once(|mut stream| async move {
        read_head(&mut stream).await;
        answer(
            &mut stream,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        read_head(&mut stream).await;
    })
    .await;
    let got = World::new().get(&tunnel(&origin), "/").await.unwrap();
    assert_eq!(got.status(), 200);
}

#[tokio::test]
async fn an_origin_that_hangs_is_a_timeout_also_while_it_is_expected_to_continue() {
    let mut expecting = post("/", Some(4));
    expecting.expects_continue = true;
    for head in [get("/"), expecting] {
        let (origin, ended) = once(|mut stream| async move {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
        })
        .await;
        let mut head = head;
        head.timeout_ms = 60;
        let visit = World::new().visit(&tunnel(&origin), head);
        assert_eq!(visit.refusal().await, StreamCode::OriginTimeout);
        timeout(STUCK, ended)
            .await
            .expect("the connection is closed")
            .unwrap();
    }
}

#[tokio::test]
async fn the_origins_time_does_not_run_while_the_visitor_uploads() {
    let (origin, _) = once(|mut stream| async move {
        read_head(&mut stream).await;
        let mut body = [0; 8];
        stream.read_exact(&mut body).await.unwrap();
        answer(
            &mut stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        read_head(&mut stream).await;
    })
    .await;
    let mut head = post("/", Some(8));
    head.timeout_ms = 50;
    let mut visit = World::new().visit(&tunnel(&origin), head);
    visit.send("half").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    visit.send("half").await;
    visit.finish();
    assert_eq!(visit.whole().await.unwrap().text(), "ok");
}

#[tokio::test]
async fn what_cannot_be_reached_says_that_nothing_was_sent() {
    let closed = {
        let origin = Server::repeating("").await;
        origin.target()
    };
    let world = World::new();
    for (target, code) in [
        (&*closed, StreamCode::OriginUnreachable),
        ("http://no-such-host.invalid", StreamCode::OriginUnreachable),
        ("http://192.0.2.1", StreamCode::NotAllowed),
        ("unix:/run/no.sock", StreamCode::NotAllowed),
    ] {
        let tunnel = tunnel_to(target, HostMode::Keep);
        let refusal = world.visit(&tunnel, get("/")).refusal().await;
        assert_eq!(refusal, code, "{target}");
        assert!(refusal.nothing_was_sent());
    }
    let tcp = tunnel_to("tcp://localhost:1", HostMode::Keep);
    assert_eq!(
        world.visit(&tcp, get("/")).refusal().await,
        StreamCode::Unsupported
    );
}

#[tokio::test]
async fn a_head_that_could_smuggle_is_refused_before_anything_is_dialled() {
    let origin = Server::mirror().await;
    let world = World::new();
    let mut fragment = get("/a#b");
    fragment.version = 20;
    let mut authority = get("/");
    authority.authority = "evil@app".into();
    let mut connect = get("/");
    connect.method = Method::CONNECT;
    for head in [
        with(get("/"), "content-length", "5"),
        with(with(post("/", Some(1)), "content-length", "2"), "x", "y"),
        with(post("/", None), "content-length", "1 1"),
        get("http://evil.example/"),
        get("*"),
        get(""),
        fragment,
        connect,
        authority,
    ] {
        let shown = format!("{} {} {:?}", head.method, head.path, head.fields);
        let code = world.visit(&tunnel(&origin), head).refusal().await;
        assert_eq!(code, StreamCode::Protocol, "{shown}");
    }
    until(|| origin.connections() <= 1).await;
}

#[tokio::test]
async fn fifty_megabytes_pass_a_reader_that_stalls_without_piling_up() {
    const TOTAL: usize = 50 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let (origin, _) = once(move |mut stream| async move {
        read_head(&mut stream).await;
        answer(
            &mut stream,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n"),
        )
        .await;
        let piece: Vec<u8> = (0..65536).map(|i| (i % 251) as u8).collect();
        while count.load(Ordering::SeqCst) < TOTAL {
            stream.write_all(&piece).await.unwrap();
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
        read_head(&mut stream).await;
    })
    .await;
    let mut visit = World::new().visit(&tunnel(&origin), get("/"));
    visit.head().await.unwrap();
    // The reader stalls: what is under way settles, in the window, hyper and the kernel's buffers.
    let mut before = usize::MAX;
    while before != written.load(Ordering::SeqCst) {
        before = written.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        before < 16 << 20,
        "{before} bytes left the origin while nobody read"
    );
    let mut body = WireBody::new(visit.down, visit.decoder);
    let mut got = 0;
    while let Some(frame) = body.frame().await {
        for byte in frame.unwrap().into_data().unwrap() {
            assert_eq!(byte, (got % 65536 % 251) as u8);
            got += 1;
        }
    }
    assert_eq!(got, TOTAL);
}
