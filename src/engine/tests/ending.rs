//! What would end a tunnel next, whose clock says so, and what may be asked of it.

use super::*;

fn next(world: &World, id: TunnelId) -> Option<(WallTime, &'static str)> {
    let next = world.engine.ends_next(world.now, id)?;
    Some((next.at, next.why.as_str()))
}

/// A tunnel with an idle time of an hour.
fn idler(world: &mut World, client: &Client, name: &str) -> TunnelId {
    let ask = BindAsk {
        idle: Some(Some(HOUR)),
        ..world.ask(name)
    };
    world.bind(client, &ask).expect("it was opened").row.id
}

#[test]
fn what_ends_a_tunnel_next_follows_what_happens_to_it() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = idler(&mut world, &alice, "app");
    let opened = world.now.wall;
    assert_eq!(next(&world, app), Some((opened.plus(HOUR), "idle")));
    world.live_for(secs(600), &[alice]);
    assert_eq!(
        next(&world, app),
        Some((opened.plus(HOUR), "idle")),
        "time that passes moves nothing"
    );

    let visit = world.passes("app").visit;
    assert_eq!(next(&world, app), None, "a visit in progress is never idle");
    world.live_for(secs(60), &[alice]);
    world.ends(visit);
    let ended = world.now.wall;
    assert_eq!(next(&world, app), Some((ended.plus(HOUR), "idle")));

    world.live_for(secs(1200), &[alice]);
    world.link_down(alice.link);
    let away = world.now.wall;
    assert_eq!(
        next(&world, app),
        Some((away.plus(7 * DAY), "offline")),
        "the clock of idleness stands still"
    );
    world.advance(5 * HOUR);
    assert_eq!(next(&world, app), Some((away.plus(7 * DAY), "offline")));

    let link = world.link_up(alice.device);
    let back = world.now.wall;
    assert_eq!(
        next(&world, app),
        Some((back.plus(HOUR - secs(1200)), "idle"))
    );
    let alice = Client { link, ..alice };
    world.live_for(HOUR - secs(1201), &[alice]);
    assert_eq!(world.state("app"), "open");
    world.live_for(secs(20), &[alice]);
    assert_eq!(world.state("app"), "closed", "and so it came");
    assert_eq!(next(&world, app), None);
    world.finish();
}

#[test]
fn the_first_of_several_ends_is_told() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = BindAsk {
        expires_in: Some(2 * DAY),
        idle: Some(None),
        ..world.ask("app")
    };
    let app = world.bind(&alice, &ask).unwrap().row.id;
    let expires = world.now.wall.plus(2 * DAY);
    assert_eq!(next(&world, app), Some((expires, "expires")));
    world.link_down(alice.link);
    assert_eq!(next(&world, app), Some((expires, "expires")));
    world.finish();
}

#[test]
fn a_tunnel_without_an_end_has_none() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = BindAsk {
        idle: Some(None),
        ..world.ask("app")
    };
    let app = world.bind(&alice, &ask).unwrap().row.id;
    assert_eq!(next(&world, app), None);
    world.finish();
}

#[test]
fn after_a_restart_of_the_server_the_time_to_return_is_told() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = idler(&mut world, &alice, "app");
    world.link_down(alice.link);
    world.advance(secs(61));
    let away = world.now.wall;
    world.step(6 * DAY + DAY - secs(62));
    world.restart();
    let settled = world.now.wall.plus(lifecycle::SETTLING);
    assert!(away.plus(7 * DAY) < settled);
    assert_eq!(next(&world, app), Some((settled, "offline")));
    world.finish();
}

#[test]
fn a_client_is_told_once_a_minute_how_the_clocks_of_visited_tunnels_stand() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = idler(&mut world, &alice, "app");
    world.opens(&alice, "blog");
    world.live_for(secs(61), &[alice]);
    world.stood.clear();
    for _ in 0..10 {
        world.visited("app");
        world.live_for(secs(5), &[alice]);
    }
    world.live_for(secs(60), &[alice]);
    assert_eq!(world.stood, [app]);
    let standing = world.engine.standing(world.now, app).unwrap();
    assert!(standing.last_seen_at.is_some());
    assert!(standing.idle_left < Some(HOUR));
    world.finish();
}

