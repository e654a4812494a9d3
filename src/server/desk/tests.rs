//! The desk alone, without links: who is cut, counted out, and told.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::config::ServerConfig;
use crate::engine::{DeviceRow, HttpAsk, Snapshot, TunnelRow, TunnelState, UserRow, Visit};
use crate::names::{Kind, Pin, Slug, UserId};

struct World {
    desk: Desk,
    device: DeviceId,
    tunnel: TunnelId,
    _dir: tempfile::TempDir,
}

/// A desk with one open tunnel, `app`, whose client is away.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = ServerStore::open(dir.path(), false).unwrap();
    let now = Clock.now();
    let (user, device, tunnel) = (UserId::random(), DeviceId::random(), TunnelId::random());
    let snapshot = Snapshot {
        users: vec![UserRow {
            id: user,
            name: "default".into(),
            created_at: now.wall,
            suspended_at: None,
        }],
        devices: vec![DeviceRow {
            id: device,
            user,
            pin: Pin([7; 32]),
            name: "laptop".into(),
            created_at: now.wall,
            revoked_at: None,
            suspended_at: None,
        }],
        invites: Vec::new(),
        tunnels: vec![TunnelRow {
            id: tunnel,
            slug: Slug::parse("app").unwrap(),
            device,
            user,
            kind: Kind::Http,
            state: TunnelState::Open,
            expires_at: None,
            idle: None,
            hold: Duration::from_secs(10),
            declared: false,
            labels: Vec::new(),
            public_port: None,
            created_at: now.wall,
            ended_at: None,
            last_seen_at: None,
            idle_spent: Duration::ZERO,
            away_since: None,
            policy: Arc::default(),
            policy_version: 1,
            suspended_at: None,
        }],
        shares: Vec::new(),
        domains: Vec::new(),
    };
    let file = dir.path().join("server.toml");
    std::fs::write(&file, "domain = \"t.wormkey.test\"\n").unwrap();
    let config = ServerConfig::load(Some(&file)).unwrap();
    let settings = crate::server::engine_settings(&config, 443);
    World {
        desk: Desk::new(
            Engine::new(settings, snapshot, now),
            store,
            1,
            Ports::new("127.0.0.1".parse().unwrap()),
            [9; 32],
            Own::new(&[8; 32]),
        ),
        device,
        tunnel,
        _dir: dir,
    }
}

impl World {
    fn link_up(&self) {
        let (link, device) = (self.desk.next_link(), self.device);
        let peer = "192.0.2.1:1".parse().unwrap();
        self.desk.handle(Event::LinkUp { link, device, peer });
    }

    /// The rows of this world are not on disk, so the commit fails; the close is in force all the same.
    async fn close(&self) {
        let tunnel = self.tunnel;
        let _ = self
            .desk
            .ask(0, |from| Event::CloseAsked { from, tunnel })
            .await;
    }

    fn leftovers(&self) -> (usize, usize, usize, usize) {
        let state = self.desk.lock();
        let counts = state.engine.counts();
        (
            state.signals.len(),
            state.waiting.len(),
            counts.visits,
            counts.held,
        )
    }
}

fn visit() -> Visit {
    Visit {
        id: VisitId::random(),
        kind: Kind::Http,
        label: "app".into(),
        peer: "192.0.2.9:1".parse().unwrap(),
        bytes: 0,
        http: Some(HttpAsk::new(http::Method::GET, "/")),
    }
}

#[tokio::test]
async fn a_visit_admitted_just_before_the_close_is_cut() {
    let world = world();
    world.link_up();
    let Ok(Seat::Pass(_, signals)) = Desk::admit(&world.desk, &visit()) else {
        panic!("its client is here");
    };
    world.close().await;
    assert!(signals.cut.is_cancelled());
}

#[tokio::test]
async fn a_visit_released_just_before_the_close_is_cut() {
    let world = world();
    let mut held = pin!(crate::edge::Admit::admit(&world.desk, visit()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(held.as_mut().poll(&mut cx).is_pending());
    world.link_up();
    world.close().await;
    let Poll::Ready(Ok(pass)) = held.as_mut().poll(&mut cx) else {
        panic!("it was released");
    };
    assert!(pass.cut.is_cancelled());
    drop(pass);
    assert_eq!(world.leftovers(), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_held_visitor_who_leaves_when_released_is_counted_out() {
    let world = world();
    {
        let mut waiting = Box::pin(crate::edge::Admit::admit(&world.desk, visit()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        world.link_up();
    }
    world.close().await;
    assert_eq!(world.leftovers(), (0, 0, 0, 0));
}

#[tokio::test]
async fn a_panic_of_the_engine_ends_the_process_in_order() {
    let world = world();
    world.link_up();
    let pass = crate::edge::Admit::admit(&world.desk, visit()).await;
    let desk = world.desk.clone();
    let poisoned = std::thread::spawn(move || desk.read(|_| panic!("on purpose"))).join();
    assert!(poisoned.is_err());
    // What ends now ends without a second panic, and the critical task notices.
    drop(pass);
    world.desk.unregister(world.desk.next_link());
    world.desk.flush();
    let tasks = crate::tasks::Tasks::new();
    tasks.spawn_critical("engine", world.desk.clone().drive(tasks.stopped()));
    tasks.stopped().cancelled().await;
}

#[tokio::test]
async fn the_driver_is_woken_for_what_falls_due_before_it_looks_and_for_nothing_else() {
    let world = world();
    world.link_up();
    let was_woken = || {
        let mut woken = pin!(world.desk.0.moved.notified());
        let mut cx = Context::from_waker(Waker::noop());
        woken.as_mut().poll(&mut cx).is_ready()
    };
    let is_woken = |looks_in: Duration| {
        was_woken();
        let mut state = world.desk.lock();
        state.looks_at = Some(world.desk.now().monotonic + looks_in);
        drop(state);
        let Ok(Seat::Pass(route, _)) = Desk::admit(&world.desk, &visit()) else {
            panic!("its client is here");
        };
        world.desk.visit_ended(route.visit);
        was_woken()
    };
    assert!(!is_woken(LONGEST_SLEEP), "a visit alone");
    // What visits changed is to be written within minutes.
    assert!(is_woken(Duration::from_secs(3600)));
    assert!(!is_woken(LONGEST_SLEEP));
}
