use serde_json::{Value, json};

use super::Shell;
use crate::admin::testing::{Daemon, tunnel};
use crate::engine::policy::Policy;
use crate::secret::password;

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    crate::secret::file::write(&path, text);
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_flags_of_open_become_the_document() {
    let daemon = Daemon::client();
    let line = "open 3000 --share --allow 10.1.2.3/8 --deny 10.9.0.0/16 --allow-method GET \
                --allow-path /public/** --deny-path /*.bak --rate 10/m --burst 3 --concurrency 8 \
                --bandwidth 5MiB --visitor-rate 2/s --visitor-concurrency 4 \
                --set-request-header X-Team:web --remove-request-header Cookie \
                --set-response-header Server:none --remove-response-header X-Powered-By \
                --cors https://app.example.com --allow-cookie-domain --shadow=limits,paths";
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.push("--secure-headers=default-src 'self'");
    let opened = Shell::to(&daemon).run_words(&words).await;
    assert_eq!(opened.exit, 0, "{}", opened.err);
    let asked = daemon.fake.state().opened.remove(0).policy.unwrap();
    assert_eq!(
        asked.shown(),
        json!({
            "allow": ["10.0.0.0/8"], "deny": ["10.9.0.0/16"], "methods": ["GET"],
            "allow_paths": ["/public/**"], "deny_paths": ["/*.bak"], "share": "required",
            "limits": {
                "tunnel": {"rate": "10/m burst 3", "concurrency": 8, "bandwidth": 5_242_880},
                "visitor": {"rate": "2/s", "concurrency": 4},
            },
            "request_headers": {"set": {"x-team": "web"}, "remove": ["cookie"]},
            "response_headers": {"set": {"server": "none"}, "remove": ["x-powered-by"]},
            "secure_headers": {"csp": "default-src 'self'"},
            "cors": {"origins": ["https://app.example.com"]},
            "cookie_domain": true, "shadow": ["paths", "limits"],
        })
    );
    // What is printed is what would be asked, and nobody is asked.
    words.push("--print-policy");
    let printed = Shell::new().run_words(&words).await;
    let printed: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(printed, asked.shown());
    assert_eq!(
        Shell::to(&daemon).run("open 4000 --name bare").await.exit,
        0
    );
    assert_eq!(daemon.fake.state().opened.remove(0).policy, None);
    daemon.stop().await;
}

#[tokio::test]
async fn a_password_is_made_up_and_shown_once_and_only_its_hash_travels() {
    let daemon = Daemon::client();
    let opened = Shell::to(&daemon).run("open 3000 --auth").await;
    let line = opened.out.lines().last().unwrap();
    let (user, made) = line
        .trim()
        .strip_prefix("log in as ")
        .unwrap()
        .split_once(':')
        .unwrap();
    assert_eq!((user, made.len()), ("guest", 24));
    assert!(opened.err.contains("not shown again"), "{}", opened.err);
    let asked = daemon.fake.state().opened.remove(0);
    let policy = asked.policy.clone().unwrap();
    assert!(password::fits(
        policy.user("guest").unwrap().hash().as_str(),
        made
    ));
    assert!(!serde_json::to_string(&asked).unwrap().contains(made));

    let other = Shell::to(&daemon)
        .run("open 4000 --name b --auth --json")
        .await;
    let other: Value = serde_json::from_str(&other.out).unwrap();
    let again = other["credentials"]["password"].as_str().unwrap();
    assert_eq!(other["credentials"]["user"], "guest");
    assert_ne!(again, made);
    assert_eq!(
        other["policy"],
        json!({"auth": [{"user": "guest", "hash": "[redacted]"}]})
    );
    let shown = Shell::to(&daemon).run("show b").await;
    assert!(
        shown.out.contains("log in as") && shown.out.contains("guest"),
        "{}",
        shown.out
    );
    assert!(!shown.out.contains("argon2") && !shown.out.contains(again));
    daemon.stop().await;
}

