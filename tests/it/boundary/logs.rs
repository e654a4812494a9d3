//! What a stranger puts into a request, or an origin into an answer, is one harmless log line.

use tokio::net::TcpListener;

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

/// Answers the next visits with these bytes, one each, and then hangs up.
async fn hostile(answers: Vec<Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0u8; 4096];
            // Whoever only looks whether somebody is there asks nothing.
            if matches!(stream.read(&mut head).await, Ok(count) if count > 0)
                && let Some(answer) = answers.next()
            {
                let _ = stream.write_all(&answer).await;
            }
        }
    });
    port
}

/// What an origin may say that a terminal, or a reader of logs line by line, would take for something else.
fn poison() -> Vec<Vec<u8>> {
    let long = "l".repeat(10 << 10);
    let body = "Content-Length: 0\r\n\r\n";
    let mut answers = Vec::new();
    for bad in [
        "\u{1b}[31mred",
        "\u{1b}]0;title\u{7}",
        "a\rlevel=error fake",
        "a\nlevel=error fake",
        "a\r\n\u{1b}[2Jlevel=error fake",
        "a\0b",
        "a\u{85}b\u{2028}c\u{202e}d",
        &long,
    ] {
        for answer in [
            format!("HTTP/1.1 200 {bad}\r\n{body}"),
            format!("HTTP/1.1 502 {bad}\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\nX-Bad: {bad}\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\n{bad}: x\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {bad}\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: {bad}\r\n\r\n"),
            format!("HTTP/1.1 101 {bad}\r\nConnection: upgrade\r\nUpgrade: {bad}\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{bad}\r\n"),
            format!("{bad}\r\n\r\n"),
        ] {
            answers.push(answer.into_bytes());
        }
    }
    answers.push(
        b"HTTP/1.1 200 \xff\xfe\x9b31m\r\nX: \xff\x9b2J\r\nContent-Length: 0\r\n\r\n".to_vec(),
    );
    answers
}

#[tokio::test]
async fn every_line_is_ours_whatever_an_origin_answers() {
    let mut boundary = Boundary::with(LEVEL).await;
    let talkative = boundary.world.client_with(LEVEL).await;
    boundary.world.join(&talkative).await;
    let answers = poison();
    let count = answers.len();
    // The look that `open` takes is not to be answered with the first of them.
    let port = hostile(answers).await;
    let target = format!("http://127.0.0.1:{port}");
    let yes = ["--name", "evil", "--host", "keep", "--yes-expose"];
    open(&talkative, &[&[&target[..]], &yes[..]].concat()).await;
    let visitor = boundary.world.visitor("evil");
    let mut refused = 0;
    for _ in 0..count + 1 {
        if let Ok(answer) = visitor.try_get("/evil").await {
            refused += usize::from(answer.status == 502 && !answer.error().is_empty());
            for (name, value) in &answer.fields {
                let text = value.to_str().unwrap_or_default();
                assert!(
                    !name.as_str().starts_with("wormkey") || text.len() < 100,
                    "{name}: {text}"
                );
            }
        }
    }
    assert!(
        refused > count / 3,
        "only {refused} of {count} were no answers"
    );
    boundary.control().await;
    let (server, client) = (boundary.world.server.log(), talkative.log());
    assert!(
        client.contains("DEBUG"),
        "the log was not even on:\n{client}"
    );
    for log in [&server, &client] {
        let found = strangers(log);
        assert!(found.is_empty(), "{found:#?}");
        assert!(
            !log.lines().any(|line| line.starts_with("level=error")),
            "{log}"
        );
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
