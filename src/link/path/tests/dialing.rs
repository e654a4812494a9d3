//! Links that begin in a WebSocket, and outer certificates of all kinds.

use tokio::time::Instant;

use super::super::{PathError, PathInfo, PathKind};
use super::*;

#[tokio::test]
async fn a_link_dialled_with_udp_blocked_is_up_within_three_seconds_and_finds_udp_later() {
    let office = Office::open().await;
    let switch = Switch::default();
    switch.block();
    let start = Instant::now();
    let ends = office
        .link(&dialer(&switch), Some(&office.fallback()))
        .await;
    assert!(start.elapsed() < secs(3), "{:?}", start.elapsed());
    assert_eq!(ends.client.path().kind, PathKind::WebSocket);
    assert!(ends.client.peer().ip().is_loopback(), "{:?}", ends.client);
    let mut echo = ends.echo().await;
    echo.round(TEN_MB).await;

    switch.unblock();
    ends.client.back_to_udp().await.unwrap();
    echo.round(TEN_MB).await;
    assert_eq!(ends.server.path().kind, PathKind::Udp);

    switch.block();
    ends.client.open_fallback(&office.fallback()).await.unwrap();
    echo.round(100_000).await;
    assert_eq!(ends.server.path().kind, PathKind::WebSocket);
}

#[tokio::test]
async fn where_udp_is_known_to_be_blocked_nobody_waits_for_it() {
    let office = Office::open().await;
    let switch = Switch::default();
    switch.block();
    let fallback = Fallback {
        first: true,
        ..office.fallback()
    };
    let start = Instant::now();
    let ends = office.link(&dialer(&switch), Some(&fallback)).await;
    // Less than the silence that is waited for elsewhere.
    let patience = std::time::Duration::from_millis(1500);
    assert!(start.elapsed() < patience, "{:?}", start.elapsed());
    ends.echo().await.round(100_000).await;
}

#[tokio::test]
async fn where_udp_works_no_websocket_is_opened() {
    let office = Office::open().await;
    let fallback = office.fallback();
    let ends = office
        .link(&dialer(&Switch::default()), Some(&fallback))
        .await;
    assert_eq!(ends.client.path(), PathInfo::UDP);
    assert_eq!(office.listener.attached_paths(), 0);
}

#[tokio::test]
async fn an_outer_certificate_is_accepted_whatever_it_is_and_reported() {
    let office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;
    let trusted = ends.client.open_fallback(&office.fallback()).await.unwrap();
    assert!(trusted.outer_verified, "{trusted:?}");

    let inspected = Fallback::to(&office.address);
    let info = ends.client.open_fallback(&inspected).await.unwrap();
    assert!(!info.outer_verified, "{info:?}");
    let issuer = info.outer_issuer.as_deref();
    assert_eq!(issuer, Some("Gatekeepers (Inspection)"));

    // A good certificate for another name is none.
    let port = office.listener.local_addr().port();
    let elsewhere = Fallback {
        roots: vec![office.authority.clone()],
        ..Fallback::to(&format!("127.0.0.1:{port}"))
    };
    let info = ends.client.open_fallback(&elsewhere).await.unwrap();
    assert!(!info.outer_verified, "{info:?}");
    ends.echo().await.round(100_000).await;
}

#[tokio::test]
async fn a_wrong_pin_is_refused_in_a_websocket_with_the_best_certificate() {
    let office = Office::open().await;
    let switch = Switch::default();
    switch.block();
    let other = Identity::ephemeral().unwrap().pin();
    let pins = [other];
    let fallback = Fallback {
        first: true,
        ..office.fallback()
    };
    let dialer = dialer(&switch);
    let error = office.refused(&dialer, &pins, &fallback).await;
    assert!(
        matches!(error, LinkError::WrongPin { got: None, .. }),
        "{error}"
    );
    // One that answers to the tag and cannot prove the key.
    office.listener.answer_also_to(&[other]);
    let dialling = dialer.dial_with(&office.address, &pins, hello(), Some(&fallback));
    let (dialled, arrived) = both(dialling, async {
        office.listener.accept().await.unwrap().establish().await
    })
    .await;
    let error = dialled.map(|_| ()).unwrap_err();
    assert!(
        matches!(error, LinkError::WrongPin { got: Some(_), .. }),
        "{error}"
    );
    assert!(arrived.is_err());
}

#[tokio::test]
async fn what_answers_and_offers_no_path_is_told_from_silence() {
    let office = Office::open().await;
    let switch = Switch::default();
    let ends = office.link(&dialer(&switch), None).await;

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let error = ends.client.open_fallback(&Fallback::to(&address)).await;
    assert!(matches!(error, Err(PathError::Connect { .. })), "{error:?}");
    let error = ends.client.open_fallback(&Fallback::to("nonsense")).await;
    assert!(matches!(error, Err(PathError::Address { .. })), "{error:?}");
    let error = ends.server.open_fallback(&office.fallback()).await;
    assert!(matches!(error, Err(PathError::NotClient)), "{error:?}");
    assert_eq!(ends.client.path(), PathInfo::UDP);
    ends.echo().await.round(1000).await;
}
