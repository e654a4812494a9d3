//! Daemons that start again and again, killed and asked to end: READY means that they listen and that the
//! store is open, and the tenth is no larger than the second.

use std::path::Path;

use tokio::net::{TcpStream, UnixStream};

use crate::origin::Origin;
use crate::world::{Daemon, World, ctl, eventually, open};

/// Connections that may be open at one moment and not at another.
const MOMENT: usize = 6;

/// Restarts of each kind.
const TIMES: usize = 10;

/// What memory may differ by: how much of a page cache is mapped, and in which order threads came.
const MEMORY: u64 = 8 << 20;

/// What a daemon holds: descriptors, memory in bytes, files of its folder and their bytes.
#[derive(Debug, Clone, Copy)]
struct Held {
    descriptors: usize,
    memory: u64,
    files: usize,
    bytes: u64,
}

impl Held {
    fn by(daemon: &Daemon) -> Self {
        let process = format!("/proc/{}", daemon.pid());
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        let (files, bytes) = files(&daemon.dir().join("state"));
        Self {
            descriptors: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
            memory: kib * 1024,
            files,
            bytes,
        }
    }

    /// No more of anything than before, give or take what one restart leaves in a log or a journal, and the
    /// connections of the moment: ours to the admin socket, a visitor's that is about to end.
    fn is_no_more_than(&self, first: &Self, what: &str) {
        assert!(
            self.descriptors <= first.descriptors + MOMENT
                && self.memory < first.memory + MEMORY
                && self.files <= first.files + 1
                && self.bytes < first.bytes + (1 << 20),
            "{what}: {first:?} became {self:?}"
        );
    }
}

fn files(dir: &Path) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let (more, size) = if meta.is_dir() {
            files(&entry.path())
        } else {
            (1, meta.len())
        };
        count += more;
        bytes += size;
    }
    (count, bytes)
}

/// Ends it one way or the other, and starts it; `start` returns with READY.
async fn again(daemon: &mut Daemon, turn: usize) {
    if turn.is_multiple_of(2) {
        daemon.crash().await;
    } else {
        assert!(daemon.stop().await.success());
    }
    daemon.start().await;
    // At once, without another look: it has said that it is there.
    UnixStream::connect(daemon.socket())
        .await
        .expect("the admin socket");
}

#[tokio::test]
async fn a_server_that_restarts_ten_times_is_ready_when_it_says_so_and_grows_by_nothing() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("still here").await;
    open(&client, &[&origin.target(), "--name", "app"]).await;
    let mut first: Option<Held> = None;
    for turn in 0..2 * TIMES {
        again(&mut world.server, turn).await;
        TcpStream::connect(world.addr).await.expect("it listens");
        // Its own answer, for a name that nobody has: no link is waited for.
        assert_eq!(world.visitor("nobody").get("/").await.status, 404, "{turn}");
        let listed = world.server_ctl(&["tunnels"]).await.ok().json();
        assert_eq!(
            listed["tunnels"][0]["slug"], "app",
            "the store is open: {listed}"
        );
        let held = Held::by(&world.server);
        // The first of them is the one that found a fresh state.
        match &first {
            Some(first) if turn > 1 => held.is_no_more_than(first, &format!("restart {turn}")),
            _ => first = Some(held),
        }
    }
    // Each death in a row lengthens the client's wait.
    eventually("the tunnel answers", || async {
        let answer = world.visitor("app").try_get("/").await.ok()?;
        (answer.text() == "still here").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_restarts_ten_times_is_ready_when_it_says_so_and_grows_by_nothing() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let origin = Origin::named("still here").await;
    let before = open(&client, &[&origin.target(), "--name", "app"]).await;
    let (mut first, mut servers) = (None::<Held>, None::<Held>);
    for turn in 0..2 * TIMES {
        again(&mut client, turn).await;
        let shown = ctl(client.socket(), &["--json", "show", "app"])
            .await
            .ok()
            .json();
        assert_eq!(shown["id"], before["id"], "the store is open: {shown}");
        let answer = world.visitor("app").get("/").await;
        assert_eq!(answer.text(), "still here", "restart {turn}");
        let (held, of_server) = (Held::by(&client), Held::by(&world.server));
        match (&first, &servers) {
            (Some(first), Some(servers)) if turn > 1 => {
                held.is_no_more_than(first, &format!("restart {turn}"));
                let more = of_server.memory.saturating_sub(servers.memory);
                assert!(
                    more < MEMORY,
                    "the server grew by {more} bytes in {turn} restarts"
                );
            }
            _ => (first, servers) = (Some(held), Some(of_server)),
        }
    }
    let links = world.server_ctl(&["status"]).await.ok().json();
    assert_eq!(links["links"], 1, "{links}");
}
