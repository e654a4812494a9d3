//! Signed webhooks and changed lives with the real programs: what is not signed never reaches the origin, the
//! secret is nowhere in clear, and `set` moves a tunnel's end.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use http::{HeaderValue, StatusCode};
use serde_json::Value;

use crate::origin::Origin;
use crate::visitor::{Answer, Visitor, post, whole};
use crate::world::{World, ctl, eventually, open};

const SECRET: &str = "hunter2-hunter2-hunter2";

/// A delivery of GitHub's, signed with a secret or not at all.
async fn deliver(visitor: &Visitor, body: &'static str, secret: Option<&str>, h2: bool) -> Answer {
    let mut request = post("/echo", body);
    if let Some(secret) = secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let mac = HEXLOWER.encode(hmac::sign(&key, body.as_bytes()).as_ref());
        let value = HeaderValue::try_from(format!("sha256={mac}")).unwrap();
        request.headers_mut().insert("x-hub-signature-256", value);
    }
    let response = match h2 {
        true => visitor.send2(request).await,
        false => visitor.send1(request).await,
    };
    whole(response.unwrap()).await.unwrap()
}

/// Whether the secret stands in any file below, but for the one it was read from.
fn tells(dir: &Path, but: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tells(&path, but));
        } else if path.is_file() && path != but {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(7).any(|at| at == b"hunter2") {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[tokio::test]
async fn only_what_is_signed_reaches_the_origin_and_the_secret_is_nowhere_in_clear() {
    let mut world = World::new().await;
    let mut client = world.joined().await;
    let origin = Origin::named("inside").await;
    let file = client.dir().join("hook-secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let hook = format!("github:@{}", file.display());
    let target = origin.target();
    let opened = open(
        &client,
        &[&target, "--name", "hooks", "--verify-webhook", &hook],
    )
    .await;
    assert_eq!(opened["policy"]["webhook"][0]["secret"], "[redacted]");
    let visitor = world.visitor("hooks");
    for round in 0..3 {
        let looks = origin.visits();
        for h2 in [false, true] {
            for secret in [None, Some("hunter3")] {
                let refused = deliver(&visitor, "hello", secret, h2).await;
                assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
                assert_eq!(refused.error(), "bad_signature");
            }
            assert_eq!(visitor.get("/").await.error(), "bad_signature");
        }
        assert_eq!(
            origin.visits(),
            looks,
            "an unsigned delivery reached the origin"
        );
        for h2 in [false, true] {
            let passed = deliver(&visitor, "hello", Some(SECRET), h2).await;
            assert_eq!(
                (passed.status, passed.text()),
                (StatusCode::OK, "hello".into())
            );
        }
        // It outlives both ends.
        match round {
            0 => {
                world.server.crash().await;
                world.server.start().await;
            }
            1 => {
                client.crash().await;
                client.start().await;
            }
            _ => {}
        }
        eventually("the tunnel is back", || async {
            let answer = visitor.try_get("/").await.ok()?;
            (answer.error() == "bad_signature").then_some(())
        })
        .await;
    }
    let copy = world.server.dir().join("copy");
    let name = copy.display().to_string();
    world.server_ctl(&["backup", &name]).await.ok();
    assert!(copy.is_file());
    for dir in [world.server.dir(), client.dir()] {
        assert_eq!(tells(dir, &file), [""; 0]);
    }
    let shown = ctl(client.socket(), &["--json", "show", "hooks"])
        .await
        .ok();
    assert!(!shown.out.contains("hunter2"), "{}", shown.out);
    let set = ["set", "hooks", "--no-verify-webhook"];
    ctl(client.socket(), &set).await.ok();
    let open_again = deliver(&visitor, "hello", None, false).await;
    assert_eq!(open_again.status, StatusCode::OK);
}

#[tokio::test]
async fn set_moves_the_end_of_a_tunnel_both_ways_and_revives_nothing() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let target = origin.target();
    let set = async |args: &[&str]| {
        let mut all = vec!["--json", "set", "app"];
        all.extend(args);
        ctl(client.socket(), &all).await
    };
    let opened = open(&client, &[&target, "--name", "app", "--expires", "1h"]).await;
    let longer = set(&["--expires", "2h", "--hold", "20s", "--label", "team=web"])
        .await
        .ok()
        .json();
    assert!(longer["expires_at"].as_str() > opened["expires_at"].as_str());
    assert_eq!(longer["labels"]["team"], "web");
    assert_eq!(longer["id"], opened["id"]);
    let refused = set(&["--hold", "2h"]).await;
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("hold"), "{refused:?}");
    let never = set(&["--expires", "never"]).await.ok().json();
    assert_eq!(never["expires_at"], Value::Null);
    let visitor = world.visitor("app");
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    let start = tokio::time::Instant::now();
    set(&["--expires", "2s"]).await.ok();
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    eventually("it expires", || async {
        (visitor.get("/").await.error() == "tunnel_expired").then_some(())
    })
    .await;
    assert!(start.elapsed().as_secs() < 4);
    assert_ne!(set(&["--expires", "1h"]).await.code, 0);
    assert_eq!(visitor.get("/").await.error(), "tunnel_expired");
    let audit = world.server_ctl(&["audit"]).await.ok().out;
    assert!(audit.contains("app expires"), "{audit}");
}
