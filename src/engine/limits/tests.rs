use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::times::Clock;

fn start() -> Instant {
    Clock.now().monotonic
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let per = prop_oneof![Just(Per::Second), Just(Per::Minute), Just(Per::Hour)];
    (1_u32..5_000, per, 1_u32..2_000).prop_map(|(n, per, burst)| Rate::new(n, per).burst(burst))
}

proptest! {
    #[test]
    fn the_nth_at_once_passes_and_the_next_does_not(rate in any_rate()) {
        let (now, mut bucket) = (start(), Bucket::default());
        for _ in 0..rate.at_once().get() {
            prop_assert_eq!(bucket.take(now, rate), Ok(()));
        }
        let wait = bucket.take(now, rate).unwrap_err();
        // One nanosecond early is early, and on time is on time.
        let early = now + wait - Duration::from_nanos(1);
        prop_assert!(bucket.take(early, rate).is_err());
        prop_assert_eq!(bucket.take(now + wait, rate), Ok(()));
        prop_assert!(bucket.take(now + wait, rate).is_err());
    }

    #[test]
    fn no_window_lets_more_through_than_burst_and_rate(
        rate in any_rate(),
        steps in prop::collection::vec(0_u64..400, 1..400),
    ) {
        let (begin, mut bucket) = (start(), Bucket::default());
        let (mut now, mut passed) = (begin, 0_u32);
        for millis in steps {
            now += Duration::from_millis(millis);
            passed += u32::from(bucket.take(now, rate).is_ok());
        }
        let seconds = now.duration_since(begin).as_secs_f64();
        let text = rate.to_string();
        let unit = match text.split([' ', '/']).nth(1) { Some("s") => 1.0, Some("m") => 60.0, _ => 3600.0 };
        let count: f64 = text.split('/').next().unwrap().parse().unwrap();
        // Each is rounded down to a nanosecond.
        let most = f64::from(rate.at_once().get()) + seconds * count / unit * 1.00001 + 1.0;
        prop_assert!(f64::from(passed) <= most, "{passed} > {most}");
    }

    #[test]
    fn rates_survive_their_text(rate in any_rate()) {
        prop_assert_eq!(rate.to_string().parse(), Ok(rate));
    }

    #[test]
    fn nobody_gets_a_fresh_bucket_by_filling_the_table(
        strangers in prop::collection::vec(1_u32..200, 0..300),
    ) {
        let (now, rate) = (start(), Rate::new(1, Per::Minute).burst(2));
        let mut table = Table::new(16);
        let mut take = |key: u32| {
            table.tidy(now, key);
            let verdict = table.look(key).bucket.peek(now, rate);
            let seat = table.seat(key);
            let meter = table.meter(seat).unwrap();
            meter.bucket.count(now, rate);
            assert!(table.len() <= 16);
            verdict
        };
        prop_assert!(take(0).is_ok());
        prop_assert!(take(0).is_ok());
        for stranger in strangers {
            let _ = take(stranger);
        }
        prop_assert!(take(0).is_err());
    }
}

#[test]
fn rates_read_as_people_write_them() {
    for (text, shown, at_once) in [
        ("50/s", "50/s", 50),
        ("50/s burst 200", "50/s burst 200", 200),
        ("50/s burst 50", "50/s", 50),
        ("50/m", "50/m", 1),
        ("120/m", "120/m", 2),
        (" 7 / h ", "7/h", 1),
    ] {
        let rate: Rate = text.parse().unwrap();
        assert_eq!(rate.to_string(), shown);
        assert_eq!(rate.at_once().get(), at_once, "{text}");
    }
    for bad in [
        "",
        "50",
        "0/s",
        "-1/s",
        "+5/s",
        "1/d",
        "1.5/s",
        "2000000/s",
        "5/s burst 0",
        "5/s burst",
        "5/s burst 1 2",
        "/s",
        "5/",
    ] {
        assert!(bad.parse::<Rate>().is_err(), "{bad}");
    }
}

#[test]
fn a_table_forgets_what_is_over_and_shares_when_all_are_busy() {
    let (now, rate) = (start(), Rate::new(1, Per::Second));
    let mut table: Table<u32> = Table::new(4);
    for key in 0..4 {
        let seat = table.seat(key);
        table.meter(seat).unwrap().bucket.count(now, rate);
    }
    table.tidy(now, 9);
    assert!(matches!(table.seat(9), Seat::Shared(_)));
    let later = now + Duration::from_secs(2);
    table.tidy(later, 9);
    assert_eq!(table.seat(9), Seat::Own(9));
    assert_eq!(table.len(), 4);
}

#[test]
fn what_goes_on_keeps_its_place() {
    let now = start();
    let mut table: Table<u32> = Table::new(1);
    let seat = table.seat(1);
    table.meter(seat).unwrap().open = 1;
    table.tidy(now, 2);
    assert!(matches!(table.seat(2), Seat::Shared(_)));
    table.meter(seat).unwrap().open = 0;
    table.tidy(now, 2);
    assert_eq!(table.seat(2), Seat::Own(2));
}

#[test]
fn an_ipv6_machine_is_one_visitor() {
    let of = |text: &str| Visitor::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    let all: HashSet<_> = ["192.0.2.1", "192.0.2.2", "::1"].map(of).into();
    assert_eq!(all.len(), 3);
}

#[test]
fn a_source_is_stopped_at_its_rate_and_others_are_not() {
    let (now, rates, mut sources) = (start(), SourceRates::default(), Sources::default());
    let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    let (bad, good) = (of("192.0.2.1"), of("192.0.2.2"));
    for _ in 0..10 {
        assert_eq!(sources.take(now, &rates, Act::Password, bad), Ok(()));
    }
    let wait = sources.take(now, &rates, Act::Password, bad).unwrap_err();
    assert!(wait <= Duration::from_secs(6), "{wait:?}");
    assert_eq!(sources.take(now, &rates, Act::Password, good), Ok(()));
    assert_eq!(sources.take(now, &rates, Act::FailedJoin, bad), Ok(()));
    sources.give_back(now, &rates, Act::Password, bad);
    assert_eq!(sources.take(now, &rates, Act::Password, bad), Ok(()));
}
