//! Flow control: readers that stop cost their window, and nobody else's time.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::*;
use crate::tasks::Tasks;
use crate::wire::SendChunks as _;

const BODY: usize = 4 * 1024 * 1024;
const STALLED: usize = 40;

/// Downloads [`BODY`] bytes over a new stream; how long it took.
async fn download(ends: &Ends) -> Duration {
    let start = Instant::now();
    let sending = async {
        let (mut tx, rx) = ends.server.open(&bytes_head()).await.unwrap();
        for _ in 0..BODY / 65_536 {
            send(&mut tx, Bytes::from(vec![7; 65_536])).await.unwrap();
        }
        tx.finish();
        rx
    };
    let reading = async {
        let (_, _tx, mut rx) = ends.client.accept().await.unwrap();
        let mut count = 0;
        while let Some(chunk) = recv(&mut rx).await.unwrap() {
            count += chunk.len();
        }
        count
    };
    let (_rx, count) = both(sending, reading).await;
    assert_eq!(count, BODY);
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn forty_readers_that_stop_do_not_slow_the_next_and_cost_their_window_alone() {
    // The settings as shipped: this is what they are for.
    let world = World::new();
    let ends = world.link().await;
    let alone = download(&ends).await;

    let tasks = Tasks::new();
    let taken = Arc::new(AtomicUsize::new(0));
    let mut unread = Vec::new();
    for _ in 0..STALLED {
        let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
        unread.push(accepted.unwrap());
        let (mut tx, rx) = opened.unwrap();
        let taken = Arc::clone(&taken);
        tasks.spawn("stalled", async move {
            let _rx = rx;
            // Far more than any window, in pieces that show how much was taken.
            for _ in 0..BODY / 1024 {
                send(&mut tx, Bytes::from(vec![1; 1024])).await.unwrap();
                taken.fetch_add(1024, Ordering::Relaxed);
            }
        });
    }
    sleep(secs(10)).await;
    let stuck = taken.load(Ordering::Relaxed);
    let window = world.settings.stream_window as usize;
    // Each is stuck: it filled its window, and got no further.
    assert!(stuck <= STALLED * window, "{stuck} bytes taken");
    assert!(stuck >= STALLED * (window - 4096), "{stuck} bytes taken");

    let beside = download(&ends).await;
    assert!(
        beside <= alone + alone / 5,
        "alone {alone:?}, beside {beside:?}"
    );
    assert_eq!(taken.load(Ordering::Relaxed), stuck);

    drop(unread);
    ends.server.close(crate::codes::Code::Done, "");
    tasks.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_no_refusal_to_read() {
    let world = World::new();
    let ends = world.link().await;
    world.network.set_down(true);
    let outage = timeout(secs(3600), ends.server.heard_for(secs(10))).await;
    assert!(outage.is_err(), "an hour of silence is no reading");
    world.network.set_down(false);
    ends.client.kick();
    let heard = timeout(secs(60), ends.server.heard_for(secs(10))).await;
    assert!(heard.is_ok(), "it keeps alive every few seconds");
}
