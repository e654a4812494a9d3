use http::StatusCode;
use serde_json::{Value, json};

use crate::admin::testing::{Daemon, tunnel, tunnel_id};
use crate::admin::types::{ClientStatusJson, TunnelJson};
use crate::admin::{ApiError, CallError};
use crate::codes::Code;

#[tokio::test]
async fn every_route_of_a_client_answers() {
    let daemon = Daemon::client();
    let api = daemon.api();
    let ask = json!({"target": "3000", "name": "app"});
    let (status, opened): (_, TunnelJson) = api.post("/v1/tunnels", &ask).await.unwrap();
    assert_eq!(
        (status, opened.slug.as_deref()),
        (StatusCode::CREATED, Some("app"))
    );
    let (status, again): (_, TunnelJson) = api.post("/v1/tunnels", &ask).await.unwrap();
    assert_eq!((status, again.id), (StatusCode::OK, opened.id));

    let by_id: TunnelJson = api
        .get(&format!("/v1/tunnels/{}", opened.id))
        .await
        .unwrap();
    assert_eq!(by_id, opened);
    let list: Value = api.get("/v1/tunnels").await.unwrap();
    assert_eq!(
        (&list["next"], list["tunnels"].as_array().unwrap().len()),
        (&Value::Null, 1)
    );
    let closed: TunnelJson = api.delete("/v1/tunnels/app").await.unwrap();
    assert_eq!(closed.state, "closed");
    for (all, left) in [("", 0), ("?all", 1), ("?all=true", 1), ("?all=0", 0)] {
        let list: Value = api.get(&format!("/v1/tunnels{all}")).await.unwrap();
        assert_eq!(list["tunnels"].as_array().unwrap().len(), left, "{all}");
    }

    let status: ClientStatusJson = api.get("/v1/status").await.unwrap();
    assert!(!status.joined);
    let (_, joined): (_, Value) = api
        .post("/v1/join", &json!({"token": "wkj_x"}))
        .await
        .unwrap();
    assert_eq!(joined["user"], "alice");
    let (_, left): (_, Value) = api
        .post("/v1/leave", &json!({"forget_key": true}))
        .await
        .unwrap();
    assert_eq!(left, json!({"left": true}));
    let (_, reloaded): (_, Value) = api.post("/v1/reload", &json!({})).await.unwrap();
    assert_eq!(reloaded["notes"].as_array().unwrap().len(), 1);

    let uid = nix::unistd::geteuid().as_raw();
    let callers = daemon.fake.state().callers.clone();
    assert_eq!(callers.len(), 6, "open twice, close, join, leave, reload");
    let pid = i32::try_from(std::process::id()).unwrap();
    assert!(callers.iter().all(|c| c.uid == uid && c.pid == Some(pid)));
    daemon.stop().await;
}

