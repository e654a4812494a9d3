//! What `[listen]` says of proxies in front of the server.

use std::net::{IpAddr, SocketAddr};

use super::file::Node;
use super::section::{Fix, Section};
use super::values::{address, count, switch, text};
use crate::engine::policy::Cidr;

/// What stands in front of a server, and what it is believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrontConfig {
    /// Connections from there begin with a PROXY header; `proxy_protocol_from`.
    pub proxy_protocol_from: Vec<Cidr>,
    /// What requests from there say of their visitor is so; `trusted_proxies`.
    pub trusted_proxies: Vec<Cidr>,
    /// Where a proxy that has taken TLS off finds us; None = nowhere.
    pub plain_http: Option<SocketAddr>,
    /// The port that visitors see; None = that of the https listener.
    pub public_port: Option<u16>,
}

/// Reads its keys. `others` are the other TCP listeners.
pub(super) fn front(section: &mut Section<'_>, others: [Option<SocketAddr>; 2]) -> FrontConfig {
    let example = "\"10.0.0.0/8\"";
    let proxy_protocol_from = section.list("proxy_protocol_from", example, network);
    let trusted_proxies = section.list("trusted_proxies", "\"127.0.0.1\"", network);
    let plain_http = section.get("plain_http", address(8080));
    let is_forced = section.get("plain_http_public", switch) == Some(true);
    if let Some(plain) = plain_http {
        if !is_forced && !is_private(plain.ip()) {
            section.object(
                "plain_http",
                "is an address that strangers may reach, and nothing there is encrypted; write one of this machine \
                 or of a private network, or plain_http_public = true if a firewall keeps them out",
            );
        }
        if others.into_iter().flatten().any(|other| other == plain) && plain.port() != 0 {
            section.object(
                "plain_http",
                "is the same as another listener; write another port",
            );
        }
        if !section.has("trusted_proxies") {
            section.object(
                "trusted_proxies",
                "is missing; with plain_http, write [\"127.0.0.1\"] or wherever your proxy is, or every visitor \
                 has the proxy's address",
            );
        }
    } else if is_forced {
        section.object(
            "plain_http_public",
            "would not be used; write plain_http, too",
        );
    }
    FrontConfig {
        proxy_protocol_from: proxy_protocol_from.unwrap_or_default(),
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        plain_http,
        public_port: section
            .get("public_port", count(1, 65_535))
            .and_then(|port| u16::try_from(port).ok()),
    }
}

fn network(node: &Node) -> Result<Cidr, Fix> {
    text(node)?.parse().map_err(|err| format!("{err}"))
}

/// Whether only this machine or a network of its owner's leads there.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            // 100.64.0.0/10 is what private overlays number their machines from.
            let is_shared = first == 100 && (64..128).contains(&second);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
