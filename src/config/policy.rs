//! The keys of a `[[tunnel]]` that say who may visit it: those of the command line's flags. Files with
//! secrets are named here and read by the client.

use std::path::PathBuf;

use super::file::Node;
use super::section::{Fix, Section};
use super::values::{count, path, switch, text};
use crate::engine::policy::{
    AuthUser, HeaderWords, LimitWords, PolicyProblem, PolicyWords, WebhookKind, webhook_source,
};
use crate::names::Kind;

/// Who may visit a declared tunnel, and what it lets through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeclaredPolicy {
    /// What needs no file.
    pub words: PolicyWords,
    /// Users, and the files whose first lines are their passwords.
    pub passwords: Vec<(String, PathBuf)>,
    /// Who signs requests, and the files whose first lines are their secrets.
    pub webhooks: Vec<(WebhookKind, PathBuf)>,
    /// A file with a whole policy, of which the rest replaces parts.
    pub file: Option<PathBuf>,
}

const NUMBER: usize = 1_000_000;

pub(super) fn policy(section: &mut Section<'_>, kind: Option<Kind>) -> DeclaredPolicy {
    let s = &mut *section;
    let passwords = s.list("auth", "\"bob:@/etc/wormkey/bob\"", password);
    let mut texts = |key, example| s.list(key, example, text).unwrap_or_default();
    let allow = texts("allow", "\"203.0.113.0/24\"");
    let deny = texts("deny", "\"203.0.113.0/24\"");
    let methods = texts("allow_methods", "\"GET\"");
    let allow_paths = texts("allow_paths", "\"/public/**\"");
    let deny_paths = texts("deny_paths", "\"/admin/**\"");
    let cors = texts("cors", "\"https://app.example.com\"");
    let shadow = texts("shadow", "\"all\"");
    let remove_request = texts("remove_request_headers", "\"Cookie\"");
    let remove_response = texts("remove_response_headers", "\"Server\"");
    let words = PolicyWords {
        base: None,
        auth: Vec::new(),
        allow,
        deny,
        methods,
        allow_paths,
        deny_paths,
        share: s.get("share", switch).unwrap_or_default(),
        tunnel: limit(s, ["rate", "burst", "concurrency", "bandwidth"]),
        visitor: limit(
            s,
            [
                "visitor_rate",
                "visitor_burst",
                "visitor_concurrency",
                "visitor_bandwidth",
            ],
        ),
        request_headers: HeaderWords {
            set: s.pairs("set_request_headers"),
            remove: remove_request,
        },
        response_headers: HeaderWords {
            set: s.pairs("set_response_headers"),
            remove: remove_response,
        },
        secure_headers: s.get("secure_headers", secure).flatten(),
        cors,
        webhook: Vec::new(),
        cookie_domain: s.get("allow_cookie_domain", switch).unwrap_or_default(),
        shadow,
    };
    let declared = DeclaredPolicy {
        words,
        passwords: passwords.unwrap_or_default(),
        webhooks: s.get("verify_webhook", webhooks).unwrap_or_default(),
        file: s.get("policy", policy_file),
    };
    check(section, &declared, kind);
    declared
}

/// What is wrong with the values together.
fn check(section: &Section<'_>, declared: &DeclaredPolicy, kind: Option<Kind>) {
    let needs_http = match declared.words.compile() {
        Ok(policy) => policy.needs_http(),
        Err(err) => {
            for problem in err.problems {
                let (key, what) = key_of(&problem);
                section.object(key, what);
            }
            return;
        }
    };
    let needs_http = needs_http || !declared.passwords.is_empty() || !declared.webhooks.is_empty();
    if needs_http && kind.is_some_and(|kind| kind != Kind::Http) {
        section.object(
            "target",
            "has networks and limits only, since it carries bytes; leave the other rules out",
        );
    }
    let mut users: Vec<&str> = declared.passwords.iter().map(|(user, _)| &**user).collect();
    users.sort_unstable();
    if users.windows(2).any(|two| two[0] == two[1]) {
        section.object("auth", "has a user twice; leave one out");
    }
}

fn limit(section: &mut Section<'_>, keys: [&'static str; 4]) -> LimitWords {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    LimitWords {
        rate: section.get(keys[0], text),
        burst: section.get(keys[1], count(1, NUMBER)).map(number),
        concurrency: section.get(keys[2], count(1, NUMBER)).map(number),
        bandwidth: section.get(keys[3], text),
    }
}

/// The key that a problem of the document is about.
fn key_of(problem: &PolicyProblem) -> (&'static str, String) {
    const KEYS: [(&str, &str); 22] = [
        ("allow_paths", "allow_paths"),
        ("allow", "allow"),
        ("deny_paths", "deny_paths"),
        ("deny", "deny"),
        ("methods", "allow_methods"),
        ("limits.tunnel.rate", "rate"),
        ("limits.tunnel.burst", "burst"),
        ("limits.tunnel.concurrency", "concurrency"),
        ("limits.tunnel.bandwidth", "bandwidth"),
        ("limits.visitor.rate", "visitor_rate"),
        ("limits.visitor.burst", "visitor_burst"),
        ("limits.visitor.concurrency", "visitor_concurrency"),
        ("limits.visitor.bandwidth", "visitor_bandwidth"),
        ("request_headers.set", "set_request_headers"),
        ("request_headers.remove", "remove_request_headers"),
        ("response_headers.set", "set_response_headers"),
        ("response_headers.remove", "remove_response_headers"),
        ("secure_headers", "secure_headers"),
        ("cors", "cors"),
        ("shadow", "shadow"),
        ("share", "share"),
        ("webhook", "verify_webhook"),
    ];
    let found = KEYS.iter().find(|(part, _)| problem.at.starts_with(part));
    match found {
        Some((_, key)) => (key, format!("{}: {}", problem.at, problem.what)),
        None => ("name", problem.to_string()),
    }
}

/// `bob:@/etc/wormkey/bob`
fn password(node: &Node) -> Result<(String, PathBuf), Fix> {
    // What stands there instead may be a password: it is not repeated.
    const WRONG: &str =
        "names no file; write \"bob:@/etc/wormkey/bob\", a file whose first line is the password";
    let text = text(node)?;
    let (user, file) = text.split_once(":@").ok_or(WRONG)?;
    AuthUser::check_name(user).map_err(|err| err.to_string())?;
    Ok((user.to_owned(), path(&Node::Text(file.to_owned()))?))
}

/// One, or a list of them.
fn webhooks(node: &Node) -> Result<Vec<(WebhookKind, PathBuf)>, Fix> {
    match node {
        Node::List(items) => items.iter().map(|item| webhook(&item.node)).collect(),
        node => Ok(vec![webhook(node)?]),
    }
}

fn webhook(node: &Node) -> Result<(WebhookKind, PathBuf), Fix> {
    const WRONG: &str = "takes who signs and a file: write \"github:@/etc/wormkey/hook\", or stripe, slack, standard-webhooks";
    let text = text(node)?;
    let (kind, file) = webhook_source(&text).ok_or(WRONG)?;
    Ok((kind, path(&Node::Text(file.to_owned()))?))
}

fn policy_file(node: &Node) -> Result<PathBuf, Fix> {
    let text = text(node)?;
    path(&Node::Text(
        text.strip_prefix('@').unwrap_or(&text).to_owned(),
    ))
}

/// `true`, or a content security policy.
fn secure(node: &Node) -> Result<Option<String>, Fix> {
    match node {
        Node::Switch(on) => Ok(on.then(String::new)),
        node => text(node).map(Some),
    }
}
