//! Users are walls, with the real binaries: every call of the admin API about a tunnel, by another user's
//! client and by another device of the same user; and what the flags and commands of a policy do.

use std::os::unix::fs::PermissionsExt;

use http::StatusCode;
use serde_json::{Value, json};
use wormkey::admin::ApiClient;

use crate::origin::Origin;
use crate::world::{Daemon, World, ctl, eventually, open};

fn api(daemon: &Daemon) -> ApiClient {
    ApiClient::new(daemon.socket().to_owned())
}

#[tokio::test]
async fn no_call_of_another_client_reaches_a_tunnel() {
    let mut world = World::new().await;
    let alice = world.client().await;
    let token = world.invite(&["--user", "alice"]).await;
    ctl(alice.socket(), &["join", &token]).await.ok();
    let origin = Origin::named("inside").await;
    let target = origin.target();
    let app = open(&alice, &[&target, "--name", "app", "--share"]).await;
    let made = ctl(
        alice.socket(),
        &["--json", "share", "app", "--expires", "10m"],
    )
    .await;
    let share = made.ok().json()["id"].as_str().unwrap().to_owned();
    let id = app["id"].as_str().unwrap();

    for user in ["mallory", "alice"] {
        let other = world.client().await;
        let token = world.invite(&["--user", user]).await;
        ctl(other.socket(), &["join", &token]).await.ok();
        for key in ["app", id] {
            for line in [
                vec!["show", key],
                vec!["close", key],
                vec!["set", key, "--no-share"],
                vec!["share", key, "--expires", "1h"],
                vec!["share", key, "--list"],
            ] {
                let said = ctl(other.socket(), &line).await;
                assert_ne!(said.code, 0, "{user} {line:?}: {}", said.out);
                assert!(
                    said.err.contains("there is no tunnel"),
                    "{line:?}: {}",
                    said.err
                );
            }
        }
        let revoke = ["share", "app", "--revoke", &share];
        let said = ctl(other.socket(), &revoke).await;
        assert_ne!(said.code, 0, "{user}: {}", said.out);
        let taken = ctl(other.socket(), &["open", &target, "--name", "app"]).await;
        assert_ne!(taken.code, 0, "{user}: {}", taken.out);
        let listed = ctl(other.socket(), &["--json", "list", "--all"]).await;
        assert!(!listed.ok().out.contains(id), "{user}");
        // The operator's calls are not there on a client's socket.
        for (path, ask) in [
            ("/v1/suspend", json!({"what": "app"})),
            ("/v1/resume", json!({"what": "app"})),
            ("/v1/revoke", json!({"what": share})),
            ("/v1/invites", json!({})),
        ] {
            let refused = api(&other).post::<_, Value>(path, &ask).await;
            assert_eq!(refused.unwrap_err().code().as_str(), "not_found", "{path}");
        }
    }
    let listed = ctl(alice.socket(), &["--json", "share", "app", "--list"]).await;
    assert_eq!(listed.ok().json()["shares"][0]["id"], *share);
    let shown = ctl(alice.socket(), &["--json", "show", "app"]).await.ok();
    assert_eq!(shown.json()["policy"], json!({"share": "required"}));
    ctl(alice.socket(), &["share", "app", "--revoke", &share])
        .await
        .ok();
    let listed = ctl(alice.socket(), &["--json", "share", "app", "--list"]).await;
    assert_eq!(listed.ok().json()["shares"], json!([]));
}

#[tokio::test]
async fn what_the_flags_say_is_in_force_and_opening_again_says_it_anew() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let target = origin.target();
    open(&client, &[&target, "--name", "app"]).await;
    let visitor = world.visitor("app");
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    // Who opens it again with a lock gets a lock.
    let again = open(&client, &[&target, "--name", "app", "--auth"]).await;
    assert_eq!(again["credentials"]["user"], "guest");
    assert_eq!(visitor.get("/").await.status, StatusCode::UNAUTHORIZED);
    // And without a word about visitors nothing changes.
    let same = open(&client, &[&target, "--name", "app"]).await;
    assert_eq!(same["policy"]["auth"][0]["hash"], "[redacted]");
    assert_eq!(visitor.get("/").await.status, StatusCode::UNAUTHORIZED);
    ctl(
        client.socket(),
        &["set", "app", "--no-auth", "--deny-path", "/admin/**"],
    )
    .await
    .ok();
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    assert_eq!(visitor.get("/admin/x").await.error(), "forbidden");
    ctl(client.socket(), &["set", "app", "--allow-method", "GET"])
        .await
        .ok();
    assert_eq!(visitor.get("/admin/x").await.error(), "forbidden");

    world.server_ctl(&["suspend", "app"]).await.ok();
    assert_eq!(visitor.get("/").await.error(), "suspended");
    let tunnels = world.server_ctl(&["tunnels"]).await.ok().json();
    assert_eq!(tunnels["tunnels"][0]["state"], "suspended");
    world.server_ctl(&["resume", "app"]).await.ok();
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    // While the server is away nothing is changed.
    world.server.stop().await;
    let away = ctl(client.socket(), &["set", "app", "--no-deny-path"]).await;
    assert_eq!(away.code, 7, "{}", away.err);
}

#[tokio::test]
async fn a_declared_tunnel_has_the_rules_of_its_entry_after_each_reload() {
    let mut world = World::new().await;
    let origin = Origin::named("inside").await;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("bob");
    std::fs::write(&secret, "correct horse\n").unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let entry = format!(
        "[[tunnel]]\nname = \"app\"\ntarget = {:?}\nauth = [\"bob:@{}\"]\n",
        origin.target(),
        secret.display()
    );
    let client = world.client_with(&entry).await;
    world.join(&client).await;
    let visitor = world.visitor("app");
    eventually("it asks for a password", || async {
        let answer = visitor.try_get("/").await.ok()?;
        (answer.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
    // What did not change is left alone.
    let notes = ctl(client.socket(), &["--json", "reload"])
        .await
        .ok()
        .json();
    assert_eq!(notes["notes"], json!([]));
    let config = std::fs::read_to_string(client.config_file()).unwrap();
    let denied = config.replace("auth = [", "deny = [\"127.0.0.0/8\"]\nauth = [");
    std::fs::write(client.config_file(), denied).unwrap();
    ctl(client.socket(), &["reload"]).await.ok();
    eventually("it denies", || async {
        let answer = visitor.try_get("/").await.ok()?;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    // Without its secret nothing of it changes, and that is told.
    std::fs::remove_file(&secret).unwrap();
    std::fs::write(client.config_file(), config).unwrap();
    let notes = ctl(client.socket(), &["reload"]).await.ok();
    assert!(notes.out.contains("nothing of it changes"), "{}", notes.out);
    assert_eq!(visitor.get("/").await.status, StatusCode::FORBIDDEN);
}
