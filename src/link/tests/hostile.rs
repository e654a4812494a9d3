//! Peers that do not keep to the rules: closed with a code, in time, and at nobody else's cost.

use tokio::time::{Instant, timeout};

use super::super::{EndCause, LinkEnd};
use super::*;
use crate::codes::Code;
use crate::wire::{
    CONTROL_MAX, Control, Ping, WireError, encode_control, encode_stream_head, put_varint,
};

/// What a stranger that sends `bytes` on its first stream gets, at both ends, and after how long.
async fn greeted_with(world: &World, bytes: &[u8], finish: bool) -> (LinkError, LinkEnd, Duration) {
    let mut start = Instant::now();
    let stranger = async {
        let stranger = world.stranger().await;
        let (mut tx, _rx) = stranger.open_bi().await.unwrap();
        // A closed link may cut the writing short, which is what is expected of it. A stream on which
        // nothing is written is none that the server hears of.
        let _ = tx.write_all(bytes).await;
        if finish {
            let _ = tx.finish();
        }
        LinkEnd::of(stranger.closed().await, None)
    };
    let establishing = async {
        let arriving = world.listener.accept().await.unwrap();
        start = Instant::now();
        arriving.establish().await
    };
    let (established, end) = both(establishing, stranger).await;
    (established.unwrap_err(), end, start.elapsed())
}

fn control(after: &[u8]) -> Vec<u8> {
    let mut bytes = encode_stream_head(&StreamHead::Control).to_vec();
    bytes.extend_from_slice(after);
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_hello_of_ten_megabytes_is_closed_before_it_arrives() {
    let world = World::new();
    let mut huge = Vec::new();
    put_varint(&mut huge, 10 << 20);
    huge.resize(10 << 20, 0);
    let (error, end, took) = greeted_with(&world, &control(&huge), true).await;
    assert!(
        matches!(error, LinkError::Protocol(WireError::TooLong { .. })),
        "{error}"
    );
    assert_eq!((end.code, end.by_peer), (Some(Code::Protocol), true));
    assert!(took < secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn half_a_hello_no_hello_and_no_stream_are_closed_after_ten_seconds() {
    let world = World::new();
    let hello = encode_control(&Control::Hello(hello()));
    for bytes in [control(&hello[..hello.len() / 2]), control(&[]), Vec::new()] {
        let (error, end, took) = greeted_with(&world, &bytes, false).await;
        assert!(matches!(error, LinkError::Late { .. }), "{error}");
        assert_eq!(end.code, Some(Code::TimedOut));
        assert!(took >= secs(10) && took < secs(11), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_stream_that_is_no_greeting_is_closed_at_once() {
    let world = World::new();
    let hello = encode_control(&Control::Hello(hello()));
    let ping = encode_control(&Control::Ping(Ping { nonce: 1 }));
    let visit = encode_stream_head(&http_head());
    let cases = [
        (visit.to_vec(), false),
        (vec![9, 0], false),
        (vec![0x40], true),
        (control(&ping), false),
        (control(&[4, 0xff, 0xff, 0xff, 0xff]), false),
        (control(&hello[..hello.len() / 2]), true),
        (control(&[]), true),
    ];
    for (bytes, finish) in cases {
        let (error, end, took) = greeted_with(&world, &bytes, finish).await;
        assert!(
            matches!(error, LinkError::Protocol(_)),
            "{bytes:?}: {error}"
        );
        assert_eq!(end.code, Some(Code::Protocol), "{bytes:?}");
        assert!(took < secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_the_handshake_is_forgotten() {
    let world = World::with(LinkSettings {
        handshakes: 1,
        ..LinkSettings::default()
    });
    let dialer = world.dialer();
    let arriving = tokio::select! {
        _ = world.dial(&dialer) => panic!("nobody answered yet"),
        arriving = world.listener.accept() => arriving.unwrap(),
    };
    // The dialler is gone by now: spoofed, or switched off.
    world.network.set_down(true);
    let start = Instant::now();
    let error = arriving.establish().await.unwrap_err();
    assert!(
        matches!(error, LinkError::Late { what: "handshake" }),
        "{error}"
    );
    assert!(start.elapsed() < secs(11));
    // Its place at the door is free again.
    world.network.set_down(false);
    world.link().await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_client_opens_one_stream_and_a_known_one_four() {
    let world = World::new();
    let ends = world.link().await;
    let raw = ends.client.raw();
    assert!(timeout(secs(60), raw.open_bi()).await.is_err());
    assert!(timeout(secs(60), raw.open_uni()).await.is_err());
    ends.server.allow_streams(4);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(timeout(secs(1), raw.open_bi()).await.unwrap().unwrap());
    }
    assert!(timeout(secs(60), raw.open_bi()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_closes_a_link_in_service() {
    let world = World::new();
    let mut ends = world.link().await;
    // From the server, which the client must not trust with its memory either.
    let fault = Control::Error(crate::wire::Fault {
        request: None,
        code: 1,
        detail: "x".repeat(CONTROL_MAX),
    });
    let (sent, received) = both(ends.server_send.send(&fault), ends.client_recv.recv()).await;
    drop(sent);
    assert!(
        matches!(received, Err(LinkError::Protocol(_))),
        "{received:?}"
    );
    let end = timeout(secs(1), ends.server.closed()).await.unwrap();
    assert_eq!(
        (end.code, end.cause),
        (Some(Code::Protocol), EndCause::Closed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_control_stream_given_up_ends_the_link() {
    let world = World::new();
    let mut ends = world.link().await;
    drop(ends.client_send);
    let error = ends.server_recv.recv().await.unwrap_err();
    assert!(matches!(error, LinkError::Protocol(_)), "{error}");
    let end = timeout(secs(1), ends.client.closed()).await.unwrap();
    assert_eq!(end.code, Some(Code::Protocol));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_opens_and_resets_without_end_does_not_drown_a_good_visit() {
    let world = World::new();
    let ends = world.link().await;
    let raw = ends.server.raw().clone();
    let churn = async {
        loop {
            let Ok((mut tx, _rx)) = raw.open_bi().await else {
                return;
            };
            let _ = tx.write_all(&[9, 0]).await;
            let _ = tx.reset(1u32.into());
            tokio::task::yield_now().await;
        }
    };
    let good = async {
        for _ in 0..20 {
            let (opened, accepted) =
                both(ends.server.open(&bytes_head()), ends.client.accept()).await;
            opened.unwrap();
            accepted.unwrap();
        }
    };
    let start = Instant::now();
    tokio::select! {
        () = churn => panic!("the link went down"),
        () = good => {}
    }
    assert!(start.elapsed() < secs(5), "{:?}", start.elapsed());
}
