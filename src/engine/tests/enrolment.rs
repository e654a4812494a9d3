//! Users, join tokens and devices.

use super::*;

#[test]
fn a_token_enrols_one_device_and_makes_its_user() {
    let mut world = World::new();
    let secret = world.invites("alice", 1);
    let pin = world.new_pin();
    assert_eq!(world.engine.device_of(&pin), Err(AskError::NotEnrolled));
    let Ok(Answer::Enrolled { device, user }) = world.enrolls(secret, pin, "laptop") else {
        panic!("not enrolled");
    };
    assert_eq!(user, "alice");
    assert_eq!(world.engine.device_of(&pin), Ok(device));
    let other = world.new_pin();
    assert_eq!(world.enrolls(secret, other, "pc"), Err(AskError::TokenUsed));
    let actions: Vec<_> = world.disk.audit.iter().map(|row| row.action).collect();
    assert_eq!(actions, ["user.create", "invite.create", "device.enroll"]);
    assert_eq!(world.disk.audit[2].actor, Actor::Newcomer);
    assert_eq!(world.disk.audit[2].peer, Some(peer()));
    world.finish();
}

#[test]
fn the_second_token_of_a_user_is_for_the_same_user() {
    let mut world = World::new();
    let (one, two) = (world.connect("alice"), world.connect_as("alice", "pc"));
    let users: Vec<_> = world.engine.users().collect();
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].devices, 2);
    let user = |client: &Client| world.engine.device(client.device).unwrap().user;
    assert_eq!(user(&one), user(&two));
    world.finish();
}

#[test]
fn two_first_tokens_of_one_user_make_one_user() {
    for first_fails in [false, true] {
        let mut world = World::new();
        world.store = Store::Waits;
        let (one, two) = (world.admin(), world.admin());
        world.invite_asked(one, "alice", 1, HOUR);
        world.invite_asked(two, "alice", 1, HOUR);
        assert_eq!(world.queue.len(), 1, "the second waits for the first");
        if first_fails {
            world.store = Store::Fails(Code::Storage);
            let (ticket, result) = world.try_next().unwrap();
            world.store = Store::Waits;
            world.handle(Event::Committed { ticket, result });
        }
        world.commits();
        assert_eq!(world.reply(one).is_err(), first_fails);
        assert!(world.reply(two).is_ok());
        assert_eq!(world.engine.users().count(), 1);
        world.finish();
    }
}

#[test]
fn tokens_that_do_not_work_say_why_only_when_it_is_harmless() {
    let mut world = World::new();
    let admin = world.admin();
    let short = world.invite_asked(admin, "alice", 1, HOUR);
    let withdrawn = world.invites("alice", 1);
    let id = world.disk.snapshot().invites[1].id;
    assert_eq!(world.revokes(&id.to_string()), Ok(Answer::Revoked));
    assert_eq!(world.revokes(&id.to_string()), Ok(Answer::Revoked));
    world.step(HOUR);
    let mut check = |secret, expected| {
        let pin = world.new_pin();
        assert_eq!(world.enrolls(secret, pin, "pc"), Err(expected));
        assert_eq!(world.engine.device_of(&pin), Err(AskError::NotEnrolled));
    };
    check(short, AskError::TokenExpired);
    check(withdrawn, AskError::BadToken);
    check(99_999, AskError::BadToken);
    world.finish();
}

#[test]
fn what_no_token_can_be_is_refused() {
    let mut world = World::new();
    let long = "a".repeat(41);
    for name in ["", "Alice", "a b", "ä", &long] {
        let from = world.admin();
        world.invite_asked(from, name, 1, HOUR);
        let refused = matches!(world.reply(from), Err(AskError::BadName { .. }));
        assert!(refused, "{name}");
    }
    for name in ["a", "a.b_c-9", &long[1..]] {
        world.invites(name, 1);
    }
    let from = world.admin();
    world.invite_asked(from, "bob", 0, HOUR);
    assert_eq!(world.reply(from), Err(AskError::NoUses));
    let from = world.admin();
    world.invite_asked(from, "bob", 1, Duration::ZERO);
    assert_eq!(world.reply(from), Err(AskError::AlreadyExpired));
    world.finish();
}

