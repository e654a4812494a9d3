//! Floods over HTTP/2. The connection ends within a second, the origin sees little of it, the
//! server's memory stays, and nobody else notices.

use super::frames::{
    CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, Outcome, PING, PRIORITY, RST_STREAM, Raw2,
    SETTINGS, block, frame, headers,
};
use super::*;

/// GOAWAY is promised within a second; what else the machine does may take two more.
const GOAWAY_WITHIN: Duration = Duration::from_secs(3);

/// Memory that a flood may add.
const MEMORY: u64 = 64 << 20;

/// What the server's process holds, in bytes.
pub(super) fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn get(path: &str) -> Vec<u8> {
    let host = host();
    block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", path),
        (":authority", &host),
    ])
}

/// Sends a flood in pieces until the server has had enough; how long after the flood's begin it said GOAWAY,
/// if it did.
async fn flood(
    visitor: &Visitor,
    begin: &[u8],
    pieces: impl Iterator<Item = Vec<u8>>,
) -> Option<Duration> {
    let mut connection = Raw2::new(visitor).await;
    let began = Instant::now();
    connection.send(begin).await;
    for piece in pieces {
        if !connection.send(&piece).await {
            break;
        }
    }
    let mut goaway = None;
    let over = async {
        while let Some((kind, ..)) = connection.next().await {
            if kind == GOAWAY {
                goaway.get_or_insert(began.elapsed());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), over)
        .await
        .expect("the connection ends");
    goaway
}

/// `count` times what `make` makes, in writes of a hundred.
fn many(count: u32, make: impl Fn(u32) -> Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    (0..count / 100).map(move |piece| (0..100).flat_map(|n| make(piece * 100 + n)).collect())
}

#[tokio::test]
async fn floods_end_with_goaway_and_disturb_nobody() {
    let boundary = Boundary::new().await;
    let visitor = boundary.visitor();
    let before = resident(&boundary.world.server);
    let open = headers(1, 0, &get("/flood"));
    let stream = |n: u32| 2 * n + 1;
    let check = async |name: &str, goaway: Option<Duration>| {
        let took = goaway.unwrap_or_else(|| panic!("{name}: no GOAWAY"));
        println!("{name}: GOAWAY after {took:?}");
        assert!(took < GOAWAY_WITHIN, "{name} took {took:?}");
        let memory = resident(&boundary.world.server).saturating_sub(before);
        assert!(memory < MEMORY, "{name}: {memory} bytes more");
        let heads = boundary.canary.heads();
        assert!(heads <= 600, "{name}: {heads} requests at the origin");
        boundary.control().await;
    };
    let rapid = |n| {
        let mut both = headers(stream(n), END_STREAM, &get("/rapid"));
        both.extend(frame(RST_STREAM, 0, stream(n), &8u32.to_be_bytes()));
        both
    };
    check(
        "rapid reset",
        flood(&visitor, &[], many(10_000, rapid)).await,
    )
    .await;
    let begin = frame(HEADERS, END_STREAM, 1, &get("/endless"));
    let more = |_| frame(CONTINUATION, 0, 1, &block(&[("x", "y")]));
    check(
        "CONTINUATION",
        flood(&visitor, &begin, many(20_000, more)).await,
    )
    .await;
    let empty = |_| frame(CONTINUATION, 0, 1, &[]);
    check(
        "empty CONTINUATION",
        flood(&visitor, &begin, many(20_000, empty)).await,
    )
    .await;
    let ping = |_| frame(PING, 0, 0, &[0; 8]);
    check("PING", flood(&visitor, &[], many(20_000, ping)).await).await;
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    check(
        "SETTINGS",
        flood(&visitor, &[], many(20_000, settings)).await,
    )
    .await;
    let data = |_| frame(DATA, 0, 1, &[]);
    check(
        "empty DATA",
        flood(&visitor, &open, many(20_000, data)).await,
    )
    .await;
    let priority = |n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 1]);
    check(
        "PRIORITY",
        flood(&visitor, &[], many(20_000, priority)).await,
    )
    .await;
    let unknown = |_| frame(0xbb, 0, 0, b"x");
    check(
        "unknown frames",
        flood(&visitor, &[], many(20_000, unknown)).await,
    )
    .await;
    let malformed = |n| headers(stream(n), END_STREAM, &block(&[("connection", "x")]));
    check(
        "malformed heads",
        flood(&visitor, &[], many(10_000, malformed)).await,
    )
    .await;
}

#[tokio::test]
async fn a_header_block_that_unpacks_to_megabytes_is_not_unpacked() {
    let boundary = Boundary::new().await;
    let visitor = boundary.visitor();
    let before = resident(&boundary.world.server);
    let host = host();
    // One long field goes into the table; after it each byte stands for it again.
    let mut bomb = block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/bomb"),
        (":authority", &host[..]),
    ]);
    bomb.push(0x40);
    let long = block(&[("x-bomb", "b".repeat(3900))]);
    bomb.extend_from_slice(&long[1..]);
    bomb.extend(std::iter::repeat_n(0x80 | 62, 16_000));
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = Raw2::new(&visitor).await;
        for n in 0..10 {
            connection
                .send(&headers(2 * n + 1, END_STREAM, &bomb))
                .await;
        }
        connections.push(connection);
    }
    for connection in &mut connections {
        let outcome = connection.outcome(1).await;
        assert_ne!(outcome, Outcome::Status(200));
    }
    let memory = resident(&boundary.world.server).saturating_sub(before);
    assert!(memory < MEMORY, "{memory} bytes more");
    assert_eq!(boundary.canary.heard(), "");
    drop(connections);
    boundary.control().await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_the_rest_served() {
    let boundary = Boundary::new().await;
    let mut connection = Raw2::new(&boundary.visitor()).await;
    let begin: Vec<u8> = (0..400)
        .flat_map(|n| headers(2 * n + 1, 0, &get("/many")))
        .collect();
    connection.send(&begin).await;
    let mut refused = 0;
    let work = async {
        while refused < 100 {
            match connection.next().await {
                Some((RST_STREAM, ..)) => refused += 1,
                Some(_) => {}
                None => return,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .expect("over the limit is refused");
    assert!(
        boundary.canary.heads() <= 300,
        "{}",
        boundary.canary.heads()
    );
    drop(connection);
    boundary.control().await;
}
