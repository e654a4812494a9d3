//! cloudflared's config.yml: the ingress rules, or the one `url`.

use super::ImportError;
use super::draft::{Draft, Found, Guard, first_label};
use super::rules::Rules;
use super::tree::Node;

/// Of the file itself.
const TOP: &[(&str, &str)] = &[
    ("tunnel", JOIN),
    ("credentials-file", JOIN),
    ("credentials-contents", JOIN),
    ("token", JOIN),
    ("token-file", JOIN),
    ("origincert", JOIN),
    (
        "warp-routing",
        "is left out: wormkey has public tunnels, no private networks",
    ),
    (
        "protocol",
        "is left out: links are QUIC, in a WebSocket where UDP is blocked",
    ),
    ("edge-ip-version", "is left out: both families are tried"),
    ("edge-bind-address", "is left out: the system chooses"),
    ("region", "is left out: the server is where you run it"),
    ("loglevel", LOG),
    ("logfile", LOG),
    ("log-directory", LOG),
    ("transport-loglevel", LOG),
    (
        "metrics",
        "is left out: wormkeyctl status shows how the client does",
    ),
    ("no-autoupdate", PACKAGE),
    ("autoupdate-freq", PACKAGE),
    ("pidfile", "is left out: systemd knows the process"),
    (
        "grace-period",
        "is left out: visits under way have 10 s to finish, or wormkeyctl drain --grace",
    ),
    ("retries", "is left out: the client keeps trying"),
    (
        "tag",
        "is left out: labels are for people, labels = { key = \"value\" }",
    ),
    ("post-quantum", "is left out: TLS chooses"),
];
const JOIN: &str = "is left out: a device joins a server instead, with wormkeyctl join";
const LOG: &str = "is left out: see [log] in client.toml";
const PACKAGE: &str = "is left out: updates come with the package";

/// Of `originRequest`.
const ORIGIN: &[(&str, &str)] = &[
    (
        "originServerName",
        "is left out: the certificate must be for the host in the target; else write https+insecure://",
    ),
    (
        "matchSNItoHost",
        "is left out: the certificate must be for the host in the target",
    ),
    (
        "caPool",
        "is left out: put the authority among the system's, or write https+insecure://",
    ),
    ("tlsTimeout", TIMES),
    ("connectTimeout", TIMES),
    ("tcpKeepAlive", TIMES),
    ("keepAliveTimeout", TIMES),
    ("keepAliveConnections", TIMES),
    ("noHappyEyeballs", TIMES),
    (
        "http2Origin",
        "is left out: HTTP/2 is spoken where the service offers it",
    ),
    (
        "disableChunkedEncoding",
        "is left out: bodies keep their framing",
    ),
    (
        "proxyType",
        "is left out: a tunnel leads to a service, not through a proxy",
    ),
    (
        "proxyAddress",
        "is left out: a tunnel leads to a service, not through a proxy",
    ),
    (
        "proxyPort",
        "is left out: a tunnel leads to a service, not through a proxy",
    ),
];
const TIMES: &str = "is left out: the client has bounds of its own";

/// What stands before a rule's service.
const GUARDS: &[Guard] = &[("path", "let only some paths in", paths)];

/// Whether the file looks like one.
pub(super) fn is_one(top: &Node) -> bool {
    ["ingress", "credentials-file", "tunnel", "url"]
        .iter()
        .any(|key| top.get(key).is_some())
}

/// Reads the rules of a file.
pub(super) fn read(top: &Node, draft: &mut Draft) -> Result<(), ImportError> {
    draft.rest(
        "",
        top,
        &["ingress", "url", "hello-world", "originRequest"],
        TOP,
    );
    let defaults = top.get("originRequest");
    if let Some(defaults) = defaults {
        let used = ["noTLSVerify", "httpHostHeader", "access", "ipRules"];
        draft.rest("originRequest.", defaults, &used, ORIGIN);
    }
    if let Some(ingress) = top.get("ingress") {
        for node in ingress.items() {
            rule(node, defaults, draft)?;
        }
    } else if let Some(url) = top.get("url") {
        let name = top.get("hostname").and_then(Node::text).unwrap_or("tunnel");
        let service = url.text().unwrap_or_default();
        serve(name, service, url, defaults, draft);
    }
    Ok(())
}

fn rule(node: &Node, defaults: Option<&Node>, draft: &mut Draft) -> Result<(), ImportError> {
    let Some(service) = node.get("service").and_then(Node::text) else {
        return Err(ImportError::shape(
            node.line,
            "ingress",
            "rules with a service each",
        ));
    };
    let hostname = node
        .get("hostname")
        .and_then(Node::text)
        .unwrap_or_default();
    if service.starts_with("http_status:") {
        // The last rule of every file; what no tunnel answers is 404 here as well.
        if !hostname.is_empty() || service != "http_status:404" {
            let what = format!("is left out: {service} is an answer, not a service");
            draft.note(node.line, format!("ingress.{hostname}"), what);
        }
        return Ok(());
    }
    serve(hostname, service, node, defaults, draft);
    Ok(())
}

