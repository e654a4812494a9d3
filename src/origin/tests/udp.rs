//! Visits of datagrams.

use std::future::poll_fn;

use tokio::net::UdpSocket;

use super::*;
use crate::wire::UdpHead;
use crate::wire::memory::{MemoryFlow, flow};
use crate::wire::udp::{Datagrams as _, FlowEnd};

fn visit(world: &World, target: &str, idle_ms: u64) -> (MemoryFlow, JoinHandle<VisitReport>) {
    let tunnel = tunnel_to(target, HostMode::Keep);
    let head = UdpHead {
        tunnel: tunnel.id,
        visit: VisitId::random(),
        peer: "192.0.2.1:1".parse().unwrap(),
        local: "192.0.2.2:2".parse().unwrap(),
        flow: 0,
        idle_ms,
        shadowed: Vec::new(),
    };
    let (near, far) = flow();
    let origins = world.origins.clone();
    let task = world
        .tasks
        .spawn("visit", async move { origins.udp(tunnel, head, far).await });
    (near, task)
}

async fn next(flow: &mut MemoryFlow) -> Result<Bytes, FlowEnd> {
    let received = poll_fn(|cx| flow.poll_recv(cx));
    timeout(STUCK, received).await.expect("it comes in time")
}

async fn hears(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut room = vec![0; 65_536];
    let heard = timeout(STUCK, socket.recv_from(&mut room)).await;
    let (count, from) = heard.expect("it comes in time").unwrap();
    room.truncate(count);
    (room, from)
}

#[tokio::test]
async fn the_very_first_datagram_arrives_and_each_flow_has_a_socket_of_its_own() {
    let world = World::new();
    let origin = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp://{}", origin.local_addr().unwrap());
    let (mut first, first_task) = visit(&world, &target, 0);
    let (mut second, second_task) = visit(&world, &target, 0);
    first.send("one".into());
    let (got, first_from) = hears(&origin).await;
    assert_eq!(got, b"one");
    second.send(Bytes::from(vec![7; 60_000]));
    let (got, second_from) = hears(&origin).await;
    assert_eq!(got.len(), 60_000);
    assert_ne!(first_from, second_from);
    origin.send_to(b"to two", second_from).await.unwrap();
    origin.send_to(b"to one", first_from).await.unwrap();
    assert_eq!(next(&mut first).await.unwrap(), "to one");
    assert_eq!(next(&mut second).await.unwrap(), "to two");
    drop((first, second));
    let report = ended(first_task).await;
    assert_eq!(
        (report.bytes_in, report.bytes_out, report.error),
        (3, 6, None)
    );
    assert_eq!(ended(second_task).await.error, None);
}

#[tokio::test]
async fn a_bare_port_is_found_on_either_family() {
    let world = World::new();
    let origin = UdpSocket::bind("[::1]:0").await.unwrap();
    let target = format!("udp://{}", origin.local_addr().unwrap().port());
    let (mut flow, _task) = visit(&world, &target, 0);
    flow.send("hello".into());
    let (got, from) = hears(&origin).await;
    assert_eq!(got, b"hello");
    origin.send_to(b"here", from).await.unwrap();
    assert_eq!(next(&mut flow).await.unwrap(), "here");
}

#[tokio::test]
async fn a_flow_that_leads_nowhere_is_refused_with_a_code() {
    let world = World::new();
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp://{}", nobody.local_addr().unwrap());
    drop(nobody);
    for (target, code) in [
        (target.as_str(), StreamCode::OriginUnreachable),
        ("udp://192.0.2.1:53", StreamCode::NotAllowed),
        ("tcp://127.0.0.1:1", StreamCode::Unsupported),
    ] {
        let (mut flow, task) = visit(&world, target, 0);
        flow.send("hello".into());
        assert_eq!(ended(task).await.error, Some(code), "{target}");
        let reset = crate::wire::StreamError::Reset(code);
        assert_eq!(next(&mut flow).await, Err(FlowEnd::Stream(reset)));
    }
}

#[tokio::test]
async fn a_flow_whose_opener_forgets_it_ends_by_itself() {
    let world = World::new();
    let origin = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = format!("udp://{}", origin.local_addr().unwrap());
    let (mut flow, task) = visit(&world, &target, 20);
    assert_eq!(ended(task).await.error, None);
    assert_eq!(next(&mut flow).await, Err(FlowEnd::Ended));
}
