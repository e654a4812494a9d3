//! The same over HTTP/2, with hyper's client as the visitor.

use http::{Method, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::*;

pub(super) type Out = BoxBody<Bytes, std::io::Error>;

#[derive(Clone)]
pub(super) struct OnTasks(pub(super) Tasks);

impl<F> hyper::rt::Executor<F> for OnTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("test-h2", future);
    }
}

pub(super) async fn browser(world: &World) -> SendRequest<Out> {
    browser_with_window(world, 1 << 20).await
}

async fn browser_with_window(world: &World, window: u32) -> SendRequest<Out> {
    let io = TokioIo::new(world.connect(World::facts(true)).0);
    let (send, connection) = http2::Builder::new(OnTasks(world.tasks.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .handshake(io)
        .await
        .unwrap();
    world.tasks.spawn("test-h2-connection", connection);
    send
}

/// A body that goes on for as long as pieces come.
pub(super) fn streamed(pieces: mpsc::Receiver<Bytes>) -> Out {
    BodyExt::boxed(StreamBody::new(Pieces(pieces)))
}

struct Pieces(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Pieces {
    type Item = Result<http_body::Frame<Bytes>, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = self.0.poll_recv(cx);
        next.map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }
}

fn none() -> Out {
    Empty::new().map_err(|e| match e {}).boxed()
}

fn get(uri: &str) -> Request<Out> {
    Request::builder()
        .uri(uri)
        .version(Version::HTTP_2)
        .body(none())
        .unwrap()
}

fn code(response: &Response<Incoming>) -> Option<&str> {
    response
        .headers()
        .get("wormkey-error")
        .map(|v| v.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_grpc_like_call_keeps_its_trailers_both_ways() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    let frames = [
        Ok(http_body::Frame::data(Bytes::from("ask"))),
        Ok(http_body::Frame::trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("x-sum"),
            "1".parse().unwrap(),
        )]))),
    ];
    let request = Request::post("https://app.t.example/pkg.Service/Call")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(BodyExt::boxed(StreamBody::new(Listed(
            frames.into_iter().collect(),
        ))))
        .unwrap();
    let (response, ()) = tokio::join!(browser.send_request(request), async {
        let mut stream = world.stream().await;
        assert_eq!(stream.head.version, 20);
        assert_eq!(stream.head.method, Method::POST);
        assert_eq!(stream.field("te"), Some("trailers"));
        let body = WireBody::new(stream.request, FrameDecoder::new())
            .collect()
            .await
            .unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "1");
        assert_eq!(body.to_bytes(), "ask");
        send_head(
            &mut stream.response,
            200,
            &[("content-type", "application/grpc")],
        )
        .await;
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            "0".parse().unwrap(),
        )]);
        let answer =
            Full::new(Bytes::from("told")).with_trailers(async move { Some(Ok(trailers)) });
        send_body(&mut stream.response, Box::pin(answer))
            .await
            .unwrap();
    });
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "told");
    world.is_empty().await;
}

struct Listed(VecDeque<Result<http_body::Frame<Bytes>, std::io::Error>>);

impl futures_core::Stream for Listed {
    type Item = Result<http_body::Frame<Bytes>, std::io::Error>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_are_judged_for_each_request() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    let other = browser
        .send_request(get("https://other.t.example/"))
        .await
        .unwrap();
    assert_eq!(
        (other.status().as_u16(), code(&other)),
        (421, Some("misdirected"))
    );
    let mut contradicting = get("https://app.t.example/");
    contradicting
        .headers_mut()
        .insert("host", "other.t.example".parse().unwrap());
    let refused = browser.send_request(contradicting).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (400, Some("bad_request"))
    );
    let plain = browser
        .send_request(get("http://app.t.example/"))
        .await
        .unwrap();
    assert_eq!(plain.status(), 421);
    assert_eq!(world.opened(), 0);
    // The connection is none the worse for it.
    let (response, ()) = tokio::join!(
        browser.send_request(get("https://app.t.example/x")),
        async {
            world.stream().await.answer(200, &[], "ok").await;
        }
    );
    assert_eq!(
        response
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes(),
        "ok"
    );
}

