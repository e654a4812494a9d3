//! Which link is the live one.

use super::*;

#[test]
fn a_newer_link_takes_the_tunnels_over_at_once() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    assert_eq!(world.passes("app").link, alice.link);
    let newer = world.link_up(alice.device);
    assert_eq!(world.cut, [(alice.link, Code::Superseded)]);
    assert_eq!(world.passes("app").link, newer);
    // The ghost's end, and whatever is heard of it, changes nothing.
    world.link_down(alice.link);
    world.heard(alice.link);
    assert_eq!(world.passes("app").link, newer);
    assert_eq!(world.engine.counts().links, 1);
    world.finish();
}

#[test]
fn an_older_link_that_arrives_late_is_cut() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    let (older, newer) = (link(world.number()), link(world.number()));
    world.link_up_as(alice.device, newer);
    world.link_up_as(alice.device, older);
    assert_eq!(world.cut.last(), Some(&(older, Code::Superseded)));
    assert_eq!(world.passes("app").link, newer);
    // Nor does it come to life when the newer one has gone.
    world.link_down(newer);
    world.link_up_as(alice.device, older);
    assert_eq!(world.cut.last(), Some(&(older, Code::Superseded)));
    assert_eq!(world.state("app"), "held");
    world.finish();
}

#[test]
fn the_same_link_told_twice_stays() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.link_up_as(alice.device, alice.link);
    assert_eq!(world.cut, []);
    assert_eq!(world.engine.counts().links, 1);
    world.finish();
}

#[test]
fn a_fenced_link_may_not_ask_for_anything() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.link_up(alice.device);
    let ask = world.ask("web");
    assert_eq!(world.bind(&alice, &ask), Err(AskError::Superseded));
    assert_eq!(world.closes(&alice, app), Err(AskError::Superseded));
    assert_eq!(world.leaves(&alice), Err(AskError::Superseded));
    assert_eq!(world.state("app"), "open");
    world.finish();
}

#[test]
fn a_link_of_nobody_is_cut() {
    let mut world = World::new();
    let nobody = DeviceId::from_bytes([9; 16]);
    let stray = link(world.number());
    world.up.insert(stray);
    world.handle(Event::LinkUp {
        link: stray,
        device: nobody,
        peer: peer(),
    });
    assert_eq!(world.cut, [(stray, Code::UnknownDevice)]);
    world.finish();
}

#[test]
fn a_link_that_keeps_silent_for_three_keep_alives_is_dormant() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.step(secs(10));
    world.heard(alice.link);
    world.step(secs(15) - Duration::from_millis(1));
    assert_eq!(world.passes("app").link, alice.link);
    world.step(Duration::from_millis(1));
    let visit = world.waits("app");
    assert_eq!(world.engine.counts().dormant, 1);
    assert_eq!(world.state("app"), "held");
    world.heard(alice.link);
    assert_eq!(world.release_of(visit).unwrap().unwrap().link, alice.link);
    assert_eq!(world.engine.counts().dormant, 0);
    assert_eq!(world.state("app"), "open");
    world.finish();
}

#[test]
fn a_link_that_does_not_answer_a_visit_is_away_at_once_and_its_hold_runs_from_then() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let tunnel = world.opens(&alice, "app");
    let sent = world.passes("app");
    world.step(secs(2));
    world.handle(Event::LinkAway { link: alice.link });
    world.handle(Event::LinkAway { link: alice.link });
    let held = world.waits("app");
    world.advance(secs(10) - Duration::from_millis(1));
    assert_eq!(
        (world.release_of(held), &world.given_up[..]),
        (None, &[][..])
    );
    world.advance(Duration::from_millis(1));
    assert!(matches!(
        world.release_of(held),
        Some(Err(Refusal::Offline { .. }))
    ));
    // The visit that was sent and has no answer is given up, not sent again.
    assert_eq!(world.given_up, [tunnel]);
    world.heard(alice.link);
    assert_eq!(world.passes("app").link, sent.link);
    world.finish();
}

#[test]
fn a_client_that_says_it_sleeps_gets_no_visits_until_it_says_it_is_awake() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.passes("app");
    world.handle(Event::LinkAsleep { link: alice.link });
    let held = world.waits("app");
    world.heard(alice.link);
    assert_eq!((world.release_of(held), world.state("app")), (None, "held"));
    world.handle(Event::LinkAwake { link: alice.link });
    assert_eq!(world.release_of(held).unwrap().unwrap().link, alice.link);
    assert_eq!(world.state("app"), "open");
    world.finish();
}

#[test]
fn the_hold_of_a_dormant_link_runs_from_when_it_fell_dormant() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    // Dormant after 15 s, hold of 10 s; the timer reports late, and the link's end is noticed later still.
    world.step(secs(20));
    let visit = world.waits("app");
    world.link_down(alice.link);
    world.advance(secs(5) - Duration::from_millis(1));
    assert_eq!(world.release_of(visit), None);
    world.advance(Duration::from_millis(1));
    assert!(matches!(
        world.release_of(visit),
        Some(Err(Refusal::Offline { .. }))
    ));
    world.finish();
}

#[test]
fn a_new_keep_alive_holds_for_links_that_are_up() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    let settings = EngineSettings {
        keep_alive: secs(1),
        ..settings()
    };
    world.handle(Event::Reloaded { settings });
    world.advance(secs(3));
    assert_eq!(world.state("app"), "held");
    world.finish();
}

#[test]
fn each_device_has_its_own_tunnels() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    world.opens(&alice, "app");
    world.opens(&bob, "web");
    world.link_down(alice.link);
    assert_eq!(world.passes("web").link, bob.link);
    assert_eq!(world.state("app"), "held");
    let views: Vec<_> = world.engine.devices().collect();
    assert_eq!(views.len(), 2);
    assert_eq!(views[0].link, None);
    assert_eq!(views[1].link, Some(bob.link));
    assert_eq!(views[1].user, "bob");
    assert_eq!(views[1].tunnels, 1);
    world.finish();
}

#[test]
fn a_user_has_as_many_links_as_there_may_be_and_one_more_waits_for_one_to_go() {
    let mut settings = settings();
    settings.limits.user.links = Some(2);
    let mut world = World::with(settings);
    let desk = world.connect_as("alice", "desk");
    let lap = world.connect_as("alice", "lap");
    assert_eq!(world.cut, []);
    let third = world.connect_as("alice", "third");
    assert_eq!(world.cut, [(third.link, Code::LimitReached)]);
    // Another user's are another's, and a device that comes back replaces its own.
    let bob = world.connect_as("bob", "bob");
    let newer = world.link_up(lap.device);
    let cut = [
        (third.link, Code::LimitReached),
        (lap.link, Code::Superseded),
    ];
    assert_eq!(world.cut, cut);
    assert_eq!(world.engine.counts().links, 3);
    world.link_down(desk.link);
    let again = world.link_up(third.device);
    assert_eq!(world.cut, cut, "there is room");
    assert_eq!(world.engine.counts().links, 3);
    let late = world.link_up(desk.device);
    assert_eq!(world.cut.last(), Some(&(late, Code::LimitReached)));
    for link in [newer, again, bob.link] {
        assert!(world.cut.iter().all(|(cut, _)| *cut != link), "{link}");
    }
    world.finish();
}
