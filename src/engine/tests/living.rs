//! Every arrow of a tunnel's life: open, held, offline, open again, closed, expired.

use super::*;

fn expired(tunnel: &str) -> Refusal {
    Refusal::Expired {
        tunnel: slug(tunnel),
    }
}

fn closed(tunnel: &str) -> Refusal {
    Refusal::Closed {
        tunnel: slug(tunnel),
    }
}

fn no_route(label: &str) -> Refusal {
    Refusal::NoRoute { host: label.into() }
}

#[test]
fn a_link_that_goes_and_returns_leaves_the_tunnel_what_it_was() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    assert_eq!(world.state("app"), "open");
    world.link_down(alice.link);
    assert_eq!(world.state("app"), "held");
    world.advance(secs(10));
    assert_eq!(world.state("app"), "offline");
    world.link_up(alice.device);
    assert_eq!(world.state("app"), "open");
    assert_eq!(world.passes("app").tunnel, app);
    world.finish();
}

#[test]
fn a_name_nobody_ever_had_leads_nowhere() {
    let mut world = World::new();
    for label in ["app", "", "UPPER", "a--b"] {
        assert_eq!(world.refused(label), no_route(label));
    }
    world.finish();
}

#[test]
fn a_closed_tunnel_is_gone_for_a_week_and_then_none() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    let visit = world.passes("app").visit;
    assert_eq!(world.closes(&alice, app), Ok(Answer::Closed));
    assert!(world.cut_visits.contains(&app));
    assert_eq!(world.told, [], "who asked need not be told");
    assert_eq!(world.refused("app"), closed("app"));
    assert_eq!(world.state("app"), "closed");
    world.ends(visit);
    world.step(7 * DAY - secs(1));
    assert_eq!(world.refused("app"), closed("app"));
    world.step(secs(1));
    assert_eq!(world.refused("app"), no_route("app"));
    assert_eq!(world.engine.tunnels().count(), 0);
    assert_eq!(
        world.disk.tunnel_lines(),
        ["tunnel.open app", "tunnel.close app asked"]
    );
    world.finish();
}

#[test]
fn closing_twice_is_harmless() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    for _ in 0..2 {
        assert_eq!(world.closes(&alice, app), Ok(Answer::Closed));
        assert_eq!(world.operator_closes(app), Ok(Answer::Closed));
    }
    assert_eq!(world.disk.tunnel_lines().len(), 2);
    world.finish();
}

#[test]
fn nobody_closes_anothers_tunnel_or_learns_of_it() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let app = world.opens(&alice, "app");
    let none = TunnelId::from_bytes([9; 16]);
    for tunnel in [app, none] {
        let what = tunnel.to_string();
        let error = Err(AskError::NotFound { what });
        assert_eq!(world.closes(&bob, tunnel), error);
    }
    let what = none.to_string();
    assert_eq!(
        world.operator_closes(none),
        Err(AskError::NotFound { what })
    );
    assert_eq!(world.state("app"), "open");
    world.finish();
}

#[test]
fn the_operator_closes_and_the_owner_is_told() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.operator_closes(app).unwrap();
    assert_eq!(world.told, [(alice.link, app, Code::TunnelClosed)]);
    let line = *world.disk.lines().last().unwrap();
    let operator = Actor::Operator { uid: 1000 };
    assert_eq!(line, (operator, "tunnel.close", "app asked"));
    world.finish();
}

#[test]
fn a_tunnel_expires_at_its_time_by_itself() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    let at = world.now.wall.plus(secs(1800));
    ask.expires_at = Some(at);
    let app = world.bind(&alice, &ask).unwrap().row.id;
    let visit = world.passes("app").visit;
    world.live_for(secs(1799), &[alice]);
    world.visited("app");
    world.advance(secs(1));
    assert!(world.cut_visits.contains(&app));
    assert_eq!(world.told, [(alice.link, app, Code::TunnelExpired)]);
    let row = world.disk.tunnel(app).unwrap();
    assert_eq!((row.state, row.ended_at), (TunnelState::Expired, Some(at)));
    let line = *world.disk.lines().last().unwrap();
    assert_eq!(line, (Actor::Engine, "tunnel.expire", "app expired"));
    assert_eq!(world.refused("app"), expired("app"));
    world.ends(visit);
    world.finish();
}

