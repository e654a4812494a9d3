//! HTTP/3 on loopback, with a client that writes its own frames.

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, VarInt};

use super::*;
use crate::edge::h3;

mod limits;

const MESSAGE_ERROR: u32 = 0x10e;
const CANCELLED: u32 = 0x10c;
const INTERNAL_ERROR: u32 = 0x102;
const EXCESSIVE_LOAD: u32 = 0x107;

/// `:status: 200` is the 25th line of the static table.
const OK: &[u8] = &[0, 0, 0xc0 | 25];

struct Visiting {
    world: World,
    visitor: Connection,
    /// One that ends would end the connection.
    _control: SendStream,
    ends: (Endpoint, Endpoint, tempfile::TempDir),
}

async fn visiting() -> Visiting {
    visiting_with(|_| {}).await
}

/// With a visitor that is as a test wants it.
async fn visiting_with(transport: impl FnOnce(&mut quinn::TransportConfig)) -> Visiting {
    visiting_as(|_| {}, transport).await
}

/// With a server and a visitor that are as a test wants them.
async fn visiting_as(
    settings: impl FnOnce(&mut EdgeSettings),
    transport_of: impl FnOnce(&mut quinn::TransportConfig),
) -> Visiting {
    let world = World::with(settings);
    let dir = tempfile::tempdir().unwrap();
    let key =
        super::super::tls::self_signed(&dir.path().join("edge.pem"), &host("t.example")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert[0].clone()).unwrap();
    let (crypto, transport) = h3::quic(super::super::tls::CertStore::new(key)).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(crypto);
    config.transport = transport;
    let loopback = "127.0.0.1:0".parse().unwrap();
    let server = Endpoint::server(config, loopback).unwrap();
    let mut client = Endpoint::client(loopback).unwrap();
    let mut visiting = trusting(roots);
    let mut wanted = quinn::TransportConfig::default();
    transport_of(&mut wanted);
    visiting.transport_config(Arc::new(wanted));
    client.set_default_client_config(visiting);
    let connecting = client.connect(server.local_addr().unwrap(), "app.t.example");
    let accepting = async {
        let incoming = server.accept().await.unwrap();
        let peer = incoming.remote_address();
        (incoming.await.unwrap(), peer)
    };
    let (visitor, (accepted, peer)) = tokio::join!(connecting.unwrap(), accepting);
    world.edge.serve_quic(accepted, peer);
    let visitor = visitor.unwrap();
    let mut control = visitor.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0]).await.unwrap();
    Visiting {
        world,
        visitor,
        _control: control,
        ends: (server, client, dir),
    }
}

fn trusting(roots: rustls::RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![h3::ALPN_H3.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap() | 0x4000;
    [&[kind][..], &length.to_be_bytes(), payload].concat()
}

fn section(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        let (n, v) = (
            u8::try_from(name.len()).unwrap(),
            u8::try_from(value.len()).unwrap(),
        );
        // Numbers below 7 + 128 and below 127.
        if n < 7 {
            out.push(0x20 | n);
        } else {
            out.extend([0x27, n - 7]);
        }
        out.extend_from_slice(name.as_bytes());
        out.push(v);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

fn request(method: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let head = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "app.t.example"),
        (":path", "/x"),
    ];
    frame(1, &section(&[&head[..], fields].concat()))
}

impl Visiting {
    async fn send(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.visitor.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, recv)
    }

    /// A whole request and the bytes of its answer.
    async fn ask(&self, bytes: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
        let (mut send, mut recv) = self.send(bytes).await;
        send.finish().unwrap();
        recv.read_to_end(64 * 1024).await
    }
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test]
async fn a_request_over_http3_reaches_the_client_and_its_answer_comes_back() {
    let mut visiting = visiting().await;
    let mut streams = std::mem::replace(&mut visiting.world.streams, mpsc::unbounded_channel().1);
    let client = async {
        let stream = streams.recv().await.unwrap();
        assert_eq!((stream.head.version, stream.head.path.as_str()), (30, "/x"));
        assert!(!stream.head.has_body);
        assert_eq!(stream.field("wormkey-http-version"), Some("3"));
        assert_eq!(stream.field("x-forwarded-for"), Some("127.0.0.1"));
        stream.answer(200, &[("a", "b")], "hello").await;
    };
    let bytes = request("GET", &[]);
    let (answer, ()) = tokio::join!(visiting.ask(&bytes), client);
    let answer = answer.unwrap();
    assert!(has(&answer, OK) && has(&answer, b"hello"), "{answer:?}");
    visiting.world.is_empty().await;
}

