//! Sessions that do not keep to the rules, on paused time and a network in memory.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use quinn_proto::ConnectionId;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::super::{BadMessage, PathLimits, SessionRefused, codec};
use super::*;
use crate::link::cid::first_cid;
use crate::link::tests::World;

type Expected = fn(&SessionEnd) -> bool;
type Outcome = JoinHandle<Result<SessionEnd, SessionRefused>>;

/// A WebSocket to the server, whatever is sent in it.
async fn stranger(world: &World, tasks: &Tasks) -> (WebSocketStream<DuplexStream>, Outcome) {
    stranger_from(world, tasks, "192.0.2.1:1000").await
}

async fn stranger_from(
    world: &World,
    tasks: &Tasks,
    peer: &str,
) -> (WebSocketStream<DuplexStream>, Outcome) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let session = world.listener.attach_path(theirs, peer.parse().unwrap());
    let outcome = tasks.spawn("session", session);
    let io = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    (io, outcome)
}

async fn outcome(outcome: Outcome) -> SessionEnd {
    let ended = timeout(secs(600), outcome).await;
    ended.expect("the session goes on").unwrap().unwrap()
}

fn message(datagrams: &[&[u8]]) -> Message {
    let mut bytes = bytes::BytesMut::new();
    for datagram in datagrams {
        assert!(codec::put(&mut bytes, datagram));
    }
    Message::Binary(bytes.freeze())
}

/// The head of a first packet, and no cryptography.
fn initial(version: u32, id: &ConnectionId) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend_from_slice(&version.to_be_bytes());
    packet.push(u8::try_from(id.len()).unwrap());
    packet.extend_from_slice(id);
    packet.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8]);
    packet.resize(1200, 7);
    packet
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_not_ours_end_the_session_at_once() {
    let world = World::new();
    let tasks = Tasks::new();
    let cases: [(Message, Expected); 6] = [
        (Message::text("hello"), |end| {
            matches!(end, SessionEnd::Hostile(BadMessage::Text))
        }),
        (Message::binary(vec![]), |end| {
            matches!(end, SessionEnd::Hostile(BadMessage::Empty))
        }),
        (Message::binary(vec![0, 9, 1]), |end| {
            matches!(end, SessionEnd::Hostile(BadMessage::Truncated))
        }),
        (Message::binary(vec![0xff; 9]), |end| {
            matches!(end, SessionEnd::Hostile(BadMessage::Length { .. }))
        }),
        (Message::binary(vec![1; codec::MESSAGE_MAX + 1]), |end| {
            matches!(end, SessionEnd::Broken(_))
        }),
        (Message::Close(None), |end| {
            matches!(end, SessionEnd::Closed)
        }),
    ];
    for (frame, expected) in cases {
        let (mut io, running) = stranger(&world, &tasks).await;
        let start = Instant::now();
        io.send(frame.clone()).await.unwrap();
        let end = outcome(running).await;
        assert!(expected(&end), "{end:?}");
        assert!(start.elapsed() < secs(1));
    }
    assert_eq!(world.listener.attached_paths(), 0);
    world
        .listener
        .close(crate::codes::Code::Draining, secs(1))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_shows_no_link_ends_after_ten_seconds() {
    let world = World::new();
    let tasks = Tasks::new();
    let (_io, running) = stranger(&world, &tasks).await;
    let start = Instant::now();
    let end = outcome(running).await;
    assert!(matches!(end, SessionEnd::Unproved), "{end:?}");
    assert!(start.elapsed() < secs(11));
}

#[tokio::test(start_paused = true)]
async fn an_unproved_session_may_send_little_and_gets_less() {
    let limits = PathLimits::default();
    let world = World::new();
    let tasks = Tasks::new();
    let (mut io, running) = stranger(&world, &tasks).await;
    let accepting = {
        let listener = Arc::clone(&world.listener);
        tasks.spawn(
            "door",
            async move { while listener.accept().await.is_some() {} },
        )
    };
    // Versions nobody speaks and untagged attempts: what QUIC answers by itself.
    let id = ConnectionId::new(&[9; 20]);
    let (mut sent, mut got) = (0, 0);
    loop {
        for packet in [initial(0x7a6a_5a4a, &id), initial(1, &id)] {
            if io.send(message(&[&packet])).await.is_err() {
                break;
            }
            sent += packet.len();
        }
        match timeout(secs(1), io.next()).await {
            Ok(Some(Ok(Message::Binary(answer)))) => got += answer.len(),
            Ok(Some(Ok(_))) | Err(_) => {}
            Ok(None | Some(Err(_))) => break,
        }
    }
    let end = outcome(running).await;
    assert!(matches!(end, SessionEnd::Unproved), "{end:?}");
    assert!(got > 0 && got < sent, "{got} of {sent}");
    assert!(sent < 2 * limits.unproved + 4800, "{sent}");
    accepting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_proved_session_may_stay_until_it_is_idle() {
    let world = World::new();
    let tasks = Tasks::new();
    let (mut io, running) = stranger(&world, &tasks).await;
    let tagged = initial(1, &first_cid(&world.key.pin()));
    let start = Instant::now();
    for _ in 0..10 {
        io.send(message(&[&tagged])).await.unwrap();
        tokio::time::advance(secs(30)).await;
    }
    let end = outcome(running).await;
    assert!(matches!(end, SessionEnd::Idle), "{end:?}");
    assert!(start.elapsed() > secs(300) && start.elapsed() < secs(400));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_bounded_and_their_places_come_back() {
    let world = World::with(LinkSettings {
        paths: PathLimits {
            per_source: 2,
            ..PathLimits::default()
        },
        ..LinkSettings::default()
    });
    let tasks = Tasks::new();
    let (first, running) = stranger(&world, &tasks).await;
    let (_second, _) = stranger(&world, &tasks).await;
    let (_third, refused) = stranger(&world, &tasks).await;
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(refused, SessionRefused::FullSource);
    let (_other, _) = stranger_from(&world, &tasks, "192.0.2.2:1000").await;
    drop(first);
    outcome(running).await;
    let (_fourth, mut running) = stranger(&world, &tasks).await;
    assert!(timeout(secs(1), &mut running).await.is_err());
    assert_eq!(world.listener.attached_paths(), 3);
    tasks.stop();
}

#[tokio::test(start_paused = true)]
async fn a_flood_in_one_session_leaves_a_link_over_udp_alone() {
    let world = World::new();
    let tasks = Tasks::new();
    let (mut io, _running) = stranger(&world, &tasks).await;
    let junk = initial(1, &first_cid(&world.key.pin()));
    let flood = async {
        // A gigabit and more; and the clock, which goes on only when all are done, goes on.
        while io.send(message(&[&junk[..1200]; 10])).await.is_ok() {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
    };
    let dialling = async {
        let dialer = world.dialer();
        let pins = [world.key.pin()];
        let address = world.address.to_string();
        let dialling = dialer.dial(&address, &pins, hello());
        let arriving = async {
            loop {
                let arriving = world.listener.accept().await.unwrap();
                if arriving.peer().ip().to_string() == "192.0.2.1" {
                    continue;
                }
                return arriving.establish().await;
            }
        };
        let (dialled, arrived) = both(dialling, arriving).await;
        dialled.unwrap();
        arrived.unwrap();
    };
    tokio::select! {
        () = flood => panic!("the flood ended"),
        dialled = timeout(secs(5), dialling) => dialled.unwrap(),
    }
}
