//! Visits that come together: in want of a stream, or with one password.

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::BASE64_NOPAD;

use super::*;
use crate::edge::OpenStream as _;
use crate::engine::Credentials;
use crate::names::LinkId;
use crate::secret::Secret;
use crate::server::desk::Desk;
use crate::wire::{HttpHead, StreamHead};

impl World {
    async fn opens(&self, device: &mut Device, policy: Option<String>) -> (String, LinkId) {
        let Control::Bind(ask) = bind(1) else {
            unreachable!("it is one");
        };
        device.say(Control::Bind(Bind { policy, ..ask })).await;
        let Some(Control::Bound(bound)) = device.hear().await else {
            panic!("it is bound");
        };
        let link = self.server.desk.read(|engine| {
            let device = engine.tunnel(&bound.slug)?.row.device;
            engine.device(device)?.link
        });
        (bound.slug, link.expect("its device is here"))
    }
}

fn visit(label: &str) -> Visit {
    Visit {
        id: VisitId::random(),
        kind: Kind::Http,
        label: label.to_owned(),
        peer: "192.0.2.9:1".parse().unwrap(),
        bytes: 0,
        http: Some(HttpAsk::new(http::Method::GET, "/")),
    }
}

fn head() -> StreamHead {
    StreamHead::Http(Box::new(HttpHead {
        tunnel: TunnelId::random(),
        visit: VisitId::random(),
        method: http::Method::GET,
        scheme: "https".into(),
        authority: "app.t.wormkey.test".into(),
        path: "/".into(),
        fields: http::HeaderMap::new(),
        peer: "192.0.2.9:1".parse().unwrap(),
        protocol: None,
        version: 11,
        has_body: false,
        expects_continue: false,
        timeout_ms: 0,
        shadowed: Vec::new(),
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_visit_that_waits_for_a_stream_is_no_sign_of_a_link_that_is_away() {
    let world = World::new("").await;
    let mut device = world.device().await;
    let (_, link) = world.opens(&mut device, None).await;
    let desk: Desk = world.server.desk.clone();
    let head = head();
    let (carrier, _) = desk.link_for_visit(link).unwrap();
    let mut streams = Vec::new();
    let full = async {
        for _ in 0..LinkSettings::default().streams {
            streams.push(carrier.open(&head).await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, full).await.unwrap();
    let mut opens = std::pin::pin!(desk.open(link, &head));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(
        opens.as_mut().poll(&mut context).is_pending(),
        "all are taken"
    );
    assert_eq!(desk.asked_since(link), None, "nothing was sent");
    let turned_down = async {
        while let Ok(stream) = device.link.accept().await {
            drop(stream);
        }
    };
    streams.clear();
    tokio::select! {
        biased;
        () = turned_down => panic!("the link stays"),
        opened = tokio::time::timeout(PATIENCE, opens) => {
            assert!(opened.unwrap().is_ok());
        }
    }
    assert!(desk.asked_since(link).is_some(), "now an answer is due");
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn right_passwords_that_came_together_were_refused_as_guesses() {
    let world = World::new("").await;
    let mut device = world.device().await;
    let params = Params::new(8192, 1, 1, Some(32)).unwrap();
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut hash = [0; 32];
    argon
        .hash_password_into(b"right", b"somesalt", &mut hash)
        .unwrap();
    let hash = format!(
        "$argon2id$v=19$m=8192,t=1,p=1$c29tZXNhbHQ${}",
        BASE64_NOPAD.encode(&hash)
    );
    let policy = format!(r#"{{"auth":[{{"user":"bob","hash":"{hash}"}}]}}"#);
    let (slug, _) = world.opens(&mut device, Some(policy)).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (desk, mut visit) = (world.server.desk.clone(), visit(&slug));
        visit.http.as_mut().unwrap().credentials = Some(Credentials {
            user: "bob".into(),
            digest: [7; 32],
            password: Secret::new("right".into()),
            checked: None,
            given_up: false,
        });
        all.spawn(async move { crate::edge::Admit::admit(&desk, visit).await.map(drop) });
    }
    let outcomes = tokio::time::timeout(PATIENCE, all.join_all())
        .await
        .unwrap();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    world.server.stop().await;
}
