//! A tunnel's life is changed: longer, shorter, never and back, within the server's ceilings.

use super::limits::Ceiling;
use super::policy::Policy;
use super::*;

fn life(edit: impl FnOnce(&mut LifeAsk)) -> LifeAsk {
    let mut life = LifeAsk::default();
    edit(&mut life);
    life
}

fn expires(lives: Option<Duration>) -> LifeAsk {
    life(|life| life.expires_in = Some(lives))
}

impl World {
    fn changes(&mut self, client: &Client, tunnel: TunnelId, life: LifeAsk) -> Outcome {
        let from = self.over(client);
        let ask = SetAsk {
            tunnel,
            policy: None,
            parts: Vec::new(),
            life,
        };
        self.handle(Event::SetAsked { from, ask });
        self.reply(from)
    }

    fn row(&self, key: &str) -> TunnelRow {
        self.engine.tunnel(key).unwrap().row
    }
}

#[test]
fn a_life_gets_longer_or_shorter_and_ends_when_it_says() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    assert_eq!(world.row("app").expires_at, None);
    world.changes(&alice, app, expires(Some(HOUR))).unwrap();
    let first = world.now.wall.plus(HOUR);
    assert_eq!(world.row("app").expires_at, Some(first));
    world.advance(HOUR - secs(1));
    world.changes(&alice, app, expires(Some(2 * HOUR))).unwrap();
    world.advance(HOUR);
    world.heard(alice.link);
    assert_eq!(world.state("app"), "open", "the first end has passed");
    world.restart();
    assert_eq!(
        world.disk.tunnel(app).unwrap().expires_at,
        world.row("app").expires_at
    );
    let alice = world.connect("alice-again");
    let web = world.opens(&alice, "web");
    world.changes(&alice, web, expires(Some(HOUR))).unwrap();
    world.changes(&alice, web, expires(Some(secs(5)))).unwrap();
    let visit = world.passes("web").visit;
    world.advance(secs(5));
    assert_eq!(world.state("web"), "expired");
    assert!(world.cut_visits.contains(&web));
    let outcome = world.changes(&alice, web, expires(Some(HOUR)));
    assert_eq!(
        outcome,
        Err(AskError::Ended { expired: true }),
        "nothing is revived"
    );
    let lines = world.disk.tunnel_lines();
    let line = format!("tunnel.set app expires {first}");
    assert!(lines.contains(&line), "{lines:?}");
    world.ends(visit);
}

#[test]
fn an_end_can_be_taken_away_where_the_server_allows_it() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.changes(&alice, app, expires(Some(secs(9)))).unwrap();
    world.changes(&alice, app, expires(None)).unwrap();
    world.advance(HOUR);
    world.heard(alice.link);
    assert_eq!(
        (world.state("app"), world.row("app").expires_at),
        ("open", None)
    );
    let outcome = world.changes(&alice, app, expires(Some(Duration::ZERO)));
    assert_eq!(outcome, Err(AskError::AlreadyExpired));
    world.finish();
}

#[test]
fn the_ceilings_are_those_of_an_opening_and_nothing_changes_beyond_them() {
    let mut settings = settings();
    settings.limits.expiry_max = Some(DAY);
    settings.idle_max = Some(2 * HOUR);
    settings.hold_max = secs(60);
    let mut world = World::with(settings);
    let (alice, mallory) = (world.connect("alice"), world.connect("mallory"));
    let app = world.opens(&alice, "app");
    let before = world.row("app");
    let over = || AskError::LimitReached {
        what: Ceiling::Expiry,
        max: "1d".into(),
    };
    let labels = |count: usize| (0..count).map(|n| (n.to_string(), "x".into())).collect();
    for (asked, error) in [
        (expires(Some(DAY + secs(1))), over()),
        (expires(None), over()),
        (
            life(|life| life.idle = Some(Some(2 * HOUR + secs(1)))),
            AskError::IdleTooLong { max: 2 * HOUR },
        ),
        (
            life(|life| life.idle = Some(None)),
            AskError::IdleTooLong { max: 2 * HOUR },
        ),
        (
            life(|life| life.hold = Some(secs(61))),
            AskError::HoldTooLong { max: secs(60) },
        ),
        (
            life(|life| life.labels = Some(labels(17))),
            AskError::Labels,
        ),
        // What is allowed does not go through alone.
        (
            life(|life| {
                life.expires_in = Some(Some(HOUR));
                life.hold = Some(secs(61));
            }),
            AskError::HoldTooLong { max: secs(60) },
        ),
    ] {
        assert_eq!(world.changes(&alice, app, asked), Err(error));
        assert_eq!(world.row("app"), before);
    }
    let none = AskError::NotFound {
        what: app.to_string(),
    };
    assert_eq!(world.changes(&mallory, app, expires(Some(HOUR))), Err(none));
    for asked in [
        expires(Some(DAY)),
        life(|life| life.idle = Some(Some(2 * HOUR))),
        life(|life| life.hold = Some(secs(60))),
        life(|life| life.labels = Some(labels(16))),
    ] {
        world.changes(&alice, app, asked).unwrap();
    }
    let row = world.row("app");
    assert_eq!(
        (row.idle, row.hold, row.labels.len()),
        (Some(2 * HOUR), secs(60), 16)
    );
    assert_eq!(row.policy_version, 1, "its policy did not change");
    world.finish();
}

#[test]
fn a_new_idle_time_is_counted_from_now() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    for _ in 0..10 {
        world.advance(HOUR);
        world.heard(alice.link);
    }
    let idle = |time| life(|life| life.idle = Some(time));
    world.changes(&alice, app, idle(Some(secs(30)))).unwrap();
    world.advance(secs(14));
    world.heard(alice.link);
    world.changes(&alice, app, idle(Some(secs(30)))).unwrap();
    world.advance(secs(14));
    world.heard(alice.link);
    world.advance(secs(14));
    world.heard(alice.link);
    assert_eq!(world.state("app"), "open");
    world.advance(secs(3));
    assert_eq!(world.state("app"), "closed");
    let web = world.opens(&alice, "web");
    world.changes(&alice, web, idle(None)).unwrap();
    for _ in 0..50 {
        world.advance(HOUR);
        world.heard(alice.link);
    }
    assert_eq!(world.state("web"), "open");
}

#[test]
fn a_new_hold_is_for_those_who_wait_too() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.link_down(alice.link);
    let (waits, admission) = world.visit("app");
    assert_eq!(admission, Ok(Admission::Hold));
    world.advance(secs(3));
    let from = world.admin();
    let ask = SetAsk {
        tunnel: app,
        policy: Some(Policy::default()),
        parts: Vec::new(),
        life: life(|life| life.hold = Some(secs(20))),
    };
    world.handle(Event::SetAsked { from, ask });
    world.reply(from).unwrap();
    world.advance(secs(16));
    assert_eq!(world.state("app"), "held");
    world.advance(secs(2));
    assert_eq!(world.state("app"), "offline");
    assert!(world.released.contains_key(&waits));
}
