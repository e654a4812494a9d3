//! What a reload cannot put in force.

use std::path::Path;

use super::{
    AdminConfig, ClientConfig, FrontConfig, LinkConfig, LogConfig, MetricsConfig, ServerConfig,
    TlsMode,
};

impl ServerConfig {
    /// The keys that differ and need a restart; all others are put in force by a reload.
    pub fn changed_needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let own = [
            ("domain", self.domain != new.domain),
            ("listen.https", self.https != new.https),
            ("listen.http3", self.http3 != new.http3),
            ("listen.http", self.http != new.http),
            (
                "listen.plain_http",
                self.front.plain_http != new.front.plain_http,
            ),
            ("listen.tcp_ports", self.tcp_ports != new.tcp_ports),
            // Other files are read again; another source of certificates is another set-up.
            ("tls.mode", !is_same_mode(&self.tls, &new.tls)),
            (
                "acme",
                is_same_mode(&self.tls, &new.tls) && is_other_acme(&self.tls, &new.tls),
            ),
        ];
        let of_domains = self.domains.needs_restart(&new.domains);
        let of_both = self.shared().changed(&new.shared());
        named(own.into_iter().chain(of_domains).chain(of_both))
    }

    fn shared(&self) -> Shared<'_> {
        Shared {
            state_dir: &self.state_dir,
            admin: &self.admin,
            link: &self.link,
            log: &self.log,
            metrics: &self.metrics,
        }
    }

    /// What is in force after a reload: the new one, but for what needs a restart. However often it is
    /// reloaded, the running server's domain stays the one that its sockets and certificates serve.
    pub fn reloaded(&self, new: &Self) -> Self {
        let same_mode = is_same_mode(&self.tls, &new.tls) && !is_other_acme(&self.tls, &new.tls);
        // Where clients are sent may follow from the domain and the address.
        let same_place = self.domain == new.domain && self.https == new.https;
        Self {
            domain: self.domain.clone(),
            https: self.https,
            http3: self.http3,
            http: self.http,
            front: FrontConfig {
                plain_http: self.front.plain_http,
                ..new.front.clone()
            },
            site: new.site.clone(),
            tcp_ports: self.tcp_ports,
            advertise: if same_place {
                &new.advertise
            } else {
                &self.advertise
            }
            .clone(),
            tls: if same_mode { &new.tls } else { &self.tls }.clone(),
            state_dir: self.state_dir.clone(),
            admin: self.admin.clone(),
            keep: new.keep.clone(),
            tunnels: new.tunnels.clone(),
            dormant: new.dormant.clone(),
            limits: new.limits.clone(),
            domains: self.domains.reloaded(&new.domains),
            link: self.link.clone(),
            log: LogConfig {
                access: new.log.access,
                ..self.log.clone()
            },
            metrics: self.metrics.clone(),
        }
    }
}

impl ClientConfig {
    /// The same for a client: `[origins]`, `[probe]` and `[[tunnel]]` are put in force by a reload.
    pub fn changed_needs_restart(&self, new: &Self) -> Vec<&'static str> {
        named(self.shared().changed(&new.shared()))
    }

    fn shared(&self) -> Shared<'_> {
        Shared {
            state_dir: &self.state_dir,
            admin: &self.admin,
            link: &self.link,
            log: &self.log,
            metrics: &self.metrics,
        }
    }

    /// What is in force after a reload. Above all, the running client's state and socket stay its own:
    /// no tunnel may lead there, whatever a file says.
    pub fn reloaded(&self, new: &Self) -> Self {
        Self {
            state_dir: self.state_dir.clone(),
            admin: self.admin.clone(),
            origins: new.origins.clone(),
            link: self.link.clone(),
            log: self.log.clone(),
            metrics: self.metrics.clone(),
            probe: new.probe.clone(),
            tunnels: new.tunnels.clone(),
        }
    }
}

fn is_same_mode(old: &TlsMode, new: &TlsMode) -> bool {
    std::mem::discriminant(old) == std::mem::discriminant(new)
}

/// Other CAs, names or proofs are another set-up, too.
fn is_other_acme(old: &TlsMode, new: &TlsMode) -> bool {
    matches!(old, TlsMode::Acme(_)) && old != new
}

/// What both roles have.
struct Shared<'a> {
    state_dir: &'a Path,
    admin: &'a AdminConfig,
    link: &'a LinkConfig,
    log: &'a LogConfig,
    metrics: &'a MetricsConfig,
}

impl Shared<'_> {
    fn changed(&self, new: &Self) -> [(&'static str, bool); 8] {
        let (link, new_link) = (self.link, new.link);
        [
            ("state.dir", self.state_dir != new.state_dir),
            ("admin.socket", self.admin.socket != new.admin.socket),
            ("admin.group", self.admin.group != new.admin.group),
            ("link.keep_alive", link.keep_alive != new_link.keep_alive),
            (
                "link.idle_timeout",
                link.idle_timeout != new_link.idle_timeout,
            ),
            ("log.format", self.log.format != new.log.format),
            ("log.level", self.log.level != new.log.level),
            ("metrics.listen", self.metrics.listen != new.metrics.listen),
        ]
    }
}

fn named(keys: impl IntoIterator<Item = (&'static str, bool)>) -> Vec<&'static str> {
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key).collect()
}