#[test]
fn a_token_works_only_after_its_commit() {
    let mut world = World::new();
    world.store = Store::Waits;
    let from = world.admin();
    let secret = world.invite_asked(from, "alice", 1, HOUR);
    let pin = world.new_pin();
    assert_eq!(world.enrolls(secret, pin, "pc"), Err(AskError::BadToken));
    world.commits();
    assert!(world.enrolls(secret, pin, "pc").is_ok());
    world.finish();
}

#[test]
fn two_newcomers_at_once_cannot_use_one_token_twice() {
    let mut world = World::new();
    let secret = world.invites("alice", 1);
    world.store = Store::Waits;
    let (one, two) = (world.new_pin(), world.new_pin());
    let first = world.enroll_asked(secret, one, "one");
    assert_eq!(world.enrolls(secret, two, "two"), Err(AskError::TokenUsed));
    world.commits();
    assert!(world.reply(first).is_ok());
    assert_eq!(world.disk.uses_left(), [0]);
    world.finish();
}

#[test]
fn a_use_that_could_not_be_written_is_given_back() {
    let mut world = World::new();
    let secret = world.invites("alice", 1);
    let pin = world.new_pin();
    world.store = Store::Fails(Code::DiskFull);
    let code = Code::DiskFull;
    assert_eq!(
        world.enrolls(secret, pin, "pc"),
        Err(AskError::Store { code })
    );
    assert_eq!(world.engine.device_of(&pin), Err(AskError::NotEnrolled));
    world.store = Store::Commits;
    assert!(world.enrolls(secret, pin, "pc").is_ok());
    assert_eq!(world.disk.uses_left(), [0]);
    world.finish();
}

#[test]
fn a_device_whose_answer_was_lost_asks_again_with_the_same_token() {
    let mut world = World::new();
    let secret = world.invites("alice", 1);
    let pin = world.new_pin();
    world.store = Store::Waits;
    let first = world.enroll_asked(secret, pin, "pc");
    let second = world.enroll_asked(secret, pin, "pc");
    world.commits();
    let answer = world.reply(first);
    assert!(answer.is_ok());
    assert_eq!(world.reply(second), answer);
    assert_eq!(world.enrolls(secret, pin, "pc"), answer);
    assert_eq!(world.engine.devices().count(), 1);
    // A fresh token of the same user keeps its use, too.
    let fresh = world.invites("alice", 1);
    assert_eq!(world.enrolls(fresh, pin, "pc"), answer);
    assert_eq!(world.disk.uses_left(), [0, 1]);
    world.finish();
}

#[test]
fn an_enrolled_key_does_not_change_hands() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let secret = world.invites("bob", 1);
    assert_eq!(
        world.enrolls(secret, alice.pin, "pc"),
        Err(AskError::NotYours)
    );
    assert_eq!(world.engine.device(alice.device).unwrap().user, "alice");
    world.finish();
}

#[test]
fn a_name_that_cannot_be_a_devices_is_refused() {
    let mut world = World::new();
    let secret = world.invites("alice", 1);
    let id = DeviceId::from_bytes([1; 16]).to_string();
    for name in ["", "a\nb", &"a".repeat(129), &id] {
        let pin = world.new_pin();
        let refused = matches!(
            world.enrolls(secret, pin, name),
            Err(AskError::BadName { .. })
        );
        assert!(refused, "{name:?}");
    }
    world.finish();
}

#[test]
fn revoking_a_device_cuts_its_link_and_ends_its_tunnels_in_one_commit() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let (app, web) = (world.opens(&alice, "app"), world.opens(&alice, "web"));
    let visit = world.passes("app").visit;
    let commits = world.disk.commits;
    assert_eq!(world.revokes("alice"), Ok(Answer::Revoked));
    assert_eq!(world.cut, [(alice.link, Code::Revoked)]);
    assert!(world.cut_visits.contains(&app) && world.cut_visits.contains(&web));
    assert_eq!(world.disk.commits, commits + 1);
    let actions: Vec<_> = world.disk.audit.iter().map(|row| row.action).collect();
    assert!(actions.ends_with(&["tunnel.close", "tunnel.close", "device.revoke"]));
    assert_eq!(world.engine.device_of(&alice.pin), Err(AskError::Revoked));
    assert_eq!(world.state("app"), "closed");
    world.ends(visit);
    // Nor does a link that was on its way help.
    let late = world.link_up(alice.device);
    assert_eq!(world.cut.last(), Some(&(late, Code::Revoked)));
    world.finish();
}

