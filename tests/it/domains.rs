//! Domains of people's own, with the real binaries and a name server of the test's own: from nothing to a
//! visit, over restarts, between users, and back to nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use crate::origin::Origin;
use crate::visitor::{Ca, Visitor, get, whole};
use crate::world::{Daemon, World, ctl, eventually, open};

const APP: &str = "app.example.org";

/// TXT records by name; what is not there is NXDOMAIN.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Zone {
    async fn serve(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let zone = self.clone();
        tokio::spawn(async move {
            let mut room = [0; 1500];
            while let Ok((count, from)) = socket.recv_from(&mut room).await {
                let answer = zone.answer(&room[..count]);
                let _ = socket.send_to(&answer, from).await;
            }
        });
        at
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let (mut at, mut labels) = (12, Vec::new());
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap());
            at = end;
        }
        let asked = &question[12..at + 5];
        let texts = self.0.lock().unwrap().get(&labels.join(".")).cloned();
        let code = if texts.is_none() { 3 } else { 0 };
        let texts = texts.unwrap_or_default();
        let count = u8::try_from(texts.len()).unwrap();
        let mut answer = [
            &question[..2],
            &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0],
        ]
        .concat();
        answer.extend(asked);
        for text in texts {
            let length = u8::try_from(text.len()).unwrap();
            answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, length + 1, length]);
            answer.extend(text.bytes());
        }
        answer
    }

    /// Places the record that a tunnel's domain wants.
    fn place(&self, domain: &Value) {
        let text = |key: &str| domain["record"][key].as_str().unwrap().to_owned();
        assert_eq!(text("type"), "TXT");
        let mut zone = self.0.lock().unwrap();
        zone.entry(text("name")).or_default().push(text("value"));
    }
}

async fn world(zone: &Zone) -> World {
    let at = zone.serve().await;
    World::with(&format!("[domains]\nresolver = \"{at}\"\n")).await
}

fn visitor(world: &World, host: &str) -> Visitor {
    Visitor::new(&world.ca, world.addr, host)
}

async fn show(client: &Daemon, tunnel: &str) -> Value {
    ctl(client.socket(), &["--json", "show", tunnel])
        .await
        .ok()
        .json()
}

/// Asks again until it is so, as a person does who has placed a record.
async fn stands(client: &Daemon, tunnel: &str, n: usize, state: &str) -> Value {
    eventually(&format!("domain {n} of {tunnel} is {state}"), || async {
        let domain = show(client, tunnel).await["domains"][n].clone();
        (domain["state"] == state).then_some(domain)
    })
    .await
}

