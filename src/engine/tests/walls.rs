//! Users are walls: every message that names a tunnel or a share link, from the wrong user, from the wrong
//! device of the right user, and from a link that nobody knows. Nothing changes, and to a stranger what is
//! another's looks like what is not there.

use super::policy::Policy;
use super::*;
use crate::names::ShareId;

const LOCKED: &str = r#"{"share":"required","methods":["GET"]}"#;

/// What a link can say about somebody's tunnel and share link.
fn messages(from: Requester, tunnel: TunnelId, share: ShareId, world: &World) -> Vec<Event> {
    let set = |parts: &[&str]| SetAsk {
        tunnel,
        policy: Some(Policy::default()),
        parts: parts.iter().map(|part| (*part).to_owned()).collect(),
        life: LifeAsk::default(),
    };
    vec![
        Event::CloseAsked { from, tunnel },
        Event::SetAsked {
            from,
            ask: set(&[]),
        },
        Event::SetAsked {
            from,
            ask: set(&["share"]),
        },
        Event::ShareAsked {
            from,
            ask: ShareAsk {
                id: ShareId::from_bytes(bytes(7_000)),
                tunnel,
                methods: Vec::new(),
                paths: Vec::new(),
                uses: None,
                expires_at: world.now.wall.plus(HOUR),
            },
        },
        Event::UnshareAsked { from, share },
        // The operator's own.
        Event::SuspendAsked {
            from,
            what: tunnel.to_string(),
            reason: None,
        },
        Event::ResumeAsked {
            from,
            what: tunnel.to_string(),
        },
        Event::RevokeAsked {
            from,
            what: share.to_string(),
        },
        Event::RevokeAsked {
            from,
            what: "alice".to_owned(),
        },
    ]
}

#[test]
fn nobody_changes_what_is_anothers() {
    let mut world = World::new();
    let alice = world.connect_as("alice", "laptop");
    let desktop = world.connect_as("alice", "desktop");
    let mallory = world.connect_as("mallory", "box");
    let ask = BindAsk {
        policy: Policy::parse(LOCKED).unwrap(),
        ..world.ask("app")
    };
    let app = world.bind(&alice, &ask).unwrap().row.id;
    let share = ShareId::from_bytes(bytes(6_000));
    let from = world.over(&alice);
    let made = ShareAsk {
        id: share,
        tunnel: app,
        methods: Vec::new(),
        paths: Vec::new(),
        uses: None,
        expires_at: world.now.wall.plus(HOUR),
    };
    world.handle(Event::ShareAsked { from, ask: made });
    assert!(matches!(world.reply(from), Ok(Answer::Shared(_))));
    let before = world.engine.tunnel("app").unwrap().row;

    for (who, stranger) in [("another user", mallory), ("another device", desktop)] {
        let from = world.over(&stranger);
        for event in messages(from, app, share, &world) {
            let asked = format!("{who}: {event:?}");
            // The same question about what is not there.
            world.handle(event);
            let refused = world.reply(from).expect_err(&asked);
            let hidden = matches!(refused, AskError::NotFound { .. } | AskError::NotEnrolled);
            assert!(hidden, "{asked}: {refused}");
        }
        let now = world.now;
        let listed = world.engine.shares_for(now, from, app);
        assert!(matches!(listed, Err(AskError::NotFound { .. })), "{who}");
        let ask = BindAsk {
            tunnel: app,
            ..world.ask("app")
        };
        let refused = world.bind(&stranger, &ask).expect_err(who);
        assert_ne!(refused, AskError::Busy, "{who}: {refused}");
    }
    let after = world.engine.tunnel("app").unwrap().row;
    assert_eq!((after.policy, after.state), (before.policy, before.state));
    let row = world.engine.share_row(share).unwrap();
    assert_eq!(row.revoked_at, None);

    // Its owner may all of it that is not the operator's.
    let from = world.over(&alice);
    let now = world.now;
    assert_eq!(world.engine.shares_for(now, from, app).unwrap().len(), 1);
    world.handle(Event::UnshareAsked { from, share });
    assert_eq!(world.reply(from), Ok(Answer::Revoked));
    assert!(world.engine.shares_for(now, from, app).unwrap().is_empty());
    world.finish();
}

#[test]
fn a_link_that_nobody_knows_is_nobody() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    let share = ShareId::from_bytes(bytes(6_000));
    let from = Requester::Link {
        link: link(999),
        request: 1,
    };
    for event in messages(from, app, share, &world) {
        let asked = format!("{event:?}");
        world.handle(event);
        world.reply(from).expect_err(&asked);
    }
    assert_eq!(world.state("app"), "open");
    world.finish();
}