#[test]
fn a_revocation_never_un_happens() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.revokes(&alice.device.to_string()).unwrap();
    assert_eq!(
        world.revokes(&alice.device.to_string()),
        Ok(Answer::Revoked)
    );
    world.restart();
    assert_eq!(world.engine.device_of(&alice.pin), Err(AskError::Revoked));
    let secret = world.invites("alice", 1);
    assert_eq!(
        world.enrolls(secret, alice.pin, "alice"),
        Err(AskError::Revoked)
    );
    world.finish();
}

#[test]
fn of_two_devices_with_one_key_the_revoked_one_counts() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let live = world.disk.device(alice.device).unwrap().clone();
    for other in [[0; 16], [0xff; 16]] {
        let revoked = DeviceRow {
            id: DeviceId::from_bytes(other),
            revoked_at: Some(world.now.wall),
            ..live.clone()
        };
        for devices in [[revoked.clone(), live.clone()], [live.clone(), revoked]] {
            let snapshot = Snapshot {
                devices: devices.into(),
                ..world.disk.snapshot()
            };
            let engine = Engine::new(settings(), snapshot, world.now);
            assert_eq!(engine.device_of(&alice.pin), Err(AskError::Revoked));
        }
    }
    world.finish();
}

#[test]
fn what_is_revoked_has_to_be_one_thing() {
    let mut world = World::new();
    world.connect_as("alice", "pc");
    let second = world.connect_as("bob", "pc");
    let ambiguous = AskError::Ambiguous { what: "pc".into() };
    assert_eq!(world.revokes("pc"), Err(ambiguous));
    let none = [
        "none".to_owned(),
        DeviceId::from_bytes([9; 16]).to_string(),
        InviteId::from_bytes([9; 16]).to_string(),
    ];
    for what in none {
        let error = AskError::NotFound { what: what.clone() };
        assert_eq!(world.revokes(&what), Err(error));
    }
    world.revokes(&second.device.to_string()).unwrap();
    assert_eq!(world.revokes("pc"), Ok(Answer::Revoked));
    world.finish();
}

#[test]
fn a_tunnel_that_was_being_opened_when_its_device_was_revoked_never_serves() {
    for crashes in [false, true] {
        let mut world = World::new();
        let alice = world.connect("alice");
        world.store = Store::Waits;
        let ask = world.ask("app");
        let bind = world.bind_asked(&alice, &ask);
        let revoke = world.admin();
        world.handle(Event::RevokeAsked {
            from: revoke,
            what: "alice".into(),
        });
        if crashes {
            // Both are on disk, and nobody was told of either.
            world.try_next();
            world.try_next();
            world.store = Store::Commits;
            world.restart();
        } else {
            world.commits();
            assert_eq!(world.reply(bind), Err(AskError::Revoked));
            assert_eq!(world.reply(revoke), Ok(Answer::Revoked));
        }
        assert_eq!(world.state("app"), "closed");
        assert!(!world.disk.is_open(ask.tunnel));
        world.finish();
    }
}

#[test]
fn leaving_ends_everything_and_cuts_the_link_after_the_answer() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.store = Store::Waits;
    let from = world.over(&alice);
    world.handle(Event::LeaveAsked { from });
    assert_eq!(world.state("app"), "closed", "at once");
    assert_eq!(world.cut, [], "the answer still has to go over it");
    let ask = world.ask("web");
    assert_eq!(world.bind(&alice, &ask), Err(AskError::Revoked));
    world.commits();
    assert_eq!(world.reply(from), Ok(Answer::Left));
    assert_eq!(world.cut, [(alice.link, Code::Done)]);
    assert_eq!(world.engine.device_of(&alice.pin), Err(AskError::Revoked));
    let actions: Vec<_> = world.disk.audit.iter().map(|row| row.action).collect();
    assert!(actions.ends_with(&["tunnel.close", "device.leave"]));
    world.finish();
}

#[test]
fn a_used_or_expired_token_is_forgotten_in_the_end() {
    let mut world = World::new();
    let secret = world.invites("alice", 1);
    let pin = world.new_pin();
    world.enrolls(secret, pin, "pc").unwrap();
    world.step(8 * HOUR + DAY);
    let other = world.new_pin();
    assert_eq!(world.enrolls(secret, other, "pc"), Err(AskError::BadToken));
    world.finish();
}
