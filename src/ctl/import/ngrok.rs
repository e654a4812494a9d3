//! ngrok.yml, versions 1 to 3: `tunnels` by name, and version 3's list of `endpoints`.

use super::ImportError;
use super::actions;
use super::draft::{Draft, Found, Guard, first_label, none};
use super::rules::Side;
use super::tree::{Field, Node, Value};

/// Of the file itself.
const TOP: &[(&str, &str)] = &[
    ("authtoken", ACCOUNT),
    ("api_key", ACCOUNT),
    ("agent", ACCOUNT),
    ("region", "is left out: the server is where you run it"),
    (
        "server_addr",
        "is left out: the join token names the server",
    ),
    (
        "root_cas",
        "is left out: the client trusts exactly the server that its join token names",
    ),
    (
        "web_addr",
        "is left out: wormkeyctl open --watch shows visits; there is no local web page",
    ),
    ("inspect_db_size", "is left out: visits are not kept"),
    ("log", LOG),
    ("log_level", LOG),
    ("log_format", LOG),
    (
        "console_ui",
        "is left out: the client has no screen of its own; see wormkeyctl status",
    ),
    ("update_channel", PACKAGE),
    ("update_check", PACKAGE),
    ("update", PACKAGE),
    ("http_proxy", PROXY),
    ("proxy_url", PROXY),
    ("socks5_proxy", PROXY),
];
const ACCOUNT: &str = "is left out: a device joins a server instead, with wormkeyctl join";
const LOG: &str = "is left out: see [log] in client.toml";
const PACKAGE: &str = "is left out: updates come with the package";
const PROXY: &str = "is left out: the client honours HTTPS_PROXY where UDP is blocked";

/// What stands before a tunnel and lets only some in.
const GUARDS: &[Guard] = &[
    ("auth", PASSWORD, |pairs, rules| rules.pairs(pairs)),
    ("basic_auth", PASSWORD, |pairs, rules| rules.pairs(pairs)),
    ("oauth", LOGIN, none),
    ("oidc", LOGIN, none),
    ("saml", LOGIN, none),
    ("ip_restriction", ADDRESSES, |node, rules| {
        actions::networks(node, ["allow_cidrs", "deny_cidrs"], rules)
    }),
    ("allow_cidr", ADDRESSES, |list, rules| rules.allow(list)),
    ("deny_cidr", "kept some addresses out", |list, rules| {
        rules.deny(list)
    }),
    ("mutual_tls_cas", CERTIFICATE, none),
    ("mutual_tls_certificate_authorities", CERTIFICATE, none),
    (
        "verify_webhook",
        "checked the sender's signature",
        actions::webhook,
    ),
    ("user_agent_filter", "let only some programs in", none),
    ("policy", RULES, actions::policy),
    ("traffic_policy", RULES, actions::policy),
];
const PASSWORD: &str = "asked for a password";
const LOGIN: &str = "asked for a login";
const ADDRESSES: &str = "let only some addresses in";
const CERTIFICATE: &str = "asked for a certificate";
const RULES: &str = "had rules of its own, which may have kept visits out";

/// Of a tunnel.
const TUNNEL: &[(&str, &str)] = &[
    (
        "inspect",
        "is left out: wormkeyctl open --watch shows visits",
    ),
    (
        "metadata",
        "is left out: labels are for people, labels = { key = \"value\" }",
    ),
    (
        "description",
        "is left out: labels are for people, labels = { key = \"value\" }",
    ),
    (
        "schemes",
        "is left out: the server redirects http to https for all tunnels",
    ),
    (
        "bind_tls",
        "is left out: the server redirects http to https for all tunnels",
    ),
    (
        "crt",
        "is left out: the server has one certificate for all its tunnels",
    ),
    (
        "key",
        "is left out: the server has one certificate for all its tunnels",
    ),
    (
        "compression",
        "is left out: what the service sends is passed on as it is",
    ),
    (
        "circuit_breaker",
        "is left out: a service that fails is asked again at the next visit",
    ),
    (
        "websocket_tcp_converter",
        "is left out: WebSockets are passed on as they are",
    ),
    ("pooling_enabled", "is left out: a name leads to one tunnel"),
    (
        "terminate_at",
        "is left out: the kind of target says who ends TLS",
    ),
    (
        "agent_tls_termination",
        "is left out: the kind of target says who ends TLS",
    ),
];

