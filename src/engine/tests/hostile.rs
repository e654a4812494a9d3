//! Users and visitors who mean harm: what they take is bounded, and taken from themselves.

use super::policy::Policy;
use super::policy::share::ShareRow;
use super::*;
use crate::engine::sharing::{PER_TUNNEL, PER_USER};
use crate::names::ShareId;

impl World {
    fn opens_for_shares(&mut self, client: &Client, name: &str) -> TunnelId {
        let ask = BindAsk {
            policy: Policy::parse(r#"{"share":"allowed"}"#).unwrap(),
            ..self.ask(name)
        };
        self.bind(client, &ask).expect("it was opened").row.id
    }

    fn share_asked(&mut self, client: &Client, tunnel: TunnelId, valid: Duration) -> Outcome {
        let id = ShareId::from_bytes(bytes(self.number()));
        let from = self.over(client);
        let ask = ShareAsk {
            id,
            tunnel,
            methods: Vec::new(),
            paths: Vec::new(),
            uses: Some(1),
            expires_at: self.now.wall.plus(valid),
        };
        // Not `handle`: a check of the whole world after each of thousands takes its time.
        self.engine
            .handle(self.now, Event::ShareAsked { from, ask });
        self.drain_actions();
        self.reply(from)
    }

    fn drain_actions(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.carry_out(action);
            if self.store != Store::Waits {
                self.commit_all();
            }
        }
    }

    /// So many more, good for an hour, that are there already.
    fn fills(&mut self, client: &Client, tunnel: TunnelId, many: usize) {
        for _ in 0..many {
            let id = ShareId::from_bytes(bytes(self.number()));
            self.engine.load_share(ShareRow {
                id,
                tunnel,
                device: client.device,
                methods: Vec::new(),
                paths: Vec::new(),
                uses_left: None,
                created_at: self.now.wall,
                expires_at: self.now.wall.plus(HOUR),
                revoked_at: None,
            });
        }
    }

    fn made(&mut self, client: &Client, tunnel: TunnelId, valid: Duration) -> ShareId {
        match self.share_asked(client, tunnel, valid) {
            Ok(Answer::Shared(row)) => row.id,
            other => panic!("{other:?}"),
        }
    }

    fn withdraws(&mut self, client: &Client, share: ShareId) -> Outcome {
        let from = self.over(client);
        self.handle(Event::UnshareAsked { from, share });
        self.reply(from)
    }

    fn opens_share(&mut self, share: ShareId) -> Outcome {
        let call = self.number();
        let from = Requester::Edge { call, peer: peer() };
        self.handle(Event::RedeemAsked { from, share });
        self.reply(from)
    }

    fn sets_idle(&mut self, from: Requester, tunnel: TunnelId, idle: Duration) -> Outcome {
        let ask = SetAsk {
            tunnel,
            policy: None,
            parts: Vec::new(),
            life: LifeAsk {
                idle: Some(Some(idle)),
                ..LifeAsk::default()
            },
        };
        self.handle(Event::SetAsked { from, ask });
        self.reply(from)
    }
}

#[test]
fn a_withdrawn_share_link_worked_again_after_a_restart_when_a_new_one_took_its_room() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_for_shares(&alice, "app");
    let withdrawn = world.made(&alice, app, HOUR);
    world.fills(&alice, app, PER_TUNNEL - 1);
    world.store = Store::Fails(Code::DiskFull);
    assert!(
        world.withdraws(&alice, withdrawn).is_err(),
        "it is in force"
    );
    assert!(world.share_asked(&alice, app, HOUR).is_err());
    world.store = Store::Commits;
    world.advance(secs(60));
    world.restart();
    assert_eq!(world.opens_share(withdrawn), Err(AskError::ShareOver));
    world.finish();
}

#[test]
fn used_share_links_made_room_and_who_was_in_was_out() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_for_shares(&alice, "app");
    let used = world.made(&alice, app, 2 * HOUR);
    assert!(matches!(world.opens_share(used), Ok(Answer::Redeemed(_))));
    world.fills(&alice, app, PER_TUNNEL - 1);
    let full = world.share_asked(&alice, app, HOUR);
    assert!(matches!(full, Err(AskError::Policy { .. })), "{full:?}");
    assert!(world.engine.share_row(used).is_some());
    // What is over for everybody makes room.
    world.advance(HOUR);
    world.made(&alice, app, HOUR);
    assert!(world.engine.share_row(used).is_some());
    assert_eq!(world.engine.shares(app).count(), PER_TUNNEL);
    world.finish();
}

#[test]
fn share_links_were_bounded_for_each_tunnel_and_not_for_their_user() {
    let mut world = World::with(EngineSettings {
        tunnels_per_device: 10,
        ..settings()
    });
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    for n in 0..PER_USER / PER_TUNNEL {
        let tunnel = world.opens_for_shares(&alice, &format!("app{n}"));
        world.fills(&alice, tunnel, PER_TUNNEL - 1);
        world.made(&alice, tunnel, HOUR);
    }
    let more = world.opens_for_shares(&alice, "more");
    let full = world.share_asked(&alice, more, HOUR);
    assert!(matches!(full, Err(AskError::Policy { .. })), "{full:?}");
    let own = world.opens_for_shares(&bob, "own");
    world.made(&bob, own, HOUR);
    world.finish();
}

