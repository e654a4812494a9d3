//! The log's own part: what a sample keeps, and what a writer that hangs costs.

use std::sync::mpsc::RecvTimeoutError;

use super::*;

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

#[test]
fn a_sample_keeps_failures_apart_and_counts_what_it_leaves_out() {
    let (mut sample, now) = (Sample::default(), Clock.now().monotonic);
    let kept = |sample: &mut Sample, now, failed| {
        (0..1000)
            .filter(|_| sample.take(now, failed).is_some())
            .count()
    };
    assert_eq!(kept(&mut sample, now, false), SAMPLE_SERVED as usize);
    // The first failure's line tells of those before it.
    let left_out = 1000 - u64::from(SAMPLE_SERVED);
    assert_eq!(sample.take(now, true), Some(left_out));
    assert_eq!(kept(&mut sample, now, true), SAMPLE_FAILED as usize - 1);
    let left_out = 1001 - u64::from(SAMPLE_FAILED);
    let later = now + Duration::from_secs(1);
    assert_eq!(sample.take(later, false), Some(left_out));
    assert_eq!(sample.take(later, false), Some(0));
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
fn times_have_three_places() {
    assert_eq!(millis(Duration::from_micros(1_234_567)), 1234.567);
    assert_eq!(millis(Duration::from_secs(86_400)), 86_400_000.0);
}
