//! What dormant links may cost, and who has to go.

use super::*;

const MIB: u64 = 1 << 20;

fn capped(caps: DormantCaps) -> World {
    World::with(EngineSettings {
        dormant: caps,
        ..settings()
    })
}

fn unlimited() -> DormantCaps {
    settings().dormant
}

/// Falls silent for three keep-alives; the others are heard meanwhile.
fn sleeps(world: &mut World, client: &Client, others: &[Client]) {
    for _ in 0..3 {
        world.advance(secs(5));
        for other in others.iter().filter(|other| other.link != client.link) {
            world.heard(other.link);
        }
    }
}

fn weighs(world: &mut World, client: &Client, bytes: u64) {
    let link = client.link;
    world.handle(Event::LinkWeighs { link, bytes });
}

#[test]
fn links_up_to_the_cap_sleep_and_one_more_costs_the_oldest_its_link() {
    for sleepers in [2_usize, 3, 4] {
        let mut world = capped(DormantCaps {
            links: 3,
            ..unlimited()
        });
        let clients: Vec<Client> = (0..sleepers)
            .map(|n| world.connect(&format!("user-{n}")))
            .collect();
        world.opens(&clients[0], "app");
        for (n, client) in clients.iter().enumerate() {
            sleeps(&mut world, client, &clients[n..]);
        }
        let counts = world.engine.counts();
        let over = sleepers.saturating_sub(3);
        assert_eq!(
            (counts.dormant, counts.links),
            (sleepers - over, sleepers - over)
        );
        assert_eq!(counts.dormant_evicted, over as u64);
        let gone: Vec<_> = clients[..over]
            .iter()
            .map(|client| (client.link, Code::Dormant))
            .collect();
        assert_eq!(world.cut, gone, "the oldest, and nobody else");
        // Nothing of it ends the tunnel.
        assert_eq!(world.state("app"), "offline");
        let back = world.link_up(clients[0].device);
        assert_eq!(world.passes("app").link, back);
        world.finish();
    }
}

#[test]
fn a_user_over_its_own_cap_loses_its_own_oldest() {
    for sleepers in [1_usize, 2, 3] {
        let mut world = capped(DormantCaps {
            links_per_user: 2,
            ..unlimited()
        });
        // The oldest of all is another user's.
        let bob = world.connect("bob");
        let mut clients = vec![bob];
        for n in 0..sleepers {
            clients.push(world.connect_as("alice", &format!("machine-{n}")));
        }
        for (n, client) in clients.iter().enumerate() {
            sleeps(&mut world, client, &clients[n..]);
        }
        let over = sleepers.saturating_sub(2);
        let gone: Vec<_> = clients[1..=over]
            .iter()
            .map(|client| (client.link, Code::Dormant))
            .collect();
        assert_eq!(world.cut, gone);
        assert_eq!(world.engine.counts().dormant, 1 + sleepers - over);
        world.finish();
    }
}

#[test]
fn what_dormant_links_hold_counts_for_the_user_and_in_all() {
    let mut world = capped(DormantCaps {
        memory: 10 * MIB,
        memory_per_user: 4 * MIB,
        ..unlimited()
    });
    let old = world.connect_as("alice", "old");
    let new = world.connect_as("alice", "new");
    let bob = world.connect("bob");
    let clients = [old, new, bob];
    for (n, client) in clients.iter().enumerate() {
        sleeps(&mut world, client, &clients[n..]);
    }
    weighs(&mut world, &old, MIB);
    weighs(&mut world, &new, 3 * MIB);
    assert_eq!(world.cut, [], "as much as the user may");
    weighs(&mut world, &new, 3 * MIB + 1);
    assert_eq!(world.cut, [(old.link, Code::Dormant)], "a byte more");
    // What the closed one held counts no more.
    assert_eq!(world.engine.counts().dormant_bytes, 3 * MIB + 1);
    weighs(&mut world, &new, 4 * MIB);
    weighs(&mut world, &bob, 4 * MIB);
    assert_eq!(world.cut.len(), 1);
    world.handle(Event::Reloaded {
        settings: EngineSettings {
            dormant: DormantCaps {
                memory: 8 * MIB - 1,
                ..world.engine.settings().dormant
            },
            ..world.engine.settings().clone()
        },
    });
    assert_eq!(
        world.cut[1..],
        [(new.link, Code::Dormant)],
        "the oldest in all"
    );
    assert_eq!(world.engine.counts().dormant_bytes, 4 * MIB);
    world.finish();
}

#[test]
fn a_link_that_wakes_costs_nothing_any_more() {
    let mut world = capped(DormantCaps {
        links: 1,
        ..unlimited()
    });
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    sleeps(&mut world, &alice, &[bob]);
    weighs(&mut world, &alice, MIB);
    assert!(world.engine.dormant_since(alice.link).is_some());
    world.heard(alice.link);
    assert_eq!(world.engine.dormant_since(alice.link), None);
    assert_eq!(world.engine.counts().dormant_bytes, 0);
    weighs(&mut world, &alice, MIB);
    assert_eq!(
        world.engine.counts().dormant_bytes,
        0,
        "of links that are awake"
    );
    sleeps(&mut world, &bob, &[alice]);
    assert_eq!(world.cut, []);
    // A link taken over while it sleeps leaves nothing behind.
    world.link_up(bob.device);
    assert_eq!(world.cut, [(bob.link, Code::Superseded)]);
    assert_eq!(world.engine.counts().dormant, 0);
    world.finish();
}

#[test]
fn held_visits_are_bounded_by_what_they_keep() {
    let mut world = World::with(EngineSettings {
        held_memory: 10,
        held_memory_total: 15,
        ..settings()
    });
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    world.opens(&alice, "web");
    world.link_down(alice.link);
    let mut waits = |label: &str, bytes: u64| {
        let id = VisitId::from_bytes(super::bytes(world.number()));
        let visit = Visit {
            http: None,
            kind: Kind::Http,
            id,
            label: label.into(),
            peer: peer(),
            bytes,
        };
        let admitted = world.engine.admit(world.now, &visit);
        admitted.map(|_| id)
    };
    let full = |label: &str| {
        Err(Refusal::HoldFull {
            tunnel: slug(label),
        })
    };
    let first = waits("app", 10).unwrap();
    assert_eq!(waits("app", 1), full("app"), "the tunnel's own bound");
    assert!(waits("web", 5).is_ok());
    assert_eq!(waits("web", 1), full("web"), "the bound of all");
    world.handle(Event::VisitGone { visit: first });
    assert_eq!(world.engine.counts().held_bytes, 5);
    let link = world.link_up(alice.device);
    assert_eq!(world.engine.counts().held_bytes, 0);
    assert_eq!(world.passes("web").link, link);
    world.finish();
}