#[tokio::test(start_paused = true)]
async fn limits_answer_431_and_414_over_http_2_too() {
    let world = World::new();
    let mut browser = browser(&world).await;
    let mut many = get("https://app.t.example/");
    for i in 0..100 {
        many.headers_mut().append(
            http::HeaderName::try_from(format!("x-{i}")).unwrap(),
            "y".parse().unwrap(),
        );
    }
    let mut large = get("https://app.t.example/");
    large
        .headers_mut()
        .insert("x", "y".repeat(32 * 1024).parse().unwrap());
    let long = get(&format!("https://app.t.example/{}", "a".repeat(8192)));
    for (request, status) in [(many, 431), (large, 431), (long, 414)] {
        let response = browser.send_request(request).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), code(&response)),
            (status, Some("too_large"))
        );
    }
    assert_eq!(world.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_head_request_has_the_length_and_no_body() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    let head = |uri| {
        let mut request = get(uri);
        *request.method_mut() = Method::HEAD;
        request
    };
    let (response, ()) = tokio::join!(
        browser.send_request(head("https://app.t.example/")),
        async {
            world
                .stream()
                .await
                .answer(200, &[("content-length", "99")], "")
                .await;
        }
    );
    let response = response.unwrap();
    assert_eq!(response.headers()["content-length"], "99");
    assert!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
    let ours = browser
        .send_request(head("https://app.t.example/.wormkey/"))
        .await
        .unwrap();
    assert_eq!(code(&ours), Some("not_found"));
    assert!(
        ours.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn an_aborted_response_is_a_reset_stream() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    let (response, mut stream) =
        tokio::join!(browser.send_request(get("https://app.t.example/")), async {
            let mut stream = world.stream().await;
            send_head(&mut stream.response, 200, &[]).await;
            let half = &mut [crate::wire::data_header(4), Bytes::from("half")];
            crate::wire::send_all(&mut stream.response, half)
                .await
                .unwrap();
            stream
        });
    let mut body = response.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "half");
    stream.response.reset(StreamCode::OriginError);
    assert!(body.frame().await.unwrap().is_err());
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_resets_its_stream_is_felt_at_the_far_end() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    let (response, mut stream) =
        tokio::join!(browser.send_request(get("https://app.t.example/")), async {
            let mut stream = world.stream().await;
            send_head(&mut stream.response, 200, &[]).await;
            stream
        });
    drop(response.unwrap());
    std::future::poll_fn(|cx| stream.response.poll_stopped(cx)).await;
    world.is_empty().await;
}

fn connect(protocol: &'static str) -> Request<Out> {
    let mut request = get("https://app.t.example/ws");
    *request.method_mut() = Method::CONNECT;
    request
        .extensions_mut()
        .insert(Protocol::from_static(protocol));
    request
        .headers_mut()
        .insert("sec-websocket-version", "13".parse().unwrap());
    request
        .headers_mut()
        .insert("sec-websocket-protocol", "chat".parse().unwrap());
    request
}

