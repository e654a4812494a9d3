//! Through an HTTP proxy, and through one that stalls.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{PathError, PathKind, Proxies};
use super::*;

/// A tiny proxy that wants to be asked nicely.
struct Proxy {
    url: String,
    requests: mpsc::Receiver<String>,
    stalled: watch::Sender<bool>,
    tasks: Tasks,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Proxy {
    async fn open() -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://us%40er:pass@{}", tcp.local_addr().unwrap());
        let (asked, requests) = mpsc::channel(16);
        let (stalled, stall) = watch::channel(false);
        let tasks = Tasks::new();
        let stop = tasks.stopped();
        tasks.spawn("proxy", {
            let tasks = tasks.clone();
            async move {
                loop {
                    let client = tokio::select! {
                        () = stop.cancelled() => return,
                        accepted = tcp.accept() => accepted.unwrap().0,
                    };
                    let (asked, stall, stop) = (asked.clone(), stall.clone(), stop.clone());
                    tasks.spawn("proxied", async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = proxy(client, asked, stall) => {}
                        }
                    });
                }
            }
        });
        Self {
            url,
            requests,
            stalled,
            tasks,
        }
    }
}

async fn proxy(mut client: TcpStream, asked: mpsc::Sender<String>, stall: watch::Receiver<bool>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    asked.send(head.clone()).await.unwrap();
    // "us@er:pass"
    if !head
        .to_lowercase()
        .contains("proxy-authorization: basic dxnazxi6cgfzcw==")
    {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        client.write_all(refusal).await.unwrap();
        return;
    }
    let target = head.split(' ').nth(1).unwrap();
    let server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    tokio::join!(
        copy(from_client, to_server, stall.clone()),
        copy(from_server, to_client, stall),
    );
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut stall: watch::Receiver<bool>,
) {
    let mut buf = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buf).await {
        if stall.wait_for(|stalled| !stalled).await.is_err()
            || to.write_all(&buf[..count]).await.is_err()
        {
            return;
        }
    }
}

#[tokio::test]
async fn a_proxy_is_asked_with_its_password_and_passed_by_where_it_is_not_wanted() {
    let office = Office::open().await;
    let mut proxy = Proxy::open().await;
    let switch = Switch::default();
    switch.block();
    let proxied = Fallback {
        proxies: Proxies::parse(&proxy.url, "example.com").unwrap(),
        first: true,
        ..office.fallback()
    };
    let ends = office.link(&dialer(&switch), Some(&proxied)).await;
    assert!(ends.client.path().proxied && ends.client.path().outer_verified);
    let request = proxy.requests.recv().await.unwrap();
    let first_line = format!("CONNECT {} HTTP/1.1\r\n", office.address);
    assert!(request.starts_with(&first_line), "{request}");
    ends.echo().await.round(1_000_000).await;

    let direct = Fallback {
        proxies: Proxies::parse(&proxy.url, "localhost").unwrap(),
        ..office.fallback()
    };
    let info = ends.client.open_fallback(&direct).await.unwrap();
    assert!(!info.proxied);
    assert!(proxy.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_proxy_that_refuses_is_reported_with_its_answer() {
    let office = Office::open().await;
    let proxy = Proxy::open().await;
    let ends = office.link(&dialer(&Switch::default()), None).await;
    let stranger = proxy.url.replace("pass", "guess");
    let fallback = Fallback {
        proxies: Proxies::parse(&stranger, "").unwrap(),
        ..office.fallback()
    };
    let error = ends.client.open_fallback(&fallback).await.unwrap_err();
    assert!(
        matches!(&error, PathError::Proxy { status, proxy }
            if *status == StatusCode::PROXY_AUTHENTICATION_REQUIRED && !proxy.contains("guess")),
        "{error:?}"
    );
    ends.echo().await.round(1000).await;
}

#[tokio::test]
async fn a_stalled_websocket_goes_on_where_it_was_and_holds_up_nobody() {
    let office = Office::open().await;
    let proxy = Proxy::open().await;
    let switch = Switch::default();
    switch.block();
    let fallback = Fallback {
        proxies: Proxies::parse(&proxy.url, "").unwrap(),
        first: true,
        ..office.fallback()
    };
    let stuck = office.link(&dialer(&switch), Some(&fallback)).await;
    let free = office.link(&dialer(&Switch::default()), None).await;
    let (mut stuck_echo, mut free_echo) = (stuck.echo().await, free.echo().await);
    stuck_echo.round(1000).await;

    proxy.stalled.send(true).unwrap();
    let release = async {
        // Both directions of the other link work all the while.
        free_echo.round(TEN_MB).await;
        assert!(stuck.client.raw().close_reason().is_none());
        proxy.stalled.send(false).unwrap();
    };
    tokio::join!(stuck_echo.round(TEN_MB), release);
    assert_eq!(stuck.client.path().kind, PathKind::WebSocket);
}
