//! Certificates made here, judged; and addresses of this machine that take nothing.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpListener;

use super::certificate::read;
use super::*;
use crate::times::WallTime;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2060, 1, 1);
    params
}

fn own(params: CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

fn judged(der: &CertificateDer<'_>, now: &str) -> Certificate {
    let name = ServerName::try_from("app.t.example").unwrap();
    read(der, &name, false, WallTime::parse_rfc3339(now).unwrap())
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_apart() {
    let good = own(params("*.t.example"));
    let seen = judged(&good, "2026-01-01T00:00:00Z");
    assert_eq!((seen.trust, seen.self_signed), (Trust::Unvouched, true));
    assert_eq!(
        seen.until.map(|until| until.to_string()).as_deref(),
        Some("2060-01-01T00:00:00.000Z"),
        "a year beyond 2049 is written in full"
    );
    let over = judged(&good, "2060-01-01T00:00:00Z");
    assert_eq!(over.trust, Trust::Expired);
    let early = judged(&good, "2023-12-31T00:00:00Z");
    assert_eq!(early.trust, Trust::NotYet);
    let other = judged(&own(params("*.t.test")), "2026-01-01T00:00:00Z");
    assert_eq!(other.trust, Trust::WrongName);
}

#[test]
fn a_leaf_of_somebodys_own_authority_is_not_self_signed() {
    let key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "our own");
    let issuer = Issuer::new(ca, key);
    let leaf_key = KeyPair::generate().unwrap();
    let mut leaf = params("app.t.example");
    leaf.not_after = date_time_ymd(2049, 12, 31);
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let seen = judged(leaf.der(), "2026-01-01T00:00:00Z");
    assert_eq!((seen.trust, seen.self_signed), (Trust::Unvouched, false));
    assert_eq!(seen.issuer.as_deref(), Some("our own"));
    assert_eq!(
        seen.until.map(|until| until.to_string()).as_deref(),
        Some("2049-12-31T00:00:00.000Z")
    );
}

#[test]
fn no_bytes_are_too_strange_to_read() {
    let good = own(params("app.t.example"));
    for cut in 0..good.len() {
        let part = CertificateDer::from(good[..cut].to_vec());
        let seen = judged(&part, "2026-01-01T00:00:00Z");
        assert_eq!(seen.trust, Trust::WrongName, "cut at {cut}");
    }
}

#[tokio::test]
async fn names_below_localhost_are_this_machine() {
    let found = resolve("app.t.localhost", 8443).await.unwrap();
    assert!(found.iter().all(|at| at.ip().is_loopback()), "{found:?}");
    let ip = resolve("192.0.2.1", 443).await.unwrap();
    assert_eq!(ip, ["192.0.2.1:443".parse().unwrap()]);
}

#[tokio::test]
async fn a_port_that_refuses_and_one_that_speaks_no_tls_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let addresses = [at];
    let (refused, ()) = tokio::join!(visit("app.t.localhost", &addresses, "/"), async {
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
    });
    assert!(
        matches!(refused, Err(OutsideError::Tls { .. })),
        "{refused:?}"
    );
    drop(listener);
    let refused = visit("app.t.localhost", &[at], "/").await;
    assert!(
        matches!(refused, Err(OutsideError::Refused { at: there }) if there == at),
        "{refused:?}"
    );
}
