//! Policies with the real binaries: what a rule refuses never reaches the origin, `set` is in force for the
//! next visit, and what the operator suspends keeps its name and serves nothing.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use wormkey::admin::ApiClient;

use crate::origin::Origin;
use crate::visitor::{post, whole};
use crate::world::{Daemon, World, ctl, eventually};

fn api(daemon: &Daemon) -> ApiClient {
    ApiClient::new(daemon.socket().to_owned())
}

async fn open(client: &Daemon, origin: &Origin, name: &str, policy: Value) -> Value {
    let ask = json!({"target": origin.target(), "name": name, "policy": policy});
    let opened = api(client).post("/v1/tunnels", &ask).await;
    opened.unwrap().1
}

#[tokio::test]
async fn what_a_rule_refuses_never_reaches_the_origin() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let policy = json!({
        "methods": ["GET"], "deny_paths": ["/admin/**"],
        "limits": {"visitor": {"rate": "3/m burst 3"}},
    });
    let tunnel = open(&client, &origin, "app", policy.clone()).await;
    assert_eq!(tunnel["policy"], policy);
    let visitor = world.visitor("app");
    let looks = origin.visits();
    for path in ["/admin", "/admin/x", "/x/..%2fadmin", "//admin", "/%61dmin"] {
        let answer = visitor.get2(path).await;
        let got = (answer.status, answer.error());
        assert_eq!(got, (StatusCode::FORBIDDEN, "forbidden"), "{path}");
    }
    let posted = whole(visitor.send2(post("/echo", "x")).await.unwrap())
        .await
        .unwrap();
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(posted.fields["allow"], Method::GET.as_str());
    assert_eq!(origin.visits(), looks, "refused visits reached the origin");

    for _ in 0..3 {
        assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    }
    let fourth = visitor.get("/").await;
    let got = (fourth.status, fourth.error());
    assert_eq!(got, (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    let wait: u64 = fourth.fields["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(origin.visits(), looks + 3);
}

#[tokio::test]
async fn a_set_is_in_force_for_the_next_visit_and_outlives_restarts() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, &origin, "app", json!({})).await;
    let visitor = world.visitor("app");
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);

    let deny = json!({"policy": {"deny": ["127.0.0.0/8"]}, "parts": ["deny"]});
    let set: Value = api(&client).patch("/v1/tunnels/app", &deny).await.unwrap();
    assert_eq!(set["policy"], deny["policy"]);
    assert_eq!(visitor.get("/").await.error(), "forbidden");

    world.server.crash().await;
    world.server.start().await;
    assert_eq!(visitor.get("/").await.error(), "forbidden");
    let shown: Value = api(&client).get("/v1/tunnels/app").await.unwrap();
    assert_eq!(shown["policy"], deny["policy"]);
    // The operator may, too, and a bad one changes nothing.
    let bad = json!({"policy": {"deny": ["nonsense"]}});
    let refused = api(&world.server)
        .patch::<_, Value>("/v1/tunnels/app", &bad)
        .await;
    assert!(refused.unwrap_err().to_string().contains("deny[0]"));
    let free = json!({"policy": {}});
    let set: Value = api(&world.server)
        .patch("/v1/tunnels/app", &free)
        .await
        .unwrap();
    assert_eq!(set["policy"], json!({}));
    eventually("the client is back", || async {
        (visitor.get("/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_credentials_a_tunnel_with_auth_lets_nobody_in() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let policy = json!({"auth": [{"user": "bob", "hash": hash}]});
    open(&client, &origin, "app", policy).await;
    let looks = origin.visits();
    let answer = world.visitor("app").get("/").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        answer.fields["www-authenticate"],
        "Basic realm=\"app\", charset=\"UTF-8\""
    );
    assert_eq!(origin.visits(), looks);
}

#[tokio::test]
async fn a_shadow_lets_visits_in_and_tells_owner_and_operator_at_the_defaults() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, &origin, "app", json!({})).await;
    let visitor = world.visitor("app");
    assert_eq!(visitor.get("/bytes/5").await.status, StatusCode::OK);
    let set = ["set", "app", "--deny", "127.0.0.0/8", "--shadow"];
    ctl(client.socket(), &set).await.ok();
    assert_eq!(
        visitor.get("/bytes/7?token=hidden").await.status,
        StatusCode::OK
    );

    let visits = eventually("the owner is told", || async {
        let said = ctl(client.socket(), &["--json", "logs", "app"]).await.ok();
        let visits = said.json()["visits"].take();
        (visits.as_array().unwrap().len() == 2).then_some(visits)
    })
    .await;
    assert_eq!(visits[0]["shadowed"], json!([]));
    assert_eq!(visits[1]["path"], "/bytes/7");
    assert_eq!(visits[1]["shadowed"], json!(["deny 127.0.0.0/8"]));
    let said = ctl(client.socket(), &["logs", "app"]).await.ok();
    let told: Vec<&str> = said
        .out
        .lines()
        .filter(|line| line.contains("would be refused: deny 127.0.0.0/8"))
        .collect();
    assert_eq!(told.len(), 1, "{}", said.out);

    let line = eventually("the server tells, too", || async {
        let log = world.server.log();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("wormkey::access"))
            .collect();
        assert!(lines.len() < 2, "only of the shadow: {lines:#?}");
        Some(lines.first()?.to_string())
    })
    .await;
    for fact in [
        "tunnel=app",
        "method=\"GET\"",
        "path=\"/bytes/7\"",
        "decision=admit",
        "shadowed=\"deny 127.0.0.0/8\"",
        "status=200",
        "bytes_out=7",
    ] {
        let plain = fact.replace('"', "");
        assert!(
            line.contains(fact) || line.contains(&plain),
            "{fact} in {line}"
        );
    }
    assert!(!line.contains("hidden"), "{line}");
}

