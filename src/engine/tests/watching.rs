//! The watch over a link: every arrow of its picture, at its time; and any sequence of events.

use std::ops::RangeInclusive;
use std::time::Instant;

use proptest::prelude::*;

use super::super::watch::{Duty, FallbackNews, Hint, Pulse, RaceNews, Watch, WatchSettings};
use super::*;
use Duty::*;

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RTT: Duration = Duration::from_millis(20);

/// What happens to a watch.
#[derive(Debug, Clone, Copy)]
enum In {
    Hear,
    Owe,
    Change,
    Wake,
    Step,
    Wait,
    Up,
    Broken,
    Won,
    Lost,
    Udp(bool),
    Gone,
}

/// A watch, a clock of its own, and a link that hears what the test says.
struct Link {
    watch: Watch,
    start: Instant,
    now: Instant,
    pulse: Pulse,
    done: Vec<(u64, Duty)>,
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Link {
    fn new(fallback: bool) -> Self {
        let start = Clock.now().monotonic;
        let settings = WatchSettings {
            keep_alive: KEEP_ALIVE,
            fallback,
        };
        Self {
            watch: Watch::new(start, settings),
            start,
            now: start,
            pulse: Pulse {
                heard: start,
                owed: None,
                rtt: RTT,
            },
            done: Vec::new(),
        }
    }

    /// Lets time pass as the role does: it comes back when the watch asks it to.
    fn run_until(&mut self, end: Instant) {
        while let Some(at) = self.watch.poll_timeout().filter(|at| *at <= end) {
            let before = (self.now, self.done.len());
            self.now = at.max(self.now);
            self.watch.handle_pulse(self.now, self.pulse);
            self.watch.handle_timeout(self.now);
            self.take();
            let after = (self.now, self.done.len());
            assert!(
                before != after || self.watch.poll_timeout() > Some(at),
                "it spins"
            );
        }
        self.now = end;
    }

    fn happen(&mut self, input: In) {
        let now = self.now;
        match input {
            In::Hear => {
                (self.pulse.heard, self.pulse.owed) = (now, None);
                return;
            }
            In::Owe => {
                self.pulse.owed.get_or_insert(now);
                return;
            }
            _ => self.watch.handle_pulse(now, self.pulse),
        }
        match input {
            In::Hear | In::Owe => {}
            In::Change => self.watch.handle_hint(now, Hint::NetworkChanged),
            In::Wake => self
                .watch
                .handle_hint(now, Hint::Resumed { slept: secs(60) }),
            In::Step => self.watch.handle_hint(now, Hint::ClockStepped),
            In::Wait => self.watch.handle_waiting(now),
            In::Up => self.watch.handle_fallback(now, FallbackNews::Up),
            In::Broken => self.watch.handle_fallback(now, FallbackNews::Failed),
            In::Won => self.watch.handle_race(now, RaceNews::Won { rtt: RTT }),
            In::Lost => self
                .watch
                .handle_race(now, RaceNews::Lost { random: u64::MAX }),
            In::Udp(works) => self.watch.handle_udp(now, works),
            In::Gone => self.watch.handle_gone(now, u64::MAX),
        }
        self.take();
    }

    fn take(&mut self) {
        let at = u64::try_from((self.now - self.start).as_millis()).unwrap();
        while let Some(duty) = self.watch.poll_duty() {
            self.done.push((at, duty));
        }
    }
}

/// Plays `inputs` (at milliseconds) and compares all duties up to `end`.
fn check(what: &str, fallback: bool, inputs: &[(u64, In)], end: u64, expected: &[(u64, Duty)]) {
    let mut link = Link::new(fallback);
    for (at, input) in inputs {
        link.run_until(link.start + ms(*at));
        link.happen(*input);
    }
    link.run_until(link.start + ms(end));
    assert_eq!(link.done, expected, "{what}");
}

/// A kick every quarter second.
fn probes(times: RangeInclusive<u64>) -> Vec<(u64, Duty)> {
    times.step_by(250).map(|at| (at, Probe)).collect()
}

#[test]
fn a_hint_moves_the_link_at_once_and_an_answer_ends_it() {
    for hint in [In::Change, In::Wake] {
        check(
            "answered",
            true,
            &[(1000, hint), (1030, In::Hear)],
            13_000,
            &[(1000, RebindAndKick)],
        );
    }
    check("a set clock", true, &[(1000, In::Step)], 12_000, &[]);
}

#[test]
fn what_was_heard_before_the_hint_is_no_answer() {
    check(
        "old news",
        true,
        &[(999, In::Hear), (1000, In::Change)],
        1600,
        &[(1000, RebindAndKick), (1500, Probe)],
    );
}

#[test]
fn silence_after_a_hint_brings_kicks_then_the_fallback_then_a_race() {
    let expected = [
        vec![(1000, RebindAndKick)],
        probes(1500..=2250),
        vec![(2500, OpenFallback), (2500, RebindAndKick)],
        probes(2750..=3750),
        vec![(4000, Race)],
        probes(4000..=6250),
        vec![(6500, RebindAndKick)],
        probes(6750..=8500),
    ];
    let hint = [(1000, In::Change)];
    check("silence", true, &hint, 8600, &expected.concat());
    let mut without = expected[..6].concat();
    without.retain(|(_, duty)| *duty != OpenFallback);
    check("no fallback", false, &hint, 6400, &without);
}

#[test]
fn a_server_that_welcomes_no_new_connection_is_asked_less_and_less() {
    let mut link = Link::new(false);
    link.happen(In::Change);
    let mut waits = Vec::new();
    for _ in 0..5 {
        let asked = link.now;
        let from = link.done.len();
        let races = |link: &Link| link.done[from..].iter().any(|(_, duty)| *duty == Race);
        while !races(&link) {
            link.run_until(link.now + ms(100));
        }
        waits.push((link.now - asked).as_secs());
        link.happen(In::Won);
        link.run_until(link.now + secs(1));
        assert_eq!(link.done.last().map(|(_, duty)| *duty), Some(TakeNew));
        link.watch.handle_not_taken(link.now, u64::MAX);
        link.take();
    }
    assert_eq!(waits, [3, 0, 1, 2, 4]);
    // And it is still minded: what it hears ends the alarm.
    link.now += ms(1);
    link.happen(In::Hear);
    link.watch.handle_pulse(link.now, link.pulse);
    assert!(link.watch.silent_since().is_none());
}

#[test]
fn hints_in_a_row_move_the_link_each_time_and_put_off_nothing() {
    check(
        "a flapping network",
        false,
        &[(1000, In::Change), (1400, In::Change), (3900, In::Change)],
        4100,
        &[
            (1000, RebindAndKick),
            (1400, RebindAndKick),
            (1900, Probe),
            (2150, Probe),
            (2400, Probe),
            (2650, Probe),
            (2900, RebindAndKick),
            (3150, Probe),
            (3400, Probe),
            (3650, Probe),
            (3900, Probe),
            (3900, RebindAndKick),
            (4000, Race),
        ],
    );
}

#[test]
fn a_hint_late_in_an_outage_brings_the_next_tries_forward() {
    let mut link = Link::new(true);
    link.now = link.start + ms(1000);
    link.happen(In::Change);
    // Both ways fail again and again, and their rests grow.
    while link.now < link.start + secs(120) {
        let done = link.done.len();
        link.run_until(link.now + ms(250));
        for (_, duty) in link.done.split_off(done) {
            match duty {
                OpenFallback => link.happen(In::Broken),
                Race => link.happen(In::Lost),
                _ => {}
            }
        }
    }
    let (hint, from) = (link.now, link.done.len());
    link.happen(In::Change);
    link.run_until(hint + secs(4));
    let after = |what| {
        let found = link.done[from..].iter().find(|(_, duty)| *duty == what);
        found.map(|(at, _)| link.start + ms(*at) - hint)
    };
    assert_eq!(after(RebindAndKick), Some(ms(0)));
    assert!(
        after(OpenFallback).is_some_and(|at| at <= ms(1500)),
        "{:?}",
        after(OpenFallback)
    );
    assert!(
        after(Race).is_some_and(|at| at <= ms(3000)),
        "{:?}",
        after(Race)
    );
}

#[test]
fn silence_without_a_hint_is_asked_first() {
    let tail = |from: u64| {
        [
            (from, Probe),
            (from + 500, RebindAndKick),
            (from + 1000, OpenFallback),
            (from + 1000, Probe),
        ]
    };
    check("idle", true, &[], 13_700, &tail(12_500));
    check(
        "a visit waits",
        true,
        &[(3000, In::Wait)],
        5300,
        &tail(4060),
    );
    // The caller looks once per keep-alive, and then knows what is due since when.
    check(
        "an upload gets no answer",
        true,
        &[(3950, In::Owe)],
        6200,
        &tail(5010),
    );
    check(
        "the probe is answered",
        true,
        &[(3000, In::Wait), (4100, In::Hear)],
        16_500,
        &[(4060, Probe)],
    );
}

#[test]
fn a_visit_that_was_answered_waits_no_more() {
    check(
        "answered",
        true,
        &[(3000, In::Wait), (3100, In::Hear)],
        15_500,
        &[],
    );
}

#[test]
fn the_link_moves_to_the_fallback_and_back_when_udp_works_again() {
    check(
        "there and back",
        true,
        &[
            (1000, In::Change),
            (2700, In::Up),
            (2750, In::Hear),
            (7000, In::Hear),
            (12_000, In::Hear),
            (17_000, In::Hear),
            (22_000, In::Hear),
            (23_000, In::Udp(false)),
            (27_000, In::Hear),
            (32_000, In::Hear),
            (37_000, In::Hear),
            (42_000, In::Hear),
            (43_100, In::Udp(true)),
            (43_150, In::Hear),
        ],
        50_000,
        &[
            (1000, RebindAndKick),
            (1500, Probe),
            (1750, Probe),
            (2000, Probe),
            (2250, Probe),
            (2500, OpenFallback),
            (2500, RebindAndKick),
            (2700, UseFallback),
            (22_700, TryUdp),
            (43_000, TryUdp),
            (43_100, BackToUdp),
            (43_600, CloseFallback),
        ],
    );
}

#[test]
fn a_return_to_udp_that_hears_nothing_goes_back_to_the_fallback() {
    check(
        "a false spring",
        true,
        &[
            (1000, In::Change),
            (2700, In::Up),
            (2750, In::Hear),
            (14_000, In::Hear),
            (22_000, In::Hear),
            (22_800, In::Udp(true)),
            (24_400, In::Hear),
        ],
        30_000,
        &[
            (1000, RebindAndKick),
            (1500, Probe),
            (1750, Probe),
            (2000, Probe),
            (2250, Probe),
            (2500, OpenFallback),
            (2500, RebindAndKick),
            (2700, UseFallback),
            (22_700, TryUdp),
            (22_800, BackToUdp),
            (23_300, Probe),
            (23_550, Probe),
            (23_800, Probe),
            (24_050, Probe),
            (24_300, UseFallback),
            (24_300, Probe),
        ],
    );
}

#[test]
fn a_fallback_that_fails_is_tried_again_and_one_that_is_not_needed_is_closed() {
    let begin = [
        (1000, RebindAndKick),
        (1500, Probe),
        (1750, Probe),
        (2000, Probe),
        (2250, Probe),
        (2500, OpenFallback),
        (2500, RebindAndKick),
    ];
    let mut late = begin.to_vec();
    late.push((2750, CloseFallback));
    late.push((5000, CloseFallback));
    check(
        "udp was first",
        true,
        &[(1000, In::Change), (2600, In::Hear), (5000, In::Up)],
        14_000,
        &late,
    );
    let mut link = Link::new(true);
    link.run_until(link.start + ms(1000));
    link.happen(In::Change);
    link.run_until(link.start + ms(3000));
    link.happen(In::Broken);
    link.run_until(link.start + ms(23_000));
    let opened: Vec<_> = link
        .done
        .iter()
        .filter(|(_, d)| *d == OpenFallback)
        .collect();
    assert_eq!(opened, [&(2500, OpenFallback), &(23_000, OpenFallback)]);
}

#[test]
fn a_broken_fallback_or_a_new_network_moves_the_link_to_udp_at_once() {
    let to_fallback = [
        (1000, RebindAndKick),
        (1500, Probe),
        (1750, Probe),
        (2000, Probe),
        (2250, Probe),
        (2500, OpenFallback),
        (2500, RebindAndKick),
        (2700, UseFallback),
    ];
    let inputs = [(1000, In::Change), (2700, In::Up), (2750, In::Hear)];
    for (then, more) in [
        (In::Broken, vec![(9000, RebindAndKick)]),
        (
            In::Change,
            vec![(9000, CloseFallback), (9000, RebindAndKick)],
        ),
    ] {
        let inputs = [&inputs[..], &[(9000, then), (9050, In::Hear)]].concat();
        let expected = [&to_fallback[..], &more].concat();
        check("back on udp", true, &inputs, 20_000, &expected);
    }
}

#[test]
fn a_fallback_over_which_nothing_comes_is_given_up_for_another() {
    let mut link = Link::new(true);
    link.happen(In::Change);
    link.run_until(link.start + ms(1600));
    link.happen(In::Up);
    link.run_until(link.start + secs(20));
    let duties: Vec<_> = link.done.iter().map(|(_, duty)| *duty).collect();
    let at = |duty| duties.iter().rposition(|d| *d == duty).unwrap();
    assert!(at(UseFallback) < at(CloseFallback), "{duties:?}");
    assert!(at(CloseFallback) < at(OpenFallback), "{duties:?}");
    assert_eq!(duties.iter().filter(|d| **d == Race).count(), 1);
}

/// What a hint at one second leads to without a fallback, up to the race and the kick that comes with it.
fn until_the_race() -> Vec<(u64, Duty)> {
    [
        vec![(1000, RebindAndKick)],
        probes(1500..=2250),
        vec![(2500, RebindAndKick)],
        probes(2750..=3750),
        vec![(4000, Race), (4000, Probe)],
    ]
    .concat()
}

#[test]
fn a_won_race_gives_the_old_link_a_last_word() {
    let begin = until_the_race();
    let won = [(1000, In::Change), (4100, In::Won)];
    let silent = [&begin[..], &[(4100, KickOld), (4400, TakeNew)]].concat();
    check("silent", false, &won, 60_000, &silent);
    let alive = [&begin[..], &[(4100, KickOld), (4400, DropNew)]].concat();
    let inputs = [&won[..], &[(4150, In::Hear)]].concat();
    check("it lives", false, &inputs, 16_000, &alive);
    let broken = [
        &begin[..],
        &[(4100, KickOld), (4250, Probe), (4500, Probe), (4650, Race)],
    ]
    .concat();
    let inputs = [&won[..], &[(4150, In::Lost)]].concat();
    check("the new one broke first", false, &inputs, 4700, &broken);
}

#[test]
fn the_last_word_takes_two_round_trips_of_the_new_connection() {
    let mut link = Link::new(false);
    link.happen(In::Change);
    link.run_until(link.start + secs(3));
    let far = RaceNews::Won { rtt: ms(700) };
    link.watch.handle_race(link.now, far);
    link.run_until(link.start + secs(10));
    assert!(link.done.contains(&(4400, TakeNew)), "{:?}", link.done);
}

#[test]
fn a_lost_race_is_run_again_after_a_wait_that_grows() {
    let mut link = Link::new(false);
    link.happen(In::Change);
    let mut races = Vec::new();
    for second in 0..200 {
        link.run_until(link.start + secs(second));
        while let Some(at) = link.done.iter().position(|(_, d)| *d == Race) {
            races.push(link.done.remove(at).0);
            link.happen(In::Lost);
        }
    }
    // Half a second, one, two… thirty, on the whole second on which the test looks.
    assert_eq!(races[..4], [3000, 3500, 5000, 7000]);
    let last = races[races.len() - 1] - races[races.len() - 2];
    assert!((29_000..=31_000).contains(&last), "{races:?}");
}

#[test]
fn an_outage_that_ends_without_a_word_is_found_within_two_seconds() {
    let mut link = Link::new(false);
    link.run_until(link.start + secs(200));
    let kicks = [Probe, RebindAndKick];
    let times: Vec<_> = link
        .done
        .iter()
        .filter(|(_, d)| kicks.contains(d))
        .collect();
    assert!(
        times.windows(2).all(|w| w[1].0 - w[0].0 <= 2000),
        "{times:?}"
    );
}

#[test]
fn a_server_that_was_started_again_was_not_asked_for_two_seconds() {
    let mut link = Link::new(true);
    link.happen(In::Wait);
    link.run_until(link.start + secs(12));
    let kicks: Vec<_> = link
        .done
        .iter()
        .filter(|(_, d)| [Probe, RebindAndKick].contains(d))
        .collect();
    // From the first probe on, for ten seconds, and from a fresh socket now and then.
    assert_eq!(kicks[0].0, 1060);
    assert!(
        kicks.windows(2).all(|w| w[1].0 - w[0].0 <= 500),
        "{kicks:?}"
    );
    let moves = kicks.iter().filter(|(_, d)| *d == RebindAndKick).count();
    assert_eq!(moves, 4, "{kicks:?}");
}

#[test]
fn blocked_udp_that_nobody_announced_took_three_seconds_to_get_round() {
    let mut link = Link::new(true);
    link.run_until(link.start + ms(3000));
    link.happen(In::Wait);
    link.run_until(link.start + ms(6000));
    let opened = link.done.iter().find(|(_, duty)| *duty == OpenFallback);
    // A second and three round trips, the probe's time, and that of the fresh socket.
    assert_eq!(opened, Some(&(5060, OpenFallback)), "{:?}", link.done);
}

#[test]
fn a_link_that_ended_is_followed_by_a_new_one() {
    check(
        "at rest",
        true,
        &[(1000, In::Gone), (1600, In::Won)],
        60_000,
        &[(1500, Race), (1600, TakeNew)],
    );
    let mut followed = until_the_race();
    followed.push((4200, TakeNew));
    let inputs = [(1000, In::Change), (4100, In::Gone), (4200, In::Won)];
    check("in a race", false, &inputs, 60_000, &followed);
    check(
        "on a new network the wait is over",
        true,
        &[(1000, In::Gone), (1200, In::Change)],
        3000,
        &[(1200, Race)],
    );
}

fn inputs() -> impl Strategy<Value = In> {
    prop_oneof![
        4 => Just(In::Hear),
        1 => Just(In::Owe),
        2 => Just(In::Change),
        1 => Just(In::Wake),
        1 => Just(In::Step),
        1 => Just(In::Wait),
        2 => Just(In::Up),
        1 => Just(In::Broken),
        1 => Just(In::Won),
        2 => Just(In::Lost),
        1 => any::<bool>().prop_map(In::Udp),
        1 => Just(In::Gone),
    ]
}

/// What a role would have running, from the duties it was given.
#[derive(Debug, Default)]
struct Running {
    races: i32,
    fallback: bool,
    taken: bool,
}

impl Running {
    fn follow(&mut self, duty: Duty) {
        assert!(!self.taken, "{duty:?} after the end");
        match duty {
            Race => self.races += 1,
            DropNew => self.races = 0,
            TakeNew => (self.races, self.taken) = (0, true),
            OpenFallback => self.fallback = true,
            CloseFallback => self.fallback = false,
            UseFallback | BackToUdp | TryUdp => assert!(self.fallback, "{duty:?} without one"),
            Probe | RebindAndKick | KickOld => {}
        }
        assert!(self.races <= 1, "two races at once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn there_are_never_two_races_and_silence_is_never_left_alone(
        fallback in any::<bool>(),
        steps in proptest::collection::vec((0u64..20_000, inputs()), 0..60),
    ) {
        let mut link = Link::new(fallback);
        let mut running = Running::default();
        let mut gone = false;
        let mut seen = 0;
        for (wait, input) in steps {
            link.run_until(link.now + ms(wait));
            for (_, duty) in &link.done[seen..] {
                running.follow(*duty);
            }
            seen = link.done.len();
            // Only what is running can come to an end; what has ended is not heard.
            match input {
                In::Won | In::Lost if running.races == 0 => continue,
                In::Up | In::Broken if !running.fallback => continue,
                In::Hear if gone => continue,
                In::Gone => gone = true,
                _ => {}
            }
            if matches!(input, In::Lost) {
                running.races = 0;
            }
            if matches!(input, In::Broken) {
                running.fallback = false;
            }
            link.happen(input);
            for (_, duty) in &link.done[seen..] {
                running.follow(*duty);
            }
            seen = link.done.len();
            // Something is always to come, and soon enough.
            match link.watch.poll_timeout() {
                None => prop_assert!(running.taken),
                // With the old link gone there is nothing to kick: the next dial may be a back-off away.
                Some(at) if gone => prop_assert!(at <= link.now + secs(30)),
                Some(at) => prop_assert!(at <= link.now + 3 * KEEP_ALIVE),
            }
        }
        if running.taken {
            return Ok(());
        }
        // Left alone in silence it keeps trying; a link that ended has a dial running or coming.
        let from = link.done.len();
        link.run_until(link.now + secs(60));
        let tries = [Probe, RebindAndKick, Race, TakeNew];
        let tried = link.done[from..].iter().any(|(_, duty)| tries.contains(duty));
        for (_, duty) in &link.done[seen..] {
            running.follow(*duty);
        }
        prop_assert!(tried || running.races == 1 || running.taken);
        if gone || running.taken {
            return Ok(());
        }
        // Heard, everything stops.
        link.now += ms(1);
        link.happen(In::Hear);
        link.watch.handle_pulse(link.now, link.pulse);
        link.take();
        let from = link.done.len();
        link.run_until(link.now + secs(1));
        prop_assert_eq!(link.watch.silent_since(), None);
        let after = &link.done[from..];
        prop_assert!(after.iter().all(|(_, duty)| *duty == TryUdp), "{:?}", after);
    }
}
