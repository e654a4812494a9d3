//! Every message of the control stream, said about somebody else's tunnel: by another user's device, by
//! another device of the same user, and by nobody. A message without a row fails to compile, one
//! without a sample fails here.

use std::collections::HashSet;
use std::mem::discriminant;

use super::*;
use crate::engine::AskError;
use crate::names::DeviceId;
use crate::wire::{
    Bound, Closed, DomainNews, Enrolled, Fault, GoAway, LinkTerms, SetDomains, ShareList, Shared,
    Shares, Unshare, Update, Welcome,
};

/// What somebody else gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wall {
    /// An error for this request, with the code.
    Refused(Code),
    /// The answer is about whoever asks, and the link goes on.
    Own,
    /// No answer.
    Nothing,
    /// It is no client's to say: the link ends.
    Ends,
    /// It gives up what is the sender's own, and the link ends.
    Leaves,
}

fn wall(message: &Control) -> Wall {
    match message {
        Control::Bind(bind) if bind.name.is_some() => Wall::Refused(Code::NameTaken),
        Control::Bind(_) => Wall::Refused(AskError::NotYours.code()),
        Control::Close(_)
        | Control::Set(_)
        | Control::SetDomains(_)
        | Control::Share(_)
        | Control::Shares(_)
        | Control::Unshare(_) => Wall::Refused(Code::NotFound),
        Control::Ping(_) | Control::Time(_) => Wall::Own,
        Control::Sleeping | Control::Awake | Control::Pong(_) | Control::Error(_) => Wall::Nothing,
        Control::Leave(_) => Wall::Leaves,
        Control::Hello(_)
        | Control::Enroll(_)
        | Control::Welcome(_)
        | Control::Enrolled(_)
        | Control::Bound(_)
        | Control::Closed(_)
        | Control::Update(_)
        | Control::GoAway(_)
        | Control::Shared(_)
        | Control::ShareList(_)
        | Control::DomainNews(_) => Wall::Ends,
    }
}

/// One of each, aimed at a tunnel and one of its share links.
fn samples(tunnel: TunnelId, share: &str) -> Vec<Control> {
    let Control::Bind(another) = bind(1) else {
        unreachable!("it is a bind");
    };
    let none = Capabilities::OURS;
    vec![
        Control::Bind(Bind {
            tunnel,
            ..another.clone()
        }),
        Control::Bind(Bind {
            name: Some("app".into()),
            ..another
        }),
        Control::Close(Close { request: 1, tunnel }),
        Control::Set(Set {
            request: 1,
            tunnel,
            policy: "{}".into(),
            parts: Vec::new(),
            life: None,
        }),
        Control::Share(Share {
            request: 1,
            tunnel,
            expires_at: i64::MAX,
            uses: None,
            methods: Vec::new(),
            paths: Vec::new(),
        }),
        Control::Shares(Shares {
            request: 1,
            tunnel,
            after: None,
        }),
        Control::Unshare(Unshare {
            request: 1,
            share: share.to_owned(),
        }),
        Control::Ping(Ping { nonce: 1 }),
        Control::Pong(Ping { nonce: 1 }),
        Control::Time(TimeNote { nonce: 1, at: None }),
        Control::Sleeping,
        Control::Awake,
        Control::Error(Fault {
            request: None,
            code: 1,
            detail: String::new(),
        }),
        Control::Leave(Close { request: 1, tunnel }),
        Control::Hello(Hello {
            versions: vec![VERSION],
            capabilities: none,
            software: String::new(),
            device_name: String::new(),
            enrolling: false,
        }),
        Control::Enroll(Enroll {
            secret: [1; 32],
            proof: [1; 32],
            device_name: String::new(),
        }),
        Control::Welcome(Welcome {
            version: VERSION,
            capabilities: none,
            software: String::new(),
            generation: crate::names::Generation {
                boot: 1,
                counter: 1,
            },
            terms: LinkTerms { keep_alive_ms: 1 },
            domain: String::new(),
            pins: Vec::new(),
            addresses: Vec::new(),
            device: DeviceId::random(),
            user: String::new(),
        }),
        Control::Enrolled(Enrolled {
            device: DeviceId::random(),
            user: String::new(),
        }),
        Control::Bound(Bound {
            request: 1,
            tunnel,
            slug: "app".into(),
            url: String::new(),
            expires_at: None,
            created_at: 0,
            idle_ms: 0,
            hold_ms: 0,
            standing: None,
            public_port: None,
            policy: None,
        }),
        Control::Closed(Closed { request: 1 }),
        Control::Update(Update {
            tunnel,
            state: "closed".into(),
            code: 1,
            standing: None,
        }),
        Control::GoAway(GoAway {
            after_ms: 0,
            spread_ms: 0,
            code: 1,
        }),
        Control::Shared(Shared {
            request: 1,
            share: share.to_owned(),
            url: String::new(),
            expires_at: 0,
        }),
        Control::SetDomains(SetDomains {
            request: 1,
            tunnel,
            domains: Vec::new(),
        }),
        Control::DomainNews(DomainNews {
            tunnel,
            proof: String::new(),
            domains: Vec::new(),
        }),
        Control::ShareList(ShareList {
            request: 1,
            shares: Vec::new(),
        }),
    ]
}

/// A tunnel of alice's with a share link, and how it stands.
struct Owned {
    alice: Device,
    tunnel: TunnelId,
    share: String,
}

