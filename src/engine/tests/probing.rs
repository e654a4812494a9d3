//! A client's question to itself is no visit.

use super::*;

impl World {
    fn probe(&mut self, label: &str) -> Result<Route, Refusal> {
        let id = VisitId::from_bytes(bytes(self.number()));
        let probed = self.engine.probe(self.now, id, label);
        if let Ok(route) = &probed {
            assert_eq!(route.visit, id);
            self.check_route(route);
        }
        self.pump();
        probed
    }
}

#[test]
fn a_probe_finds_the_way_and_leaves_no_trace() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    let before = world.engine.tunnel("app").unwrap();
    world.live_for(secs(30), &[alice]);
    let route = world.probe("app").unwrap();
    assert_eq!((route.tunnel, route.slug.as_str()), (app, "app"));
    let after = world.engine.tunnel("app").unwrap();
    assert_eq!(after.row.last_seen_at, before.row.last_seen_at);
    assert_eq!((after.visits, after.held), (0, 0));
    assert_eq!(world.engine.counts().visits_total, 0);
    world.finish();
}

#[test]
fn a_tunnel_that_is_only_probed_still_closes_for_idleness() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(Some(secs(600)));
    world.bind(&alice, &ask).unwrap();
    for _ in 0..11 {
        world.live_for(secs(60), std::slice::from_ref(&alice));
        let _ = world.probe("app");
    }
    assert_eq!(world.state("app"), "closed");
    assert_eq!(
        world.probe("app"),
        Err(Refusal::Closed {
            tunnel: slug("app")
        })
    );
    world.finish();
}

#[test]
fn a_probe_is_never_held() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    let probed = world.probe("app");
    assert!(matches!(probed, Err(Refusal::Offline { .. })), "{probed:?}");
    assert_eq!(world.state("app"), "held", "visits still wait");
    world.link_up(alice.device);
    assert!(world.probe("app").is_ok());
    assert_eq!(
        world.probe("none"),
        Err(Refusal::NoRoute {
            host: "none".into()
        })
    );
    world.finish();
}

#[test]
fn strangers_who_probe_without_end_are_told_to_wait() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    let passed = (0..100).filter(|_| world.probe("app").is_ok()).count();
    assert_eq!(passed, 8, "a few at once");
    assert!(matches!(world.probe("app"), Err(Refusal::Probed { .. })));
    world.visited("app");
    world.live_for(secs(2), &[alice]);
    let passed = (0..100).filter(|_| world.probe("app").is_ok()).count();
    assert_eq!(passed, 2, "and one a second from then on");
    world.finish();
}
