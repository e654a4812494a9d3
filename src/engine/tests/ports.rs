//! Who gets which public port.

use super::super::ports::KEPT_PER_USER;
use super::*;

/// The range of the tests' settings.
const FIRST: u16 = 20_000;
const LAST: u16 = 20_002;

impl World {
    fn asks_port(&mut self, name: &str, kind: Kind, port: Option<u16>) -> BindAsk {
        BindAsk {
            kind,
            public_port: port,
            ..self.ask(name)
        }
    }

    /// Opens a tunnel with a port; which one it got.
    fn opens_port(
        &mut self,
        client: &Client,
        name: &str,
        kind: Kind,
        port: Option<u16>,
    ) -> Result<TunnelRow, AskError> {
        let ask = self.asks_port(name, kind, port);
        self.bind(client, &ask).map(|view| view.row)
    }

    fn has_socket(&self, row: &TunnelRow) -> bool {
        self.sockets.get(&row.id) == row.public_port.map(|port| (row.kind, port)).as_ref()
    }
}

fn taken(port: u16) -> AskError {
    AskError::PortTaken {
        kind: Kind::Tcp,
        port,
    }
}

#[test]
fn a_tunnel_gets_a_port_of_the_range_and_the_socket_lives_as_long_as_it() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = world.asks_port("db", Kind::Tcp, None);
    let view = world.bind(&alice, &ask).unwrap();
    let port = view.row.public_port.unwrap();
    assert!((FIRST..=LAST).contains(&port));
    assert_eq!(view.url, format!("tcp://t.example.com:{port}"));
    assert!(world.has_socket(&view.row));
    let again = world.bind(&alice, &ask).unwrap();
    assert_eq!(again.row.public_port, Some(port));
    world.link_down(alice.link);
    world.advance(HOUR);
    assert!(world.has_socket(&view.row), "its client is only away");
    world.operator_closes(view.row.id).unwrap();
    assert!(world.sockets.is_empty());
    world.finish();
}

#[test]
fn a_visit_finds_the_tunnel_of_its_own_kind_and_no_other() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let db = world.opens_port(&alice, "db", Kind::Tcp, None).unwrap();
    let tls = world.opens_port(&alice, "mail", Kind::Tls, None).unwrap();
    let app = world.opens(&alice, "app");
    assert_eq!(tls.public_port, None);
    let (db_id, app_id) = (db.id.to_string(), app.to_string());
    for (kind, label, tunnel) in [
        (Kind::Tcp, &db_id[..], Some(db.id)),
        (Kind::Tls, "mail", Some(tls.id)),
        (Kind::Http, "app", Some(app)),
        (Kind::Udp, &db_id, None),
        (Kind::Http, "db", None),
        (Kind::Http, "mail", None),
        (Kind::Http, &app_id, None),
        (Kind::Tls, "app", None),
        (Kind::Tls, "db", None),
        (Kind::Tcp, &app_id, None),
        (Kind::Tcp, "db", None),
    ] {
        let (_, admitted) = world.visit_of(kind, label);
        let found = match admitted {
            Ok(Admission::Pass(route)) => Some(route.tunnel),
            Ok(other) => panic!("its client is here: {other:?}"),
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::NoRoute { .. }), "{refusal}");
                None
            }
        };
        assert_eq!(found, tunnel, "{kind} {label}");
    }
    assert!(world.engine.passes_tls("mail"));
    assert!(!world.engine.passes_tls("app") && !world.engine.passes_tls("db"));
    world.finish();
}

#[test]
fn a_port_has_one_owner_of_each_sort() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let first = world
        .opens_port(&alice, "a", Kind::Tcp, Some(FIRST))
        .unwrap();
    assert_eq!(first.public_port, Some(FIRST));
    for client in [&alice, &bob] {
        let refused = world.opens_port(client, "b", Kind::Tcp, Some(FIRST));
        assert_eq!(refused, Err(taken(FIRST)));
    }
    // UDP has ports of its own.
    let udp = world.opens_port(&bob, "b", Kind::Udp, Some(FIRST)).unwrap();
    assert_eq!(udp.public_port, Some(FIRST));
    let refused = world.opens_port(&bob, "c", Kind::Tcp, Some(80));
    let out = AskError::PortOutOfRange {
        port: 80,
        first: FIRST,
        last: LAST,
    };
    assert_eq!(refused, Err(out));
    world.finish();
}

#[test]
fn a_port_that_another_program_has_is_passed_over_or_refused() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world
        .strangers
        .extend([(Kind::Tcp, FIRST), (Kind::Tcp, FIRST + 1)]);
    let refused = world.opens_port(&alice, "a", Kind::Tcp, Some(FIRST));
    assert_eq!(refused, Err(taken(FIRST)));
    let given = world.opens_port(&alice, "a", Kind::Tcp, None).unwrap();
    assert_eq!(given.public_port, Some(LAST));
    let none = world.opens_port(&alice, "b", Kind::Tcp, None);
    assert_eq!(none, Err(AskError::NoFreePort { kind: Kind::Tcp }));
    // Nothing of those that failed is left.
    world.strangers.clear();
    assert!(
        world
            .opens_port(&alice, "b", Kind::Tcp, Some(FIRST))
            .is_ok()
    );
    world.finish();
}

