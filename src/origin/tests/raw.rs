//! Visits of bytes only.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::wire::{BytesHead, RecvChunks, SendChunks, StreamError, send_all};

struct Connection {
    up: MemorySend,
    down: MemoryRecv,
    task: JoinHandle<VisitReport>,
}

fn connect(world: &World, target: &str) -> Connection {
    let tunnel = tunnel_to(target, HostMode::Keep);
    let head = BytesHead {
        tunnel: tunnel.id,
        visit: VisitId::random(),
        peer: "192.0.2.1:1".parse().unwrap(),
        local: "192.0.2.2:2".parse().unwrap(),
        sni: None,
        shadowed: Vec::new(),
    };
    let (up, up_rx) = pipe(64 * 1024);
    let (down_tx, down) = pipe(64 * 1024);
    let origins = world.origins.clone();
    let task = world.tasks.spawn("visit", async move {
        origins.bytes(tunnel, head, down_tx, up_rx).await
    });
    Connection { up, down, task }
}

fn tcp(origin: &Server) -> String {
    format!("tcp://{}", origin.addr)
}

pub(super) async fn receive(down: &mut MemoryRecv) -> Result<Bytes, StreamCode> {
    let mut chunks = [Bytes::new()];
    let received = std::future::poll_fn(|cx| down.poll_recv(cx, &mut chunks));
    match timeout(STUCK, received).await.expect("bytes come in time") {
        Ok(_) => Ok(std::mem::take(&mut chunks[0])),
        Err(error) => Err(code_of(&error.into())),
    }
}

#[tokio::test]
async fn either_side_may_end_first_and_the_other_goes_on() {
    let origin = Server::new(|mut stream, _| async move {
        stream.write_all(b"hello").await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&got).await.unwrap();
    })
    .await;
    let world = World::new();
    let mut visit = connect(&world, &tcp(&origin));
    assert_eq!(receive(&mut visit.down).await.unwrap(), "hello");
    send_all(
        &mut visit.up,
        &mut [Bytes::from_static(b"a"), Bytes::from_static(b"b")],
    )
    .await
    .unwrap();
    visit.up.finish();
    assert_eq!(receive(&mut visit.down).await.unwrap(), "ab");
    assert_eq!(receive(&mut visit.down).await.unwrap(), "");
    let report = ended(visit.task).await;
    assert_eq!(
        (report.bytes_in, report.bytes_out, report.error),
        (2, 7, None)
    );

    let talker = Server::new(|mut stream, _| async move {
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"still here");
    })
    .await;
    let mut visit = connect(&world, &tcp(&talker));
    assert_eq!(receive(&mut visit.down).await.unwrap(), "");
    send_all(&mut visit.up, &mut [Bytes::from_static(b"still here")])
        .await
        .unwrap();
    visit.up.finish();
    assert_eq!(ended(visit.task).await.bytes_in, 10);
}

#[tokio::test]
async fn an_abort_on_one_side_is_an_abort_on_the_other() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let origin = Server::new(move |mut stream, _| {
        let tell = tell.lock().unwrap().take();
        async move {
            stream.write_all(b"x").await.unwrap();
            let mut got = Vec::new();
            let read = stream.read_to_end(&mut got).await;
            tell.unwrap().send(read.map_err(|e| e.kind())).unwrap();
        }
    })
    .await;
    let world = World::new();
    let mut visit = connect(&world, &tcp(&origin));
    receive(&mut visit.down).await.unwrap();
    visit.up.reset(StreamCode::Cancelled);
    assert_eq!(ended(visit.task).await.error, Some(StreamCode::Cancelled));
    let seen = timeout(STUCK, told).await.unwrap().unwrap();
    assert_eq!(seen, Err(std::io::ErrorKind::ConnectionReset));

    for was_finished in [false, true] {
        let origin = aborting().await;
        let mut visit = connect(&world, &tcp(&origin));
        send_all(&mut visit.up, &mut [Bytes::from_static(b"x")])
            .await
            .unwrap();
        if was_finished {
            visit.up.finish();
        } else {
            assert_eq!(stopped(&mut visit.up).await, StreamCode::BrokeAfter(0));
            visit.down.stop(StreamCode::Cancelled);
        }
        assert_eq!(receive(&mut visit.down).await, Err(StreamCode::OriginError));
        assert_eq!(ended(visit.task).await.error, Some(StreamCode::OriginError));
    }
}

