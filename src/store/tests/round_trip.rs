//! Every row comes back as it was written.

use super::*;
use crate::engine::book::{
    BookChange, BookRow, BookSnapshot, BookState, Enrolment, HostMode, ProxyVersion,
};
use crate::engine::domains::DomainRow;
use crate::engine::policy::Policy;
use crate::engine::policy::share::ShareRow;
use crate::names::Hostname;
use crate::names::ShareId;
use crate::store::{AuditFilter, ClientStore};
use std::sync::Arc;

#[tokio::test]
async fn every_row_of_the_server_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let revoked = DeviceRow {
        revoked_at: Some(NOW),
        ..device(2, 1)
    };
    // The key of a revoked device may enrol again.
    let again = DeviceRow {
        pin: revoked.pin,
        suspended_at: Some(NOW),
        name: "lap\u{1f4bb}\r\n'top\"".into(),
        ..device(3, 1)
    };
    let spent = InviteRow {
        uses_left: 0,
        revoked_at: Some(NOW),
        ..invite(2, 1)
    };
    let full = TunnelRow {
        kind: Kind::Udp,
        expires_at: Some(WallTime::from_millis(0)),
        idle: Some(Duration::ZERO),
        hold: Duration::from_millis(1),
        declared: true,
        labels: vec![("b".into(), "2".into()), ("a".into(), "=\n".into())],
        public_port: Some(65_535),
        last_seen_at: Some(WallTime::from_millis(-1)),
        idle_spent: Duration::from_millis(61_001),
        away_since: Some(NOW),
        policy: Arc::new(some_policy()),
        policy_version: 7,
        suspended_at: Some(NOW),
        ..tunnel(1, "full", &again)
    };
    let shares = vec![share(1, &full), share(2, &full)];
    let domain = |text: &str| DomainRow {
        domain: text.parse().unwrap(),
        tunnel: full.id,
        claimed_at: NOW,
        proven_at: None,
        lost_at: None,
        missing_since: None,
    };
    let domains = vec![
        DomainRow {
            lost_at: Some(NOW),
            ..domain("*.lost.example.org")
        },
        domain("pending.example.org"),
        DomainRow {
            proven_at: Some(NOW),
            missing_since: Some(NOW),
            ..domain("proven.example.org")
        },
    ];
    let all_domains = Change::Domains {
        tunnel: full.id,
        rows: domains.clone(),
    };
    let closed = TunnelRow {
        state: TunnelState::Closed,
        ended_at: Some(days_ago(59)),
        ..tunnel(2, "full", &again)
    };
    let expired = TunnelRow {
        state: TunnelState::Expired,
        ended_at: Some(NOW),
        kind: Kind::Tcp,
        ..tunnel(3, "full", &again)
    };
    let wanted = Snapshot {
        users: vec![
            user(1),
            UserRow {
                suspended_at: Some(NOW),
                ..user(2)
            },
        ],
        devices: vec![revoked, again],
        invites: vec![invite(1, 1), spent],
        tunnels: vec![full, closed, expired],
        shares,
        domains,
    };
    let changes = (wanted.users.iter().cloned().map(Change::User))
        .chain(wanted.devices.iter().cloned().map(Change::Device))
        .chain(wanted.invites.iter().cloned().map(Change::Invite))
        .chain(wanted.tunnels.iter().cloned().map(Change::Tunnel))
        .chain(wanted.shares.iter().cloned().map(Change::Share))
        .chain([all_domains])
        .collect::<Vec<_>>();
    let lines = vec![
        AuditRow {
            actor: Actor::Operator { uid: 1000 },
            detail: "a line".into(),
            ..audit("invite.create", "inv_1")
        },
        AuditRow {
            actor: Actor::Device(device(3, 1).id),
            peer: Some("[2001:db8::1]:443".parse().unwrap()),
            ..audit("tunnel.open", "tun_1")
        },
        AuditRow {
            actor: Actor::Newcomer,
            ..audit("device.enroll", "dev_1")
        },
    ];
    store.commit(changes.clone(), lines).await.unwrap();
    // Putting a row again, as it is, changes nothing.
    store.commit(changes, Vec::new()).await.unwrap();
    store.close().await;

    let (found, audit) = reopened(dir.path()).await;
    assert_eq!(found, wanted);
    let told: Vec<_> = audit
        .iter()
        .map(|line| (line.seq, &*line.actor, line.peer.as_deref(), &*line.action))
        .collect();
    let dev = device(3, 1).id.to_string();
    assert_eq!(
        told,
        [
            (1, "uid 1000", None, "invite.create"),
            (2, &*dev, Some("[2001:db8::1]:443"), "tunnel.open"),
            (3, "newcomer", None, "device.enroll"),
        ]
    );
    assert_eq!((audit[0].at, &*audit[0].detail), (NOW, "a line"));
}

