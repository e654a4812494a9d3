//! The audit: what changes a promise is in it.

use super::*;

/// Who, over which way, did what: of each change once.
#[test]
fn every_change_of_state_is_in_the_audit_with_who_and_from_where() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let bob = world.connect("bob");
    let app = world.opens_with(&alice, "app", r#"{"share":"allowed"}"#);
    assert!(
        world
            .sets(&alice, app, r#"{"deny":["192.0.2.0/24"]}"#, &["deny"])
            .is_ok()
    );
    let share = world.shares(&alice, app, Some(1));
    assert!(matches!(world.redeems(share), Ok(Answer::Redeemed(_))));
    let unused = world.shares(&alice, app, None);
    assert_eq!(world.revokes(&unused.to_string()), Ok(Answer::Revoked));
    for what in ["app".to_owned(), bob.device.to_string()] {
        assert_eq!(world.suspends(&what), Ok(Answer::Suspended), "{what}");
        assert_eq!(world.resumes(&what), Ok(Answer::Resumed), "{what}");
    }
    let secret = world.invites("carol", 1);
    let pin = world.new_pin();
    assert!(world.enrolls(secret, pin, "desk").is_ok());
    assert_eq!(world.suspends("carol"), Ok(Answer::Suspended));
    assert_eq!(world.resumes("carol"), Ok(Answer::Resumed));
    assert_eq!(world.revokes("desk"), Ok(Answer::Revoked));
    assert_eq!(world.closes(&alice, app), Ok(Answer::Closed));
    let mut brief = world.ask("brief");
    brief.expires_at = Some(world.now.wall.plus(secs(60)));
    world.bind(&alice, &brief).unwrap();
    world.advance(secs(60));
    assert_eq!(world.leaves(&alice), Ok(Answer::Left));

    let operator = Actor::Operator { uid: 1000 };
    let alices = Actor::Device(alice.device);
    for (action, actor, from_afar) in [
        ("user.create", operator, false),
        ("invite.create", operator, false),
        ("device.enroll", Actor::Newcomer, true),
        ("tunnel.open", alices, true),
        ("tunnel.set", alices, true),
        ("share.create", alices, true),
        ("share.use", Actor::Visitor, true),
        ("share.revoke", operator, false),
        ("tunnel.suspend", operator, false),
        ("tunnel.resume", operator, false),
        ("device.suspend", operator, false),
        ("device.resume", operator, false),
        ("user.suspend", operator, false),
        ("user.resume", operator, false),
        ("device.revoke", operator, false),
        ("tunnel.close", alices, true),
        ("tunnel.expire", Actor::Engine, false),
        ("device.leave", alices, true),
    ] {
        let line = world.disk.audit.iter().find(|line| line.action == action);
        let line = line.unwrap_or_else(|| panic!("{action} is not in the audit"));
        assert_eq!(line.actor, actor, "{action}");
        assert_eq!(line.peer.is_some(), from_afar, "{action}");
        assert!(!line.subject.is_empty(), "{action}");
    }
    world.finish();
}
