//! Upgrades: what comes before a matching 101 is HTTP, what comes after is bytes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::raw::receive;
use super::*;
use crate::origin::response::accept_of;

fn websocket(version: u8) -> HttpHead {
    let mut head = get("/socket");
    head.protocol = Some("websocket".into());
    head.version = version;
    if version < 20 {
        head = with(head, "sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        head = with(head, "sec-websocket-version", "13");
    }
    head
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// Switches as a WebSocket server does, says hello, then echoes until the visitor's end, and says bye.
async fn echo_server() -> Server {
    Server::new(|mut stream, _| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert_eq!(field(&head, "upgrade"), Some("websocket"), "{head}");
        assert_eq!(field(&head, "connection"), Some("upgrade"), "{head}");
        assert_eq!(field(&head, "sec-websocket-version"), Some("13"), "{head}");
        let accept = accept_of(field(&head, "sec-websocket-key").unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        while stream.read_buf(&mut got).await.unwrap() > 0 {
            stream.write_all(&std::mem::take(&mut got)).await.unwrap();
        }
        stream.write_all(b"bye").await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_websocket_passes_for_visitors_of_either_version() {
    let origin = echo_server().await;
    let world = World::new();
    for version in [11, 20] {
        let mut visit = world.visit(&tunnel(&origin), websocket(version));
        let head = visit.head().await.unwrap();
        assert_eq!(head.status, 101);
        assert_eq!(head.fields["sec-websocket-protocol"], "chat");
        // The key was ours for the visitor who had none, and so is its answer.
        let accept = head
            .fields
            .get("sec-websocket-accept")
            .map(|v| v.to_str().unwrap());
        assert_eq!(
            accept,
            (version == 11).then_some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        let mut text = Vec::new();
        for chunk in std::mem::take(&mut visit.decoder).into_rest() {
            text.extend_from_slice(&chunk);
        }
        send_all(&mut visit.up, &mut [Bytes::from_static(b" echo ")])
            .await
            .unwrap();
        visit.up.finish();
        loop {
            let piece = receive(&mut visit.down).await.unwrap();
            if piece.is_empty() {
                break;
            }
            text.extend_from_slice(&piece);
        }
        assert_eq!(text, b"hello echo bye");
        let report = visit.report().await;
        assert_eq!(
            (report.status, report.bytes_in, report.bytes_out),
            (Some(101), 6, 14)
        );
        assert_eq!(report.error, None);
    }
    assert_eq!(world.origins.pool.idle(), 0);
}

#[tokio::test]
async fn a_wrong_101_switches_nothing() {
    for wrong in [
        "HTTP/1.1 101 X\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 X\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let origin = Server::repeating(wrong).await;
        let visit = World::new().visit(&tunnel(&origin), websocket(20));
        assert_eq!(visit.refusal().await, StreamCode::OriginError, "{wrong}");
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let origin = Server::repeating("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone").await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    for _ in 0..2 {
        let got = world.visit(&tunnel, websocket(11)).whole().await.unwrap();
        assert_eq!((got.status(), got.text()), (404, "none"));
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn h2c_is_no_upgrade_here() {
    let origin = Server::mirror().await;
    let mut head = with(get("/"), "http2-settings", "AAMAAABk");
    head.protocol = Some("h2c".into());
    let mut visit = World::new().visit(&tunnel(&origin), head);
    visit.finish();
    let got = visit.whole().await.unwrap();
    assert!(
        !got.text().to_ascii_lowercase().contains("upgrade"),
        "{}",
        got.text()
    );
    assert!(
        !got.text().to_ascii_lowercase().contains("http2-settings"),
        "{}",
        got.text()
    );
}

#[tokio::test]
async fn other_protocols_and_several_offers_pass() {
    let origin =
        Server::repeating("HTTP/1.1 101 X\r\nUpgrade: b/2\r\nConnection: upgrade\r\n\r\n").await;
    let mut head = get("/");
    head.protocol = Some("a/1, b/2".into());
    let mut visit = World::new().visit(&tunnel(&origin), head);
    let head = visit.head().await.unwrap();
    assert_eq!(
        (head.status.as_u16(), &head.fields["upgrade"]),
        (101, &"b/2".parse().unwrap())
    );
    assert_eq!(visit.abandon().await.error, Some(StreamCode::Cancelled));
}

#[tokio::test]
async fn an_upgrade_under_auto_is_asked_again_with_the_origins_own_host() {
    let origin = Server::new(|mut stream, _| async move {
        let head = read_head(&mut stream).await.unwrap();
        if field(&head, "host") == Some(PUBLIC) {
            stream.write_all(b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            read_head(&mut stream).await;
            return;
        }
        assert!(field(&head, "origin").unwrap().starts_with("http://127.0.0.1:"), "{head}");
        let accept = accept_of(field(&head, "sec-websocket-key").unwrap().as_bytes());
        let answer = format!("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let tunnel = tunnel_to(&origin.target(), HostMode::Auto);
    let head = with(websocket(11), "origin", &format!("https://{PUBLIC}"));
    let mut visit = World::new().visit(&tunnel, head);
    assert_eq!(visit.head().await.unwrap().status, 101);
    assert_eq!(tunnel.host_in_use(), "rewrite");
}
