//! Own domains on the command line: what is asked, and what a person reads.

use super::Shell;
use crate::admin::domains::{DomainJson, RecordJson};
use crate::admin::testing::{Daemon, tunnel};
use crate::ctl::domains::{beside, lines};
use crate::ctl::text::Times;
use crate::times::WallTime;

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

fn domain(state: &str) -> DomainJson {
    let name = "_wormkey-challenge.app.example.org".to_owned();
    DomainJson {
        domain: "app.example.org".to_owned(),
        state: state.to_owned(),
        since: Some(NOW),
        missing_since: None,
        checked_at: Some(NOW),
        record: Some(RecordJson::txt(name, "wormkey=abc".to_owned())),
        why: None,
        certificate: None,
    }
}

fn shown(domain: DomainJson) -> String {
    let times = Times {
        now: NOW,
        zone: jiff::tz::TimeZone::UTC,
    };
    lines(&[domain], &times).join("\n")
}

#[tokio::test]
async fn domains_are_asked_for_canonical_and_set_adds_and_takes_away() {
    let daemon = Daemon::client();
    let line = "open 3000 --domain App.Example.org. --domain *.b.example:443";
    let opened = Shell::to(&daemon).run(line).await;
    assert_eq!(opened.exit, 0, "{}", opened.err);
    let asked = daemon.fake.state().opened.remove(0).domains;
    assert_eq!(asked, ["app.example.org", "*.b.example"]);
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    let mut calls = daemon.fake.calls.subscribe();
    let line = "set app --domain c.example --remove-domain B.example";
    let set = Shell::to(&daemon).run(line).await;
    assert_eq!(set.exit, 0, "{}", set.err);
    let called = "domains app +[\"c.example\"] -[\"b.example\"]".to_owned();
    assert_eq!(calls.try_recv().unwrap(), called);
    assert!(daemon.fake.state().set.is_empty(), "no rule is touched");
    for bad in [
        "localhost",
        "192.0.2.1",
        "app",
        "bücher.example",
        "a.*.example",
    ] {
        let refused = Shell::to(&daemon)
            .run(&format!("open 3000 --domain {bad}"))
            .await;
        assert_eq!(refused.exit, 2, "{bad}: {}", refused.out);
    }
    daemon.stop().await;
}

#[test]
fn each_state_says_what_to_do() {
    let record = "_wormkey-challenge.app.example.org TXT \"wormkey=abc\"";
    let pending = shown(domain("pending"));
    assert!(
        pending.contains("once this record is there") && pending.contains(record),
        "{pending}"
    );
    let proven = shown(DomainJson {
        certificate: Some("asked for".to_owned()),
        ..domain("proven")
    });
    assert!(
        proven.contains("leads here since") && !proven.contains(record),
        "{proven}"
    );
    assert!(proven.contains("certificate: asked for"), "{proven}");
    let missing = shown(DomainJson {
        missing_since: Some(NOW),
        ..domain("proven")
    });
    assert!(
        missing.contains("place it again") && missing.contains(record),
        "{missing}"
    );
    let lost = shown(DomainJson {
        why: Some("another\nuser's".to_owned()),
        ..domain("lost")
    });
    assert!(
        lost.contains("leads nowhere") && lost.contains(record),
        "{lost}"
    );
    assert!(lost.contains("another\\nuser's"), "{lost}");
}

#[test]
fn a_list_tells_of_those_that_wait() {
    let of = |state| beside("https://app.t.example.com", &[domain(state)]);
    assert_eq!(of("proven"), "https://app.t.example.com, app.example.org");
    assert_eq!(
        of("pending"),
        "https://app.t.example.com, app.example.org (pending)"
    );
}
