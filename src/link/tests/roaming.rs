//! Moves in mid-transfer: between two uplinks, and behind a NAT that forgets. Nothing is reset, and
//! every byte arrives once and in its place.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::tasks::Tasks;
use crate::wire::SendChunks as _;

const PIECE: usize = 16 * 1024;
const MIB: usize = 1024 * 1024;
pub(super) const RTT: Duration = Duration::from_millis(20);

/// After a move bytes are to flow again within this.
pub(super) const PROMPT: Duration = Duration::from_millis(100 + 2 * 20);

/// Every body repeats this; no byte in it is like its neighbours, or like those a packet away.
static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let byte = |place: usize| u8::try_from((place * 31 + place / 1200) % 251);
    (0..PERIOD + PIECE)
        .map(|place| byte(place).unwrap())
        .collect()
});
const PERIOD: usize = 251 * 1200;

/// Sends a body of `total` bytes; stops early when its reader has gone.
pub(super) async fn feed(tx: &mut LinkSend, total: usize) {
    for at in (0..total).step_by(PIECE) {
        let from = at % PERIOD;
        let piece = PATTERN.slice(from..from + PIECE.min(total - at));
        if send(tx, piece).await.is_err() {
            return;
        }
    }
    tx.finish();
    // The last bytes may have to be sent again.
    let _ = poll_fn(|cx| tx.poll_stopped(cx)).await;
}