#[tokio::test]
async fn every_route_of_a_server_answers() {
    let daemon = Daemon::server();
    let api = daemon.api();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    let mut calls = daemon.fake.calls.subscribe();
    let found: Value = api.get("/v1/tunnels?all=1").await.unwrap();
    assert_eq!(found["tunnels"][0]["slug"], "app");
    let found: Value = api.get("/v1/tunnels/app").await.unwrap();
    assert_eq!(found["id"], tunnel_id(1).to_string());
    let found: Value = api.delete("/v1/tunnels/app").await.unwrap();
    assert_eq!(found["state"], "closed");
    let found: Value = api.get("/v1/devices").await.unwrap();
    assert_eq!(found["devices"][0]["name"], "laptop");
    let found: Value = api.get("/v1/users").await.unwrap();
    assert_eq!(found["users"][0]["name"], "alice");
    let ask = json!({"user": "bob", "uses": 2});
    let (status, found): (_, Value) = api.post("/v1/invites", &ask).await.unwrap();
    assert_eq!(
        (status, &found["token"]),
        (StatusCode::CREATED, &json!("wkj_secret"))
    );
    let found: Value = api.delete("/v1/devices/my%20laptop").await.unwrap();
    assert_eq!(found, json!({"revoked": "my laptop"}));
    let (_, found): (_, Value) = api
        .post("/v1/revoke", &json!({"what": "inv_1"}))
        .await
        .unwrap();
    assert_eq!(found, json!({"revoked": "inv_1"}));
    let found: Value = api.get("/v1/audit?after=1&limit=1").await.unwrap();
    assert_eq!(
        (&found["audit"][0]["seq"], &found["next"]),
        (&json!(2), &json!(2))
    );
    let asked = "/v1/audit?since=1h&subject=app&actor=my%20laptop&limit=5";
    let _: Value = api.get(asked).await.unwrap();
    let found: Value = api.get("/v1/audit").await.unwrap();
    assert_eq!(
        (found["audit"].as_array().unwrap().len(), &found["next"]),
        (3, &Value::Null)
    );
    let found: Value = api.get("/v1/links?limit=1").await.unwrap();
    assert_eq!(
        (&found["links"][0]["path"], &found["next"]),
        (&json!("udp"), &json!("1.1"))
    );
    let found: Value = api.get("/v1/links?cursor=1.1").await.unwrap();
    assert_eq!(
        (&found["links"][0]["state"], &found["next"]),
        (&json!("dormant"), &Value::Null)
    );
    let found: Value = api.get("/v1/drain").await.unwrap();
    assert_eq!(
        (&found["visits"], &found["finished"]),
        (&json!(4), &Value::Null)
    );
    let (_, found): (_, Value) = api
        .post("/v1/drain", &json!({"grace": "5s"}))
        .await
        .unwrap();
    assert_eq!(found["finished"], true);
    let found: Value = api.get("/v1/status").await.unwrap();
    assert_eq!(found["domain"], "t.example.com");
    let (_, found): (_, Value) = api.post("/v1/reload", &json!({})).await.unwrap();
    assert!(found["notes"].is_array());
    let mut heard = Vec::new();
    while let Ok(call) = calls.try_recv() {
        heard.push(call);
    }
    assert_eq!(
        heard,
        [
            "tunnels",
            "tunnel app",
            "close app",
            "devices",
            "users",
            "invite Some(\"bob\") Some(2)",
            "revoke my laptop",
            "revoke inv_1",
            "audit Some(1) 1",
            "audit None 5 1h app my laptop",
            "audit None 100",
            "links None 1",
            "links Some(\"1.1\") 100",
            "drain Some(\"5s\")",
            "status",
            "reload",
        ]
    );
    daemon.stop().await;
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let daemon = Daemon::client();
    let numbers: Vec<u8> = (1..=7).rev().collect();
    daemon.fake.state().tunnels = numbers
        .iter()
        .map(|n| tunnel(*n, &format!("t{n}")))
        .collect();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/tunnels?limit=3{cursor}");
        let page: Value = daemon.api().get(&path).await.unwrap();
        let slugs = page["tunnels"].as_array().unwrap().iter();
        seen.extend(slugs.map(|t| t["slug"].as_str().unwrap().to_owned()));
        // What comes and goes meanwhile moves nothing.
        daemon
            .fake
            .state()
            .tunnels
            .retain(|t| t.slug.as_deref() != Some("t1"));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["t1", "t2", "t3", "t4", "t5", "t6", "t7"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_refusal_of_the_backend_reaches_the_caller_as_itself() {
    let daemon = Daemon::client();
    for code in Code::ALL {
        let refused = ApiError::new(*code, "because of the test");
        // 2xx rows are reasons to close, not answers.
        if code.status() < 400 {
            continue;
        }
        daemon.fake.state().refuse = Some(refused.clone());
        let got = daemon.api().get::<ClientStatusJson>("/v1/status").await;
        match got {
            Err(CallError::Api(err)) => assert_eq!(err, refused),
            other => panic!("{code}: {other:?}"),
        }
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_panic_in_the_backend_is_one_500() {
    let daemon = Daemon::client();
    daemon.fake.state().panics = true;
    let err = daemon
        .api()
        .get::<ClientStatusJson>("/v1/status")
        .await
        .unwrap_err();
    assert_eq!(err.code(), Code::Internal);
    // The lock was held when it panicked, so the fake is of no more use; the daemon is.
    let err = daemon.api().get::<Value>("/v1/nothing").await.unwrap_err();
    assert_eq!(err.code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_ends_on_both_sides() {
    let daemon = Daemon::client();
    daemon.fake.state().hangs = true;
    let before = daemon.tasks.running();
    let api = daemon
        .api()
        .with_deadline(std::time::Duration::from_secs(5));
    let err = api.get::<ClientStatusJson>("/v1/status").await.unwrap_err();
    assert!(matches!(err, CallError::TimedOut { .. }), "{err}");
    assert_eq!(err.code().row().exit, 9);
    // The caller is gone, so the call is, too.
    while daemon.tasks.running() > before {
        tokio::task::yield_now().await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_and_a_closed_door_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let api = crate::admin::ApiClient::new(path.clone());
    let err = api.get::<Value>("/v1/status").await.unwrap_err();
    assert!(matches!(
        err,
        CallError::DaemonUnreachable { stale: false, .. }
    ));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let err = api.get::<Value>("/v1/status").await.unwrap_err();
    assert!(matches!(
        err,
        CallError::DaemonUnreachable { stale: true, .. }
    ));
    assert_eq!(err.code().row().exit, 3);
}

#[tokio::test]
async fn a_daemon_that_hangs_up_or_talks_nonsense_is_no_answer() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let answers: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhey",
        b"HTTP/1.1 500 No\r\ncontent-length: 4\r\n\r\noops",
    ];
    let tasks = crate::tasks::Tasks::new();
    tasks.spawn("nonsense", async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 512];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    let api = crate::admin::ApiClient::new(path);
    for _ in answers {
        let err = api.get::<Value>("/v1/status").await.unwrap_err();
        assert!(
            matches!(err, CallError::Broken { .. } | CallError::Unread { .. }),
            "{err:?}"
        );
        assert_eq!(err.code().row().exit, 3);
    }
}
