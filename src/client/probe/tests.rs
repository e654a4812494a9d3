//! Whose question is answered, with what; and what outcomes mean.

use std::net::SocketAddr;

use http_body_util::BodyExt as _;

use super::*;
use crate::link::outside::{Answer, Certificate, OutsideError, Trust};
use crate::names::VisitId;
use crate::times::WallTime;
use crate::wire::memory::pipe;
use crate::wire::{FrameDecoder, WireBody, read_response_head};

const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

fn tunnel(number: u8) -> TunnelId {
    TunnelId::from_bytes([number; 16])
}

fn head(tunnel: TunnelId, path: &str) -> HttpHead {
    HttpHead {
        tunnel,
        visit: VisitId::from_bytes([1; 16]),
        method: Method::GET,
        scheme: "https".to_owned(),
        authority: "app.t.example".to_owned(),
        path: path.to_owned(),
        fields: HeaderMap::new(),
        peer: "192.0.2.7:1234".parse().unwrap(),
        protocol: None,
        version: 11,
        has_body: false,
        expects_continue: false,
        timeout_ms: 0,
        shadowed: Vec::new(),
    }
}

#[test]
fn only_a_question_under_way_gets_a_proof_and_only_for_its_tunnel() {
    let probes = Probes::new(None).unwrap();
    let question = probes.ask(tunnel(1)).unwrap();
    let path = question.nonce.path();
    assert_eq!(
        probes.answer_to(&head(tunnel(1), &path)),
        Some(question.proof())
    );
    assert_eq!(
        probes.answer_to(&head(tunnel(2), &path)),
        None,
        "it came back through another tunnel"
    );
    let stranger = ProbeNonce([7; 16]).path();
    assert_eq!(probes.answer_to(&head(tunnel(1), &stranger)), None);
    drop(question);
    assert_eq!(
        probes.answer_to(&head(tunnel(1), &path)),
        None,
        "it is over"
    );
    assert!(probes.lock().is_empty());
}

#[test]
fn another_process_cannot_make_the_proof() {
    let (ours, other) = (Probes::new(None).unwrap(), Probes::new(None).unwrap());
    let nonce = ProbeNonce([7; 16]);
    assert_ne!(ours.proof(tunnel(1), nonce), other.proof(tunnel(1), nonce));
    assert_ne!(ours.proof(tunnel(1), nonce), ours.proof(tunnel(2), nonce));
}

#[tokio::test]
async fn the_answer_is_the_proof_and_a_stranger_gets_nothing() {
    let probes = Probes::new(None).unwrap();
    let question = probes.ask(tunnel(1)).unwrap();
    for (path, status, body) in [
        (question.nonce.path(), 200, question.proof()),
        (ProbeNonce([7; 16]).path(), 404, String::new()),
        ("/.wormkey/".to_owned(), 404, String::new()),
    ] {
        let (tx, mut answer) = pipe(4096);
        let (_kept, rx) = pipe(4096);
        assert!(Probes::is_ours(&head(tunnel(1), &path)));
        probes.answer(&head(tunnel(1), &path), tx, rx).await;
        let mut decoder = FrameDecoder::new();
        let got = read_response_head(&mut answer, &mut decoder).await.unwrap();
        assert_eq!(got.status, status, "{path}");
        let rest = WireBody::new(answer, decoder).collect().await.unwrap();
        assert_eq!(rest.to_bytes(), body.as_bytes(), "{path}");
    }
}

fn answer(status: u16, code: Option<&str>, body: &str, trust: Trust) -> Answer {
    let mut fields = HeaderMap::new();
    if let Some(code) = code {
        fields.insert("wormkey-error", code.parse().unwrap());
    }
    Answer {
        at: at("203.0.113.7"),
        certificate: Certificate {
            issuer: None,
            self_signed: true,
            until: None,
            trust,
        },
        status: StatusCode::from_u16(status).unwrap(),
        fields,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 443)
}

fn judged(outcome: Result<Answer, OutsideError>, server: &str) -> ProbeJson {
    let asked = Asked {
        host: "app.t.example",
        proof: "proof",
    };
    let around = Surroundings {
        server: server.parse().unwrap(),
        found: vec!["203.0.113.7".parse().unwrap()],
    };
    judge::judge(outcome, &asked, &around, NOW)
}

