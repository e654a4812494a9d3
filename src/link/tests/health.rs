//! Liveness, outages and ends.

use tokio::time::{Instant, sleep, timeout};

use super::super::{AcceptFailure, EndCause, OpenFailure};
use super::*;
use crate::codes::Code;
use crate::wire::SendChunks as _;

#[tokio::test(start_paused = true)]
async fn keep_alives_are_heard_at_both_ends() {
    let world = World::new();
    let ends = world.link().await;
    sleep(secs(60)).await;
    for link in [&ends.client, &ends.server] {
        let before = link.heard();
        sleep(secs(5) + Duration::from_millis(100)).await;
        assert!(link.heard() > before);
        assert_eq!(link.stats().received_datagrams, link.heard());
        assert!(link.stats().mtu > 1200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_not_heard() {
    let world = World::new();
    let ends = world.link().await;
    sleep(secs(1)).await;
    world.network.set_down(true);
    sleep(secs(1)).await;
    let before = ends.server.heard();
    sleep(secs(60)).await;
    assert_eq!(ends.server.heard(), before);
}

#[tokio::test(start_paused = true)]
async fn an_hour_in_a_black_hole_ends_neither_link_nor_stream() {
    let world = World::new();
    let ends = world.link().await;
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    let (mut tx, _rx) = opened.unwrap();
    let (_, _, mut rx) = accepted.unwrap();
    send(&mut tx, "before ").await.unwrap();
    assert_eq!(recv(&mut rx).await.unwrap().unwrap(), "before ");
    world.network.set_down(true);
    send(&mut tx, "and after").await.unwrap();
    tx.finish();
    sleep(secs(3600)).await;
    world.network.set_down(false);
    // Nothing kicks the link here, so QUIC's own probe may come as late again as the outage was long.
    let rest = timeout(secs(2 * 3600), recv_all(&mut rx)).await.unwrap();
    assert_eq!(rest.unwrap(), b"and after");
    for link in [&ends.client, &ends.server] {
        assert!(timeout(secs(1), link.closed()).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_is_noticed_at_the_next_keep_alive() {
    let mut world = World::new();
    let dialer = world.dialer();
    let ends = world.link_by(&dialer).await;
    sleep(secs(20)).await;
    world.restart();
    let start = Instant::now();
    let end = timeout(secs(600), ends.client.closed()).await.unwrap();
    assert_eq!((end.cause, end.by_peer), (EndCause::StatelessReset, true));
    assert!(start.elapsed() <= world.settings.keep_alive + secs(1));
    // And the device is back with the same key.
    let again = world.link_by(&dialer).await;
    assert_eq!(again.server.pin(), ends.server.pin());
}

#[tokio::test(start_paused = true)]
async fn many_clients_of_a_restarted_server_are_all_told() {
    let mut world = World::new();
    let mut links = Vec::new();
    for _ in 0..20 {
        links.push(world.link().await);
    }
    sleep(secs(20)).await;
    world.restart();
    let start = Instant::now();
    for ends in &links {
        let end = timeout(secs(600), ends.client.closed()).await.unwrap();
        assert_eq!(end.cause, EndCause::StatelessReset);
    }
    assert!(start.elapsed() <= 2 * world.settings.keep_alive + secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_server_with_another_key_sends_no_resets_for_this_ones_links() {
    let mut world = World::new();
    let ends = world.link().await;
    world.key = Identity::ephemeral().unwrap();
    world.restart();
    assert!(timeout(secs(60), ends.client.closed()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn silence_for_the_idle_timeout_ends_a_link() {
    let world = World::with(LinkSettings {
        idle_timeout: secs(60),
        ..LinkSettings::default()
    });
    let ends = world.link().await;
    world.network.set_down(true);
    let start = Instant::now();
    let end = timeout(secs(600), ends.server.closed()).await.unwrap();
    assert_eq!((end.cause, end.code), (EndCause::TimedOut, None));
    assert!(start.elapsed() >= secs(59));
}

#[tokio::test(start_paused = true)]
async fn a_close_carries_its_code_to_both_ends() {
    let world = World::new();
    for by_client in [true, false] {
        let mut ends = world.link().await;
        let (here, there) = if by_client {
            (&ends.client, &ends.server)
        } else {
            (&ends.server, &ends.client)
        };
        here.close(Code::Superseded, "a newer one");
        here.close(Code::Done, "the second close does not count");
        let (own, other) = (here.closed().await, there.closed().await);
        for (end, by_peer) in [(&own, false), (&other, true)] {
            assert_eq!(end.code, Some(Code::Superseded));
            assert_eq!((end.by_peer, end.cause), (by_peer, EndCause::Closed));
            assert_eq!(end.detail, "a newer one");
        }
        assert_eq!(
            there.open(&bytes_head()).await.unwrap_err(),
            OpenFailure::LinkGone
        );
        assert_eq!(there.accept().await.unwrap_err(), AcceptFailure::LinkGone);
        let recv = if by_client {
            &mut ends.server_recv
        } else {
            &mut ends.client_recv
        };
        let error = recv.recv().await.unwrap_err();
        assert!(
            matches!(
                error,
                LinkError::Refused {
                    code: Code::Superseded,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_every_handle_ends_the_link_for_the_peer() {
    let world = World::new();
    let ends = world.link().await;
    drop((ends.client, ends.client_send, ends.client_recv));
    let end = timeout(secs(1), ends.server.closed()).await.unwrap();
    assert!(end.by_peer);
}

#[tokio::test(start_paused = true)]
async fn a_closing_client_waits_until_the_server_knows() {
    let world = World::new();
    let ends = world.link().await;
    ends.client.close_and_tell(Code::Done, "bye", secs(3)).await;
    let end = timeout(Duration::ZERO, ends.server.closed()).await.unwrap();
    assert_eq!(end.code, Some(Code::Done));
}

#[tokio::test(start_paused = true)]
async fn a_closing_listener_tells_all_its_links_and_is_silent_to_newcomers() {
    let world = World::new();
    let (one, two) = (world.link().await, world.link().await);
    world.listener.close(Code::Draining, secs(3)).await;
    for link in [&one.client, &two.client] {
        let end = timeout(secs(1), link.closed()).await.unwrap();
        assert_eq!((end.code, end.by_peer), (Some(Code::Draining), true));
    }
    assert!(world.listener.accept().await.is_none());
    // Not refused, which would read as a wrong key: unanswered, until the next process answers.
    let error = world.dial(&world.dialer()).await.unwrap_err();
    assert!(matches!(error, LinkError::Unreachable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dials_while_the_server_restarts_gets_through() {
    let mut world = World::new();
    world.listener.close(Code::Draining, secs(1)).await;
    let dialer = world.dialer();
    let (address, pins) = (world.address.to_string(), [world.key.pin()]);
    let (dialled, arrived) = both(dialer.dial(&address, &pins, hello()), async {
        sleep(secs(3)).await;
        world.restart();
        world.establish().await
    })
    .await;
    dialled.unwrap();
    arrived.unwrap();
}
