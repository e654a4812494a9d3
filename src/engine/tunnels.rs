//! All tunnels by their ids: found at once however many there are, because each visit looks several times,
//! and gone through in one order, because decisions must not depend on chance.

use std::collections::BTreeSet;
use std::ops::Index;

use super::state::Tunnel;
use crate::names::{QuickMap, TunnelId};

/// The tunnels. Both parts hold the same ids.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    at: QuickMap<TunnelId, Tunnel>,
    order: BTreeSet<TunnelId>,
}

impl Tunnels {
    pub(super) fn get(&self, id: &TunnelId) -> Option<&Tunnel> {
        self.at.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &TunnelId) -> Option<&mut Tunnel> {
        self.at.get_mut(id)
    }

    pub(super) fn insert(&mut self, id: TunnelId, tunnel: Tunnel) {
        self.order.insert(id);
        self.at.insert(id, tunnel);
    }

    pub(super) fn remove(&mut self, id: &TunnelId) -> Option<Tunnel> {
        self.order.remove(id);
        self.at.remove(id)
    }

    /// In the order of their ids, as everything below.
    pub(super) fn keys(&self) -> impl Iterator<Item = &TunnelId> {
        self.order.iter()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TunnelId, &Tunnel)> {
        self.order.iter().map(|id| (id, &self.at[id]))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Tunnel> {
        self.iter().map(|(_, tunnel)| tunnel)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty() && self.order.is_empty()
    }

    /// For what is done to each alone, so that the order does not matter.
    pub(super) fn each_mut(&mut self) -> impl Iterator<Item = &mut Tunnel> {
        self.at.values_mut()
    }
}

impl Index<&TunnelId> for Tunnels {
    type Output = Tunnel;

    fn index(&self, id: &TunnelId) -> &Tunnel {
        &self.at[id]
    }
}