#[tokio::test(start_paused = true)]
async fn a_websocket_over_http_2_works_and_ends_each_way_for_itself() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    // The server's settings allow extended CONNECT; a request makes sure they have come.
    let warm = browser
        .send_request(get("https://other.t.example/"))
        .await
        .unwrap();
    assert_eq!(warm.status(), 421);
    let (response, mut stream) = tokio::join!(browser.send_request(connect("websocket")), async {
        let mut stream = world.stream().await;
        assert_eq!(stream.head.method, Method::GET);
        assert_eq!(stream.head.protocol.as_deref(), Some("websocket"));
        assert_eq!(stream.field("sec-websocket-protocol"), Some("chat"));
        send_head(
            &mut stream.response,
            101,
            &[
                ("upgrade", "websocket"),
                ("sec-websocket-accept", "k"),
                ("sec-websocket-protocol", "chat"),
            ],
        )
        .await;
        stream
    });
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"ping").await.unwrap();
    let mut chunks = [const { Bytes::new() }; 4];
    let count = std::future::poll_fn(|cx| stream.request.poll_recv(cx, &mut chunks))
        .await
        .unwrap();
    assert_eq!(chunks[..count].concat(), b"ping");
    crate::wire::send_all(&mut stream.response, &mut [Bytes::from("pong")])
        .await
        .unwrap();
    let mut room = [0; 4];
    socket.read_exact(&mut room).await.unwrap();
    assert_eq!(&room, b"pong");
    socket.shutdown().await.unwrap();
    let ended = std::future::poll_fn(|cx| stream.request.poll_recv(cx, &mut chunks)).await;
    assert_eq!(ended.unwrap(), 0);
    stream.response.finish();
    assert_eq!(socket.read(&mut room).await.unwrap(), 0);
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn other_protocols_are_501_and_a_plain_200_is_no_websocket() {
    let mut world = World::new();
    let mut browser = browser(&world).await;
    let warm = browser
        .send_request(get("https://other.t.example/"))
        .await
        .unwrap();
    assert_eq!(warm.status(), 421);
    let other = browser.send_request(connect("connect-udp")).await.unwrap();
    assert_eq!(
        (other.status().as_u16(), code(&other)),
        (501, Some("not_implemented"))
    );
    let (refused, ()) = tokio::join!(browser.send_request(connect("websocket")), async {
        world.stream().await.answer(200, &[], "a page").await;
    });
    let refused = refused.unwrap();
    assert_eq!(
        (refused.status().as_u16(), code(&refused)),
        (502, Some("origin_error"))
    );
    let (denied, ()) = tokio::join!(browser.send_request(connect("websocket")), async {
        world.stream().await.answer(403, &[], "no").await;
    });
    let denied = denied.unwrap();
    assert_eq!(denied.status(), 403);
    assert_eq!(denied.into_body().collect().await.unwrap().to_bytes(), "no");
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let mut world = World::with(|s| s.origin_timeout = Duration::ZERO);
    let mut browser = browser(&world).await;
    let (response, ()) = tokio::join!(browser.send_request(get("https://app.t.example/")), async {
        let stream = world.stream().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        stream.answer(200, &[], "ok").await;
    });
    response.unwrap().into_body().collect().await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(120), async {
        while !browser.is_closed() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(closed.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_opens_no_window_counts_as_standing_still() {
    for window in [0, 100, 65_535] {
        let mut world = World::with(|s| s.stalled_max = 0);
        let mut browser = browser_with_window(&world, window).await;
        let request = browser.send_request(get("https://app.t.example/"));
        let (response, sent) = tokio::join!(request, async {
            let mut stream = world.stream().await;
            send_head(&mut stream.response, 200, &[]).await;
            let body = Full::new(Bytes::from(vec![7; 4_000_000]));
            send_body(&mut stream.response, body).await
        });
        let error = sent.unwrap_err();
        assert!(
            matches!(
                error,
                BodyError::Stream(crate::wire::StreamError::Reset(StreamCode::TooSlow))
            ),
            "{error:?}"
        );
        drop(response);
        world.is_empty().await;
    }
}

/// A visit whose answer has begun, and whose visitor takes nothing of it.
async fn untaken(
    world: &mut World,
    browser: &mut SendRequest<Out>,
) -> (Response<Incoming>, MemorySend) {
    let (response, sending) =
        tokio::join!(browser.send_request(get("https://app.t.example/")), async {
            let mut stream = world.stream().await;
            send_head(&mut stream.response, 200, &[]).await;
            let piece = &mut [crate::wire::data_header(4), Bytes::from("half")];
            crate::wire::send_all(&mut stream.response, piece)
                .await
                .unwrap();
            stream.response
        });
    (response.unwrap(), sending)
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_ours_that_nobody_took_kept_its_connection_for_good() {
    let mut world = World::new();
    let mut browser = browser_with_window(&world, 0).await;
    let ours = browser
        .send_request(get("https://other.t.example/"))
        .await
        .unwrap();
    assert_eq!(ours.status(), 421);
    let visit = untaken(&mut world, &mut browser).await;
    let ended = async {
        while browser.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(50), ended).await;
    assert!(
        ended.is_ok(),
        "a connection with nothing but what is given up"
    );
    drop((ours, visit));
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_visit_that_was_given_up_kept_its_place_while_another_went_on() {
    let mut world = World::with(|settings| settings.visits_max = 2);
    let mut browser = browser_with_window(&world, 0).await;
    let given_up = untaken(&mut world, &mut browser).await;
    world.change(|shared| shared.holds = true);
    let asking = browser.send_request(get("https://app.t.example/"));
    let held = world.tasks.spawn("test-held", asking);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.visits(), 0, "the engine counts it still");
    assert_eq!(world.edge.inner.visits_free.available_permits(), 1);
    assert!(!held.is_finished());
    drop(given_up);
}

#[tokio::test(start_paused = true)]
async fn the_last_bytes_of_an_answer_kept_an_idle_connection_for_good() {
    let world = World::new();
    let alone = Arc::strong_count(&world.edge.inner);
    // One byte of window, and h2 takes all of a short answer.
    let mut browser = browser_with_window(&world, 1).await;
    let ours = browser.send_request(get("https://other.t.example/"));
    let ours = ours.await.unwrap();
    let ended = async {
        while Arc::strong_count(&world.edge.inner) > alone {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(600), ended).await;
    assert!(ended.is_ok(), "nothing but an answer that is not taken");
    drop(ours);
}
