//! What the client knows of one of its tunnels when a visit arrives, and what it tells of a visit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::book::{HostMode, ProxyVersion};
use crate::engine::{HostMind, HostUse};
use crate::names::{Slug, Target, TunnelId};
use crate::wire::StreamCode;

/// A tunnel as visits see it: where it leads, under which names, and what was learnt about the origin.
#[derive(Debug)]
pub struct OriginTunnel {
    /// Its id, by which streams name it.
    pub id: TunnelId,
    /// Its name.
    pub slug: Slug,
    /// Host, and port where it is not 443, of its public address.
    pub public_authority: String,
    /// Where it leads.
    pub target: Target,
    proxy_protocol: Option<ProxyVersion>,
    mind: Mutex<HostMind>,
}

impl OriginTunnel {
    /// A tunnel about whose origin nothing is known yet.
    pub fn new(
        id: TunnelId,
        slug: Slug,
        public_authority: String,
        target: Target,
        mode: HostMode,
    ) -> Self {
        Self {
            id,
            slug,
            public_authority,
            target,
            proxy_protocol: None,
            mind: Mutex::new(HostMind::new(mode)),
        }
    }

    /// The same, with a header of the PROXY protocol before each connection of bytes.
    pub const fn with_proxy_protocol(mut self, version: Option<ProxyVersion>) -> Self {
        self.proxy_protocol = version;
        self
    }

    pub(super) const fn proxy_protocol(&self) -> Option<ProxyVersion> {
        self.proxy_protocol
    }

    /// What the origin hears as its host now: `keep`, `rewrite`, or the text that was given.
    pub fn host_in_use(&self) -> String {
        let mind = self.mind();
        match (mind.mode(), mind.current()) {
            (HostMode::Fixed(text), HostUse::Rewrite) => text.clone(),
            (_, used) => used.as_str().to_owned(),
        }
    }

    pub(super) fn mind(&self) -> MutexGuard<'_, HostMind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a visit went, as the origin's side saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VisitReport {
    /// The status of the final answer, if there was one.
    pub status: Option<u16>,
    /// Body bytes towards the origin.
    pub bytes_in: u64,
    /// Body bytes towards the visitor.
    pub bytes_out: u64,
    /// Why the visit broke off, if it did.
    pub error: Option<StreamCode>,
}
