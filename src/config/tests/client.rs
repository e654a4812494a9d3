//! `client.toml`.

use std::time::Duration;

use super::*;
use crate::config::OriginsConfig;
use crate::config::load::Person;
use crate::engine::book::HostMode;
use crate::engine::policy::WebhookKind;

#[track_caller]
fn check(text: &str, wanted: &[&str]) {
    assert_eq!(lines(load_client(text)), wanted, "{text}");
}

#[test]
fn an_empty_file_is_enough() {
    let config = load_client("").unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/wormkey"));
    assert_eq!(config.admin.socket, Path::new("/run/wormkey/client.sock"));
    assert_eq!(config.origins, OriginsConfig::default());
    assert_eq!(config.tunnels, []);
}

#[test]
fn declared_tunnels_take_open_s_flags() {
    let config = load_client(
        r#"
        [[tunnel]]
        name = "blog"
        target = 3000
        [[tunnel]]
        name = "db"
        target = "tcp://db.lan:5432"
        expires = "30d"
        idle = "2h"
        hold = "5s"
        host = "app.internal:8080"
        public_port = 20001
        yes_expose = true
        proxy_protocol = "v2"
        [tunnel.labels]
        team = "web"
        env = "test"

        [[tunnel]]
        name = "locked"
        target = 3001
        auth = ["bob:@/etc/wormkey/bob"]
        share = true
        allow = ["203.0.113.0/24"]
        deny_paths = ["/admin/**"]
        allow_methods = ["GET"]
        rate = "10/m"
        burst = 5
        visitor_concurrency = 3
        bandwidth = "5MiB"
        secure_headers = true
        set_response_headers = { Cache-Control = "no-store" }
        verify_webhook = "github:@/etc/wormkey/hook"
        shadow = ["limits"]
        policy = "@/etc/wormkey/policy.json"
        "#,
    )
    .unwrap();
    let [blog, db, locked] = &*config.tunnels else {
        panic!("{:?}", config.tunnels)
    };
    assert_eq!(blog.name.as_str(), "blog");
    assert_eq!(blog.target.to_string(), "http://localhost:3000");
    assert_eq!((blog.expires, blog.idle, blog.hold), (None, None, None));
    assert_eq!(blog.host, HostMode::Auto);
    assert_eq!((blog.labels.len(), blog.public_port), (0, None));
    assert_eq!(db.expires, Some(Duration::from_secs(30 * 86_400)));
    assert_eq!(db.idle, Some(Duration::from_secs(7200)));
    assert_eq!(db.hold, Some(Duration::from_secs(5)));
    assert_eq!(db.host, HostMode::Fixed("app.internal:8080".into()));
    assert_eq!(db.public_port, Some(20_001));
    assert!(db.yes_expose && !blog.yes_expose);
    let labels = [("env", "test"), ("team", "web")];
    assert_eq!(db.labels, labels.map(|(k, v)| (k.into(), v.into())));
    assert_eq!(blog.policy, crate::config::DeclaredPolicy::default());
    assert_eq!(
        locked.policy.passwords,
        [("bob".into(), "/etc/wormkey/bob".into())]
    );
    assert_eq!(locked.policy.file, Some("/etc/wormkey/policy.json".into()));
    assert_eq!(
        locked.policy.webhooks,
        [(WebhookKind::Github, "/etc/wormkey/hook".into())]
    );
    assert_eq!(
        locked.policy.words.compile().unwrap().to_text(),
        r#"{"allow":["203.0.113.0/24"],"methods":["GET"],"deny_paths":["/admin/**"],"#.to_owned()
            + r#""share":"required","limits":{"tunnel":{"rate":"10/m burst 5","bandwidth":5242880},"#
            + r#""visitor":{"concurrency":3}},"response_headers":{"set":{"cache-control":"no-store"}},"#
            + r#""secure_headers":{},"shadow":["limits"]}"#
    );
}