#[test]
fn due_is_expired_even_if_no_timer_ran_and_stays_so_when_the_clock_steps_back() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    let opened = world.now.wall;
    ask.expires_at = Some(opened.plus(secs(60)));
    world.bind(&alice, &ask).unwrap();
    world.set_wall(opened.plus(secs(60)));
    assert_eq!(world.refused("app"), expired("app"));
    world.set_wall(opened);
    assert_eq!(world.refused("app"), expired("app"));
    let ended = AskError::Ended { expired: true };
    assert_eq!(world.bind(&alice, &ask), Err(ended));
    world.finish();
}

#[test]
fn a_step_of_the_wall_clock_is_noticed_without_a_visit() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.expires_at = Some(world.now.wall.plus(HOUR));
    world.bind(&alice, &ask).unwrap();
    world.set_wall(world.now.wall.plus(HOUR));
    world.advance(secs(30));
    assert_eq!(world.state("app"), "expired");
    world.finish();
}

#[test]
fn a_clock_that_is_set_back_an_hour_revives_nothing_and_ends_nothing() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let opened = world.now.wall;
    for (name, after) in [("old", secs(60)), ("app", 3 * HOUR)] {
        let mut ask = world.ask(name);
        ask.expires_at = Some(opened.plus(after));
        world.bind(&alice, &ask).unwrap();
    }
    world.live_for(secs(60), &[alice]);
    assert_eq!(world.state("old"), "expired");
    let right = world.now.wall;
    world.set_wall(WallTime::from_millis(
        right.as_millis() - i64::try_from(HOUR.as_millis()).unwrap(),
    ));
    world.live_for(secs(30), &[alice]);
    assert_eq!(world.refused("old"), expired("old"));
    world.visited("app");
    world.restart();
    assert_eq!(world.refused("old"), expired("old"));
    world.set_wall(right);
    world.advance(secs(30));
    assert_ne!(world.state("app"), "expired");
    world.set_wall(opened.plus(3 * HOUR));
    assert_eq!(world.refused("app"), expired("app"));
    world.finish();
}

#[test]
fn expiry_comes_while_the_client_is_away_too() {
    for away in [secs(1), secs(20)] {
        let mut world = World::new();
        let alice = world.connect("alice");
        let mut ask = world.ask("app");
        ask.expires_at = Some(world.now.wall.plus(secs(60)));
        world.bind(&alice, &ask).unwrap();
        world.advance(secs(60) - away);
        world.link_down(alice.link);
        world.advance(away);
        assert_eq!(world.state("app"), "expired");
        world.link_up(alice.device);
        assert_eq!(world.refused("app"), expired("app"));
        world.finish();
    }
}

#[test]
fn neither_reconnects_nor_restarts_move_the_expiry() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.expires_at = Some(world.now.wall.plus(secs(60)));
    world.bind(&alice, &ask).unwrap();
    world.step(secs(30));
    world.restart();
    let link = world.link_up(alice.device);
    let alice = Client { link, ..alice };
    let view = world.bind(&alice, &ask).unwrap();
    assert_eq!(view.row.expires_at, ask.expires_at);
    world.step(secs(29));
    world.heard(alice.link);
    world.visited("app");
    // The server sleeps through the time itself.
    world.step(secs(3600));
    world.restart();
    assert_eq!(world.refused("app"), expired("app"));
    let row = world.disk.tunnel(ask.tunnel).unwrap();
    assert_eq!(row.ended_at, ask.expires_at);
    world.finish();
}

#[test]
fn a_tunnel_nobody_visits_closes_as_idle() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(Some(HOUR));
    let app = world.bind(&alice, &ask).unwrap().row.id;
    world.live_for(HOUR - secs(10), &[alice]);
    world.visited("app");
    world.live_for(HOUR - secs(10), &[alice]);
    assert_eq!(world.state("app"), "open", "a visit starts it anew");
    world.advance(secs(10));
    assert_eq!(world.state("app"), "closed");
    assert_eq!(world.told, [(alice.link, app, Code::TunnelClosed)]);
    let line = *world.disk.lines().last().unwrap();
    assert_eq!(line, (Actor::Engine, "tunnel.close", "app idle"));
    world.finish();
}

