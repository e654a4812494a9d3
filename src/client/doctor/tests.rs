//! Looks side by side.

use std::time::Duration;

use super::*;

#[tokio::test(start_paused = true)]
async fn looks_run_side_by_side_and_keep_their_order() {
    let begun = tokio::time::Instant::now();
    let looks = (0..2 * AT_ONCE as u64).map(|n| -> Look<'_> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1000 - n)).await;
            Some(CheckJson::ok("origin", n.to_string()))
        })
    });
    let found = few_at_once(looks.collect()).await;
    let order: Vec<String> = found.into_iter().map(|check| check.what).collect();
    let wanted: Vec<String> = (0..2 * AT_ONCE).map(|n| n.to_string()).collect();
    assert_eq!(order, wanted);
    assert!(begun.elapsed() < Duration::from_secs(3), "two handfuls");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_never_ends_is_said_not_to_be_known() {
    let found = in_time("dns", std::future::pending()).await;
    assert_eq!(found[0].name, "dns");
    assert!(found[0].what.contains("30 s"), "{found:?}");
}