#[tokio::test]
async fn a_body_and_its_trailers_go_through_http3() {
    let mut visiting = visiting().await;
    let mut streams = std::mem::replace(&mut visiting.world.streams, mpsc::unbounded_channel().1);
    let client = async {
        let stream = streams.recv().await.unwrap();
        let body = WireBody::new(stream.request, FrameDecoder::new());
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["sum"], "1");
        assert_eq!(collected.to_bytes(), "abcdef");
        let mut response = stream.response;
        send_head(&mut response, 200, &[]).await;
        send_body(&mut response, Full::new(Bytes::new()))
            .await
            .unwrap();
    };
    let bytes = [
        request("POST", &[("content-length", "6")]),
        frame(0, b"abc"),
        // A frame that nobody knows.
        frame(0x21, b"junk"),
        frame(0, b"def"),
        frame(1, &section(&[("sum", "1")])),
    ]
    .concat();
    let (answer, ()) = tokio::join!(visiting.ask(&bytes), client);
    assert!(has(&answer.unwrap(), OK));
}

#[tokio::test]
async fn a_malformed_message_costs_its_stream_and_nothing_else() {
    let mut visiting = visiting().await;
    for bytes in [
        request("GET", &[(":path", "/")]),
        request("GET", &[("connection", "close")]),
        [
            request("POST", &[("content-length", "9")]),
            frame(0, b"abc"),
        ]
        .concat(),
    ] {
        let refused = visiting.ask(&bytes).await.unwrap_err();
        let reset = quinn::ReadError::Reset(VarInt::from_u32(MESSAGE_ERROR));
        assert_eq!(refused, quinn::ReadToEndError::Read(reset));
    }
    while let Ok(stream) = visiting.world.streams.try_recv() {
        drop(stream);
    }
    let mut streams = std::mem::replace(&mut visiting.world.streams, mpsc::unbounded_channel().1);
    let client = async { streams.recv().await.unwrap().answer(200, &[], "fine").await };
    let bytes = request("GET", &[]);
    let (answer, ()) = tokio::join!(visiting.ask(&bytes), client);
    assert!(has(&answer.unwrap(), b"fine"));
}

#[tokio::test]
async fn a_visitor_that_stops_its_download_ends_the_visit() {
    let mut visiting = visiting().await;
    let (mut send, mut recv) = visiting.send(&request("GET", &[])).await;
    send.finish().unwrap();
    let mut stream = visiting.world.stream().await;
    send_head(&mut stream.response, 200, &[]).await;
    let mut first = [0; 3];
    recv.read_exact(&mut first).await.unwrap();
    recv.stop(VarInt::from_u32(CANCELLED)).unwrap();
    visiting.world.is_empty().await;
}

#[tokio::test]
async fn a_panic_in_a_visit_is_its_own_500_over_http3() {
    let visiting = visiting().await;
    visiting.world.change(|shared| shared.panics = true);
    let answer = visiting.ask(&request("GET", &[])).await.unwrap();
    assert!(has(&answer, b"internal"));
}

#[tokio::test]
async fn a_drain_says_goodbye_and_lets_visits_finish_over_http3() {
    let mut visiting = visiting().await;
    let (mut send, mut recv) = visiting.send(&request("GET", &[])).await;
    send.finish().unwrap();
    let stream = visiting.world.stream().await;
    let mut control = visiting.visitor.accept_uni().await.unwrap();
    let edge = visiting.world.edge.clone();
    let drain = edge.drain(Duration::from_secs(20));
    let visit = async {
        let mut seen = Vec::new();
        // The settings, then GOAWAY for all but the first request: kind 7, one byte, stream 4.
        while !seen.ends_with(&[7, 1, 4]) {
            let chunk = control.read_chunk(64, true).await.unwrap().unwrap();
            seen.extend_from_slice(&chunk.bytes);
        }
        stream.answer(200, &[], "late").await;
        let answer = recv.read_to_end(4096).await.unwrap();
        assert!(has(&answer, b"late"));
    };
    let (finished, ()) = tokio::join!(drain, visit);
    assert!(finished);
}