#[tokio::test]
async fn the_audit_is_read_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let lines = (0..7).map(|n| audit("test.line", n)).collect();
    store.commit(Vec::new(), lines).await.unwrap();
    let mut after = None;
    let mut subjects = Vec::new();
    loop {
        let page = store.audit(after, 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(last.seq);
        subjects.extend(page.into_iter().map(|line| line.subject));
    }
    assert_eq!(subjects, ["0", "1", "2", "3", "4", "5", "6"]);
    store.close().await;
}

#[tokio::test]
async fn the_audit_is_asked_for_by_time_by_subject_and_by_actor() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let line = |n: i64, actor, subject: &str| AuditRow {
        at: WallTime::from_millis(NOW.as_millis() + n),
        actor,
        ..audit("test.line", subject)
    };
    let root = Actor::Operator { uid: 0 };
    let lines = vec![
        line(0, root, "tun_1"),
        line(10, Actor::Engine, "tun_1"),
        line(20, root, "tun_2"),
        line(30, Actor::Engine, "usr_'; --"),
    ];
    store.commit(Vec::new(), lines).await.unwrap();
    let since = |n| Some(WallTime::from_millis(NOW.as_millis() + n));
    let texts = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
    for (since, subjects, actors, expected) in [
        (None, None, None, &[1, 2, 3, 4][..]),
        (since(10), None, None, &[2, 3, 4]),
        (since(31), None, None, &[]),
        (None, texts(&["tun_1", "tun_3"]), None, &[1, 2]),
        (None, texts(&["usr_'; --"]), None, &[4]),
        (None, None, texts(&["uid 0"]), &[1, 3]),
        (
            since(1),
            texts(&["tun_1", "tun_2"]),
            texts(&["uid 0"]),
            &[3],
        ),
        (None, texts(&[]), None, &[]),
    ] {
        let wanted = AuditFilter {
            since,
            subjects,
            actors,
        };
        let found = store.audit_of(wanted.clone(), None, 10).await.unwrap();
        let found: Vec<i64> = found.iter().map(|line| line.seq).collect();
        assert_eq!(found, expected, "{wanted:?}");
    }
    let engine = AuditFilter {
        actors: texts(&["engine"]),
        ..AuditFilter::default()
    };
    let after = store.audit_of(engine, Some(2), 1).await.unwrap();
    assert_eq!(after[0].seq, 4, "the cursor and the filter go together");
    store.close().await;
}

#[tokio::test]
async fn what_is_long_over_stays_on_disk_but_is_not_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let ended = |n, days| TunnelRow {
        state: TunnelState::Closed,
        ended_at: Some(days_ago(days)),
        ..tunnel(n, "app", &device(1, 1))
    };
    let old_invite = InviteRow {
        expires_at: NOW,
        ..invite(1, 1)
    };
    let changes = vec![
        Change::User(user(1)),
        Change::Device(device(1, 1)),
        Change::Invite(old_invite),
        Change::Tunnel(ended(1, 59)),
        Change::Tunnel(ended(2, 61)),
    ];
    store.commit(changes, Vec::new()).await.unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    store
        .with_connection(move |conn| {
            let count = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
            let kept =
                count("SELECT (SELECT count(*) FROM tunnels) + (SELECT count(*) FROM invites)");
            tell.send(kept).unwrap();
        })
        .await;
    assert_eq!(told.await.unwrap(), 3);
    store.close().await;
    let (found, _) = reopened(dir.path()).await;
    assert_eq!(found.tunnels, [ended(1, 59)]);
    assert_eq!(found.invites, []);
}

