//! Hostile peers of the real programs: a device that means the server ill, and a server that means its
//! client ill. Each speaks the wire with a key that is good.

use std::future::poll_fn;

use http::HeaderMap;
use tokio::net::TcpListener;
use wormkey::codes::Code;
use wormkey::link::enrol::proof;
use wormkey::link::{
    ControlRecv, ControlSend, Dialer, Identity, Link, LinkRecv, LinkSettings, Listener,
};
use wormkey::names::{DeviceId, Generation, TunnelId, VisitId};
use wormkey::secret::Secret;
use wormkey::wire::token::JoinToken;
use wormkey::wire::{
    Bind, BytesHead, Capabilities, Control, Enroll, Enrolled, Hello, HttpHead, LinkTerms, Ping,
    RecvChunks as _, StreamCode, StreamError, StreamHead, UdpHead, Update, VERSION, Welcome,
};

use super::floods::resident;
use super::*;
use crate::world::ctl;

/// Memory that an ill-meaning peer may add to a process.
const MEMORY: u64 = 16 << 20;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it comes in time")
}

/// A link with a key that the server has not seen, whose Hello names these versions.
async fn greeted(
    world: &World,
    token: &JoinToken,
    versions: Vec<u32>,
) -> (Link, ControlSend, ControlRecv) {
    let key = Identity::ephemeral().unwrap();
    let dialer = Dialer::new(&key, &LinkSettings::default()).unwrap();
    let hello = Hello {
        versions,
        capabilities: Capabilities::OURS,
        software: "evil".into(),
        device_name: "evil".into(),
        enrolling: true,
    };
    let address = world.addr.to_string();
    soon(dialer.dial(&address, &token.pins, hello))
        .await
        .unwrap()
}

/// A link of a device that has enrolled.
async fn device(world: &World) -> (Link, ControlSend, ControlRecv) {
    let token = JoinToken::parse(&world.invite(&[]).await).unwrap();
    let (link, tx, rx) = greeted(world, &token, vec![VERSION]).await;
    enrolled(&token, link, tx, rx).await
}

/// The same link, once it has enrolled with its token.
async fn enrolled(
    token: &JoinToken,
    link: Link,
    mut tx: ControlSend,
    mut rx: ControlRecv,
) -> (Link, ControlSend, ControlRecv) {
    let secret = *token.secret.expose();
    let enroll = Enroll {
        secret,
        proof: proof(&secret, &link.exporter().unwrap()),
        device_name: "evil".into(),
    };
    tx.send(&Control::Enroll(enroll)).await.unwrap();
    for _ in 0..2 {
        let heard = soon(rx.recv()).await.unwrap();
        assert!(matches!(
            heard,
            Some(Control::Enrolled(_) | Control::Welcome(_))
        ));
    }
    (link, tx, rx)
}

fn bind(request: u64) -> Control {
    Control::Bind(Bind {
        request,
        tunnel: TunnelId::random(),
        name: None,
        kind: "http".into(),
        expires_at: None,
        idle_ms: None,
        hold_ms: None,
        declared: false,
        labels: Vec::new(),
        public_port: None,
        expires_in_ms: None,
        policy: None,
        domains: None,
    })
}

/// A visit's head for a tunnel, of each kind.
fn head(kind: usize, tunnel: TunnelId, canary: std::net::SocketAddr) -> StreamHead {
    let (visit, peer, local) = (VisitId::random(), canary, canary);
    match kind % 3 {
        0 => StreamHead::Http(Box::new(HttpHead {
            tunnel,
            visit,
            method: http::Method::GET,
            scheme: "https".into(),
            authority: canary.to_string(),
            path: "/".into(),
            fields: HeaderMap::new(),
            peer,
            protocol: None,
            version: 11,
            has_body: false,
            expects_continue: false,
            timeout_ms: 1_000,
            shadowed: Vec::new(),
        })),
        1 => StreamHead::Bytes(BytesHead {
            tunnel,
            visit,
            peer,
            local,
            sni: Some(canary.to_string()),
            shadowed: Vec::new(),
        }),
        _ => StreamHead::Udp(UdpHead {
            tunnel,
            visit,
            peer,
            local,
            flow: kind as u64,
            idle_ms: 1_000,
            shadowed: Vec::new(),
        }),
    }
}

