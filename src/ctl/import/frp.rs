//! frp's client file: frpc.toml, or the same as YAML or JSON. Not the old frpc.ini.

use super::ImportError;
use super::draft::{Draft, Found, Guard, first_label, none};
use super::rules::{Rules, Side};
use super::tree::Node;

/// Of the file itself.
const TOP: &[(&str, &str)] = &[
    ("serverAddr", JOIN),
    ("serverPort", JOIN),
    ("auth", JOIN),
    ("user", JOIN),
    ("clientID", JOIN),
    (
        "natHoleStunServer",
        "is left out: visits pass through the server",
    ),
    (
        "transport",
        "is left out: links are QUIC, always encrypted; see [link] in client.toml",
    ),
    (
        "udpPacketSize",
        "is left out: larger packets are split on the way",
    ),
    ("dnsServer", "is left out: the system's resolver is used"),
    ("log", "is left out: see [log] in client.toml"),
    (
        "webServer",
        "is left out: wormkeyctl speaks to the client over its socket",
    ),
    ("loginFailExit", "is left out: the client keeps trying"),
    (
        "start",
        "says which proxies are in use; the others are left out",
    ),
    (
        "includes",
        "names more files, which are not read: import each of them",
    ),
    ("store", "is left out: wormkeyctl open keeps what it opened"),
];
const JOIN: &str = "is left out: a device joins a server instead, with wormkeyctl join";

/// What stands before a proxy and lets only some in.
const GUARDS: &[Guard] = &[
    ("locations", "let only some paths in", locations),
    ("routeByHTTPUser", "let only some people in", none),
    ("allowUsers", "let only some people in", none),
    ("secretKey", "let only those with its key in", none),
];

/// Of a proxy.
const PROXY: &[(&str, &str)] = &[
    (
        "annotations",
        "is left out: labels are for people, labels = { key = \"value\" }",
    ),
    (
        "metadatas",
        "is left out: labels are for people, labels = { key = \"value\" }",
    ),
    ("loadBalancer", "is left out: a name leads to one tunnel"),
    (
        "healthCheck",
        "is left out: the client looks at its tunnels by itself, see [probe] in client.toml",
    ),
    (
        "multiplexer",
        "is left out: wormkey has no such multiplexer",
    ),
];

/// What is used of a proxy.
const USED: &[&str] = &[
    "name",
    "type",
    "enabled",
    "localIP",
    "localPort",
    "remotePort",
    "customDomains",
    "subdomain",
    "hostHeaderRewrite",
    "transport",
    "plugin",
    "httpUser",
    "httpPassword",
    "requestHeaders",
    "responseHeaders",
];

/// Whether the file looks like one.
pub(super) fn is_one(top: &Node) -> bool {
    ["proxies", "visitors", "serverAddr", "serverPort"]
        .iter()
        .any(|key| top.get(key).is_some())
}

/// Reads the proxies of a file.
pub(super) fn read(top: &Node, draft: &mut Draft) -> Result<(), ImportError> {
    draft.rest("", top, &["proxies", "visitors"], TOP);
    let items = |key| top.get(key).map(Node::items).unwrap_or_default();
    let started: Vec<&str> = items("start").iter().filter_map(Node::text).collect();
    for node in items("visitors") {
        let name = node.get("name").and_then(Node::text).unwrap_or("visitor");
        let what = "is left out: it reaches another client's private service, and wormkey has public tunnels only";
        draft.note(node.line, format!("visitors.{name}"), what);
    }
    for node in items("proxies") {
        let Some(name) = node.get("name").and_then(Node::text) else {
            return Err(ImportError::shape(
                node.line,
                "proxies",
                "tables with name and type",
            ));
        };
        let off = node
            .get("enabled")
            .is_some_and(|on| on.text() == Some("false"));
        if off || !started.is_empty() && !started.contains(&name) {
            draft.note(node.line, name, "is left out: it is switched off");
        } else {
            proxy(name, node, draft)?;
        }
    }
    Ok(())
}