fn serve(hostname: &str, service: &str, node: &Node, defaults: Option<&Node>, draft: &mut Draft) {
    let called = if hostname.is_empty() {
        service
    } else {
        hostname
    };
    let mut found = Found {
        line: node.line,
        called: called.to_owned(),
        name: first_label(hostname).to_owned(),
        ..Found::default()
    };
    if hostname.starts_with('*') || hostname.is_empty() {
        found.name = "all".to_owned();
        let what = "answered at every name that no other rule had; here it answers at one name";
        draft.note(node.line, called, what);
    } else if hostname.contains('.') {
        let what = format!("answered at {hostname}; here it is one name below the server's domain");
        draft.note(node.line, called, what);
    }
    draft.guards(node, GUARDS, &mut found);
    let own = node.get("originRequest");
    if let Some(own) = own {
        let used = ["noTLSVerify", "httpHostHeader", "access", "ipRules"];
        draft.rest(&format!("{called}.originRequest."), own, &used, ORIGIN);
    }
    let setting = |key| {
        let of = |from: Option<&'_ Node>| from.and_then(|from| from.get(key)).cloned();
        of(own).or_else(|| of(defaults))
    };
    if let Some(access) =
        setting("access").filter(|access| access.get("required").is_some_and(Node::is_true))
    {
        draft.guard(access.line, "access", "asked for a login", &mut found);
    }
    if let Some(rules) = setting("ipRules").filter(|rules| !rules.is_idle()) {
        draft.guard(
            rules.line,
            "ipRules",
            "let only some addresses in",
            &mut found,
        );
    }
    found.host = setting("httpHostHeader").and_then(|host| host.text().map(str::to_owned));
    let unchecked = setting("noTLSVerify").is_some_and(|on| on.is_true());
    if let Some(target) = target(service, unchecked, &found, draft) {
        found.target = target;
        draft.carry(found);
    } else {
        draft.found += 1;
    }
}

/// The paths of a regular expression, when it is a plain beginning: `/public/.*`, `^/static`. It matched anywhere in
/// a path, and here it is the path's beginning, which lets in less.
fn paths(node: &Node, rules: &mut Rules) -> bool {
    let text = node.text().unwrap_or_default();
    let text = text.strip_prefix('^').unwrap_or(text);
    let (text, exact) = match text.strip_suffix('$') {
        Some(text) if !text.ends_with(".*") => (text, true),
        Some(text) => (text, false),
        None => (text, false),
    };
    let begin = text.strip_suffix(".*").unwrap_or(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_~".contains(c);
    // Nothing but a slash is every path.
    if begin == "/" && !exact {
        return true;
    }
    let pattern = match begin.strip_suffix('/').unwrap_or(begin) {
        begin if !begin.starts_with('/') || !begin.chars().all(is_plain) => return false,
        begin if exact => begin.to_owned(),
        begin => format!("{begin}/**"),
    };
    rules.allow_paths(vec![pattern])
}

fn target(service: &str, unchecked: bool, found: &Found, draft: &mut Draft) -> Option<String> {
    let (scheme, rest) = service.split_once(':').unwrap_or((service, ""));
    let rest = rest
        .strip_prefix("//")
        .unwrap_or(rest)
        .trim_end_matches('/');
    // The ports that cloudflared takes when a service names none.
    let raw = |port: u16| {
        let what =
            "only programs with cloudflared reached it; here its public port is open to everybody";
        let has_port = rest
            .rsplit(':')
            .next()
            .is_some_and(|end| end.parse::<u16>().is_ok());
        let target = if has_port {
            format!("tcp://{rest}")
        } else {
            format!("tcp://{rest}:{port}")
        };
        (target, what)
    };
    let (target, what) = match scheme {
        "http" => return Some(format!("http://{rest}")),
        "https" if unchecked => return Some(format!("https+insecure://{rest}")),
        "https" => return Some(format!("https://{rest}")),
        "unix" => return Some(format!("unix:{rest}")),
        "tcp" => raw(7864),
        "ssh" => raw(22),
        "rdp" => raw(3389),
        "smb" => raw(445),
        _ => {
            let what = format!("is left out: {service} is no service of this machine");
            draft.note(found.line, found.called.clone(), what);
            return None;
        }
    };
    draft.note(found.line, found.called.clone(), what);
    Some(target)
}