#[tokio::test]
async fn an_own_domain_goes_from_nothing_to_a_visit_and_back() {
    let zone = Zone::default();
    let mut world = world(&zone).await;
    let mut client = world.joined().await;
    let (origin, other) = (Origin::named("mine").await, Origin::named("other").await);
    open(&client, &[&other.target(), "--name", "other"]).await;
    let asked = [
        &origin.target(),
        "--name",
        "mine",
        "--domain",
        "App.Example.org.",
    ];
    let tunnel = open(&client, &asked).await;
    let domain = &tunnel["domains"][0];
    assert_eq!(
        (&domain["domain"], &domain["state"]),
        (&APP.into(), &"pending".into())
    );
    assert_eq!(
        domain["record"]["name"],
        format!("_wormkey-challenge.{APP}")
    );
    let said = ctl(client.socket(), &["show", "mine"]).await.ok().out;
    let value = domain["record"]["value"].as_str().unwrap();
    assert!(
        said.contains(value) && said.contains("once this record is there"),
        "{said}"
    );
    let refused = visitor(&world, APP).get("/").await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND, "{refused:?}");

    // The record of another user is nobody's.
    zone.place(domain);
    zone.place(&serde_json::json!({"record": {"name": format!("_wormkey-challenge.{APP}"), "type": "TXT", "value": "v=spf1 -all"}}));
    stands(&client, "mine", 0, "proven").await;
    assert_eq!(visitor(&world, APP).get("/").await.text(), "mine");
    assert_eq!(visitor(&world, APP).get2("/").await.text(), "mine");
    let list = ctl(client.socket(), &["list"]).await.ok().out;
    assert!(list.contains(APP), "{list}");
    let seen = world.server_ctl(&["tunnels"]).await.ok().json();
    let all = seen["tunnels"].as_array().unwrap();
    assert!(
        all.iter().any(|t| t["domains"][0]["state"] == "proven"),
        "{seen}"
    );
    // The own name is what the service sees, and each connection is for one name.
    let head = visitor(&world, APP).get("/head").await.text();
    assert!(head.contains(APP), "{head}");
    for (sni, host) in [
        (APP, format!("mine.{}", crate::world::DOMAIN)),
        (APP, format!("other.{}", crate::world::DOMAIN)),
        (&*format!("mine.{}", crate::world::DOMAIN), APP.to_owned()),
        (&*format!("other.{}", crate::world::DOMAIN), APP.to_owned()),
    ] {
        let mut request = get("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = visitor(&world, sni).send1(request).await.unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::MISDIRECTED_REQUEST,
            "{sni} {host}"
        );
    }
    for host in ["APP.example.ORG", "app.example.org.", "app.example.org:443"] {
        let mut request = get("/");
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = whole(visitor(&world, APP).send1(request).await.unwrap())
            .await
            .unwrap();
        assert_eq!(answer.text(), "mine", "{host}");
    }

    // Neither end's restart changes anything.
    world.server.crash().await;
    world.server.start().await;
    eventually("a visit after the server's restart", || async {
        let answer = visitor(&world, APP).try_get("/").await.ok()?;
        (answer.text() == "mine").then_some(())
    })
    .await;
    client.stop().await;
    client.start().await;
    stands(&client, "mine", 0, "proven").await;

    ctl(client.socket(), &["set", "mine", "--remove-domain", APP])
        .await
        .ok();
    assert_eq!(
        visitor(&world, APP).get("/").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        show(&client, "mine").await["domains"],
        serde_json::json!([])
    );
    let set = ctl(client.socket(), &["set", "other", "--domain", APP])
        .await
        .ok()
        .out;
    assert!(set.contains("changed other") && set.contains(APP), "{set}");
    stands(&client, "other", 0, "proven").await;
    assert_eq!(visitor(&world, APP).get("/").await.text(), "other");
    ctl(client.socket(), &["close", "other"]).await.ok();
    assert_eq!(
        visitor(&world, APP).get("/").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_wildcard_and_many_domains_lead_to_one_tunnel() {
    let zone = Zone::default();
    let mut world = world(&zone).await;
    let client = world.joined().await;
    let origin = Origin::named("wide").await;
    let target = origin.target();
    let line = [
        &target,
        "--name",
        "wide",
        "--domain",
        "*.wide.example.org",
        "--domain",
        APP,
    ];
    let tunnel = open(&client, &line).await;
    for domain in tunnel["domains"].as_array().unwrap() {
        zone.place(domain);
    }
    for n in 0..2 {
        stands(&client, "wide", n, "proven").await;
    }
    for host in ["one.wide.example.org", "two.wide.example.org", APP] {
        assert_eq!(
            visitor(&world, host).get("/").await.text(),
            "wide",
            "{host}"
        );
    }
}

#[tokio::test]
async fn what_is_anothers_or_nobodys_is_refused() {
    let zone = Zone::default();
    let mut world = world(&zone).await;
    let (alice, bob) = (world.client().await, world.client().await);
    for (client, user) in [(&alice, "alice"), (&bob, "bob")] {
        let token = world.invite(&["--user", user]).await;
        ctl(client.socket(), &["join", &token]).await.ok();
    }
    let origin = Origin::named("alices").await;
    let target = origin.target();
    let tunnel = open(&alice, &[&target, "--name", "app", "--domain", APP]).await;
    zone.place(&tunnel["domains"][0]);
    stands(&alice, "app", 0, "proven").await;
    let line = ["--json", "open", &target, "--name", "bobs", "--domain", APP];
    let refused = ctl(bob.socket(), &line).await;
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.err.contains("domain_taken"), "{refused:?}");
    let none = ctl(bob.socket(), &["show", "bobs"]).await;
    assert_eq!(none.code, 5, "nothing of it is left: {none:?}");
    for (domain, code) in [
        (crate::world::DOMAIN, 2),
        (&*format!("x.{}", crate::world::DOMAIN), 2),
        ("localhost", 2),
        ("127.0.0.1", 2),
        ("bücher.example", 2),
    ] {
        let line = [
            "--json", "open", &target, "--name", "bobs", "--domain", domain,
        ];
        let refused = ctl(bob.socket(), &line).await;
        assert_eq!(refused.code, code, "{domain}: {refused:?}");
    }
    assert_eq!(visitor(&world, APP).get("/").await.text(), "alices");
}

#[tokio::test]
async fn a_tls_tunnel_shows_visitors_of_its_domain_its_own_certificate() {
    let zone = Zone::default();
    let mut world = world(&zone).await;
    let client = world.joined().await;
    let dir = tempfile::tempdir().unwrap();
    let own = Ca::new(dir.path(), APP);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(own.server_config()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tls://{}", listener.local_addr().unwrap());
    let line = [&*target, "--name", "mail", "--yes-expose", "--domain", APP];
    let (tunnel, looked) = tokio::join!(open(&client, &line), listener.accept());
    drop(looked);
    zone.place(&tunnel["domains"][0]);
    let domain = stands(&client, "mail", 0, "proven").await;
    assert_eq!(domain["certificate"], Value::Null);
    let served = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        stream.write_all(b"from the origin").await.unwrap();
        stream.shutdown().await.unwrap();
    };
    // Who trusts only the origin's own authority gets through.
    let visited = async {
        let visitor = Visitor::new(&own, world.addr, APP);
        let mut stream = visitor.connect("mail").await.unwrap();
        let mut got = String::new();
        stream.read_to_string(&mut got).await.unwrap();
        got
    };
    let (got, ()) = tokio::join!(visited, served);
    assert_eq!(got, "from the origin");
}

#[tokio::test]
async fn domains_of_a_declared_tunnel_follow_its_file() {
    let zone = Zone::default();
    let mut world = world(&zone).await;
    let origin = Origin::named("declared").await;
    let entry = |domains: &str| {
        let target = origin.target();
        format!("[[tunnel]]\nname = \"blog\"\ntarget = {target:?}\ndomains = [{domains}]\n")
    };
    let client = world.client_with(&entry("\"app.example.org\"")).await;
    world.join(&client).await;
    let domain = stands(&client, "blog", 0, "pending").await;
    zone.place(&domain);
    stands(&client, "blog", 0, "proven").await;
    assert_eq!(visitor(&world, APP).get("/").await.text(), "declared");
    let file = std::fs::read_to_string(client.config_file()).unwrap();
    let other = file.replace("\"app.example.org\"", "\"b.example.org\"");
    std::fs::write(client.config_file(), other).unwrap();
    ctl(client.socket(), &["reload"]).await.ok();
    eventually("the old one leads nowhere", || async {
        let answer = visitor(&world, APP).try_get("/").await.ok()?;
        (answer.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    let domain = stands(&client, "blog", 0, "pending").await;
    assert_eq!(domain["domain"], "b.example.org");
}
