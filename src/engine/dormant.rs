//! What dormant links may cost: how many there may be and what they may hold in memory, per user and in
//! all. Over a cap the oldest is closed; its tunnels go on waiting for their client as after a lost link.
//! Not the measuring: what a link holds comes in as a fact.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::Action;
use super::entry::Engine;
use crate::codes::Code;
use crate::names::{DeviceId, LinkId, UserId};

/// The caps of `[dormant]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DormantCaps {
    /// Dormant links in all.
    pub links: usize,
    /// Dormant links of one user.
    pub links_per_user: usize,
    /// Bytes that they hold, in all.
    pub memory: u64,
    /// Bytes that those of one user hold.
    pub memory_per_user: u64,
}

/// The dormant links, by age and by user, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    links: HashMap<LinkId, Sleeper>,
    all: Share,
    users: HashMap<UserId, Share>,
    evicted: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sleeper {
    since: Instant,
    user: UserId,
    bytes: u64,
}

/// Some of the dormant links, oldest first, and what they hold.
#[derive(Debug, Default)]
struct Share {
    oldest: BTreeSet<(Instant, LinkId)>,
    bytes: u64,
}

impl Share {
    fn add(&mut self, link: LinkId, sleeper: Sleeper) {
        self.oldest.insert((sleeper.since, link));
        self.bytes = self.bytes.saturating_add(sleeper.bytes);
    }

    fn take(&mut self, link: LinkId, sleeper: Sleeper) {
        self.oldest.remove(&(sleeper.since, link));
        self.bytes = self.bytes.saturating_sub(sleeper.bytes);
    }

    /// The oldest, when these are too many or hold too much.
    fn over(&self, links: usize, memory: u64) -> Option<LinkId> {
        let is_over = self.oldest.len() > links || self.bytes > memory;
        let oldest = self.oldest.first().filter(|_| is_over);
        oldest.map(|(_, link)| *link)
    }
}

impl Sleepers {
    fn add(&mut self, link: LinkId, sleeper: Sleeper) {
        self.remove(link);
        self.links.insert(link, sleeper);
        self.all.add(link, sleeper);
        let share = self.users.entry(sleeper.user).or_default();
        share.add(link, sleeper);
    }

    /// It woke up, or is gone. One that was awake is not here.
    pub(super) fn remove(&mut self, link: LinkId) {
        let Some(sleeper) = self.links.remove(&link) else {
            return;
        };
        self.all.take(link, sleeper);
        if let Some(share) = self.users.get_mut(&sleeper.user) {
            share.take(link, sleeper);
            if share.oldest.is_empty() {
                self.users.remove(&sleeper.user);
            }
        }
    }

    /// Whom to close because of this user, who has what changed.
    fn over(&self, user: UserId, caps: &DormantCaps) -> Option<LinkId> {
        let own = self.users.get(&user);
        own.and_then(|own| own.over(caps.links_per_user, caps.memory_per_user))
            .or_else(|| self.all.over(caps.links, caps.memory))
    }

    /// What all of them hold.
    pub(super) const fn bytes(&self) -> u64 {
        self.all.bytes
    }

    /// How many were closed since the start.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty() && self.users.is_empty() && self.all.oldest.is_empty()
    }
}

impl Engine {
    /// A device's link fell dormant. What it holds is told later.
    pub(super) fn fell_dormant(&mut self, since: Instant, id: DeviceId) {
        let Some(device) = self.devices.get(&id) else {
            return;
        };
        let Some(live) = &device.link else {
            return;
        };
        let user = device.row.user;
        let sleeper = Sleeper {
            since,
            user,
            bytes: 0,
        };
        self.sleepers.add(live.id, sleeper);
        self.keep_caps(user);
    }

    /// What a link holds in memory. Only of dormant ones it is remembered.
    pub(super) fn link_weighs(&mut self, link: LinkId, bytes: u64) {
        let Some(sleeper) = self.sleepers.links.get(&link).copied() else {
            return;
        };
        self.sleepers.add(link, Sleeper { bytes, ..sleeper });
        self.keep_caps(sleeper.user);
    }

    /// Other caps are in force.
    pub(super) fn caps_changed(&mut self) {
        let users: Vec<UserId> = self.sleepers.users.keys().copied().collect();
        for user in users {
            self.keep_caps(user);
        }
    }

    /// Closes what is over the caps, oldest first.
    fn keep_caps(&mut self, user: UserId) {
        while let Some(link) = self.sleepers.over(user, &self.settings.dormant) {
            self.sleepers.remove(link);
            self.sleepers.evicted += 1;
            // Its client has been away since it fell silent, so nothing changes for its tunnels.
            self.unlink(link);
            let code = Code::Dormant;
            self.act(Action::CutLink { link, code });
        }
    }

    /// Since when a link is dormant; none while it is awake.
    pub fn dormant_since(&self, link: LinkId) -> Option<Instant> {
        self.sleepers.links.get(&link).map(|sleeper| sleeper.since)
    }
}
