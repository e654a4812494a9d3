//! The documented sizes and times hold over HTTP/3 as they do over the other versions: at N − 1, N and N + 1.

use super::*;
use crate::http::limits::{FIELDS_MAX, HEAD_MAX, HEAD_TIMEOUT, METHOD_MAX, TARGET_MAX};

const REQUEST_INCOMPLETE: u32 = 0x10d;

/// A number with a prefix of so many bits (RFC 7541 section 5.1), under these flags.
fn number(out: &mut Vec<u8>, flags: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(flags | u8::try_from(value).unwrap());
        return;
    }
    out.push(flags | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// HEADERS of lines of any size.
fn head(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in lines {
        number(&mut block, 0x20, 3, name.len());
        block.extend_from_slice(name.as_bytes());
        number(&mut block, 0, 7, value.len());
        block.extend_from_slice(value.as_bytes());
    }
    let length = u32::try_from(block.len()).unwrap() | 0x8000_0000;
    [&[1][..], &length.to_be_bytes(), &block].concat()
}

/// A request by its method, its target and its fields beside the host.
fn ask(method: &str, target: &str, fields: &[(String, String)]) -> Vec<u8> {
    let mut lines = vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", "app.t.example"),
        (":path", target),
    ];
    lines.extend(fields.iter().map(|(name, value)| (&name[..], &value[..])));
    head(&lines)
}

impl Visiting {
    /// What the answer is: the origin's, or the status of ours.
    async fn verdict(&mut self, bytes: &[u8]) -> u16 {
        let (mut send, mut recv) = self.send(bytes).await;
        send.finish().unwrap();
        let answered = tokio::select! {
            biased;
            stream = self.world.streams.recv() => {
                stream.unwrap().answer(200, &[], "fine").await;
                recv.read_to_end(64 * 1024).await
            }
            answered = recv.read_to_end(64 * 1024) => answered,
        };
        let answer = answered.unwrap();
        if has(&answer, OK) {
            return 200;
        }
        assert!(has(&answer, b"wormkey-error"), "{answer:?}");
        let known = [414u16, 431, 501];
        let found = known
            .iter()
            .find(|s| has(&answer[..32], s.to_string().as_bytes()));
        *found.unwrap_or_else(|| panic!("{answer:?}"))
    }
}

#[tokio::test]
async fn sizes_are_the_same_over_http3() {
    let mut visiting = visiting().await;
    let target = |size: usize| ask("GET", &format!("/{}", "t".repeat(size - 1)), &[]);
    let method = |size: usize| ask(&"M".repeat(size), "/x", &[]);
    // The authority is one of them, as Host is.
    let fields = |count: usize| {
        let field = |n: usize| (format!("x-{n:03}"), "v".to_owned());
        ask("GET", "/x", &(1..count).map(field).collect::<Vec<_>>())
    };
    // As many bytes as the same head has in HTTP/1.1.
    let rest = "GET /x HTTP/1.1\r\nHost: app.t.example\r\nx-long: \r\n\r\n".len();
    let whole = |size: usize| {
        ask(
            "GET",
            "/x",
            &[("x-long".to_owned(), "v".repeat(size - rest))],
        )
    };
    for (what, bytes, expected) in [
        ("method - 1", method(METHOD_MAX - 1), 200),
        ("method", method(METHOD_MAX), 200),
        ("method + 1", method(METHOD_MAX + 1), 501),
        ("target - 1", target(TARGET_MAX - 1), 200),
        ("target", target(TARGET_MAX), 200),
        ("target + 1", target(TARGET_MAX + 1), 414),
        ("fields - 1", fields(FIELDS_MAX - 1), 200),
        ("fields", fields(FIELDS_MAX), 200),
        ("fields + 1", fields(FIELDS_MAX + 1), 431),
        ("head - 1", whole(HEAD_MAX - 1), 200),
        ("head", whole(HEAD_MAX), 200),
        ("head + 1", whole(HEAD_MAX + 1), 431),
    ] {
        assert_eq!(visiting.verdict(&bytes).await, expected, "{what}");
    }
    visiting.world.is_empty().await;
}

/// Time stands still from here on, and jumps when nothing else can happen.
fn paused_now() -> tokio::time::Instant {
    tokio::time::pause();
    tokio::time::Instant::now()
}

#[tokio::test]
async fn a_slow_head_costs_its_stream_after_ten_seconds_over_http3() {
    let visiting = visiting().await;
    let bytes = request("GET", &[]);
    // In the midst of the frame's own head, of the block, and without its last byte.
    for kept in [0, 2, 9, bytes.len() - 1] {
        let (mut send, mut recv) = visiting.send(&bytes[..kept]).await;
        let began = paused_now();
        let trickle = async {
            // A stream that nothing came on is not there for the server.
            if kept == 0 {
                send.write_all(&bytes[..1]).await.unwrap();
            }
            recv.read_to_end(4096).await
        };
        let ended = trickle.await.unwrap_err();
        let took = began.elapsed();
        tokio::time::resume();
        let reset = quinn::ReadError::Reset(VarInt::from_u32(REQUEST_INCOMPLETE));
        assert_eq!(ended, quinn::ReadToEndError::Read(reset), "{kept}");
        let second = Duration::from_secs(1);
        assert!(
            (HEAD_TIMEOUT..HEAD_TIMEOUT + second).contains(&took),
            "{kept}: {took:?}"
        );
    }
    assert!(
        visiting.visitor.close_reason().is_none(),
        "the others go on"
    );
    assert!(visiting.world.shared.lock().unwrap().admitted.is_empty());
}

/// Sends a body of 9,000 bytes, so many a second; the answer, and whether the client got all of it.
async fn trickled(piece: usize) -> (Vec<u8>, bool) {
    let mut visiting = visiting().await;
    let bytes = request("POST", &[("content-length", "9000")]);
    let (mut send, mut recv) = visiting.send(&bytes).await;
    let stream = visiting.world.stream().await;
    tokio::time::pause();
    let trickle = async {
        for _ in 0..9000 / piece {
            if send.write_all(&frame(0, &vec![b'x'; piece])).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let _ = send.finish();
    };
    let client = async {
        let (body, mut response) = stream.body().await;
        let whole = body.is_ok_and(|body| body.len() == 9000);
        if whole {
            send_head(&mut response, 200, &[]).await;
            let _ = send_body(&mut response, Full::new(Bytes::from("fine"))).await;
        }
        whole
    };
    let answer = async { recv.read_to_end(64 * 1024).await.unwrap() };
    let (answer, whole, ()) = tokio::join!(answer, client, trickle);
    tokio::time::resume();
    visiting.world.is_empty().await;
    (answer, whole)
}

#[tokio::test]
async fn a_slow_body_is_a_408_and_no_whole_body_for_the_origin_over_http3() {
    let (answer, whole) = trickled(200).await;
    assert!(has(&answer, b"request_timeout") && !whole, "{answer:?}");
    let (answer, whole) = trickled(250).await;
    assert!(has(&answer, OK) && whole, "{answer:?}");
}
