//! Share links: who comes in with one, how often, where to and until when.

use super::policing::{denied, passed};
use super::*;
use crate::names::ShareId;

impl World {
    pub(super) fn shares(
        &mut self,
        client: &Client,
        tunnel: TunnelId,
        uses: Option<u32>,
    ) -> ShareId {
        let id = ShareId::from_bytes(bytes(self.number()));
        let from = self.over(client);
        let ask = ShareAsk {
            id,
            tunnel,
            methods: Vec::new(),
            paths: vec!["/report/**".parse().unwrap()],
            uses,
            expires_at: self.now.wall.plus(HOUR),
        };
        self.handle(Event::ShareAsked { from, ask });
        assert!(matches!(self.reply(from), Ok(Answer::Shared(_))));
        id
    }

    pub(super) fn redeems(&mut self, share: ShareId) -> Outcome {
        let call = self.number();
        let peer = peer();
        let from = Requester::Edge { call, peer };
        self.handle(Event::RedeemAsked { from, share });
        self.reply(from)
    }
}

#[test]
fn a_share_link_is_used_up_on_disk_and_lets_in_for_its_paths_only() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_with(&alice, "app", r#"{"share":"required","methods":["GET"]}"#);
    assert_eq!(denied(world.visit("app").1), "share");
    let share = world.shares(&alice, app, Some(2));
    assert!(matches!(world.redeems(share), Ok(Answer::Redeemed(_))));
    world.store = Store::Fails(Code::DiskFull);
    assert_eq!(
        world.redeems(share),
        Err(AskError::Store {
            code: Code::DiskFull
        })
    );
    world.store = Store::Commits;
    assert!(matches!(world.redeems(share), Ok(Answer::Redeemed(_))));
    assert_eq!(world.redeems(share), Err(AskError::ShareOver));

    let at = |path: &'static str| {
        move |http: &mut HttpAsk| {
            http.share = Some(share);
            http.path = path.into();
        }
    };
    let (inside, outcome) = world.asks("app", "192.0.2.1", at("/report/1"));
    assert!(passed(&outcome));
    assert_eq!(
        denied(world.asks("app", "192.0.2.1", at("/other")).1),
        "share, for other requests"
    );
    let put = world.asks("app", "192.0.2.1", |http| {
        at("/report/1")(http);
        http.method = http::Method::PUT;
    });
    assert!(matches!(put.1, Err(Refusal::MethodNotAllowed { .. })));
    // Uses outlive a restart.
    world.ends(inside);
    world.restart();
    assert_eq!(world.redeems(share), Err(AskError::ShareOver));
    world.link_up(alice.device);
    world.advance(HOUR);
    let late = world.asks("app", "192.0.2.1", at("/report/1")).1;
    assert!(
        matches!(
            late,
            Err(Refusal::ShareOver { .. } | Refusal::Offline { .. })
        ),
        "{late:?}"
    );
}

#[test]
fn who_came_in_with_a_share_link_is_out_when_it_is_withdrawn() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_with(&alice, "app", r#"{"share":"required"}"#);
    let share = world.shares(&alice, app, None);
    let inside = |http: &mut HttpAsk| {
        http.share = Some(share);
        http.path = "/report/".into();
    };
    let (visit, outcome) = world.asks("app", "192.0.2.1", inside);
    assert!(passed(&outcome));
    assert_eq!(world.revokes(&share.to_string()), Ok(Answer::Revoked));
    assert_eq!(world.cut_alone, [visit]);
    let again = world.asks("app", "192.0.2.1", inside).1;
    assert_eq!(
        again,
        Err(Refusal::ShareOver {
            tunnel: slug("app")
        })
    );
    world.ends(visit);
    world.finish();
}

#[test]
fn who_came_in_with_a_share_link_is_out_when_its_time_is_over() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_with(&alice, "app", r#"{"share":"required"}"#);
    let share = world.shares(&alice, app, None);
    let (visit, outcome) = world.asks("app", "192.0.2.1", |http| {
        http.share = Some(share);
        http.path = "/report/".into();
    });
    assert!(passed(&outcome));
    world.live_for(HOUR - secs(1), &[alice]);
    assert!(world.cut_alone.is_empty());
    world.live_for(secs(1), &[alice]);
    assert_eq!(world.cut_alone, [visit]);
    world.ends(visit);
    world.finish();
}

#[test]
fn share_links_that_end_together_look_through_their_own_visits_alone() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens_with(&alice, "other", "{}");
    // As many of each tunnel as it may have.
    let mut shares: Vec<(&str, ShareId)> = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let tunnel = world.opens_with(&alice, name, r#"{"share":"required"}"#);
        shares.extend((0..1000).map(|_| (name, world.shares(&alice, tunnel, None))));
    }
    let mut cut: Vec<VisitId> = Vec::new();
    for number in 0..100_000 {
        let share = shares.get(number).copied();
        let mut visit = world.visit_to(share.map_or("other", |(name, _)| name));
        if let (Some(http), Some((_, share))) = (visit.http.as_mut(), share) {
            (http.share, http.path) = (Some(share), "/report/".into());
        }
        let outcome = world.engine.admit(world.now, &visit);
        assert!(passed(&outcome), "{outcome:?}");
        cut.extend(share.map(|_| visit.id));
    }
    while world.engine.poll_action().is_some() {}
    world.now.wall = world.now.wall.plus(HOUR);
    let begun = Clock.now().monotonic;
    world.engine.handle_timeout(world.now);
    let took = Clock.now().monotonic - begun;
    let mut out = Vec::new();
    while let Some(action) = world.engine.poll_action() {
        if let Action::CutSome { visits } = action {
            out.extend(visits);
        }
    }
    cut.sort_unstable();
    out.sort_unstable();
    assert_eq!(out, cut);
    // Five seconds, if each end looked through all visits.
    assert!(took < secs(2), "{took:?}");
}
