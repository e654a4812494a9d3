//! The access log of a real server: one line for each visit, whatever became of it, past the log's level;
//! and switched by a reload.

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::origin::Origin;
use crate::visitor::{post, whole};
use crate::world::{Daemon, PATIENCE, World, ctl, eventually, open};

const FULL: &str = "[log]\naccess = \"full\"\nformat = \"json\"\nlevel = \"error\"\n";

/// The fields of the line of one visit, once it is there; there must be one only.
async fn line_of(server: &Daemon, visit: &str) -> Value {
    eventually("the visit's line", || async {
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains(visit));
        let mut lines: Vec<Value> = lines.map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(lines.len() < 2, "{lines:#?}");
        let mut line = lines.pop()?;
        assert_eq!(line["target"], "wormkey::access");
        Some(line["fields"].take())
    })
    .await
}

#[tokio::test]
async fn each_visit_has_one_line_with_what_became_of_it() {
    let mut world = World::with(FULL).await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let visitor = world.visitor("app");
    let id = |answer: &crate::visitor::Answer| {
        let id = answer.fields.get("wormkey-request-id");
        id.map(|id| id.to_str().unwrap().to_owned())
    };

    let sent = visitor
        .send2(post("/echo?token=hidden", "twelve bytes"))
        .await;
    let echoed = whole(sent.unwrap()).await.unwrap();
    assert_eq!(echoed.text(), "twelve bytes");
    let served = eventually("a line for the echo", || async {
        let log = world.server.log();
        let line = log.lines().find(|line| line.contains("/echo"))?;
        Some(serde_json::from_str::<Value>(line).unwrap()["fields"].take())
    })
    .await;
    for (field, value) in [
        ("method", "POST"),
        ("host", &visitor.authority()),
        ("path", "/echo"),
        ("tunnel", "app"),
        ("kind", "http"),
        ("version", "2"),
        ("decision", "admit"),
        ("rule", "default"),
    ] {
        assert_eq!(served[field], value, "{field} of {served:#}");
    }
    assert_eq!(served["status"], 200);
    assert_eq!(
        (&served["bytes_in"], &served["bytes_out"]),
        (&12.into(), &12.into())
    );
    assert_eq!(served["complete"], true);
    let (first, all) = (served["first_ms"].as_f64(), served["ms"].as_f64());
    assert!(first.unwrap() > 0.0 && first <= all, "{served:#}");
    assert!(served["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(served.get("code").is_none(), "{served:#}");
    assert!(!world.server.log().contains("hidden"), "a query was logged");

    let unknown = world.visitor("nobody").get("/x").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let line = line_of(&world.server, &id(&unknown).unwrap()).await;
    assert_eq!(line["decision"], "refuse");
    assert_eq!(line["code"], "no_such_tunnel");
    assert_eq!(line["version"], "1.1");
    assert_eq!(line["bytes_out"], unknown.body.len());

    // The answer breaks off in its middle; an origin that breaks before its head is out is another matter.
    eventually("an answer that breaks off", || async {
        match visitor.try_get("/abort").await {
            Err(_) => Some(()),
            Ok(answer) => {
                assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
                None
            }
        }
    })
    .await;
    let line = eventually("a line for what broke off", || async {
        let log = world.server.log();
        let lines = log.lines().filter(|line| line.contains("/abort"));
        lines
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["fields"].take())
            .find(|fields| fields["status"] == 200)
    })
    .await;
    assert_eq!(
        (&line["status"], &line["complete"]),
        (&200.into(), &false.into())
    );

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    open(&client, &[&target, "--name", "dead"]).await;
    let failed = world.visitor("dead").get("/").await;
    let line = line_of(&world.server, &id(&failed).unwrap()).await;
    // It was let in, and failed behind that.
    assert_eq!(line["decision"], "admit");
    assert_eq!(line["code"], failed.error());
    assert_eq!(line["status"], failed.status.as_u16());
}

#[tokio::test]
async fn connections_have_a_line_too_and_a_reload_switches_it() {
    let mut world = World::with_ports().await;
    let client = world.joined().await;
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp://{}", origin.local_addr().unwrap());
    // Without the look that `open` takes at it: every connection is a visit.
    let tunnel = open(&client, &[&target, "--name", "raw", "--yes-expose"]).await;
    let port = u16::try_from(tunnel["public_port"].as_u64().unwrap()).unwrap();
    let talk = async || {
        let mut visitor = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        visitor.write_all(b"ping").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut heard = Vec::new();
        // Who only looks whether somebody is there says nothing.
        let mut there = loop {
            let (mut there, _) = origin.accept().await.unwrap();
            there.read_to_end(&mut heard).await.unwrap();
            if heard == b"ping" {
                break there;
            }
        };
        there.write_all(b"pong!").await.unwrap();
        drop(there);
        heard.clear();
        visitor.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"pong!");
    };
    talk().await;
    assert!(!world.server.log().contains("wormkey::access"));

    let full = "\n[log]\naccess = \"full\"\n";
    world.rewrite_server(|text| format!("{text}{full}"));
    world.server_ctl(&["reload"]).await.ok();
    talk().await;
    let line = eventually("the line of the connection", || async {
        let log = world.server.log();
        Some(
            log.lines()
                .find(|l| l.contains("wormkey::access"))?
                .to_owned(),
        )
    })
    .await;
    for fact in [
        "tunnel=raw",
        "kind=tcp",
        "bytes_in=4",
        "bytes_out=5",
        "complete=true",
        "decision=admit",
    ] {
        assert!(line.contains(fact), "{fact} in {line}");
    }

    world.rewrite_server(|text| text);
    world.server_ctl(&["reload"]).await.ok();
    let before = world.server.log().len();
    talk().await;
    // A server that ends has written all its lines.
    world.server.stop().await;
    assert!(!world.server.log()[before..].contains("wormkey::access"));
}

#[tokio::test]
async fn the_audit_is_found_by_the_names_that_people_know() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    ctl(client.socket(), &["close", "app"]).await.ok();
    world.server_ctl(&["reload"]).await.ok();
    let actions = async |args: &[&str]| -> Vec<String> {
        let found = world.server_ctl(&[&["audit"], args].concat()).await.ok();
        let found = found.json();
        let rows = found["audit"].as_array().unwrap();
        rows.iter()
            .map(|row| row["action"].as_str().unwrap().to_owned())
            .collect()
    };
    let of_app = ["tunnel.open", "tunnel.close"];
    assert_eq!(actions(&["--subject", "app"]).await, of_app);
    assert_eq!(actions(&["--actor", "default"]).await, of_app);
    assert_eq!(actions(&["--actor", "nobody"]).await, [""; 0]);
    let uid = nix::unistd::getuid().to_string();
    let mine = actions(&["--actor", &uid, "--since", "1h"]).await;
    assert_eq!(mine, ["user.create", "invite.create", "server.reload"]);
    assert_eq!(actions(&["--since", "2100-01-01T00:00:00Z"]).await, [""; 0]);

    let opened = world
        .server_ctl(&["audit", "--subject", "app", "--limit", "1"])
        .await;
    let row = opened.ok().json()["audit"][0].take();
    assert_eq!(row["user"], "default");
    assert!(row["actor"].as_str().unwrap().starts_with("dev_"));
    assert!(row["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn a_clients_logs_show_what_visited_and_what_visits() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let visitor = world.visitor("app");
    visitor.get("/bytes/7?token=hidden").await;
    let shown = eventually("the visit is remembered", || async {
        let said = ctl(client.socket(), &["--json", "logs", "app"]).await.ok();
        let visits = said.json()["visits"].take();
        (!visits.as_array().unwrap().is_empty()).then_some(visits)
    })
    .await;
    assert_eq!(
        (&shown[0]["path"], &shown[0]["bytes_out"]),
        (&"/bytes/7".into(), &7.into())
    );

    let mut follow = tokio::process::Command::new(env!("CARGO_BIN_EXE_wormkeyctl"));
    let mut follow = follow
        .arg("--socket")
        .arg(client.socket())
        .args(["--json", "logs", "-f"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut path = async || -> String {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap();
        let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        line["path"].as_str().unwrap().to_owned()
    };
    assert_eq!(path().await, "/bytes/7");
    visitor.get("/bytes/8").await;
    assert_eq!(path().await, "/bytes/8");
}
