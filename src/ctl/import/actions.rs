//! ngrok's traffic policies, as far as they are plain: actions for every visit that the keys of a tunnel can say.
//! Whatever has a condition, or does something else, is not carried, and neither is the policy that it is in.

use super::rules::{Rules, Side};
use super::tree::{Field, Node};

/// Whether all of a policy was carried.
pub(super) fn policy(node: &Node, rules: &mut Rules) -> bool {
    let phase = |Field { key, node, .. }: &Field| {
        let side = match key.as_str() {
            "on_http_request" | "inbound" => Some(Side::Request),
            "on_http_response" | "outbound" => Some(Side::Response),
            // Addresses can be looked at there, too.
            "on_tcp_connect" => None,
            _ => return node.is_idle(),
        };
        node.items().iter().all(|entry| plain(entry, side, rules))
    };
    !node.fields().is_empty() && node.fields().iter().all(phase)
}

fn plain(entry: &Node, side: Option<Side>, rules: &mut Rules) -> bool {
    let only = entry.fields().iter().all(|Field { key, node, .. }| {
        matches!(key.as_str(), "name" | "actions") || node.is_idle()
    });
    let actions = entry.get("actions").map(Node::items).unwrap_or_default();
    only && actions.iter().all(|one| action(one, side, rules))
}

fn action(node: &Node, side: Option<Side>, rules: &mut Rules) -> bool {
    let empty = Node {
        line: node.line,
        value: super::tree::Value::Nothing,
    };
    let config = node.get("config").unwrap_or(&empty);
    let has = |known: &[&str]| {
        let known = |field: &Field| known.contains(&field.key.as_str()) || field.key == "enforce";
        config.fields().iter().all(known)
    };
    // It looks, and lets everybody in.
    if config.get("enforce").and_then(Node::text) == Some("false") {
        return true;
    }
    let given = |key| config.get(key).filter(|value| !value.is_idle());
    match (
        node.get("type").and_then(Node::text).unwrap_or_default(),
        side,
    ) {
        ("basic-auth", Some(Side::Request)) if has(&["credentials", "realm"]) => {
            given("credentials").is_some_and(|pairs| rules.pairs(pairs))
        }
        ("restrict-ips", Some(Side::Request) | None) if has(&["allow", "deny"]) => {
            networks(config, ["allow", "deny"], rules)
        }
        ("verify-webhook", Some(Side::Request)) if has(&["provider", "secret"]) => {
            webhook(config, rules)
        }
        ("rate-limit", Some(Side::Request))
            if has(&["name", "algorithm", "capacity", "rate", "bucket_key"]) =>
        {
            rate(config, rules)
        }
        ("add-headers", Some(side)) if has(&["headers"]) => {
            let set = |Field { key, node, .. }: &Field| {
                // A value that ngrok would fill in.
                let text = node.text().filter(|text| !text.contains("${"));
                text.is_some_and(|text| rules.set(side, key, text))
            };
            given("headers").is_some_and(|all| all.fields().iter().all(set))
        }
        ("remove-headers", Some(side)) if has(&["headers"]) => {
            let remove = |item: &Node| item.text().is_some_and(|name| rules.remove(side, name));
            given("headers").is_some_and(|all| all.items().iter().all(remove))
        }
        _ => false,
    }
}

/// Networks under the two keys; false when neither says anything, or something else is said.
pub(super) fn networks(node: &Node, [allow, deny]: [&str; 2], rules: &mut Rules) -> bool {
    let known = |field: &Field| {
        [allow, deny, "enforce"].contains(&field.key.as_str()) || field.node.is_idle()
    };
    let given = |key| node.get(key).filter(|list| !list.is_idle());
    let lists = (given(allow), given(deny));
    lists != (None, None)
        && node.fields().iter().all(known)
        && lists.0.is_none_or(|list| rules.allow(list))
        && lists.1.is_none_or(|list| rules.deny(list))
}

/// Who signs, and the secret.
pub(super) fn webhook(node: &Node, rules: &mut Rules) -> bool {
    let text = |key| node.get(key).and_then(Node::text).unwrap_or_default();
    rules.webhook(&text("provider").to_ascii_lowercase(), text("secret"))
}

fn rate(config: &Node, rules: &mut Rules) -> bool {
    let text = |key| config.get(key).and_then(Node::text).unwrap_or_default();
    let per = match text("rate") {
        "1s" => 's',
        "1m" | "60s" | "1m0s" => 'm',
        "1h" | "60m" | "3600s" | "1h0m0s" => 'h',
        _ => return false,
    };
    let bucket = config
        .get("bucket_key")
        .map(Node::items)
        .unwrap_or_default();
    let each = match bucket {
        [] => false,
        [key] if key.text() == Some("conn.client_ip") => true,
        _ => return false,
    };
    let most = text("capacity").parse();
    most.is_ok_and(|most| rules.rate(each, most, per))
}
