//! Visits that come together: in want of a stream.

use super::*;
use crate::edge::OpenStream as _;
use crate::names::LinkId;
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
