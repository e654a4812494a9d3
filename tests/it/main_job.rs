//! The main job with the real binaries: invite, join, open, visit, close; and that it all comes back.

use std::time::Duration;

use http::StatusCode;

use crate::origin::Origin;
use crate::visitor::{post, whole};
use crate::world::{PATIENCE, World, ctl, eventually, open};

fn slug_of(tunnel: &serde_json::Value) -> String {
    tunnel["slug"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn invite_join_open_visit_close() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("hello from the laptop").await;
    let tunnel = open(&client, &[&origin.target(), "--expires", "30m"]).await;
    let slug = slug_of(&tunnel);
    let url = format!(
        "https://{slug}.{}:{}",
        crate::world::DOMAIN,
        world.addr.port()
    );
    assert_eq!(tunnel["url"], url);
    assert_eq!(tunnel["state"], "open");

    let visitor = world.visitor(&slug);
    let looks = origin.visits();
    for answer in [visitor.get("/").await, visitor.get2("/").await] {
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, "hello from the laptop".into())
        );
    }
    let echoed = whole(visitor.send2(post("/echo", "ping")).await.unwrap())
        .await
        .unwrap();
    assert_eq!(echoed.text(), "ping");

    ctl(client.socket(), &["close", &slug]).await.ok();
    let gone = visitor.get("/").await;
    assert_eq!(
        (gone.status, gone.error()),
        (StatusCode::GONE, "tunnel_closed")
    );
    assert!(gone.fields.contains_key("wormkey-request-id"));
    assert_eq!(
        origin.visits() - looks,
        3,
        "the closed tunnel's visit must not reach the origin"
    );
}

#[tokio::test]
async fn what_visitors_get_when_there_is_nothing_to_get() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let unknown = world.visitor("nobody-here").get("/").await;
    assert_eq!(
        (unknown.status, unknown.error()),
        (StatusCode::NOT_FOUND, "no_such_tunnel")
    );

    // A port that nobody listens on any more.
    let port = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let said = ctl(
        client.socket(),
        &["open", &port.to_string(), "--name", "lonely"],
    )
    .await
    .ok();
    assert!(said.err.contains("nothing listens"), "{said:?}");
    let down = world.visitor("lonely").get("/").await;
    assert_eq!(
        (down.status, down.error()),
        (StatusCode::BAD_GATEWAY, "origin_unreachable")
    );
}

#[tokio::test]
async fn an_expired_tunnel_answers_410_within_a_second_of_its_time() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("soon over").await;
    let tunnel = open(&client, &[&origin.target(), "--expires", "2s"]).await;
    let visitor = world.visitor(&slug_of(&tunnel));
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    let due =
        wormkey::times::WallTime::parse_rfc3339(tunnel["expires_at"].as_str().unwrap()).unwrap();
    let (asked, answered, seen_gone) = eventually("the tunnel expires", || async {
        let asked = wormkey::times::Clock.now().wall;
        let answer = visitor.get("/").await;
        let answered = wormkey::times::Clock.now().wall;
        (answer.status == StatusCode::GONE).then_some((asked, answered, answer))
    })
    .await;
    assert_eq!(seen_gone.error(), "tunnel_expired");
    assert!(answered >= due, "gone at {answered}, due at {due}");
    assert!(
        asked.since(due) < Duration::from_secs(2),
        "gone at {asked}, due at {due}"
    );
    // The server tells its client in the same moment.
    eventually("the client hears of it", || async {
        let shown = ctl(client.socket(), &["--json", "show", &slug_of(&tunnel)]).await;
        (shown.json()["state"] == "expired").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_comes_back_with_the_same_tunnels() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("still me").await;
    let before = open(&client, &[&origin.target(), "--expires", "30m"]).await;
    let slug = slug_of(&before);
    world.server.crash().await;
    world.server.start().await;
    // The visit waits in the hold until the idle client has noticed at its next keep-alive.
    let answer = world.visitor(&slug).get("/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::OK, "still me".into())
    );
    let after = ctl(client.socket(), &["--json", "show", &slug])
        .await
        .ok()
        .json();
    for key in ["id", "slug", "url", "expires_at", "created_at"] {
        assert_eq!(before[key], after[key], "{key}");
    }
}

#[tokio::test]
async fn a_killed_client_comes_back_with_the_same_tunnels() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let origin = Origin::named("still me").await;
    let before = open(
        &client,
        &[&origin.target(), "--name", "app", "--expires", "30m"],
    )
    .await;
    client.crash().await;
    client.start().await;
    // A visit that still rode the dead link is lost with it; the next ones are not.
    eventually("the tunnel answers again", || async {
        let answer = world.visitor("app").get("/").await;
        (answer.status == StatusCode::OK && answer.text() == "still me").then_some(())
    })
    .await;
    let after = ctl(client.socket(), &["--json", "show", "app"])
        .await
        .ok()
        .json();
    for key in ["id", "slug", "url", "expires_at", "created_at"] {
        assert_eq!(before[key], after[key], "{key}");
    }
}

