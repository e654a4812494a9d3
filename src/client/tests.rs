//! A client against a server that means it ill.

use std::collections::{HashSet, VecDeque};

use super::*;
use crate::admin::types::{JoinAsk, OpenAsk};
use crate::admin::{Caller, ClientBackend as _};
use crate::link::{ControlRecv, ControlSend, Identity, Link, Listener};
use crate::names::{DeviceId, Generation, Slug};
use crate::secret::Secret;
use crate::wire::token::JoinToken;
use crate::wire::{
    Bind, Bound, Capabilities, Enrolled, GoAway, LinkTerms, Standing, VERSION, Welcome,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A client that runs, and the listener that it takes for its server.
pub(super) struct World {
    pub(super) client: Running,
    listener: Listener,
    key: Identity,
    device: DeviceId,
    _dir: tempfile::TempDir,
}

type Session = (Link, ControlSend, ControlRecv);

impl World {
    pub(super) async fn new() -> Self {
        Self::with_keep_alive("1s").await
    }

    async fn with_keep_alive(keep_alive: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        let text = format!(
            "[state]\ndir = {:?}\n[admin]\nsocket = {:?}\n[link]\nkeep_alive = {keep_alive:?}\n",
            dir.path().join("state"),
            dir.path().join("sock"),
        );
        std::fs::write(&file, text).unwrap();
        let config = ClientConfig::load(Some(&file)).unwrap();
        let client = Running::start(config, Some(file), Vec::new())
            .await
            .unwrap();
        let key = Identity::ephemeral().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(any, &key, &LinkSettings::default()).unwrap();
        Self {
            client,
            listener,
            key,
            device: DeviceId::random(),
            _dir: dir,
        }
    }

    fn welcome(&self) -> Welcome {
        Welcome {
            version: VERSION,
            capabilities: Capabilities::OURS,
            software: "evil".into(),
            generation: Generation {
                boot: 1,
                counter: 1,
            },
            terms: LinkTerms { keep_alive_ms: 0 },
            domain: "t.wormkey.test".into(),
            pins: vec![self.key.pin().0.into()],
            addresses: Vec::new(),
            device: self.device,
            user: "default".into(),
        }
    }

    async fn arrive(&self) -> Session {
        let arriving = tokio::time::timeout(PATIENCE, self.listener.accept());
        let arriving = arriving.await.expect("the client comes").unwrap();
        let (link, tx, rx, _) = arriving.establish().await.unwrap();
        (link, tx, rx)
    }

    /// Lets the client join; gives the link that it joined on.
    async fn joined(&self, welcome: Welcome) -> Session {
        let token = JoinToken {
            addresses: vec![self.listener.local_addr().to_string()],
            pins: vec![self.key.pin()],
            secret: Secret::new([9; 32]),
        };
        let caller = Caller { uid: 0, pid: None };
        let ask = JoinAsk {
            token: token.to_text().expose().clone(),
            replace: false,
        };
        let serve = async {
            let (link, mut tx, mut rx) = self.arrive().await;
            assert!(matches!(rx.recv().await, Ok(Some(Control::Enroll(_)))));
            let enrolled = Enrolled {
                device: self.device,
                user: "x".repeat(10_000),
            };
            tx.send(&Control::Enrolled(enrolled)).await.unwrap();
            tx.send(&Control::Welcome(welcome)).await.unwrap();
            (link, tx, rx)
        };
        let (joined, session) = tokio::join!(self.client.backend.join(caller, ask), serve);
        joined.unwrap();
        session
    }
}

#[tokio::test]
async fn a_server_that_sends_every_link_away_does_not_make_it_spin() {
    let world = World::new().await;
    let away = Control::GoAway(GoAway {
        after_ms: 0,
        spread_ms: 0,
        code: 0,
    });
    let (_link, mut tx, _rx) = world.joined(world.welcome()).await;
    tx.send(&away).await.unwrap();
    let mut kept = Vec::new();
    let storm = async {
        loop {
            let (link, mut tx, rx) = world.arrive().await;
            tx.send(&Control::Welcome(world.welcome())).await.unwrap();
            // The client may be gone already.
            let _ = tx.send(&away).await;
            kept.push((link, tx, rx));
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), storm).await;
    assert!(
        (1..20).contains(&kept.len()),
        "{} links in two seconds",
        kept.len()
    );
}

#[tokio::test]
async fn what_a_welcome_teaches_is_bounded() {
    let world = World::new().await;
    let evil = Welcome {
        pins: (0..200u8).map(|n| [n; 32].into()).collect(),
        addresses: (0..1000).map(|n| format!("192.0.2.1:{n}")).collect(),
        user: format!("\u{1b}[2J{}", "x".repeat(10_000)),
        ..world.welcome()
    };
    let _session = world.joined(evil).await;
    let up = &mut world.client.client.standing.subscribe();
    tokio::time::timeout(PATIENCE, up.wait_for(|link| link.state == "up"))
        .await
        .unwrap()
        .unwrap();
    let known = world.client.client.book.enrolment().unwrap();
    assert!(known.pins.len() <= 8, "{}", known.pins.len());
    assert!(known.addresses.len() <= 8, "{}", known.addresses.len());
    assert!(known.user.len() <= 300 && !known.user.contains(char::is_control));
    world.client.stop().await;
}

#[tokio::test]
async fn a_server_that_reckons_with_more_signs_of_life_gets_them() {
    let world = World::with_keep_alive("10m").await;
    let welcome = Welcome {
        terms: LinkTerms { keep_alive_ms: 1 },
        ..world.welcome()
    };
    let (_link, _tx, mut rx) = world.joined(welcome).await;
    let began = tokio::time::Instant::now();
    for _ in 0..2 {
        let heard = tokio::time::timeout(PATIENCE, rx.recv()).await.unwrap();
        assert!(matches!(heard, Ok(Some(Control::Ping(_)))), "{heard:?}");
    }
    // As often as asked, and not without end.
    assert!(began.elapsed() > Duration::from_millis(1900));
    world.client.stop().await;
}

fn open_row() -> BookRow {
    BookRow {
        name: None,
        url: Some("https://app.t.wormkey.test".into()),
        ..BookRow::sample(TunnelId::random(), Clock.now().wall)
    }
}

/// How many tunnels of each state a server was told of.
async fn serve_binds(session: Session, standing: Option<Standing>, wanted: usize) -> Vec<Bind> {
    let (_link, mut tx, mut rx) = session;
    let (mut binds, mut waiting) = (Vec::new(), VecDeque::new());
    let mut most = 0;
    while binds.len() < wanted {
        // Answers only when nothing more comes: then the client has said all that it says unanswered.
        let heard = tokio::time::timeout(Duration::from_millis(200), rx.recv()).await;
        match heard {
            Ok(Ok(Some(Control::Bind(bind)))) => waiting.push_back(bind),
            Ok(Ok(Some(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                most = waiting.len().max(most);
                for bind in waiting.drain(..) {
                    let bound = bound_of(&bind, standing);
                    tx.send(&Control::Bound(bound)).await.unwrap();
                    binds.push(bind);
                }
            }
        }
    }
    assert!(most <= 512, "{most} unanswered");
    binds
}

fn bound_of(bind: &Bind, standing: Option<Standing>) -> Bound {
    Bound {
        policy: None,
        public_port: None,
        request: bind.request,
        tunnel: bind.tunnel,
        slug: bind.name.clone().unwrap(),
        url: format!("https://{}.t.wormkey.test", bind.name.as_ref().unwrap()),
        expires_at: bind.expires_at,
        created_at: 1_700_000_000_000,
        idle_ms: 3_600_000,
        hold_ms: 10_000,
        standing,
    }
}

fn row(n: usize, state: BookState) -> BookRow {
    let name = Slug::parse(&format!("app-{n}")).unwrap();
    BookRow {
        slug: (state == BookState::Open).then(|| name.clone()),
        name: Some(name),
        state,
        ..BookRow::sample(TunnelId::random(), Clock.now().wall)
    }
}

fn bound(request: u64, tunnel: TunnelId) -> Bound {
    Bound {
        policy: None,
        public_port: None,
        request,
        tunnel,
        slug: "taken-over".into(),
        url: "https://evil.example".into(),
        expires_at: None,
        created_at: 0,
        idle_ms: 0,
        hold_ms: 0,
        standing: None,
    }
}

#[tokio::test]
async fn what_a_server_says_of_tunnels_unasked_is_not_written_down_again_and_again() {
    let world = World::new().await;
    let book = &world.client.client.book;
    let (ended, open) = (open_row(), open_row());
    let (_link, mut tx, mut rx) = world.joined(world.welcome()).await;
    for row in [&ended, &open] {
        book.put(row.clone()).await.unwrap();
    }
    let update = |state: &str| {
        Control::Update(Update {
            tunnel: ended.id,
            state: state.into(),
            code: 0,
            standing: None,
        })
    };
    for message in [
        update("closed"),
        update("expired"),
        Control::Bound(bound(77, open.id)),
        Control::Ping(Ping { nonce: 5 }),
    ] {
        tx.send(&message).await.unwrap();
    }
    loop {
        let heard = tokio::time::timeout(PATIENCE, rx.recv()).await.unwrap();
        if let Control::Pong(Ping { nonce: 5 }) = heard.unwrap().expect("it is still there") {
            break;
        }
    }
    assert_eq!(book.row(ended.id).unwrap().state, BookState::Closed);
    assert_eq!(book.row(open.id), Some(open));
    world.client.stop().await;
}

#[tokio::test]
async fn an_overloaded_server_is_no_refusal_of_the_device() {
    let world = World::new().await;
    let (_link, mut tx, _rx) = world.joined(world.welcome()).await;
    let busy = Control::Error(crate::wire::Fault {
        request: None,
        code: Code::Overloaded.row().wire,
        detail: "busy".into(),
    });
    tx.send(&busy).await.unwrap();
    // At once, give or take: what is refused waits five seconds at least.
    let again = tokio::time::timeout(Duration::from_secs(4), world.arrive());
    drop(again.await.expect("it comes back soon"));
    assert_ne!(world.client.client.standing.borrow().state, "refused");
    world.client.stop().await;
}

#[tokio::test]
async fn a_link_that_comes_up_in_a_drain_hears_of_it_before_anything_else() {
    let world = World::new().await;
    let client = &world.client.client;
    let (link, tx, rx) = world.joined(world.welcome()).await;
    client.book.put(row(1, BookState::Open)).await.unwrap();
    client.drains.begin(Duration::from_secs(60));
    link.close(Code::Done, "again");
    drop((tx, rx));
    let (_link, mut tx, mut rx) = world.arrive().await;
    tx.send(&Control::Welcome(world.welcome())).await.unwrap();
    for nth in 0..2 {
        let heard = tokio::time::timeout(PATIENCE, rx.recv()).await.unwrap();
        match (nth, heard.unwrap().expect("it is still there")) {
            (0, Control::Sleeping) | (1, Control::Bind(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    world.client.stop().await;
}

#[tokio::test]
async fn the_end_of_the_old_link_does_not_take_the_new_one_with_it() {
    let world = World::new().await;
    let (old, _tx, _rx) = world.joined(world.welcome()).await;
    let client = &world.client.client;
    let up = &mut client.standing.subscribe();
    let up = tokio::time::timeout(PATIENCE, up.wait_for(|link| link.state == "up"));
    drop(up.await.unwrap().unwrap());
    let link = client.link().unwrap();
    let mut minder = minder::Minder::new(client, &link, "x:1", Duration::from_secs(1));
    assert!(minder.successor().await.is_none(), "none is being made");
    let taking = async {
        let (won, address) = keeper::race(Arc::clone(client)).await.ok().unwrap();
        minder.take(won, address);
        let (_ended, fresh) = tokio::join!(link.closed(), minder.successor());
        fresh
    };
    // The server knows the new link by its Hello, and ends the old one before it says Welcome.
    let serve = async {
        let new = world.arrive().await;
        old.close(Code::Superseded, "a newer link");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (link, mut tx, rx) = new;
        tx.send(&Control::Welcome(world.welcome())).await.unwrap();
        (link, tx, rx)
    };
    let both = async { tokio::join!(taking, serve) };
    let (fresh, (new, _tx, _rx)) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    let fresh = fresh.expect("it is welcome");
    assert_eq!(fresh.link.pin(), world.key.pin());
    drop(new);
    world.client.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn five_thousand_tunnels_are_taken_back_without_one_left_out() {
    const MANY: usize = 5000;
    let world = World::new().await;
    let (link, tx, rx) = world.joined(world.welcome()).await;
    let puts = (0..MANY).map(|n| world.client.client.book.put(row(n, BookState::Open)));
    futures_all(puts).await;
    link.close(Code::Done, "again");
    drop((tx, rx));
    let (link, mut tx, rx) = world.arrive().await;
    tx.send(&Control::Welcome(world.welcome())).await.unwrap();
    let binds = serve_binds((link, tx, rx), None, MANY).await;
    let ids: HashSet<TunnelId> = binds.iter().map(|bind| bind.tunnel).collect();
    assert_eq!(ids.len(), MANY);
    world.client.stop().await;
}

/// All of them, many at once: each waits for the disk.
async fn futures_all<F>(futures: impl Iterator<Item = F>)
where
    F: Future<Output = Result<(), ApiError>>,
{
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|f| match f.as_mut().poll(cx) {
            std::task::Poll::Ready(done) => {
                done.unwrap();
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[tokio::test]
async fn the_servers_clock_says_when_a_tunnel_ends_and_the_client_keeps_to_it() {
    let world = World::new().await;
    let session = world.joined(world.welcome()).await;
    let (link, mut tx, mut rx) = session;
    let ask = OpenAsk {
        target: "3000".into(),
        name: Some("app".into()),
        expires: Some("30m".into()),
        ..OpenAsk::default()
    };
    let caller = Caller { uid: 0, pid: None };
    // The server's clock is a day behind ours: the tunnel is over by ours before it is open.
    let server_now = Clock.now().wall.as_millis() - 86_400_000;
    let expires_at = server_now + 1_800_000;
    let standing = Standing {
        now: server_now,
        last_seen_at: Some(server_now - 5000),
        idle_left_ms: Some(3_600_000),
        offline_max_ms: 7 * 86_400_000,
    };
    let serve = async {
        let Ok(Some(Control::Bind(bind))) = rx.recv().await else {
            panic!("a Bind comes");
        };
        assert_eq!(bind.expires_in_ms, Some(1_800_000));
        let bound = Bound {
            expires_at: Some(expires_at),
            ..bound_of(&bind, Some(standing))
        };
        tx.send(&Control::Bound(bound)).await.unwrap();
    };
    let (opened, ()) = tokio::join!(world.client.backend.open(caller, ask), serve);
    let (opened, _) = opened.unwrap();
    let at = Some(WallTime::from_millis(expires_at));
    assert_eq!(opened.expires_at, at);
    assert_eq!(opened.ends_next.at, at);
    assert_eq!(opened.ends_next.why.as_deref(), Some("expires"));
    let seen = opened.last_seen_at.map(WallTime::as_millis);
    assert_eq!(seen, Some(server_now - 5000));

    // The link goes: by the server's clock its time is not over, and it is taken back as it was.
    link.close(Code::Done, "again");
    drop((tx, rx));
    let (_link, mut tx, mut rx) = world.arrive().await;
    let now = Clock.now();
    let early = world.client.client.book.expired(now.monotonic);
    assert!(early.is_empty(), "half an hour is left of it");
    tx.send(&Control::Welcome(world.welcome())).await.unwrap();
    let Ok(Some(Control::Bind(bind))) = rx.recv().await else {
        panic!("it is taken back");
    };
    assert_eq!(
        (bind.expires_at, bind.expires_in_ms),
        (Some(expires_at), None)
    );
    world.client.client.book.link(false, now.wall);
    let due = now.monotonic + Duration::from_secs(1801);
    let over = world.client.client.book.expired(due);
    assert_eq!(over.len(), 1, "now it is over");
    world.client.stop().await;
}