#[test]
fn declared_tunnels_are_checked() {
    for (entry, wanted) in [
        (
            "target = 1",
            "line 1: tunnel.name: is missing; write name = \"blog\"",
        ),
        (
            "name = \"a\"",
            "line 1: tunnel.target: is missing; write target = \"3000\"",
        ),
        (
            "name = \"A\"\ntarget = 1",
            "line 2: tunnel.name: \"A\": 'A' cannot stand in a name; use a-z, 0-9 and single hyphens",
        ),
        (
            "name = \"admin\"\ntarget = 1",
            "line 2: tunnel.name: \"admin\" is reserved; choose another name",
        ),
        (
            "name = \"a\"\ntarget = \"ftp://x:1\"",
            "line 3: tunnel.target: \"ftp\" is not a kind of target; use http, https, https+insecure, unix, file, tcp, tls or udp",
        ),
        (
            "name = \"a\"\ntarget = 70000",
            "line 3: tunnel.target: \"70000\" is not a port; ports are 1 to 65535",
        ),
        (
            "name = \"a\"\ntarget = 1\nexpires = \"0s\"",
            "line 4: tunnel.expires: 0 would be over at once",
        ),
        (
            "name = \"a\"\ntarget = 1\nhold = \"0s\"",
            "line 4: tunnel.hold: 0 would refuse every visit that comes while the link is away; leave it out",
        ),
        (
            "name = \"a\"\ntarget = 1\nhost = \"a b\"",
            "line 4: tunnel.host: \"a b\" is no Host header; write \"auto\", \"keep\", \"rewrite\" or a host and port",
        ),
        (
            "name = \"a\"\ntarget = 1\npublic_port = 5",
            "line 4: tunnel.public_port: is for tcp:// and udp:// targets; leave it out",
        ),
        (
            "name = \"a\"\ntarget = 1\nyes_expose = \"yes\"",
            "line 4: tunnel.yes_expose: is a text; write true or false, without quotes",
        ),
        (
            "name = \"a\"\ntarget = \"tcp://1\"\npublic_port = 65536",
            "line 4: tunnel.public_port: 65536 is out of range; write 1 to 65535",
        ),
        (
            "name = \"a\"\ntarget = 1\nlabels = { n = 1 }",
            "line 4: tunnel.labels.n: is a number; write it in quotes",
        ),
        (
            "name = \"a\"\ntarget = 1\nauth = [\"bob:hunter2\"]",
            "line 4: tunnel.auth: names no file; write \"bob:@/etc/wormkey/bob\", a file whose first line is the password",
        ),
        (
            "name = \"a\"\ntarget = 1\ndeny = [\"x\"]",
            "line 4: tunnel.deny: deny[0]: \"x\" is no network; write 10.0.0.0/8, 2001:db8::/32 or one address",
        ),
        (
            "name = \"a\"\ntarget = 1\nvisitor_burst = 3",
            "line 4: tunnel.visitor_burst: limits.visitor.burst: belongs to a rate; give that, too",
        ),
        (
            "name = \"a\"\ntarget = \"tcp://22\"\nshare = true",
            "line 3: tunnel.target: has networks and limits only, since it carries bytes; leave the other rules out",
        ),
        (
            "name = \"a\"\ntarget = 1\nexpire = \"1h\"",
            "line 4: tunnel.expire: is no key; did you mean expires?",
        ),
    ] {
        check(&format!("[[tunnel]]\n{entry}"), &[wanted]);
    }
    check(
        "[tunnel]\nname = \"a\"\ntarget = 1",
        &["line 1: tunnel: is not a list of tables; write each one as [[tunnel]]"],
    );
}

#[test]
fn a_name_declared_twice_shows_both_places() {
    let folder = Folder::new(&[
        ("client.toml", "[[tunnel]]\nname = \"a\"\ntarget = 1\n"),
        (
            "client.d/more.toml",
            "\n[[tunnel]]\nname = \"a\"\ntarget = 2\n",
        ),
    ]);
    let err = ClientConfig::load(Some(&folder.path("client.toml"))).unwrap_err();
    assert_eq!(
        folder.short(err),
        "client.d/more.toml: 1 problem\n  line 3: tunnel.name: \"a\" is declared already \
         (client.toml line 2); give one of them another name"
    );
}

#[test]
fn origins_are_checked() {
    for (value, wanted) in [
        (
            "allow = [\"10.1.2.3/8\"]",
            "allow: \"10.1.2.3/8\" has bits beyond its prefix; write \"10.0.0.0/8\" or \"10.1.2.3\"",
        ),
        (
            "allow = [\"nas.lan\"]",
            "allow: \"nas.lan\" is no address or network; names are judged by their address, write that, such as \"192.168.1.0/24\"",
        ),
        (
            "allow = \"127.0.0.1\"",
            "allow: is a text; write a list, [\"127.0.0.1\", \"::1\"]",
        ),
        (
            "unix = [\"run/*\"]",
            "unix: \"run/*\" is not absolute; begin it with \"/\"",
        ),
        (
            "files = [\"/srv\", \"/srv/../etc\"]",
            "files: \"/srv/../etc\" has \"..\" inside; write it without",
        ),
    ] {
        check(
            &format!("[origins]\n{value}"),
            &[&format!("line 2: origins.{wanted}")],
        );
    }
    let config = load_client("[origins]\nallow = []\nunix = []\nfiles = []").unwrap();
    assert_eq!(
        config.origins.allow,
        [],
        "nothing is allowed, not the default"
    );
    assert_eq!(
        (config.origins.unix.len(), config.origins.files.len()),
        (0, 0)
    );
}

fn person(folder: &Folder) -> Person {
    Person {
        uid: 1000,
        home: Some(folder.path("home").into()),
        ..Person::default()
    }
}

