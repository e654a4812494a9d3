use std::path::Path;

use clap::Parser as _;

use super::Shell;
use crate::admin::ApiError;
use crate::admin::testing::Daemon;
use crate::codes::Code;
use crate::ctl::args::{Args, Command};
use crate::ctl::ask::open_ask;

#[tokio::test]
async fn what_is_wrong_on_the_line_is_exit_2_with_the_reason_and_no_call() {
    let long = "a".repeat(41);
    let name = format!("open 3000 --name {long}");
    let many: String = (0..17).map(|n| format!(" --label k{n}=v")).collect();
    let labels = format!("open 3000{many}");
    let daemon = Daemon::client();
    let mut calls = daemon.fake.calls.subscribe();
    for (line, reason) in [
        ("", "Usage"),
        ("fly", "unrecognized"),
        ("open", "<TARGET>"),
        (&name, "41 characters; at most 40"),
        ("open 3000 --name My-App", "'M' cannot stand in a name"),
        ("open 3000 --name a--b", "hyphens"),
        ("open 3000 --subdomain a.b", "'.' cannot"),
        ("open 3000 --expires soon", "write 30s, 30m, 8h, 7d"),
        ("open 3000 --expires 0s", "at once"),
        ("open 3000 --expires 30", "not a duration"),
        ("open 3000 --idle nearly", "or write never"),
        ("open 3000 --hold never", "not a duration"),
        ("open 3000 --wait-for health", "starts with /"),
        ("open 3000 --label nokey", "key=value"),
        ("open 3000 --label a=1 --label a=2", "given twice"),
        (&labels, "17 labels are too many"),
        ("open 3000 --host a/b", "auto, keep, rewrite"),
        ("open 3000 --public-port 20001", "for tcp and udp"),
        ("open 3000 --public-port 0", "1..=65535"),
        ("open tcp 22 --wait-for /", "for http"),
        ("open tcp 22 --host keep", "for http"),
        ("open 0", "ports are 1 to 65535"),
        ("open 99999", "ports are 1 to 65535"),
        ("open ftp://x:1", "not a kind of target"),
        ("open smtp 25", "not a kind of target"),
        ("open http://u@h:1/p", "without path or user"),
        ("open http tcp://x:1", "without path or user"),
        ("open 3000 4000 5000", "unexpected value"),
        ("open 3000 --auth u:p", "everybody on this machine can read"),
        ("open 3000 --auth u:@", "everybody on this machine can read"),
        ("open --auth 3000", "<TARGET>"),
        ("open 3000 --auth bob", "names no file"),
        ("open 3000 --auth --auth", "given twice"),
        ("open 3000 --auth a:b:@/no/such/file", "everybody on this"),
        (
            "open 3000 --auth b:@/no/such/file",
            "/no/such/file cannot be read",
        ),
        ("open 3000 --rate 50", "is no rate"),
        ("open 3000 --burst 5", "--rate"),
        ("open 3000 --concurrency 0", "1.."),
        ("open 3000 --bandwidth fast", "is no bandwidth"),
        ("open 3000 --allow 10.0.0.0/33", "is no network"),
        ("open 3000 --allow-method get", "in capitals"),
        ("open 3000 --deny-path admin", "deny_paths[0]"),
        ("open 3000 --set-request-header host:x", "frames or routes"),
        ("open 3000 --set-request-header x", "name:value"),
        ("open 3000 --cors app", "is no origin"),
        ("open 3000 --shadow=some", "write all, or some of"),
        (
            "open 3000 --verify-webhook github:s3",
            "a file with the secret",
        ),
        ("open 3000 --verify-webhook gitlab:@f", "github:@FILE"),
        ("open 3000 --policy {}", "takes a file"),
        ("open tcp 22 --share", "networks and limits only"),
        ("open tcp 22 --allow-method GET", "networks and limits only"),
        ("set app", "nothing to change"),
        ("set app --auth --no-auth", "cannot be used with"),
        ("set app --no-policy --no-auth", "cannot go together"),
        ("set My-App --share", "'M' cannot stand"),
        ("share app", "--expires"),
        ("share app --expires 0s", "at once"),
        ("share app --list --uses 3", "cannot be used with"),
        ("share app --expires 1h --uses 0", "1..=100000"),
        ("share app --expires 1h --path report", "starts with /"),
        ("share app --revoke tun_x", "--revoke"),
        ("server suspend", "<USER|DEVICE|SLUG>"),
        ("run --port 3000", "<CMD>"),
        ("run -- true", "--port"),
        ("close", "<SLUG>|--all"),
        ("close --all app", "cannot be used with"),
        ("close My-App", "'M' cannot stand"),
        ("show", "<SLUG>"),
        ("server", "Usage"),
        ("server invite --uses 0", "--uses"),
        ("server invite --expires x", "not a duration"),
        ("server audit --limit 1001", "1..=1000"),
        ("server audit --since soon", "2026-01-31T12:00:00Z"),
        ("logs -n 0", "1..=1000"),
        ("join @/no/such/file", "/no/such/file cannot be read"),
    ] {
        let ended = Shell::to(&daemon).run(line).await;
        assert_eq!(ended.exit, 2, "{line}: {}", ended.err);
        assert!(ended.err.contains(reason), "{line}: {}", ended.err);
        assert_eq!(ended.out, "", "{line}");
        let as_json = Shell::to(&daemon).run(&format!("--json {line}")).await;
        let problem: serde_json::Value = serde_json::from_str(&as_json.err).unwrap();
        assert_eq!(
            (as_json.exit, &problem["exit"], &problem["code"]),
            (2, &2.into(), &"usage".into()),
            "{line}"
        );
    }
    assert!(calls.try_recv().is_err(), "nobody was asked");
    daemon.stop().await;
}