#[test]
fn a_visit_in_progress_is_never_idle() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(Some(HOUR));
    world.bind(&alice, &ask).unwrap();
    let visit = world.passes("app").visit;
    world.live_for(5 * HOUR, &[alice]);
    assert_eq!(world.state("app"), "open");
    world.ends(visit);
    let seen = world.engine.tunnel("app").unwrap().row.last_seen_at;
    assert_eq!(seen, Some(world.now.wall));
    world.live_for(HOUR - secs(10), &[alice]);
    assert_eq!(world.state("app"), "open");
    world.advance(secs(10));
    assert_eq!(world.state("app"), "closed");
    world.finish();
}

#[test]
fn one_visit_of_two_in_progress_is_enough() {
    let mut world = World::new();
    let mut alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(Some(HOUR));
    world.bind(&alice, &ask).unwrap();
    let long = world.passes("app").visit;
    world.visited("app");
    world.live_for(2 * HOUR, &[alice]);
    assert_eq!(world.state("app"), "open");
    alice.link = world.link_up(alice.device);
    world.live_for(2 * HOUR, &[alice]);
    assert_eq!(world.state("app"), "open");
    world.ends(long);
    world.finish();
}

#[test]
fn idleness_stands_still_while_the_client_is_away_and_survives_a_restart() {
    let mut world = World::new();
    let mut alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(Some(HOUR));
    world.bind(&alice, &ask).unwrap();
    world.live_for(HOUR / 2, &[alice]);
    world.link_down(alice.link);
    world.advance(5 * HOUR);
    assert_eq!(world.state("app"), "offline");
    world.restart();
    alice.link = world.link_up(alice.device);
    world.live_for(HOUR / 2 - secs(10), &[alice]);
    assert_eq!(world.state("app"), "open");
    world.advance(secs(10));
    assert_eq!(world.state("app"), "closed");
    world.finish();
}

#[test]
fn a_dormant_client_does_not_make_its_tunnel_idle() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(Some(secs(60)));
    world.bind(&alice, &ask).unwrap();
    // Fifteen seconds until it counts as dormant, and no more.
    world.advance(HOUR);
    world.heard(alice.link);
    let spent = world.engine.tunnel("app").unwrap().row.idle_spent;
    assert_eq!(spent, secs(15));
    world.live_for(secs(40), &[alice]);
    assert_eq!(world.state("app"), "open");
    world.advance(secs(5));
    assert_eq!(world.state("app"), "closed");
    world.finish();
}

#[test]
fn a_crash_loses_little_of_the_idleness() {
    let mut world = World::new();
    let mut alice = world.connect("alice");
    world.opens(&alice, "app");
    for _ in 0..3 {
        world.live_for(8 * HOUR, &[alice]);
        world.restart();
        alice.link = world.link_up(alice.device);
    }
    assert_eq!(world.state("app"), "open");
    world.live_for(5 * HOUR, &[alice]);
    assert_eq!(world.state("app"), "closed");
    world.finish();
}

#[test]
fn a_tunnel_whose_client_is_gone_for_long_closes() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.declared = true;
    world.bind(&alice, &ask).unwrap();
    world.link_down(alice.link);
    world.step(7 * DAY - secs(1));
    world.wake();
    assert_eq!(world.state("app"), "offline");
    world.step(secs(1));
    world.wake();
    assert_eq!(world.state("app"), "closed");
    let line = *world.disk.lines().last().unwrap();
    assert_eq!(line, (Actor::Engine, "tunnel.close", "app client gone"));
    world.finish();
}

#[test]
fn a_return_starts_the_absence_anew_and_a_dormant_client_is_absent() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let mut ask = world.ask("app");
    ask.idle = Some(None);
    let app = world.bind(&alice, &ask).unwrap().row.id;
    world.step(6 * DAY);
    world.heard(alice.link);
    assert_eq!(world.state("app"), "open");
    world.step(secs(15) + 7 * DAY - secs(1));
    world.wake();
    assert_eq!(world.state("app"), "offline");
    world.step(secs(1));
    world.wake();
    assert_eq!(world.state("app"), "closed");
    // The link is still there, and reads it when it wakes.
    assert_eq!(world.told, [(alice.link, app, Code::TunnelClosed)]);
    world.finish();
}

