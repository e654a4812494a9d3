//! Policies at work: rules, guesses, limits, and changes while visits go on.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::limits::{Ceiling, Per, Rate};
use super::policy::{Policy, RuleId};
use super::*;
use crate::secret::Secret;

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn policy(text: &str) -> Policy {
    Policy::parse(&text.replace("HASH", HASH)).unwrap()
}

fn from(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 4000)
}

fn said(user: &str, password: &str) -> Credentials {
    let mut digest = [0; 32];
    digest[..password.len()].copy_from_slice(password.as_bytes());
    Credentials {
        user: user.into(),
        digest,
        password: Secret::new(password.into()),
        checked: None,
        given_up: false,
    }
}

impl World {
    pub(super) fn opens_with(&mut self, client: &Client, name: &str, text: &str) -> TunnelId {
        let ask = BindAsk {
            policy: policy(text),
            ..self.ask(name)
        };
        self.bind(client, &ask).expect("it was opened").row.id
    }

    pub(super) fn asks(
        &mut self,
        name: &str,
        ip: &str,
        edit: impl FnOnce(&mut HttpAsk),
    ) -> VisitOutcome {
        let mut visit = self.visit_to(name);
        visit.peer = from(ip);
        visit.http.as_mut().map(edit);
        self.asks_in(name, visit)
    }

    /// Logs in with a password; the role's check says whether it is right.
    fn logs_in(
        &mut self,
        name: &str,
        ip: &str,
        user: &str,
        pass: &str,
    ) -> Result<Admission, Refusal> {
        let visit = self.visit_with(name, ip, said(user, pass));
        let first = self.asks_in(name, visit.clone()).1;
        let Ok(Admission::Verify(check)) = first else {
            return first;
        };
        self.asks_in(name, checked(visit, &check, pass == "right"))
            .1
    }

    fn visit_with(&mut self, name: &str, ip: &str, said: Credentials) -> Visit {
        let mut visit = self.visit_to(name);
        visit.peer = from(ip);
        visit.http.as_mut().unwrap().credentials = Some(said);
        visit
    }

    pub(super) fn sets(
        &mut self,
        client: &Client,
        tunnel: TunnelId,
        text: &str,
        parts: &[&str],
    ) -> Outcome {
        let from = self.over(client);
        let ask = SetAsk {
            tunnel,
            policy: Some(policy(text)),
            parts: parts.iter().map(ToString::to_string).collect(),
            life: LifeAsk::default(),
        };
        self.handle(Event::SetAsked { from, ask });
        self.reply(from)
    }
}

/// The same visit after its password was checked.
fn checked(mut visit: Visit, check: &Verification, right: bool) -> Visit {
    let said = visit
        .http
        .as_mut()
        .and_then(|http| http.credentials.as_mut());
    said.unwrap().checked = Some(Checked {
        hash: check.hash.clone(),
        right,
    });
    visit
}

type VisitOutcome = (VisitId, Result<Admission, Refusal>);

pub(super) fn passed(outcome: &Result<Admission, Refusal>) -> bool {
    matches!(outcome, Ok(Admission::Pass(_)))
}

