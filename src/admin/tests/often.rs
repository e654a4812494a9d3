//! Each call is counted once, before it is done, whichever it is; looks at the daemon's health are not.

use serde_json::{Value, json};

use crate::admin::CallError;
use crate::admin::testing::{Daemon, tunnel};
use crate::codes::Code;

/// How many were counted, and that all of them were ours.
fn counted(daemon: &Daemon) -> usize {
    let state = daemon.fake.state();
    let uid = nix::unistd::geteuid().as_raw();
    assert!(state.counted.iter().all(|counted| *counted == uid));
    state.counted.len()
}

async fn get(daemon: &Daemon, path: &str) -> Result<Value, CallError> {
    daemon.api().get(path).await
}

#[tokio::test]
async fn a_server_counts_each_call_once_and_no_look_at_its_health() {
    let daemon = Daemon::server();
    daemon.fake.state().tunnels.push(tunnel(1, "app"));
    let gets = [
        "/v1/tunnels",
        "/v1/tunnels/app",
        "/v1/status",
        "/v1/doctor",
        "/v1/devices",
        "/v1/links",
        "/v1/users",
        "/v1/audit",
        "/v1/drain",
        "/v1/log-level",
    ];
    for (before, path) in gets.into_iter().enumerate() {
        get(&daemon, path).await.unwrap();
        assert_eq!(counted(&daemon), before + 1, "{path}");
    }
    let api = daemon.api();
    let so_far = counted(&daemon);
    let _ = api.download("/v1/backup", |_| Ok(())).await;
    drop(api.events(None).await.unwrap());
    let _: (_, Value) = api.post("/v1/reload", &json!({})).await.unwrap();
    let _: (_, Value) = api.post("/v1/invites", &json!({})).await.unwrap();
    let _: Value = api.delete("/v1/tunnels/app").await.unwrap();
    assert_eq!(counted(&daemon), so_far + 5);
    for path in ["/healthz", "/readyz"] {
        let _ = get(&daemon, path).await;
    }
    assert_eq!(counted(&daemon), so_far + 5, "health");
    daemon.stop().await;
}

#[tokio::test]
async fn one_call_more_than_there_may_be_does_nothing() {
    for daemon in [Daemon::client(), Daemon::server()] {
        daemon.fake.state().tunnels.push(tunnel(1, "app"));
        daemon.fake.state().most = Some(3);
        for _ in 0..2 {
            get(&daemon, "/v1/status").await.unwrap();
        }
        get(&daemon, "/v1/tunnels/app").await.unwrap();
        let api = daemon.api();
        let refused = api.delete::<Value>("/v1/tunnels/app").await.unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        assert_eq!(refused.to_string(), "too many calls; wait 30s");
        assert!(daemon.fake.state().callers.is_empty(), "it was done");
        // Whoever watches over the daemon still hears from it.
        get(&daemon, "/healthz").await.unwrap();
        daemon.stop().await;
    }
}
