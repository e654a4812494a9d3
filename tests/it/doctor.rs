//! `wormkeyctl doctor`, and the question that a client asks itself through its tunnel's public name. The
//! domain is below localhost, which is this machine without asking anybody.

use serde_json::Value;

use crate::origin::Origin;
use crate::visitor::Visitor;
use crate::world::{Daemon, Said, World, ctl, eventually, open};

const HERE: &str = "t.localhost";

async fn world() -> World {
    World::at(HERE, "").await
}

fn visitor(world: &World, slug: &str) -> Visitor {
    Visitor::new(&world.ca, world.addr, &format!("{slug}.{HERE}"))
}

async fn doctor(daemon: &Daemon) -> Said {
    ctl(daemon.socket(), &["--json", "doctor"]).await
}

/// The first check of a name.
fn check<'a>(found: &'a Value, name: &str) -> &'a Value {
    let checks = found["checks"].as_array().unwrap();
    let named = checks.iter().find(|check| check["name"] == name);
    named.unwrap_or_else(|| panic!("there is no check {name}: {found:#}"))
}

async fn shown(client: &Daemon) -> Value {
    let said = ctl(client.socket(), &["--json", "show", "app"]).await;
    said.ok().json()
}

/// A port on which nothing listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[tokio::test]
async fn a_healthy_pair_is_found_healthy() {
    let mut world = world().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let said = doctor(&client).await.ok();
    let found = said.json();
    for (name, state) in [
        ("daemon", "ok"),
        ("joined", "ok"),
        ("server", "ok"),
        ("dns", "ok"),
        ("udp", "ok"),
        ("tcp", "ok"),
        // Of the test's own authority, which this machine does not know.
        ("certificate", "warn"),
        ("clock", "ok"),
        ("mtu", "ok"),
        ("origin", "ok"),
        ("probe", "ok"),
    ] {
        assert_eq!(check(&found, name)["state"], state, "{name}: {found:#}");
    }
    check(&found, "socket_buffers");
    for check in found["checks"].as_array().unwrap() {
        let well = check["state"] == "ok";
        assert_eq!(check["fix"].is_null(), well, "{check:#}");
        assert!(!check["what"].as_str().unwrap().is_empty(), "{check:#}");
    }
    // For people: a line for each, and what to do below those that could be better.
    let said = ctl(client.socket(), &["doctor"]).await.ok();
    assert!(said.out.contains("probe app"), "{said:?}");
    assert!(said.out.contains("→"), "{said:?}");
}

#[tokio::test]
async fn probes_are_no_visits_and_reach_no_origin() {
    let mut world = world().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    // `open` has looked at the origin itself.
    let before = origin.visits();
    let probe = eventually("the tunnel is probed by itself", || async {
        let tunnel = shown(&client).await;
        (!tunnel["probe"].is_null()).then(|| tunnel["probe"].clone())
    })
    .await;
    assert_eq!(probe["state"], "works", "{probe:#}");
    assert_eq!(probe["cause"], "certificate", "{probe:#}");
    assert_eq!(origin.visits(), before);
    let tunnel = shown(&client).await;
    assert_eq!(tunnel["visits_total"], 0, "{tunnel:#}");
    assert!(tunnel["last_seen_at"].is_null(), "{tunnel:#}");
    let status = world.server_ctl(&["status"]).await.ok().json();
    assert_eq!(status["visits_total"], 0, "{status:#}");
    let seen = world.server_ctl(&["tunnels"]).await.ok().json();
    assert!(seen["tunnels"][0]["last_seen_at"].is_null(), "{seen:#}");
    // A visit is one.
    assert_eq!(visitor(&world, "app").get("/").await.text(), "x");
    let tunnel = shown(&client).await;
    assert_eq!(tunnel["visits_total"], 1, "{tunnel:#}");
    assert_eq!(origin.visits(), before + 1);
}

#[tokio::test]
async fn strangers_learn_nothing_from_our_paths() {
    let mut world = world().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let before = origin.visits();
    for path in [
        "/.well-known/wormkey/probe/00112233445566778899aabbccddeeff",
        "/.well-known/wormkey/probe/",
        "/.well-known/wormkey/anything",
        "/.wormkey/",
    ] {
        let answer = visitor(&world, "app").get(path).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(!answer.text().contains('x') || !answer.error().is_empty());
    }
    assert_eq!(origin.visits(), before);
    let tunnel = shown(&client).await;
    assert_eq!(tunnel["visits_total"], 0, "{tunnel:#}");
}

#[tokio::test]
async fn an_origin_that_is_down_exits_8_while_the_tunnel_itself_works() {
    let mut world = world().await;
    let client = world.joined().await;
    open(&client, &[&nobody().await, "--name", "app"]).await;
    let said = doctor(&client).await;
    assert_eq!(said.code, 8, "{said:?}");
    let found = said.json();
    assert_eq!(check(&found, "origin")["state"], "fail", "{found:#}");
    assert_eq!(check(&found, "origin")["tunnel"], "app");
    assert_eq!(check(&found, "probe")["state"], "ok", "{found:#}");
}

#[tokio::test]
async fn a_server_that_is_down_exits_7() {
    let mut world = world().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    world.server.stop().await;
    let said = eventually("the doctor misses the server", || async {
        let said = doctor(&client).await;
        (said.code != 0).then_some(said)
    })
    .await;
    assert_eq!(said.code, 7, "{said:?}");
    let found = said.json();
    assert_eq!(check(&found, "server")["state"], "fail", "{found:#}");
    assert_eq!(check(&found, "tcp")["state"], "fail", "{found:#}");
    assert_eq!(check(&found, "origin")["state"], "ok", "{found:#}");
}

#[tokio::test]
async fn what_is_missing_before_all_else_is_said_first() {
    let mut world = world().await;
    let mut client = world.client().await;
    let said = doctor(&client).await;
    assert_eq!(said.code, 1, "{said:?}");
    let found = said.json();
    assert_eq!(check(&found, "joined")["state"], "fail", "{found:#}");
    assert!(
        check(&found, "joined")["fix"]
            .as_str()
            .unwrap()
            .contains("join")
    );
    client.stop().await;
    let said = doctor(&client).await;
    assert_eq!(said.code, 3, "{said:?}");
    let found = said.json();
    assert_eq!(check(&found, "daemon")["state"], "fail", "{found:#}");
    // What needs no daemon is looked at all the same.
    check(&found, "socket_buffers");
}

#[tokio::test]
async fn the_server_has_a_doctor_of_its_own() {
    let world = world().await;
    let found = world.server_ctl(&["doctor"]).await.ok().json();
    for (name, state) in [("dns", "ok"), ("tcp", "ok"), ("certificate", "warn")] {
        assert_eq!(check(&found, name)["state"], state, "{name}: {found:#}");
    }
}