const PUBLIC: &str = "203.0.113.7";
const INSIDE: &str = "192.168.1.7";

#[test]
fn a_certificate_that_nobody_knows_is_told_and_no_failure() {
    let good = judged(Ok(answer(200, None, "proof", Trust::Vouched)), PUBLIC);
    assert_eq!((&*good.state, good.cause), ("works", None));
    let own = judged(Ok(answer(200, None, "proof", Trust::Unvouched)), PUBLIC);
    assert_eq!(
        (&*own.state, own.cause.as_deref()),
        ("works", Some("certificate"))
    );
    assert!(own.detail.contains("self-signed"), "{}", own.detail);
}

#[test]
fn every_way_of_failing_has_its_own_name() {
    let io = || std::io::Error::other("x");
    let host = || "app.t.example".to_owned();
    let there = at(PUBLIC);
    let closed = Ok(answer(410, Some("tunnel_closed"), "", Trust::Vouched));
    let offline = Ok(answer(502, Some("tunnel_offline"), "", Trust::Vouched));
    let busy = Ok(answer(429, Some("rate_limited"), "", Trust::Vouched));
    let stranger = Ok(answer(404, None, "<html>", Trust::Vouched));
    let forged = Ok(answer(200, None, "prooof", Trust::Vouched));
    for (outcome, state, cause) in [
        (
            Err(OutsideError::NoAddress { host: host() }),
            "broken",
            "name",
        ),
        (
            Err(OutsideError::NoResolver { host: host() }),
            "unchecked",
            "name",
        ),
        (
            Err(OutsideError::Refused { at: there }),
            "broken",
            "connection",
        ),
        (
            Err(OutsideError::Silent { at: there }),
            "unchecked",
            "connection",
        ),
        (
            Err(OutsideError::NoWay {
                at: there,
                source: io(),
            }),
            "unchecked",
            "connection",
        ),
        (
            Err(OutsideError::Tls {
                at: there,
                source: io(),
            }),
            "broken",
            "tls",
        ),
        (closed, "broken", "answer"),
        (offline, "broken", "answer"),
        // Strangers can bring that about, and must not make us cry wolf.
        (busy, "unchecked", "answer"),
        (stranger, "broken", "proof"),
        (forged, "broken", "proof"),
    ] {
        let found = judged(outcome, PUBLIC);
        assert_eq!(
            (&*found.state, found.cause.as_deref()),
            (state, Some(cause)),
            "{found:?}"
        );
        assert_eq!(
            found.detail.starts_with("could not check from here"),
            state == "unchecked",
            "{found:?}"
        );
    }
}

#[test]
fn a_router_that_does_not_let_the_inside_in_is_no_broken_tunnel() {
    let router = Ok(answer(404, None, "router", Trust::Unvouched));
    let refused = Err(OutsideError::Refused { at: at(PUBLIC) });
    for outcome in [router, refused] {
        let found = judged(outcome, INSIDE);
        assert_eq!(found.state, "unchecked", "{found:?}");
    }
    // What our own server says is true from wherever it is heard.
    let gone = Ok(answer(410, Some("tunnel_closed"), "", Trust::Vouched));
    assert_eq!(judged(gone, INSIDE).state, "broken");
    let no_name = Err(OutsideError::NoAddress {
        host: "app.t.example".to_owned(),
    });
    assert_eq!(judged(no_name, INSIDE).state, "broken");
}

#[test]
fn private_addresses_are_those_behind_routers() {
    for inside in [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
    ] {
        assert!(is_private(inside.parse().unwrap()), "{inside}");
    }
    for outside in ["203.0.113.7", "100.63.0.1", "100.128.0.1", "2001:db8::1"] {
        assert!(!is_private(outside.parse().unwrap()), "{outside}");
    }
}

#[test]
fn places_come_out_of_addresses() {
    assert_eq!(
        place_of("https://app.t.example"),
        Some(("app.t.example".to_owned(), 443))
    );
    assert_eq!(
        place_of("https://app.t.example:8443"),
        Some(("app.t.example".to_owned(), 8443))
    );
    assert_eq!(place_of("nonsense of no kind"), None);
}
