//! `[domains]` of server.toml, and `domains` of a `[[tunnel]]`.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::file::Node;
use super::section::{Fix, Section};
use super::values::{address, count, duration, text};
use crate::engine::domains::DomainSettings;
use crate::engine::limits::{Per, Rate};
use crate::names::{Domain, Kind};

/// More than a client can be told of at once is no use.
const OF_TUNNEL: usize = 64;
/// More often would be a load on name servers.
const RECHECK_LEAST: Duration = Duration::from_secs(1);

/// `[domains]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainsConfig {
    /// Who is asked for records; None = as the system does.
    pub resolver: Option<SocketAddr>,
    /// The most domains of one user; 100.
    pub per_user: usize,
    /// How often a proof that stands is looked at; 6h.
    pub recheck: Duration,
    /// How long a proof may be gone; 24h.
    pub lost_after: Duration,
    /// Certificates asked for, of all users; 100/h.
    pub orders: Rate,
    /// The same of one user; 20/h.
    pub orders_per_user: Rate,
}

impl Default for DomainsConfig {
    fn default() -> Self {
        let engine = DomainSettings::default();
        Self {
            resolver: None,
            per_user: engine.per_user,
            recheck: engine.recheck,
            lost_after: engine.lost_after,
            orders: Rate::new(100, Per::Hour).burst(50),
            orders_per_user: Rate::new(20, Per::Hour).burst(10),
        }
    }
}

impl DomainsConfig {
    /// What is read at a start only, and whether it differs.
    pub(super) fn needs_restart(&self, new: &Self) -> [(&'static str, bool); 3] {
        [
            ("domains.resolver", self.resolver != new.resolver),
            ("domains.orders", self.orders != new.orders),
            (
                "domains.orders_per_user",
                self.orders_per_user != new.orders_per_user,
            ),
        ]
    }

    /// What is in force after a reload.
    pub(super) fn reloaded(&self, new: &Self) -> Self {
        Self {
            resolver: self.resolver,
            orders: self.orders,
            orders_per_user: self.orders_per_user,
            ..new.clone()
        }
    }
}

pub(super) fn domains(mut section: Section<'_>) -> DomainsConfig {
    let default = DomainsConfig::default();
    let s = &mut section;
    let too_often = "would ask without a pause; write \"6h\"";
    let resolved = DomainsConfig {
        resolver: s.get("resolver", address(53)),
        per_user: s
            .get("per_user", count(0, 100_000))
            .unwrap_or(default.per_user),
        recheck: (s.get("recheck", duration(too_often))).unwrap_or(default.recheck),
        lost_after: (s.get(
            "lost_after",
            duration("would give up at the first look that fails"),
        ))
        .unwrap_or(default.lost_after),
        orders: s.get("orders", rate).unwrap_or(default.orders),
        orders_per_user: s
            .get("orders_per_user", rate)
            .unwrap_or(default.orders_per_user),
    };
    if resolved.recheck < RECHECK_LEAST {
        s.object("recheck", too_often);
    }
    section.finish();
    resolved
}

/// The domains of a `[[tunnel]]`.
pub(super) fn of_tunnel(section: &mut Section<'_>, kind: Option<Kind>) -> Vec<Domain> {
    let domains = section
        .list("domains", "\"app.example.org\"", domain)
        .unwrap_or_default();
    if domains.len() > OF_TUNNEL {
        section.object(
            "domains",
            "are more than 64; spread them over several tunnels",
        );
    }
    if !domains.is_empty() && matches!(kind, Some(Kind::Tcp | Kind::Udp)) {
        section.object("domains", "are for http and tls targets; leave them out");
    }
    domains
}

fn domain(node: &Node) -> Result<Domain, Fix> {
    Domain::parse(&text(node)?).map_err(|error| error.to_string())
}

fn rate(node: &Node) -> Result<Rate, Fix> {
    Rate::from_str(&text(node)?).map_err(|error| error.to_string())
}