#[tokio::test]
async fn answers_tell_of_http3_where_it_is_to_be_had() {
    for (http3, told) in [(true, Some("h3=\":8443\"; ma=86400")), (false, None)] {
        let world = World::with(|settings| {
            settings.http3 = http3;
            settings.public_https_port = 8443;
        });
        let answer = world.raw(b"GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(header(&answer, "alt-svc"), told);
    }
}

#[tokio::test]
async fn nobody_is_told_of_http3_who_comes_through_a_proxy_or_without_tls() {
    let world = World::with(|settings| {
        settings.http3 = true;
        settings.front.trusted_proxies = vec!["192.0.2.8".parse().unwrap()];
    });
    let facts = || World::facts(false);
    let told = async |facts| {
        let mut visitor = world.connect(facts);
        visitor.send(b"GET / HTTP/1.1\r\n\r\n").await;
        header(&visitor.rest().await, "alt-svc").map(str::to_owned)
    };
    let is_behind = true;
    let scheme = Scheme::Http;
    let peer = "192.0.2.8:1".parse().unwrap();
    assert_eq!(
        told(Facts {
            is_behind,
            ..facts()
        })
        .await,
        None
    );
    assert_eq!(told(Facts { scheme, ..facts() }).await, None);
    assert_eq!(told(Facts { peer, ..facts() }).await, None);
    assert!(told(facts()).await.is_some());
}

#[tokio::test]
async fn a_panic_in_the_midst_of_an_answer_costs_its_stream_and_nothing_else() {
    let mut visiting = visiting().await;
    let (mut send, mut recv) = visiting.send(&request("GET", &[])).await;
    send.finish().unwrap();
    let mut stream = visiting.world.stream().await;
    send_head(&mut stream.response, 200, &[]).await;
    let mut first = [0; 3];
    recv.read_exact(&mut first).await.unwrap();
    stream.response.break_reader();
    let ended = recv.read_to_end(4096).await.unwrap_err();
    let reset = quinn::ReadError::Reset(VarInt::from_u32(INTERNAL_ERROR));
    assert_eq!(ended, quinn::ReadToEndError::Read(reset));
    visiting.world.is_empty().await;
    let mut streams = std::mem::replace(&mut visiting.world.streams, mpsc::unbounded_channel().1);
    let client = async { streams.recv().await.unwrap().answer(200, &[], "fine").await };
    let bytes = request("GET", &[]);
    let (answer, ()) = tokio::join!(visiting.ask(&bytes), client);
    assert!(has(&answer.unwrap(), b"fine"));
}

#[tokio::test]
async fn a_visitor_that_moves_came_from_an_address_that_nothing_proves() {
    let mut visiting = visiting().await;
    let home = visiting.ends.1.local_addr().unwrap();
    let away = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
    visiting.ends.1.rebind(away).unwrap();
    let mut streams = std::mem::replace(&mut visiting.world.streams, mpsc::unbounded_channel().1);
    for _ in 0..2 {
        let client = async {
            let stream = streams.recv().await.unwrap();
            assert_eq!(stream.field("x-forwarded-for"), Some("127.0.0.1"));
            assert_eq!(stream.head.peer, home);
            stream.answer(200, &[], "moved").await;
        };
        let bytes = request("GET", &[]);
        let (answer, ()) = tokio::join!(visiting.ask(&bytes), client);
        assert!(has(&answer.unwrap(), b"moved"));
    }
}

#[tokio::test]
async fn a_visitor_that_allows_no_control_stream_kept_its_place_even_over_a_drain() {
    let visiting = visiting_with(|transport| {
        transport.max_concurrent_uni_streams(0u32.into());
    })
    .await;
    let edge = &visiting.world.edge;
    assert_eq!(edge.connections(), 1);
    assert!(edge.drain(Duration::from_secs(5)).await);
    assert_eq!(edge.connections(), 0);
}

#[tokio::test]
async fn a_visitor_with_no_room_for_the_goodbye_kept_its_place_over_a_drain() {
    // The settings fit, and not a byte more.
    let visiting = visiting_with(|transport| {
        transport.stream_receive_window(8u32.into());
    })
    .await;
    let _unread = visiting.visitor.accept_uni().await.unwrap();
    let edge = &visiting.world.edge;
    assert!(edge.drain(Duration::from_secs(5)).await);
    assert_eq!(edge.connections(), 0);
}

#[tokio::test]
async fn an_answer_of_ours_that_nobody_took_stayed_for_good_over_http3() {
    let visiting = visiting_with(|transport| {
        transport.stream_receive_window(64u32.into());
    })
    .await;
    visiting.world.change(|shared| shared.holds = true);
    let _held = visiting.send(&request("GET", &[])).await;
    let head = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "other.t.example"),
        (":path", "/"),
    ];
    let (mut send, mut recv) = visiting.send(&frame(1, &section(&head))).await;
    send.finish().unwrap();
    recv.read_exact(&mut [0]).await.unwrap();
    while visiting.world.shared.lock().unwrap().admitted.is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..30 {
        visiting.world.edge.inner.stalls.sweep();
    }
    let over = recv.received_reset().await.unwrap();
    assert_eq!(over, Some(VarInt::from_u32(CANCELLED)));
    assert!(visiting.visitor.close_reason().is_none(), "another goes on");
}

