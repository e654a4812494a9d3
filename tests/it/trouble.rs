//! Bad input and trouble: a clear error, the right exit code, nothing lost.

use crate::origin::Origin;
use crate::world::{World, ctl, open};

#[tokio::test]
async fn names_that_cannot_be_had_say_why() {
    let mut world = World::new().await;
    let alice = world.joined().await;
    let bob = world.joined().await;
    let origin = Origin::named("alice's").await;
    open(&alice, &[&origin.target(), "--name", "app"]).await;
    let check = async |client: &crate::world::Daemon, args: &[&str], code: i32, says: &str| {
        let mut all = vec!["open"];
        all.extend(args);
        let said = ctl(client.socket(), &all).await;
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(says), "{args:?}: {said:?}");
    };
    check(&bob, &["3000", "--name", "app"], 6, "taken").await;
    check(&bob, &["3000", "--name", "admin"], 6, "reserved").await;
    check(
        &bob,
        &["3000", "--name", "Not_A_Label"],
        2,
        "cannot stand in a name",
    )
    .await;
    check(&bob, &["3000", "--name", &"a".repeat(41)], 2, "at most 40").await;
    check(&bob, &["3000", "--expires", "soon"], 2, "not a duration").await;
    check(&bob, &["nonsense://x"], 2, "not a kind of target").await;
    // The same name and target again is the same tunnel; another target is a conflict.
    let again = open(&alice, &[&origin.target(), "--name", "app"]).await;
    assert_eq!(again["slug"], "app");
    check(&alice, &["1", "--name", "app"], 6, "leads to").await;
    assert_eq!(world.visitor("app").get("/").await.text(), "alice's");
}

#[tokio::test]
async fn join_tokens_work_once_and_only_while_they_may() {
    let mut world = World::new().await;
    let client = world.client().await;
    let join = async |token: &str| ctl(client.socket(), &["join", token]).await;
    assert_eq!(join("wkj_nonsense").await.code, 4);
    let brief = world.invite(&["--expires", "200ms"]).await;
    let made = wormkey::times::Clock.now().wall;
    crate::world::eventually("the token expires", || async {
        (wormkey::times::Clock.now().wall.since(made).as_millis() > 200).then_some(())
    })
    .await;
    let said = join(&brief).await;
    assert!(said.code == 4 && said.err.contains("expired"), "{said:?}");
    let token = world.invite(&[]).await;
    join(&token).await.ok();
    let said = join(&token).await;
    assert!(said.code == 6 && said.err.contains("already"), "{said:?}");
    let other = world.client().await;
    let said = ctl(other.socket(), &["join", &token]).await;
    assert!(said.code == 4 && said.err.contains("used up"), "{said:?}");
    // A restart does not make a used token work again.
    world.server.crash().await;
    world.server.start().await;
    let said = ctl(other.socket(), &["join", &token]).await;
    assert!(said.code == 4 && said.err.contains("used up"), "{said:?}");
}

#[tokio::test]
async fn an_unjoined_client_runs_and_says_how_to_join() {
    let mut world = World::new().await;
    let client = world.client().await;
    let status = ctl(client.socket(), &["status"]).await.ok();
    assert!(
        format!("{}{}", status.out, status.err).contains("join"),
        "{status:?}"
    );
    let said = ctl(client.socket(), &["open", "3000"]).await;
    assert!(said.code == 4 && said.err.contains("join"), "{said:?}");
}

#[tokio::test]
async fn a_server_with_another_key_is_never_used() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    world.server.crash().await;
    // Somebody else's server on the same address: other key, empty state.
    let state = world.server.dir().join("state");
    std::fs::rename(&state, world.server.dir().join("old")).unwrap();
    world.server.start().await;
    let status = crate::world::eventually("the client refuses", || async {
        let status = ctl(client.socket(), &["--json", "status"]).await.json();
        let error = status["link"]["last_error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (status["link"]["state"] != "up" && !error.is_empty()).then_some(status)
    })
    .await;
    assert_ne!(status["link"]["state"], "up", "{status}");
    let devices = world.server_ctl(&["devices"]).await.ok().json();
    assert_eq!(
        devices["devices"].as_array().map(Vec::len),
        Some(0),
        "{devices}"
    );
}

