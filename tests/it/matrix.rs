//! Every call of the admin API, by enumeration: made through their own client by another user and by
//! another device of the same user, and by no one. A route of the source without a row here fails.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::origin::Origin;
use crate::world::{Daemon, PATIENCE, World, ctl, open};

/// What somebody who is not the owner gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    /// An answer about what is their own, without a word about the other's.
    Own,
    /// An error with this status and code.
    Refusal(u16, &'static str),
}

use Gets::{Own, Refusal};

const MISSING: Gets = Refusal(404, "not_found");

/// The calls of a client's socket; what ends the client comes last. `{key}` is the other's tunnel, `{share}`
/// its share link.
const CLIENT: &[(&str, &str, Gets)] = &[
    ("GET", "/v1/tunnels", Own),
    ("POST", "/v1/tunnels", Refusal(409, "name_taken")),
    ("GET", "/v1/tunnels/{key}", MISSING),
    ("DELETE", "/v1/tunnels/{key}", MISSING),
    ("PATCH", "/v1/tunnels/{key}", MISSING),
    ("PATCH", "/v1/tunnels/{key}/domains", MISSING),
    ("GET", "/v1/tunnels/{key}/shares", MISSING),
    ("POST", "/v1/tunnels/{key}/shares", MISSING),
    ("DELETE", "/v1/shares/{key}", MISSING),
    ("GET", "/v1/status", Own),
    ("GET", "/v1/doctor", Own),
    ("POST", "/v1/doctor", Own),
    ("GET", "/v1/visits", Own),
    ("POST", "/v1/join", Refusal(403, "bad_token")),
    ("POST", "/v1/reload", Own),
    ("GET", "/v1/drain", Own),
    ("GET", "/v1/log-level", Own),
    ("PUT", "/v1/log-level", Own),
    ("GET", "/v1/events", Own),
    ("GET", "/healthz", Own),
    ("GET", "/readyz", Own),
    ("GET", "/metrics", Own),
    ("POST", "/v1/leave", Own),
    ("POST", "/v1/drain", Own),
];

/// The calls of the server's socket, which are the operator's alone.
const SERVER: &[(&str, &str)] = &[
    ("GET", "/v1/tunnels"),
    ("GET", "/v1/tunnels/{key}"),
    ("DELETE", "/v1/tunnels/{key}"),
    ("PATCH", "/v1/tunnels/{key}"),
    ("GET", "/v1/status"),
    ("GET", "/v1/doctor"),
    ("POST", "/v1/doctor"),
    ("GET", "/v1/devices"),
    ("DELETE", "/v1/devices/{key}"),
    ("GET", "/v1/links"),
    ("GET", "/v1/users"),
    ("POST", "/v1/invites"),
    ("POST", "/v1/revoke"),
    ("POST", "/v1/suspend"),
    ("POST", "/v1/resume"),
    ("GET", "/v1/backup"),
    ("GET", "/v1/audit"),
    ("POST", "/v1/reload"),
    ("GET", "/v1/drain"),
    ("POST", "/v1/drain"),
    ("GET", "/v1/log-level"),
    ("PUT", "/v1/log-level"),
    ("GET", "/v1/events"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
];

/// What a call needs to be understood.
fn body(method: &str, path: &str, target: &str) -> Value {
    match (method, path) {
        ("POST", "/v1/tunnels") => json!({"target": target, "name": "app"}),
        ("PATCH", "/v1/tunnels/{key}/domains") => json!({"add": ["app.example.org"]}),
        ("PATCH", _) => json!({"policy": {}, "parts": []}),
        ("POST", "/v1/tunnels/{key}/shares") => json!({"expires": "1h"}),
        ("POST", "/v1/join") => json!({"token": "wkj_x"}),
        ("POST", "/v1/revoke" | "/v1/suspend" | "/v1/resume") => json!({"what": "app"}),
        _ => json!({}),
    }
}

/// Says one request; the status, and what came within a moment or until the end.
async fn say(
    daemon: &Daemon,
    method: &str,
    path: &str,
    fields: &str,
    body: &Value,
) -> (u16, String) {
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{fields}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let exchange = async {
        let mut socket = UnixStream::connect(daemon.socket()).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let _ = socket.read_to_end(&mut answer).await;
    };
    // Events have no end; all that is remembered comes at once.
    let patience = match path {
        "/v1/events" => Duration::from_secs(1),
        _ => PATIENCE,
    };
    let ended = tokio::time::timeout(patience, exchange).await;
    assert!(
        ended.is_ok() || path == "/v1/events",
        "{method} {path} has no end"
    );
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|s| s.parse().ok());
    (
        status.unwrap_or_else(|| panic!("{method} {path}: {answer:?}")),
        answer,
    )
}

