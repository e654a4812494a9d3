//! An origin that keeps every byte it gets, and answers whatever looks like the end of a head.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary";

/// Ends with the test's runtime.
pub(super) struct Canary {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Canary {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(listen(stream, Arc::clone(&ear)));
            }
        });
        Self { port, heard }
    }

    pub(super) fn target(&self) -> String {
        self.port.to_string()
    }

    /// All that it got since it was last told to forget.
    pub(super) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    /// How many request heads it got.
    pub(super) fn heads(&self) -> usize {
        self.heard().matches("\r\n\r\n").count()
    }

    pub(super) fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }
}

async fn listen(mut stream: TcpStream, ear: Arc<Mutex<Vec<u8>>>) {
    let mut rest = Vec::new();
    let mut room = [0u8; 16 * 1024];
    loop {
        let count = match stream.read(&mut room).await {
            Ok(count) if count > 0 => count,
            _ => return,
        };
        ear.lock().unwrap().extend_from_slice(&room[..count]);
        rest.extend_from_slice(&room[..count]);
        while let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
            rest.drain(..end + 4);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
        // A body is heard, not kept.
        let tail = rest.len().saturating_sub(64 * 1024);
        rest.drain(..tail);
    }
}
