//! Restrictions that the disk refuses: in force at once, acknowledged when written, tried until they are.

use super::*;

const FULL: AskError = AskError::Store {
    code: Code::DiskFull,
};

#[test]
fn a_close_is_in_force_at_once_and_acknowledged_after_its_commit() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.store = Store::Waits;
    let (one, two) = (world.over(&alice), world.admin());
    world.close_asked(one, app);
    world.close_asked(two, app);
    assert!(matches!(world.refused("app"), Refusal::Closed { .. }));
    assert!(world.replies.is_empty());
    assert_eq!(world.queue.len(), 1, "both wait for one commit");
    world.commits();
    assert_eq!(world.reply(one), Ok(Answer::Closed));
    assert_eq!(world.reply(two), Ok(Answer::Closed));
    world.finish();
}

#[test]
fn a_close_that_cannot_be_written_stays_in_force_and_is_tried_again() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.store = Store::Fails(Code::DiskFull);
    assert_eq!(world.closes(&alice, app), Err(FULL));
    assert!(matches!(world.refused("app"), Refusal::Closed { .. }));
    world.advance(secs(60));
    assert!(world.disk.is_open(app));
    assert_eq!(world.closes(&alice, app), Err(FULL), "still not on disk");
    world.store = Store::Commits;
    world.advance(secs(5));
    assert!(!world.disk.is_open(app));
    assert_eq!(world.disk.tunnel_lines().len(), 2, "and in the audit once");
    assert_eq!(world.closes(&alice, app), Ok(Answer::Closed));
    world.finish();
}

#[test]
fn asking_again_to_close_tries_the_disk_again() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.store = Store::Fails(Code::DiskFull);
    assert_eq!(world.closes(&alice, app), Err(FULL));
    world.store = Store::Commits;
    assert_eq!(world.closes(&alice, app), Ok(Answer::Closed));
    assert!(!world.disk.is_open(app));
    world.finish();
}

#[test]
fn expiry_and_revocation_stay_in_force_without_a_disk() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let mut ask = world.ask("app");
    ask.expires_at = Some(world.now.wall.plus(secs(60)));
    world.bind(&alice, &ask).unwrap();
    let web = world.opens(&bob, "web");
    world.store = Store::Fails(Code::DiskFull);
    world.advance(secs(60));
    assert!(matches!(world.refused("app"), Refusal::Expired { .. }));
    assert_eq!(world.revokes("bob"), Err(FULL));
    assert!(world.cut.contains(&(bob.link, Code::Revoked)));
    assert_eq!(world.engine.device_of(&bob.pin), Err(AskError::Revoked));
    assert!(world.disk.is_open(ask.tunnel) && world.disk.is_open(web));
    world.store = Store::Commits;
    world.advance(secs(5));
    assert!(!world.disk.is_open(ask.tunnel) && !world.disk.is_open(web));
    assert_eq!(world.revokes(&bob.device.to_string()), Ok(Answer::Revoked));
    world.finish();
}

#[test]
fn a_leave_that_is_written_late_cuts_the_link_then() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.store = Store::Fails(Code::DiskFull);
    assert_eq!(world.leaves(&alice), Err(FULL));
    assert_eq!(world.cut, []);
    world.store = Store::Commits;
    world.heard(alice.link);
    world.advance(secs(5));
    assert_eq!(world.cut, [(alice.link, Code::Done)]);
    world.finish();
}

#[test]
fn a_name_whose_end_is_not_on_disk_yet_is_ended_there_before_it_opens_again() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let first = world.opens(&alice, "app");
    world.store = Store::Fails(Code::DiskFull);
    world.closes(&alice, first).unwrap_err();
    world.store = Store::Commits;
    let second = world.opens(&alice, "app");
    assert!(!world.disk.is_open(first) && world.disk.is_open(second));
    world.finish();
}

#[test]
fn an_unwritten_end_is_not_forgotten_however_long_it_takes() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.store = Store::Fails(Code::DiskFull);
    world.closes(&alice, app).unwrap_err();
    world.step(30 * DAY);
    world.wake();
    assert_eq!(world.state("app"), "closed");
    world.commits();
    world.advance(secs(5));
    assert!(!world.disk.is_open(app));
    assert_eq!(world.state("app"), "none");
    world.finish();
}

#[test]
fn a_close_of_a_tunnel_that_is_being_opened_follows_its_commit() {
    for fails in [false, true] {
        let mut world = World::new();
        let alice = world.connect("alice");
        world.store = Store::Waits;
        let ask = world.ask("app");
        let bind = world.bind_asked(&alice, &ask);
        let close = world.over(&alice);
        world.close_asked(close, ask.tunnel);
        assert!(world.replies.is_empty());
        if fails {
            world.store = Store::Fails(Code::DiskFull);
            world.commit_all();
            world.pump();
            assert_eq!(world.reply(bind), Err(FULL));
            let what = ask.tunnel.to_string();
            assert_eq!(world.reply(close), Err(AskError::NotFound { what }));
        } else {
            world.commits();
            assert!(matches!(world.reply(bind), Ok(Answer::Bound(_))));
            assert_eq!(world.reply(close), Ok(Answer::Closed));
            assert!(!world.disk.is_open(ask.tunnel));
        }
        world.finish();
    }
}

#[test]
fn what_was_seen_and_could_not_be_written_is_written_later() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.visited("app");
    world.store = Store::Fails(Code::DiskFull);
    world.live_for(secs(70), &[alice]);
    assert_eq!(world.disk.tunnel(app).unwrap().last_seen_at, None);
    world.store = Store::Commits;
    world.live_for(secs(70), &[alice]);
    assert!(world.disk.tunnel(app).unwrap().last_seen_at.is_some());
    world.finish();
}

#[test]
fn a_commit_nobody_asked_for_is_nothing() {
    let mut world = World::new();
    world.handle(Event::Committed {
        ticket: Ticket(4711),
        result: Ok(()),
    });
    world.finish();
}

#[test]
fn more_grants_than_may_wait_for_the_disk_are_refused() {
    let most = persist::PENDING;
    let mut world = World::with(EngineSettings {
        tunnels_per_device: 2 * most,
        ..settings()
    });
    let alice = world.connect("alice");
    world.store = Store::Waits;
    for number in 0..most {
        let ask = world.ask(&format!("app{number}"));
        world.bind_asked(&alice, &ask);
    }
    assert!(world.replies.is_empty());
    let ask = world.ask("app");
    assert_eq!(world.bind(&alice, &ask), Err(AskError::Busy));
    world.store = Store::Fails(Code::DiskFull);
    world.commit_all();
    world.store = Store::Commits;
    world.pump();
    assert!(world.bind(&alice, &ask).is_ok());
    world.finish();
}