/// What is used of a tunnel.
const USED: &[&str] = &[
    "name",
    "url",
    "upstream",
    "proto",
    "addr",
    "subdomain",
    "hostname",
    "domain",
    "host_header",
    "remote_addr",
    "proxy_proto",
    "verify_upstream_tls",
    "labels",
    "bindings",
    "request_header",
    "response_header",
];

/// Whether the file looks like one.
pub(super) fn is_one(top: &Node) -> bool {
    let has = |key| top.get(key).is_some();
    has("tunnels") || has("endpoints") || has("authtoken") || has("agent")
}

/// Reads the tunnels of a file.
pub(super) fn read(top: &Node, draft: &mut Draft) -> Result<(), ImportError> {
    draft.rest("", top, &["version", "tunnels", "endpoints"], TOP);
    if let Some(tunnels) = top.get("tunnels") {
        if !matches!(tunnels.value, Value::Table(_) | Value::Nothing) {
            return Err(ImportError::shape(
                tunnels.line,
                "tunnels",
                "a table with a name for each",
            ));
        }
        for Field { key, line, node } in tunnels.fields() {
            tunnel(key, *line, node, draft)?;
        }
    }
    let endpoints = top.get("endpoints").map(Node::items).unwrap_or_default();
    for (number, node) in endpoints.iter().enumerate() {
        let unnamed = format!("endpoint-{}", number + 1);
        let name = node.get("name").and_then(Node::text).unwrap_or(&unnamed);
        endpoint(name, node, draft)?;
    }
    Ok(())
}

fn common(name: &str, line: usize, node: &Node, draft: &mut Draft) -> Result<Found, ImportError> {
    if node.fields().is_empty() {
        return Err(ImportError::shape(
            line,
            name,
            "a table with addr or upstream",
        ));
    }
    let mut found = Found {
        line,
        called: name.to_owned(),
        name: name.to_owned(),
        ..Found::default()
    };
    draft.guards(node, GUARDS, &mut found);
    headers(node, &mut found, draft);
    let guards = GUARDS.iter().map(|(key, ..)| *key);
    let told: Vec<&str> = USED.iter().copied().chain(guards).collect();
    draft.rest(&format!("{name}."), node, &told, TUNNEL);
    found.host = match node.get("host_header").and_then(Node::text) {
        None | Some("") => None,
        Some("preserve") => Some("keep".to_owned()),
        Some(host) => Some(host.to_owned()),
    };
    Ok(found)
}

/// `add: ["x-team: web"]` and `remove: [server]`, either way.
fn headers(node: &Node, found: &mut Found, draft: &mut Draft) {
    for (key, side) in [
        ("request_header", Side::Request),
        ("response_header", Side::Response),
    ] {
        let items = |what| {
            let list = node.get(key).and_then(|rules| rules.get(what));
            list.map(Node::items).unwrap_or_default()
        };
        for item in items("add") {
            let (name, value) = item
                .text()
                .and_then(|text| text.split_once(':'))
                .unwrap_or_default();
            draft.header((item.line, key), side, (name, Some(value)), found);
        }
        for item in items("remove") {
            let name = item.text().unwrap_or_default();
            draft.header((item.line, key), side, (name, None), found);
        }
    }
}

