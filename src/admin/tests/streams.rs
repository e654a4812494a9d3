use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::admin::testing::{Daemon, tunnel, visit};
use crate::admin::types::{EventJson, LinkJson};
use crate::codes::Code;

#[tokio::test]
async fn events_are_live_without_an_id_and_resume_with_one() {
    let daemon = Daemon::client();
    let all = [
        visit("app", "/one"),
        EventJson::Tunnel(Box::new(tunnel(1, "app"))),
        EventJson::Link(LinkJson {
            state: "up".to_owned(),
            ..LinkJson::default()
        }),
        visit("app", "/four"),
    ];
    daemon.fake.emit(all[0].clone());
    daemon.fake.emit(all[1].clone());
    let mut live = daemon.api().events(None).await.unwrap();
    let mut resumed = daemon.api().events(Some(1)).await.unwrap();
    daemon.watched_by(2).await;
    daemon.fake.emit(all[2].clone());
    daemon.fake.emit(all[3].clone());
    for id in 2..=4_u64 {
        let got = resumed.next().await.unwrap().unwrap();
        assert_eq!(got, (id, all[id as usize - 1].clone()));
    }
    for id in 3..=4_u64 {
        let got = live.next().await.unwrap().unwrap();
        assert_eq!(got, (id, all[id as usize - 1].clone()));
    }
    drop((live, resumed));
    daemon.watched_by(0).await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_stream_is_server_sent_events_and_ends_at_shutdown() {
    let daemon = Daemon::server();
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    daemon.watched_by(1).await;
    daemon.fake.emit(visit("app", "/a\nb"));
    let mut text = String::new();
    while !text.contains("}\n\n") {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).await.unwrap();
        assert!(n > 0, "it ended early: {text}");
        text.push_str(std::str::from_utf8(&some[..n]).unwrap());
    }
    assert!(
        text.contains("content-type: text/event-stream\r\n"),
        "{text}"
    );
    assert!(
        text.contains("id: 1\nevent: visit\ndata: {\"event\":\"visit\","),
        "{text}"
    );
    assert!(text.contains("\"path\":\"/a\\nb\""), "{text}");
    daemon.stop().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_alive_by_comments() {
    let daemon = Daemon::client();
    let mut events = daemon.api().events(None).await.unwrap();
    let start = tokio::time::Instant::now();
    // Longer than the reader would bear silence.
    assert!(
        tokio::time::timeout(Duration::from_secs(300), events.next())
            .await
            .is_err()
    );
    assert_eq!(start.elapsed().as_secs(), 300);
    daemon.fake.emit(visit("app", "/"));
    assert!(events.next().await.unwrap().is_some());
    drop(events);
    daemon.stop().await;
}

#[tokio::test]
async fn watchers_leave_room_for_calls() {
    let daemon = Daemon::client();
    let limit = super::super::serve::CONNECTIONS / 2;
    let mut watching = Vec::new();
    for _ in 0..limit {
        watching.push(daemon.api().events(None).await.unwrap());
    }
    let err = daemon.api().events(None).await.unwrap_err();
    assert_eq!(err.code(), Code::LimitReached);
    let _: serde_json::Value = daemon.api().get("/v1/status").await.unwrap();
    watching.pop();
    daemon.watched_by(limit - 1).await;
    // The place is given back a moment after the backend is left.
    while daemon.api().events(None).await.is_err() {
        tokio::task::yield_now().await;
    }
    drop(watching);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_is_let_go() {
    let daemon = Daemon::client();
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    daemon.watched_by(1).await;
    let path = "/".repeat(8192);
    let unread = tokio::time::Instant::now();
    while daemon.fake.watchers() > 0 {
        daemon.fake.emit(visit("app", &path));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let limit = super::super::stall::STALLED;
    assert!(unread.elapsed() > limit && unread.elapsed() < 3 * limit);
    // Its connection is gone, too: only the accept loop is left.
    while daemon.tasks.running() > 1 {
        tokio::task::yield_now().await;
    }
    daemon.stop().await;
}
