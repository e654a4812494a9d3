//! Who gets which name.

use super::*;

#[test]
fn an_opened_tunnel_is_on_disk_and_has_its_address() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = world.ask("app");
    let view = world.bind(&alice, &ask).unwrap();
    assert_eq!(view.url, "https://app.t.example.com");
    assert_eq!(view.state, "open");
    assert_eq!(world.passes("app").link, alice.link);
    assert_eq!(world.disk.tunnel_lines(), ["tunnel.open app"]);
    let line = world.disk.audit.last().unwrap();
    assert_eq!(line.actor, Actor::Device(alice.device));
    assert_eq!(line.peer, Some(peer()));
    world.finish();
}

#[test]
fn asking_again_returns_the_same_tunnel_and_moves_nothing() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.expires_at = Some(world.now.wall.plus(HOUR));
    let first = world.bind(&alice, &ask).unwrap();
    let commits = world.disk.commits;
    world.step(secs(5));
    ask.expires_at = Some(world.now.wall.plus(DAY));
    ask.idle = Some(None);
    ask.hold = Some(secs(60));
    let again = world.bind(&alice, &ask).unwrap();
    assert_eq!(again.row.expires_at, first.row.expires_at);
    assert_eq!(again.row.idle, first.row.idle);
    assert_eq!(again.row.hold, first.row.hold);
    assert_eq!(again.row.created_at, first.row.created_at);
    assert_eq!(world.disk.commits, commits, "nothing new was written");
    world.finish();
}

#[test]
fn names_that_cannot_be_had_are_refused_with_the_reason() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let app = world.opens(&alice, "app");
    let mut check = |client: &Client, name: &str, error| {
        let ask = world.ask(name);
        assert_eq!(world.bind(client, &ask).err(), error, "{name}");
    };
    let taken = || AskError::NameTaken { slug: slug("app") };
    check(&bob, "app", Some(taken()));
    check(&alice, "app", Some(taken()));
    for reserved in crate::names::RESERVED_SLUGS {
        let slug = slug(reserved);
        check(&bob, reserved, Some(AskError::NameReserved { slug }));
    }
    world.closes(&alice, app).unwrap();
    let ask = world.ask("app");
    let slug = slug("app");
    assert_eq!(
        world.bind(&bob, &ask).err(),
        Some(AskError::NameInQuarantine { slug })
    );
    world.finish();
}

#[test]
fn a_name_in_quarantine_is_free_for_its_own_user_and_later_for_all() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let laptop = world.connect_as("alice", "laptop");
    let first = world.opens(&alice, "app");
    world.closes(&alice, first).unwrap();
    let second = world.opens(&laptop, "app");
    assert_eq!(world.passes("app").tunnel, second);
    world.closes(&laptop, second).unwrap();
    world.step(7 * DAY - secs(1));
    let ask = world.ask("app");
    assert!(world.bind(&bob, &ask).is_err());
    world.step(secs(1));
    let third = world.bind(&bob, &ask).unwrap();
    assert_eq!(third.row.device, bob.device);
    assert_eq!(world.engine.tunnels().count(), 1, "the ended are forgotten");
    world.finish();
}

#[test]
fn without_a_name_the_first_free_proposal_is_taken() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut slugs = Vec::new();
    for _ in 0..3 {
        let mut ask = world.ask("x");
        ask.name = None;
        slugs.push(
            world
                .bind(&alice, &ask)
                .map(|view| view.row.slug.to_string()),
        );
    }
    assert_eq!(
        slugs,
        [
            Ok("quiet-lime-1".into()),
            Ok("quiet-lime-2".into()),
            Err(AskError::NoFreeName)
        ]
    );
    world.finish();
}

