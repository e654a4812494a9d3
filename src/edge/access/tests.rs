//! The log's own part: what a sample keeps, and what a writer that hangs costs.

use std::sync::mpsc::RecvTimeoutError;

use super::*;
use crate::engine::policy::RuleId;
use crate::engine::{Bandwidth, Route};
use crate::names::{Generation, LinkId, Slug, TunnelId};

fn line(code: Option<Code>) -> Line {
    Line {
        id: VisitId::random(),
        kind: Kind::Http,
        tunnel: Some("app".to_owned()),
        method: Some("GET".to_owned()),
        host: Some("app.tunnel.example.com".to_owned()),
        path: Some("/".to_owned()),
        version: Some("2"),
        status: Some(200),
        bytes_in: 0,
        bytes_out: 3,
        first: Some(Duration::from_micros(1500)),
        whole: Duration::from_millis(2),
        complete: true,
        decision: "admit",
        rule: Some("default".to_owned()),
        shadowed: None,
        code,
        peer: ([127, 0, 0, 1], 4000).into(),
        unlogged: 0,
    }
}

/// Past networks that would have been denied.
fn route(shadows: &[&str]) -> Route {
    let deny = |net: &&str| RuleId::Deny(net.parse().unwrap());
    Route {
        visit: VisitId::random(),
        tunnel: TunnelId::random(),
        slug: Slug::parse("app").unwrap(),
        link: LinkId(Generation {
            boot: 1,
            counter: 1,
        }),
        policy: Arc::default(),
        rule: RuleId::Default,
        shadowed: shadows.iter().map(deny).collect(),
        bandwidth: Bandwidth::UNLIMITED,
    }
}

#[test]
fn a_sample_keeps_failures_apart_and_counts_what_it_leaves_out() {
    let (mut sample, now) = (Sample::default(), Clock.now().monotonic);
    let kept = |sample: &mut Sample, now, sort| {
        (0..1000)
            .filter(|_| sample.take(now, sort).is_some())
            .count()
    };
    assert_eq!(kept(&mut sample, now, Sort::Served), SAMPLE_SERVED as usize);
    // The first failure's line tells of those before it.
    let left_out = 1000 - u64::from(SAMPLE_SERVED);
    assert_eq!(sample.take(now, Sort::Failed), Some(left_out));
    assert_eq!(
        kept(&mut sample, now, Sort::Failed),
        SAMPLE_FAILED as usize - 1
    );
    let left_out = 1001 - u64::from(SAMPLE_FAILED);
    let later = now + Duration::from_secs(1);
    assert_eq!(sample.take(later, Sort::Served), Some(left_out));
    assert_eq!(sample.take(later, Sort::Served), Some(0));
}

#[test]
fn a_writer_that_hangs_costs_lines_and_no_time() {
    fn stuck(_: &Line) {
        std::thread::park();
    }
    let log = AccessLog::writing_to(AccessMode::Full, stuck);
    let (done, finished) = sync_channel::<()>(1);
    let ours = Arc::clone(&log);
    std::thread::spawn(move || {
        for _ in 0..QUEUE + 100 {
            ours.put(line(None));
        }
        let _ = done.send(());
    });
    let waited = finished.recv_timeout(Duration::from_secs(30));
    assert_ne!(waited, Err(RecvTimeoutError::Timeout), "a visit waited");
    let lost = log.lost.load(Ordering::Relaxed);
    assert!((98..=100).contains(&lost), "{lost} were counted as lost");
}

#[test]
fn nothing_is_taken_when_it_is_off() {
    let log = AccessLog::writing_to(AccessMode::Off, |_| panic!("written"));
    log.put(line(None));
    assert!(log.queue.get().is_none(), "a thread was started");
    log.set_mode(AccessMode::Full);
    assert!(log.is_on());
}

#[test]
fn what_only_a_shadow_let_in_has_a_line_whatever_is_set_and_not_without_end() {
    static WRITTEN: Mutex<Vec<Line>> = Mutex::new(Vec::new());
    let log = AccessLog::writing_to(AccessMode::Off, |line| {
        WRITTEN.lock().unwrap().push(line.clone());
    });
    let visit = |shadows: &[&str]| {
        let (id, peer) = (VisitId::random(), ([127, 0, 0, 1], 4000).into());
        let visit = VisitLog::of_bytes(&log, id, peer, (Kind::Tls, "app"), Some("app.example"));
        visit.received(7);
        let route = route(shadows);
        visit.admitted(&route, || Asked {
            host: Some("app.example"),
            ..Asked::default()
        });
        visit.sent(9);
        visit.ended(Ok(()));
    };
    let flood = 100 * u64::from(SAMPLE_SHADOWED);
    let started = Clock.now().monotonic;
    for _ in 0..flood {
        visit(&[]);
        visit(&["10.0.0.0/8", "192.0.2.0/24"]);
    }
    let seconds = 1 + started.elapsed().as_secs();
    // The thread writes what it was given, and then it ends.
    let queue = log.queue.get().unwrap().clone().unwrap();
    let (done, written) = oneshot::channel();
    queue.send(Message::Flush(done)).unwrap();
    written.blocking_recv().unwrap();
    let lines = WRITTEN.lock().unwrap();
    let most = u64::from(SAMPLE_SHADOWED) * (1 + seconds);
    let count = lines.len() as u64;
    assert!(
        (u64::from(SAMPLE_SHADOWED)..=most).contains(&count),
        "{count}"
    );
    let first = &lines[0];
    let told = first.shadowed.as_deref();
    assert_eq!(told, Some("deny 10.0.0.0/8, deny 192.0.2.0/24"));
    assert_eq!(first.decision, "admit");
    assert_eq!(first.tunnel.as_deref(), Some("app"));
    assert_eq!(first.host.as_deref(), Some("app.example"));
    assert_eq!((first.bytes_in, first.bytes_out), (7, 9));
    assert!(first.complete);
    assert!(lines.iter().all(|line| line.shadowed.is_some()));
}

#[test]
fn times_have_three_places() {
    assert_eq!(millis(Duration::from_micros(1_234_567)), 1234.567);
    assert_eq!(millis(Duration::from_secs(86_400)), 86_400_000.0);
}
