//! Who gets a link, and who does not.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use tokio::time::Instant;

use super::super::{EndCause, LinkEnd, enrol, tls};
use super::*;
use crate::codes::Code;
use crate::names::Pin;
use crate::tasks::Tasks;
use crate::wire::{Control, Ping};

#[tokio::test(start_paused = true)]
async fn both_ends_know_each_others_key_and_talk() {
    let world = World::new();
    let device = Identity::ephemeral().unwrap();
    let mut ends = world.link_by(&world.dialer_of(&device)).await;
    assert_eq!(ends.client.pin(), world.key.pin());
    assert_eq!(ends.server.pin(), device.pin());
    assert_eq!(ends.client.peer(), world.address);
    assert_eq!(ends.hello, hello());
    let (ping, pong) = (Ping { nonce: 1 }, Ping { nonce: 2 });
    ends.client_send
        .send(&Control::Ping(ping.clone()))
        .await
        .unwrap();
    ends.server_send
        .send(&Control::Pong(pong.clone()))
        .await
        .unwrap();
    assert_eq!(
        ends.server_recv.recv().await.unwrap(),
        Some(Control::Ping(ping))
    );
    assert_eq!(
        ends.client_recv.recv().await.unwrap(),
        Some(Control::Pong(pong))
    );
    assert!(ends.client.rtt() >= Duration::from_millis(20));
    ends.client_send.finish();
    assert_eq!(ends.server_recv.recv().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_with_another_key_is_refused_and_nothing_proceeds() {
    let world = World::new();
    let expected = Identity::ephemeral().unwrap().pin();
    // The worst case: it even knows the tag of the key it does not have.
    world.listener.answer_also_to(&[expected]);
    let dialer = world.dialer();
    let address = world.address.to_string();
    let pins = [expected];
    let (dialled, arrived) = both(dialer.dial(&address, &pins, hello()), world.establish()).await;
    let error = dialled.unwrap_err();
    assert_eq!(error.code(), Code::WrongPin);
    let got = world.key.pin();
    assert!(
        matches!(error, LinkError::WrongPin { expected: e, got: Some(g) } if e == [expected] && g == got)
    );
    assert!(matches!(arrived.unwrap_err(), LinkError::Tls { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_know_our_key_for_it_is_a_wrong_pin_at_once() {
    let world = World::new();
    let dialer = world.dialer();
    let address = world.address.to_string();
    let start = Instant::now();
    let pins = [Pin([1; 32]), Pin([2; 32])];
    let error = tokio::select! {
        error = dialer.dial(&address, &pins, hello()) => error.unwrap_err(),
        _ = world.listener.accept() => panic!("an unknown tag got through"),
    };
    assert!(
        matches!(error, LinkError::WrongPin { got: None, .. }),
        "{error}"
    );
    assert!(start.elapsed() < secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_pins_are_no_trust() {
    let world = World::new();
    let error = world
        .dialer()
        .dial(&world.address.to_string(), &[], hello())
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::WrongPin { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn keys_rotate_without_a_flag_day() {
    let world = World::new();
    let dialer = world.dialer();
    let address = world.address.to_string();
    let old = Identity::ephemeral().unwrap().pin();
    let pins = [old, world.key.pin()];
    // The server holds the next key already and has forgotten the old one's tag, or still knows it.
    for known in [&[][..], &[old]] {
        world.listener.answer_also_to(known);
        let (dialled, arrived) =
            both(dialer.dial(&address, &pins, hello()), world.establish()).await;
        assert_eq!(dialled.unwrap().0.pin(), world.key.pin());
        arrived.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_protocol_is_told_so() {
    let world = World::new();
    let (mut settings, _) =
        tls::client_settings(&Identity::ephemeral().unwrap(), &[world.key.pin()]).unwrap();
    settings.alpn_protocols = vec![b"wormkey/2".to_vec()];
    let config = tagged(&world, settings);
    let (connected, arrived) = both(world.connect(config), world.establish()).await;
    let end = LinkEnd::of(connected.unwrap_err(), None);
    assert_eq!((end.cause, end.by_peer), (EndCause::AlpnMismatch, true));
    let error = LinkError::from(end);
    assert_eq!(error.code(), Code::VersionMismatch);
    assert!(matches!(arrived.unwrap_err(), LinkError::AlpnMismatch));
}

#[tokio::test(start_paused = true)]
async fn a_client_without_a_key_gets_no_link() {
    let world = World::new();
    let (mut settings, _) =
        tls::client_settings(&Identity::ephemeral().unwrap(), &[world.key.pin()]).unwrap();
    settings.client_auth_cert_resolver = Arc::new(NoKey);
    let config = tagged(&world, settings);
    let (_, arrived) = both(world.connect(config), world.establish()).await;
    assert!(matches!(arrived.unwrap_err(), LinkError::Tls { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_untagged_connection_is_refused_without_a_handshake() {
    let world = World::new();
    let (settings, _) =
        tls::client_settings(&Identity::ephemeral().unwrap(), &[world.key.pin()]).unwrap();
    let untagged =
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(settings).unwrap()));
    let error = tokio::select! {
        connected = world.connect(untagged) => connected.unwrap_err(),
        _ = world.listener.accept() => panic!("an untagged connection got through"),
    };
    assert_eq!(LinkEnd::of(error, None).cause, EndCause::NotRecognised);
}

#[tokio::test(start_paused = true)]
async fn the_exporter_is_the_same_at_both_ends_and_on_no_other_link() {
    let world = World::new();
    let dialer = world.dialer();
    let (one, two) = (world.link_by(&dialer).await, world.link_by(&dialer).await);
    let exporter = one.client.exporter().unwrap();
    assert_eq!(exporter, one.server.exporter().unwrap());
    assert_ne!(exporter, two.client.exporter().unwrap());
    let proof = enrol::proof(&[5; 32], &exporter);
    assert!(enrol::check_proof(
        &[5; 32],
        &one.server.exporter().unwrap(),
        &proof
    ));
    assert!(!enrol::check_proof(
        &[5; 32],
        &two.server.exporter().unwrap(),
        &proof
    ));
}

#[tokio::test(start_paused = true)]
async fn over_budget_an_address_proves_itself_first() {
    let mut took = Vec::new();
    for handshakes_unproved in [64, 0] {
        let world = World::with(LinkSettings {
            handshakes_unproved,
            ..LinkSettings::default()
        });
        let start = Instant::now();
        let _ends = world.link().await;
        took.push(start.elapsed());
    }
    // One more round trip, for the Retry.
    assert!(took[1] >= took[0] + Duration::from_millis(20), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn forged_addresses_pin_few_handshakes_and_a_real_client_gets_in() {
    let world = World::with(LinkSettings {
        handshakes_unproved: 8,
        ..LinkSettings::default()
    });
    // As the server role does: one task for each arrival.
    let tasks = Tasks::new();
    let (tell, mut told) = tokio::sync::mpsc::channel(256);
    let (server, listener) = (tasks.clone(), Arc::clone(&world.listener));
    tasks.spawn("accept", async move {
        while let Some(arriving) = listener.accept().await {
            let tell = tell.clone();
            server.spawn("establish", async move {
                let _ = tell.send(arriving.establish().await).await;
            });
        }
    });
    let _forged: Vec<_> = (0..100)
        .map(|_| world.connecting(world.network.deaf_socket(), world.client_config()))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The accepting task, and no more handshakes than the budget.
    assert_eq!(tasks.running(), 1 + 8);
    let start = Instant::now();
    let _link = world.dial(&world.dialer()).await.unwrap();
    let arrived = told.recv().await.unwrap();
    arrived.unwrap();
    assert!(start.elapsed() < secs(3));
    tokio::time::sleep(secs(10)).await;
    // The forged ones that got in are forgotten in time; others have taken their place by asking again.
    assert!(tasks.running() <= 1 + 8);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_finds_the_door_full_gets_in_when_it_clears() {
    let world = World::with(LinkSettings {
        handshakes: 1,
        ..LinkSettings::default()
    });
    let _forged = world.connecting(world.network.deaf_socket(), world.client_config());
    let occupying = world.listener.accept().await.unwrap();
    let tasks = Tasks::new();
    tasks.spawn("occupying", occupying.establish());
    tokio::time::sleep(secs(5)).await;
    let start = Instant::now();
    let dialler = world.dialer();
    let dialling = async {
        let dialled = world.dial(&dialler).await;
        (dialled, start.elapsed())
    };
    let ((dialled, took), arrived) = both(dialling, world.establish()).await;
    dialled.unwrap();
    arrived.unwrap();
    assert!(took >= secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_known_after_ten_seconds() {
    let world = World::new();
    let start = Instant::now();
    let dialer = world.dialer();
    let pins = [world.key.pin()];
    let error = dialer
        .dial("10.9.9.9:443", &pins, hello())
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::Unreachable { .. }), "{error}");
    assert_eq!(error.code(), Code::ServerUnreachable);
    assert!(start.elapsed() >= secs(10) && start.elapsed() < secs(11));
}

fn tagged(world: &World, settings: rustls::ClientConfig) -> quinn::ClientConfig {
    let pin = world.key.pin();
    let tls = QuicClientConfig::try_from(settings).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.initial_dst_cid_provider(Arc::new(move || super::super::cid::first_cid(&pin)));
    config
}

#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
