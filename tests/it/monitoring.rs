//! What monitoring and systemd see of real daemons, and what a backup brings back.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::origin::Origin;
use crate::world::{Daemon, PATIENCE, World, ctl, eventually, open};

/// Where a daemon says that it serves metrics.
fn metrics_of(daemon: &Daemon) -> SocketAddr {
    let log = daemon.log();
    let told = log.rsplit("metrics=").next().expect("it says where");
    told.split_whitespace().next().unwrap().parse().unwrap()
}

/// The status and the body.
async fn ask(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn value(page: &str, series: &str) -> f64 {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in:\n{page}"))
        .parse()
        .unwrap()
}

/// The parts that are not well, with the reasons.
fn unwell(body: &str) -> Vec<(String, String)> {
    let ready: Value = serde_json::from_str(body).unwrap();
    let parts = ready["parts"].as_array().unwrap().iter();
    parts
        .filter(|part| part["ready"] == false)
        .map(|part| {
            let text = |key: &str| part[key].as_str().unwrap().to_owned();
            (text("name"), text("reason"))
        })
        .collect()
}

const LISTEN: &str = "[metrics]\nlisten = \"127.0.0.1:0\"";

#[tokio::test]
async fn scrapers_see_visits_tunnels_and_links_of_both_roles() {
    let mut world = World::with(LISTEN).await;
    let client = world.client_with(LISTEN).await;
    let (ours, theirs) = (metrics_of(&world.server), metrics_of(&client));
    let (status, body) = ask(theirs, "/readyz").await;
    assert_eq!(status, 503);
    let names: Vec<_> = unwell(&body).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["joined", "link"], "{body}");
    world.join(&client).await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    assert_eq!(world.visitor("app").get("/").await.status, StatusCode::OK);
    let missing = world.visitor("nobody").get("/").await.status;
    assert_eq!(missing, StatusCode::NOT_FOUND);
    let page = eventually("both visits are counted", || async {
        let (status, page) = ask(ours, "/metrics").await;
        assert_eq!(status, 200);
        let counted = page.contains("wormkey_visits_total{status=\"2xx\",code=\"origin\"} 1\n")
            && page.contains("wormkey_visits_total{status=\"4xx\",code=\"no_such_tunnel\"} 1\n");
        counted.then_some(page)
    })
    .await;
    assert_eq!(value(&page, "wormkey_visit_duration_seconds_count"), 2.0);
    assert_eq!(value(&page, "wormkey_links{state=\"up\"}"), 1.0);
    assert_eq!(value(&page, "wormkey_tunnels{state=\"open\"}"), 1.0);
    assert_eq!(value(&page, "wormkey_visits_held"), 0.0);
    assert_eq!(value(&page, "wormkey_limit{of=\"held_visits\"}"), 4096.0);
    assert!(value(&page, "wormkey_store_transactions_total") >= 3.0);
    assert!(value(&page, "wormkey_certificate_expiry_timestamp_seconds") > 1.7e9);
    assert!(value(&page, "wormkey_store_size_bytes") > 4096.0);
    let (_, page) = ask(theirs, "/metrics").await;
    assert_eq!(value(&page, "wormkey_link_up"), 1.0);
    assert_eq!(value(&page, "wormkey_visits_passed_total"), 1.0);
    assert_eq!(value(&page, "wormkey_ready{part=\"link\"}"), 1.0);
    assert!(value(&page, "wormkey_store_transactions_total") >= 2.0);
    assert!(value(&page, "wormkey_store_size_bytes") > 4096.0);
    for addr in [ours, theirs] {
        assert_eq!(ask(addr, "/readyz").await.0, 200);
        assert_eq!(ask(addr, "/healthz").await.0, 200);
        assert_eq!(
            ask(addr, "/v1/status").await.0,
            404,
            "no admin API over TCP"
        );
    }
}