/// Reads a byte, and breaks off.
async fn aborting() -> Server {
    Server::new(|mut stream, _| async move {
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await
}

async fn stopped(up: &mut MemorySend) -> StreamCode {
    let stopped = std::future::poll_fn(|cx| up.poll_stopped(cx));
    match timeout(STUCK, stopped).await.expect("it is stopped") {
        Some(StreamError::Reset(code)) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_came_before_an_abort_waits_for_the_peer_and_the_abort_is_no_end() {
    // It does not read all that it was sent, so that its close is an abort.
    let origin = Server::new(|mut stream, _| async move {
        stream.write_all(&[7; 30_000]).await.unwrap();
        stream.read_u8().await.unwrap();
    })
    .await;
    let world = World::new();
    for more in [1, 40] {
        let mut visit = connect(&world, &tcp(&origin));
        let mut got = 0;
        // Of one byte reads hear of the abort first, of many writes may.
        for _ in 0..more {
            let piece = Bytes::from_static(&[b'x'; 1000]);
            send_all(&mut visit.up, &mut [piece]).await.unwrap();
        }
        let code = stopped(&mut visit.up).await;
        assert_eq!(code, StreamCode::BrokeAfter(30_000));
        while got < 30_000 {
            let piece = receive(&mut visit.down).await.unwrap();
            assert_ne!(piece, "", "an end after {got} bytes");
            got += piece.len();
        }
        visit.down.stop(StreamCode::Cancelled);
        assert_eq!(ended(visit.task).await.error, Some(StreamCode::OriginError));
    }
}

#[tokio::test]
async fn a_visitor_who_stops_reading_an_idle_connection_ends_it() {
    let origin = Server::new(|mut stream, _| async move {
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got).await;
    })
    .await;
    let world = World::new();
    let visit = connect(&world, &tcp(&origin));
    until(|| origin.connections() == 1).await;
    drop(visit.down);
    assert_eq!(ended(visit.task).await.error, Some(StreamCode::Cancelled));
}

#[tokio::test]
async fn much_crosses_both_ways_at_once_unharmed() {
    const TOTAL: usize = 8 << 20;
    let origin = Server::new(|stream, _| async move {
        let (mut read, mut write) = stream.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    let world = World::new();
    let visit = connect(&world, &tcp(&origin));
    let (mut up, mut down) = (visit.up, visit.down);
    let send = async {
        let mut sent = 0;
        while sent < TOTAL {
            let piece: Bytes = (sent..sent + 8192).map(|i| (i % 249) as u8).collect();
            send_all(&mut up, &mut [piece]).await.unwrap();
            sent += 8192;
        }
        up.finish();
    };
    let receive_all = async {
        let mut got = 0;
        loop {
            let piece = receive(&mut down).await.unwrap();
            if piece.is_empty() {
                break got;
            }
            for byte in piece {
                assert_eq!(byte, (got % 249) as u8);
                got += 1;
            }
        }
    };
    let ((), got) = tokio::join!(send, receive_all);
    assert_eq!(got, TOTAL);
    let report = ended(visit.task).await;
    assert_eq!(
        (report.bytes_in, report.bytes_out),
        (TOTAL as u64, TOTAL as u64)
    );
}

#[tokio::test]
async fn what_is_no_bytes_target_or_not_allowed_is_refused() {
    let world = World::new();
    for (target, code) in [
        ("http://127.0.0.1:1", StreamCode::Unsupported),
        ("udp://127.0.0.1:1", StreamCode::Unsupported),
        ("tcp://192.0.2.1:1", StreamCode::NotAllowed),
        ("tcp://127.0.0.1:1", StreamCode::OriginUnreachable),
    ] {
        let mut visit = connect(&world, target);
        assert_eq!(receive(&mut visit.down).await, Err(code), "{target}");
        assert_eq!(ended(visit.task).await.error, Some(code), "{target}");
    }
}