#[tokio::test]
async fn no_daemon_and_no_permission_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let said = ctl(&dir.path().join("nobody.sock"), &["status"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("wormkeyd"), "{said:?}");
}

#[tokio::test]
async fn a_broken_configuration_is_told_whole_and_exits_78() {
    let mut world = World::new().await;
    assert!(world.server.stop().await.success());
    world.rewrite_server(|text| {
        text.replace("[tls]", "[tls]\nmoed = 1")
            .replace("http = \"off\"", "http = \"nowhere\"")
    });
    let (status, log) = world.server.start_in_vain().await;
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("moed") && log.contains("listen.http"), "{log}");
}

#[tokio::test]
async fn a_bad_reload_keeps_the_old_configuration() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    world.rewrite_server(|text| format!("{text}\n[nonsense]\n"));
    let said = world.server_ctl(&["reload"]).await;
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.err.contains("nonsense"), "{said:?}");
    assert_eq!(world.visitor("app").get("/").await.text(), "x");
    world.rewrite_server(|text| text);
    world.server_ctl(&["reload"]).await.ok();
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_refuses() {
    let world = World::new().await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_wormkeyd"));
    let output = command
        .args(["server", "--config"])
        .arg(world.server.config_file())
        .output()
        .await
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains(&format!("pid {}", world.server.pid())),
        "{err}"
    );
}

#[tokio::test]
async fn a_missing_database_stops_the_start() {
    let mut world = World::new().await;
    assert!(world.server.stop().await.success());
    let state = world.server.dir().join("state");
    for file in ["server.db", "server.db-wal", "server.db-shm"] {
        let _ = std::fs::remove_file(state.join(file));
    }
    let (status, log) = world.server.start_in_vain().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("server.db"), "{log}");
    assert!(
        !state.join("server.db").exists(),
        "it must not be made anew"
    );
}

#[tokio::test]
async fn a_target_that_is_not_allowed_is_refused_at_open() {
    let mut world = World::new().await;
    let client = world.joined().await;
    for target in ["http://192.0.2.1:80", "unix:/etc/passwd", "file:/etc"] {
        let said = ctl(client.socket(), &["open", target]).await;
        assert_eq!(said.code, 4, "{target}: {said:?}");
        assert!(said.err.contains("[origins]"), "{target}: {said:?}");
    }
    let own = format!("unix:{}", client.socket().display());
    assert_eq!(ctl(client.socket(), &["open", &own]).await.code, 4);
}

#[tokio::test]
async fn nobody_acts_on_anothers_tunnels() {
    let mut world = World::new().await;
    let alice = world.client().await;
    let bob = world.client().await;
    let token = world.invite(&["--user", "alice"]).await;
    ctl(alice.socket(), &["join", &token]).await.ok();
    let token = world.invite(&["--user", "bob"]).await;
    ctl(bob.socket(), &["join", &token]).await.ok();
    let origin = Origin::named("alice's").await;
    let tunnel = open(&alice, &[&origin.target(), "--name", "app"]).await;
    for key in ["app", tunnel["id"].as_str().unwrap()] {
        assert_eq!(ctl(bob.socket(), &["show", key]).await.code, 5);
        assert_eq!(ctl(bob.socket(), &["close", key]).await.code, 5);
    }
    ctl(alice.socket(), &["close", "app"]).await.ok();
    // The name stays alice's through the quarantine.
    assert_eq!(
        ctl(bob.socket(), &["open", &origin.target(), "--name", "app"])
            .await
            .code,
        6
    );
    open(&alice, &[&origin.target(), "--name", "app"]).await;
}

