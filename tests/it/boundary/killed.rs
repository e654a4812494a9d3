//! A client that is killed among visits: nobody takes what came so far for the whole, and its tunnels come
//! back as themselves.

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::frames::{DATA, END_STREAM, HEADERS, RST_STREAM, Raw2, block, frame, headers};
use super::*;
use crate::world::ctl;

/// What an answer announces of which only [`PART`] comes.
const SIZE: usize = 1_000_000;
const NAME: &str = "cut";
const PART: &str = "the first part of it";

/// Begins an answer to every path and never ends it; `/upload` is not even begun.
async fn origin() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(begin(stream));
        }
    });
    port
}

async fn begin(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(count) if count > 0 => {}
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let said = match path {
        "/sized" => format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n{PART}"),
        "/chunked" => {
            let size = PART.len();
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{PART}\r\n")
        }
        "/closed" => format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{PART}"),
        "/socket" => format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n{PART}"
        ),
        "/upload" => String::new(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_owned(),
    };
    if stream.write_all(said.as_bytes()).await.is_ok() {
        let mut more = [0u8; 4096];
        while let Ok(count) = stream.read(&mut more).await
            && count > 0
        {}
    }
}

/// A visit over HTTP/1.1 whose answer has begun, where one does.
struct One {
    path: &'static str,
    version: &'static str,
    tls: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl One {
    async fn begun(visitor: &Visitor, path: &'static str, version: &'static str) -> Self {
        let more = match path {
            "/upload" => format!("Content-Length: {SIZE}\r\n"),
            "/socket" => {
                "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                    .to_owned()
            }
            _ => String::new(),
        };
        let method = if path == "/upload" { "POST" } else { "GET" };
        let body = if path == "/upload" { PART } else { "" };
        let host = format!("{NAME}.{DOMAIN}");
        let ask = format!("{method} {path} HTTP/{version}\r\nHost: {host}\r\n{more}\r\n{body}");
        let mut tls = visitor.connect("http/1.1").await.unwrap();
        tls.write_all(ask.as_bytes()).await.unwrap();
        tls.flush().await.unwrap();
        let mut this = Self {
            path,
            version,
            tls,
            read: Vec::new(),
        };
        while path != "/upload" && !this.text().contains(PART) {
            let count = this.tls.read_buf(&mut this.read).await.unwrap();
            assert!(count > 0, "{path}: ended with {:?}", this.text());
        }
        this
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Reads to the end, and checks that it cannot be taken for a whole answer.
    async fn breaks_off(mut self) {
        let ended = self.tls.read_to_end(&mut self.read).await;
        let (text, version) = (self.text(), self.version);
        let what = format!("{} over HTTP/{version}: {text:?}, {ended:?}", self.path);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let head = head.to_ascii_lowercase();
        match self.path {
            "/upload" => assert!(text.is_empty() || status(&text) == Some(502), "{what}"),
            // The end of the connection is all that a socket has.
            "/socket" => assert_eq!(body, PART, "{what}"),
            _ if head.contains("content-length:") => {
                assert!(head.contains(&SIZE.to_string()), "{what}");
                assert_eq!(body, PART, "{what}");
            }
            _ if head.contains("transfer-encoding: chunked") => {
                assert!(!body.contains("\r\n0\r\n") && body.contains(PART), "{what}");
            }
            // The end of the connection would be that of the body, so it must be no good one.
            _ => assert!(ended.is_err(), "{what}"),
        }
    }
}

const PATHS_2: [&str; 4] = ["/sized", "/chunked", "/closed", "/upload"];

/// All of them on one connection, each on its stream and begun.
async fn two(visitor: &Visitor) -> Raw2 {
    let mut connection = Raw2::new(visitor).await;
    let host = format!("{NAME}.{DOMAIN}");
    for (path, stream) in PATHS_2.iter().zip((1..).step_by(2)) {
        let method = match *path {
            "/upload" => "POST",
            _ => "GET",
        };
        let fields = [
            (":method", method),
            (":scheme", "https"),
            (":path", path),
            (":authority", &host[..]),
        ];
        let flags = if method == "GET" { END_STREAM } else { 0 };
        let head = headers(stream, flags, &block(&fields));
        assert!(connection.send(&head).await);
        if method == "POST" {
            let body = frame(DATA, 0, stream, PART.as_bytes());
            assert!(connection.send(&body).await);
        }
    }
    let mut begun = 0;
    while begun < PATHS_2.len() - 1 {
        let (kind, flags, stream, payload) = connection.next().await.expect("it goes on");
        assert!(kind != RST_STREAM, "stream {stream}: {payload:?}");
        if kind == DATA && !payload.is_empty() {
            assert_eq!(payload, PART.as_bytes());
            assert_eq!(flags & END_STREAM, 0, "stream {stream} ended");
            begun += 1;
        }
    }
    connection
}

/// Every stream is reset; the one without an answer may get a 502 instead.
async fn streams_break_off(mut connection: Raw2) {
    let upload =
        2 * u32::try_from(PATHS_2.iter().position(|p| *p == "/upload").unwrap()).unwrap() + 1;
    let mut left: Vec<u32> = (1..).step_by(2).take(PATHS_2.len()).collect();
    while !left.is_empty() {
        // The end of the connection would end them all, and none of them well.
        let Some((kind, flags, stream, _)) = connection.next().await else {
            return;
        };
        let ended = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        assert!(
            !ended || stream == upload,
            "stream {stream} came to a whole end"
        );
        if kind == RST_STREAM || ended || (kind == HEADERS && stream == upload) {
            left.retain(|one| *one != stream);
        }
    }
}

#[tokio::test]
async fn nothing_looks_whole_that_a_killed_client_began() {
    let mut boundary = Boundary::new().await;
    let target = format!("http://127.0.0.1:{}", origin().await);
    open(
        &boundary.client,
        &[&target, "--name", NAME, "--host", "keep"],
    )
    .await;
    let before = ctl(boundary.client.socket(), &["--json", "show", NAME])
        .await
        .ok()
        .json();
    let visitor = boundary.world.visitor(NAME);
    let mut ones = Vec::new();
    for path in PATHS_2.into_iter().chain(["/socket"]) {
        ones.push(One::begun(&visitor, path, "1.1").await);
    }
    // Whoever speaks 1.0 knows no chunks.
    for path in ["/sized", "/chunked", "/closed"] {
        ones.push(One::begun(&visitor, path, "1.0").await);
    }
    let connection = two(&visitor).await;
    boundary.client.crash().await;
    // A new link of the same device ends the old one at once.
    boundary.client.start().await;
    let all = async {
        for one in ones {
            one.breaks_off().await;
        }
        streams_break_off(connection).await;
    };
    tokio::time::timeout(Duration::from_secs(30), all)
        .await
        .expect("every visit ends");
    let next = visitor.try_get("/").await.unwrap();
    assert_eq!(next.text(), "good");
    let after = ctl(boundary.client.socket(), &["--json", "show", NAME])
        .await
        .ok()
        .json();
    for key in ["id", "slug", "url", "target", "created_at"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    boundary.control().await;
}