#[tokio::test]
async fn targets_are_made_whole_before_the_daemon_sees_them() {
    for (line, target) in [
        ("open 3000", "http://localhost:3000"),
        ("open http 3000", "http://localhost:3000"),
        ("open http http://localhost:3000", "http://localhost:3000"),
        ("open https 8443", "https://localhost:8443"),
        (
            "open https+insecure nas.local",
            "https+insecure://nas.local:443",
        ),
        ("open tcp 22", "tcp://localhost:22"),
        ("open tcp db:5432 --public-port 20001", "tcp://db:5432"),
        ("open udp://[::1]:53", "udp://[::1]:53"),
        ("open file ./dist", "file:/home/alice/app/dist"),
        ("open file:../site", "file:/home/alice/site"),
        ("open file:.", "file:/home/alice/app"),
        ("open file:/srv/www", "file:/srv/www"),
        ("open unix app.sock", "unix:/home/alice/app/app.sock"),
    ] {
        let words = std::iter::once("wormkeyctl").chain(line.split_whitespace());
        let Command::Open(args) = Args::try_parse_from(words).unwrap().command else {
            panic!("{line}");
        };
        let ask = open_ask(&args.target, &args.flags, Path::new("/home/alice/app")).unwrap();
        assert_eq!(ask.target, target, "{line}");
    }
}