#[tokio::test]
async fn secrets_come_from_files() {
    let daemon = Daemon::client();
    let dir = tempfile::tempdir().unwrap();
    let bob = file(&dir, "bob", "correct horse\nanother line\n");
    let hook = file(&dir, "hook", "whsec_abc\n");
    let empty = file(&dir, "empty", "\n");
    let line = format!(
        "open 3000 --auth bob:@{bob} --auth --verify-webhook stripe:@{hook} --verify-webhook slack:@{bob}"
    );
    assert_eq!(Shell::to(&daemon).run(&line).await.exit, 0);
    let policy = daemon.fake.state().opened.remove(0).policy.unwrap();
    assert_eq!(policy.users().len(), 2);
    let hash = policy.user("bob").unwrap().hash().as_str();
    assert!(password::fits(hash, "correct horse"));
    let secrets = policy.webhooks().iter().map(|one| one.secret().expose());
    assert!(secrets.eq(["whsec_abc", "correct horse"]));
    let refused = Shell::to(&daemon)
        .run(&format!("open 3000 --auth bob:@{empty}"))
        .await;
    assert_eq!(refused.exit, 2);
    assert!(refused.err.contains("has no first line"), "{}", refused.err);
    for flag in ["--auth bob:@", "--verify-webhook slack:@"] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&bob, std::fs::Permissions::from_mode(0o640)).unwrap();
        let line = format!("open 3000 {flag}{bob}");
        assert_eq!(Shell::to(&daemon).run(&line).await.exit, 0);
        std::fs::set_permissions(&bob, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Shell::to(&daemon).run(&line).await;
        assert_eq!(refused.exit, 2);
        let remedy = format!("(mode 0644); run: chmod 600 {bob}");
        assert!(refused.err.contains(&remedy), "{}", refused.err);
    }
    let told = Shell::to(&daemon).run("open 3000 --auth bob:hunter2").await;
    assert!(!told.err.contains("hunter2"), "{}", told.err);
    daemon.stop().await;
}

#[tokio::test]
async fn set_names_the_parts_that_it_changes() {
    let daemon = Daemon::client();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    let dir = tempfile::tempdir().unwrap();
    let whole = file(
        &dir,
        "policy.json",
        r#"{"deny":["10.0.0.0/8"],"methods":["GET"]}"#,
    );
    let with_file = format!("--policy @{whole} --allow-method PUT");
    for (flags, parts, policy) in [
        ("--deny ::1", &["deny"][..], json!({"deny": ["::1/128"]})),
        (
            "--no-auth --no-headers",
            &["auth", "request_headers", "response_headers"],
            json!({}),
        ),
        (
            "--rate 5/s",
            &["limits.tunnel.rate"],
            json!({"limits": {"tunnel": {"rate": "5/s"}}}),
        ),
        (
            "--no-limits --rate 5/s",
            &["limits"],
            json!({"limits": {"tunnel": {"rate": "5/s"}}}),
        ),
        (
            "--share --no-deny",
            &["share", "deny"],
            json!({"share": "required"}),
        ),
        ("--no-policy", &[], json!({})),
        ("--no-policy --share", &[], json!({"share": "required"})),
        (
            &with_file,
            &[],
            json!({"deny": ["10.0.0.0/8"], "methods": ["PUT"]}),
        ),
    ] {
        let set = Shell::to(&daemon).run(&format!("set app {flags}")).await;
        assert_eq!(set, super::ended(0, "changed app\n", ""), "{flags}");
        let asked = daemon.fake.state().set.remove(0);
        assert_eq!(asked.parts, parts, "{flags}");
        let asked_policy = asked.policy.unwrap();
        assert_eq!(asked_policy.shown(), policy, "{flags}");
        assert!(asked.life.is_empty());
        // Every part that is named is one.
        let parts: Vec<&str> = asked.parts.iter().map(String::as_str).collect();
        Policy::default().replace(&parts, &asked_policy).unwrap();
    }
    let set = Shell::to(&daemon).run("set app --auth --json").await;
    let set: Value = serde_json::from_str(&set.out).unwrap();
    assert_eq!(set["credentials"]["user"], "guest");
    daemon.stop().await;
}

