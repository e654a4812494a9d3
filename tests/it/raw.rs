//! Tunnels that carry bytes and datagrams, with the real binaries: what TCP says on one side it says on
//! the other.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::world::{Daemon, PATIENCE, World, ctl, eventually, open};

/// Waits for something that has to come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it comes in time")
}

/// An origin whose connections the test plays itself.
struct Origin(TcpListener);

impl Origin {
    async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn target(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.0.local_addr().unwrap())
    }

    async fn accept(&self) -> TcpStream {
        soon(self.0.accept()).await.unwrap().0
    }
}

fn port_of(tunnel: &serde_json::Value) -> u16 {
    u16::try_from(tunnel["public_port"].as_u64().unwrap()).unwrap()
}

fn at(tunnel: &serde_json::Value) -> SocketAddr {
    ([127, 0, 0, 1], port_of(tunnel)).into()
}

/// A tcp tunnel to an origin, past the look that `open` takes at it.
async fn tcp_tunnel(client: &Daemon, origin: &Origin, more: &[&str]) -> serde_json::Value {
    let target = origin.target("tcp");
    let args: Vec<&str> = [&[&target[..], "--yes-expose"], more].concat();
    let (tunnel, looked) = tokio::join!(open(client, &args), origin.accept());
    drop(looked);
    tunnel
}

async fn both(tunnel: &serde_json::Value, origin: &Origin) -> (TcpStream, TcpStream) {
    let visitor = soon(TcpStream::connect(at(tunnel))).await.unwrap();
    (visitor, origin.accept().await)
}

async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut all = Vec::new();
    let read = soon(stream.read_to_end(&mut all)).await;
    read.map(|_| all).map_err(|e| e.kind())
}

