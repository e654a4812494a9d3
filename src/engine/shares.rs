//! Share links by their ids, by their tunnels and by their users: none of these questions looks through the links
//! of others. Not what becomes of them: that is `sharing`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::policy::share::ShareRow;
use crate::names::{ShareId, TunnelId, UserId};

/// The share links that are remembered. All parts hold the same ids.
#[derive(Debug, Default)]
pub(super) struct Shares {
    at: HashMap<ShareId, (ShareRow, UserId)>,
    of_tunnel: HashMap<TunnelId, BTreeSet<ShareId>>,
    of_user: BTreeMap<UserId, BTreeSet<ShareId>>,
}

impl Shares {
    pub(super) fn get(&self, id: &ShareId) -> Option<&ShareRow> {
        self.at.get(id).map(|(row, _)| row)
    }

    /// Its tunnel stays the same.
    pub(super) fn get_mut(&mut self, id: &ShareId) -> Option<&mut ShareRow> {
        self.at.get_mut(id).map(|(row, _)| row)
    }

    pub(super) fn insert(&mut self, row: ShareRow, user: UserId) {
        self.remove(&row.id);
        self.of_tunnel.entry(row.tunnel).or_default().insert(row.id);
        self.of_user.entry(user).or_default().insert(row.id);
        self.at.insert(row.id, (row, user));
    }

    pub(super) fn remove(&mut self, id: &ShareId) {
        let Some((row, user)) = self.at.remove(id) else {
            return;
        };
        if let Some(ids) = self.of_tunnel.get_mut(&row.tunnel) {
            ids.remove(id);
            if ids.is_empty() {
                self.of_tunnel.remove(&row.tunnel);
            }
        }
        if let Some(ids) = self.of_user.get_mut(&user) {
            ids.remove(id);
            if ids.is_empty() {
                self.of_user.remove(&user);
            }
        }
    }

    /// How many a tunnel has, and how many a user.
    pub(super) fn counts(&self, tunnel: TunnelId, user: UserId) -> (usize, usize) {
        let of_tunnel = self.of_tunnel.get(&tunnel).map_or(0, BTreeSet::len);
        (of_tunnel, self.of_user.get(&user).map_or(0, BTreeSet::len))
    }

    /// Those of a tunnel, in the order of their ids, which is that of their making.
    pub(super) fn of_tunnel(&self, tunnel: TunnelId) -> impl Iterator<Item = &ShareRow> + '_ {
        let ids = self.of_tunnel.get(&tunnel).into_iter().flatten();
        ids.filter_map(|id| self.get(id))
    }

    /// Those of a user, in the same order.
    pub(super) fn of_user(&self, user: UserId) -> impl Iterator<Item = &ShareRow> + '_ {
        let ids = self.of_user.get(&user).into_iter().flatten();
        ids.filter_map(|id| self.get(id))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty() && self.of_tunnel.is_empty() && self.of_user.is_empty()
    }
}
