//! Visits that wait while their link is away.

use super::*;

fn offline(tunnel: &str) -> Refusal {
    Refusal::Offline {
        tunnel: slug(tunnel),
        retry_in: secs(5),
    }
}

#[test]
fn a_visit_waits_for_the_link_and_goes_on_when_it_returns() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    let first = world.waits("app");
    world.advance(secs(9));
    let second = world.waits("app");
    assert_eq!(world.engine.counts().held, 2);
    let link = world.link_up(alice.device);
    for visit in [first, second] {
        let route = world.release_of(visit).unwrap().unwrap();
        assert_eq!((route.link, route.visit), (link, visit));
        world.ends(visit);
    }
    assert_eq!(world.engine.counts().visits_total, 2);
    world.finish();
}

#[test]
fn a_visit_after_the_hold_is_refused_as_offline() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    let visit = world.waits("app");
    world.advance(secs(10));
    assert_eq!(world.release_of(visit), Some(Err(offline("app"))));
    assert_eq!(world.refused("app"), offline("app"));
    assert_eq!(world.state("app"), "offline");
    world.link_up(alice.device);
    assert_eq!(world.state("app"), "open");
    world.visited("app");
    // The next absence has a hold of its own.
    let link = world.newest[&alice.device];
    world.link_down(link);
    world.waits("app");
    world.finish();
}

#[test]
fn the_hold_is_over_even_if_no_timer_ran() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    world.step(secs(10));
    assert_eq!(world.refused("app"), offline("app"));
    world.finish();
}

#[test]
fn each_tunnel_has_the_hold_it_asked_for() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut long = world.ask("long");
    long.hold = Some(secs(60));
    world.bind(&alice, &long).unwrap();
    let mut none = world.ask("none");
    none.hold = Some(Duration::ZERO);
    world.bind(&alice, &none).unwrap();
    world.link_down(alice.link);
    assert_eq!(world.refused("none"), offline("none"));
    world.advance(secs(59));
    let visit = world.waits("long");
    world.advance(secs(1));
    assert_eq!(world.release_of(visit), Some(Err(offline("long"))));
    world.finish();
}

#[test]
fn no_more_visits_wait_than_may() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.opens(&alice, "web");
    world.link_down(alice.link);
    let full = |name| Refusal::HoldFull { tunnel: slug(name) };
    let waiting = [(); 4].map(|()| world.waits("app"));
    assert_eq!(world.refused("app"), full("app"), "four for each tunnel");
    world.waits("web");
    world.waits("web");
    assert_eq!(world.refused("web"), full("web"), "six in all");
    // Whoever goes away makes room.
    world.handle(Event::VisitGone { visit: waiting[0] });
    assert_eq!(world.engine.counts().held, 5);
    world.waits("app");
    world.link_up(alice.device);
    assert_eq!(world.release_of(waiting[0]), None);
    assert!(world.release_of(waiting[1]).is_some());
    assert_eq!(world.engine.counts().visits, 6);
    world.finish();
}

#[test]
fn whoever_waits_learns_how_the_tunnel_ended() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    let mut ask = world.ask("web");
    ask.expires_at = Some(world.now.wall.plus(secs(5)));
    world.bind(&alice, &ask).unwrap();
    world.link_down(alice.link);
    let (first, second) = (world.waits("app"), world.waits("web"));
    world.operator_closes(app).unwrap();
    let closed = Refusal::Closed {
        tunnel: slug("app"),
    };
    assert_eq!(world.release_of(first), Some(Err(closed)));
    world.advance(secs(5));
    let expired = Refusal::Expired {
        tunnel: slug("web"),
    };
    assert_eq!(world.release_of(second), Some(Err(expired)));
    world.finish();
}

#[test]
fn a_draining_server_takes_nothing_new_and_keeps_nobody_waiting() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    world.opens(&alice, "app");
    world.opens(&bob, "web");
    let going_on = world.passes("web").visit;
    world.link_down(alice.link);
    let waiting = world.waits("app");
    world.handle(Event::Drain);
    assert_eq!(world.release_of(waiting), Some(Err(Refusal::Draining)));
    for label in ["app", "web", "none"] {
        assert_eq!(world.refused(label), Refusal::Draining);
    }
    assert!(world.engine.is_draining());
    assert_eq!(world.engine.counts().visits, 1);
    world.ends(going_on);
    world.finish();
}

#[test]
fn after_a_restart_the_hold_runs_from_the_start() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    world.advance(secs(60));
    assert_eq!(world.state("app"), "offline");
    world.restart();
    let visit = world.waits("app");
    let link = world.link_up(alice.device);
    assert_eq!(world.release_of(visit).unwrap().unwrap().link, link);
    world.ends(visit);
    world.restart();
    world.advance(secs(10));
    assert_eq!(world.refused("app"), offline("app"));
    world.finish();
}

#[test]
fn a_visit_told_as_gone_after_its_release_is_over() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    let visit = world.waits("app");
    world.link_up(alice.device);
    assert_eq!(world.engine.counts().visits, 1);
    world.going_on.clear();
    world.handle(Event::VisitGone { visit });
    assert_eq!(world.engine.counts().visits, 0);
    world.finish();
}
