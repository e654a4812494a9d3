use std::path::PathBuf;

use super::*;

/// Where secrets would go.
const FOLDER: &str = "/etc/wormkey/client.d/imported.secrets";

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
    let secrets = Secrets {
        folder: FOLDER.into(),
        written: false,
    };
    draft(&top, from, OriginsConfig::default(), secrets)
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
        for (key, value) in &tunnel.rules {
            text.push_str(&format!(" {key}={value}"));
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
fn an_ngrok_file_becomes_tunnels_and_keeps_back_what_had_a_login() {
    let draft = imported("ngrok.yml");
    let expected = [
        "my-site http://localhost:18081 host=rewrite",
        "api-2 http://localhost:18082",
        &format!("private http://localhost:18083 auth=[\"ada:@{FOLDER}/private-1\"]"),
        "nas-box https+insecure://localhost:18084",
        "ssh tcp://localhost:22 port=20301",
        "office http://localhost:18081 allow=[\"127.0.0.0/8\", \"2001:db8:7::/48\"] deny=[\"127.0.0.9/32\"] \
         remove_request_headers=[\"cookie\"] set_request_headers={ x-team = \"web\" } \
         set_response_headers={ x-robots-tag = \"noindex\" }",
        "login http://localhost:18082 without oauth (line 44)",
        &format!("hooks http://localhost:18083 verify_webhook=\"github:@{FOLDER}/hooks-1\""),
    ];
    assert_eq!(said(&draft), expected);
    assert_eq!((draft.found, draft.open()), (8, 7));
    let expected = [
        (3, "authtoken"),
        (4, "region"),
        (5, "web_addr"),
        (13, "api"),
        (13, "api"),
        (17, "api.schemes"),
        (18, "private"),
        (23, "Nas_Box"),
        (23, "Nas_Box"),
        (26, "ssh"),
        (37, "office.request_header"),
        (44, "login.oauth"),
        (46, "hooks"),
    ];
    assert_eq!(notes(&draft), expected, "{:#?}", draft.notes);
    // Nothing that is printed tells a secret.
    let printed = format!("{}{draft:?}", draft.toml(MARK));
    let json = serde_json::to_string(&draft.tunnels).unwrap();
    for text in [printed, json] {
        assert!(
            !text.contains("correct horse") && !text.contains("a-secret"),
            "{text}"
        );
    }
    let secrets = draft.tunnels.iter().flat_map(|tunnel| &tunnel.secrets);
    let secrets: Vec<_> = secrets
        .map(|file| (&*file.name, file.secret.expose().as_str()))
        .collect();
    assert_eq!(
        secrets,
        [
            ("private-1", "correct horse"),
            ("hooks-1", "a-secret-of-github")
        ]
    );
}

#[test]
fn ngrok_s_third_version_is_read_as_well() {
    let draft = imported("ngrok-v3.yml");
    let expected = [
        "shop http://localhost:18081",
        "guarded http://localhost:18082 without traffic_policy (line 13)",
        "inner http://localhost:18083 without bindings (line 20)",
        &format!(
            "team http://localhost:18082 allow=[\"127.0.0.0/8\"] auth=[\"ada:@{FOLDER}/team-1\"] \
             set_response_headers={{ x-robots-tag = \"noindex\" }} visitor_burst=3 visitor_rate=\"3/m\""
        ),
        "sometimes http://localhost:18083 without traffic_policy (line 49)",
    ];
    assert_eq!(said(&draft), expected, "{:#?}", draft.notes);
}

#[test]
fn an_frp_file_becomes_tunnels_and_says_what_has_no_counterpart() {
    let draft = imported("frpc.toml");
    let expected = [
        "blog http://localhost:18081 host=blog.internal",
        &format!("grafana http://localhost:18082 auth=[\"admin:@{FOLDER}/grafana-1\"]"),
        "files file:/srv/site",
        "docs-2 http://localhost:18083",
        "ssh tcp://192.168.1.10:22 port=20022",
        "narrow http://localhost:18082 allow_paths=[\"/after/**\", \"/bytes/**\"] bandwidth=\"1MiB\" \
         set_request_headers={ x-from = \"frp\" } set_response_headers={ x-robots-tag = \"noindex\" }",
        "raw tcp://localhost:18081 port=21050",
        "names udp://localhost:18053 port=21051",
        "passed tls://localhost:18443",
    ];
    assert_eq!(said(&draft), expected, "{:#?}", draft.notes);
    assert_eq!((draft.found, draft.open()), (10, 9));
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
        "admin-2 http://localhost:18082 allow_paths=[\"/public/**\"]",
        "nas https+insecure://localhost:18084",
        "staff http://localhost:18083 without access (line 22)",
        "ssh tcp://localhost:22",
    ];
    assert_eq!(said(&draft), expected, "{:#?}", draft.notes);
    assert_eq!((draft.found, draft.open()), (5, 4));
}