#[test]
fn changes_that_the_disk_refused_grew_without_end() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens(&alice, "app");
    world.store = Store::Fails(Code::DiskFull);
    let mut outcomes = Vec::new();
    for n in 0..1000 {
        let from = world.over(&alice);
        outcomes.push(world.sets_idle(from, app, HOUR + secs(n)));
    }
    assert_eq!(world.engine.restrictions.len(), 1);
    assert!(matches!(outcomes[0], Err(AskError::Store { .. })));
    assert_eq!(outcomes.pop(), Some(Err(AskError::Busy)));
    // The operator is never kept from it, nor an end from being one.
    let admin = world.admin();
    let asked = world.sets_idle(admin, app, 2 * HOUR);
    assert!(matches!(asked, Err(AskError::Store { .. })), "{asked:?}");
    assert!(matches!(
        world.closes(&alice, app),
        Err(AskError::Store { .. })
    ));
    assert_eq!(world.state("app"), "closed");
    world.store = Store::Commits;
    world.advance(secs(60));
    assert!(world.engine.restrictions.is_empty());
    let lines = world.disk.tunnel_lines();
    let sets = lines.iter().filter(|line| line.starts_with("tunnel.set"));
    assert!(sets.count() > 2, "each that was in force is told of");
    world.finish();
}

#[test]
fn one_user_filled_the_hold_of_everybody() {
    let mut world = World::with(EngineSettings {
        held_visits: 4,
        held_visits_total: 100,
        held_memory_per_user: 30,
        held_memory_total: 100,
        ..settings()
    });
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    for n in 0..4 {
        world.opens(&alice, &format!("app{n}"));
    }
    world.opens(&bob, "own");
    for client in [alice, bob] {
        world.link_down(client.link);
    }
    let mut waits = |name: &str| {
        let visit = Visit {
            bytes: 10,
            ..world.visit_to(name)
        };
        matches!(world.asks_in(name, visit).1, Ok(Admission::Hold))
    };
    let held: Vec<bool> = (0..4).map(|n| waits(&format!("app{n}"))).collect();
    assert_eq!(held, [true, true, true, false]);
    assert!(waits("own"));
    world.finish();
}

#[test]
fn slow_name_servers_of_one_user_kept_the_proofs_of_others_from_being_seen() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let mut asks = Vec::new();
    for (client, name, count) in [(alice, "app", 9), (bob, "own", 1)] {
        let domains = (0..count).map(|n| format!("n{n}.{name}.example.org").parse().unwrap());
        let ask = BindAsk {
            domains: Some(domains.collect()),
            ..world.ask(name)
        };
        asks.push((client, ask));
    }
    let mut looks = Vec::new();
    for (client, ask) in asks {
        let (from, proposals) = (world.over(&client), Vec::new());
        let asked = Event::BindAsked {
            from,
            ask,
            proposals,
        };
        world.engine.handle(world.now, asked);
    }
    // Nobody answers a look.
    let mut go_on = |world: &mut World| {
        for _ in 0..60 {
            world.step(secs(1));
            world.engine.handle_timeout(world.now);
            while let Some(action) = world.engine.poll_action() {
                match action {
                    Action::LookUp { domain, .. } => looks.push(domain),
                    action => world.carry_out(action),
                }
                world.commit_all();
            }
        }
        let of_bob = |domain: &&Domain| domain.to_string().contains("own");
        let bobs = looks.iter().filter(of_bob).count();
        (looks.len() - bobs, bobs, looks[0].clone())
    };
    let (alices, bobs, first) = go_on(&mut world);
    assert_eq!((alices, bobs), (2, 1));
    let found = Ok(Vec::new());
    world.handle(Event::LookedUp {
        domain: first,
        found,
    });
    let (alices, bobs, _) = go_on(&mut world);
    assert_eq!((alices, bobs), (3, 1), "as one ends the next begins");
    for domain in looks {
        let found = Ok(Vec::new());
        world.handle(Event::LookedUp { domain, found });
    }
    world.finish();
}

#[test]
fn policies_of_tunnels_that_are_over_filled_the_memory() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let paths: Vec<String> = (0..60)
        .map(|n| format!("/{n}{}", "x".repeat(250)))
        .collect();
    let text = serde_json::json!({ "deny_paths": paths }).to_string();
    let fits = lifecycle::ENDED_BYTES_PER_USER / text.len();
    world.opens(&alice, "first");
    let first = world.open_tunnels()[0];
    world.closes(&alice, first).unwrap();
    for n in 0..=fits {
        let ask = BindAsk {
            policy: Policy::parse(&text).unwrap(),
            ..world.ask(&format!("app{n}"))
        };
        let tunnel = ask.tunnel;
        world.bind(&alice, &ask).unwrap();
        world.closes(&alice, tunnel).unwrap();
    }
    assert_eq!(world.state("first"), "none");
    assert_eq!(world.state(&format!("app{fits}")), "closed");
    assert!(world.engine.tunnels().count() <= fits + 1);
    world.finish();
}