#[test]
fn what_a_tunnel_may_not_be_is_refused() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let now = world.now.wall;
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let many: Vec<_> = (0..17).map(|i| label(&i.to_string(), "v")).collect();
    let mut check = |change: &dyn Fn(&mut BindAsk), expected: Option<AskError>| {
        let mut ask = world.ask("app");
        change(&mut ask);
        let bound = world.bind(&alice, &ask);
        assert_eq!(bound.as_ref().err(), expected.as_ref());
        if let Ok(view) = bound {
            world.closes(&alice, view.row.id).unwrap();
        }
    };
    for kind in [Kind::Tcp, Kind::Tls, Kind::Udp] {
        check(&|ask| ask.kind = kind, None);
    }
    for (at, refused) in [(now.plus(secs(1)), false), (now, true)] {
        let error = refused.then_some(AskError::AlreadyExpired);
        check(&|ask| ask.expires_at = Some(at), error);
    }
    let too_long = AskError::HoldTooLong { max: secs(60) };
    check(&|ask| ask.hold = Some(secs(60)), None);
    check(&|ask| ask.hold = Some(secs(61)), Some(too_long));
    let labels = Some(AskError::Labels);
    check(&|ask| ask.labels = many[..16].to_vec(), None);
    check(&|ask| ask.labels = many.clone(), labels.clone());
    let long = "v".repeat(65);
    check(&|ask| ask.labels = vec![label("a", &long[1..])], None);
    check(&|ask| ask.labels = vec![label("a", &long)], labels.clone());
    check(&|ask| ask.labels = vec![label("a", "b\n")], labels.clone());
    let twice = [label("a", "1"), label("a", "2")];
    check(&|ask| ask.labels = twice.to_vec(), labels);
    world.finish();
}

#[test]
fn a_device_has_no_more_tunnels_than_it_may() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let names = ["a", "b", "c", "d", "e"];
    let mut open: Vec<_> = names.map(|name| world.opens(&alice, name)).into();
    let ask = world.ask("f");
    let error = AskError::TooManyTunnels { max: 5 };
    assert_eq!(world.bind(&alice, &ask), Err(error));
    world.closes(&alice, open.remove(0)).unwrap();
    assert!(world.bind(&alice, &ask).is_ok());
    world.finish();
}

#[test]
fn tunnels_that_are_being_opened_count_too() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.store = Store::Waits;
    let names = ["a", "b", "c", "d", "e", "f"];
    let asked: Vec<_> = names
        .map(|name| {
            let ask = world.ask(name);
            world.bind_asked(&alice, &ask)
        })
        .into();
    let error = AskError::TooManyTunnels { max: 5 };
    assert_eq!(world.reply(asked[5]), Err(error));
    world.commits();
    assert_eq!(world.engine.counts().tunnels, 5);
    world.finish();
}

#[test]
fn idleness_defaults_for_what_is_asked_for_by_hand_only() {
    let mut world = World::new();
    let alice = world.connect("alice");
    for (declared, asked, expected) in [
        (false, None, Some(DAY)),
        (true, None, None),
        (false, Some(None), None),
        (true, Some(Some(HOUR)), Some(HOUR)),
    ] {
        let mut ask = world.ask("app");
        ask.declared = declared;
        ask.idle = asked;
        let view = world.bind(&alice, &ask).unwrap();
        assert_eq!(view.row.idle, expected, "{declared} {asked:?}");
        world.closes(&alice, view.row.id).unwrap();
    }
    world.finish();
}

#[test]
fn another_devices_tunnel_is_just_another() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let laptop = world.connect_as("alice", "laptop");
    let ask = world.ask("app");
    let app = world.bind(&alice, &ask).unwrap().row.id;
    assert_eq!(world.bind(&bob, &ask), Err(AskError::NotYours));
    assert_eq!(world.bind(&laptop, &ask), Err(AskError::NotYours));
    world.closes(&alice, app).unwrap();
    assert_eq!(world.bind(&bob, &ask), Err(AskError::NotYours));
    world.finish();
}

#[test]
fn an_ended_tunnel_is_not_taken_back() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.expires_at = Some(world.now.wall.plus(secs(60)));
    world.bind(&alice, &ask).unwrap();
    world.step(secs(60));
    let expired = AskError::Ended { expired: true };
    assert_eq!(world.bind(&alice, &ask), Err(expired));
    let ask = world.ask("web");
    let web = world.bind(&alice, &ask).unwrap().row.id;
    world.closes(&alice, web).unwrap();
    let closed = AskError::Ended { expired: false };
    assert_eq!(world.bind(&alice, &ask), Err(closed));
    world.finish();
}

