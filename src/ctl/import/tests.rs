use std::path::PathBuf;

use super::*;

fn sample(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/real/samples")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

fn from_text(name: &str, text: &str) -> Result<Draft, ImportError> {
    let top = parse(Path::new(name), text, None)?;
    let from = recognise(&top).ok_or(ImportError::Unknown)?;
    draft(&top, from, OriginsConfig::default())
}

fn imported(name: &str) -> Draft {
    let (path, text) = sample(name);
    from_text(path.to_str().unwrap(), &text).unwrap()
}

/// Name, target, host, public port, and what guards it lost.
fn said(draft: &Draft) -> Vec<String> {
    let show = |tunnel: &Carried| {
        let mut text = format!("{} {}", tunnel.name, tunnel.target);
        if let Some(host) = &tunnel.host {
            text.push_str(&format!(" host={host}"));
        }
        if let Some(port) = tunnel.public_port {
            text.push_str(&format!(" port={port}"));
        }
        if !tunnel.kept_back.is_empty() {
            text.push_str(&format!(" without {}", tunnel.kept_back.join(", ")));
        }
        text
    };
    draft.tunnels.iter().map(show).collect()
}

fn notes(draft: &Draft) -> Vec<(usize, &str)> {
    draft
        .notes
        .iter()
        .map(|note| (note.line, note.key.as_str()))
        .collect()
}

#[test]
fn an_ngrok_file_becomes_tunnels_and_keeps_back_what_had_a_password() {
    let draft = imported("ngrok.yml");
    let expected = [
        "my-site http://localhost:18081 host=rewrite",
        "api-2 http://localhost:18082",
        "private http://localhost:18083 without basic_auth (line 21)",
        "nas-box https+insecure://localhost:18084",
        "ssh tcp://localhost:22 port=20301",
    ];
    assert_eq!(said(&draft), expected);
    assert_eq!((draft.found, draft.open()), (5, 4));
    let expected = [
        (3, "authtoken"),
        (4, "region"),
        (5, "web_addr"),
        (13, "api"),
        (13, "api"),
        (17, "api.schemes"),
        (21, "private.basic_auth"),
        (23, "Nas_Box"),
        (23, "Nas_Box"),
        (26, "ssh"),
    ];
    assert_eq!(notes(&draft), expected, "{:#?}", draft.notes);
}

#[test]
fn ngrok_s_third_version_is_read_as_well() {
    let draft = imported("ngrok-v3.yml");
    let expected = [
        "shop http://localhost:18081",
        "guarded http://localhost:18082 without traffic_policy (line 13)",
        "inner http://localhost:18083 without bindings (line 20)",
    ];
    assert_eq!(said(&draft), expected, "{:#?}", draft.notes);
}

#[test]
fn an_frp_file_becomes_tunnels_and_says_what_has_no_counterpart() {
    let draft = imported("frpc.toml");
    let expected = [
        "blog http://localhost:18081 host=blog.internal",
        "grafana http://localhost:18082 without httpUser (line 19), httpPassword (line 20)",
        "files file:/srv/site",
        "docs-2 http://localhost:18083",
        "ssh tcp://192.168.1.10:22 port=20022",
    ];
    assert_eq!(said(&draft), expected, "{:#?}", draft.notes);
    assert_eq!((draft.found, draft.open()), (6, 4));
    for (line, key) in [
        (3, "auth"),
        (11, "web.transport.useEncryption"),
        (44, "secret_ssh"),
        (50, "visitors.remote_ssh"),
    ] {
        assert!(
            notes(&draft).contains(&(line, key)),
            "{key}: {:#?}",
            draft.notes
        );
    }
    let ssh: Vec<_> = draft
        .notes
        .iter()
        .filter(|note| note.key == "ssh")
        .collect();
    assert!(
        ssh.iter().any(|note| note.what.contains("[origins] allow")),
        "{ssh:?}"
    );
    assert!(
        ssh.iter().any(|note| note.what.contains("tcp_ports")),
        "{ssh:?}"
    );
}

#[test]
fn a_cloudflared_file_becomes_tunnels_and_keeps_back_what_was_narrower() {
    let draft = imported("config.yml");
    let expected = [
        "app http://localhost:18081 host=app.internal",
        "admin-2 http://localhost:18082 without path (line 12)",
        "nas https+insecure://localhost:18084",
        "staff http://localhost:18083 without access (line 22)",
        "ssh tcp://localhost:22",
    ];
    assert_eq!(said(&draft), expected, "{:#?}", draft.notes);
    assert_eq!((draft.found, draft.open()), (5, 3));
}

#[test]
fn a_proxy_header_is_carried_where_the_configuration_has_the_key() {
    let top = parse(Path::new("frpc.toml"), &sample("frpc.toml").1, None).unwrap();
    for (keys, expected) in [
        (vec![], None),
        (vec!["tunnel.proxy_protocol".to_owned()], Some("v2")),
    ] {
        let mut draft = Draft::new(OriginsConfig::default(), &keys);
        frp::read(&top, &mut draft).unwrap();
        assert_eq!(draft.tunnels[4].proxy_protocol, expected);
        assert_eq!(
            draft.toml(MARK).contains("proxy_protocol = \"v2\""),
            expected.is_some()
        );
    }
}

#[test]
fn what_is_printed_is_a_configuration_that_holds() {
    for name in ["ngrok.yml", "ngrok-v3.yml", "frpc.toml", "config.yml"] {
        let draft = imported(name);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.toml");
        std::fs::write(&path, draft.toml(MARK)).unwrap();
        let config = ClientConfig::load(Some(&path)).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(config.tunnels.len(), draft.open(), "{name}");
        // What is kept back is whole, too, once its marks are taken away.
        let body = draft
            .toml(MARK)
            .replace("# Kept", "## Kept")
            .replace("\n# ", "\n");
        std::fs::write(&path, body).unwrap();
        let config = ClientConfig::load(Some(&path)).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(config.tunnels.len(), draft.tunnels.len(), "{name}");
    }
}

#[test]
fn frp_s_file_may_be_yaml_or_json() {
    for (name, text) in [
        (
            "frpc.yaml",
            "serverAddr: a\nproxies:\n- name: web\n  type: http\n  localPort: 3000\n",
        ),
        (
            "frpc.json",
            r#"{"proxies": [{"name": "web", "type": "http", "localPort": 3000}]}"#,
        ),
    ] {
        assert_eq!(
            said(&from_text(name, text).unwrap()),
            ["web http://localhost:3000"]
        );
    }
}

#[test]
fn one_url_is_a_tunnel_of_cloudflared_s() {
    let draft = from_text(
        "config.yml",
        "url: http://localhost:8000\nno-autoupdate: true\n",
    )
    .unwrap();
    assert_eq!(said(&draft), ["tunnel http://localhost:8000"]);
    assert_eq!(notes(&draft), [(2, "no-autoupdate")]);
}

#[test]
fn anchors_and_merges_are_followed() {
    let text =
        "base: &b { proto: http, inspect: true }\ntunnels:\n  a:\n    <<: *b\n    addr: 3000\n";
    let draft = from_text("ngrok.yml", text).unwrap();
    assert_eq!(said(&draft), ["a http://localhost:3000"]);
}

#[test]
fn names_are_made_fit_and_told_apart() {
    let text = "tunnels:\n  My App!: {addr: 1}\n  my_app: {addr: 2}\n  www: {addr: 3}\n  '---': {addr: 4}\n";
    let draft = from_text("ngrok.yml", text).unwrap();
    let names: Vec<_> = draft
        .tunnels
        .iter()
        .map(|tunnel| tunnel.name.as_str())
        .collect();
    assert_eq!(names, ["my-app", "my-app-2", "www-2", "tunnel"]);
    assert_eq!(draft.notes.len(), 4);
}

#[test]
fn a_bad_file_is_told_of_with_its_line() {
    let deep = format!("ingress: {}", "[".repeat(100));
    let lines = "[x, x, x, x, x, x, x, x, x, x]".to_owned();
    let bombs: String = (0..8)
        .map(|i| {
            format!(
                "k{}: &b{i} [{}]\n",
                i,
                vec![format!("*b{}", i - 1); 10].join(", ")
            )
        })
        .skip(1)
        .collect();
    let bomb = format!("k0: &b0 {lines}\n{bombs}");
    for (name, text, expected) in [
        ("a.yml", "tunnels:\n  a:\n  - b\n c: d\n", "line 4: "),
        (
            "a.yml",
            "tunnels:\n  a: {addr: 1}\n  a: {addr: 2}\n",
            "line 3: \"a\" stands there twice; this is not YAML",
        ),
        ("a.yml", "tunnels: [a]\n", "line 1: tunnels is not a table"),
        (
            "a.yml",
            "tunnels:\n  a: {proto: http}\n",
            "line 2: tunnels.a is not a table with addr",
        ),
        ("a.yml", "hello: there\n", "neither ngrok's"),
        ("a.yml", "", "neither ngrok's"),
        ("a.yml", &deep, "line 1: this is nested too deep"),
        ("a.yml", &bomb, "more than any such file holds"),
        (
            "a.yml",
            "ingress:\n- hostname: a.b\n",
            "line 2: ingress is not rules with a service",
        ),
        ("frpc.toml", "serverAddr = \n", "line 1: "),
        (
            "frpc.toml",
            "a = 1\n{{- range $_, $v := parseNumberRangePair \"1-2\" }}\n",
            "line 2: a template",
        ),
        (
            "frpc.toml",
            "[[proxies]]\ntype = \"tcp\"\n",
            "line 1: proxies is not tables with name",
        ),
        (
            "frpc.ini",
            "[common]\nserver_addr = a\n",
            "frp's old format",
        ),
    ] {
        let err = from_text(name, text).expect_err(text).to_string();
        assert!(err.contains(expected), "{name}: {err}");
    }
}

proptest::proptest! {
    /// Whatever a file holds, reading it ends with tunnels or with a reason.
    #[test]
    fn no_file_panics(text in "[a-z:{}\\[\\]&*<!|>'\"#,\\- \n]{0,200}") {
        for name in ["a.yml", "a.toml"] {
            let _ = from_text(name, &text);
            let _ = from_text(name, &format!("tunnels:\n  {text}\n"));
            let _ = from_text(name, &format!("ingress:\n- {text}\n"));
        }
    }
}