#[test]
fn the_servers_clock_says_when_a_life_of_some_length_ends() {
    let mut world = World::new();
    let alice = world.connect("alice");
    // The client's clock is a day behind: what it reckons is over already.
    let ask = BindAsk {
        expires_at: Some(world.now.wall.plus(secs(1))),
        expires_in: Some(HOUR),
        ..world.ask("app")
    };
    world.step(secs(2));
    let expires = world.now.wall.plus(HOUR);
    let first = world.bind(&alice, &ask).unwrap();
    assert_eq!(first.row.expires_at, Some(expires));

    world.advance(secs(600));
    let again = world.bind(&alice, &ask).unwrap();
    assert_eq!(again.row.expires_at, Some(expires), "a retry moves nothing");
    world.link_down(alice.link);
    world.restart();
    let link = world.link_up(alice.device);
    let alice = Client { link, ..alice };
    let back = world.bind(&alice, &ask).unwrap();
    assert_eq!(
        back.row.expires_at,
        Some(expires),
        "nor does taking it back"
    );
    world.finish();
}

#[test]
fn a_retry_while_the_first_bind_is_being_written_moves_nothing() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = BindAsk {
        expires_in: Some(HOUR),
        ..world.ask("app")
    };
    let expires = world.now.wall.plus(HOUR);
    world.store = Store::Waits;
    let (first, second) = (world.bind_asked(&alice, &ask), {
        world.step(secs(5));
        world.bind_asked(&alice, &ask)
    });
    world.commits();
    for from in [first, second] {
        let Ok(Answer::Bound(view)) = world.reply(from) else {
            panic!("it was opened");
        };
        assert_eq!(view.row.expires_at, Some(expires));
    }
    world.finish();
}

#[test]
fn no_tunnel_asks_for_more_idle_time_than_the_server_gives() {
    let mut world = World::with(EngineSettings {
        idle_max: Some(2 * HOUR),
        ..settings()
    });
    let alice = world.connect("alice");
    for (idle, declared, want) in [
        (Some(Some(2 * HOUR)), false, Ok(Some(2 * HOUR))),
        (Some(Some(2 * HOUR)), true, Ok(Some(2 * HOUR))),
        (Some(Some(3 * HOUR)), false, Err(())),
        (Some(None), false, Err(())),
        (Some(None), true, Err(())),
        // What nobody asked for is cut to the maximum.
        (None, false, Ok(Some(2 * HOUR))),
        (None, true, Ok(Some(2 * HOUR))),
    ] {
        let ask = BindAsk {
            idle,
            declared,
            ..world.ask("app")
        };
        let got = world.bind(&alice, &ask);
        match (got, want) {
            (Ok(view), Ok(idle)) => {
                assert_eq!(view.row.idle, idle);
                world.closes(&alice, view.row.id).unwrap();
            }
            (Err(err), Err(())) => {
                assert_eq!(err.code(), Code::LimitReached);
                assert!(err.to_string().contains("2h"), "{err}");
            }
            (got, _) => panic!("{idle:?}, declared {declared}: {got:?}"),
        }
    }
    world.finish();
}

#[test]
fn a_new_maximum_leaves_what_was_promised() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = BindAsk {
        idle: Some(None),
        ..world.ask("app")
    };
    world.bind(&alice, &ask).unwrap();
    let settings = EngineSettings {
        idle_max: Some(HOUR),
        ..settings()
    };
    world.handle(Event::Reloaded { settings });
    assert_eq!(world.bind(&alice, &ask).unwrap().row.idle, None);
    world.finish();
}

#[test]
fn what_one_user_ends_without_end_does_not_grow_the_disk() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.closes(&alice, app).unwrap();
    let row = world.disk.tunnel(app).unwrap().clone();
    let most = lifecycle::ENDED_PER_USER as u64;
    for number in 0..most {
        world.disk.put(TunnelRow {
            id: TunnelId::from_bytes(bytes(number | 1 << 40)),
            slug: slug(&format!("app{number}")),
            ..row.clone()
        });
    }
    // At the start nothing is written for them: that is left to the pruning.
    world.restart();
    assert_eq!(world.disk.snapshot().tunnels.len() as u64, most + 1);
    let link = world.link_up(alice.device);
    let alice = Client { link, ..alice };
    for _ in 0..3 {
        let app = world.opens(&alice, "app");
        assert_eq!(world.disk.snapshot().tunnels.len() as u64, most + 2);
        world.closes(&alice, app).unwrap();
        assert_eq!(world.disk.snapshot().tunnels.len() as u64, most + 1);
    }
    world.finish();
}

