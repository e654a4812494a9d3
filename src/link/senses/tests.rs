//! The real netlink, in a network namespace of the test's own: it needs no root where users may make
//! namespaces.

use std::process::{Command, Output};

use tokio::time::timeout;

use super::*;

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "WORMKEY_TEST_INSIDE";

/// Runs one test of this binary again, as root of fresh user and network namespaces.
fn in_namespace(test: &str) -> Option<Output> {
    let unshare = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", program]);
        command
    };
    if !unshare("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("left out: no user namespaces here");
        return None;
    }
    let program = std::env::current_exe().unwrap();
    let mut command = unshare(program.to_str().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1");
    Some(command.output().unwrap())
}

fn ip(arguments: &str) {
    let arguments = arguments.split_ascii_whitespace();
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_change_of_the_way_out_is_a_hint_and_noise_is_none() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return runtime.unwrap().block_on(hints_of_a_namespace());
    }
    let name = "link::senses::tests::a_change_of_the_way_out_is_a_hint_and_noise_is_none";
    if let Some(output) = in_namespace(name) {
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(said.contains("1 passed"), "{said}");
    }
}

async fn hints_of_a_namespace() {
    for (device, address) in [("home", "10.1.0.2/24"), ("train", "10.2.0.2/24")] {
        ip(&format!(
            "link add {device} type veth peer name {device}-far"
        ));
        ip(&format!("addr add {address} dev {device}"));
        ip(&format!("link set {device} up"));
        ip(&format!("link set {device}-far up"));
    }
    ip("route add default via 10.1.0.1 dev home");
    let tasks = Tasks::new();
    let mut senses = Senses::start(&tasks);
    assert_eq!(tasks.running(), 2);
    senses.towards("192.0.2.1:443".parse().unwrap());
    // Noise, then silence: nothing of it concerns a link.
    ip("route add 198.51.100.0/24 dev train");
    ip("addr add 10.9.0.1/24 dev train");
    ip("addr del 10.9.0.1/24 dev train");
    let settled = Duration::from_millis(400);
    assert!(timeout(settled, senses.next()).await.is_err());
    // Each flip is told of at once.
    for to in [
        "10.2.0.1 dev train",
        "10.1.0.1 dev home",
        "10.2.0.1 dev train",
    ] {
        let before = Instant::now();
        ip(&format!("route replace default via {to}"));
        let hint = timeout(settled, senses.next()).await;
        assert_eq!(hint, Ok(Some(Hint::NetworkChanged)), "{to}");
        println!("told after {:?}", before.elapsed());
        tokio::time::sleep(BURST).await;
    }
    // No way out is nothing to act on; the way out that follows is.
    ip("route del default");
    assert!(timeout(settled, senses.next()).await.is_err());
    ip("route add default via 10.1.0.1 dev home");
    let hint = timeout(settled, senses.next()).await;
    assert_eq!(hint, Ok(Some(Hint::NetworkChanged)));
    // The same address and device, but another gateway.
    tokio::time::sleep(BURST).await;
    ip("route replace default via 10.1.0.9 dev home");
    let hint = timeout(settled, senses.next()).await;
    assert_eq!(hint, Ok(Some(Hint::NetworkChanged)));
    assert!(tasks.shutdown(Duration::from_secs(5)).await);
    assert_eq!(senses.next().await, None);
}

#[tokio::test]
async fn senses_that_nobody_listens_to_fall_asleep() {
    let tasks = Tasks::new();
    drop(Senses::start(&tasks));
    assert!(tasks.finished(Duration::from_secs(5)).await);
}