#[tokio::test]
async fn a_client_that_stays_away_is_502_after_the_hold_and_recovers_by_itself() {
    let mut world = World::with("[tunnels]\nhold = \"300ms\"\n").await;
    let mut client = world.joined().await;
    let origin = Origin::named("back").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    assert!(client.stop().await.success());
    let away = world.visitor("app").get("/").await;
    assert_eq!(
        (away.status, away.error()),
        (StatusCode::BAD_GATEWAY, "tunnel_offline")
    );
    assert!(away.fields.contains_key("retry-after"));
    client.start().await;
    eventually("the tunnel answers again", || async {
        (world.visitor("app").get("/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_visit_to_a_client_that_hangs_is_given_up_with_the_hold() {
    let mut world = World::with("[tunnels]\nhold = \"1s\"\n").await;
    let client = world.joined().await;
    let origin = Origin::named("awake").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    client.signal(nix::sys::signal::Signal::SIGSTOP);
    let begun = tokio::time::Instant::now();
    for _ in 0..2 {
        let answer = world.visitor("app").get("/").await;
        let said = (answer.status, answer.error());
        assert_eq!(said, (StatusCode::BAD_GATEWAY, "tunnel_offline"));
    }
    // A second until it counts as away, one of hold, and what a look takes.
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    client.signal(nix::sys::signal::Signal::SIGCONT);
    eventually("the tunnel answers again", || async {
        (world.visitor("app").get("/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_close_while_the_server_is_away_is_remembered() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    world.server.crash().await;
    ctl(client.socket(), &["close", "app"]).await.ok();
    world.server.start().await;
    eventually("the server learns of it", || async {
        (world.visitor("app").get("/").await.status == StatusCode::GONE).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_aborted_answer_is_never_a_complete_one() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let visitor = world.visitor("app");
    let over1 = whole(visitor.send1(crate::visitor::get("/abort")).await.unwrap()).await;
    let over2 = whole(visitor.send2(crate::visitor::get("/abort")).await.unwrap()).await;
    // An abort, or a plain 502 when it overtook the head; never the origin's own head with a short body.
    for answer in [over1, over2].into_iter().flatten() {
        let said = (answer.status, answer.error());
        assert_eq!(said, (StatusCode::BAD_GATEWAY, "origin_error"));
    }
}

#[tokio::test]
async fn sigterm_lets_visits_finish_and_a_second_one_ends_at_once() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let visitor = world.visitor("app");
    // A visit that never ends by itself holds the drain; the second signal does not wait for it.
    let stuck = tokio::spawn(async move { visitor.try_get("/never").await });
    eventually("the visit reaches the origin", || async {
        (origin.visits() > 0).then_some(())
    })
    .await;
    world.server.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("the drain has begun", || async {
        world.server.log().contains("draining").then_some(())
    })
    .await;
    let begun = tokio::time::Instant::now();
    world.server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(world.server.ended().await.success());
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    // Cut, or told in the last moment that the tunnel is gone; never an answer of the origin.
    assert!(
        stuck
            .await
            .unwrap()
            .map_or(true, |answer| answer.status.is_server_error())
    );
}