impl Owned {
    async fn new(world: &World) -> Self {
        let mut alice = world.device_of("alice").await;
        let Control::Bind(ask) = bind(1) else {
            unreachable!("it is a bind");
        };
        let tunnel = ask.tunnel;
        let ask = Bind {
            name: Some("app".into()),
            // No clock of idleness: what stands here stands still.
            idle_ms: Some(Bind::NEVER),
            policy: Some(r#"{"share":"required"}"#.to_owned()),
            ..ask
        };
        alice.say(Control::Bind(ask)).await;
        assert!(matches!(alice.hear().await, Some(Control::Bound(_))));
        let ask = Share {
            request: 2,
            tunnel,
            expires_at: i64::MAX,
            uses: None,
            methods: Vec::new(),
            paths: Vec::new(),
        };
        alice.say(Control::Share(ask)).await;
        let Some(Control::Shared(shared)) = alice.hear().await else {
            panic!("it is shared");
        };
        Self {
            alice,
            tunnel,
            share: shared.share,
        }
    }

    /// Everything that somebody else could have moved.
    async fn stands(&mut self, world: &World) -> (String, Option<Control>) {
        let all = world.server.backend.tunnels(true).await.unwrap();
        let hers: Vec<_> = all.iter().filter(|t| t.id == self.tunnel).collect();
        assert_eq!(hers.len(), 1);
        let ask = Shares {
            request: 3,
            tunnel: self.tunnel,
            after: None,
        };
        self.alice.say(Control::Shares(ask)).await;
        let shares = self.alice.hear().await;
        (serde_json::to_string(&hers).unwrap(), shares)
    }
}

impl World {
    async fn device_of(&self, user: &str) -> Device {
        let ask = InviteAsk {
            user: Some(user.to_owned()),
            ..InviteAsk::default()
        };
        let address = self.server.https_addr().to_string();
        self.device_by(ask, &address, None).await
    }

    /// A link of nobody's, that has announced to enrol, or not.
    async fn nobody(&self, enrolling: bool) -> Device {
        let invite = self.server.backend.invite(ME, InviteAsk::default());
        let token = JoinToken::parse(&invite.await.unwrap().token).unwrap();
        let key = Identity::ephemeral().unwrap();
        let dialer = Dialer::new(&key, &LinkSettings::default()).unwrap();
        let hello = Hello {
            versions: vec![VERSION],
            capabilities: Capabilities::OURS,
            software: "evil".into(),
            device_name: "evil".into(),
            enrolling,
        };
        let address = self.server.https_addr().to_string();
        let dialled = dialer.dial_with(&address, &token.pins, hello, None);
        let (link, tx, rx) = dialled.await.unwrap();
        Device { link, tx, rx }
    }
}

impl Device {
    /// The code of the error that comes next.
    async fn refused(&mut self) -> Code {
        match self.hear().await {
            Some(Control::Error(fault)) => Code::from_wire(fault.code.into()),
            other => panic!("{other:?}"),
        }
    }

    async fn runs_into(&mut self, message: &Control, wall: Wall) {
        self.say(message.clone()).await;
        match wall {
            Wall::Refused(code) => assert_eq!(self.refused().await, code),
            Wall::Own => assert!(self.hear().await.is_some()),
            Wall::Nothing => {}
            Wall::Ends => assert_eq!(self.refused().await, Code::Protocol),
            Wall::Leaves => assert!(matches!(self.hear().await, Some(Control::Closed(_)))),
        }
        match wall {
            Wall::Ends | Wall::Leaves => assert_eq!(self.hear().await, None),
            // And nothing else came before.
            _ => {
                self.asks().await;
            }
        }
    }
}

#[test]
fn every_message_has_a_sample() {
    let source = include_str!("../../wire/control.rs");
    let (_, rest) = source.split_once("pub enum Control {").unwrap();
    let (variants, _) = rest.split_once("\n}\n").unwrap();
    let all = variants.matches("\n    #[n(").count();
    let samples = samples(TunnelId::random(), "shr_x");
    let sampled: HashSet<_> = samples.iter().map(discriminant).collect();
    assert_eq!(sampled.len(), all);
    assert!(all >= 23, "only {all} messages were found");
}

#[tokio::test]
async fn no_message_of_another_device_reaches_a_tunnel() {
    let world = World::new("").await;
    let mut owned = Owned::new(&world).await;
    let before = owned.stands(&world).await;
    for user in ["mallory", "alice"] {
        let mut other = world.device_of(user).await;
        for message in samples(owned.tunnel, &owned.share) {
            let wall = wall(&message);
            other.runs_into(&message, wall).await;
            assert_eq!(owned.stands(&world).await, before, "{user}: {message:?}");
            if matches!(wall, Wall::Ends | Wall::Leaves) {
                other = world.device_of(user).await;
            }
        }
    }
    world.server.stop().await;
}

#[tokio::test]
async fn nobody_says_anything_before_enrolling() {
    let world = World::new("[limits]\nfailed_joins = \"1000/s\"\n").await;
    let mut owned = Owned::new(&world).await;
    let before = owned.stands(&world).await;
    let mut stranger = world.nobody(false).await;
    assert_eq!(stranger.refused().await, AskError::NotEnrolled.code());
    assert_eq!(stranger.hear().await, None);
    for message in samples(owned.tunnel, &owned.share) {
        let mut stranger = world.nobody(true).await;
        stranger.say(message.clone()).await;
        let code = match message {
            Control::Enroll(_) => Code::BadToken,
            _ => Code::Protocol,
        };
        assert_eq!(stranger.refused().await, code, "{message:?}");
        assert_eq!(stranger.hear().await, None, "{message:?}");
        assert_eq!(owned.stands(&world).await, before, "{message:?}");
    }
    world.server.stop().await;
}