/// `(method, path)` of every `.route(…)` in a piece of source.
fn routes_in(source: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for piece in source.split(".route(").skip(1) {
        let (_, quoted) = piece.split_once('"').unwrap();
        let (path, rest) = quoted.split_once('"').unwrap();
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let methods = &rest[..end.expect("a route is closed")];
        for method in [
            "get", "post", "put", "patch", "delete", "head", "any", "options",
        ] {
            if methods.contains(&format!("{method}(")) {
                found.insert((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    found
}

/// The function of that name in a source, to its end.
fn function<'a>(source: &'a str, name: &str) -> &'a str {
    let begin = source.find(&format!("fn {name}<")).expect("it is there");
    let rest = &source[begin..];
    &rest[..rest.find("\n}\n").expect("it ends")]
}

#[test]
fn every_route_has_a_row() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let routes = std::fs::read_to_string(source.join("routes.rs")).unwrap();
    let health = std::fs::read_to_string(source.join("health.rs")).unwrap();
    let common = routes_in(&(function(&routes, "finish").to_owned() + function(&health, "routes")));
    // None of them stands anywhere else.
    let mut all = 0;
    for file in std::fs::read_dir(&source).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() && !path.ends_with("testing.rs") && !path.ends_with("tests.rs") {
            all += std::fs::read_to_string(path)
                .unwrap()
                .matches(".route(")
                .count();
        }
    }
    let parts = ["client", "server", "finish"].map(|name| function(&routes, name));
    let known = parts.iter().map(|part| part.matches(".route(").count());
    let known = known.sum::<usize>() + function(&health, "routes").matches(".route(").count();
    assert_eq!(
        all, known,
        "routes outside of the functions that are read here"
    );

    let owned = |&(method, path): &(&str, &str)| (method.to_owned(), path.to_owned());
    let rows: BTreeSet<_> = CLIENT.iter().map(|(m, p, _)| owned(&(m, p))).collect();
    assert_eq!(rows, &routes_in(parts[0]) | &common);
    let rows: BTreeSet<_> = SERVER.iter().map(owned).collect();
    assert_eq!(rows, &routes_in(parts[1]) | &common);
}

/// Alice with a tunnel and a share link, and how both stand.
struct Owned {
    alice: Daemon,
    target: String,
    id: String,
    share: String,
    _origin: Origin,
}

impl Owned {
    async fn new(world: &mut World) -> Self {
        let alice = world.client().await;
        let token = world.invite(&["--user", "alice"]).await;
        ctl(alice.socket(), &["join", &token]).await.ok();
        let origin = Origin::named("inside").await;
        let target = origin.target();
        let app = open(
            &alice,
            &[&target, "--name", "app", "--share", "--idle", "never"],
        )
        .await;
        let made = ctl(
            alice.socket(),
            &["--json", "share", "app", "--expires", "10h"],
        )
        .await;
        Self {
            alice,
            target,
            id: app["id"].as_str().unwrap().to_owned(),
            share: made.ok().json()["id"].as_str().unwrap().to_owned(),
            _origin: origin,
        }
    }

    async fn stands(&self, world: &World) -> (Value, Value, Value) {
        let shares = ctl(self.alice.socket(), &["--json", "share", "app", "--list"]);
        let shares = shares.await.ok().json();
        let tunnels = world.server_ctl(&["tunnels"]).await.ok().json();
        let hers = |tunnel: &&Value| tunnel["id"] == self.id.as_str();
        let shown = tunnels["tunnels"].as_array().unwrap().iter().find(hers);
        let shown = shown.expect("it is there").clone();
        let devices = world.server_ctl(&["devices"]).await.ok().json();
        let revoked = devices["devices"].as_array().unwrap().iter();
        let revoked = revoked.map(|device| device["revoked_at"].clone()).collect();
        (shown, shares, revoked)
    }
}

#[tokio::test]
async fn no_call_of_anybody_else_reaches_a_tunnel() {
    let mut world = World::new().await;
    let owned = Owned::new(&mut world).await;
    let (shown, shares, _) = owned.stands(&world).await;
    for user in ["mallory", "alice"] {
        let other = world.client().await;
        let token = world.invite(&["--user", user]).await;
        ctl(other.socket(), &["join", &token]).await.ok();
        // What is the operator's is not there on a client's socket.
        for (method, path) in SERVER {
            if CLIENT.iter().any(|(_, there, _)| there == path) {
                continue;
            }
            let called = path.replace("{key}", "app");
            let body = body(method, path, &owned.target);
            let (status, said) = say(&other, method, &called, "Host: localhost\r\n", &body).await;
            assert_eq!(status, 404, "{method} {called}: {said}");
        }
        for &(method, path, gets) in CLIENT {
            let body = body(method, path, &owned.target);
            for key in ["app", &owned.id] {
                let key = if path.starts_with("/v1/shares/") {
                    &owned.share
                } else {
                    key
                };
                let called = path.replace("{key}", key);
                let (status, said) =
                    say(&other, method, &called, "Host: localhost\r\n", &body).await;
                let what = format!("{user}: {method} {called}: {said}");
                match gets {
                    Own => {
                        assert!((200..300).contains(&status), "{what}");
                        let told = said.contains(&owned.id) || said.contains(&owned.share);
                        assert!(!told, "{what}");
                    }
                    Refusal(expected, code) => {
                        assert_eq!(status, expected, "{what}");
                        assert!(said.contains(&format!("\"{code}\"")), "{what}");
                    }
                }
                if !path.contains("{key}") {
                    break;
                }
            }
        }
    }
    let now = owned.stands(&world).await;
    assert_eq!((now.0, now.1), (shown, shares));
}

#[tokio::test]
async fn no_call_of_a_web_page_is_taken() {
    let mut world = World::new().await;
    let owned = Owned::new(&mut world).await;
    let before = owned.stands(&world).await;
    let client = CLIENT
        .iter()
        .map(|&(method, path, _)| (&owned.alice, method, path));
    let server = SERVER
        .iter()
        .map(|&(method, path)| (&world.server, method, path));
    for (daemon, method, path) in client.chain(server) {
        let body = body(method, path, &owned.target);
        let called = path.replace("{key}", "app");
        for fields in [
            "Host: localhost\r\nOrigin: https://evil.test\r\n",
            "Host: evil.test\r\n",
        ] {
            let (status, said) = say(daemon, method, &called, fields, &body).await;
            assert_eq!(status, 403, "{method} {called} with {fields:?}: {said}");
        }
    }
    assert_eq!(owned.stands(&world).await, before);
}
