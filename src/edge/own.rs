//! Which tunnel a host is a name of: below our domain its first label says so, elsewhere the whole name,
//! where somebody has proven that it is theirs. Every name comes here canonical, whatever the visitor wrote.

use super::{Admit, EdgeSettings};
use crate::names::Hostname;

/// The place of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// As [`crate::engine::Visit::label`] has it.
    pub(super) label: String,
    /// Cookies for this name, or for one above it, would reach others than the tunnel's owner.
    pub(super) wall: Hostname,
    /// The name is below our domain.
    pub(super) is_ours: bool,
}

/// Where a host leads, if it is any tunnel's name. Of names below our domain that is not asked.
pub(super) fn place<S: Admit>(
    inside: &S,
    settings: &EdgeSettings,
    host: &Hostname,
) -> Option<Place> {
    if let Some(label) = host.label_under(&settings.domain) {
        return Some(Place {
            label: label.to_owned(),
            wall: settings.domain.clone(),
            is_ours: true,
        });
    }
    if *host == settings.domain {
        return None;
    }
    let registered = inside.own_domain(host)?;
    let (_, above) = registered.as_str().split_once('.')?;
    Some(Place {
        label: host.to_string(),
        // Below what is registered its owner may do as they like.
        wall: Hostname::parse(above).ok()?,
        is_ours: false,
    })
}