/// Reads a body to its end and checks every byte, counting them in `count`.
pub(super) async fn eat(rx: &mut LinkRecv, count: &AtomicUsize) -> Result<(), StreamError> {
    while let Some(mut chunk) = recv(rx).await? {
        while !chunk.is_empty() {
            let at = count.load(Ordering::Relaxed);
            let part = chunk.split_to(chunk.len().min(PIECE));
            let from = at % PERIOD;
            assert!(part == PATTERN[from..from + part.len()], "wrong after {at}");
            count.fetch_add(part.len(), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A stream of the server's: its two halves at the server, and at the client.
pub(super) async fn stream(ends: &Ends) -> ((LinkSend, LinkRecv), (LinkSend, LinkRecv)) {
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    let (_, tx, rx) = accepted.unwrap();
    (opened.unwrap(), (tx, rx))
}

/// How long until `count` grows.
pub(super) async fn until_more(count: &AtomicUsize, limit: Duration) -> Duration {
    let (start, before) = (Instant::now(), count.load(Ordering::Relaxed));
    let grows = async {
        // Finely at first, where it matters.
        while count.load(Ordering::Relaxed) == before {
            sleep((start.elapsed() / 100).max(Duration::from_millis(1))).await;
        }
    };
    let _ = timeout(limit, grows).await;
    start.elapsed()
}

/// A download, an upload and an echo over one link, all at once.
struct Traffic {
    down: Arc<AtomicUsize>,
    up: Arc<AtomicUsize>,
    echoes: Arc<AtomicUsize>,
    tasks: Tasks,
    bodies: usize,
}

impl Traffic {
    async fn start(ends: &Ends, bodies: usize) -> Self {
        let tasks = Tasks::new();
        let (down, up, echoes) = (Arc::default(), Arc::default(), Arc::default());
        for (is_download, count) in [(true, &down), (false, &up)] {
            let count: Arc<AtomicUsize> = Arc::clone(count);
            let (mut server, mut client) = stream(ends).await;
            tasks.spawn("transfer", async move {
                let (from, to) = match is_download {
                    true => (&mut server, &mut client),
                    false => (&mut client, &mut server),
                };
                let (_, eaten) = tokio::join!(feed(&mut from.0, bodies), eat(&mut to.1, &count));
                eaten.unwrap();
            });
        }
        let count: Arc<AtomicUsize> = Arc::clone(&echoes);
        let ((mut tx, mut rx), (mut echo, mut heard)) = stream(ends).await;
        let stop = tasks.stopped();
        tasks.spawn("echoes", async move {
            while let Ok(Some(chunk)) = recv(&mut heard).await {
                send(&mut echo, chunk).await.unwrap();
            }
        });
        tasks.spawn("asks", async move {
            while !stop.is_cancelled() {
                let word = count.fetch_add(1, Ordering::Relaxed).to_string();
                send(&mut tx, word.clone()).await.unwrap();
                assert_eq!(recv(&mut rx).await.unwrap().unwrap(), word);
            }
        });
        Self {
            down,
            up,
            echoes,
            tasks,
            bodies,
        }
    }

    fn done(&self) -> usize {
        let [down, up] = [&self.down, &self.up].map(|c| c.load(Ordering::Relaxed));
        down.min(up)
    }

    /// Waits until this much has gone both ways.
    async fn reach(&self, bytes: usize) {
        let reached = async {
            while self.done() < bytes.min(self.bodies) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(secs(60), reached)
            .await
            .expect("the transfers go on");
    }

    /// The longest any of the three stands still from now.
    async fn stall(&self) -> Duration {
        let longest = async {
            let body = async |count: &AtomicUsize| match count.load(Ordering::Relaxed) {
                whole if whole == self.bodies => Duration::ZERO,
                _ => until_more(count, secs(60)).await,
            };
            let (down, up, echo) = tokio::join!(
                body(&self.down),
                body(&self.up),
                until_more(&self.echoes, secs(60)),
            );
            down.max(up).max(echo)
        };
        longest.await
    }

    /// All of it has arrived, and nothing was reset.
    async fn finish(self, ends: &Ends) {
        self.reach(self.bodies).await;
        assert!(self.tasks.shutdown(secs(60)).await);
        assert!(ends.client.raw().close_reason().is_none());
        assert_eq!(self.done(), self.bodies);
    }
}

#[tokio::test(start_paused = true)]
async fn twenty_flips_between_two_uplinks_reset_nothing_and_stall_nobody() {
    let world = World::new();
    let ends = world.link().await;
    let traffic = Traffic::start(&ends, 20 * MIB).await;
    let mut longest = Duration::ZERO;
    for flip in 0..20u8 {
        traffic.reach((usize::from(flip) + 1) * 900_000).await;
        world.network.switch_to((flip + 1) % 2);
        ends.client.rebind().unwrap();
        longest = longest.max(traffic.stall().await);
    }
    traffic.finish(&ends).await;
    let (client, server) = (ends.client.stats(), ends.server.stats());
    println!(
        "longest stall {longest:?}; as the client saw it {:?}",
        client.longest_stall
    );
    assert!(longest <= PROMPT, "{longest:?}");
    assert_eq!(client.rebinds, 20);
    assert!(client.longest_stall <= PROMPT, "{client:?}");
    // Nobody looked in between, so the server's count is of those who did.
    assert_eq!((server.peer_moves, client.peer_moves), (1, 0));
    assert_eq!(ends.server.peer().ip().to_string(), "10.0.1.1");
}

#[tokio::test(start_paused = true)]
async fn a_nat_that_gives_another_port_or_another_address_resets_nothing() {
    for (what, becomes) in [("port", "10.0.1.1:40000"), ("address", "10.0.7.7:40000")] {
        let world = World::new();
        let ends = world.link().await;
        let traffic = Traffic::start(&ends, 4 * MIB).await;
        traffic.reach(MIB).await;
        let before = ends.server.peer();
        world.network.renumber(before, becomes.parse().unwrap());
        // Nobody tells the client; what it sends anyway shows the server where it is.
        // What was under way on the server's side still arrives, or never will.
        sleep(RTT).await;
        let stall = RTT + traffic.stall().await;
        println!("another {what}: stalled {stall:?}");
        assert!(stall <= PROMPT, "another {what}: {stall:?}");
        traffic.finish(&ends).await;
        assert_eq!(ends.server.peer(), becomes.parse().unwrap());
        assert_eq!(ends.server.stats().peer_moves, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_behind_a_forgetful_nat_is_found_with_the_next_keep_alive() {
    let world = World::new();
    let ends = world.link().await;
    sleep(secs(2)).await;
    world
        .network
        .renumber(ends.server.peer(), "10.0.1.1:40000".parse().unwrap());
    sleep(world.settings.keep_alive + RTT).await;
    assert_eq!(ends.server.peer().port(), 40_000);
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    assert!(opened.is_ok() && accepted.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_link_that_cannot_have_another_socket_keeps_the_one_it_has() {
    let world = World::new();
    let network = world.network.clone();
    let first = AtomicUsize::new(0);
    let sockets: MakeSocket = Arc::new(move |_| match first.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(network.client_socket()),
        _ => Err(std::io::ErrorKind::AddrNotAvailable.into()),
    });
    let runtime = Arc::new(quinn::TokioRuntime);
    let identity = Identity::ephemeral().unwrap();
    let dialer = Dialer::from(sockets, runtime, &identity, &world.settings).unwrap();
    let ends = world.link_by(&dialer).await;
    let error = ends.client.rebind().unwrap_err();
    assert!(matches!(error, LinkError::Io { .. }), "{error}");
    assert_eq!(ends.client.stats().rebinds, 0);
    sleep(secs(10)).await;
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    assert!(opened.is_ok() && accepted.is_ok());
    // And the server's end has no socket of its own to change.
    assert!(ends.server.rebind().is_err());
    assert!(ends.server.pulse().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_move_to_another_address_is_counted_by_whoever_looks() {
    let world = World::new();
    let ends = world.link().await;
    assert_eq!(ends.server.stats().peer_moves, 0);
    for n in 1..=12u8 {
        world.network.switch_to(n % 3);
        ends.client.rebind().unwrap();
        sleep(secs(1)).await;
        // More moves than QUIC hands out connection ids at once.
        ends.server.heard();
        assert_eq!(ends.server.stats().peer_moves, u64::from(n));
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_knows_when_it_last_heard_and_since_when_an_answer_is_due() {
    let world = World::new();
    let ends = world.link().await;
    sleep(secs(7)).await;
    let calm = ends.client.pulse().unwrap();
    assert_eq!(calm.owed, None);
    world.network.set_down(true);
    let start = Instant::now().into_std();
    sleep(secs(20)).await;
    let silent = ends.client.pulse().unwrap();
    assert_eq!(silent.heard, calm.heard);
    let owed = silent.owed.unwrap();
    assert!(owed > start && owed < start + world.settings.keep_alive);
    world.network.set_down(false);
    ends.client.kick();
    sleep(2 * RTT).await;
    let again = ends.client.pulse().unwrap();
    assert!(again.heard > start + secs(20) && again.owed.is_none());
    let stall = ends.client.stats().longest_stall;
    assert!(stall > secs(14) && stall < secs(21), "{stall:?}");
}