fn proxy(name: &str, node: &Node, draft: &mut Draft) -> Result<(), ImportError> {
    let text = |key| node.get(key).and_then(Node::text);
    let kind = text("type").unwrap_or_default();
    if matches!(kind, "stcp" | "sudp" | "xtcp") {
        draft.found += 1;
        let what = format!(
            "is left out: {kind} is for clients of one's own, and wormkey's tunnels are public"
        );
        draft.note(node.line, name, what);
        return Ok(());
    }
    let mut found = Found {
        line: node.line,
        called: name.to_owned(),
        name: text("subdomain").unwrap_or(name).to_owned(),
        host: text("hostHeaderRewrite")
            .filter(|host| !host.is_empty())
            .map(str::to_owned),
        public_port: text("remotePort")
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0),
        ..Found::default()
    };
    draft.guards(node, GUARDS, &mut found);
    password(node, ("httpUser", "httpPassword"), "", &mut found, draft);
    headers(node, "", &mut found, draft);
    let guards = GUARDS.iter().map(|(key, ..)| *key);
    let told: Vec<&str> = USED.iter().copied().chain(guards).collect();
    draft.rest(&format!("{name}."), node, &told, PROXY);
    transport(node, &mut found, draft);
    domains(node, &mut found, draft);
    let target = match node.get("plugin").filter(|plugin| !plugin.is_idle()) {
        Some(plugin) => plugged(plugin, &mut found, draft),
        None => plain(kind, node, draft),
    };
    if let Some(target) = target {
        found.target = target;
        draft.carry(found);
    } else {
        draft.found += 1;
    }
    Ok(())
}

/// A proxy that leads to an address.
fn plain(kind: &str, node: &Node, draft: &mut Draft) -> Option<String> {
    let text = |key| node.get(key).and_then(Node::text);
    let name = text("name").unwrap_or_default();
    let scheme = match kind {
        "http" => "http",
        // The service has the certificate, and frps only looks at the name.
        "https" => "tls",
        "tcp" => "tcp",
        "udp" => "udp",
        other => {
            let what = format!("is left out: {other:?} is no kind of tunnel here");
            draft.note(node.line, name, what);
            return None;
        }
    };
    let Some(port) = text("localPort") else {
        draft.note(node.line, name, "is left out: it has no localPort");
        return None;
    };
    Some(at(scheme, text("localIP"), port))
}

fn at(scheme: &str, ip: Option<&str>, port: &str) -> String {
    match ip.unwrap_or("127.0.0.1") {
        "127.0.0.1" | "localhost" => format!("{scheme}://localhost:{port}"),
        v6 if v6.contains(':') => format!("{scheme}://[{v6}]:{port}"),
        other => format!("{scheme}://{other}:{port}"),
    }
}

/// A proxy whose other end is one of frp's plugins.
fn plugged(plugin: &Node, found: &mut Found, draft: &mut Draft) -> Option<String> {
    let text = |key| plugin.get(key).and_then(Node::text);
    let called = format!("{}.plugin", found.called);
    let kind = text("type").unwrap_or_default();
    if found.host.is_none() {
        found.host = text("hostHeaderRewrite").map(str::to_owned);
    }
    password(
        plugin,
        ("httpUser", "httpPassword"),
        "plugin.",
        found,
        draft,
    );
    password(plugin, ("username", "password"), "plugin.", found, draft);
    headers(plugin, "plugin.", found, draft);
    let used = [
        "type",
        "localAddr",
        "localPath",
        "unixPath",
        "hostHeaderRewrite",
        "httpUser",
        "httpPassword",
        "username",
        "password",
        "requestHeaders",
        "responseHeaders",
    ];
    draft.rest(&format!("{called}."), plugin, &used, &[]);
    let target = match kind {
        "static_file" => text("localPath").map(|path| format!("file:{path}")),
        "unix_domain_socket" => text("unixPath").map(|path| format!("unix:{path}")),
        "http2http" | "https2http" => text("localAddr").map(|addr| format!("http://{addr}")),
        // Neither of them looks at the service's certificate.
        "http2https" | "https2https" => {
            text("localAddr").map(|addr| format!("https+insecure://{addr}"))
        }
        _ => {
            let what =
                format!("the proxy is left out: {kind:?} is a proxy for going out, not a service");
            draft.note(plugin.line, called, what);
            return None;
        }
    };
    if target.is_none() {
        draft.note(
            plugin.line,
            called,
            "the proxy is left out: its plugin names no place",
        );
    }
    target
}

