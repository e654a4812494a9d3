//! Slow visitors in real time: told so or cut, and all of them at once, because it takes half a minute.

use tokio::net::TcpStream;

use super::frames::{END_STREAM, HEADERS, Outcome, PREFACE, Raw2, block, frame, headers, settings};
use super::*;
use crate::origin::Origin;

/// How long until the other end has closed, and what it said.
async fn closed<I: tokio::io::AsyncRead + Unpin>(mut io: I, began: Instant) -> (Duration, String) {
    let mut all = Vec::new();
    let read = io.read_to_end(&mut all);
    let _ = tokio::time::timeout(Duration::from_secs(50), read).await;
    (began.elapsed(), String::from_utf8_lossy(&all).into_owned())
}

fn check(what: &str, took: Duration, from: u64, to: u64) {
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let within = (from as f64 - 0.5..=to as f64).contains(&seconds);
    assert!(within, "{what} took {seconds:.1} s and not {from} to {to}");
}

#[tokio::test]
async fn slow_visitors_are_cut_and_quick_ones_are_served_meanwhile() {
    let mut boundary = Boundary::new().await;
    let origin = Origin::named("large").await;
    open(&boundary.client, &[&origin.target(), "--name", "large"]).await;
    let large = boundary.world.visitor("large");
    let (visitor, addr) = (boundary.visitor(), boundary.world.addr);
    let began = Instant::now();

    let silent = async {
        let tcp = TcpStream::connect(addr).await.unwrap();
        check("a silent handshake", closed(tcp, began).await.0, 10, 16);
    };
    let half_handshake = async {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        tcp.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        check("half a handshake", closed(tcp, began).await.0, 10, 16);
    };
    let no_head = async {
        let tls = visitor.connect("http/1.1").await.unwrap();
        check("no head", closed(tls, began).await.0, 10, 16);
    };
    let half_head = async {
        let mut tls = visitor.connect("http/1.1").await.unwrap();
        tls.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        let (took, said) = closed(tls, began).await;
        assert_eq!(status(&said), Some(408), "{said}");
        check("half a head", took, 10, 16);
    };
    let slow_body = async {
        // The canary would answer at the head; this origin waits for the body.
        let tls = large.connect("http/1.1").await.unwrap();
        let (from, mut to) = tokio::io::split(tls);
        let head =
            format!("POST /echo HTTP/1.1\r\nHost: large.{DOMAIN}\r\nContent-Length: 90000\r\n\r\n");
        to.write_all(head.as_bytes()).await.unwrap();
        let trickle = tokio::spawn(async move {
            while to.write_all(b"slow").await.is_ok() && to.flush().await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let (took, said) = closed(from, began).await;
        trickle.abort();
        assert_eq!(status(&said), Some(408), "{said}");
        check("a slow body", took, 20, 30);
    };
    let slow_reader = async {
        let mut tls = large.connect("http/1.1").await.unwrap();
        let head = format!("GET /bytes/50000000 HTTP/1.1\r\nHost: large.{DOMAIN}\r\n\r\n");
        tls.write_all(head.as_bytes()).await.unwrap();
        let asked = Instant::now();
        // A reader that takes nothing learns of the end when it looks again.
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut all = Vec::new();
        let read = tls.read_to_end(&mut all).await;
        assert!(
            read.is_err() || all.len() < 50_000_000,
            "{} bytes",
            all.len()
        );
        check("a reader that stands still", asked.elapsed(), 20, 40);
    };
    let no_preface = async {
        let tls = visitor.connect("h2").await.unwrap();
        check(
            "HTTP/2 without a preface",
            closed(tls, began).await.0,
            10,
            16,
        );
    };
    let half_block = async {
        let mut tls = visitor.connect("h2").await.unwrap();
        let mut bytes = PREFACE.to_vec();
        bytes.extend(settings(&[]));
        bytes.extend(frame(HEADERS, END_STREAM, 1, &block(&[(":method", "GET")])));
        tls.write_all(&bytes).await.unwrap();
        check("half a header block", closed(tls, began).await.0, 10, 16);
    };
    let host = format!("large.{DOMAIN}");
    let no_window = async {
        let mut connection = Raw2::with(&large, &[(4, 0)]).await;
        let ask = block(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/bytes/500000"),
            (":authority", &host),
        ]);
        connection.send(&headers(1, END_STREAM, &ask)).await;
        assert_eq!(connection.outcome(1).await, Outcome::Status(200));
        while connection.next().await.is_some() {}
        check("an HTTP/2 window that stays shut", began.elapsed(), 20, 30);
    };
    let slow_body_2 = async {
        let mut connection = Raw2::new(&large).await;
        let ask = block(&[
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/echo"),
            (":authority", &host),
        ]);
        connection.send(&headers(1, 0, &ask)).await;
        connection.send(&frame(frames::DATA, 0, 1, b"slow")).await;
        assert_eq!(connection.outcome(1).await, Outcome::Status(408));
        check("a slow HTTP/2 body", began.elapsed(), 20, 30);
    };
    let others = async {
        for _ in 0..20 {
            boundary.control().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::join!(
        silent,
        half_handshake,
        no_head,
        half_head,
        slow_body,
        slow_reader,
        no_preface,
        half_block,
        no_window,
        slow_body_2,
        others
    );
    boundary.control().await;
    assert!(boundary.client.stop().await.success());
}
