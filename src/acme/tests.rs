//! The keeper with a state directory and an authority that is not there.

use std::time::Duration;

use super::testing::{pair, pem};
use super::*;
use crate::times::Clock;

struct World {
    dir: tempfile::TempDir,
    tasks: Tasks,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            tasks: Tasks::new(),
        }
    }

    fn start(&self, change: impl FnOnce(&mut Settings)) -> Certificates {
        let mut settings = Settings {
            domain: host("t.example"),
            state_dir: self.dir.path().to_owned(),
            // Nothing listens on port 1.
            cas: vec!["https://127.0.0.1:1/dir".to_owned()],
            root: Some(self.dir.path().join("root.pem")),
            email: None,
            names: Vec::new(),
            proofs: vec![Proof::TlsAlpn],
            dns: None,
        };
        std::fs::write(settings.root.as_ref().unwrap(), pem(&["ca.example"])).unwrap();
        change(&mut settings);
        Certificates::start(settings, pair(&["self.signed"]), &self.tasks).unwrap()
    }

    fn put(&self, file: &str, text: &str) {
        let dir = self.dir.path().join("acme");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(file), text).unwrap();
    }

    async fn end(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(5)).await);
    }
}

fn host(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

/// The status of one name once its first try is over.
async fn tried(certificates: &Certificates, name: &str) -> CertificateStatus {
    for _ in 0..2000 {
        let all = certificates.status();
        let of_it = all.into_iter().find(|one| one.names[0] == name);
        if let Some(one) = of_it.filter(|one| one.last_error.is_some() && !one.is_trying) {
            return one;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} was not tried");
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_said_and_nothing_ends() {
    let world = World::new();
    let certificates = world.start(|_| {});
    let one = tried(&certificates, "t.example").await;
    let error = one.last_error.unwrap();
    assert!(
        error.starts_with("making an account: cannot reach 127.0.0.1"),
        "{error}"
    );
    assert_eq!((one.life, one.renews_at), (None, None));
    assert!(one.next_try.unwrap() > Clock.now().wall);
    let asked = certificates.ask(&host("own.example"));
    assert!(matches!(asked, Asked::Waiting { .. }), "{asked:?}");
    tried(&certificates, "own.example").await;
    assert!(!world.tasks.stopped().is_cancelled());
    world.end().await;
}

#[tokio::test]
async fn what_is_on_disk_is_served_and_not_asked_for_again() {
    let world = World::new();
    world.put("own.example.pem", &pem(&["own.example"]));
    world.put(
        "wildcard.t.example.pem",
        &pem(&["*.t.example", "t.example"]),
    );
    let certificates = world.start(|settings| {
        settings.dns = Some(DnsSettings::Hook {
            path: "/none".into(),
            wait: Duration::from_secs(1),
        });
    });
    assert_eq!(certificates.ask(&host("own.example")), Asked::Ready);
    for one in certificates.status() {
        assert!(one.life.is_some() && one.renews_at.is_some(), "{one:?}");
        assert_eq!(one.next_try, None);
    }
    certificates.forget(&host("own.example"));
    certificates.forget(&host("t.example"));
    let left: Vec<_> = certificates
        .status()
        .into_iter()
        .map(|one| one.names)
        .collect();
    assert_eq!(
        left,
        [["*.t.example", "t.example"]],
        "only what was asked for is forgotten"
    );
    world.end().await;
}

#[tokio::test]
async fn a_certificate_for_other_names_or_a_damaged_one_is_not_served() {
    let world = World::new();
    world.put("t.example.pem", &pem(&["u.example"]));
    world.put("blog.t.example.pem", "junk");
    let certificates = world.start(|settings| settings.names = vec![host("blog.t.example")]);
    for one in certificates.status() {
        assert_eq!(one.life, None, "{one:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn the_number_of_names_that_are_asked_for_is_bounded() {
    let world = World::new();
    let certificates = world.start(|_| {});
    let ask = |n: usize| certificates.ask(&host(&format!("n{n}.example")));
    let full = (0..2000).position(|n| ask(n) == Asked::Full);
    assert_eq!(full, Some(1000));
    assert!(
        matches!(ask(5), Asked::Waiting { .. }),
        "known ones are still told of"
    );
    certificates.forget(&host("n5.example"));
    assert!(matches!(ask(1000), Asked::Waiting { .. }));
    world.end().await;
}

#[tokio::test]
async fn a_wait_that_a_ca_has_earned_outlives_the_daemon() {
    let world = World::new();
    let until = Clock.now().wall.plus(Duration::from_secs(3600));
    let ca = "https://127.0.0.1:1/dir";
    let course = serde_json::json!({ "closed": [until], "ca": 0, "failures": 2, "due": until });
    let failures =
        serde_json::json!({ "cas": [ca], "course": course, "last_error": "rateLimited" });
    let text = failures.to_string();
    world.put("t.example.failures", &text);
    let certificates = world.start(|_| {});
    let one = certificates.status().remove(0);
    assert_eq!(one.next_try, Some(until));
    assert_eq!(one.last_error.as_deref(), Some("rateLimited"));
    assert!(!one.is_trying);
    world.end().await;
}

#[tokio::test]
async fn a_taken_port_53_ends_nothing_and_is_listened_on_once_it_is_free() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let certificates = world.start(|settings| {
        settings.dns = Some(DnsSettings::Responder { listen, zone: None });
    });
    assert_eq!(certificates.dns_addr(), None);
    let one = certificates.status().remove(0);
    assert_eq!(one.names, ["*.t.example", "t.example"]);
    let error = one.last_error.expect("it says what is in the way");
    let said = format!("our own name server does not listen on {listen} (acme.dns.listen): ");
    assert!(error.starts_with(&said), "{error}");
    drop(taken);
    tokio::time::timeout(Duration::from_secs(60), async {
        while certificates.dns_addr().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is tried again");
    assert_eq!(certificates.dns_addr(), Some(listen));
    assert_eq!(certificates.dns_trouble(), None);
    assert!(!world.tasks.stopped().is_cancelled());
    world.end().await;
}

#[tokio::test]
async fn a_record_is_not_made_while_nobody_can_ask_for_it() {
    let world = World::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let zone = responder::Zone {
        top: Name::parse("_acme-challenge.t.example").unwrap(),
        server: Name::parse("t.example").unwrap(),
    };
    let ear = Ear::open(
        taken.local_addr().unwrap(),
        zone,
        Challenges::new(),
        &world.tasks,
    );
    let dns = Dns::Responder(ear);
    let placed = dns.record(&host("t.example"), "value");
    assert!(dns.place(&placed).await.is_err());
    dns.remove(placed).await.unwrap();
    world.end().await;
}

#[test]
fn files_that_are_named_and_no_good_are_found_before_a_certificate_is_due() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (root, key) = (dir.path().join("root.pem"), dir.path().join("key"));
    let settings = Settings {
        domain: host("t.example"),
        state_dir: dir.path().to_owned(),
        cas: vec!["https://127.0.0.1:1/dir".to_owned()],
        root: Some(root.clone()),
        email: None,
        names: Vec::new(),
        proofs: Vec::new(),
        dns: Some(DnsSettings::Update {
            server: "ns.example:53".to_owned(),
            zone: None,
            key: key.clone(),
            wait: Duration::ZERO,
        }),
    };
    let told = || {
        let err = look(&settings).unwrap_err();
        format!("{:#}", anyhow::Error::from(err))
    };
    assert!(told().contains("root.pem (acme.root)"), "{}", told());
    std::fs::write(&root, pem(&["ca.example"])).unwrap();
    assert!(
        told().starts_with("acme.dns.key: cannot read "),
        "{}",
        told()
    );
    let text = "key \"k\" { algorithm hmac-sha512; secret \"c2VjcmV0\"; };";
    crate::secret::file::write(&key, text);
    look(&settings).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(told().contains("run: chmod 600 "), "{}", told());
}