pub(super) fn denied(outcome: Result<Admission, Refusal>) -> String {
    match outcome {
        Err(Refusal::Denied { rule } | Refusal::Limited { rule, .. }) => rule.to_string(),
        Err(other) => other.to_string(),
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_visit_is_judged_by_its_tunnels_policy_and_the_rule_is_named() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens_with(
        &alice,
        "app",
        r#"{"deny":["192.0.2.0/24"],"methods":["GET"],"deny_paths":["/admin/**"]}"#,
    );
    world.opens(&alice, "free");
    let any = |_: &mut HttpAsk| {};
    assert_eq!(
        denied(world.asks("app", "192.0.2.9", any).1),
        "deny 192.0.2.0/24"
    );
    let mapped = world.asks("app", "::ffff:192.0.2.9", any).1;
    assert_eq!(denied(mapped), "deny 192.0.2.0/24");
    let put = world
        .asks("app", "203.0.113.1", |http| http.method = http::Method::PUT)
        .1;
    assert_eq!(
        put,
        Err(Refusal::MethodNotAllowed {
            rule: RuleId::Method(http::Method::PUT),
            allowed: "GET".into()
        })
    );
    let admin = |http: &mut HttpAsk| http.path = "/x/..%2fadmin/?q".into();
    assert_eq!(
        denied(world.asks("app", "203.0.113.1", admin).1),
        "deny-path /admin/**"
    );
    assert!(passed(&world.asks("app", "203.0.113.1", any).1));
    assert!(passed(&world.asks("free", "192.0.2.9", any).1));
    world.finish();
}

#[test]
fn a_password_is_checked_once_and_guesses_are_throttled() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let text = r#"{"auth":[{"user":"bob","hash":"HASH"}]}"#;
    let app = world.opens_with(&alice, "app", text);
    let mut settings = world.engine.settings().clone();
    settings.limits.sources.passwords = Rate::new(10, Per::Minute).burst(3);
    world.handle(Event::Reloaded { settings });

    let nobody = world.refused("app");
    assert_eq!(nobody, Refusal::Unauthorized { realm: slug("app") });
    // Right ones are no guesses, however many.
    for _ in 0..10 {
        assert!(passed(&world.logs_in("app", "192.0.2.1", "bob", "right")));
    }
    // Known digests need no check; another user's name does.
    let known = world.asks("app", "192.0.2.1", |http| {
        http.credentials = Some(said("bob", "right"))
    });
    assert!(passed(&known.1));
    for (user, pass) in [("bob", "wrong"), ("eve", "right"), ("bob", "guess")] {
        let outcome = world.logs_in("app", "192.0.2.6", user, pass);
        assert_eq!(outcome, Err(Refusal::Unauthorized { realm: slug("app") }));
    }
    let fourth = world.logs_in("app", "192.0.2.6", "bob", "fourth");
    assert_eq!(denied(fourth), "passwords 10/m burst 3 for each source");
    assert!(passed(&world.logs_in("app", "192.0.2.1", "bob", "right")));
    // A new password: the old one is worth nothing.
    let other = HASH.replace("AAAAAAA", "BBBBBBB");
    let text = format!(r#"{{"auth":[{{"user":"bob","hash":"{other}"}}]}}"#);
    assert!(world.sets(&alice, app, &text, &["auth"]).is_ok());
    let old = world.asks("app", "192.0.2.1", |http| {
        http.credentials = Some(said("bob", "right"))
    });
    assert!(matches!(old.1, Ok(Admission::Verify(_))));
    world.finish();
}

#[test]
fn right_passwords_that_come_together_are_no_guesses() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens_with(&alice, "app", r#"{"auth":[{"user":"bob","hash":"HASH"}]}"#);
    let mut settings = world.engine.settings().clone();
    settings.limits.sources.passwords = Rate::new(10, Per::Minute).burst(4);
    world.handle(Event::Reloaded { settings });
    // All come before the first is known to be right.
    let mut asked = Vec::new();
    for pass in ["right", "right", "right", "wrong"] {
        let visit = world.visit_with("app", "192.0.2.1", said("bob", pass));
        match world.asks_in("app", visit.clone()).1 {
            Ok(Admission::Verify(check)) => asked.push((visit, check, pass == "right")),
            other => panic!("{other:?}"),
        }
    }
    for (visit, check, right) in asked {
        let outcome = world.asks_in("app", checked(visit, &check, right)).1;
        assert_eq!(passed(&outcome), right);
    }
    let refused = "passwords 10/m burst 4 for each source";
    for guess in ["one", "two", "three"] {
        let outcome = world.logs_in("app", "192.0.2.1", "bob", guess);
        assert_eq!(outcome, Err(Refusal::Unauthorized { realm: slug("app") }));
    }
    let beyond = world.logs_in("app", "192.0.2.1", "bob", "four");
    assert_eq!(denied(beyond), refused, "the wrong one was not given back");
    world.finish();
}

#[test]
fn a_shadow_of_auth_tells_of_wrong_passwords_and_keeps_nobody_out() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let users = r#""auth":[{"user":"bob","hash":"HASH"}]"#;
    let app = world.opens_with(&alice, "app", &format!(r#"{{{users},"shadow":["auth"]}}"#));
    world.opens_with(&alice, "locked", &format!("{{{users}}}"));
    let mut settings = world.engine.settings().clone();
    settings.limits.sources.passwords = Rate::new(10, Per::Minute).burst(1);
    settings.limits.tunnel_passwords = Rate::new(10, Per::Minute).burst(3);
    world.handle(Event::Reloaded { settings });
    let told = |outcome: Result<Admission, Refusal>| match outcome {
        Ok(Admission::Pass(route)) => route.shadows(),
        other => panic!("{other:?}"),
    };
    let nobody = world.asks("app", "192.0.2.1", |_| {}).1;
    assert_eq!(told(nobody), ["auth"]);
    for _ in 0..10 {
        let right = world.logs_in("app", "192.0.2.1", "bob", "right");
        assert_eq!(told(right), [""; 0]);
    }
    for pass in ["wrong", "guess", "third"] {
        let wrong = world.logs_in("app", "192.0.2.1", "bob", pass);
        assert_eq!(told(wrong), ["auth"]);
    }
    // No more are checked, and no one is kept out for it.
    let fourth = world.logs_in("app", "192.0.2.1", "bob", "fourth");
    assert_eq!(told(fourth), ["passwords 10/m burst 3 for the tunnel"]);
    let right = world.logs_in("app", "192.0.2.1", "bob", "right");
    assert_eq!(told(right), [""; 0], "it is known");
    // They were no guesses: elsewhere this visitor may still make one.
    assert!(passed(&world.logs_in(
        "locked",
        "192.0.2.1",
        "bob",
        "right"
    )));
    // A check that cannot be made is no reason to tell of anything.
    let mut asked = said("bob", "unlucky");
    asked.given_up = true;
    let given_up = world.asks("app", "192.0.2.1", |http| http.credentials = Some(asked));
    assert_eq!(told(given_up.1), [""; 0]);
    let text = format!("{{{users}}}");
    assert!(world.sets(&alice, app, &text, &["shadow"]).is_ok());
    let wrong = world.logs_in("app", "192.0.2.1", "bob", "wrong");
    assert_eq!(wrong, Err(Refusal::Unauthorized { realm: slug("app") }));
    world.finish();
}

#[test]
fn limits_hold_at_the_number_and_for_each_visitor() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.opens_with(
        &alice,
        "app",
        r#"{"limits":{"visitor":{"rate":"3/s","concurrency":5},"tunnel":{"concurrency":6}}}"#,
    );
    let visit = |world: &mut World, ip: &str| world.asks("app", ip, |_| {});
    let mut on = Vec::new();
    for _ in 0..3 {
        let (id, outcome) = visit(&mut world, "2001:db8:0:1::1");
        assert!(passed(&outcome));
        on.push(id);
    }
    // The same /64 is the same machine.
    let Err(Refusal::Limited { rule, retry_in }) = visit(&mut world, "2001:db8:0:1::2").1 else {
        panic!("the fourth in a second");
    };
    assert_eq!(rule.to_string(), "rate 3/s for each visitor");
    assert!(retry_in <= secs(1));
    assert!(passed(&visit(&mut world, "2001:db8:0:2::1").1));
    world.advance(secs(1));
    for _ in 0..2 {
        assert!(passed(&visit(&mut world, "2001:db8:0:1::1").1));
    }
    let sixth = visit(&mut world, "2001:db8:0:1::1").1;
    assert_eq!(denied(sixth), "concurrency 5 for each visitor");
    let seventh = visit(&mut world, "2001:db8:0:3::1").1;
    assert_eq!(denied(seventh), "concurrency 6 for the tunnel");
    world.ends(on[0]);
    assert!(passed(&visit(&mut world, "2001:db8:0:3::1").1));
    world.finish();
}

#[test]
fn held_visits_are_counted_once_and_let_go_when_they_are_refused() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let text = r#"{"limits":{"tunnel":{"concurrency":2}}}"#;
    world.opens_with(&alice, "app", text);
    world.link_down(alice.link);
    let first = world.waits("app");
    world.waits("app");
    assert_eq!(denied(world.visit("app").1), "concurrency 2 for the tunnel");
    world.handle(Event::VisitGone { visit: first });
    world.waits("app");
    world.advance(secs(11));
    world.link_up(alice.device);
    world.passes("app");
    world.passes("app");
    assert_eq!(denied(world.visit("app").1), "concurrency 2 for the tunnel");
    world.finish();
}

