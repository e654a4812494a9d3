//! One connection on one path after the other.

use std::future::poll_fn;
use std::task::ready;

use quinn::Runtime as _;
use tokio::time::Instant;

use super::super::clientside::Paths;
use super::super::{PathError, PathInfo, PathKind};
use super::*;

#[tokio::test]
async fn a_link_moves_into_a_websocket_and_back_and_its_stream_goes_on() {
    let mut office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;
    let mut echo = ends.echo().await;
    assert_eq!(ends.client.path(), PathInfo::UDP);
    echo.round(TEN_MB).await;

    switch.block();
    let info = ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(TEN_MB).await;
    assert_eq!((info.kind, info.proxied), (PathKind::WebSocket, false));
    assert_eq!(ends.client.path(), info);
    assert_eq!(ends.server.path().kind, PathKind::WebSocket);
    assert!(ends.server.peer().ip().is_loopback(), "{:?}", ends.server);
    assert_eq!(office.listener.attached_paths(), 1);

    // Still blocked: asking costs the link nothing.
    let error = ends.client.back_to_udp().await.unwrap_err();
    assert!(matches!(error, PathError::UdpSilent), "{error}");
    assert_eq!(ends.client.path(), info);
    echo.round(1000).await;

    switch.unblock();
    ends.client.back_to_udp().await.unwrap();
    echo.round(TEN_MB).await;
    assert_eq!(ends.client.path(), PathInfo::UDP);
    assert_eq!(ends.server.path().kind, PathKind::Udp);
    assert!(matches!(office.session_end().await, SessionEnd::Closed));
    assert_eq!(office.listener.attached_paths(), 0);
    assert!(ends.client.raw().close_reason().is_none());
}

#[tokio::test]
async fn packets_that_have_grown_on_udp_pass_a_websocket_as_they_are() {
    let office = Office::open().await;
    let ends = office.link(&dialer(&Switch::default()), None).await;
    let mut echo = ends.echo().await;
    echo.round(TEN_MB).await;
    let payload = || {
        let path = ends.client.raw().stats().path;
        (path.current_mtu, path.black_holes_detected)
    };
    let grown = payload();
    assert!(grown.0 > 1500, "loopback takes more: {grown:?}");
    ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(TEN_MB / 5).await;
    assert_eq!(payload(), grown);
}

#[tokio::test]
async fn a_download_goes_on_within_four_seconds_when_udp_is_cut_in_its_middle() {
    let office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    let ((mut tx, _rx), (_, _tx, mut rx)) = (opened.unwrap(), accepted.unwrap());
    let body: Vec<u8> = (0..TEN_MB).map(|at| (at % 251) as u8).collect();
    let sending = send(&mut tx, Bytes::from(body.clone()));
    let receiving = async {
        let mut got = Vec::new();
        while got.len() < TEN_MB / 5 {
            got.extend_from_slice(&recv(&mut rx).await.unwrap().unwrap());
        }
        switch.block();
        let cut = Instant::now();
        ends.client.open_fallback(&office.fallback()).await.unwrap();
        while got.len() < TEN_MB * 3 / 5 {
            got.extend_from_slice(&recv(&mut rx).await.unwrap().unwrap());
        }
        let took = cut.elapsed();
        switch.unblock();
        ends.client.back_to_udp().await.unwrap();
        while got.len() < TEN_MB {
            got.extend_from_slice(&recv(&mut rx).await.unwrap().unwrap());
        }
        (got, took)
    };
    let (sent, (got, took)) = both(sending, receiving).await;
    sent.unwrap();
    assert!(got == body, "the download differs");
    assert!(took < secs(4), "{took:?}");
    assert_eq!(ends.server.path().kind, PathKind::Udp);
}