/// How a stream ends that is read to its end.
async fn end_of(rx: &mut LinkRecv) -> Result<(), StreamError> {
    let mut chunks = [const { bytes::Bytes::new() }; 4];
    while poll_fn(|cx| rx.poll_recv(cx, &mut chunks)).await? > 0 {}
    Ok(())
}

#[tokio::test]
async fn a_device_that_asks_for_everything_gets_its_share_and_disturbs_nobody() {
    let boundary = Boundary::with("[tunnels]\nper_device = 20\n").await;
    let (link, mut tx, mut rx) = device(&boundary.world).await;
    let before = resident(&boundary.world.server);
    // Streams: it may have a few, and the rest are never there.
    let canary = boundary.world.addr;
    let mut opening = tokio::task::JoinSet::new();
    for kind in 0..10_000 {
        let link = link.clone();
        opening.spawn(async move {
            let opened = link.open(&head(kind, TunnelId::random(), canary)).await;
            match opened {
                Ok((_tx, mut rx)) => end_of(&mut rx).await.is_err(),
                Err(_) => true,
            }
        });
    }
    // Tunnels: far more than it may have, as fast as the server takes them, answers unread for a while.
    let asked = 100_000;
    let asking = async {
        for request in 0..asked {
            if tx.send(&bind(request)).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), asking).await;
    boundary.control().await;
    let (mut bound, mut refused) = (0, 0);
    let listening = async {
        while let Ok(Some(heard)) = rx.recv().await {
            match heard {
                Control::Bound(_) => bound += 1,
                Control::Error(fault) => {
                    assert_eq!(Code::from_wire(fault.code.into()), Code::LimitReached);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), listening).await;
    assert_eq!(bound, 20, "and {refused} refused");
    assert!(refused > 100, "only {refused} refused");
    boundary.control().await;
    let grown = resident(&boundary.world.server).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    // No stream of a device's is served.
    opening.abort_all();
    while let Some(ended) = opening.join_next().await {
        assert!(ended.is_err() || ended.is_ok_and(|refused| refused));
    }
    link.close(Code::Done, "enough");
    boundary.control().await;
}

#[tokio::test]
async fn a_hello_of_versions_that_nobody_speaks_is_closed_with_that_code() {
    let boundary = Boundary::with("[log]\nlevel = \"debug\"\nformat = \"text\"\n").await;
    let token = JoinToken::parse(&boundary.world.invite(&[]).await).unwrap();
    let before = resident(&boundary.world.server);
    let strange: Vec<u32> = (VERSION + 1..VERSION + 500).collect();
    for versions in [vec![], vec![0], vec![VERSION + 1], strange] {
        let said = versions.first().copied();
        let (link, _tx, mut rx) = greeted(&boundary.world, &token, versions).await;
        let end = soon(link.closed()).await;
        assert_eq!(
            (end.code, end.by_peer),
            (Some(Code::VersionMismatch), true),
            "{said:?}: {end:?}"
        );
        // The same, said before the close.
        match soon(rx.recv()).await {
            Ok(Some(Control::Error(fault))) => {
                let code = Code::from_wire(fault.code.into());
                assert_eq!(code, Code::VersionMismatch, "{said:?}: {fault:?}");
            }
            Ok(Some(other)) => panic!("{said:?}: {other:?}"),
            Ok(None) | Err(_) => {}
        }
        boundary.control().await;
    }
    let grown = resident(&boundary.world.server).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    // The token is as good as it was; and one that is known, among strange ones, is enough.
    let versions = vec![u32::MAX, VERSION, VERSION + 1];
    let (link, tx, rx) = greeted(&boundary.world, &token, versions).await;
    let (link, ..) = enrolled(&token, link, tx, rx).await;
    link.close(Code::Done, "enough");
    let log = boundary.world.server.log();
    assert!(
        log.contains("link refused"),
        "the log was not even on:\n{log}"
    );
    let longest = log.lines().map(str::len).max();
    assert!(longest < Some(512), "a line of {longest:?} bytes");
    boundary.control().await;
}

/// A listener with a key of its own, and the client that takes it for its server.
async fn hostile_server(client: &Daemon) -> (Listener, Link, ControlSend, ControlRecv) {
    let key = Identity::ephemeral().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any, &key, &LinkSettings::default()).unwrap();
    let token = JoinToken {
        addresses: vec![listener.local_addr().to_string()],
        pins: vec![key.pin()],
        secret: Secret::new([9; 32]),
    };
    let text = token.to_text().expose().clone();
    let serving = async {
        let arriving = soon(listener.accept()).await.unwrap();
        let (link, mut tx, mut rx, _) = soon(arriving.establish()).await.unwrap();
        assert!(matches!(
            soon(rx.recv()).await,
            Ok(Some(Control::Enroll(_)))
        ));
        let (device, user) = (DeviceId::random(), "default".to_owned());
        let enrolled = Enrolled {
            device,
            user: user.clone(),
        };
        tx.send(&Control::Enrolled(enrolled)).await.unwrap();
        let welcome = Welcome {
            version: VERSION,
            capabilities: Capabilities::OURS,
            software: "evil".into(),
            generation: Generation {
                boot: 1,
                counter: 1,
            },
            terms: LinkTerms { keep_alive_ms: 0 },
            domain: DOMAIN.into(),
            pins: vec![key.pin().0.into()],
            addresses: Vec::new(),
            device,
            user,
        };
        tx.send(&Control::Welcome(welcome)).await.unwrap();
        (link, tx, rx)
    };
    let args = ["join", &text];
    let (joined, (link, tx, rx)) = tokio::join!(ctl(client.socket(), &args), serving);
    joined.ok();
    (listener, link, tx, rx)
}

#[tokio::test]
async fn a_hostile_server_is_refused_each_time_and_dials_nothing() {
    let mut world = World::new().await;
    let client = world.client().await;
    let (_listener, link, mut tx, mut rx) = hostile_server(&client).await;
    let canary = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = canary.local_addr().unwrap();
    let (before, logged) = (resident(&client), client.log().lines().count());

    let mut visits = tokio::task::JoinSet::new();
    for kind in 0..3_000 {
        let link = link.clone();
        visits.spawn(async move {
            let (_tx, mut rx) = link
                .open(&head(kind, TunnelId::random(), at))
                .await
                .unwrap();
            end_of(&mut rx).await
        });
    }
    let flood = async {
        for number in 0..20_000u32 {
            let update = Control::Update(Update {
                tunnel: TunnelId::random(),
                state: "closed".into(),
                code: number,
                standing: None,
            });
            tx.send(&update).await.unwrap();
            if number % 100 == 0 {
                tx.send(&Control::Pong(Ping { nonce: 1 })).await.unwrap();
            }
        }
    };
    soon(flood).await;
    while let Some(ended) = soon(visits.join_next()).await {
        let unknown = StreamError::Reset(StreamCode::UnknownTunnel);
        assert_eq!(ended.unwrap(), Err(unknown));
    }
    // It hears all of it, and answers what is asked.
    tx.send(&Control::Ping(Ping { nonce: 7 })).await.unwrap();
    let answered = async {
        while let Ok(Some(heard)) = rx.recv().await {
            if heard == Control::Pong(Ping { nonce: 7 }) {
                return true;
            }
        }
        false
    };
    assert!(soon(answered).await, "the link is still up");
    ctl(client.socket(), &["status"]).await.ok();
    let grown = resident(&client).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    let log = client.log();
    let lines: Vec<&str> = log.lines().skip(logged).collect();
    // More than none: somebody has to hear of it.
    let odd = "server does what it should not, refused";
    let told = lines.iter().filter(|line| line.contains(odd)).count();
    assert!((1..=3).contains(&told), "{told} lines:\n{log}");
    assert!(lines.len() < 10, "{} lines:\n{log}", lines.len());
    let dialled = tokio::time::timeout(Duration::from_millis(100), canary.accept()).await;
    assert!(dialled.is_err(), "somebody was dialled");
}