#[test]
fn after_a_long_outage_of_the_server_clients_get_time_to_return() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.link_down(alice.link);
    world.advance(secs(120));
    assert!(world.disk.snapshot().tunnels[0].away_since.is_some());
    world.step(30 * DAY);
    world.restart();
    world.advance(secs(299));
    world.link_up(alice.device);
    world.advance(secs(2));
    assert_eq!(world.state("app"), "open");
    world.finish();
}

#[test]
fn new_settings_hold_for_what_comes() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    let settings = EngineSettings {
        idle: Some(HOUR),
        hold: secs(3),
        offline_max: DAY,
        ..settings()
    };
    world.handle(Event::Reloaded { settings });
    let row = world.engine.tunnel("app").unwrap().row;
    assert_eq!((row.id, row.idle, row.hold), (app, Some(DAY), secs(10)));
    world.opens(&alice, "web");
    let row = world.engine.tunnel("web").unwrap().row;
    assert_eq!((row.idle, row.hold), (Some(HOUR), secs(3)));
    world.link_down(alice.link);
    world.step(DAY);
    world.wake();
    assert_eq!(world.state("app"), "closed");
    world.finish();
}

#[test]
fn what_visits_change_is_written_once_a_minute_in_one_commit() {
    let mut world = World::new();
    let alice = world.connect("alice");
    for name in ["a", "b", "c"] {
        world.opens(&alice, name);
    }
    let commits = world.disk.commits;
    for _ in 0..100 {
        for name in ["a", "b", "c"] {
            world.visited(name);
        }
        world.advance(Duration::from_millis(500));
        world.heard(alice.link);
    }
    assert_eq!(world.disk.commits, commits);
    let seen = world.now.wall;
    world.advance(secs(10));
    assert_eq!(world.disk.commits, commits + 1);
    for row in world.disk.snapshot().tunnels {
        assert!(row.last_seen_at.is_some_and(|at| seen.since(at) < secs(1)));
    }
    world.finish();
}

#[test]
fn a_shutdown_writes_what_was_seen() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.visited("app");
    let seen = world.now.wall;
    world.step(secs(7));
    world.engine.flush_seen(world.now);
    world.pump();
    let row = world.disk.tunnel(app).unwrap();
    assert_eq!((row.last_seen_at, row.idle_spent), (Some(seen), secs(7)));
    world.finish();
}

#[test]
fn the_name_of_an_ended_tunnel_shows_the_open_one_first() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let first = world.opens(&alice, "app");
    world.closes(&alice, first).unwrap();
    assert_eq!(world.engine.tunnel("app").unwrap().row.id, first);
    let second = world.opens(&alice, "app");
    assert_eq!(world.engine.tunnel("app").unwrap().row.id, second);
    world.closes(&alice, second).unwrap();
    assert_eq!(world.engine.tunnel("app").unwrap().row.id, second);
    let by_id = world.engine.tunnel(&first.to_string()).unwrap();
    assert_eq!(by_id.state, "closed");
    world.restart();
    assert_eq!(world.engine.tunnels().count(), 2);
    assert_eq!(world.refused("app"), closed("app"));
    world.finish();
}

#[test]
fn a_name_that_ended_twice_is_kept_from_its_latest_end() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let first = world.opens(&alice, "app");
    world.closes(&alice, first).unwrap();
    world.step(3 * DAY);
    let second = world.opens(&alice, "app");
    world.closes(&alice, second).unwrap();
    world.step(5 * DAY);
    assert_eq!(world.refused("app"), closed("app"));
    assert_eq!(world.engine.tunnels().count(), 1);
    let ask = world.ask("app");
    assert!(world.bind(&bob, &ask).is_err());
    world.finish();
}

#[test]
fn a_user_who_ends_tunnels_without_end_is_remembered_within_bounds() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.closes(&alice, app).unwrap();
    let row = world.disk.tunnel(app).unwrap().clone();
    let most = lifecycle::ENDED_PER_USER;
    let mut snapshot = world.disk.snapshot();
    snapshot.tunnels = (0..=most as u64)
        .map(|number| TunnelRow {
            id: TunnelId::from_bytes(bytes(number)),
            slug: slug(&format!("app{number}")),
            ..row.clone()
        })
        .collect();
    let engine = Engine::new(settings(), snapshot, world.now);
    assert_eq!(engine.tunnels().count(), most);
    assert!(engine.tunnel("app0").is_none(), "the oldest is dropped");
    assert!(engine.tunnel("app1").is_some());
    world.finish();
}