#[tokio::test]
async fn what_is_suspended_serves_nothing_until_it_is_resumed() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, &origin, "app", json!({})).await;
    open(&client, &origin, "other", json!({})).await;
    let (visitor, other) = (world.visitor("app"), world.visitor("other"));
    let operator = api(&world.server);
    let app = json!({"what": "app"});
    let _: (_, Value) = operator.post("/v1/suspend", &app).await.unwrap();
    let answer = visitor.get("/").await;
    assert_eq!(
        (answer.status, answer.error()),
        (StatusCode::FORBIDDEN, "suspended")
    );
    assert_eq!(other.get("/").await.status, StatusCode::OK);
    let _: (_, Value) = operator.post("/v1/resume", &app).await.unwrap();
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);

    // A user: their links, too; and it all comes back by itself.
    let user = json!({"what": "default"});
    let _: (_, Value) = operator.post("/v1/suspend", &user).await.unwrap();
    assert_eq!(other.get("/").await.error(), "suspended");
    let _: (_, Value) = operator.post("/v1/resume", &user).await.unwrap();
    eventually("the client links again", || async {
        (other.get("/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_ceiling_is_named_when_it_is_passed() {
    let mut world = World::with("[limits]\nuser_rate = \"100/s\"\nreserved = [\"git\"]\n").await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let target = origin.target();
    let ask = json!({"target": target, "policy": {"limits": {"tunnel": {"rate": "200/s"}}}});
    let refused = api(&client)
        .post::<_, Value>("/v1/tunnels", &ask)
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "limit_reached");
    assert!(
        refused
            .to_string()
            .contains("visits a second: at most 100/s"),
        "{refused}"
    );
    let ask = json!({"target": target, "name": "git"});
    let refused = api(&client)
        .post::<_, Value>("/v1/tunnels", &ask)
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "name_reserved");
}

#[tokio::test]
async fn a_person_has_as_many_calls_of_the_api_as_the_server_says_whichever_they_are() {
    let world = World::new().await;
    let few = "\n[limits]\napi_calls = \"1/m burst 2\"\n";
    world.rewrite_server(|text| format!("{text}{few}"));
    // What was called under another rate counts for nothing.
    world.server_ctl(&["reload"]).await.ok();
    let operator = api(&world.server);
    let _: Value = operator.get("/v1/status").await.unwrap();
    let _: Value = operator.get("/v1/audit").await.unwrap();
    for path in ["/v1/tunnels", "/v1/devices", "/v1/doctor", "/v1/log-level"] {
        let refused = operator.get::<Value>(path).await.unwrap_err();
        assert_eq!(refused.code().as_str(), "rate_limited", "{path}");
        assert!(refused.to_string().contains("wait"), "{refused}");
    }
    for path in ["/v1/reload", "/v1/invites", "/v1/drain"] {
        let refused = operator.post::<_, Value>(path, &json!({})).await;
        assert_eq!(
            refused.unwrap_err().code().as_str(),
            "rate_limited",
            "{path}"
        );
    }
    let said = world.server_ctl(&["status"]).await;
    assert_eq!(said.code, 4, "{}", said.err);
    // Whoever watches over the server is no caller.
    let _: Value = operator.get("/healthz").await.unwrap();
}