#[tokio::test]
async fn a_websocket_that_is_cut_costs_the_path_and_never_the_link() {
    let office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;
    let mut echo = ends.echo().await;
    switch.block();
    ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(100_000).await;

    office.cut.send(()).unwrap();
    timeout(secs(10), ends.client.fallback_ended())
        .await
        .unwrap();
    assert_eq!(ends.client.path().kind, PathKind::Udp);
    assert!(ends.client.raw().close_reason().is_none());

    ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(100_000).await;

    // And without anybody's doing, if UDP works by then.
    switch.unblock();
    office.cut.send(()).unwrap();
    echo.round(100_000).await;
    assert_eq!(ends.server.path().kind, PathKind::Udp);
}

#[tokio::test]
async fn a_link_in_a_websocket_takes_a_fresh_udp_socket_and_comes_back_on_it() {
    let office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;
    let mut echo = ends.echo().await;
    switch.block();
    ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(100_000).await;
    // Another network, on which UDP does not work either.
    ends.client.rebind().unwrap();
    echo.round(100_000).await;
    assert_eq!(ends.client.stats().rebinds, 1);
    assert_eq!(ends.client.path().kind, PathKind::WebSocket);
    // Another network, on which UDP works.
    let paths = ends.client.live().paths().unwrap();
    paths.replace_udp(Switch::default().socket());
    ends.client.back_to_udp().await.unwrap();
    echo.round(100_000).await;
    assert_eq!(ends.server.path().kind, PathKind::Udp);
}

#[tokio::test]
async fn a_link_that_leaves_its_websocket_is_on_udp_at_once() {
    let mut office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;
    let mut echo = ends.echo().await;
    ends.client.leave_fallback();
    assert_eq!(ends.client.path(), PathInfo::UDP, "it was there already");
    switch.block();
    ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(100_000).await;
    switch.unblock();
    ends.client.leave_fallback();
    assert_eq!(ends.client.path(), PathInfo::UDP);
    echo.round(100_000).await;
    assert_eq!(ends.server.path().kind, PathKind::Udp);
    office.session_end().await;
    assert_eq!(office.listener.attached_paths(), 0);
}

#[tokio::test]
async fn a_link_that_is_over_leaves_no_websocket_behind() {
    let mut office = Office::open().await;
    let ends = office.link(&dialer(&Switch::default()), None).await;
    ends.client.open_fallback(&office.fallback()).await.unwrap();
    ends.client.close(crate::codes::Code::Draining, "bye");
    ends.server.closed().await;
    assert_eq!(ends.server.path().kind, PathKind::WebSocket);
    drop(ends);
    office.session_end().await;
    assert_eq!(office.listener.attached_paths(), 0);
}

#[tokio::test]
async fn closing_the_listener_tells_links_in_websockets_too() {
    let office = Office::open().await;
    let switch = Switch::default();
    switch.block();
    let fallback = Fallback {
        first: true,
        ..office.fallback()
    };
    let ends = office.link(&dialer(&switch), Some(&fallback)).await;
    let closing = office.listener.close(crate::codes::Code::Draining, secs(5));
    let (end, ()) = both(timeout(secs(5), ends.client.closed()), closing).await;
    assert_eq!(end.unwrap().code, Some(crate::codes::Code::Draining));
    assert_eq!(office.listener.attached_paths(), 0);
}

#[tokio::test]
async fn packets_wait_for_a_fresh_socket_and_do_not_ask_it_without_end() {
    let wrap = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        quinn::TokioRuntime.wrap_udp_socket(socket).unwrap()
    };
    let sink = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let packet = Transmit {
        destination: sink.local_addr().unwrap(),
        ecn: None,
        contents: b"packet",
        segment_size: None,
        src_ip: None,
    };
    let paths = Paths::over(wrap(), "127.0.0.1:1", secs(60));
    // QUIC keeps this one until it hears of the move.
    let mut poller = Arc::clone(&paths).create_io_poller();
    for moves in 0..5 {
        let sent = poll_fn(|cx| -> Poll<io::Result<()>> {
            ready!(poller.as_mut().poll_writable(cx))?;
            Poll::Ready(paths.try_send(&packet))
        });
        let sent = timeout(secs(5), sent).await.unwrap();
        assert!(sent.is_ok(), "after {moves} moves: {sent:?}");
        paths.replace_udp(wrap());
    }
}
