//! What a stranger puts into a request, or an origin into an answer, is one harmless log line.

use super::frames::{END_STREAM, Raw2, block, headers};
use super::*;

const LEVEL: &str = "[log]\nlevel = \"debug\"\nformat = \"text\"\n";

/// A line of ours begins with its time; anything else was let in by a value.
fn strangers(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| {
            !line.starts_with("20") || line.chars().any(|c| c.is_control()) || line.len() > 8192
        })
        .collect()
}

#[tokio::test]
async fn every_line_is_ours_whatever_strangers_send() {
    let boundary = Boundary::with(LEVEL).await;
    let host = host();
    let long = "l".repeat(7000);
    for (target, agent) in [
        ("/%0a%0dfake", "a"),
        ("/\u{1b}[31m", "a"),
        ("/ok", "\u{1b}[2J"),
        ("/a\u{202e}b", "a"),
        ("/\u{85}x", "a"),
        (&format!("/{long}"), "a"),
        ("/ok", &long),
    ] {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
        );
        raw(&boundary.visitor(), head.as_bytes()).await;
    }
    for line in ["X: a\nlevel=error fake", "Host: a\rb", "\u{1b}[31mX: y"] {
        let head = format!("GET /secret?token=hidden HTTP/1.1\r\nHost: {host}\r\n{line}\r\n\r\n");
        raw(&boundary.visitor(), head.as_bytes()).await;
    }
    for (name, value) in [
        (":path", "/a\r\nb"),
        ("x\r\ny", "z"),
        (":authority", "a\nb"),
        (":path", "/\u{1b}[31m"),
    ] {
        let mut fields = vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", &host[..]),
        ];
        fields.retain(|f| f.0 != name);
        fields.push((name, value));
        let mut connection = Raw2::new(&boundary.visitor()).await;
        connection
            .send(&headers(1, END_STREAM, &block(&fields)))
            .await;
        connection.outcome(1).await;
    }
    boundary.control().await;
    let server = boundary.world.server.log();
    assert!(
        server.contains("visit refused"),
        "the log was not even on:\n{server}"
    );
    for log in [&server, &boundary.client.log()] {
        let found = strangers(log);
        assert!(found.is_empty(), "{found:#?}");
        assert!(!log.contains("hidden"), "a query was logged");
    }
}

#[tokio::test]
async fn what_strangers_cause_at_will_is_not_logged_at_the_usual_level() {
    let boundary = Boundary::new().await;
    let before = boundary.world.server.log().lines().count();
    for _ in 0..50 {
        raw(&boundary.visitor(), b"nonsense\n\n").await;
        let mut tcp = tokio::net::TcpStream::connect(boundary.world.addr)
            .await
            .unwrap();
        tcp.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let mut end = Vec::new();
        let _ = tcp.read_to_end(&mut end).await;
    }
    boundary.control().await;
    let log = boundary.world.server.log();
    let fresh: Vec<&str> = log.lines().skip(before).collect();
    assert!(fresh.is_empty(), "{fresh:#?}");
}