#[tokio::test]
async fn a_visit_moves_only_what_visits_move() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let (changes, audit) = household(1);
    store.commit(changes, audit).await.unwrap();
    let row = tunnel(1, "house-1", &device(1, 1));
    let seen = TunnelRow {
        last_seen_at: Some(NOW),
        idle_spent: Duration::from_secs(5),
        away_since: Some(NOW),
        ..row.clone()
    };
    // The engine's copy is stale in everything else, and the last row is not there at all.
    let stale = TunnelRow {
        state: TunnelState::Closed,
        slug: Slug::parse("other").unwrap(),
        ..seen.clone()
    };
    let gone = tunnel(9, "gone", &device(9, 9));
    store
        .commit(vec![Change::Seen(stale), Change::Seen(gone)], Vec::new())
        .await
        .unwrap();
    store.close().await;
    assert_eq!(reopened(dir.path()).await.0.tunnels, [seen]);
}

#[tokio::test]
async fn a_revocation_never_un_happens() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let revoked_device = DeviceRow {
        revoked_at: Some(days_ago(1)),
        ..device(1, 1)
    };
    let revoked_invite = InviteRow {
        revoked_at: Some(days_ago(1)),
        ..invite(1, 1)
    };
    for changes in [
        vec![
            Change::User(user(1)),
            Change::Device(revoked_device.clone()),
            Change::Invite(revoked_invite.clone()),
        ],
        // A late write of the rows as they were before.
        vec![Change::Device(device(1, 1)), Change::Invite(invite(1, 1))],
    ] {
        store.commit(changes, Vec::new()).await.unwrap();
    }
    store.close().await;
    let (found, _) = reopened(dir.path()).await;
    assert_eq!(found.devices, [revoked_device]);
    assert_eq!(found.invites, [revoked_invite]);
}

fn enrolment() -> Enrolment {
    Enrolment {
        addresses: vec!["tunnel.example.com:443".into(), "[::1]:8443".into()],
        pins: vec![Pin([1; 32]), Pin([2; 32])],
        device: device(1, 1).id,
        user: "default".into(),
        domain: Hostname::parse("tunnel.example.com").unwrap(),
        joined_at: NOW,
    }
}

pub(super) fn book_row(n: u8, state: BookState) -> BookRow {
    BookRow {
        name: None,
        slug: None,
        state,
        domains: vec!["*.app.example.org".parse().unwrap()],
        yes_expose: n % 2 == 1,
        ..BookRow::sample(TunnelId::from_bytes([n; 16]), NOW)
    }
}

fn some_policy() -> Policy {
    Policy::parse(r#"{"deny":["10.0.0.0/8"],"limits":{"visitor":{"rate":"5/s burst 9"}}}"#).unwrap()
}

fn share(n: u8, tunnel: &TunnelRow) -> ShareRow {
    ShareRow {
        id: ShareId::from_bytes([n; 16]),
        tunnel: tunnel.id,
        device: tunnel.device,
        methods: vec![http::Method::GET],
        paths: vec!["/report/**".parse().unwrap()],
        uses_left: (n > 1).then_some(3),
        created_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(60)),
        revoked_at: None,
    }
}

