//! What monitoring asks, over both doors.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::admin::health::ReadyJson;
use crate::admin::scrape::serve_scrapers;
use crate::admin::testing::{Daemon, Fake};
use crate::admin::{ApiError, CallError};
use crate::codes::Code;
use crate::tasks::Tasks;

async fn door() -> (Arc<Fake>, Tasks, SocketAddr) {
    let (fake, tasks) = (Fake::new(), Tasks::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tasks.spawn_critical(
        "scrapers",
        serve_scrapers(listener, Arc::clone(&fake), tasks.clone()),
    );
    (fake, tasks, addr)
}

/// The status and all that came.
async fn ask(addr: SocketAddr, line: &str, fields: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    (status, answer)
}

#[tokio::test]
async fn scrapers_get_three_pages_and_nothing_else() {
    let (_fake, tasks, addr) = door().await;
    let host = format!("Host: {addr}\r\n");
    let (status, text) = ask(addr, "GET /metrics", &host).await;
    assert_eq!(status, 200);
    assert!(
        text.contains("content-type: text/plain; version=0.0.4"),
        "{text}"
    );
    assert!(text.ends_with("wormkey_visits_in_progress 4\n"), "{text}");
    assert_eq!(ask(addr, "GET /healthz", &host).await.0, 200);
    assert_eq!(ask(addr, "HEAD /readyz", &host).await.0, 200);
    for (line, status) in [
        ("GET /v1/status", 404),
        ("GET /v1/tunnels", 404),
        ("POST /v1/drain", 405),
        ("POST /metrics", 405),
        ("DELETE /metrics", 405),
        ("OPTIONS /metrics", 405),
    ] {
        assert_eq!(ask(addr, line, &host).await.0, status, "{line}");
    }
    assert!(tasks.shutdown(std::time::Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_web_page_behind_a_rebound_name_learns_nothing() {
    let (_fake, _tasks, addr) = door().await;
    for (fields, status) in [
        ("Host: evil.example:9464\r\n", 403),
        ("Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: 127.0.0.1\r\nHost: evil.example\r\n", 400),
        ("", 400),
        ("Host: localhost:9464\r\n", 200),
    ] {
        let (got, text) = ask(addr, "GET /metrics", fields).await;
        assert_eq!(got, status, "{fields}{text}");
        assert_eq!(text.contains("wormkey_visits"), status == 200, "{text}");
    }
    let absolute = "GET http://evil.example/metrics";
    assert_eq!(ask(addr, absolute, "Host: 127.0.0.1\r\n").await.0, 403);
}

#[tokio::test]
async fn the_seventeenth_scraper_at_once_is_closed_and_the_next_one_is_served() {
    let (_fake, _tasks, addr) = door().await;
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let asks = format!("GET /healthz HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        stream.write_all(asks.as_bytes()).await.unwrap();
        // Answered: it has its place, and keeps it.
        assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
        held.push(stream);
    }
    let mut more = TcpStream::connect(addr).await.unwrap();
    assert_eq!(more.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    held.pop();
    let host = format!("Host: {addr}\r\n");
    loop {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let asks = format!("GET /healthz HTTP/1.1\r\n{host}\r\n");
        let _ = stream.write_all(asks.as_bytes()).await;
        if stream.read(&mut [0; 512]).await.unwrap_or(0) > 0 {
            return;
        }
    }
}

#[tokio::test]
async fn what_is_not_well_is_named_with_its_reason_and_503() {
    let daemon = Daemon::server();
    let ready: ReadyJson = daemon.api().get("/readyz").await.unwrap();
    assert!(ready.ready && ready.parts.len() == 2);
    daemon.fake.state().refuse = Some(ApiError::new(Code::DiskFull, "no space left"));
    let (fake, _tasks, addr) = door().await;
    fake.state().refuse = Some(ApiError::new(Code::DiskFull, "no space left"));
    let (status, text) = ask(addr, "GET /readyz", "Host: localhost\r\n").await;
    assert_eq!(status, 503);
    let body = text.split("\r\n\r\n").nth(1).unwrap();
    let ready: ReadyJson = serde_json::from_str(body).unwrap();
    assert!(!ready.ready);
    assert_eq!(ready.parts[1].name, "store");
    assert_eq!(ready.parts[1].reason.as_deref(), Some("no space left"));
    let health = daemon.api().get::<serde_json::Value>("/healthz").await;
    let Err(CallError::Api(err)) = health else {
        panic!("{health:?}");
    };
    assert_eq!(err.code, Code::Overloaded);
}
