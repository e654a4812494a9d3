//! `[limits]` of server.toml -> the engine's limit settings.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use super::file::Node;
use super::section::{Fix, Section};
use super::values::{count, duration_or_never, switch, text};
use crate::engine::limits::{Ceilings, Limit, LimitSettings, Rate};
use crate::names::{Kind, Slug};

const MANY: usize = 1_000_000_000;

pub(super) fn limits(mut section: Section<'_>) -> LimitSettings {
    let default = LimitSettings::default();
    let s = &mut section;
    let tunnel = Limit {
        rate: s
            .get("tunnel_rate", rate_or_off)
            .unwrap_or(default.tunnel.rate),
        concurrency: (s.get("tunnel_concurrency", most_or_off))
            .map_or(default.tunnel.concurrency, |most| most.and_then(number)),
        bandwidth: (s.get("tunnel_bandwidth", most_or_off))
            .map_or(default.tunnel.bandwidth, |most| most.and_then(bytes)),
    };
    let visitor = Limit {
        rate: s
            .get("visitor_rate", rate_or_off)
            .unwrap_or(default.visitor.rate),
        concurrency: (s.get("visitor_concurrency", most_or_off))
            .map_or(default.visitor.concurrency, |most| most.and_then(number)),
        bandwidth: (s.get("visitor_bandwidth", most_or_off))
            .map_or(default.visitor.bandwidth, |most| most.and_then(bytes)),
    };
    let user = Ceilings {
        tunnels: s.get("user_tunnels", count(1, MANY)),
        links: s.get("user_links", count(1, MANY)),
        streams: s.get("user_streams", count(1, MANY)).and_then(number),
        rate: s.get("user_rate", rate),
        bandwidth: s.get("user_bandwidth", count(1024, MANY)).and_then(bytes),
        held: s.get("user_held", count(1, MANY)),
    };
    let device = Ceilings {
        tunnels: s.get("device_tunnels", count(1, MANY)),
        links: None,
        streams: s.get("device_streams", count(1, MANY)).and_then(number),
        rate: s.get("device_rate", rate),
        bandwidth: s.get("device_bandwidth", count(1024, MANY)).and_then(bytes),
        held: s.get("device_held", count(1, MANY)),
    };
    let mut sources = default.sources;
    for (key, slot) in [
        ("failed_joins", &mut sources.failed_joins),
        ("handshakes", &mut sources.handshakes),
        ("unknown_hosts", &mut sources.unknown_hosts),
        ("passwords", &mut sources.passwords),
        ("api_calls", &mut sources.api_calls),
    ] {
        *slot = s.get(key, rate).unwrap_or(*slot);
    }
    let resolved = LimitSettings {
        tunnel,
        visitor,
        sources,
        tunnel_passwords: (s.get("tunnel_passwords", rate)).unwrap_or(default.tunnel_passwords),
        user,
        device,
        reserved: s
            .list("reserved", "\"git\"", slug)
            .unwrap_or_default()
            .into_iter()
            .collect::<BTreeSet<_>>(),
        kinds: s.list("kinds", "\"http\"", kind).unwrap_or_default(),
        expiry_max: s
            .get(
                "expiry_max",
                duration_or_never("would end every tunnel at once; write \"never\" for no limit"),
            )
            .unwrap_or(default.expiry_max),
        force_auth: s.get("force_auth", switch).unwrap_or(default.force_auth),
    };
    section.finish();
    resolved
}

fn number(most: usize) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(most).unwrap_or(u32::MAX))
}

fn bytes(most: usize) -> Option<NonZeroU64> {
    NonZeroU64::new(most as u64)
}

fn rate(node: &Node) -> Result<Rate, Fix> {
    Rate::from_str(&text(node)?).map_err(|e| e.to_string())
}

fn rate_or_off(node: &Node) -> Result<Option<Rate>, Fix> {
    match node {
        Node::Text(text) if text == "off" => Ok(None),
        node => rate(node).map(Some),
    }
}

fn most_or_off(node: &Node) -> Result<Option<usize>, Fix> {
    match node {
        Node::Text(text) if text == "off" => Ok(None),
        node => count(1, MANY)(node).map(Some),
    }
}

fn slug(node: &Node) -> Result<Slug, Fix> {
    Slug::parse(&text(node)?).map_err(|e| e.to_string())
}

fn kind(node: &Node) -> Result<Kind, Fix> {
    let text = text(node)?;
    text.parse()
        .map_err(|_| format!("{text:?} is no kind; write \"http\", \"tcp\", \"tls\" or \"udp\""))
}