#[tokio::test]
async fn a_revoked_device_is_cut_and_stays_out() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let devices = world.server_ctl(&["devices"]).await.ok().json();
    let id = devices["devices"][0]["id"].as_str().unwrap().to_owned();
    world.server_ctl(&["revoke", &id]).await.ok();
    assert_eq!(
        world.visitor("app").get("/").await.status,
        http::StatusCode::GONE
    );
    world.server.crash().await;
    world.server.start().await;
    client.crash().await;
    client.start().await;
    crate::world::eventually("the client is refused", || async {
        let status = ctl(client.socket(), &["--json", "status"]).await.json();
        (status["link"]["state"] == "refused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn leaving_ends_everything_and_joining_again_works() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    ctl(client.socket(), &["leave"]).await.ok();
    assert_eq!(
        world.visitor("app").get("/").await.status,
        http::StatusCode::GONE
    );
    assert_eq!(ctl(client.socket(), &["open", "3000"]).await.code, 4);
    world.join(&client).await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    assert_eq!(world.visitor("app").get("/").await.text(), "x");
}

#[tokio::test]
async fn declared_tunnels_follow_their_file() {
    let mut world = World::new().await;
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let entry = |origin: &Origin| {
        format!(
            "[[tunnel]]\nname = \"blog\"\ntarget = \"{}\"\n",
            origin.port
        )
    };
    let client = world.client_with(&entry(&one)).await;
    world.join(&client).await;
    crate::world::eventually("it opens at join", || async {
        (world.visitor("blog").get("/").await.text() == "one").then_some(())
    })
    .await;
    let text = std::fs::read_to_string(client.config_file()).unwrap();
    std::fs::write(
        client.config_file(),
        text.replace(&entry(&one), &entry(&two)),
    )
    .unwrap();
    ctl(client.socket(), &["reload"]).await.ok();
    assert_eq!(world.visitor("blog").get("/").await.text(), "two");
    std::fs::write(client.config_file(), text.replace(&entry(&one), "")).unwrap();
    ctl(client.socket(), &["reload"]).await.ok();
    crate::world::eventually("it closes with its entry", || async {
        (world.visitor("blog").get("/").await.status == http::StatusCode::GONE).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_domain_that_waits_for_a_restart_changes_nothing_before() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let old = format!("domain = \"{}\"", crate::world::DOMAIN);
    world.rewrite_server(|text| text.replace(&old, "domain = \"elsewhere.test\""));
    for _ in 0..2 {
        let said = world.server_ctl(&["reload"]).await.ok();
        assert!(
            said.out.contains("domain takes effect at the next start"),
            "{said:?}"
        );
        assert_eq!(world.visitor("app").get("/").await.text(), "x");
    }
    let status = world.server_ctl(&["status"]).await.ok().json();
    assert_eq!(status["domain"], crate::world::DOMAIN, "{status}");
}

#[tokio::test]
async fn a_new_state_directory_does_not_open_the_one_in_use() {
    let mut world = World::new().await;
    let client = world.client_with("[origins]\nfiles = [\"/\"]\n").await;
    world.join(&client).await;
    let state = client.dir().join("state");
    let text = std::fs::read_to_string(client.config_file()).unwrap();
    let other = client.dir().join("other");
    let text = text.replace(&format!("{state:?}"), &format!("{other:?}"));
    std::fs::write(client.config_file(), text).unwrap();
    ctl(client.socket(), &["reload"]).await.ok();
    let target = format!("file:{}", state.display());
    let said = ctl(client.socket(), &["open", &target]).await;
    assert_eq!(said.code, 4, "{said:?}");
}

#[tokio::test]
async fn two_joins_at_once_are_one_join() {
    let mut world = World::new().await;
    let client = world.client().await;
    let (one, two) = (world.invite(&[]).await, world.invite(&[]).await);
    let join = async |token: &str| ctl(client.socket(), &["join", token]).await;
    let (first, second) = tokio::join!(join(&one), join(&two));
    let mut codes = [first.code, second.code];
    codes.sort_unstable();
    assert_eq!(codes, [0, 6], "{first:?} {second:?}");
}
