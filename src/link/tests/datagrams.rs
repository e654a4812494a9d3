//! Flows of datagrams inside a link.

use std::future::poll_fn;

use tokio::time::sleep;

use super::*;
use crate::link::LinkFlow;
use crate::wire::udp::{Datagrams as _, FlowEnd, PAYLOAD_MAX};
use crate::wire::{SendChunks as _, StreamCode, UdpHead};

fn head() -> UdpHead {
    UdpHead {
        tunnel: TunnelId::random(),
        visit: VisitId::random(),
        peer: "192.0.2.1:5000".parse().unwrap(),
        local: "192.0.2.2:20000".parse().unwrap(),
        flow: 0,
        idle_ms: 60_000,
        shadowed: Vec::new(),
    }
}

/// Both ends of a link, with whoever hands out its datagrams.
struct Carried {
    ends: Ends,
    tasks: crate::tasks::Tasks,
}

impl Carried {
    async fn new(world: &World) -> Self {
        let ends = world.link().await;
        let tasks = crate::tasks::Tasks::new();
        for link in [ends.client.clone(), ends.server.clone()] {
            tasks.spawn("datagrams", async move { link.carry_datagrams().await });
        }
        Self { ends, tasks }
    }

    /// A flow that the server opened, as both ends have it.
    async fn flow(&self) -> (LinkFlow, LinkFlow) {
        let (opened, accepted) = both(
            self.ends.server.open_flow(head()),
            self.ends.client.accept(),
        )
        .await;
        let (got, tx, rx) = accepted.unwrap();
        let StreamHead::Udp(got) = got else {
            panic!("{got:?} opens no flow");
        };
        let taken = self.ends.client.take_flow(got.flow, tx, rx);
        (opened.unwrap(), taken.unwrap())
    }
}

async fn next(flow: &mut LinkFlow) -> Result<Bytes, FlowEnd> {
    let received = poll_fn(|cx| flow.poll_recv(cx));
    timeout(secs(60), received).await.expect("it comes in time")
}

fn payload(length: usize, seed: usize) -> Bytes {
    (0..length).map(|i| ((i + seed) % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn payloads_of_every_size_cross_both_ways_as_they_were() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let (mut server, mut client) = link.flow().await;
    for length in [0, 1, 1200, 1473, 9000, PAYLOAD_MAX] {
        let sent = payload(length, 3);
        server.send(sent.clone());
        assert_eq!(next(&mut client).await.unwrap(), sent, "{length} up");
        client.send(sent.clone());
        assert_eq!(next(&mut server).await.unwrap(), sent, "{length} down");
    }
    link.tasks.shutdown(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn flows_do_not_mix() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let mut flows = Vec::new();
    for _ in 0..64 {
        flows.push(link.flow().await);
    }
    for (n, (server, _)) in flows.iter_mut().enumerate() {
        server.send(payload(1200, n));
    }
    for (n, (server, client)) in flows.iter_mut().enumerate() {
        assert_eq!(next(client).await.unwrap(), payload(1200, n));
        client.send(payload(3000, n));
        assert_eq!(next(server).await.unwrap(), payload(3000, n));
    }
}

#[tokio::test(start_paused = true)]
async fn what_overtakes_the_stream_waits_for_it_within_bounds() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let mut server = link.ends.server.open_flow(head()).await.unwrap();
    for n in 0..200 {
        server.send(payload(100, n));
    }
    // Long enough for all of them to arrive before anybody takes the flow.
    sleep(secs(1)).await;
    let (got, tx, rx) = link.ends.client.accept().await.unwrap();
    let StreamHead::Udp(got) = got else {
        panic!("{got:?} opens no flow");
    };
    let mut client = link.ends.client.take_flow(got.flow, tx, rx).unwrap();
    let first = next(&mut client).await.unwrap();
    assert_eq!(first, payload(100, 200 - 64), "the latest 64 were kept");
    server.send(payload(7, 0));
    for _ in 0..63 {
        assert_eq!(next(&mut client).await.unwrap().len(), 100);
    }
    assert_eq!(next(&mut client).await.unwrap().len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_flow_ends_at_both_ends_and_leaves_nothing() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let (server, mut client) = link.flow().await;
    drop(server);
    assert_eq!(next(&mut client).await, Err(FlowEnd::Ended));
    drop(client);
    let (mut server, client) = link.flow().await;
    drop(client);
    assert_eq!(next(&mut server).await, Err(FlowEnd::Ended));
    drop(server);
    let (mut server, mut client) = link.flow().await;
    client.fail(StreamCode::OriginUnreachable);
    let reset = StreamError::Reset(StreamCode::OriginUnreachable);
    assert_eq!(next(&mut server).await, Err(FlowEnd::Stream(reset)));
    drop((server, client));
    for link in [&link.ends.server, &link.ends.client] {
        assert_eq!(link.flows_open(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_ends_its_flows() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let (mut server, _client) = link.flow().await;
    link.ends
        .client
        .close(crate::codes::Code::Done, "the client stops");
    assert_eq!(
        next(&mut server).await,
        Err(FlowEnd::Stream(StreamError::LinkLost))
    );
}

#[tokio::test(start_paused = true)]
async fn a_number_in_use_is_refused_and_junk_disturbs_nobody() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let (mut server, mut client) = link.flow().await;
    let (opened, accepted) = both(
        link.ends.server.open(&StreamHead::Udp(head())),
        link.ends.client.accept(),
    )
    .await;
    let (_, tx, rx) = accepted.unwrap();
    assert!(link.ends.client.take_flow(0, tx, rx).is_none());
    let (_tx, mut rx) = opened.unwrap();
    assert_eq!(
        recv(&mut rx).await,
        Err(StreamError::Reset(StreamCode::Protocol))
    );
    // Nothing, half a header, places that cannot be, flows that nobody opened.
    for junk in [
        &b""[..],
        b"\x01",
        b"\x01\x05\x09\x02x",
        b"\x01\x05\x00\x00x",
        b"\xff\xff\xff\xff\xff\xff\xff\xfe",
        b"\x7f\xff",
    ] {
        let junk = Bytes::from_static(junk);
        link.ends.server.raw().send_datagram(junk).unwrap();
    }
    server.send("after all that".into());
    assert_eq!(next(&mut client).await.unwrap(), "after all that");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stands_still_costs_a_bounded_queue_and_holds_up_no_stream() {
    let world = World::new();
    let link = Carried::new(&world).await;
    let (mut server, mut client) = link.flow().await;
    for n in 0..5000 {
        server.send(payload(1000, n));
        if n % 50 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let (opened, accepted) = both(
        link.ends.server.open(&bytes_head()),
        link.ends.client.accept(),
    )
    .await;
    let (mut tx, _) = opened.unwrap();
    send(&mut tx, "through").await.unwrap();
    tx.finish();
    let (_, _tx, mut rx) = accepted.unwrap();
    assert_eq!(recv(&mut rx).await.unwrap().unwrap(), "through");
    server.send("last".into());
    let mut count = 0;
    while next(&mut client).await.unwrap() != "last" {
        count += 1;
    }
    assert!((1..300).contains(&count), "{count} were kept");
}
