//! A server against devices that mean it ill: they have a key and a token, and nothing more to lose.

mod failing;
mod visiting;
mod walls;

use super::bind::{bind_tcp, everywhere};
use super::desk::Seat;
use super::*;
use crate::admin::types::InviteAsk;
use crate::admin::{Caller, ServerBackend as _};
use crate::engine::{HttpAsk, Visit};
use crate::link::enrol::proof;
use crate::link::path::{Fallback, PathError, PathKind};
use crate::link::{ControlRecv, ControlSend, Dialer, Link, LinkSettings};
use crate::names::{Kind, TunnelId, VisitId};
use crate::wire::token::JoinToken;
use crate::wire::{Bind, Capabilities, Close, Enroll, Hello, Ping, Set, Share, TimeNote, VERSION};

const PATIENCE: Duration = Duration::from_secs(20);
const ME: Caller = Caller { uid: 0, pid: None };

struct World {
    server: Server,
    dir: tempfile::TempDir,
}

struct Device {
    link: Link,
    tx: ControlSend,
    rx: ControlRecv,
}

impl World {
    async fn new(more: &str) -> Self {
        Self::listening("", more).await
    }

    async fn listening(listen: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.toml");
        let text = format!(
            "domain = \"t.wormkey.test\"\n[listen]\nhttps = \"127.0.0.1:0\"\nhttp = \"off\"\n{listen}\n\
             [state]\ndir = {:?}\n[admin]\nsocket = {:?}\n{more}",
            dir.path().join("state"),
            dir.path().join("sock"),
        );
        std::fs::write(&file, text).unwrap();
        let config = ServerConfig::load(Some(&file)).unwrap();
        let server = Server::start(config, Options::default()).await.unwrap();
        Self { server, dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    async fn device(&self) -> Device {
        let address = self.server.https_addr().to_string();
        self.device_at(&address, None).await
    }

    async fn device_at(&self, address: &str, fallback: Option<&Fallback>) -> Device {
        self.device_by(InviteAsk::default(), address, fallback)
            .await
    }

    async fn device_by(
        &self,
        ask: InviteAsk,
        address: &str,
        fallback: Option<&Fallback>,
    ) -> Device {
        let invite = self.server.backend.invite(ME, ask).await.unwrap();
        let token = JoinToken::parse(&invite.token).unwrap();
        let key = Identity::ephemeral().unwrap();
        let dialer = Dialer::new(&key, &LinkSettings::default()).unwrap();
        let hello = Hello {
            versions: vec![VERSION],
            capabilities: Capabilities::OURS,
            software: "evil".into(),
            device_name: "evil".into(),
            enrolling: true,
        };
        let dialled = dialer.dial_with(address, &token.pins, hello, fallback);
        let (link, tx, rx) = dialled.await.unwrap();
        let mut device = Device { link, tx, rx };
        let secret = *token.secret.expose();
        let enroll = Enroll {
            secret,
            proof: proof(&secret, &device.link.exporter().unwrap()),
            device_name: "evil".into(),
        };
        device.say(Control::Enroll(enroll)).await;
        assert!(matches!(device.hear().await, Some(Control::Enrolled(_))));
        assert!(matches!(device.hear().await, Some(Control::Welcome(_))));
        device
    }
}

impl Device {
    async fn say(&mut self, message: Control) {
        let sent = tokio::time::timeout(PATIENCE, self.tx.send(&message));
        sent.await.expect("the server reads").unwrap();
    }

    async fn hear(&mut self) -> Option<Control> {
        let heard = tokio::time::timeout(PATIENCE, self.rx.recv());
        heard.await.expect("the server answers").ok().flatten()
    }

    /// A well-behaved question and its answer: how long it took.
    async fn asks(&mut self) -> Duration {
        let begun = tokio::time::Instant::now();
        self.say(Control::Ping(Ping { nonce: 7 })).await;
        let heard = self.hear().await;
        assert_eq!(heard, Some(Control::Pong(Ping { nonce: 7 })));
        begun.elapsed()
    }
}

fn bind(request: u64) -> Control {
    Control::Bind(Bind {
        policy: None,
        domains: None,
        request,
        tunnel: TunnelId::random(),
        name: None,
        kind: "http".into(),
        expires_at: Some(i64::MAX),
        idle_ms: None,
        hold_ms: None,
        declared: false,
        labels: Vec::new(),
        public_port: None,
        expires_in_ms: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_device_that_asks_without_reading_disturbs_nobody() {
    let world = World::new("").await;
    let mut good = world.device().await;
    let mut evil = world.device().await;
    let flood = async {
        for nonce in 0..200_000 {
            let ping = Control::Ping(Ping { nonce });
            if evil.tx.send(&ping).await.is_err() {
                return;
            }
        }
    };
    let watch = async {
        let mut worst = Duration::ZERO;
        for _ in 0..20 {
            worst = worst.max(good.asks().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        worst
    };
    // The flood stands still sooner or later, because its answers are not read; that is its own affair.
    let worst = tokio::select! {
        worst = watch => worst,
        () = async { flood.await; std::future::pending::<()>().await } => unreachable!("it is pending"),
    };
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tunnels_beyond_the_limit_are_refused_and_the_lists_stay_readable() {
    let world = World::new("[tunnels]\nper_device = 5\n").await;
    let mut good = world.device().await;
    let mut evil = world.device().await;
    for request in 0..300 {
        evil.say(bind(request)).await;
    }
    let (mut bound, mut refused) = (Vec::new(), 0);
    for _ in 0..300 {
        match evil.hear().await {
            Some(Control::Bound(answer)) => bound.push(answer.tunnel),
            Some(Control::Error(fault)) => {
                assert_eq!(fault.code, Code::LimitReached.row().wire);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((bound.len(), refused), (5, 295));
    // Somebody else's are none of its business.
    let tunnel = bound[0];
    good.say(Control::Close(Close { request: 1, tunnel })).await;
    let Some(Control::Error(fault)) = good.hear().await else {
        panic!("it is not theirs to close");
    };
    assert_eq!(fault.code, Code::NotFound.row().wire);
    let tunnels = world.server.backend.tunnels(true).await.unwrap();
    assert_eq!(tunnels.len(), 5);
    let text = serde_json::to_string(&tunnels).unwrap();
    let read: Vec<crate::admin::types::TunnelJson> = serde_json::from_str(&text).unwrap();
    assert_eq!(read.len(), 5);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn visits_waited_up_to_a_second_for_a_client_that_was_there() {
    let world = World::new("").await;
    let mut device = world.device().await;
    device.say(bind(1)).await;
    let Some(Control::Bound(bound)) = device.hear().await else {
        panic!("it is bound");
    };
    let desk = &world.server.desk;
    let link = desk.read(|engine| {
        let device = engine.tunnel(&bound.slug)?.row.device;
        engine.device(device)?.link
    });
    let link = link.expect("its device is here");
    assert!(desk.look_at(&[link]).is_empty(), "it is here");
    let visit = || Visit {
        id: VisitId::random(),
        kind: Kind::Http,
        label: bound.slug.clone(),
        peer: "192.0.2.9:1".parse().unwrap(),
        bytes: 0,
        http: Some(HttpAsk::new(http::Method::GET, "/")),
    };
    // As after a visit that nothing was heard after; what was under way then ends it at once.
    let mut waits = None;
    let waiting = async {
        while waits.is_none() {
            desk.handle(Event::LinkAway { link });
            if let Ok(Seat::Hold(mut held)) = desk.admit(&visit())
                && held.try_recv().is_err()
            {
                waits = Some(held);
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let mut held = waits.unwrap();
    let soon = !desk.look_at(&[link]).is_empty();
    let mut released = held.try_recv().is_ok();
    assert!(soon || released, "looked at again soon");
    let (carrier, heard) = desk.link_for_visit(link).unwrap();
    desk.sent_on(link, heard);
    let before = carrier.heard();
    device.link.kick();
    let hears = async {
        while carrier.heard() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, hears).await.unwrap();
    let _ = desk.admit(&visit());
    released |= held.try_recv().is_ok();
    assert!(released, "with the next one at the latest");
    assert!(!desk.read(|engine| engine.holds_for(link)));
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_asks_without_end_waits_and_nothing_is_lost() {
    let world = World::new("").await;
    let mut good = world.device().await;
    let mut evil = world.device().await;
    // What a returning client may ask at once, and a second more of it.
    let begun = tokio::time::Instant::now();
    for nonce in 0..2048 + 50 {
        evil.say(Control::Ping(Ping { nonce })).await;
    }
    for nonce in 0..2048 + 50 {
        let heard = evil.hear().await;
        assert_eq!(heard, Some(Control::Pong(Ping { nonce })));
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert!(good.asks().await < Duration::from_secs(1));
    world.server.stop().await;
}

#[tokio::test]
async fn the_answer_to_a_bind_tells_how_the_clocks_stand_and_when_it_ends() {
    let world = World::new("[tunnels]\nidle = \"1h\"\nidle_max = \"2h\"\n").await;
    let mut device = world.device().await;
    let Control::Bind(ask) = bind(1) else {
        unreachable!("it is one");
    };
    let ask = Bind {
        expires_at: Some(1),
        expires_in_ms: Some(60_000),
        ..ask
    };
    let mut ends = Vec::new();
    for _ in 0..2 {
        device.say(Control::Bind(ask.clone())).await;
        let Some(Control::Bound(bound)) = device.hear().await else {
            panic!("it opens");
        };
        let standing = bound.standing.expect("it says how the clocks stand");
        assert!(standing.idle_left_ms.unwrap() <= 3_600_000);
        assert_eq!(standing.offline_max_ms, 7 * 86_400_000);
        ends.push(bound.expires_at.unwrap());
        let left = ends[0] - standing.now;
        assert!((0..=60_000).contains(&left), "{left}");
    }
    assert_eq!(ends[0], ends[1], "asking again moves nothing");
    let shown = world.server.backend.tunnels(false).await.unwrap();
    assert_eq!(shown[0].ends_next.why.as_deref(), Some("expires"));
    assert_eq!(
        shown[0].ends_next.at.map(|at| at.as_millis()),
        Some(ends[0])
    );

    let never = Bind {
        request: 3,
        tunnel: TunnelId::random(),
        idle_ms: Some(Bind::NEVER),
        declared: true,
        ..ask
    };
    device.say(Control::Bind(never)).await;
    let Some(Control::Error(fault)) = device.hear().await else {
        panic!("more than there may be");
    };
    assert_eq!(fault.code, Code::LimitReached.row().wire);
    assert!(fault.detail.contains("2h"), "{}", fault.detail);
    world.server.stop().await;
}

#[tokio::test]
async fn who_asks_for_the_time_is_told_it() {
    let world = World::new("").await;
    let mut device = world.device().await;
    let before = Clock.now().wall.as_millis();
    let nonce = 7;
    device
        .say(Control::Time(TimeNote { nonce, at: None }))
        .await;
    let Some(Control::Time(told)) = device.hear().await else {
        panic!("the server tells the time");
    };
    assert_eq!(told.nonce, 7);
    let at = told.at.expect("an answer has a time");
    assert!(
        (before..=Clock.now().wall.as_millis()).contains(&at),
        "{at}"
    );
    world.server.stop().await;
}

#[tokio::test]
async fn a_device_that_goes_leaves_its_promise_and_no_link() {
    let world = World::new("").await;
    let mut evil = world.device().await;
    evil.say(bind(1)).await;
    assert!(matches!(evil.hear().await, Some(Control::Bound(_))));
    evil.link.close(Code::Done, "gone");
    let counts = || world.server.desk.read(Engine::counts);
    let gone = async {
        while counts().links > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert_eq!(counts().tunnels, 1, "the promise stands");
    world.server.stop().await;
}

#[tokio::test]
async fn a_device_whose_udp_is_blocked_comes_in_on_the_https_port() {
    let world = World::new("").await;
    // Nobody answers there.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nowhere = silent.local_addr().unwrap().to_string();
    let fallback = Fallback {
        first: true,
        ..Fallback::to(&world.server.https_addr().to_string())
    };
    let mut device = world.device_at(&nowhere, Some(&fallback)).await;
    let path = device.link.path();
    assert_eq!(
        (path.kind, path.outer_verified),
        (PathKind::WebSocket, false)
    );
    assert_eq!(world.server.listener.attached_paths(), 1);
    device.asks().await;
    assert_eq!(world.server.edge.visits_total(), 0);
    assert_eq!(world.server.edge.connections(), 1);

    // A drain does not wait for it, and leaves it to the visits that are still to finish.
    let drain = world.server.drain(PATIENCE);
    tokio::time::timeout(PATIENCE / 4, drain).await.unwrap();
    assert!(matches!(device.hear().await, Some(Control::GoAway(_))));
    device.asks().await;

    let stop = world.server.stop();
    let (end, ()) = tokio::join!(device.link.closed(), stop);
    assert_eq!(end.code, Some(Code::Draining));
}

#[test]
fn everywhere_is_every_family_the_machine_has() {
    let any: SocketAddr = "[::]:443".parse().unwrap();
    assert_eq!(everywhere(any, true), any);
    assert_eq!(everywhere(any, false), "0.0.0.0:443".parse().unwrap());
    // An address that names one place is never another.
    let one: SocketAddr = "[::1]:443".parse().unwrap();
    assert_eq!(everywhere(one, false), one);
}

#[tokio::test]
async fn every_address_takes_both_families() {
    let any = "[::]:0".parse().unwrap();
    let listener = bind_tcp(any, "listen.https").unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("IPv4 is taken too");
}

#[tokio::test]
async fn a_full_house_is_said_before_the_upgrade_and_not_after() {
    let world = World::new("").await;
    let here: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let listener = &world.server.listener;
    let mut places: Vec<_> = std::iter::from_fn(|| listener.place_for_path(here).ok()).collect();
    assert_eq!(listener.attached_paths(), places.len());
    let fallback = Fallback {
        first: true,
        ..Fallback::to(&world.server.https_addr().to_string())
    };
    let device = world.device().await;
    let link = &device.link;
    let refused = link.open_fallback(&fallback).await.unwrap_err();
    assert!(
        matches!(&refused, PathError::NotOffered { status } if status.as_u16() == 503),
        "{refused}"
    );
    places.pop();
    link.open_fallback(&fallback).await.unwrap();
    drop(places);
    assert_eq!(listener.attached_paths(), 1);
    world.server.stop().await;
}

#[tokio::test]
async fn a_share_link_lets_in_whom_it_says_and_no_other_device_may_make_one() {
    let world = World::new("").await;
    let (mut owner, mut evil) = (world.device().await, world.device().await);
    let Control::Bind(asked) = bind(1) else {
        unreachable!("it is a bind");
    };
    let tunnel = asked.tunnel;
    let policy = Some(r#"{"share":"required"}"#.to_owned());
    owner.say(Control::Bind(Bind { policy, ..asked })).await;
    let Some(Control::Bound(bound)) = owner.hear().await else {
        panic!("it opens");
    };
    assert_eq!(bound.policy.as_deref(), Some(r#"{"share":"required"}"#));
    let share = Control::Share(Share {
        request: 2,
        tunnel,
        expires_at: i64::MAX,
        uses: Some(1),
        methods: vec!["GET".into()],
        paths: Vec::new(),
    });
    let set = Control::Set(Set {
        request: 3,
        tunnel,
        policy: "{}".into(),
        parts: Vec::new(),
        life: None,
    });
    for message in [&share, &set] {
        evil.say(message.clone()).await;
        let Some(Control::Error(refused)) = evil.hear().await else {
            panic!("another's tunnel");
        };
        assert_eq!(Code::from_wire(refused.code.into()), Code::NotFound);
    }
    owner.say(share).await;
    let Some(Control::Shared(shared)) = owner.hear().await else {
        panic!("it is shared");
    };
    let prefix = format!("{}{}", bound.url, crate::engine::policy::share::PATH);
    let token = shared
        .url
        .strip_prefix(&prefix)
        .expect("a link to the tunnel");
    let backend = &world.server.backend;
    let peer = ([192, 0, 2, 7], 4000).into();
    let (row, cookie) = backend.open_share(&bound.slug, peer, token).await.unwrap();
    assert_eq!(row.uses_left, Some(0));
    let again = backend.open_share(&bound.slug, peer, token).await;
    assert_eq!(again.unwrap_err(), crate::engine::AskError::ShareOver);
    assert_eq!(backend.share_of_cookie(&bound.slug, &cookie), Some(row.id));
    assert_eq!(backend.share_of_cookie(&bound.slug, token), None);
    assert_eq!(backend.share_of_cookie("other", &cookie), None);
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_engine_that_somebody_keeps_does_not_answer_until_it_is_given_back() {
    use crate::supervise::Vital as _;
    let world = World::new("").await;
    let backend = &world.server.backend;
    assert!(backend.answers().await);
    let (release, kept) = std::sync::mpsc::channel::<()>();
    let (tell, told) = tokio::sync::oneshot::channel();
    let desk = world.server.desk.clone();
    let keeping = tokio::task::spawn_blocking(move || {
        desk.read(|_| {
            tell.send(()).unwrap();
            let _ = kept.recv();
        });
    });
    told.await.unwrap();
    // Asked with a clock of its own: the engine's driver may wait for it on a worker of this runtime, and that may
    // be the one that sees to timers.
    let asking = Arc::clone(backend);
    let asked = tokio::task::spawn_blocking(move || {
        let mut clock = tokio::runtime::Builder::new_current_thread();
        clock.enable_all().build().unwrap().block_on(async {
            let blink = Duration::from_millis(50);
            for _ in 0..3 {
                let answers = tokio::time::timeout(blink, asking.answers());
                assert!(answers.await.is_err());
            }
            drop(release);
            let answers = tokio::time::timeout(PATIENCE, asking.answers());
            assert!(answers.await.unwrap());
        });
    });
    asked.await.unwrap();
    keeping.await.unwrap();
    world.server.stop().await;
}

#[tokio::test]
async fn handshakes_over_http3_counted_for_nobody() {
    let limits = "[limits]\nhandshakes = \"1/h burst 2\"";
    let world = World::listening("http3 = true", limits).await;
    let domain = crate::names::Hostname::parse("t.wormkey.test").unwrap();
    let key = crate::edge::tls::self_signed(&world.state().join("server.tls"), &domain).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert[0].clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![crate::edge::h3::ALPN_H3.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut visitor = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    visitor.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connect = || visitor.connect(world.server.https_addr(), "app.t.wormkey.test");
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(connect().unwrap().await.unwrap());
        while world.server.edge.connections() < connections.len() {
            tokio::task::yield_now().await;
        }
    }
    // Not answered at all: whoever writes another's address gets nothing sent there.
    let third = tokio::time::timeout(Duration::from_secs(2), connect().unwrap());
    assert!(
        third.await.is_err(),
        "more handshakes than one address may have"
    );
    world.server.stop().await;
}
