//! Orderly ends: what was begun is finished, nobody is cut by somebody's return, and the log stays calm.

use std::time::Duration;

use http::StatusCode;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::origin::Origin;
use crate::visitor::{get, whole};
use crate::world::{Daemon, World, ctl, open};

/// Longer than any client takes to come back after a GoAway.
const SLOW: Duration = Duration::from_secs(4);

/// An origin that gives half an answer at once and the rest after a while.
async fn slow_origin(pause: Duration) -> (u16, oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (half, given) = oneshot::channel();
    tokio::spawn(async move {
        let mut half = Some(half);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0u8; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            if !head[..read].starts_with(b"GET /slow") {
                continue;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
            stream.write_all(answer).await.unwrap();
            let _ = half.take().map(|half| half.send(()));
            tokio::time::sleep(pause).await;
            let _ = stream.write_all(b"done").await;
        }
    });
    (port, given)
}

/// What a daemon said that it should not have.
fn alarms(daemon: &Daemon) -> Vec<String> {
    // The test's own end of the notify socket closes with READY.
    let is_alarm = |line: &&str| {
        (line.contains("ERROR") || line.contains("WARN")) && !line.contains("systemd was not told")
    };
    daemon
        .log()
        .lines()
        .filter(is_alarm)
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_visit_in_flight_outlives_the_drain_of_the_server() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let (port, begun) = slow_origin(SLOW).await;
    open(&client, &[&port.to_string(), "--name", "app"]).await;
    let answer = world.visitor("app").send1(get("/slow")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    begun.await.unwrap();
    world.server.signal(Signal::SIGTERM);
    let answer = whole(answer)
        .await
        .unwrap_or_else(|e| panic!("{e}\n{}\n{}", world.server.log(), client.log()));
    assert_eq!(answer.text(), "halfdone");
    assert!(world.server.ended().await.success());
    // And the client finds the next server.
    world.server.start().await;
    crate::world::eventually("the client is back", || async {
        let status = ctl(client.socket(), &["--json", "status"]).await.json();
        (status["link"]["state"] == "up").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let (port, begun) = slow_origin(Duration::from_secs(60)).await;
    open(&client, &[&port.to_string(), "--name", "app"]).await;
    let _answer = world.visitor("app").send1(get("/slow")).await.unwrap();
    begun.await.unwrap();
    world.server.signal(Signal::SIGTERM);
    crate::world::eventually("the first signal is heard", || async {
        world.server.log().contains("draining").then_some(())
    })
    .await;
    let second = std::time::Instant::now();
    world.server.signal(Signal::SIGTERM);
    world.server.ended().await;
    assert!(
        second.elapsed() < Duration::from_secs(4),
        "{:?}",
        second.elapsed()
    );
}

#[tokio::test]
async fn an_orderly_stop_raises_no_alarm() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    assert!(client.stop().await.success());
    assert_eq!(alarms(&client), Vec::<String>::new());
    let links = client.log().matches("link up").count();
    assert_eq!(links, 1, "a client that stops does not reconnect");
    assert!(world.server.stop().await.success());
    assert_eq!(alarms(&world.server), Vec::<String>::new());
}

#[tokio::test]
async fn a_client_without_its_server_stops_at_once() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    client.crash().await;
    world.server.crash().await;
    // Something on the port that never answers, so that the client dials and dials.
    let mute = tokio::net::UdpSocket::bind(world.addr).await.unwrap();
    client.start().await;
    mute.recv(&mut [0; 2048]).await.unwrap();
    let begun = std::time::Instant::now();
    assert!(client.stop().await.success());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        !client.log().contains("did not end in time"),
        "{}",
        client.log()
    );
}

#[tokio::test]
async fn a_drain_asked_for_lets_visits_finish_and_refuses_new_ones() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let (port, begun) = slow_origin(SLOW).await;
    open(&client, &[&port.to_string(), "--name", "app"]).await;
    let answer = world.visitor("app").send1(get("/slow")).await.unwrap();
    begun.await.unwrap();
    let drain = world.server_ctl(&["drain", "--grace", "20s"]);
    let visit = async {
        crate::world::eventually("the drain has begun", || async {
            let status = world.server_ctl(&["status"]).await.json();
            (status["draining"] == true).then_some(())
        })
        .await;
        if let Ok(late) = world.visitor("app").try_get("/slow").await {
            assert_eq!((late.status.as_u16(), late.error()), (503, "draining"));
        }
        whole(answer).await
    };
    let (drained, visit) = tokio::join!(drain, visit);
    assert_eq!(visit.unwrap().text(), "halfdone");
    let said = drained.ok();
    assert_eq!(said.json()["finished"], true, "{said:?}");
    assert_eq!(said.json()["visits"], 1, "{said:?}");
    assert!(said.err.contains("draining: 1 visit left"), "{said:?}");
    assert!(world.server.ended().await.success());
    assert_eq!(alarms(&world.server), Vec::<String>::new());
    world.server.start().await;
    crate::world::eventually("the client is back", || async {
        let status = ctl(client.socket(), &["--json", "status"]).await.json();
        (status["link"]["state"] == "up").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_cuts_what_is_left_after_its_grace() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let (port, begun) = slow_origin(Duration::from_secs(60)).await;
    open(&client, &[&port.to_string(), "--name", "app"]).await;
    let _answer = world.visitor("app").send1(get("/slow")).await.unwrap();
    begun.await.unwrap();
    let said = world.server_ctl(&["drain", "--grace", "500ms"]).await.ok();
    assert_eq!(said.json()["finished"], false, "{said:?}");
    assert!(world.server.ended().await.success());
}

#[tokio::test]
async fn a_second_drain_ends_the_first_at_once() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let (port, begun) = slow_origin(Duration::from_secs(60)).await;
    open(&client, &[&port.to_string(), "--name", "app"]).await;
    let _answer = world.visitor("app").send1(get("/slow")).await.unwrap();
    begun.await.unwrap();
    let first = world.server_ctl(&["drain", "--grace", "1h"]);
    let second = async {
        crate::world::eventually("the drain has begun", || async {
            let status = world.server_ctl(&["status"]).await.json();
            (status["draining"] == true).then_some(())
        })
        .await;
        world.server_ctl(&["drain"]).await
    };
    let (first, second) = tokio::join!(first, second);
    for said in [first.ok(), second.ok()] {
        assert_eq!(said.json()["finished"], false, "{said:?}");
    }
    assert!(world.server.ended().await.success());
}

#[tokio::test]
async fn a_client_drains_when_asked_and_its_tunnels_wait_for_it() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let (port, begun) = slow_origin(Duration::from_secs(1)).await;
    open(&client, &[&port.to_string(), "--name", "app"]).await;
    let answer = world.visitor("app").send1(get("/slow")).await.unwrap();
    begun.await.unwrap();
    let (said, answer) = tokio::join!(ctl(client.socket(), &["--json", "drain"]), whole(answer));
    assert_eq!(answer.unwrap().text(), "halfdone");
    assert_eq!(said.ok().json()["finished"], true);
    assert!(client.ended().await.success());
    let tunnels = world.server_ctl(&["tunnels"]).await.ok().json();
    let state = &tunnels["tunnels"][0]["state"];
    assert!(state == "held" || state == "offline", "{tunnels}");
}
