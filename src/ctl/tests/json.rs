use serde_json::{Value, json};

use super::Shell;
use crate::admin::testing::{Daemon, tunnel};

/// Runs a line; its one document, and nothing else anywhere.
async fn document(daemon: &Daemon, line: &str) -> Value {
    let ended = Shell::to(daemon).run(&format!("{line} --json")).await;
    assert_eq!((ended.exit, &*ended.err), (0, ""), "{line}");
    assert_eq!(ended.out.lines().count(), 1, "{line}: {}", ended.out);
    serde_json::from_str(&ended.out).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn every_command_of_the_client_prints_one_document() {
    let daemon = Daemon::client();
    let opened = document(&daemon, "open 3000").await;
    for key in [
        "id",
        "slug",
        "url",
        "kind",
        "target",
        "state",
        "expires_at",
        "created_at",
    ] {
        assert!(opened.get(key).is_some(), "{key}");
    }
    assert_eq!(opened["expires_at"], Value::Null, "absent is null");
    assert_eq!(opened["created_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(
        document(&daemon, "open 3000").await,
        opened,
        "the same again is the same"
    );
    assert_eq!(document(&daemon, "show quiet-lime-82").await, opened);
    let list = document(&daemon, "list").await;
    assert_eq!(list, json!({"tunnels": [opened]}));
    let closed = document(&daemon, "close quiet-lime-82").await;
    let one = json!({"id": opened["id"], "slug": "quiet-lime-82", "state": "closed"});
    assert_eq!(closed, json!({"closed": [one]}));
    assert_eq!(
        document(&daemon, "close --all").await,
        json!({"closed": []})
    );
    assert_eq!(document(&daemon, "list").await, json!({"tunnels": []}));
    let status = document(&daemon, "status").await;
    assert_eq!(
        (&status["joined"], &status["link"]["state"]),
        (&json!(false), &json!("not_joined"))
    );
    assert_eq!(keys(&document(&daemon, "reload").await), ["notes"]);
    assert_eq!(document(&daemon, "leave").await, json!({"left": true}));
    daemon.stop().await;
}

#[tokio::test]
async fn every_command_of_the_server_prints_one_document() {
    let daemon = Daemon::server();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    let invite = document(&daemon, "server invite").await;
    let expected =
        json!({"id": null, "token": "wkj_secret", "expires_at": "2023-11-15T06:13:20.000Z"});
    assert_eq!(invite, expected);
    assert_eq!(keys(&document(&daemon, "server users").await), ["users"]);
    assert_eq!(
        keys(&document(&daemon, "server devices").await),
        ["devices"]
    );
    assert_eq!(
        keys(&document(&daemon, "server tunnels").await),
        ["tunnels"]
    );
    assert_eq!(
        keys(&document(&daemon, "server audit").await),
        ["audit", "next"]
    );
    assert_eq!(document(&daemon, "server status").await["links"], 2);
    assert_eq!(keys(&document(&daemon, "server reload").await), ["notes"]);
    assert_eq!(
        document(&daemon, "server revoke laptop").await,
        json!({"revoked": "laptop"})
    );
    let closed = document(&daemon, "server close app").await;
    assert_eq!(closed["closed"][0]["state"], "closed");
    daemon.stop().await;
}

#[tokio::test]
async fn more_tunnels_than_a_page_holds_are_listed_all() {
    let daemon = Daemon::client();
    let mut tunnels = Vec::new();
    for number in 0..2500_u32 {
        let mut one = tunnel(0, &format!("t{number}"));
        let mut bytes = [0; 16];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        one.id = crate::names::TunnelId::from_bytes(bytes);
        tunnels.push(one);
    }
    daemon.fake.state().tunnels = tunnels;
    let list = document(&daemon, "list").await;
    let list = list["tunnels"].as_array().unwrap();
    assert_eq!((list.len(), &list[2499]["slug"]), (2500, &json!("t2499")));
    daemon.stop().await;
}

#[tokio::test]
async fn no_command_at_all_is_a_problem_without_the_whole_help() {
    let ended = Shell::new().run("--json").await;
    let problem: Value = serde_json::from_str(&ended.err).unwrap();
    let said = json!({"code": "usage", "detail": "there is no command", "fix": "see `wormkeyctl --help`", "exit": 2});
    assert_eq!((ended.exit, problem), (2, said));
}
