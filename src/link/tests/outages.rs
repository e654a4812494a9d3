//! Black holes with data in flight: how long until new bytes flow once the network is back, with each
//! cure and without.

use std::sync::atomic::AtomicUsize;

use tokio::time::{Instant, sleep};

use super::roaming::{PROMPT, RTT, eat, feed, stream, until_more};
use super::*;
use crate::codes::Code;
use crate::tasks::Tasks;
use crate::wire::SendChunks as _;

/// Who has more to send than may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Server,
    Client,
}

/// What is done when the network is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cure {
    Nothing,
    /// The client moves to a fresh socket as QUIC does it, within its congestion window.
    Rebind,
    /// The client asks from its old socket, past the congestion window.
    Kick,
    /// What we do.
    RebindAndKick,
}

/// How long after an outage of `length` the first new bytes arrive.
async fn outage(sender: Sender, length: Duration, cure: Cure) -> Duration {
    let world = World::new();
    let ends = world.link().await;
    let (mut server, mut client) = stream(&ends).await;
    let tasks = Tasks::new();
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let stop = tasks.stopped();
    tasks.spawn("transfer", async move {
        let (from, to) = match sender {
            Sender::Server => (&mut server, &mut client),
            Sender::Client => (&mut client, &mut server),
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = feed(&mut from.0, usize::MAX / 2) => {}
            end = eat(&mut to.1, &counting) => panic!("it has no end: {end:?}"),
        }
    });
    // A few round trips: the congestion window is full, and far below the stream's.
    sleep(Duration::from_millis(70)).await;
    world.network.set_down(true);
    sleep(length).await;
    world.network.set_down(false);
    match cure {
        Cure::Nothing => {}
        Cure::Rebind => {
            let endpoint = ends.client.own_endpoint();
            let socket = world.network.client_socket();
            endpoint.rebind_abstract(socket).unwrap();
        }
        Cure::Kick => ends.client.kick(),
        Cure::RebindAndKick => ends.client.rebind().unwrap(),
    }
    let took = until_more(&count, 2 * length + secs(10)).await;
    tasks.shutdown(secs(5)).await;
    assert!(ends.client.raw().close_reason().is_none());
    took
}

const SENDERS: [Sender; 2] = [Sender::Server, Sender::Client];
const HOUR: u64 = 3600;

#[tokio::test(start_paused = true)]
async fn after_a_move_and_a_kick_bytes_flow_at_once_however_long_the_outage_was() {
    for length in [5, 60, HOUR, 8 * HOUR] {
        for sender in SENDERS {
            let took = outage(sender, secs(length), Cure::RebindAndKick).await;
            println!("{length} s, {sender:?} sends: {took:?}");
            assert!(took <= PROMPT, "{length} s, {sender:?} sends: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn five_seconds_are_only_a_stall_even_without_a_hint() {
    for sender in SENDERS {
        let took = outage(sender, secs(5), Cure::Nothing).await;
        assert!(took <= secs(4), "{sender:?} sends: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kick_from_the_old_socket_revives_both_ends_after_a_minute() {
    for sender in SENDERS {
        let took = outage(sender, secs(60), Cure::Kick).await;
        assert!(took <= PROMPT, "{sender:?} sends: {took:?}");
    }
    // The server is helped by its own allowance, as soon as anything is heard.
    let took = outage(Sender::Server, secs(60), Cure::Nothing).await;
    assert!(took <= secs(4), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_move_without_a_kick_leaves_a_full_window_waiting() {
    // If this ever fails, QUIC has learnt to probe, and the kick can go.
    for length in [60, HOUR] {
        for cure in [Cure::Nothing, Cure::Rebind] {
            let took = outage(Sender::Client, secs(length), cure).await;
            assert!(took > secs(length / 4), "{length} s, {cure:?}: {took:?}");
        }
    }
    // The server starts afresh on the new path.
    let took = outage(Sender::Server, secs(60), Cure::Rebind).await;
    assert!(took <= PROMPT, "{took:?}");
}

/// A visit of half a kilobyte, answered with one.
async fn visit(server: &Link) -> Duration {
    let began = Instant::now();
    let (mut tx, mut rx) = server.open(&bytes_head()).await.unwrap();
    send(&mut tx, vec![1; 512]).await.unwrap();
    assert_eq!(recv_all(&mut rx).await.unwrap().len(), 1024);
    began.elapsed()
}

/// The client's end of all visits.
async fn serve(client: Link, tasks: Tasks) {
    while let Ok((_, mut tx, mut rx)) = client.accept().await {
        tasks.spawn("visit", async move {
            let _ = recv(&mut rx).await;
            let _ = send(&mut tx, vec![2; 1024]).await;
            tx.finish();
            let _ = poll_fn(|cx| tx.poll_stopped(cx)).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn visits_after_a_client_was_stopped_went_out_as_slowly_as_its_last_answer_came() {
    let world = World::new();
    let ends = world.link().await;
    let tasks = Tasks::new();
    tasks.spawn("visits", serve(ends.client.clone(), tasks.clone()));
    for _ in 0..8 {
        assert!(visit(&ends.server).await <= 2 * RTT);
    }
    world.network.set_held(true);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let server = ends.server.clone();
            tasks.spawn("visit", async move { visit(&server).await })
        })
        .collect();
    sleep(secs(8)).await;
    world.network.set_held(false);
    for visit in waiting {
        visit.await.unwrap();
    }
    let began = Instant::now();
    let held: Vec<_> = (0..150)
        .map(|_| {
            let server = ends.server.clone();
            tasks.spawn("visit", async move { visit(&server).await })
        })
        .collect();
    for visit in held {
        visit.await.unwrap();
    }
    let took = began.elapsed();
    println!("all answered after {took:?}");
    assert!(took <= 12 * RTT, "{took:?}");
    tasks.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_close_behind_a_full_window_is_heard_with_its_code() {
    let world = World::new();
    let ends = world.link().await;
    let (mut server, mut client) = stream(&ends).await;
    let tasks = Tasks::new();
    let count = Arc::new(AtomicUsize::new(0));
    let stop = tasks.stopped();
    tasks.spawn("transfer", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = feed(&mut server.0, usize::MAX / 2) => {}
            _ = eat(&mut client.1, &count) => {}
        }
    });
    // No acknowledgement comes any more: the window fills, before QUIC's own probes say that it is full.
    sleep(Duration::from_millis(70)).await;
    world.network.deafen(world.address);
    sleep(RTT).await;
    let path = ends.server.raw().stats().path;
    ends.server.close(Code::Overloaded, "enough");
    let end = timeout(Duration::from_millis(500), ends.client.closed()).await;
    let end = end.unwrap_or_else(|_| panic!("nothing was heard: {path:?}"));
    assert_eq!((end.code, end.by_peer), (Some(Code::Overloaded), true));
    tasks.shutdown(secs(5)).await;
}
