//! Paths that are ours: one leads to the client itself, the others nowhere.

use super::*;
use crate::wire::probe::ProbeNonce;

const NONCE: ProbeNonce = ProbeNonce([0xab; 16]);

fn asked(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: app.t.example\r\nConnection: close\r\n{fields}\r\n")
}

fn status_of(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_probe_goes_the_way_of_a_visit_and_is_none() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    let fields = "Cookie: secret=1\r\nAuthorization: Basic eDp5\r\n";
    visitor
        .send(asked("GET", &NONCE.path(), fields).as_bytes())
        .await;
    let stream = world.stream().await;
    assert_eq!(stream.head.path, NONCE.path());
    assert_eq!(stream.head.tunnel, TunnelId::from_bytes([7; 16]));
    assert_eq!(stream.field("cookie"), None, "nothing of who asks goes on");
    assert_eq!(stream.field("authorization"), None);
    stream
        .answer(200, &[("content-length", "5")], "proof")
        .await;
    let response = visitor.rest().await;
    assert_eq!(status_of(&response), "200", "{response}");
    assert!(response.ends_with("proof"), "{response}");
    let shared = world.shared.lock().unwrap();
    assert_eq!(shared.probed, ["app"]);
    assert!(shared.admitted.is_empty(), "the engine counts no visit");
    drop(shared);
    assert_eq!(world.edge.visits_total(), 0);
}

#[tokio::test(start_paused = true)]
async fn only_a_plain_get_of_a_whole_nonce_is_a_probe() {
    let world = World::new();
    let probe = NONCE.path();
    for (method, path, fields) in [
        ("GET", "/.well-known/wormkey/probe/", ""),
        ("GET", &*format!("{probe}00"), ""),
        ("GET", &*format!("{probe}?x=1"), ""),
        ("GET", "/.well-known/wormkey/", ""),
        ("GET", "/.wormkey/x", ""),
        ("HEAD", &*probe, ""),
        ("POST", &*probe, "Content-Length: 0\r\n"),
        ("DELETE", &*probe, ""),
    ] {
        let response = world.raw(asked(method, path, fields).as_bytes()).await;
        assert_eq!(status_of(&response), "404", "{method} {path}: {response}");
        assert!(response.contains("wormkey-error: not_found"), "{response}");
    }
    let with_body = asked("GET", &probe, "Content-Length: 1\r\n") + "x";
    let response = world.raw(with_body.as_bytes()).await;
    assert_eq!(status_of(&response), "404", "{response}");
    assert_eq!(world.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_has_no_way_is_told_so_at_once() {
    let world = World::new();
    let slug = || Slug::parse("app").unwrap();
    let retry_in = Duration::from_secs(1);
    for (refusal, status) in [
        (
            Refusal::Offline {
                tunnel: slug(),
                retry_in,
            },
            "502",
        ),
        (
            Refusal::Probed {
                tunnel: slug(),
                retry_in,
            },
            "429",
        ),
        (Refusal::Closed { tunnel: slug() }, "410"),
    ] {
        world.change(|shared| shared.refusals.push_back(Some(refusal.clone())));
        let response = world.raw(asked("GET", &NONCE.path(), "").as_bytes()).await;
        assert_eq!(status_of(&response), status, "{refusal}: {response}");
    }
    assert_eq!(world.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_probe_costs_seconds() {
    let mut world = World::new();
    let begun = tokio::time::Instant::now();
    let mut visitor = world.visitor();
    visitor
        .send(asked("GET", &NONCE.path(), "").as_bytes())
        .await;
    let _silent = world.stream().await;
    let response = visitor.rest().await;
    assert_eq!(status_of(&response), "504", "{response}");
    assert!(
        begun.elapsed() < Duration::from_secs(7),
        "not the origin's minute"
    );
}
