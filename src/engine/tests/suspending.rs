//! What the operator suspends: kept from everything, and nothing of it lost.

use super::*;

impl World {
    pub(super) fn suspends(&mut self, what: &str) -> Outcome {
        let from = self.admin();
        let what = what.into();
        let reason = None;
        self.handle(Event::SuspendAsked { from, what, reason });
        self.reply(from)
    }

    pub(super) fn resumes(&mut self, what: &str) -> Outcome {
        let from = self.admin();
        let what = what.into();
        self.handle(Event::ResumeAsked { from, what });
        for tunnel in self.cut_visits.drain() {
            self.latest_wall.insert(tunnel, self.now.wall);
        }
        self.reply(from)
    }
}

#[test]
fn what_is_suspended_keeps_its_name_and_serves_nothing() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let app = world.opens(&alice, "app");
    world.opens(&bob, "other");
    let visit = world.passes("app").visit;
    assert_eq!(world.suspends("app"), Ok(Answer::Suspended));
    assert!(world.cut_visits.contains(&app));
    assert_eq!(world.told, [(alice.link, app, Code::Suspended)]);
    world.ends(visit);
    assert_eq!(
        world.refused("app"),
        Refusal::Suspended {
            tunnel: slug("app")
        }
    );
    assert_eq!(
        world.suspends("app"),
        Ok(Answer::Suspended),
        "twice is harmless"
    );
    let ask = world.ask("app");
    assert_eq!(
        world.bind(&bob, &ask),
        Err(AskError::NameTaken { slug: slug("app") })
    );
    world.restart();
    let link = world.link_up(alice.device);
    assert_eq!(
        world.refused("app"),
        Refusal::Suspended {
            tunnel: slug("app")
        }
    );
    world.latest_wall.insert(app, world.now.wall);
    assert_eq!(world.resumes("app"), Ok(Answer::Resumed));
    let visit = world.passes("app").visit;
    world.ends(visit);
    let _ = link;
}

#[test]
fn a_suspended_user_has_no_links_and_no_visits_and_others_do() {
    let mut world = World::new();
    let alice = world.connect_as("alice", "laptop");
    let bob = world.connect_as("bob", "desk");
    world.opens(&alice, "app");
    world.opens(&bob, "other");
    assert_eq!(world.suspends("alice"), Ok(Answer::Suspended));
    assert_eq!(world.cut, [(alice.link, Code::Suspended)]);
    world.link_down(alice.link);
    assert!(matches!(world.refused("app"), Refusal::Suspended { .. }));
    let link = link(world.number());
    world.up.insert(link);
    world.handle(Event::LinkUp {
        link,
        device: alice.device,
        peer: peer(),
    });
    assert_eq!(world.cut.last(), Some(&(link, Code::Suspended)));
    let visit = world.passes("other").visit;
    world.ends(visit);
    assert_eq!(world.resumes("alice"), Ok(Answer::Resumed));
    world
        .latest_wall
        .extend(world.disk.open().into_iter().map(|id| (id, world.now.wall)));
    world.link_up(alice.device);
    let visit = world.passes("app").visit;
    world.ends(visit);
    assert!(matches!(
        world.suspends("nobody"),
        Err(AskError::NotFound { .. })
    ));
    world.finish();
}
