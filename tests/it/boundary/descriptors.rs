//! Descriptors run out. The server does not spin, its admin socket answers, and visitors are served
//! again as soon as there are some.

use tokio::net::TcpStream;

use super::*;
use crate::world::ctl;

/// Ticks of processor time that a process has used, a hundred to the second.
fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let rest = stat.rsplit(')').next().unwrap();
    let field = |n: usize| {
        rest.split_whitespace()
            .nth(n)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    field(11) + field(12)
}

/// Changes the limit of a running process, as an operator can.
fn limit(daemon: &Daemon, soft: usize) {
    let done = std::process::Command::new("prlimit")
        .arg(format!("--pid={}", daemon.pid()))
        .arg(format!("--nofile={soft}:"))
        .status()
        .expect("util-linux has prlimit");
    assert!(done.success());
}

async fn flood(boundary: &Boundary, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        if let Ok(tcp) = TcpStream::connect(boundary.world.addr).await {
            held.push(tcp);
        }
    }
    held
}

/// Takes what there is, and gives it back; or raises the limit.
async fn check(boundary: &Boundary, count: usize, more: Option<usize>) {
    let held = flood(boundary, count).await;
    let before = ticks(&boundary.world.server);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        ctl(boundary.world.server.socket(), &["server", "status"])
            .await
            .ok();
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "{:?}",
            asked.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let used = ticks(&boundary.world.server) - before;
    let share = used * 1000 / u64::try_from(began.elapsed().as_millis()).unwrap();
    assert!(
        share < 20,
        "{share} % of a processor, waiting for descriptors"
    );
    if let Some(more) = more {
        limit(&boundary.world.server, more);
    }
    drop(held);
    let free = Instant::now();
    while boundary.visitor().try_get("/").await.is_err() {
        assert!(free.elapsed() < Duration::from_secs(3), "not served again");
    }
    boundary.control().await;
}

#[tokio::test]
async fn with_all_descriptors_taken_the_operator_still_gets_in() {
    let boundary = Boundary::new().await;
    // As many as visitors may have, and some more: the last ones are kept back.
    limit(&boundary.world.server, 128);
    check(&boundary, 200, None).await;
    // Below what is open already: not one is left, but the admin socket's own.
    let open = std::fs::read_dir(format!("/proc/{}/fd", boundary.world.server.pid()))
        .unwrap()
        .count();
    limit(&boundary.world.server, open);
    check(&boundary, 100, Some(256)).await;
}