fn abort(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn either_side_may_end_first_and_the_other_goes_on() {
    let mut world = World::with_ports().await;
    let client = world.joined().await;
    let origin = Origin::new().await;
    let tunnel = tcp_tunnel(&client, &origin, &[]).await;
    let url = format!("tcp://{}:{}", crate::world::DOMAIN, port_of(&tunnel));
    assert_eq!(
        (&tunnel["url"], &tunnel["kind"]),
        (&url.into(), &"tcp".into())
    );

    let (mut visitor, mut service) = both(&tunnel, &origin).await;
    // The service speaks first, as many do.
    service.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    soon(visitor.read_exact(&mut greeting)).await.unwrap();
    visitor.write_all(b"question").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut service).await.unwrap(), b"question");
    service.write_all(b"answer").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(rest(&mut visitor).await.unwrap(), b"answer");

    let (mut visitor, mut service) = both(&tunnel, &origin).await;
    service.write_all(b"all I have to say").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(rest(&mut visitor).await.unwrap(), b"all I have to say");
    visitor.write_all(b"I have more").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut service).await.unwrap(), b"I have more");
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side_and_no_bytes_are_none() {
    let mut world = World::with_ports().await;
    let client = world.joined().await;
    let origin = Origin::new().await;
    let tunnel = tcp_tunnel(&client, &origin, &[]).await;

    let (visitor, mut service) = both(&tunnel, &origin).await;
    abort(visitor);
    assert_eq!(rest(&mut service).await, Err(ErrorKind::ConnectionReset));

    let (mut visitor, service) = both(&tunnel, &origin).await;
    abort(service);
    assert_eq!(rest(&mut visitor).await, Err(ErrorKind::ConnectionReset));

    // Also of a visitor who was in the middle of something, with an origin that does not read.
    let (mut visitor, mut service) = both(&tunnel, &origin).await;
    let filled = async {
        loop {
            if visitor.write_all(&[7; 65_536]).await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(Duration::from_secs(2), filled).await;
    abort(visitor);
    assert_eq!(rest(&mut service).await, Err(ErrorKind::ConnectionReset));

    let (mut visitor, mut service) = both(&tunnel, &origin).await;
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut service).await.unwrap(), b"");
    drop(service);
    assert_eq!(rest(&mut visitor).await.unwrap(), b"");
    let slug = tunnel["slug"].as_str().unwrap();
    eventually("no visit is left", || async {
        let shown = ctl(client.socket(), &["--json", "show", slug]).await.json();
        (shown["visits"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_a_conflict_and_a_port_is_kept_across_restarts() {
    let mut world = World::with_ports().await;
    let mut client = world.joined().await;
    let origin = Origin::new().await;
    let tunnel = tcp_tunnel(&client, &origin, &["--name", "db", "--hold", "60s"]).await;
    let port = port_of(&tunnel).to_string();
    let asked = [
        "--json",
        "open",
        "tcp://127.0.0.1:9",
        "--public-port",
        &port,
    ];
    let taken = ctl(client.socket(), &asked).await;
    assert_eq!(taken.code, 6, "{taken:?}");
    assert!(taken.err.contains("port_taken"), "{taken:?}");
    // One that another program has.
    let (first, last) = world.ports();
    let (squatter, other) = 'found: {
        for port in first..=last {
            if let Ok(squatter) = std::net::TcpListener::bind(("127.0.0.1", port)) {
                break 'found (squatter, port.to_string());
            }
        }
        panic!("no port of the range is free");
    };
    let asked = ["open", "tcp://127.0.0.1:9", "--public-port", &other];
    assert_eq!(ctl(client.socket(), &asked).await.code, 6);
    drop(squatter);
    let beyond = (last + 1).to_string();
    let asked = ["open", "tcp://127.0.0.1:9", "--public-port", &beyond];
    assert_eq!(ctl(client.socket(), &asked).await.code, 4);

    world.server.crash().await;
    world.server.start().await;
    let (mut visitor, mut service) = both(&tunnel, &origin).await;
    visitor.write_all(b"still").await.unwrap();
    visitor.shutdown().await.unwrap();
    assert_eq!(rest(&mut service).await.unwrap(), b"still");
    // A client that stops lets its visits finish first.
    drop((visitor, service));
    client.stop().await;
    client.start().await;
    let shown = ctl(client.socket(), &["--json", "show", "db"])
        .await
        .ok()
        .json();
    assert_eq!(shown["public_port"], tunnel["public_port"]);
    drop(both(&tunnel, &origin).await);

    ctl(client.socket(), &["close", "db"]).await.ok();
    let closed = TcpStream::connect(at(&tunnel)).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // Its own user gets it back at once.
    let again = tcp_tunnel(&client, &origin, &["--public-port", &port]).await;
    assert_eq!(again["public_port"], tunnel["public_port"]);
    drop(both(&again, &origin).await);
}

#[tokio::test]
async fn a_visit_waits_in_the_hold_and_is_cut_when_the_tunnel_closes() {
    let mut world = World::with_ports().await;
    let mut client = world.joined().await;
    let origin = Origin::new().await;
    let tunnel = tcp_tunnel(&client, &origin, &["--name", "db", "--hold", "30s"]).await;
    client.stop().await;
    let mut visitor = soon(TcpStream::connect(at(&tunnel))).await.unwrap();
    visitor.write_all(b"patient").await.unwrap();
    client.start().await;
    let mut service = origin.accept().await;
    let mut got = [0; 7];
    soon(service.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"patient");
    world.server_ctl(&["close", "db"]).await.ok();
    assert_eq!(rest(&mut visitor).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(rest(&mut service).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn the_origin_is_told_who_visits() {
    let mut world = World::with_ports().await;
    let client = world.joined().await;
    let origin = Origin::new().await;
    for version in ["v1", "v2"] {
        let more = ["--name", version, "--proxy-protocol", version];
        let tunnel = tcp_tunnel(&client, &origin, &more).await;
        assert_eq!(tunnel["proxy_protocol"], version);
        let (mut visitor, mut service) = both(&tunnel, &origin).await;
        visitor.write_all(b"hello").await.unwrap();
        visitor.shutdown().await.unwrap();
        let got = rest(&mut service).await.unwrap();
        let from = visitor.local_addr().unwrap();
        let expected = if version == "v1" {
            let to = at(&tunnel).port();
            format!(
                "PROXY TCP4 127.0.0.1 127.0.0.1 {} {to}\r\nhello",
                from.port()
            )
            .into_bytes()
        } else {
            let addresses = [127, 0, 0, 1, 127, 0, 0, 1];
            let ports = [from.port().to_be_bytes(), at(&tunnel).port().to_be_bytes()].concat();
            [
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
                &addresses[..],
                &ports,
                b"hello",
            ]
            .concat()
        };
        assert_eq!(got, expected);
    }
    let refused = ctl(client.socket(), &["open", "3000", "--proxy-protocol", "v1"]).await;
    assert_eq!(refused.code, 2);
}

#[tokio::test]
async fn without_a_range_there_are_no_such_tunnels() {
    let mut world = World::new().await;
    let client = world.joined().await;
    for target in ["tcp://127.0.0.1:9", "udp://127.0.0.1:9"] {
        let refused = ctl(client.socket(), &["--json", "open", target]).await;
        assert_eq!(refused.code, 4, "{refused:?}");
        assert!(refused.err.contains("tcp_ports"), "{refused:?}");
    }
}

#[tokio::test]
async fn tls_is_passed_on_unopened_and_http_goes_on_beside_it() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let host = format!("mail.{}", crate::world::DOMAIN);
    // An authority that only this origin has: a visitor who trusts it trusts nobody on the way.
    let dir = tempfile::tempdir().unwrap();
    let own = crate::visitor::Ca::new(dir.path(), &host);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(own.server_config()));
    let origin = Origin::new().await;
    let target = origin.target("tls");
    let asked = [&target[..], "--name", "mail", "--yes-expose"];
    let (tunnel, looked) = tokio::join!(open(&client, &asked), origin.accept());
    drop(looked);
    let url = format!("tls://{host}:{}", world.addr.port());
    assert_eq!(tunnel["url"], url);
    let served = async {
        let stream = origin.accept().await;
        let mut stream = soon(acceptor.accept(stream)).await.unwrap();
        let mut got = [0; 4];
        soon(stream.read_exact(&mut got)).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        stream.shutdown().await.unwrap();
        got
    };
    let visitor = crate::visitor::Visitor::new(&own, world.addr, &host);
    let visited = async {
        let mut stream = soon(visitor.connect("mail")).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut got = Vec::new();
        soon(stream.read_to_end(&mut got)).await.unwrap();
        got
    };
    let (got, answer) = tokio::join!(served, visited);
    assert_eq!((&got[..], &answer[..]), (&b"ping"[..], &b"pong"[..]));

    let web = crate::origin::Origin::named("web").await;
    open(&client, &[&web.target(), "--name", "web"]).await;
    assert_eq!(world.visitor("web").get("/").await.text(), "web");
}

async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut room = vec![0; 65_536];
        while let Ok((count, from)) = socket.recv_from(&mut room).await {
            let _ = socket.send_to(&room[..count], from).await;
        }
    });
    addr
}

/// Sends until the same comes back: a datagram may be lost, as on every network.
async fn echoed(socket: &UdpSocket, payload: &[u8]) {
    let mut room = vec![0; 65_536];
    for _ in 0..10 {
        socket.send(payload).await.unwrap();
        let wait = timeout(Duration::from_secs(3), async {
            loop {
                let count = socket.recv(&mut room).await.unwrap();
                if room[..count] == *payload {
                    return;
                }
            }
        });
        if wait.await.is_ok() {
            return;
        }
    }
    panic!("{} bytes never came back", payload.len());
}

#[tokio::test]
async fn datagrams_of_64_visitors_and_of_every_size_come_back_to_who_sent_them() {
    let mut world = World::with_ports().await;
    let mut client = world.joined().await;
    let origin = udp_echo().await;
    let tunnel = open(&client, &[&format!("udp://{origin}"), "--name", "dns"]).await;
    let url = format!("udp://{}:{}", crate::world::DOMAIN, port_of(&tunnel));
    assert_eq!(tunnel["url"], url);
    let mut visitors = Vec::new();
    for n in 0..64_u8 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(at(&tunnel)).await.unwrap();
        visitors.push(tokio::spawn(async move {
            let payload: Vec<u8> = (0..1200).map(|i| (i % 251) as u8 ^ n).collect();
            for _ in 0..5 {
                echoed(&socket, &payload).await;
            }
            socket
        }));
    }
    let mut sockets = Vec::new();
    for visitor in visitors {
        sockets.push(soon(visitor).await.unwrap());
    }
    for length in [0, 1, 1473, 9000, 65_507] {
        let payload: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        echoed(&sockets[0], &payload).await;
    }
    // The same address is served again after the client was away.
    client.stop().await;
    client.start().await;
    echoed(&sockets[0], b"back again").await;
    let slug = tunnel["slug"].as_str().unwrap();
    ctl(client.socket(), &["close", slug]).await.ok();
    let free = std::net::UdpSocket::bind(at(&tunnel));
    assert!(free.is_ok(), "its port is free");
}
