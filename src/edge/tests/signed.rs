//! Webhook signatures at the edge: what is signed goes on byte for byte, and of what is not nothing does.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use http::Request;
use http_body_util::BodyExt as _;

use super::http2::{Out, browser};
use super::*;
use crate::http::limits::SIGNED_BODY_MAX;
use crate::times::Clock;

const SECRET: &str = "hush";

fn mac(bytes: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    HEXLOWER.encode(hmac::sign(&key, bytes).as_ref())
}

/// GitHub's field.
fn github(body: &[u8]) -> String {
    format!("X-Hub-Signature-256: sha256={}\r\n", mac(body))
}

/// Stripe's field, signed so many seconds ago.
fn stripe(body: &[u8], ago: i64) -> String {
    let time = Clock.now().wall.as_millis() / 1000 - ago;
    let signed = [format!("{time}.").as_bytes(), body].concat();
    format!("Stripe-Signature: t={time},v1={}\r\n", mac(&signed))
}

/// A tunnel that github and stripe may send to.
fn world() -> World {
    asking(r#"{"webhook":[{"kind":"stripe","secret":"hush"},{"kind":"github","secret":"hush"}]}"#)
}

fn asking(policy: &str) -> World {
    let world = World::new();
    let policy = Arc::new(Policy::parse(policy).unwrap());
    world.change(|shared| shared.policy = policy);
    world
}

fn request(method: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} /hook HTTP/1.1\r\nHost: app.t.example\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

fn post(fields: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("{fields}Content-Length: {}\r\n", body.len());
    request("POST", &length, body)
}

/// The body that reaches the client; it is answered with this status.
async fn delivered(world: &mut World, answer: u16) -> Bytes {
    let (body, mut response) = world.stream().await.body().await;
    send_head(&mut response, answer, &[("content-length", "2")]).await;
    let sent = send_body(&mut response, Full::new(Bytes::from("ok"))).await;
    sent.unwrap();
    body.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_signed_arrives_as_it_was_sent() {
    let mut world = world();
    let mut visitor = world.visitor();
    let gzip = [0x1f, 0x8b, 0, 0xff, b'\n', 0];
    let large = vec![b'x'; SIGNED_BODY_MAX];
    for body in [&b"hello"[..], b"", &gzip, &large] {
        for fields in [github(body), stripe(body, 0)] {
            let sent = post(&format!("{fields}Content-Encoding: gzip\r\n"), body);
            let (mut read, mut write) = tokio::io::split(visitor.0);
            let (got, ()) = tokio::join!(delivered(&mut world, 200), async {
                write.write_all(&sent).await.unwrap();
            });
            assert_eq!(got, body);
            let mut room = vec![0; 4096];
            let count = read.read(&mut room).await.unwrap();
            assert!(room[..count].starts_with(b"HTTP/1.1 200"));
            visitor = Visitor(read.unsplit(write));
        }
    }
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn trailers_and_chunks_are_kept_and_only_the_body_is_signed() {
    let mut world = world();
    let mut visitor = world.visitor();
    let fields = format!("{}Transfer-Encoding: chunked\r\n", github(b"hello"));
    let body = b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n";
    visitor.send(&request("POST", &fields, body)).await;
    let stream = world.stream().await;
    assert!(stream.field("x-hub-signature-256").is_some());
    let body = WireBody::new(stream.request, FrameDecoder::new());
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "1");
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test(start_paused = true)]
async fn of_what_is_not_signed_nothing_goes_on() {
    let (fits, large) = (github(b"hello"), vec![b'x'; SIGNED_BODY_MAX + 1]);
    let websocket = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    for (sent, wanted) in [
        (post("", b"hello"), 401),
        (post("X-Hub-Signature-256: sha256=00\r\n", b"hello"), 401),
        (post(&fits, b"hellO"), 401),
        (post(&fits, b"hello\0"), 401),
        (post(&format!("{fits}{fits}"), b"hello"), 401),
        (post(&stripe(b"hello", 301), b"hello"), 401),
        (post(&stripe(b"hello", -302), b"hello"), 401),
        (request("GET", "", b""), 401),
        (request("HEAD", "", b""), 401),
        (request("OPTIONS", "", b""), 401),
        (request("DELETE", &fits, b""), 401),
        (request("GET", websocket, b""), 401),
        (request("GET", &format!("{fits}{websocket}"), b""), 401),
        (post(&github(&large), &large), 413),
        (
            request(
                "POST",
                &format!("{}Transfer-Encoding: chunked\r\n", github(b"hello")),
                b"5\r\nhelloX\r\n",
            ),
            400,
        ),
    ] {
        let world = world();
        let (mut read, mut write) = tokio::io::split(world.visitor().0);
        // The answer may come, and the connection end, before all is written.
        let sending = world.tasks.spawn("test-sender", async move {
            let _ = write.write_all(&sent).await;
            write
        });
        let mut room = vec![0; 4096];
        let count = read.read(&mut room).await.unwrap();
        let answer = String::from_utf8_lossy(&room[..count]).into_owned();
        assert_eq!(status(&answer), wanted, "{answer}");
        if wanted == 401 {
            assert_eq!(header(&answer, "wormkey-error"), Some("bad_signature"));
            assert!(header(&answer, "www-authenticate").is_some());
        }
        assert_eq!(world.opened(), 0);
        drop(read);
        sending.abort();
        world.is_empty().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_that_is_signed_passes_and_a_websocket_too() {
    let mut world = world();
    let mut visitor = world.visitor();
    visitor.send(&request("GET", &github(b""), b"")).await;
    let stream = world.stream().await;
    assert!(!stream.head.has_body);
    stream.answer(200, &[("content-length", "2")], "ok").await;
    assert_eq!(status(&visitor.until("ok").await), 200);
    let websocket = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let fields = format!("{}{websocket}", github(b""));
    visitor.send(&request("GET", &fields, b"")).await;
    let stream = world.stream().await;
    assert_eq!(stream.head.protocol.as_deref(), Some("websocket"));
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_waits_for_100_hears_first_whether_it_carries_a_signature() {
    let mut world = world();
    let mut visitor = world.visitor();
    let expects = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    visitor.send(&request("POST", expects, b"")).await;
    let answer = visitor.until("}").await;
    assert_eq!(status(&answer), 401, "{answer}");
    assert!(!answer.contains("100 Continue"));
    let mut visitor = world.visitor();
    let signed = format!("{}{expects}", github(b"hello"));
    visitor.send(&request("POST", &signed, b"")).await;
    visitor.until("100 Continue\r\n\r\n").await;
    assert_eq!(
        world.opened(),
        0,
        "nothing goes on before the body is there"
    );
    visitor.send(b"hello").await;
    let stream = world.stream().await;
    assert!(!stream.head.expects_continue);
    assert_eq!(stream.body().await.0.unwrap(), "hello");
    let large = format!("Content-Length: {}\r\n", SIGNED_BODY_MAX + 1);
    let large = format!("{}{large}Expect: 100-continue\r\n", github(b"hello"));
    let mut visitor = world.visitor();
    visitor.send(&request("POST", &large, b"")).await;
    let answer = visitor.until("}").await;
    assert_eq!(status(&answer), 413, "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_too_slowly_or_breaks_off_goes_nowhere() {
    let world = world();
    let fields = format!("{}Content-Length: 5\r\n", github(b"hello"));
    let mut visitor = world.visitor();
    visitor.send(&request("POST", &fields, b"hel")).await;
    let answer = visitor.until("}").await;
    assert_eq!(status(&answer), 408, "{answer}");
    let mut visitor = world.visitor();
    visitor.send(&request("POST", &fields, b"hel")).await;
    drop(visitor);
    world.is_empty().await;
    assert_eq!(world.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_as_fast_as_others_may_has_a_minute() {
    let world = world();
    let fields = format!("{}Content-Length: 900000\r\n", github(b"hello"));
    let mut visitor = world.visitor();
    let start = tokio::time::Instant::now();
    visitor.send(&request("POST", &fields, b"")).await;
    let (mut read, mut write) = tokio::io::split(visitor.0);
    let trickle = world.tasks.spawn("test-trickle", async move {
        while write.write_all(&[b'x'; 1000]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut room = vec![0; 4096];
    let count = read.read(&mut room).await.unwrap();
    let answer = String::from_utf8_lossy(&room[..count]).into_owned();
    assert_eq!(status(&answer), 408, "{answer}");
    assert_eq!(start.elapsed().as_secs(), 60);
    assert_eq!(world.opened(), 0);
    drop(read);
    trickle.abort();
}

#[tokio::test(start_paused = true)]
async fn the_same_request_is_delivered_once_unless_the_origin_could_not_take_it() {
    let mut world = world();
    let sent = post(&stripe(b"hello", 10), b"hello");
    let mut visitor = world.visitor();
    for answer in [503, 429, 200] {
        visitor.send(&sent).await;
        assert_eq!(delivered(&mut world, answer).await, "hello");
        assert_eq!(status(&visitor.until("ok").await), answer);
        // The connection lets go of the visit a moment later.
        world.is_empty().await;
    }
    visitor.send(&sent).await;
    let answer = visitor.until("}").await;
    assert_eq!(status(&answer), 401, "{answer}");
    let mut visitor = world.visitor();
    visitor.send(&post(&stripe(b"hello", 9), b"hello")).await;
    assert_eq!(delivered(&mut world, 200).await, "hello");
    // GitHub signs neither a time nor an id: it may well mean it.
    for _ in 0..2 {
        let mut visitor = world.visitor();
        visitor.send(&post(&github(b"again"), b"again")).await;
        assert_eq!(delivered(&mut world, 200).await, "again");
        visitor.until("ok").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_that_is_tried_twice_is_no_replay_of_itself() {
    let mut world = world();
    world.change(|shared| {
        shared.fresh_links = true;
        shared.opens = [OpenError::LinkGone].into();
    });
    let mut visitor = world.visitor();
    visitor.send(&post(&stripe(b"hello", 0), b"hello")).await;
    assert_eq!(delivered(&mut world, 200).await, "hello");
    assert_eq!(status(&visitor.until("ok").await), 200);
    assert_eq!(world.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_shadow_lets_everything_pass_whole() {
    let shadow = r#"{"webhook":[{"kind":"github","secret":"hush"}],"shadow":["webhook"]}"#;
    let large = vec![b'x'; SIGNED_BODY_MAX + 70_000];
    for (fields, body) in [
        (String::new(), &b"hello"[..]),
        (github(b"other"), b"hello"),
        (github(b"hello"), b"hello"),
        (github(&large), &large),
    ] {
        let mut world = asking(shadow);
        let visitor = world.visitor();
        let sent = post(&fields, body);
        let (mut read, mut write) = tokio::io::split(visitor.0);
        let (got, ()) = tokio::join!(delivered(&mut world, 200), async {
            write.write_all(&sent).await.unwrap();
        });
        assert_eq!(got, body);
        let mut room = vec![0; 4096];
        let count = read.read(&mut room).await.unwrap();
        assert!(room[..count].starts_with(b"HTTP/1.1 200"));
    }
    // The same without a length, so that only reading tells how large it is.
    let mut world = asking(shadow);
    let fields = format!("{}Transfer-Encoding: chunked\r\n", github(&large));
    let chunk = [
        format!("{:x}\r\n", large.len()).as_bytes(),
        &large,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    let sent = request("POST", &fields, &chunk);
    let (_read, mut write) = tokio::io::split(world.visitor().0);
    let (got, ()) = tokio::join!(delivered(&mut world, 200), async {
        write.write_all(&sent).await.unwrap();
    });
    assert_eq!(got, large);
}

#[tokio::test(start_paused = true)]
async fn over_http2_it_is_the_same() {
    let mut world = world();
    let mut browser = browser(&world).await;
    let body = |text: &'static str| -> Out { Full::from(text).map_err(|e| match e {}).boxed() };
    let signed = |sent: &'static str, of: &str| {
        Request::post("https://app.t.example/hook")
            .header(
                "x-hub-signature-256",
                format!("sha256={}", mac(of.as_bytes())),
            )
            .body(body(sent))
            .unwrap()
    };
    let (response, got) = tokio::join!(
        browser.send_request(signed("hello", "hello")),
        delivered(&mut world, 200)
    );
    assert_eq!(
        (response.unwrap().status(), got),
        (StatusCode::OK, "hello".into())
    );
    for request in [
        signed("hello", "hellO"),
        Request::post("https://app.t.example/hook")
            .body(body("hello"))
            .unwrap(),
        Request::get("https://app.t.example/hook")
            .body(body(""))
            .unwrap(),
    ] {
        let response = browser.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["wormkey-error"], "bad_signature");
    }
    assert_eq!(world.opened(), 1);
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_larger_bodies_keeps_the_same_bound_of_all() {
    const BODY: usize = 3 << 20;
    let github_only = r#"{"webhook":[{"kind":"github","secret":"hush"}]}"#;
    let policy = Arc::new(Policy::parse(github_only).unwrap());
    let taking = |memory| {
        let world = World::with(|settings| {
            settings.signed_body = BODY;
            settings.signed_memory = memory;
        });
        world.change(|shared| shared.policy = Arc::clone(&policy));
        world
    };
    // One body at least, whatever a user's part is.
    let mut world = taking(BODY);
    let large = vec![b'x'; BODY];
    let sent = post(&github(&large), &large);
    let (_read, mut write) = tokio::io::split(world.visitor().0);
    let (got, ()) = tokio::join!(delivered(&mut world, 200), async {
        write.write_all(&sent).await.unwrap();
    });
    assert_eq!(got.len(), BODY);
    let mut visitor = world.visitor();
    let length = format!("{}Content-Length: {}\r\n", github(b""), BODY + 1);
    visitor.send(&request("POST", &length, b"")).await;
    let answer = visitor.until("}").await;
    assert_eq!(status(&answer), 413, "{answer}");
    // While one waits to be whole, there is no room for another.
    let half = vec![b'x'; BODY / 2 + 1];
    let length = format!("{}Content-Length: {BODY}\r\n", github(&large));
    let mut first = world.visitor();
    first.send(&request("POST", &length, &half)).await;
    let mut second = world.visitor();
    second.send(&request("POST", &length, &half)).await;
    let answer = second.until("}").await;
    assert_eq!(status(&answer), 503, "{answer}");
}