#[test]
fn two_links_of_one_device_that_race_leave_one_with_the_tunnels() {
    for older_first in [true, false] {
        let mut world = World::new();
        let alice = world.connect("alice");
        let ask = world.ask("app");
        let app = world.bind(&alice, &ask).unwrap().row.id;
        world.link_down(alice.link);
        // Both were dialled before either was up; they arrive in any order.
        let (older, newer) = (link(world.number()), link(world.number()));
        let (first, second) = if older_first {
            (older, newer)
        } else {
            (newer, older)
        };
        world.link_up_as(alice.device, first);
        world.link_up_as(alice.device, second);
        assert_eq!(world.cut, [(older, Code::Superseded)]);
        let (loser, winner) = (
            Client {
                link: older,
                ..alice
            },
            Client {
                link: newer,
                ..alice
            },
        );
        // Both take the tunnel back, the loser last: it is told that it is none any more.
        assert_eq!(world.bind(&winner, &ask).unwrap().row.id, app);
        assert_eq!(world.bind(&loser, &ask), Err(AskError::Superseded));
        assert_eq!(world.closes(&loser, app), Err(AskError::Superseded));
        // Whatever the loser still says or does moves nothing.
        world.heard(older);
        world.handle(Event::LinkAsleep { link: older });
        world.link_down(older);
        assert_eq!(world.passes("app").link, newer);
        world.finish();
    }
}

/// Every arrow of the picture of a tunnel's life, from each state that it leaves.
#[test]
fn every_arrow_of_a_tunnels_life_leads_where_it_should() {
    /// How it gets into a state, from open.
    fn into(world: &mut World, alice: &Client, state: &str) {
        match state {
            "open" => {}
            "held" => world.link_down(alice.link),
            "offline" => {
                world.link_down(alice.link);
                world.advance(secs(11));
            }
            other => panic!("{other}"),
        }
    }
    fn back(world: &mut World, alice: &Client) -> Client {
        Client {
            link: world.link_up(alice.device),
            ..*alice
        }
    }
    type Arrow = fn(&mut World, &Client, TunnelId);
    let arrows: [(&str, &str, &str, Arrow); 14] = [
        ("open", "link lost", "held", |w, a, _| w.link_down(a.link)),
        ("open", "silence", "held", |w, _, _| w.advance(secs(16))),
        ("held", "hold over", "offline", |w, _, _| {
            w.advance(secs(11));
        }),
        ("held", "link back", "open", |w, a, _| {
            back(w, a);
        }),
        ("offline", "link back", "open", |w, a, _| {
            back(w, a);
        }),
        ("open", "close", "closed", |w, a, id| {
            w.closes(a, id).unwrap();
        }),
        ("held", "close", "closed", |w, _, id| {
            w.operator_closes(id).unwrap();
        }),
        ("offline", "close", "closed", |w, _, id| {
            w.operator_closes(id).unwrap();
        }),
        ("open", "idle", "closed", |w, a, _| w.live_for(HOUR, &[*a])),
        ("offline", "client gone", "closed", |w, _, _| {
            w.advance(7 * DAY);
        }),
        ("open", "expires_at", "expired", |w, a, _| {
            let wall = w.now.wall.plus(8 * DAY);
            w.set_wall(wall);
            w.live_for(secs(31), &[*a]);
        }),
        ("held", "expires_at", "expired", |w, _, _| {
            let wall = w.now.wall.plus(8 * DAY);
            w.set_wall(wall);
            w.wake();
        }),
        ("offline", "expires_at", "expired", |w, _, _| {
            let wall = w.now.wall.plus(8 * DAY);
            w.set_wall(wall);
            w.wake();
        }),
        ("offline", "restart, link back", "open", |w, a, _| {
            w.restart();
            back(w, a);
        }),
    ];
    for (from, arrow, to, go) in arrows {
        let mut world = World::new();
        let alice = world.connect("alice");
        // Only what expires has a time: absence alone would end it sooner.
        let ask = BindAsk {
            expires_in: (arrow == "expires_at").then_some(6 * DAY),
            idle: Some(Some(HOUR)),
            ..world.ask("app")
        };
        let app = world.bind(&alice, &ask).unwrap().row.id;
        into(&mut world, &alice, from);
        assert_eq!(world.state("app"), from, "before {arrow}");
        go(&mut world, &alice, app);
        assert_eq!(world.state("app"), to, "{from}, {arrow}");
        world.finish();
    }
}