#[test]
fn a_person_s_own_client_lives_in_their_home() {
    let folder = Folder::new(&[(
        "home/.config/wormkey/client.toml",
        "[log]\nlevel = \"debug\"",
    )]);
    let config = ClientConfig::load_as(None, &person(&folder)).unwrap();
    assert_eq!(config.log.level, "debug");
    let state = folder.path("home/.local/state/wormkey");
    assert_eq!(config.state_dir, state);
    assert_eq!(config.admin.socket, state.join("client.sock"));

    let with_xdg = Person {
        config_home: Some(folder.path("config").into()),
        state_home: Some(folder.path("state").into()),
        runtime_dir: Some("/run/user/1000".into()),
        ..person(&folder)
    };
    let config = ClientConfig::load_as(None, &with_xdg).unwrap();
    assert_eq!(config.log.level, "info", "no file is no problem");
    assert_eq!(config.state_dir, folder.path("state/wormkey"));
    assert_eq!(
        config.admin.socket,
        Path::new("/run/user/1000/wormkey/client.sock")
    );

    // The XDG rules: what is not absolute counts as not set.
    let relative = Person {
        config_home: Some("config".into()),
        ..person(&folder)
    };
    let config = ClientConfig::load_as(None, &relative).unwrap();
    assert_eq!(config.log.level, "debug");
}

#[test]
fn a_file_that_a_person_names_moves_nothing_of_theirs_to_the_machine_s_places() {
    let folder = Folder::new(&[("other.toml", "[log]\nlevel = \"debug\"")]);
    let named = folder.path("other.toml");
    let config = ClientConfig::load_as(Some(&named), &person(&folder)).unwrap();
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.state_dir, folder.path("home/.local/state/wormkey"));

    // What the machine's unit says of its user, who is not root either.
    let of_unit = Person {
        uid: 999,
        config_home: Some("/etc".into()),
        state_home: Some("/var/lib".into()),
        runtime_dir: Some("/run".into()),
        ..Person::default()
    };
    let root = Person::default();
    let homeless = Person {
        uid: 1000,
        ..Person::default()
    };
    for who in [of_unit, root, homeless] {
        let config = ClientConfig::load_as(Some(&named), &who).unwrap();
        assert_eq!(config.state_dir, Path::new("/var/lib/wormkey"), "{who:?}");
        assert_eq!(config.admin.socket, Path::new("/run/wormkey/client.sock"));
    }
}

#[test]
fn a_person_without_a_home_is_told_what_to_do() {
    let nobody = Person {
        uid: 1000,
        ..Person::default()
    };
    let err = ClientConfig::load_as(None, &nobody).unwrap_err();
    assert!(err.to_string().contains("set HOME"), "{err}");
}

#[test]
fn only_a_file_that_was_named_must_exist() {
    let folder = Folder::new(&[]);
    assert!(ClientConfig::load_as(None, &person(&folder)).is_ok());
    let err = ClientConfig::load(Some(&folder.path("other.toml"))).unwrap_err();
    assert_eq!(
        folder.short(err),
        "other.toml: 1 problem\n  there is no such file; leave out --config to start with the defaults"
    );
}

#[test]
fn probes_are_rare_or_none() {
    let every = |text: &str| load_client(text).unwrap().probe.every;
    assert_eq!(every(""), Some(Duration::from_secs(300)));
    assert_eq!(every("[probe]\nevery = \"never\""), None);
    assert_eq!(
        every("[probe]\nevery = \"1h\""),
        Some(Duration::from_secs(3600))
    );
    check(
        "[probe]\nevery = \"5s\"",
        &["line 2: probe.every: is too often; write \"1m\" or more, or \"never\""],
    );
}

#[test]
fn the_environment_stands_in_for_what_is_not_written() {
    let folder = Folder::new(&[]);
    let named = folder.path("mine.toml");
    std::fs::write(&named, "[log]\nlevel = \"debug\"\n").unwrap();
    let with = Person {
        config: Some(named.clone().into()),
        state_dir: Some("/srv/wk".into()),
        socket: Some("relative.sock".into()),
        ..person(&folder)
    };
    let config = ClientConfig::load_as(None, &with).unwrap();
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.state_dir, Path::new("/srv/wk"));
    let own = folder.path("home/.local/state/wormkey/client.sock");
    assert_eq!(
        config.admin.socket, own,
        "what is not absolute is not heeded"
    );
    std::fs::write(&named, "[state]\ndir = \"/srv/other\"\n").unwrap();
    let config = ClientConfig::load_as(None, &with).unwrap();
    assert_eq!(config.state_dir, Path::new("/srv/other"), "the file wins");
    std::fs::remove_file(&named).unwrap();
    assert!(ClientConfig::load_as(None, &with).is_err(), "it was named");
}