/// Asks again and again, many at a time, until the connection ends for it; about how often.
async fn until_it_ends(visiting: &Visiting, bytes: &[u8]) -> usize {
    let mut asked = 0;
    while asked < 20_000 && visiting.visitor.close_reason().is_none() {
        let mut under_way = Vec::new();
        while under_way.len() < 100
            && let Ok((mut send, recv)) = visiting.visitor.open_bi().await
        {
            let _ = send.write_all(bytes).await;
            let _ = send.finish();
            under_way.push(recv);
        }
        asked += under_way.len();
        for mut recv in under_way {
            let _ = recv.read_to_end(64 * 1024).await;
        }
    }
    asked
}

#[tokio::test]
async fn what_is_malformed_cost_a_visitor_nothing() {
    for bytes in [
        request("GET", &[("connection", "close")]),
        // A head of 70 000 bytes, with hardly one of them there.
        [&[1, 0x80, 1, 0x11, 0x70][..], &[0; 8]].concat(),
    ] {
        let visiting = visiting().await;
        let asked = until_it_ends(&visiting, &bytes).await;
        assert!((400..20_000).contains(&asked), "{asked}");
        let load = quinn::ApplicationClose {
            error_code: VarInt::from_u32(EXCESSIVE_LOAD),
            reason: Bytes::new(),
        };
        let ended = visiting.visitor.closed().await;
        assert_eq!(ended, quinn::ConnectionError::ApplicationClosed(load));
    }
}

#[tokio::test]
async fn bodies_that_break_their_word_cost_a_visitor_nothing() {
    let mut visiting = visiting().await;
    let mut streams = std::mem::replace(&mut visiting.world.streams, mpsc::unbounded_channel().1);
    let bytes = [
        request("POST", &[("content-length", "1")]),
        frame(0, b"two"),
    ]
    .concat();
    let origin = async {
        while let Some(stream) = streams.recv().await {
            drop(stream);
        }
    };
    let asked = tokio::select! {
        asked = until_it_ends(&visiting, &bytes) => asked,
        () = origin => unreachable!("the world lives"),
    };
    assert!((400..20_000).contains(&asked), "{asked}");
}

#[tokio::test]
async fn heads_that_never_end_filled_a_connections_window() {
    let visiting = visiting().await;
    // A head of 36 000 bytes, but for the last.
    let part = [&[1, 0x80, 0, 0x8c, 0xa0][..], &[0; 35_999]].concat();
    let mut unfinished = Vec::new();
    for _ in 0..9 {
        let Ok((mut send, recv)) = visiting.visitor.open_bi().await else {
            break;
        };
        if send.write_all(&part).await.is_err() {
            break;
        }
        unfinished.push((send, recv));
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), visiting.visitor.closed());
    let load = quinn::ApplicationClose {
        error_code: VarInt::from_u32(EXCESSIVE_LOAD),
        reason: Bytes::new(),
    };
    assert_eq!(
        ended.await.unwrap(),
        quinn::ConnectionError::ApplicationClosed(load)
    );
}
