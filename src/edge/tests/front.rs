//! Proxies in front: what they say of visitors is heard from where the operator says, and nowhere else.

use std::net::IpAddr;

use tokio::net::TcpStream;

use super::*;
use crate::wire::proxy;

const VISITOR: &str = "203.0.113.9:4711";
const GET: &str = "GET / HTTP/1.1\r\nHost: app.t.example\r\nConnection: close\r\n";

fn nets(texts: &[&str]) -> Vec<crate::engine::policy::Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A listener for visits without TLS, on loopback; `from` introduces, `trusted` is believed.
async fn plain(from: &[&str], trusted: &[&str]) -> (World, SocketAddr) {
    let world = World::with(|settings| {
        settings.front = Front {
            proxy_protocol_from: nets(from),
            trusted_proxies: nets(trusted),
        };
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    world.edge.serve_plain(listener);
    (world, address)
}

async fn connected(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    tcp
}

/// What the client is told of a request with these fields; from a peer that is trusted, or not.
async fn told(trusted: &[&str], fields: &str) -> (IpAddr, String, String) {
    let (mut world, address) = plain(&[], trusted).await;
    let _tcp = connected(address, format!("{GET}{fields}\r\n").as_bytes()).await;
    let stream = world.stream().await;
    assert_eq!(
        world.shared.lock().unwrap().admitted[0].peer,
        stream.head.peer,
        "the engine judges the same visitor"
    );
    let line = stream.field("x-forwarded-for").unwrap().to_owned();
    assert_eq!(
        stream.field("x-forwarded-proto"),
        Some(&*stream.head.scheme)
    );
    (stream.head.peer.ip(), stream.head.scheme.clone(), line)
}

/// Whether the kernel asks after the peer of a connection of ours (`timer_active` of proc(5) is 2), and in how
/// many hundredths of a second at most.
fn asked_after(ours: SocketAddr, peer: SocketAddr) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16);
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = port(columns[1]) == Ok(ours.port()) && port(columns[2]) == Ok(peer.port());
        let left = columns[5].strip_prefix("02:").filter(|_| is_it)?;
        u64::from_str_radix(left, 16).ok()
    })
}

#[tokio::test]
async fn visitors_who_vanished_kept_their_upgraded_connections_for_ever() {
    let (mut world, address) = plain(&[], &[]).await;
    let ask = format!(
        "{}\r\n",
        GET.replace("close", "upgrade\r\nUpgrade: websocket")
    );
    let mut tcp = connected(address, ask.as_bytes()).await;
    let mut stream = world.stream().await;
    send_head(&mut stream.response, 101, &[("upgrade", "websocket")]).await;
    let mut room = [0; 1024];
    assert!(tcp.read(&mut room).await.unwrap() > 0);
    // Once all of it is acknowledged.
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Some(left) = asked_after(address, tcp.local_addr().unwrap()) {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.expect("nobody asks after the visitor") <= 6100);
}

