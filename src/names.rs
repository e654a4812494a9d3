//! Names and addresses, checked once on the way in; past this border they cannot be wrong.
//! Not resolution: no DNS here, and no decision about who may use a name.

mod domain;
mod hostname;
mod ids;
mod slug;
mod target;
mod text;

pub use domain::{Domain, DomainError};
pub use hostname::{Hostname, HostnameError};
pub use ids::{
    DeviceId, Generation, IdError, InviteId, LinkId, Pin, ShareId, TunnelId, UserId, VisitId,
};
pub use slug::{RESERVED_SLUGS, Slug, SlugError};
pub use target::{Kind, Target, TargetError};
pub use text::{address_text, ip_text};

/// A map that each visit asks several times. Its hash costs a fraction of the standard one, and each process
/// has its own; for keys of which nobody outside can bring in many: not for addresses of visitors.
pub type QuickMap<K, V> = std::collections::HashMap<K, V, foldhash::quality::RandomState>;
