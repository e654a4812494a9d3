//! Whatever the numbers are: a limit holds at N - 1, N and N + 1, and no policy goes beyond a ceiling.

use std::num::{NonZeroU32, NonZeroU64};

use proptest::prelude::*;

use super::limits::{Per, Rate};
use super::policy::Policy;
use super::*;

fn opened(settings: EngineSettings, policy: &str) -> (World, Client) {
    let mut world = World::with(settings);
    let alice = world.connect("alice");
    let ask = BindAsk {
        policy: Policy::parse(policy).unwrap(),
        ..world.ask("app")
    };
    world.bind(&alice, &ask).expect("it is within all ceilings");
    (world, alice)
}

fn is_limited(outcome: &Result<Admission, Refusal>) -> bool {
    matches!(outcome, Err(Refusal::Limited { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn as_many_visits_as_may_go_on_at_once(most in 1_u32..40, each in any::<bool>()) {
        let whose = if each { "visitor" } else { "tunnel" };
        let text = format!(r#"{{"limits":{{"{whose}":{{"concurrency":{most}}}}}}}"#);
        let (mut world, _) = opened(settings(), &text);
        let visits: Vec<_> = (0..most).map(|_| world.passes("app").visit).collect();
        prop_assert!(is_limited(&world.visit("app").1));
        world.ends(visits[0]);
        let another = world.passes("app").visit;
        prop_assert!(is_limited(&world.visit("app").1));
        for visit in visits.into_iter().skip(1).chain([another]) {
            world.ends(visit);
        }
        world.finish();
    }

    #[test]
    fn as_many_visits_as_may_begin_in_a_second(rate in 1_u32..40, each in any::<bool>()) {
        let whose = if each { "visitor" } else { "tunnel" };
        let text = format!(r#"{{"limits":{{"{whose}":{{"rate":"{rate}/s"}}}}}}"#);
        let (mut world, _) = opened(settings(), &text);
        for _ in 0..2 {
            for _ in 0..rate {
                let visit = world.passes("app").visit;
                world.ends(visit);
            }
            prop_assert!(is_limited(&world.visit("app").1));
            world.advance(secs(1));
        }
        world.finish();
    }

    #[test]
    fn as_many_visits_as_may_wait(
        held in 1_usize..30,
        of_device in prop::option::of(1_usize..30),
        of_user in prop::option::of(1_usize..30),
    ) {
        let mut settings = settings();
        settings.held_visits = held;
        settings.held_visits_total = 1000;
        settings.limits.device.held = of_device;
        settings.limits.user.held = of_user;
        let (mut world, alice) = opened(settings, "{}");
        world.link_down(alice.link);
        let most = held.min(of_device.unwrap_or(held)).min(of_user.unwrap_or(held));
        let waits: Vec<_> = (0..most)
            .map(|_| {
                let (visit, outcome) = world.visit("app");
                assert_eq!(outcome, Ok(Admission::Hold));
                visit
            })
            .collect();
        let full = |outcome| matches!(outcome, Err(Refusal::HoldFull { .. }));
        prop_assert!(full(world.visit("app").1));
        world.handle(Event::VisitGone { visit: waits[0] });
        prop_assert_eq!(world.visit("app").1, Ok(Admission::Hold));
        prop_assert!(full(world.visit("app").1));
    }

    #[test]
    fn no_policy_goes_beyond_a_ceiling_by_opening_or_by_change(
        ceiling in 2_u32..1000,
        asked in prop::sample::select(vec![-1_i64, 0, 1]),
        what in 0_usize..3,
        (each, of_user, later) in any::<(bool, bool, bool)>(),
    ) {
        let mut settings = settings();
        let limits = &mut settings.limits;
        let whose = if of_user { &mut limits.user } else { &mut limits.device };
        whose.rate = Some(Rate::new(ceiling, Per::Second));
        whose.streams = NonZeroU32::new(ceiling);
        whose.bandwidth = NonZeroU64::new(u64::from(ceiling));
        let number = i64::from(ceiling) + asked;
        let (part, value) = [
            ("rate", format!("\"{number}/s\"")),
            ("concurrency", number.to_string()),
            ("bandwidth", number.to_string()),
        ][what].clone();
        let scope = if each { "visitor" } else { "tunnel" };
        let text = format!(r#"{{"limits":{{"{scope}":{{"{part}":{value}}}}}}}"#);
        let (mut world, alice) = opened(settings, "{}");
        let policy = Policy::parse(&text).unwrap();
        let outcome = if later {
            let tunnel = world.engine.tunnel("app").unwrap().row.id;
            let from = world.over(&alice);
            let ask = SetAsk {
                tunnel,
                policy: Some(policy),
                parts: vec![format!("limits.{scope}.{part}")],
                life: LifeAsk::default(),
            };
            world.handle(Event::SetAsked { from, ask });
            world.reply(from).map(drop)
        } else {
            let ask = BindAsk { policy, ..world.ask("web") };
            world.bind(&alice, &ask).map(drop)
        };
        let refused = matches!(outcome, Err(AskError::LimitReached { .. }));
        prop_assert_eq!(refused, asked > 0, "{:?}", outcome);
        prop_assert_eq!(outcome.is_ok(), asked <= 0);
    }
}
