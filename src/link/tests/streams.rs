//! Visits inside a link.

use std::future::poll_fn;

use tokio::time::{Instant, sleep, timeout};

use super::super::{OpenFailure, heads};
use super::*;
use crate::wire::{Control, Ping, SendChunks as _, StreamCode, encode_stream_head, put_varint};

type Half = (LinkSend, LinkRecv);

/// A stream that the server opened, as both ends have it.
async fn pair(ends: &Ends) -> (Half, Half) {
    let (opened, accepted) = both(ends.server.open(&bytes_head()), ends.client.accept()).await;
    let (_, tx, rx) = accepted.unwrap();
    (opened.unwrap(), (tx, rx))
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_visit_arrives_with_its_head_and_its_bytes() {
    let world = World::new();
    let ends = world.link().await;
    ends.server.allow_streams(4);
    let ways = [(&ends.server, &ends.client), (&ends.client, &ends.server)];
    for (from, to) in ways {
        for head in [bytes_head(), http_head()] {
            let opening = async {
                let (mut tx, rx) = from.open(&head).await.unwrap();
                // In the same packet as the head, so that it is read too far.
                send(&mut tx, "question").await.unwrap();
                tx.finish();
                (tx, rx)
            };
            let ((_tx, mut answer), accepted) = both(opening, to.accept()).await;
            let (got, mut tx, mut rx) = accepted.unwrap();
            assert_eq!(got, head);
            assert_eq!(recv_all(&mut rx).await.unwrap(), b"question");
            send(&mut tx, "answer").await.unwrap();
            tx.finish();
            assert_eq!(recv_all(&mut answer).await.unwrap(), b"answer");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_in_many_pieces_is_read_whole() {
    let world = World::new();
    let ends = world.link().await;
    let head = http_head();
    let wire = encode_stream_head(&head);
    let (mut tx, _rx) = ends.server.raw().open_bi().await.unwrap();
    let writing = async {
        for byte in &wire {
            tx.write_all(&[*byte]).await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
        tx.write_all(b"body").await.unwrap();
        tx.finish().unwrap();
    };
    let (accepted, ()) = both(ends.client.accept(), writing).await;
    let (got, _tx, mut rx) = accepted.unwrap();
    assert_eq!(got, head);
    assert_eq!(recv_all(&mut rx).await.unwrap(), b"body");
}

#[tokio::test(start_paused = true)]
async fn slow_heads_stop_nobody_and_end_at_their_deadline() {
    let world = World::new();
    let ends = world.link().await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let (mut tx, rx) = ends.server.raw().open_bi().await.unwrap();
        tx.write_all(&encode_stream_head(&http_head())[..5])
            .await
            .unwrap();
        slow.push((tx, rx));
    }
    let start = Instant::now();
    for _ in 0..10 {
        let _both = pair(&ends).await;
    }
    assert!(start.elapsed() < secs(1));
    // The client goes on accepting, as it does all day.
    let refused = async {
        for (tx, rx) in &mut slow {
            let code = tx.stopped().await.unwrap().unwrap();
            assert_eq!(code.into_inner(), StreamCode::Protocol.to_wire());
            let read = rx.read_to_end(10).await;
            assert!(read.is_err());
        }
    };
    tokio::select! {
        refused = timeout(secs(60), refused) => refused.unwrap(),
        _ = ends.client.accept() => panic!("half a head surfaced"),
    }
    let late = start.elapsed();
    assert!(late >= heads::HEAD_TIME && late < heads::HEAD_TIME + secs(1));
    let _both = pair(&ends).await;
}

#[tokio::test(start_paused = true)]
async fn bad_heads_are_refused_with_a_code_and_do_not_surface() {
    let world = World::new();
    let ends = world.link().await;
    let mut long = Vec::new();
    put_varint(&mut long, 1);
    put_varint(&mut long, 1 << 20);
    let cases: [(&[u8], StreamCode); 4] = [
        (&[9, 0], StreamCode::Unsupported),
        (&[1, 2, 0xff, 0xff], StreamCode::Protocol),
        (
            &encode_stream_head(&StreamHead::Control),
            StreamCode::Protocol,
        ),
        (&long, StreamCode::Protocol),
    ];
    for (bytes, code) in cases {
        let (mut tx, mut rx) = ends.server.raw().open_bi().await.unwrap();
        tx.write_all(bytes).await.unwrap();
        let told = async {
            let stopped = tx.stopped().await.unwrap().unwrap();
            assert_eq!(
                StreamCode::from_wire(stopped.into_inner()),
                code,
                "{bytes:?}"
            );
            let error = rx.read_to_end(10).await.unwrap_err();
            assert!(
                format!("{error:?}").contains(&code.to_wire().to_string()),
                "{error:?}"
            );
        };
        tokio::select! {
            () = told => {}
            _ = ends.client.accept() => panic!("a bad head surfaced"),
        }
    }
    // A head that ends too early is no head either; and the link is none the worse.
    let (mut tx, _rx) = ends.server.raw().open_bi().await.unwrap();
    tx.write_all(&[1]).await.unwrap();
    tx.finish().unwrap();
    let _both = pair(&ends).await;
}

#[tokio::test(start_paused = true)]
async fn reset_and_stop_codes_arrive_each_way() {
    use StreamCode as C;
    let world = World::new();
    let ends = world.link().await;
    for code in [
        C::Cancelled,
        C::OriginError,
        C::TooSlow,
        C::TunnelEnded,
        C::Unknown(0x4242),
    ] {
        let ((mut stx, mut srx), (mut ctx, mut crx)) = pair(&ends).await;
        stx.reset(code);
        assert_eq!(recv(&mut crx).await, Err(StreamError::Reset(code)));
        ctx.reset(code);
        assert_eq!(recv(&mut srx).await, Err(StreamError::Reset(code)));

        let ((mut stx, mut srx), (mut ctx, mut crx)) = pair(&ends).await;
        crx.stop(code);
        let stopped = poll_fn(|cx| stx.poll_stopped(cx)).await;
        assert_eq!(stopped, Some(StreamError::Reset(code)));
        // Asked again, it says so again; and so does a write.
        let stopped = poll_fn(|cx| stx.poll_stopped(cx)).await;
        assert_eq!(stopped, Some(StreamError::Reset(code)));
        assert_eq!(send(&mut stx, "more").await, Err(StreamError::Reset(code)));
        srx.stop(code);
        let stopped = poll_fn(|cx| ctx.poll_stopped(cx)).await;
        assert_eq!(stopped, Some(StreamError::Reset(code)));
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_finished_stream_ever_reads_as_ended() {
    let world = World::new();
    let ends = world.link().await;

    // Dropped without a finish: an error, however often it is asked.
    let ((mut stx, _srx), (_ctx, mut crx)) = pair(&ends).await;
    send(&mut stx, "half").await.unwrap();
    drop(stx);
    let error = loop {
        match recv(&mut crx).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("half a body was delivered as a whole one"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, StreamError::Reset(StreamCode::Cancelled));
    for _ in 0..3 {
        assert_eq!(recv(&mut crx).await, Err(error.clone()));
    }

    // Finished, and dropped right after: whole.
    let ((mut stx, _srx), (_ctx, mut crx)) = pair(&ends).await;
    send(&mut stx, "whole").await.unwrap();
    stx.finish();
    stx.reset(StreamCode::Internal);
    drop(stx);
    assert_eq!(recv_all(&mut crx).await.unwrap(), b"whole");
    assert_eq!(recv(&mut crx).await, Ok(None));

    // A reader that stopped does not read an end.
    let ((mut stx, _srx), (_ctx, mut crx)) = pair(&ends).await;
    crx.stop(StreamCode::TooSlow);
    stx.finish();
    assert_eq!(
        recv(&mut crx).await,
        Err(StreamError::Reset(StreamCode::TooSlow))
    );

    // A link that is gone is no end.
    let ((mut stx, _srx), (_ctx, mut crx)) = pair(&ends).await;
    send(&mut stx, "half").await.unwrap();
    ends.server.close(crate::codes::Code::Done, "");
    let error = loop {
        match recv(&mut crx).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a lost link was delivered as the end of a body"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, StreamError::LinkLost);
    assert_eq!(send(&mut stx, "more").await, Err(StreamError::LinkLost));
    let stopped = poll_fn(|cx| stx.poll_stopped(cx)).await;
    assert_eq!(stopped, Some(StreamError::LinkLost));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_reader_stops_its_writer() {
    let world = World::new();
    let ends = world.link().await;
    let ((mut stx, _srx), (ctx, crx)) = pair(&ends).await;
    drop((ctx, crx));
    let stopped = timeout(secs(1), poll_fn(|cx| stx.poll_stopped(cx)))
        .await
        .unwrap();
    assert_eq!(stopped, Some(StreamError::Reset(StreamCode::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn a_writer_learns_that_all_was_taken() {
    let world = World::new();
    let ends = world.link().await;
    let ((mut stx, _srx), (_ctx, mut crx)) = pair(&ends).await;
    send(&mut stx, "all").await.unwrap();
    stx.finish();
    let (stopped, all) = both(poll_fn(|cx| stx.poll_stopped(cx)), recv_all(&mut crx)).await;
    assert_eq!((stopped, all.unwrap()), (None, b"all".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_visit_that_finds_no_stream_waits_five_seconds() {
    let world = World::with(LinkSettings {
        streams: 2,
        ..LinkSettings::default()
    });
    let ends = world.link().await;
    let one = pair(&ends).await;
    let two = pair(&ends).await;
    let start = Instant::now();
    let error = ends.server.open(&bytes_head()).await.unwrap_err();
    assert_eq!(error, OpenFailure::NoStream);
    assert!(start.elapsed() >= secs(5) && start.elapsed() < secs(6));
    // One that ends makes room for the one that waits.
    let opening = async {
        let later = async {
            sleep(secs(1)).await;
            drop(one);
        };
        both(ends.server.open(&bytes_head()), later).await.0
    };
    let (opened, accepted) = both(opening, ends.client.accept()).await;
    opened.unwrap();
    accepted.unwrap();
    assert!(start.elapsed() >= secs(6));
    drop(two);
}

#[tokio::test(start_paused = true)]
async fn our_own_limit_holds_where_the_peer_allows_more() {
    // What we open must stay within the window we give it, however generous the peer is.
    let mut world = World::with(LinkSettings {
        streams: 2,
        ..LinkSettings::default()
    });
    world.settings.streams = 512;
    let ends = world.link().await;
    let (_one, _two) = (pair(&ends).await, pair(&ends).await);
    let error = ends.server.open(&bytes_head()).await.unwrap_err();
    assert_eq!(error, OpenFailure::NoStream);
    ends.client.close(crate::codes::Code::Done, "");
    let error = ends.server.open(&bytes_head()).await.unwrap_err();
    assert_eq!(error, OpenFailure::LinkGone);
}

#[tokio::test(start_paused = true)]
async fn the_peers_limit_holds_where_it_is_the_smaller() {
    let world = World::new();
    let ends = world.link().await;
    ends.server.allow_streams(2);
    let (opened, accepted) = both(ends.client.open(&bytes_head()), ends.server.accept()).await;
    let _held = (opened.unwrap(), accepted.unwrap());
    let error = ends.client.open(&bytes_head()).await.unwrap_err();
    assert_eq!(error, OpenFailure::NoStream);
    ends.server.allow_streams(4);
    ends.client.open(&bytes_head()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_control_message_given_up_midway_still_goes_out_whole() {
    let world = World::with(LinkSettings {
        stream_window: 1000,
        ..LinkSettings::default()
    });
    let mut ends = world.link().await;
    let fault = |n: u32| {
        Control::Error(crate::wire::Fault {
            request: None,
            code: n,
            detail: "x".repeat(700),
        })
    };
    for n in 0..4 {
        // The client does not read, so the second message gets stuck in the middle.
        let _ = timeout(secs(1), ends.server_send.send(&fault(n))).await;
    }
    let reading = async {
        let mut got = Vec::new();
        loop {
            match ends.client_recv.recv().await.unwrap().unwrap() {
                Control::Ping(_) => return got,
                other => got.push(other),
            }
        }
    };
    let last = Control::Ping(Ping { nonce: 9 });
    let (got, sent) = both(reading, ends.server_send.send(&last)).await;
    sent.unwrap();
    assert_eq!(got, (0..4).map(fault).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn control_messages_overtake_a_download() {
    let world = World::new();
    let mut ends = world.link().await;
    let ((mut stx, _srx), _client) = pair(&ends).await;
    // Much more than a young link may send at once, and all of it queued first.
    send(&mut stx, vec![0; 400 * 1024]).await.unwrap();
    let ping = Control::Ping(Ping { nonce: 1 });
    ends.server_send.send(&ping).await.unwrap();
    let start = Instant::now();
    assert_eq!(ends.client_recv.recv().await.unwrap(), Some(ping));
    // With the first packets: half a round trip.
    assert!(start.elapsed() < Duration::from_millis(20));
}