fn tunnel(name: &str, line: usize, node: &Node, draft: &mut Draft) -> Result<(), ImportError> {
    let mut found = common(name, line, node, draft)?;
    let text = |key| node.get(key).and_then(Node::text);
    if let Some(labels) = node.get("labels").filter(|labels| !labels.is_idle()) {
        // What stands before such a tunnel is in the account, where no file tells of it.
        let what = "belonged to an edge, whose rules are in the ngrok account";
        draft.guard(labels.line, "labels", what, &mut found);
    }
    let Some(addr) = text("addr") else {
        return Err(ImportError::shape(
            line,
            &format!("tunnels.{name}"),
            "a table with addr",
        ));
    };
    let checked = node.get("verify_upstream_tls").is_some_and(Node::is_true);
    found.target = target(text("proto").unwrap_or("http"), addr, checked);
    unchecked(&found, draft);
    let asked = text("subdomain")
        .or_else(|| text("domain"))
        .or_else(|| text("hostname"));
    if let Some(host) = asked {
        address(host, line, &mut found, draft);
    }
    if let Some(remote) = text("remote_addr") {
        found.public_port = remote.rsplit(':').next().and_then(|port| port.parse().ok());
    }
    found.proxy_protocol = proxy_protocol(text("proxy_proto"));
    draft.carry(found);
    Ok(())
}

fn endpoint(name: &str, node: &Node, draft: &mut Draft) -> Result<(), ImportError> {
    let mut found = common(name, node.line, node, draft)?;
    let upstream = node.get("upstream");
    let addr = upstream
        .and_then(|at| at.get("url").or(Some(at)))
        .and_then(Node::text);
    let Some(addr) = addr else {
        let key = format!("endpoints.{name}.upstream");
        return Err(ImportError::shape(node.line, &key, "a table with url"));
    };
    let url = node.get("url").and_then(Node::text).unwrap_or_default();
    let (scheme, host) = url.split_once("://").unwrap_or(("", url));
    if let Some(bindings) = node.get("bindings") {
        let public = bindings
            .items()
            .iter()
            .all(|item| item.text() == Some("public"));
        if !public {
            let what = "was not open to the public";
            draft.guard(bindings.line, "bindings", what, &mut found);
        }
    }
    found.target = target(scheme, addr, false);
    unchecked(&found, draft);
    if matches!(scheme, "tcp") {
        found.public_port = host.rsplit(':').next().and_then(|port| port.parse().ok());
    } else if !host.is_empty() {
        address(host, node.line, &mut found, draft);
    }
    let version = upstream
        .and_then(|at| at.get("proxy_protocol"))
        .and_then(Node::text);
    found.proxy_protocol = proxy_protocol(version);
    if let Some(upstream) = upstream {
        draft.rest(
            &format!("{name}.upstream."),
            upstream,
            &["url", "proxy_protocol"],
            &[],
        );
    }
    draft.carry(found);
    Ok(())
}

/// The public name: its first label becomes the tunnel's.
fn address(host: &str, line: usize, found: &mut Found, draft: &mut Draft) {
    let host = host.split([':', '/']).next().unwrap_or(host);
    found.name = first_label(host).trim_start_matches('*').to_owned();
    if host.contains('.') {
        let what = format!("answered at {host}; here it is the name below the server's domain");
        draft.note(line, found.called.clone(), what);
    }
    if host.starts_with('*') {
        found.name.clone_from(&found.called);
        let what = "answered at every name of a wildcard, which wormkey's tunnels do not";
        draft.note(line, found.called.clone(), what);
    }
}

/// What leads to the service. ngrok does not look at the service's own certificate unless it is told to.
fn target(proto: &str, addr: &str, checked: bool) -> String {
    let insecure = |rest: &str| {
        let how = if checked { "https" } else { "https+insecure" };
        format!("{how}://{rest}")
    };
    match (proto, addr.split_once("://")) {
        ("tcp" | "tls", Some((_, rest))) => format!("{proto}://{rest}"),
        ("tcp" | "tls", None) => format!("{proto}://{addr}"),
        (_, Some(("https", rest))) => insecure(rest),
        (_, Some(("file", path))) => format!("file:{path}"),
        _ => addr.to_owned(),
    }
}

fn unchecked(found: &Found, draft: &mut Draft) {
    if found.target.starts_with("https+insecure:") {
        let what = "ngrok did not check the service's certificate; write https:// in the target to have it checked";
        draft.note(found.line, found.called.clone(), what);
    }
}

fn proxy_protocol(version: Option<&str>) -> Option<&'static str> {
    match version {
        Some("1") => Some("v1"),
        Some("2") => Some("v2"),
        _ => None,
    }
}