#[tokio::test]
async fn every_flag_of_open_reaches_the_daemon() {
    let daemon = Daemon::client();
    let line = "open 3000 --subdomain blog --expires 30m --idle never --host rewrite --hold 0s \
                --wait-for /health --wait-timeout 5s --label team=web --label note=a=b";
    assert_eq!(Shell::to(&daemon).run(line).await.exit, 0);
    let asked = daemon.fake.state().opened.remove(0);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(asked.target, "http://localhost:3000");
    assert_eq!((asked.name, asked.expires), (text("blog"), text("30m")));
    assert_eq!((asked.idle, asked.hold), (text("never"), text("0s")));
    assert_eq!(
        (asked.host, asked.wait_for),
        (text("rewrite"), text("/health"))
    );
    assert_eq!((asked.wait_timeout, asked.public_port), (text("5s"), None));
    let labels: Vec<_> = asked.labels.into_iter().collect();
    assert_eq!(
        labels,
        [("note".into(), "a=b".into()), ("team".into(), "web".into())]
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_refusal_of_the_daemon_is_the_exit_code_of_its_row() {
    let daemon = Daemon::client();
    for code in Code::ALL.iter().filter(|code| code.status() >= 400) {
        daemon.fake.state().refuse = Some(ApiError::new(*code, "because of the test"));
        let row = code.row();
        for line in [
            "status",
            "list",
            "show app",
            "close app",
            "open 3000",
            "reload",
            "leave",
        ] {
            let ended = Shell::to(&daemon).run(line).await;
            assert_eq!((ended.exit, &*ended.out), (row.exit, ""), "{line} {code}");
            let said = format!(
                "wormkeyctl: because of the test\n  {}\n",
                crate::ctl::error::hint_of(*code)
            );
            assert_eq!(ended.err, said, "{line} {code}");
        }
        let ended = Shell::to(&daemon).run("status --json").await;
        let problem: serde_json::Value = serde_json::from_str(&ended.err).unwrap();
        assert_eq!(problem["code"], row.name);
        assert_eq!(problem["detail"], "because of the test");
        assert_eq!(problem["exit"], row.exit);
        assert_eq!(problem["fix"], crate::ctl::error::hint_of(*code));
    }
    daemon.stop().await;
}

#[tokio::test]
async fn the_socket_is_looked_for_where_the_manual_says() {
    let daemon = Daemon::client();
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let by_env =
        Shell::new().with_env(&[("WORMKEY_SOCKET", socket), ("XDG_RUNTIME_DIR", "/nowhere")]);
    assert_eq!(by_env.run("status").await.exit, 0);

    let home = tempfile::tempdir().unwrap();
    let own = home.path().join("wormkey/client.sock");
    std::fs::create_dir(own.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(socket, &own).unwrap();
    let runtime = home.path().to_str().unwrap();
    let by_runtime = Shell::new().with_env(&[("XDG_RUNTIME_DIR", runtime)]);
    assert_eq!(by_runtime.run("status").await.exit, 0);
    let by_state = Shell::new().with_env(&[("XDG_STATE_HOME", runtime)]);
    assert_eq!(by_state.run("status").await.exit, 0);
    std::fs::remove_file(&own).unwrap();
    let by_default = Shell::new()
        .with_env(&[("XDG_RUNTIME_DIR", runtime)])
        .run("status")
        .await;
    assert!(
        by_default.err.contains("/run/wormkey/client.sock"),
        "{}",
        by_default.err
    );

    // The client's variable says nothing about the server.
    let server = Shell::new()
        .with_env(&[("WORMKEY_SOCKET", socket)])
        .run("server users")
        .await;
    assert!(
        server.err.contains("/run/wormkey/server.sock"),
        "{}",
        server.err
    );
    daemon.stop().await;
}

#[tokio::test]
async fn the_other_roles_daemon_is_told_from_a_call_that_failed() {
    let (client, server) = (Daemon::client(), Daemon::server());
    for (daemon, lines, said) in [
        (
            &client,
            ["server status", "server users", "server invite"],
            "is a client\n  a client takes the commands that are not under wormkeyctl server\n",
        ),
        (
            &server,
            ["status", "open 3000", "leave"],
            "is a server\n  a server takes the commands under wormkeyctl server\n",
        ),
    ] {
        for line in lines {
            let ended = Shell::to(daemon).run(line).await;
            assert_eq!((ended.exit, &*ended.out), (2, ""), "{line}: {}", ended.err);
            assert!(ended.err.ends_with(said), "{line}: {}", ended.err);
        }
    }
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn each_problem_of_a_configuration_has_a_line_of_its_own() {
    let daemon = Daemon::client();
    let problems = "client.toml: 1 problem\n  line 2: x: is no key\u{1b}[2J";
    daemon.fake.state().refuse = Some(ApiError::new(Code::BadConfiguration, problems));
    let ended = Shell::to(&daemon).run("reload").await;
    let said = "wormkeyctl: client.toml: 1 problem\n  line 2: x: is no key\\u{1b}[2J\n  mend the lines named; \
                the old configuration stays in force\n";
    assert_eq!((ended.exit, &*ended.err), (78, said));
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_exit_3_and_how_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no.sock");
    let path = path.to_str().unwrap();
    let ended = Shell::new().run(&format!("list --socket {path}")).await;
    let said = format!(
        "wormkeyctl: wormkeyd does not answer on {path}\n  start it with: wormkeyd client; or name its socket with --socket\n"
    );
    assert_eq!(ended, super::ended(3, "", &said));
    for line in [
        "status",
        "open 3000",
        "open 3000 --watch",
        "run --port 1 -- true",
        "close --all",
        "leave",
        "reload",
    ] {
        let ended = Shell::new().run(&format!("--socket {path} {line}")).await;
        assert_eq!((ended.exit, &*ended.out), (3, ""), "{line}");
    }
    let ended = Shell::new()
        .run(&format!("server status --socket {path}"))
        .await;
    assert!(ended.err.contains("wormkeyd server"), "{}", ended.err);
}

#[test]
fn who_may_not_use_the_socket_is_told_how_to_be_allowed() {
    use crate::admin::CallError;
    use crate::ctl::error::{CtlError, Role};
    let refused = |group: Option<&str>| CtlError::Call {
        role: Role::Client,
        err: CallError::NotPermitted {
            socket: "/run/wormkey/client.sock".into(),
            group: group.map(str::to_owned),
        },
    };
    let err = refused(Some("wormkey"));
    assert_eq!(err.exit(), 4);
    assert_eq!(err.detail(), "you may not use /run/wormkey/client.sock");
    assert_eq!(
        err.fix(),
        "its group wormkey may: sudo usermod -aG wormkey $USER, then log in again"
    );
    assert!(refused(Some("root")).fix().contains("sudo"));
    assert!(refused(None).fix().contains("[admin] group"));
}

#[tokio::test]
async fn help_and_version_are_answers() {
    let help = Shell::new().run("--help").await;
    assert_eq!((help.exit, &*help.err), (0, ""));
    assert!(help.out.contains("wormkeyctl open 3000"), "{}", help.out);
    assert!(!help.out.contains("generate"), "it is for packagers");
    let version = Shell::new().run("--version").await;
    let expected = format!("wormkeyctl {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version, super::ended(0, &expected, ""));
}

#[test]
fn the_definition_of_the_command_line_holds() {
    use clap::CommandFactory as _;
    Args::command().debug_assert();
}