#[test]
fn a_name_leads_nowhere_before_its_commit() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    world.store = Store::Waits;
    let ask = world.ask("app");
    let first = world.bind_asked(&alice, &ask);
    assert_eq!(
        world.refused("app"),
        Refusal::NoRoute { host: "app".into() }
    );
    let rival = world.ask("app");
    let slug = slug("app");
    assert_eq!(world.bind(&bob, &rival), Err(AskError::NameTaken { slug }));
    assert_eq!(world.bind(&bob, &ask), Err(AskError::NotYours));
    let second = world.bind_asked(&alice, &ask);
    assert!(world.replies.is_empty());
    world.commits();
    for from in [first, second] {
        assert!(matches!(world.reply(from), Ok(Answer::Bound(_))));
    }
    assert_eq!(world.disk.tunnel_lines().len(), 1, "one commit for both");
    world.visited("app");
    world.finish();
}

#[test]
fn a_grant_that_cannot_be_written_was_never_made() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    world.store = Store::Fails(Code::DiskFull);
    let ask = world.ask("app");
    let code = Code::DiskFull;
    assert_eq!(world.bind(&alice, &ask), Err(AskError::Store { code }));
    assert_eq!(world.state("app"), "none");
    world.store = Store::Commits;
    let rival = world.ask("app");
    assert!(world.bind(&bob, &rival).is_ok(), "the name is free again");
    world.finish();
}

#[test]
fn a_tunnel_whose_link_went_down_while_it_was_written_is_open_all_the_same() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.store = Store::Waits;
    let ask = world.ask("app");
    let from = world.bind_asked(&alice, &ask);
    world.link_down(alice.link);
    world.commits();
    assert!(matches!(world.reply(from), Ok(Answer::Bound(_))));
    assert_eq!(world.state("app"), "held");
    let visit = world.waits("app");
    let link = world.link_up(alice.device);
    assert_eq!(world.release_of(visit).unwrap().unwrap().link, link);
    world.finish();
}

#[test]
fn a_tunnel_whose_time_came_while_it_was_written_never_serves() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.store = Store::Waits;
    let opened = world.now.wall;
    let mut ask = world.ask("app");
    ask.expires_at = Some(opened.plus(secs(3)));
    let from = world.bind_asked(&alice, &ask);
    world.step(secs(3));
    world.commits();
    let ended = AskError::Ended { expired: true };
    assert_eq!(world.reply(from), Err(ended));
    world.set_wall(opened);
    assert!(matches!(world.refused("app"), Refusal::Expired { .. }));
    world.finish();
}

#[test]
fn more_questions_than_a_commit_keeps_waiting_are_refused() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.store = Store::Waits;
    let ask = world.ask("app");
    let asked: Vec<_> = (0..20).map(|_| world.bind_asked(&alice, &ask)).collect();
    let refused = world.replies.len();
    assert_eq!(refused, 4);
    world.commits();
    assert_eq!(world.replies.len(), asked.len());
    world.finish();
}

#[test]
fn a_new_quarantine_holds_for_names_that_wait_already() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let app = world.opens(&alice, "app");
    world.closes(&alice, app).unwrap();
    let settings = EngineSettings {
        quarantine: HOUR,
        ..settings()
    };
    world.handle(Event::Reloaded { settings });
    world.step(HOUR);
    let app = world.opens(&bob, "app");
    assert_eq!(world.engine.tunnel("app").unwrap().row.id, app);
    world.finish();
}

#[test]
fn only_the_kinds_that_are_allowed_may_be_opened() {
    let mut settings = settings();
    settings.ports = Some((20_000, 20_009));
    for (allowed, taken) in [
        (&[][..], [true, true, true, true]),
        (&[Kind::Http], [true, false, false, false]),
        (&[Kind::Tcp, Kind::Udp], [false, true, false, true]),
    ] {
        settings.limits.kinds = allowed.to_vec();
        let mut world = World::with(settings.clone());
        let alice = world.connect("alice");
        let kinds = [Kind::Http, Kind::Tcp, Kind::Tls, Kind::Udp];
        for (kind, taken) in kinds.into_iter().zip(taken) {
            let mut ask = world.ask(kind.as_str());
            ask.kind = kind;
            match world.bind(&alice, &ask) {
                Ok(_) => assert!(taken, "{kind} of {allowed:?}"),
                Err(refused) => {
                    assert!(!taken, "{kind} of {allowed:?}: {refused}");
                    assert_eq!(refused, AskError::Kind { kind });
                }
            }
        }
        world.finish();
    }
}