#[test]
fn a_new_policy_is_in_force_at_once_and_cuts_what_it_does_not_allow() {
    let mut world = World::new();
    let (alice, mallory) = (world.connect("alice"), world.connect("mallory"));
    let app = world.opens_with(&alice, "app", r#"{"deny":["192.0.2.0/24"]}"#);
    let (kept, _) = world.asks("app", "203.0.113.1", |_| {});
    let (cut, _) = world.asks("app", "198.51.100.1", |_| {});
    world.store = Store::Waits;
    let from = world.over(&alice);
    let ask = SetAsk {
        tunnel: app,
        policy: Some(policy(r#"{"allow":["203.0.113.0/24"]}"#)),
        parts: vec!["allow".into()],
        life: LifeAsk::default(),
    };
    world.handle(Event::SetAsked { from, ask });
    assert_eq!(world.cut_alone, [cut]);
    assert_eq!(denied(world.asks("app", "198.51.100.1", |_| {}).1), "allow");
    assert_eq!(
        denied(world.asks("app", "192.0.2.1", |_| {}).1),
        "deny 192.0.2.0/24"
    );
    assert!(!world.replies.contains_key(&from), "not on disk yet");
    world.commits();
    let Ok(Answer::Bound(view)) = world.reply(from) else {
        panic!("it is set");
    };
    assert_eq!(view.row.policy_version, 2);
    world.ends(cut);
    world.ends(kept);
    // A stranger's tunnel and none at all look the same.
    let none = AskError::NotFound {
        what: app.to_string(),
    };
    assert_eq!(world.sets(&mallory, app, "{}", &[]), Err(none));
    // And it is there after a restart, for a client that binds without it, too.
    world.restart();
    let row = world.engine.tunnel("app").unwrap().row;
    assert_eq!(
        row.policy.to_text(),
        r#"{"allow":["203.0.113.0/24"],"deny":["192.0.2.0/24"]}"#
    );
    let lines = world.disk.tunnel_lines();
    assert!(
        lines.contains(&"tunnel.set app allow, version 2".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn visits_that_go_on_hear_of_other_rates() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_with(&alice, "app", "{}");
    let visit = world.passes("app").visit;
    let slow = r#"{"limits":{"tunnel":{"bandwidth":5000}}}"#;
    world
        .sets(&alice, app, r#"{"methods":["GET"]}"#, &["methods"])
        .unwrap();
    assert!(world.shaped.is_empty(), "no rate has changed");
    world.sets(&alice, app, slow, &["limits"]).unwrap();
    assert_eq!(world.shaped[&app].tunnel.unwrap().get(), 5000);
    let mut settings = settings();
    settings.limits.user.bandwidth = std::num::NonZeroU64::new(7000);
    world.handle(Event::Reloaded { settings });
    let told = world.shaped[&app];
    let both = (told.tunnel.unwrap().get(), told.user.unwrap().get());
    assert_eq!(both, (5000, 7000));
    world.ends(visit);
    world.finish();
}

#[test]
fn visits_that_may_not_be_signed_as_is_asked_now_are_cut() {
    let hook = |secrets: &[&str]| {
        let texts: Vec<_> = secrets
            .iter()
            .map(|secret| format!(r#"{{"kind":"github","secret":"{secret}"}}"#))
            .collect();
        format!(r#"{{"webhook":[{}]}}"#, texts.join(","))
    };
    let mut world = World::new();
    let alice = world.connect("alice");
    let app = world.opens_with(&alice, "app", "{}");
    for (secrets, shadow, cuts) in [
        (&["old"][..], false, true),
        (&["new", "old"], false, false),
        (&["new"], false, true),
        (&["other"], true, false),
        (&["other"], false, true),
        (&[], false, false),
    ] {
        let visit = world.passes("app").visit;
        let mut text = hook(secrets);
        if shadow {
            text = text.replace("]}", r#"],"shadow":["webhook"]}"#);
        }
        world
            .sets(&alice, app, &text, &["webhook", "shadow"])
            .unwrap();
        let cut = std::mem::take(&mut world.cut_alone);
        assert_eq!(cut, if cuts { vec![visit] } else { vec![] }, "{secrets:?}");
        world.ends(visit);
    }
    world.finish();
}

#[test]
fn what_is_asked_beyond_a_ceiling_is_refused_with_its_name() {
    let mut settings = settings();
    settings.limits.user.tunnels = Some(2);
    settings.limits.device.rate = Some(Rate::new(100, Per::Second));
    settings.limits.user.streams = NonZeroU32::new(3);
    settings.limits.expiry_max = Some(DAY);
    settings.limits.reserved = [slug("git")].into();
    let mut world = World::with(settings);
    let alice = world.connect("alice");
    let ceiling = |world: &mut World, text: &str, days: u32| {
        let expires_at = (days > 0).then(|| world.now.wall.plus(days * DAY));
        let ask = BindAsk {
            policy: policy(text),
            expires_at,
            ..world.ask("app")
        };
        match world.bind(&alice, &ask) {
            Err(AskError::LimitReached { what, max }) => (what, max),
            other => panic!("{other:?}"),
        }
    };
    let fast = r#"{"limits":{"tunnel":{"rate":"101/s"}}}"#;
    assert_eq!(
        ceiling(&mut world, fast, 0),
        (Ceiling::Rate, "100/s".into())
    );
    let wide = r#"{"limits":{"visitor":{"concurrency":4}}}"#;
    assert_eq!(ceiling(&mut world, wide, 0), (Ceiling::Streams, "3".into()));
    assert_eq!(ceiling(&mut world, "{}", 2), (Ceiling::Expiry, "1d".into()));
    let ask = world.ask("git");
    let reserved = world.bind(&alice, &ask).unwrap_err();
    assert_eq!(reserved, AskError::NameReserved { slug: slug("git") });
    // Who asks for no end gets the longest.
    let one = world.opens(&alice, "one");
    let ends = world.disk.tunnel(one).unwrap().expires_at;
    assert_eq!(ends, Some(world.now.wall.plus(DAY)));
    world.opens(&alice, "two");
    assert_eq!(
        ceiling(&mut world, "{}", 0),
        (Ceiling::UserTunnels, "2".into())
    );
    // And what all tunnels of a user do together is bounded.
    for name in ["one", "two", "one"] {
        world.passes(name);
    }
    assert_eq!(denied(world.visit("two").1), "concurrency 3 for the user");
}

#[test]
fn forced_auth_takes_no_tunnel_that_lets_strangers_in() {
    let mut settings = settings();
    settings.limits.force_auth = true;
    let mut world = World::with(settings);
    let alice = world.connect("alice");
    for text in [
        "{}",
        r#"{"share":"allowed"}"#,
        r#"{"auth":[{"user":"a","hash":"HASH"}],"shadow":["auth"]}"#,
    ] {
        let ask = BindAsk {
            policy: policy(text),
            ..world.ask("app")
        };
        assert_eq!(
            world.bind(&alice, &ask),
            Err(AskError::AuthForced),
            "{text}"
        );
    }
    let app = world.opens_with(&alice, "app", r#"{"share":"required"}"#);
    assert_eq!(
        world.sets(&alice, app, "{}", &["share"]),
        Err(AskError::AuthForced)
    );
}

#[test]
fn join_tokens_that_do_not_work_are_counted_for_who_shows_them() {
    let mut settings = settings();
    settings.limits.sources.failed_joins = Rate::new(1, Per::Minute).burst(2);
    let mut world = World::with(settings);
    let good = world.invites("alice", 2);
    let pin = world.new_pin();
    for _ in 0..2 {
        assert_eq!(world.enrolls(0, pin, "laptop"), Err(AskError::BadToken));
    }
    let third = world.enrolls(good, pin, "laptop");
    assert!(matches!(third, Err(AskError::TooOften { .. })), "{third:?}");
    world.advance(secs(60));
    assert!(world.enrolls(good, pin, "laptop").is_ok());
}

#[test]
fn unknown_names_are_counted_for_who_asks_for_them() {
    let mut settings = settings();
    settings.limits.sources.unknown_hosts = Rate::new(1, Per::Second).burst(2);
    let mut world = World::with(settings);
    let alice = world.connect("alice");
    world.opens(&alice, "app");
    for _ in 0..2 {
        assert!(matches!(world.refused("none"), Refusal::NoRoute { .. }));
    }
    assert!(matches!(world.refused("none"), Refusal::Limited { .. }));
    assert!(matches!(
        world.asks("none", "203.0.113.1", |_| {}).1,
        Err(Refusal::NoRoute { .. })
    ));
    let visit = world.passes("app").visit;
    world.ends(visit);
    world.finish();
}

#[test]
fn preflights_counted_for_nobody() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let text = r#"{"cors":{"origins":["https://a.example"]},"limits":{"visitor":{"rate":"3/s"},"tunnel":{"rate":"5/s"}}}"#;
    world.opens_with(&alice, "app", text);
    let now = world.now;
    for _ in 0..3 {
        assert!(world.engine.greet(now, "app", peer()).is_ok());
    }
    let refused = world.engine.greet(now, "app", peer());
    assert!(
        matches!(refused, Err(Refusal::Limited { .. })),
        "{refused:?}"
    );
    assert!(world.visit("app").1.is_err(), "the same visitor");
    // It is not the tunnel's: others still come.
    assert!(world.engine.greet(now, "app", from("198.51.100.9")).is_ok());
}
