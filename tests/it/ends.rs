//! What would end a tunnel next, as both ends tell it, and who has the last word about it.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use wormkey::times::WallTime;

use crate::origin::Origin;
use crate::world::{Daemon, PATIENCE, World, ctl, eventually, open};

fn time(value: &Value) -> WallTime {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    WallTime::parse_rfc3339(text).unwrap()
}

/// The same moment, as far as two processes can tell.
fn close(a: WallTime, b: WallTime) -> bool {
    a.since(b).max(b.since(a)) < Duration::from_secs(3)
}

fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

async fn shown(client: &Daemon, name: &str) -> Value {
    ctl(client.socket(), &["--json", "show", name])
        .await
        .ok()
        .json()
}

async fn listed(world: &World, name: &str) -> Value {
    let list = world.server_ctl(&["tunnels"]).await.ok().json();
    let all = list["tunnels"].as_array().unwrap().clone();
    let found = all.into_iter().find(|tunnel| tunnel["slug"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {list}"))
}

fn now() -> WallTime {
    wormkey::times::Clock.now().wall
}

#[tokio::test]
async fn both_ends_tell_what_would_end_a_tunnel_next() {
    let mut world = World::with("[tunnels]\noffline_max = \"3d\"\n").await;
    let mut client = world.joined().await;
    let origin = Origin::named("here").await;
    let target = origin.target();
    let fresh = open(&client, &[&target, "--name", "app", "--idle", "2h"]).await;
    assert_eq!(fresh["last_seen_at"], Value::Null);
    assert_eq!(fresh["ends_next"]["why"], "idle");
    assert!(close(time(&fresh["ends_next"]["at"]), now().plus(hours(2))));
    open(
        &client,
        &[
            &target,
            "--name",
            "brief",
            "--idle",
            "2h",
            "--expires",
            "1h",
        ],
    )
    .await;
    open(&client, &[&target, "--name", "long", "--idle", "never"]).await;

    assert_eq!(world.visitor("app").get("/").await.status, 200);
    let visited = now();
    let server = listed(&world, "app").await;
    assert_eq!(server["ends_next"]["why"], "idle");
    assert!(close(time(&server["last_seen_at"]), visited));
    assert!(close(
        time(&server["ends_next"]["at"]),
        visited.plus(hours(2))
    ));
    let brief = listed(&world, "brief").await;
    assert_eq!(brief["ends_next"]["why"], "expires");
    assert_eq!(brief["ends_next"]["at"], brief["expires_at"]);
    let long = listed(&world, "long").await;
    let nothing = serde_json::json!({"at": null, "why": null});
    assert_eq!(long["ends_next"], nothing);
    for name in ["app", "brief", "long"] {
        let (mine, theirs) = (shown(&client, name).await, listed(&world, name).await);
        assert_eq!(
            mine["ends_next"]["why"], theirs["ends_next"]["why"],
            "{name}"
        );
        assert_eq!(mine["expires_at"], theirs["expires_at"], "{name}");
        assert_eq!(mine["idle_seconds"], theirs["idle_seconds"], "{name}");
    }

    // While the client is away the clock of idleness stands still, and another one runs.
    client.crash().await;
    let away = now();
    let server = eventually("the server misses the client", || async {
        let tunnel = listed(&world, "app").await;
        (tunnel["ends_next"]["why"] == "offline").then_some(tunnel)
    })
    .await;
    let gone = time(&server["ends_next"]["at"]);
    assert!(gone.since(away) <= hours(72) + Duration::from_secs(10));
    assert!(gone.since(away) >= hours(72) - Duration::from_secs(10));
    assert_eq!(listed(&world, "brief").await["ends_next"]["why"], "expires");

    // A client that started again knows no less than before.
    client.start().await;
    let back = eventually("the client has its tunnel back", || async {
        let tunnel = shown(&client, "app").await;
        (tunnel["ends_next"]["at"] != Value::Null).then_some(tunnel)
    })
    .await;
    let server = listed(&world, "app").await;
    assert_eq!(back["ends_next"]["why"], "idle");
    assert!(close(
        time(&back["ends_next"]["at"]),
        time(&server["ends_next"]["at"])
    ));
    assert_eq!(back["last_seen_at"], server["last_seen_at"]);

    // And when the server is away, what it will do is known, too.
    world.server.crash().await;
    let alone = eventually("the client misses the server", || async {
        let tunnel = shown(&client, "app").await;
        (tunnel["ends_next"]["why"] == "offline").then_some(tunnel)
    })
    .await;
    let gone = time(&alone["ends_next"]["at"]);
    assert!(gone.since(now()) > hours(71), "{alone}");
    let said = ctl(client.socket(), &["show", "app"]).await.ok();
    assert!(
        said.out.contains("because its client stays away"),
        "{said:?}"
    );
}

#[tokio::test]
async fn no_tunnel_may_be_idle_for_longer_than_the_server_allows() {
    let mut world = World::with("[tunnels]\nidle = \"1h\"\nidle_max = \"2h\"\n").await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    let target = origin.target();
    for idle in ["3h", "never"] {
        let said = ctl(client.socket(), &["open", &target, "--idle", idle]).await;
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.err.contains("more than 2h"), "{said:?}");
    }
    assert_eq!(open(&client, &[&target]).await["idle_seconds"], 3600);
    let most = open(&client, &[&target, "--idle", "2h"]).await;
    assert_eq!(most["idle_seconds"], 7200);

    // What stands in a client's configuration is no exception.
    let declared = "[[tunnel]]\nname = \"blog\"\ntarget = \"3000\"\n";
    let client = world.client_with(declared).await;
    world.join(&client).await;
    eventually("the client says what is wrong", || async {
        let status = ctl(client.socket(), &["--json", "status"])
            .await
            .ok()
            .json();
        let problems = status["problems"].to_string();
        (problems.contains("blog") && problems.contains("more than 2h")).then_some(())
    })
    .await;
}

/// How far behind its time something came.
fn late(due: WallTime) -> Duration {
    let now = now();
    assert!(now >= due, "too early: {now}, due {due}");
    now.since(due)
}

#[tokio::test]
async fn what_is_open_is_cut_when_a_tunnels_time_is_over() {
    let mut world = World::with_ports().await;
    let client = world.joined().await;
    let origin = Origin::named("soon over").await;
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp://{}", service.local_addr().unwrap());
    let until = ["--expires", "4s", "--yes-expose"];
    let raw = open(&client, &[&[&target[..]], &until[..]].concat()).await;
    let web = open(&client, &[&[&origin.target()[..]], &until[..]].concat()).await;
    let due = |tunnel: &Value| time(&tunnel["expires_at"]);
    let port = u16::try_from(raw["public_port"].as_u64().unwrap()).unwrap();
    let (mut visitor, _served) = tokio::join!(
        async { TcpStream::connect(("127.0.0.1", port)).await.unwrap() },
        async { service.accept().await.unwrap().0 },
    );
    let watched = world.visitor(web["slug"].as_str().unwrap());
    let waits = tokio::spawn(async move {
        // It was admitted, and its answer never comes.
        let answer = watched.get("/never").await;
        (answer, now(), watched)
    });
    let mut rest = Vec::new();
    let end = visitor.read_to_end(&mut rest);
    let end = tokio::time::timeout(PATIENCE, end)
        .await
        .expect("it is cut");
    assert!(end.is_err(), "an end that is none: {rest:?}");
    let behind = late(due(&raw));
    assert!(behind < Duration::from_secs(1), "cut {behind:?} late");

    let (answer, at, watched) = waits.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.error()),
        (410, "tunnel_expired")
    );
    let behind = at.since(due(&web));
    assert!(at >= due(&web), "too early: {at}");
    assert!(behind < Duration::from_secs(1), "cut {behind:?} late");
    assert_eq!(watched.get("/").await.error(), "tunnel_expired");
}