#[test]
fn a_proxy_header_is_carried_where_the_configuration_has_the_key() {
    let top = parse(Path::new("frpc.toml"), &sample("frpc.toml").1, None).unwrap();
    for (keys, expected) in [
        (vec![], None),
        (vec!["tunnel.proxy_protocol".to_owned()], Some("v2")),
    ] {
        let mut draft = Draft::new(OriginsConfig::default(), &keys, Secrets::default());
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

/// A guard of ngrok's, of frp's or of cloudflared's alone, and what becomes of it.
#[test]
fn a_guard_is_carried_whole_or_keeps_its_tunnel_back() {
    let ngrok = |guard: &str| format!("tunnels:\n  a:\n    addr: 3000\n    {guard}\n");
    let ngrok_tcp =
        |guard: &str| format!("tunnels:\n  a:\n    proto: tcp\n    addr: 3000\n    {guard}\n");
    let policy = |action: &str| {
        ngrok(&format!(
            "traffic_policy: {{on_http_request: [{{actions: [{action}]}}]}}"
        ))
    };
    let frp = |rest: &str| format!("proxies: [{{name: a, type: http, localPort: 3000, {rest}}}]");
    let path = |path: &str| {
        format!("ingress:\n- hostname: a.b\n  path: {path}\n  service: http://localhost:3000\n")
    };
    let auth = &*format!("auth=[\"u:@{FOLDER}/a-1\"]");
    for (text, expected) in [
        (ngrok("basic_auth: ['u:p:w']"), auth),
        (ngrok("auth: 'u:p'"), auth),
        (ngrok("basic_auth: ['u:p', 'u:q']"), "without basic_auth"),
        (ngrok("basic_auth: ['u']"), "without basic_auth"),
        (ngrok("basic_auth: ['u:']"), "without basic_auth"),
        (ngrok("allow_cidr: [10.0.0.0/8]"), "allow=[\"10.0.0.0/8\"]"),
        (ngrok("allow_cidr: [office]"), "without allow_cidr"),
        (
            ngrok("ip_restriction: {allow_cidrs: [10.0.0.1], other: [1]}"),
            "without ip_restriction",
        ),
        (
            ngrok("verify_webhook: {provider: slack, secret: ''}"),
            "without verify_webhook",
        ),
        (
            ngrok("verify_webhook: {provider: zoom, secret: s}"),
            "without verify_webhook",
        ),
        (ngrok("mutual_tls_cas: ca.pem"), "without mutual_tls_cas"),
        (ngrok("policy: 'a text'"), "without policy"),
        (ngrok_tcp("basic_auth: ['u:p']"), "without a password"),
        (
            ngrok_tcp("allow_cidr: [10.0.0.0/8]"),
            "allow=[\"10.0.0.0/8\"]",
        ),
        (
            policy("{type: basic-auth, config: {credentials: ['u:p']}}"),
            auth,
        ),
        (
            policy("{type: restrict-ips, config: {enforce: false, allow: [10.0.0.1]}}"),
            "",
        ),
        (
            policy("{type: restrict-ips, config: {allow: [10.0.0.1], new: x}}"),
            "without traffic_policy",
        ),
        // Both would have to hold.
        (
            policy(
                "{type: restrict-ips, config: {allow: [10.0.0.0/8]}}, {type: restrict-ips, config: {allow: [10.0.0.1]}}",
            ),
            "without traffic_policy",
        ),
        (
            policy("{type: rate-limit, config: {capacity: 5, rate: 7s}}"),
            "without traffic_policy",
        ),
        (policy("{type: deny}"), "without traffic_policy"),
        (frp("httpUser: u, httpPassword: p"), auth),
        (frp("httpUser: u"), "without httpUser"),
        (frp("locations: [/a, /]"), ""),
        (frp("locations: [/a b]"), "without locations"),
        (frp("routeByHTTPUser: u"), "without routeByHTTPUser"),
        (path("/public/.*"), "allow_paths=[\"/public/**\"]"),
        (path("^/static"), "allow_paths=[\"/static/**\"]"),
        (path("^/health$"), "allow_paths=[\"/health\"]"),
        (path("/.*"), ""),
        (path("'\\.(jpg|png)$'"), "without path"),
    ] {
        let name = if text.starts_with("proxies") {
            "frpc.yaml"
        } else {
            "a.yml"
        };
        let draft = from_text(name, &text).unwrap();
        let [only] = &said(&draft)[..] else {
            panic!("{text}: {:?}", draft.tunnels);
        };
        let rest = only.splitn(3, ' ').nth(2).unwrap_or_default();
        let rest = rest.split(" (line").next().unwrap_or_default();
        assert_eq!(rest, expected, "{text}");
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
