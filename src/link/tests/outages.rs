//! Black holes with data in flight: how long until new bytes flow once the network is back, with each
//! cure and without.

use std::sync::atomic::AtomicUsize;

use tokio::time::sleep;

use super::roaming::{PROMPT, eat, feed, stream, until_more};
use super::*;
use crate::tasks::Tasks;

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