#[test]
fn the_range_is_all_there_is_and_none_is_none() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ports = Vec::new();
    for name in ["a", "b", "c"] {
        ports.extend(
            world
                .opens_port(&alice, name, Kind::Tcp, None)
                .unwrap()
                .public_port,
        );
    }
    ports.sort_unstable();
    assert_eq!(ports, [FIRST, FIRST + 1, LAST]);
    let none = world.opens_port(&alice, "d", Kind::Tcp, None);
    assert_eq!(none, Err(AskError::NoFreePort { kind: Kind::Tcp }));
    world.finish();

    let mut world = World::with(EngineSettings {
        ports: None,
        ..settings()
    });
    let alice = world.connect("alice");
    for kind in [Kind::Tcp, Kind::Udp] {
        let refused = world.opens_port(&alice, "a", kind, None);
        assert_eq!(refused, Err(AskError::NoPorts { kind }));
        assert_eq!(AskError::NoPorts { kind }.code(), Code::UnsupportedKind);
    }
    assert!(world.opens_port(&alice, "a", Kind::Tls, None).is_ok());
    world.finish();
}

#[test]
fn an_ended_port_is_kept_for_its_user_and_later_for_nobody() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let first = world
        .opens_port(&alice, "a", Kind::Tcp, Some(LAST))
        .unwrap();
    world.closes(&alice, first.id).unwrap();
    let refused = world.opens_port(&bob, "b", Kind::Tcp, Some(LAST));
    let kept = AskError::PortInQuarantine {
        kind: Kind::Tcp,
        port: LAST,
    };
    assert_eq!(refused, Err(kept));
    // Nobody asks for it, and its own user gets it back.
    let again = world.opens_port(&alice, "c", Kind::Tcp, None).unwrap();
    assert_eq!(again.public_port, Some(LAST));
    world.closes(&alice, again.id).unwrap();
    for name in ["d", "e"] {
        let other = world.opens_port(&bob, name, Kind::Tcp, None).unwrap();
        assert_ne!(other.public_port, Some(LAST));
    }
    assert!(world.opens_port(&bob, "f", Kind::Tcp, None).is_err());
    world.step(7 * DAY);
    assert!(world.opens_port(&bob, "f", Kind::Tcp, Some(LAST)).is_ok());
    world.finish();
}

#[test]
fn who_opens_and_closes_without_end_uses_up_no_range() {
    let mut world = World::with(EngineSettings {
        ports: Some((1000, 1999)),
        ..settings()
    });
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    for port in 1000..1100 {
        let row = world
            .opens_port(&alice, "a", Kind::Tcp, Some(port))
            .unwrap();
        world.closes(&alice, row.id).unwrap();
        world.step(secs(1));
    }
    let mut kept = 0;
    for port in 1000..1100 {
        match world.opens_port(&bob, "b", Kind::Tcp, Some(port)) {
            Ok(row) => drop(world.closes(&bob, row.id).unwrap()),
            Err(_) => kept += 1,
        }
        world.step(secs(1));
    }
    assert_eq!(kept, KEPT_PER_USER);
    world.finish();
}

#[test]
fn a_restart_keeps_every_port_and_tries_until_it_has_it() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let tcp = world.opens_port(&alice, "a", Kind::Tcp, None).unwrap();
    let udp = world.opens_port(&alice, "b", Kind::Udp, None).unwrap();
    let ended = world.opens_port(&alice, "c", Kind::Tcp, None).unwrap();
    world.closes(&alice, ended.id).unwrap();
    let squatted = (Kind::Tcp, tcp.public_port.unwrap());
    world.strangers.insert(squatted);
    world.restart();
    assert!(world.has_socket(&udp));
    assert!(!world.has_socket(&tcp), "a stranger has it");
    let bob = world.connect("bob");
    let refused = world.opens_port(&bob, "d", Kind::Tcp, ended.public_port);
    assert!(matches!(refused, Err(AskError::PortInQuarantine { .. })));
    let refused = world.opens_port(&bob, "d", Kind::Tcp, tcp.public_port);
    assert!(matches!(refused, Err(AskError::PortTaken { .. })));
    world.strangers.clear();
    world.advance(secs(5));
    assert!(world.has_socket(&tcp));
    world.finish();
}

#[test]
fn a_port_that_left_the_range_stays_shut_and_comes_back_with_it() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let row = world
        .opens_port(&alice, "a", Kind::Tcp, Some(LAST))
        .unwrap();
    let narrow = EngineSettings {
        ports: Some((FIRST, FIRST)),
        ..settings()
    };
    world.handle(Event::Reloaded { settings: narrow });
    world.restart();
    assert!(!world.has_socket(&row));
    world.handle(Event::Reloaded {
        settings: settings(),
    });
    world.advance(secs(5));
    assert!(world.has_socket(&row));
    world.finish();
}

#[test]
fn a_promise_that_cannot_be_written_gives_its_port_back() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.store = Store::Fails(Code::DiskFull);
    let refused = world.opens_port(&alice, "a", Kind::Tcp, Some(FIRST));
    assert!(matches!(refused, Err(AskError::Store { .. })));
    assert!(world.sockets.is_empty());
    world.commits();
    assert!(
        world
            .opens_port(&alice, "a", Kind::Tcp, Some(FIRST))
            .is_ok()
    );
    world.finish();
}

#[test]
fn visits_to_a_port_wait_in_the_hold() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let row = world.opens_port(&alice, "a", Kind::Tcp, None).unwrap();
    world.link_down(alice.link);
    let label = row.id.to_string();
    let (waiting, held) = world.visit_of(Kind::Tcp, &label);
    assert_eq!(held, Ok(Admission::Hold));
    world.link_up(alice.device);
    assert!(matches!(world.release_of(waiting), Some(Ok(_))));
    world.finish();
}