/// The two keys together ask for one password.
fn password(
    node: &Node,
    (user, password): (&str, &str),
    before: &str,
    found: &mut Found,
    draft: &mut Draft,
) {
    let given = |key| node.get(key).filter(|value: &&Node| !value.is_idle());
    let Some(first) = given(user).or(given(password)) else {
        return;
    };
    let text = |key| {
        given(key)
            .and_then(Node::text)
            .unwrap_or_default()
            .to_owned()
    };
    if !found.rules.passwords(vec![(text(user), text(password))]) {
        let what = "asked for a password";
        draft.guard(first.line, &format!("{before}{user}"), what, found);
    }
}

/// `requestHeaders.set` and `responseHeaders.set`.
fn headers(node: &Node, before: &str, found: &mut Found, draft: &mut Draft) {
    for (key, side) in [
        ("requestHeaders", Side::Request),
        ("responseHeaders", Side::Response),
    ] {
        let set = node.get(key).and_then(|rules| rules.get("set"));
        for field in set.map(Node::fields).unwrap_or_default() {
            let value = field.node.text().unwrap_or_default();
            let at = (field.line, &*format!("{before}{key}.set"));
            draft.header(at, side, (&field.key, Some(value)), found);
        }
    }
}

/// Beginnings of paths. `/pic` let `/picture` in as well, which is a neighbour here.
fn locations(node: &Node, rules: &mut Rules) -> bool {
    let texts: Option<Vec<&str>> = node.items().iter().map(Node::text).collect();
    let texts = texts.unwrap_or_default();
    if texts.contains(&"/") {
        return true;
    }
    let below = |text: &&str| format!("{}/**", text.trim_end_matches('/'));
    !texts.is_empty() && rules.allow_paths(texts.iter().map(below).collect())
}

fn transport(node: &Node, found: &mut Found, draft: &mut Draft) {
    let Some(transport) = node.get("transport") else {
        return;
    };
    let version = transport.get("proxyProtocolVersion").and_then(Node::text);
    found.proxy_protocol = match version {
        Some("v1") => Some("v1"),
        Some("v2") => Some("v2"),
        _ => None,
    };
    let reasons = [
        ("useEncryption", "is left out: links are always encrypted"),
        (
            "useCompression",
            "is left out: what the service sends is passed on as it is",
        ),
    ];
    let before = format!("{}.transport.", found.called);
    let used = [
        "proxyProtocolVersion",
        "bandwidthLimit",
        "bandwidthLimitMode",
    ];
    draft.rest(&before, transport, &used, &reasons);
    let Some(limit) = transport
        .get("bandwidthLimit")
        .filter(|limit| !limit.is_idle())
    else {
        return;
    };
    // frp's units are powers of two under the names of powers of ten.
    let text = limit.text().unwrap_or_default().replace('B', "iB");
    if !found.rules.bandwidth(text) {
        let what = "is left out: write bandwidth = \"1MiB\" or the like";
        draft.note(limit.line, format!("{before}bandwidthLimit"), what);
    }
}

fn domains(node: &Node, found: &mut Found, draft: &mut Draft) {
    let Some(domains) = node
        .get("customDomains")
        .filter(|domains| !domains.is_idle())
    else {
        return;
    };
    let names: Vec<&str> = domains.items().iter().filter_map(Node::text).collect();
    if node.get("subdomain").is_none()
        && let Some(first) = names.iter().find(|name| !name.starts_with('*'))
    {
        found.name = first_label(first).to_owned();
    }
    let what = format!(
        "answered at {}; here it is one name below the server's domain",
        names.join(", ")
    );
    draft.note(
        domains.line,
        format!("{}.customDomains", found.called),
        what,
    );
}