#[tokio::test]
async fn set_changes_a_life_and_leaves_the_policy_alone() {
    let daemon = Daemon::client();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    for (flags, life, keeps) in [
        ("--expires 2h", json!({"expires": "2h"}), true),
        (
            "--expires never --idle 30m --hold 0s",
            json!({"expires": "never", "idle": "30m", "hold": "0s"}),
            true,
        ),
        (
            "--label team=web --label env=test",
            json!({"labels": {"team": "web", "env": "test"}}),
            true,
        ),
        ("--no-labels", json!({"labels": {}}), true),
        ("--no-policy --idle 1h", json!({"idle": "1h"}), false),
    ] {
        let set = Shell::to(&daemon).run(&format!("set app {flags}")).await;
        assert_eq!(set, super::ended(0, "changed app\n", ""), "{flags}");
        let asked = daemon.fake.state().set.remove(0);
        assert_eq!(serde_json::to_value(&asked.life).unwrap(), life, "{flags}");
        assert_eq!(asked.policy.is_none(), keeps, "{flags}");
    }
    for flags in [
        "",
        "--expires soon",
        "--expires 0s",
        "--label x",
        "--no-labels --label a=b",
    ] {
        let set = Shell::to(&daemon).run(&format!("set app {flags}")).await;
        assert_eq!(set.exit, 2, "{flags}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn show_says_in_words_what_a_tunnel_lets_through() {
    let daemon = Daemon::client();
    let mut app = tunnel(1, "app");
    app.policy = Some(json!({
        "auth": [{"user": "bob", "hash": "[redacted]"}], "deny": ["10.0.0.0/8", "::1/128"],
        "share": "required", "limits": {"visitor": {"rate": "5/s", "concurrency": 2}},
        "cors": {"origins": ["*"]}, "shadow": ["auth"],
    }));
    daemon.fake.state().tunnels = vec![app];
    let shown = Shell::to(&daemon).run("show app").await.out;
    for (name, text) in [
        ("log in as", "bob"),
        ("share links", "required"),
        ("not from", "10.0.0.0/8, ::1/128"),
        ("each visitor", "5/s, 2 at once"),
        ("rules for", "cors"),
        ("only told", "auth"),
    ] {
        let line = shown
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {shown}"));
        assert!(line.ends_with(text), "{line}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn share_links_are_made_listed_and_withdrawn() {
    let daemon = Daemon::client();
    daemon.fake.state().tunnels = vec![tunnel(1, "app")];
    let mut calls = daemon.fake.calls.subscribe();
    let line = "share app --expires 10m --uses 3 --method GET --path /report/*";
    let made = Shell::to(&daemon).run(line).await;
    assert_eq!(made.exit, 0, "{}", made.err);
    assert_eq!(made.out, "https://app.t.example.com/.wormkey/share/x\n");
    assert!(made.err.contains("3 visitors"), "{}", made.err);
    assert!(
        made.err.contains("share app --revoke shr_1"),
        "{}",
        made.err
    );
    assert_eq!(calls.recv().await.unwrap(), "share app 10m");
    let listed = Shell::to(&daemon).run("share app --list").await.out;
    assert!(
        listed.contains("/report/*") && listed.contains("shr_1"),
        "{listed}"
    );
    let id = crate::names::ShareId::from_bytes([1; 16]).to_string();
    let gone = Shell::to(&daemon)
        .run(&format!("share app --revoke {id}"))
        .await;
    assert_eq!(gone, super::ended(0, &format!("withdrew {id}\n"), ""));
    assert_eq!(calls.recv().await.unwrap(), "shares app");
    assert_eq!(calls.recv().await.unwrap(), format!("unshare {id}"));
    daemon.stop().await;
}

#[tokio::test]
async fn the_operator_suspends_and_resumes() {
    let daemon = Daemon::server();
    let mut calls = daemon.fake.calls.subscribe();
    let said = Shell::to(&daemon)
        .run("server suspend alice --reason spam")
        .await;
    assert_eq!(said, super::ended(0, "suspended alice\n", ""));
    let said = Shell::to(&daemon).run("server resume alice").await;
    assert_eq!(said, super::ended(0, "resumed alice\n", ""));
    assert_eq!(calls.recv().await.unwrap(), "suspend alice true spam");
    assert_eq!(calls.recv().await.unwrap(), "suspend alice false ");
    let users = Shell::to(&daemon).run("server users").await;
    assert!(users.out.contains("suspended"), "{}", users.out);
    daemon.stop().await;
}
