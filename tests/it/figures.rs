//! What status tells of links, and what becomes of those that sleep where there is no room for them.

use http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::origin::Origin;
use crate::world::{Daemon, World, ctl, eventually, open};

async fn links(world: &World) -> Vec<Value> {
    let status = world.server_ctl(&["status"]).await.ok().json();
    status["link_list"].as_array().unwrap().clone()
}

#[tokio::test]
async fn status_tells_how_each_link_does_on_both_ends() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    assert_eq!(world.visitor("app").get("/").await.status, StatusCode::OK);
    let listed = links(&world).await;
    let [link] = &listed[..] else {
        panic!("one link: {listed:?}");
    };
    assert_eq!(
        (&link["state"], &link["path"]),
        (&"up".into(), &"udp".into())
    );
    assert_eq!(
        (&link["user"], &link["streams"]),
        (&"default".into(), &0.into())
    );
    assert!(link["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(link["packets"]["sent"].as_u64().unwrap() > 0, "{link}");
    assert!(link["rtt_ms"].as_f64().unwrap() > 0.0, "{link}");
    assert!(link["bytes"].as_u64().unwrap() >= 32 * 1024, "{link}");
    for absent in ["dormant_since", "last_error"] {
        assert!(link[absent].is_null(), "{link}");
    }
    let own = ctl(client.socket(), &["--json", "status"])
        .await
        .ok()
        .json();
    assert_eq!(own["link"]["generation"], link["generation"]);

    let human = ctl(client.socket(), &["status"]).await.ok();
    for says in ["path", "udp", "packets", "lost", "moved", "stalled"] {
        assert!(human.out.contains(says), "{says}: {}", human.out);
    }
    let human = ctl(world.server.socket(), &["server", "status"]).await.ok();
    for says in ["DEVICE", "RTT", "LOSS", "LAST ERROR"] {
        assert!(human.out.contains(says), "{says}: {}", human.out);
    }
    let page = world.server_ctl(&["links"]).await.ok().json();
    assert_eq!(page["links"][0]["generation"], link["generation"]);

    // A client that was killed comes back with a link of its own, and its ghost is not listed.
    let mut client = client;
    client.crash().await;
    client.start().await;
    eventually("the new link takes the place of the old one", || async {
        let listed = links(&world).await;
        (listed.len() == 1 && listed[0]["generation"] != link["generation"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn links_that_sleep_over_the_cap_are_closed_and_come_back_by_themselves() {
    let caps = "[dormant]\nlinks = 1\nlinks_per_user = 1\n[link]\nkeep_alive = \"1s\"\n";
    let mut world = World::with(caps).await;
    let origin = Origin::named("awake").await;
    let (first, second) = (world.joined().await, world.joined().await);
    open(&first, &[&origin.target(), "--name", "one"]).await;
    open(&second, &[&origin.target(), "--name", "two"]).await;
    let dormant = async |wanted: u64| {
        eventually("they sleep", || async {
            let status = world.server_ctl(&["status"]).await.ok().json();
            (status["dormant"] == wanted && status["dormant_bytes"].as_u64()? > 0).then_some(status)
        })
        .await
    };
    let generation = async |client: &Daemon| {
        let status = ctl(client.socket(), &["--json", "status"])
            .await
            .ok()
            .json();
        status["link"]["generation"].clone()
    };
    let (before_first, before_second) = (generation(&first).await, generation(&second).await);
    first.signal(Signal::SIGSTOP);
    assert_eq!(dormant(1).await["dormant_evicted"], 0);
    second.signal(Signal::SIGSTOP);
    eventually("the oldest has to go", || async {
        let status = world.server_ctl(&["status"]).await.ok().json();
        (status["dormant_evicted"] == 1).then_some(())
    })
    .await;
    let listed = links(&world).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["generation"], before_second, "the youngest stays");
    assert_eq!(listed[0]["state"], "dormant");
    assert!(listed[0]["dormant_since"].is_string(), "{listed:?}");
    // Nothing of it ended a tunnel.
    let tunnels = world.server_ctl(&["tunnels"]).await.ok().json();
    assert_eq!(tunnels["tunnels"].as_array().unwrap().len(), 2, "{tunnels}");
    for (client, name) in [(&first, "one"), (&second, "two")] {
        client.signal(Signal::SIGCONT);
        eventually("the tunnel answers again", || async {
            (world.visitor(name).get("/").await.text() == "awake").then_some(())
        })
        .await;
    }
    assert_ne!(generation(&first).await, before_first, "a new link");
    assert_eq!(generation(&second).await, before_second, "the same link");
    let status = ctl(first.socket(), &["--json", "status"]).await.ok().json();
    assert_eq!(status["link"]["state"], "up", "not refused: {status}");
    let listed = links(&world).await;
    let back = listed.iter().find(|link| link["last_error"].is_string());
    let why = back
        .map(|link| link["last_error"].to_string())
        .unwrap_or_default();
    assert!(why.contains("dormant"), "{listed:?}");
}