#[tokio::test]
async fn a_load_balancer_introduces_its_visitors() {
    let (visitor, us) = (VISITOR.parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    for header in [proxy::v1(visitor, us), proxy::v2(visitor, us)] {
        let (mut world, address) = plain(&["127.0.0.0/8"], &[]).await;
        // Cut in the middle, and with the request right behind it.
        let mut tcp = connected(address, &header[..9]).await;
        tcp.flush().await.unwrap();
        tokio::task::yield_now().await;
        tcp.write_all(&[&header[9..], GET.as_bytes(), b"\r\n"].concat())
            .await
            .unwrap();
        let stream = world.stream().await;
        assert_eq!(stream.head.peer, visitor);
        assert_eq!(stream.field("x-forwarded-for"), Some("203.0.113.9"));
        assert_eq!(stream.head.scheme, "https");
    }
}

#[tokio::test]
async fn a_load_balancer_that_says_nothing_is_not_served() {
    for bytes in [
        format!("{GET}\r\n").into_bytes(),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\0".to_vec(),
    ] {
        let (world, address) = plain(&["127.0.0.0/8"], &[]).await;
        let mut tcp = connected(address, &bytes).await;
        let mut said = Vec::new();
        // The rest of what was sent makes the end a reset.
        let _ = tcp.read_to_end(&mut said).await;
        assert_eq!(said, b"");
        assert_eq!(world.opened(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_that_is_silent_is_given_up() {
    let (world, address) = plain(&["127.0.0.0/8"], &[]).await;
    let mut tcp = connected(address, b"PROXY TCP4 ").await;
    assert_eq!(tcp.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(world.edge.connections(), 0);
}

#[tokio::test]
async fn a_strangers_introduction_is_nonsense() {
    let (visitor, us) = (VISITOR.parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    for header in [proxy::v1(visitor, us), proxy::v2(visitor, us)] {
        let (world, address) = plain(&["10.0.0.0/8"], &["10.0.0.0/8"]).await;
        let mut tcp = connected(address, &[&header[..], GET.as_bytes(), b"\r\n"].concat()).await;
        let mut said = Vec::new();
        let _ = tcp.read_to_end(&mut said).await;
        assert_eq!(status(&String::from_utf8(said).unwrap()), 400);
        assert_eq!(world.opened(), 0);
    }
}

#[tokio::test]
async fn the_visitor_is_the_rightmost_that_is_no_proxy_of_ours() {
    let proxies = ["127.0.0.1", "10.0.0.0/8", "2001:db8:5::/48"];
    for (fields, ip) in [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
        ("X-Forwarded-For: 203.0.113.9:4711\r\n", "203.0.113.9"),
        ("X-Forwarded-For: 2001:db8::9\r\n", "2001:db8::9"),
        ("X-Forwarded-For: [2001:db8::9]\r\n", "2001:db8::9"),
        ("X-Forwarded-For: [2001:db8::9]:443\r\n", "2001:db8::9"),
        ("X-Forwarded-For: ::ffff:203.0.113.9\r\n", "203.0.113.9"),
        // What a visitor says of itself stands to the left of what is known of it.
        ("X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\n", "203.0.113.9"),
        (
            "X-Forwarded-For: 1.1.1.1,203.0.113.9, 10.1.2.3\r\n",
            "203.0.113.9",
        ),
        (
            "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.1.2.3, 2001:db8:5::1\r\n",
            "203.0.113.9",
        ),
        ("X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", "10.0.0.1"),
        // Where the chain breaks, nothing left of it is known.
        (
            "X-Forwarded-For: 203.0.113.9, unknown, 10.0.0.2\r\n",
            "10.0.0.2",
        ),
        ("X-Forwarded-For: 203.0.113.9, \r\n", "127.0.0.1"),
        ("X-Forwarded-For: app.example\r\n", "127.0.0.1"),
        ("X-Forwarded-For: [203.0.113.9]\r\n", "127.0.0.1"),
        // Only the one field is believed.
        (
            "Forwarded: for=203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n",
            "127.0.0.1",
        ),
    ] {
        let (seen, _, line) = told(&proxies, fields).await;
        assert_eq!((seen.to_string(), &*line), (ip.to_owned(), ip), "{fields}");
    }
}

#[tokio::test]
async fn a_proxy_says_how_its_visitor_came() {
    for (fields, scheme) in [
        ("", "https"),
        ("X-Forwarded-Proto: http\r\n", "http"),
        ("X-Forwarded-Proto: HTTPS\r\n", "https"),
        ("X-Forwarded-Proto: gopher\r\n", "https"),
        (
            "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: http\r\n",
            "https",
        ),
    ] {
        assert_eq!(told(&["127.0.0.1"], fields).await.1, scheme, "{fields}");
    }
}

#[tokio::test]
async fn what_a_stranger_says_of_itself_changes_nothing() {
    let fields = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: http\r\nForwarded: for=203.0.113.9\r\n\
         X_Forwarded_For: 203.0.113.9\r\n";
    let (seen, scheme, line) = told(&["10.0.0.0/8"], fields).await;
    assert_eq!(
        (seen.to_string(), &*scheme, &*line),
        ("127.0.0.1".to_owned(), "https", "127.0.0.1")
    );
}

#[tokio::test]
async fn a_proxy_may_speak_http2_without_tls() {
    let (mut world, address) = plain(&[], &["127.0.0.1"]).await;
    let io = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(io);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(http2::OnTasks(world.tasks.clone()), io)
            .await
            .unwrap();
    world.tasks.spawn("test-h2-connection", connection);
    let request = Request::get("http://app.t.example/x")
        .header("x-forwarded-for", "203.0.113.9")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let (response, ()) = tokio::join!(send.send_request(request), async {
        let stream = world.stream().await;
        assert_eq!((stream.head.version, &*stream.head.scheme), (20, "https"));
        assert_eq!(stream.head.peer.ip().to_string(), "203.0.113.9");
        stream.answer(200, &[("content-length", "2")], "ok").await;
    });
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_may_call_us_by_another_name_in_tls() {
    let facts = || Facts {
        sni: Some(host("wormkey.lan")),
        ..World::facts(false)
    };
    let mut world = World::with(|s| s.front.trusted_proxies = nets(&["192.0.2.7"]));
    let mut visitor = world.connect(facts());
    visitor.get("/").await;
    let stream = world.stream().await;
    stream.answer(200, &[("content-length", "2")], "ok").await;
    assert_eq!(status(&visitor.until("ok").await), 200);
    let world = World::new();
    let mut visitor = world.connect(facts());
    visitor.get("/").await;
    assert_eq!(status(&visitor.until("\r\n\r\n").await), 421);
}
