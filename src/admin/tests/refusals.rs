use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::admin::testing::Daemon;

/// Sends bytes, reads to the end; the status, the head and the body.
async fn raw(daemon: &Daemon, request: &str) -> (u16, String, Value) {
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read(&mut stream).await
}

async fn read(stream: &mut UnixStream) -> (u16, String, Value) {
    let mut answer = Vec::new();
    // What was not read of a request resets the connection after the answer.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status, head.to_ascii_lowercase(), body)
}

const CLOSE: &str = "Connection: close\r\n";

#[tokio::test]
async fn what_is_refused_is_refused_as_problem_json() {
    let daemon = Daemon::client();
    let big = "x".repeat(1 << 20);
    let post = |body: &str| {
        format!(
            "POST /v1/tunnels HTTP/1.1\r\nHost: localhost\r\n{CLOSE}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\n{fields}{CLOSE}\r\n");
    let local = "Host: localhost\r\n";
    for (request, status, code) in [
        (
            get(
                "/v1/status",
                "Host: localhost\r\nOrigin: https://evil.example\r\n",
            ),
            403,
            "forbidden",
        ),
        (
            get("/v1/status", "Host: localhost\r\nOrigin: null\r\n"),
            403,
            "forbidden",
        ),
        (
            get("/v1/status", "Host: evil.example\r\n"),
            403,
            "forbidden",
        ),
        (
            get("/v1/status", "Host: localhost:80\r\n"),
            403,
            "forbidden",
        ),
        (
            get("/v1/status", "Host: localhost.evil.example\r\n"),
            403,
            "forbidden",
        ),
        (
            get("http://evil.example/v1/status", local),
            403,
            "forbidden",
        ),
        (get("/v1/status", ""), 400, "bad_request"),
        (
            get("/v1/status", "Host: localhost\r\nHost: localhost\r\n"),
            400,
            "bad_request",
        ),
        (get("/v2/status", local), 404, "not_found"),
        (get("/", local), 404, "not_found"),
        (get("/v1/tunnels/nobody", local), 404, "no_such_tunnel"),
        (get("/v1/tunnels?limit=0", local), 400, "usage"),
        (get("/v1/tunnels?limit=x", local), 400, "usage"),
        (get("/v1/tunnels?all=maybe", local), 400, "usage"),
        (get("/v1/tunnels?cursor=app", local), 400, "usage"),
        (get("/v1/tunnels?colour=red", local), 400, "usage"),
        (get("/v1/tunnels/%ff", local), 400, "usage"),
        (
            get("/v1/events", "Host: localhost\r\nLast-Event-ID: x\r\n"),
            400,
            "usage",
        ),
        (get("/v1/invites", local), 404, "not_found"),
        (
            format!("PUT /v1/status HTTP/1.1\r\n{local}{CLOSE}\r\n"),
            405,
            "method_not_allowed",
        ),
        (
            format!("GET /v1/join HTTP/1.1\r\n{local}{CLOSE}\r\n"),
            405,
            "method_not_allowed",
        ),
        (post("{"), 400, "usage"),
        (post("[]"), 400, "usage"),
        (post("{}"), 400, "usage"),
        (
            post("{\"target\":\"3000\",\"rate\":\"50/s\"}"),
            400,
            "usage",
        ),
        (post(&format!("{{\"target\":\"{big}\"}}")), 413, "too_large"),
    ] {
        let (got, head, body) = raw(&daemon, &request).await;
        let shown = &request[..request.len().min(120)];
        assert_eq!(got, status, "{shown}");
        assert!(
            head.contains("content-type: application/problem+json"),
            "{shown}\n{head}"
        );
        assert_eq!(body["code"], code, "{shown}");
        assert_eq!(body["status"], status, "{shown}");
        assert_eq!(body["type"], format!("urn:wormkey:error:{code}"), "{shown}");
        assert!(
            body["detail"].is_string() && body["title"].is_string(),
            "{shown}"
        );
        assert_eq!(head.contains("\r\nallow: "), status == 405, "{shown}");
    }
    assert!(daemon.fake.state().opened.is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn a_body_of_the_limit_is_read_and_one_byte_more_is_not() {
    let daemon = Daemon::client();
    let limit = super::super::ask::BODY_MAX;
    let frame = r#"{"target":"3000","name":""}"#.len();
    for (length, status) in [(limit - 1, 201), (limit, 201), (limit + 1, 413)] {
        daemon.fake.state().tunnels.clear();
        let name = "x".repeat(length - frame);
        let request = format!(
            "POST /v1/tunnels HTTP/1.1\r\nHost: localhost\r\n{CLOSE}Content-Length: {length}\r\n\r\n\
             {{\"target\":\"3000\",\"name\":\"{name}\"}}"
        );
        assert_eq!(raw(&daemon, &request).await.0, status, "{length}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_without_being_kept() {
    let daemon = Daemon::client();
    for framing in ["Content-Length: 104857600", "Transfer-Encoding: chunked"] {
        let stream = UnixStream::connect(daemon.socket()).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let head = format!("POST /v1/tunnels HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n");
        let sent = daemon.tasks.spawn("sender", async move {
            writer.write_all(head.as_bytes()).await.unwrap();
            let mut piece = vec![b' '; 64 * 1024];
            if head.contains("chunked") {
                piece = [b"10000\r\n", &piece[..], b"\r\n"].concat();
            }
            let mut sent = 0_usize;
            while sent < 100 << 20 && writer.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            sent
        });
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{framing}: {answer}");
        assert!(sent.await.unwrap() < 8 << 20, "{framing}: it was cut early");
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn slow_heads_and_bodies_are_cut() {
    let daemon = Daemon::client();
    let start = tokio::time::Instant::now();
    let (status, ..) = raw(&daemon, "GET /v1/status HT").await;
    assert_eq!(status, 0, "no answer to half a head");
    assert_eq!(start.elapsed().as_secs(), 10);
    let start = tokio::time::Instant::now();
    let half = "POST /v1/tunnels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
    let (status, _, body) = raw(&daemon, half).await;
    assert_eq!(
        (status, &body["code"]),
        (408, &Value::from("request_timeout"))
    );
    assert!(start.elapsed() < Duration::from_secs(21));
    daemon.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_http_end_the_connection_only() {
    let daemon = Daemon::client();
    for junk in [
        "\0\x01\x02\r\n\r\n",
        "hello\r\n\r\n",
        "\x16\x03\x01\x02\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        stream.write_all(junk.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let (status, ..) = read(&mut stream).await;
        assert!(matches!(status, 0 | 400), "{junk:?}: {status}");
    }
    let _: Value = daemon.api().get("/v1/status").await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn callers_beyond_the_limit_wait_for_a_place() {
    let daemon = Daemon::client();
    let mut crowd = Vec::new();
    for _ in 0..super::super::serve::CONNECTIONS {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        stream
            .write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut some = [0; 64];
        assert!(stream.read(&mut some).await.unwrap() > 0);
        crowd.push(stream);
    }
    let api = daemon.api();
    let mut waiting = std::pin::pin!(api.get::<Value>("/v1/status"));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "there was no place");
    crowd.pop();
    waiting.await.unwrap();
    drop(crowd);
    daemon.stop().await;
}