#[tokio::test]
async fn a_use_of_a_share_link_never_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = fresh(dir.path());
    let row = tunnel(1, "app", &device(1, 1));
    let link = share(2, &row);
    let used = ShareRow {
        uses_left: Some(1),
        ..link.clone()
    };
    let gone = ShareRow {
        revoked_at: Some(NOW),
        ..share(3, &row)
    };
    let over = ShareRow {
        expires_at: NOW,
        ..share(4, &row)
    };
    let mut changes = vec![
        Change::User(user(1)),
        Change::Device(device(1, 1)),
        Change::Tunnel(row),
    ];
    changes.extend([link.clone(), used.clone(), link, gone, over].map(Change::Share));
    store.commit(changes, Vec::new()).await.unwrap();
    store.close().await;
    let (store, found) = ServerStore::open_at(dir.path(), true, NOW).unwrap();
    assert_eq!(found.shares, [used]);
    store.close().await;
}

fn book_rows() -> Vec<BookRow> {
    let over = |n, state, days| BookRow {
        ended_at: Some(days_ago(days)),
        ..book_row(n, state)
    };
    vec![
        book_row(1, BookState::Opening),
        BookRow {
            name: Some(Slug::parse("blog").unwrap()),
            slug: Some(Slug::parse("blog").unwrap()),
            url: Some("https://blog.tunnel.example.com".into()),
            target: "https+insecure://nas.local:8443".parse().unwrap(),
            host: HostMode::Fixed("auto".into()),
            expires_at: Some(NOW),
            idle: Some(None),
            hold: Some(Duration::from_millis(1500)),
            declared: true,
            labels: vec![("team".into(), "web".into())],
            public_port: Some(20_001),
            policy: Arc::new(some_policy()),
            ..book_row(2, BookState::Open)
        },
        BookRow {
            target: "unix:/run/app.sock".parse().unwrap(),
            host: HostMode::Keep,
            idle: Some(Some(Duration::from_secs(60))),
            ..over(3, BookState::Closing, 90)
        },
        BookRow {
            target: "tcp://[::1]:22".parse().unwrap(),
            proxy_protocol: Some(ProxyVersion::V2),
            host: HostMode::Rewrite,
            ..over(4, BookState::Closed, 29)
        },
        BookRow {
            target: "file:/srv/www".parse().unwrap(),
            ..over(5, BookState::Expired, 1)
        },
    ]
}

#[tokio::test]
async fn every_row_of_the_client_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (store, empty) = ClientStore::open_at(dir.path(), false, NOW).unwrap();
    assert_eq!(empty, BookSnapshot::default());
    let mut changes = vec![BookChange::Enrolment(enrolment())];
    changes.extend(book_rows().into_iter().map(BookChange::Tunnel));
    let long_over = BookRow {
        ended_at: Some(days_ago(31)),
        ..book_row(6, BookState::Closed)
    };
    changes.push(BookChange::Tunnel(long_over));
    store.commit(changes.clone()).await.unwrap();
    store.commit(changes).await.unwrap();
    store.close().await;
    let (store, found) = ClientStore::open_at(dir.path(), true, NOW).unwrap();
    let wanted = BookSnapshot {
        enrolment: Some(enrolment()),
        tunnels: book_rows(),
        networks: Vec::new(),
    };
    assert_eq!(found, wanted);
    store.close().await;
}

#[tokio::test]
async fn a_client_that_left_knows_nothing_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = ClientStore::open_at(dir.path(), false, NOW).unwrap();
    let rows = || book_rows().into_iter().map(BookChange::Tunnel);
    store
        .commit(rows().chain([BookChange::Enrolment(enrolment())]).collect())
        .await
        .unwrap();
    store
        .commit(vec![BookChange::Forget(book_rows()[0].id)])
        .await
        .unwrap();
    store.close().await;
    let (store, found) = ClientStore::open_at(dir.path(), true, NOW).unwrap();
    assert_eq!(found.tunnels, book_rows()[1..]);
    store.commit(vec![BookChange::Left]).await.unwrap();
    store.close().await;
    let (store, found) = ClientStore::open_at(dir.path(), true, NOW).unwrap();
    assert_eq!(found, BookSnapshot::default());
    store.close().await;
}