#[tokio::test]
async fn a_backup_brings_back_what_was_there_and_nothing_that_came_after() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("x").await;
    open(&client, &[&origin.target(), "--name", "early"]).await;
    let file = world.server.dir().join("backup.db");
    let path = file.to_str().unwrap();
    let said = world.server_ctl(&["backup", path]).await.ok().json();
    assert_eq!(said["bytes"], std::fs::metadata(&file).unwrap().len());
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = world.server_ctl(&["backup", path]).await;
    assert_eq!(again.code, 2, "nothing is written over: {again:?}");
    open(&client, &[&origin.target(), "--name", "late"]).await;

    let args = ["restore", path];
    let (status, said) = world.server.run_with(&args).await;
    assert!(!status.success(), "it runs: {said}");
    assert!(said.contains("lock held by pid"), "{said}");
    world.server.stop().await;
    let (status, said) = world.server.run_with(&args).await;
    assert!(status.success(), "{said}");
    assert!(said.contains("server.db.before-"), "{said}");
    world.server.start().await;
    let tunnels = world.server_ctl(&["tunnels"]).await.ok().json();
    let slugs = tunnels["tunnels"].as_array().unwrap().iter();
    let names: Vec<&str> = slugs.map(|t| t["slug"].as_str().unwrap()).collect();
    assert!(names.contains(&"early"), "{names:?}");
    // The client still has its promise, and takes it back under its name.
    eventually("the early tunnel is visited again", || async {
        (world.visitor("early").get("/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    let audit = world.server_ctl(&["audit"]).await.ok().json().to_string();
    assert!(audit.contains("server.backup"), "{audit}");
}

#[tokio::test]
async fn systemd_hears_how_it_stands_and_nothing_once_the_store_hangs() {
    let mut world = World::new().await;
    world.server.stop().await;
    let mut told = world
        .server
        .start_watched(Duration::from_millis(1500))
        .await;
    // The client may be back already.
    told.until("STATUS=0 tunnels open · ").await;
    told.until("WATCHDOG=1").await;
    // Somebody else keeps the database: what is to be written waits, and so does all behind it.
    let state = world.server.dir().join("state/server.db");
    let thief = rusqlite::Connection::open(state).unwrap();
    thief.execute_batch("BEGIN IMMEDIATE").unwrap();
    let socket = world.server.socket().to_owned();
    let invite = async move { ctl(&socket, &["server", "invite"]).await };
    let silent = async {
        // While it is fed, it is fed four times as often.
        for _ in 0..20 {
            let fed = tokio::time::timeout(Duration::from_millis(1500), told.until("WATCHDOG=1"));
            if fed.await.is_err() {
                return true;
            }
        }
        false
    };
    let (_, silent) = tokio::join!(invite, silent);
    assert!(silent, "the watchdog was fed while the store hung");
    thief.execute_batch("ROLLBACK").unwrap();
    tokio::time::timeout(PATIENCE, told.until("WATCHDOG=1"))
        .await
        .expect("fed again");
    world.server.signal(nix::sys::signal::Signal::SIGHUP);
    told.until("RELOADING=1").await;
    told.until("READY=1").await;
    world.server.signal(nix::sys::signal::Signal::SIGTERM);
    told.until("STOPPING=1").await;
    // 30 s of grace, and a little; then what the end may take.
    told.until("EXTEND_TIMEOUT_USEC=45000000").await;
    told.until("EXTEND_TIMEOUT_USEC=42000000").await;
    assert!(world.server.ended().await.success());
}

#[tokio::test]
async fn the_log_says_more_for_a_while_and_then_no_more() {
    let world = World::new().await;
    let shown = world.server_ctl(&["log-level"]).await.ok().json();
    assert_eq!(
        (&shown["level"], &shown["until"]),
        (&"info".into(), &Value::Null)
    );
    world.visitor("nobody").get("/").await;
    assert!(!world.server.log().contains("visit refused"));
    let ask = ["log-level", "debug", "--for", "3s"];
    let shown = world.server_ctl(&ask).await.ok().json();
    assert_eq!(shown["level"], "debug");
    assert!(shown["until"].is_string(), "{shown}");
    world.visitor("nobody").get("/").await;
    eventually("the visit is in the log", || async {
        world.server.log().contains("visit refused").then_some(())
    })
    .await;
    eventually("the level is as configured again", || async {
        let shown = world.server_ctl(&["log-level"]).await.ok().json();
        (shown["level"] == "info" && shown["until"].is_null()).then_some(())
    })
    .await;
    let refused = world.server_ctl(&["log-level", "loud"]).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    let refused = world
        .server_ctl(&["log-level", "debug", "--for", "25h"])
        .await;
    assert_eq!(refused.code, 2, "{refused:?}");
    let audit = world.server_ctl(&["audit"]).await.ok().json().to_string();
    assert!(audit.contains("log.level"), "{audit}");
}
