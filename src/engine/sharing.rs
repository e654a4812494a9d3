//! Share links: made by the owner, used by visitors, gone with their tunnel. Not their tokens: the role
//! makes and checks them, with a key that the engine never sees.

use super::entry::{Asked, Engine, audit};
use super::persist::Work;
use super::policy::ShareUse;
use super::policy::share::{RESTRICTIONS_MAX, ShareRow, USES_MAX};
use super::timers::Timer;
use super::{Answer, AskError, Change, Requester, ShareAsk};
use crate::names::{ShareId, TunnelId, UserId};
use crate::times::Now;

/// Share links of one tunnel that are remembered; those that are over make room first.
pub(super) const PER_TUNNEL: usize = 1000;

/// The same of all tunnels of one user.
pub(super) const PER_USER: usize = 5000;

impl Engine {
    /// A client or the operator makes a share link. A grant: it works when it is on disk.
    pub(super) fn share(&mut self, now: Now, from: Requester, ask: ShareAsk) -> Asked {
        let tunnel = self.own_tunnel(from, ask.tunnel)?;
        if !tunnel.is_open() {
            return Err(AskError::Ended { expired: false });
        }
        if tunnel.row.policy.share() == ShareUse::Off {
            let why = "this tunnel takes no share links; set --share first".to_owned();
            return Err(AskError::Policy { why });
        }
        if ask.expires_at <= now.wall {
            return Err(AskError::AlreadyExpired);
        }
        let restrictions = ask.methods.len().max(ask.paths.len());
        let uses = ask.uses.is_none_or(|uses| (1..=USES_MAX).contains(&uses));
        if restrictions > RESTRICTIONS_MAX || !uses || self.shares.get(&ask.id).is_some() {
            let why =
                format!("1 to {USES_MAX} uses, and at most {RESTRICTIONS_MAX} methods and paths");
            return Err(AskError::Policy { why });
        }
        let (device, user, ends) = (tunnel.row.device, tunnel.row.user, tunnel.row.expires_at);
        if !self.may_wait() {
            return Err(AskError::Busy);
        }
        self.make_room(now, ask.tunnel, user)?;
        let row = ShareRow {
            id: ask.id,
            tunnel: ask.tunnel,
            device,
            methods: ask.methods,
            paths: ask.paths,
            uses_left: ask.uses,
            created_at: now.wall,
            expires_at: ends.map_or(ask.expires_at, |ends| ends.min(ask.expires_at)),
            revoked_at: None,
        };
        let detail = format!("{} until {}", row.tunnel, row.expires_at);
        let line = audit(now, self.who(from), "share.create", row.id, detail);
        let changes = vec![Change::Share(row.clone())];
        self.persist(changes, vec![line], Work::Share { row, from });
        Ok(None)
    }

    /// Forgets one that is over for everybody where there is room for no more. Not one that is only used up:
    /// who came in with it is in. Nor one whose end is not on disk yet: it would come back with a restart.
    fn make_room(&mut self, now: Now, id: TunnelId, user: UserId) -> Result<(), AskError> {
        let (of_tunnel, of_user) = self.shares.counts(id, user);
        if of_tunnel < PER_TUNNEL && of_user < PER_USER {
            return Ok(());
        }
        let unsaved = self.unsaved_shares();
        let is_over = |row: &&ShareRow| row.is_over(now.wall) && !unsaved.contains(&row.id);
        let (over, whose, most) = match of_tunnel >= PER_TUNNEL {
            true => (
                self.shares.of_tunnel(id).find(is_over),
                "tunnel",
                PER_TUNNEL,
            ),
            false => (self.shares.of_user(user).find(is_over), "user", PER_USER),
        };
        let over = over.map(|row| row.id).ok_or_else(|| AskError::Policy {
            why: format!("a {whose} has at most {most} share links that are not over"),
        })?;
        self.shares.remove(&over);
        self.timers.cancel(Timer::Share(over));
        Ok(())
    }

    /// A share link is on disk, unless its tunnel ended meanwhile.
    pub(super) fn shared(&mut self, row: ShareRow, from: Requester) {
        let Some(user) = self.user_of_open(row.tunnel) else {
            return self.answer(from, Err(AskError::Ended { expired: false }));
        };
        self.remember_share(row.clone(), user);
        self.answer(from, Ok(Some(Answer::Shared(Box::new(row)))));
    }

    fn user_of_open(&self, id: TunnelId) -> Option<UserId> {
        let tunnel = self.tunnels.get(&id).filter(|tunnel| tunnel.is_open())?;
        Some(tunnel.row.user)
    }

    fn remember_share(&mut self, row: ShareRow, user: UserId) {
        self.timers.set_wall(Timer::Share(row.id), row.expires_at);
        self.shares.insert(row, user);
    }

    /// One from the disk; its tunnel may have ended while the server was away.
    pub(super) fn load_share(&mut self, row: ShareRow) {
        if let Some(user) = self.user_of_open(row.tunnel) {
            self.remember_share(row, user);
        }
    }

    /// The time of a share link is over: who came in with it is out.
    pub(super) fn share_is_over(&mut self, now: Now, id: ShareId) {
        let tunnel = self.shares.get(&id).map(|row| row.tunnel);
        if let Some(tunnel) = tunnel.filter(|id| self.tunnels.get(id).is_some_and(|t| t.is_open()))
        {
            self.turn_out(now, tunnel, Some(id));
        }
    }

    /// A visitor opens a share link. A use is reserved at once and taken on disk before anybody comes in.
    pub(super) fn redeem(&mut self, now: Now, from: Requester, id: ShareId) -> Asked {
        let row = self.shares.get(&id).ok_or(AskError::ShareOver)?;
        let tunnel = self.tunnels.get(&row.tunnel).filter(|t| t.is_open());
        let tunnel = tunnel.ok_or(AskError::ShareOver)?;
        if self.is_suspended(tunnel) {
            return Err(AskError::Suspended);
        }
        if tunnel.row.policy.share() == ShareUse::Off || !row.has_room(now.wall) {
            return Err(AskError::ShareOver);
        }
        if row.uses_left.is_none() {
            return Ok(Some(Answer::Redeemed(Box::new(row.clone()))));
        }
        if !self.may_wait() {
            return Err(AskError::Busy);
        }
        let line = audit(now, self.who(from), "share.use", id, row.tunnel.to_string());
        let row = self.shares.get_mut(&id).expect("it was found above");
        row.uses_left = row.uses_left.map(|left| left.saturating_sub(1));
        let row = row.clone();
        let changes = vec![Change::Share(row.clone())];
        self.persist(changes, vec![line], Work::Redeem { row, from });
        Ok(None)
    }

    /// The use could not be written: it was not taken.
    pub(super) fn not_redeemed(&mut self, row: &ShareRow, from: Requester, error: AskError) {
        if let Some(row) = self.shares.get_mut(&row.id) {
            row.uses_left = row.uses_left.map(|left| left.saturating_add(1));
        }
        self.answer(from, Err(error));
    }

    /// A client withdraws a share link. To it a stranger's and none at all look the same.
    pub(super) fn unshare(&mut self, now: Now, from: Requester, id: ShareId) -> Asked {
        let not_found = || AskError::NotFound {
            what: id.to_string(),
        };
        let tunnel = self.shares.get(&id).map(|row| row.tunnel);
        let tunnel = tunnel.ok_or_else(not_found)?;
        self.own_tunnel(from, tunnel).map_err(|_| not_found())?;
        self.revoke_share(now, from, id)
    }

    /// The share links of a tunnel that are not over, oldest first, for who may change the tunnel.
    pub fn shares_for(
        &self,
        now: Now,
        from: Requester,
        tunnel: TunnelId,
    ) -> Result<Vec<&ShareRow>, AskError> {
        self.own_tunnel(from, tunnel)?;
        let shares = self.shares(tunnel).filter(|row| !row.is_over(now.wall));
        Ok(shares.collect())
    }

    /// The operator withdraws a share link; who came in with it is out.
    pub(super) fn revoke_share(&mut self, now: Now, from: Requester, id: ShareId) -> Asked {
        let row = self.shares.get_mut(&id).ok_or_else(|| AskError::NotFound {
            what: id.to_string(),
        })?;
        let tunnel = row.tunnel;
        if row.revoked_at.is_none() {
            row.revoked_at = Some(now.wall);
            let line = audit(now, self.who(from), "share.revoke", id, tunnel.to_string());
            let rows = vec![super::persist::RowKey::Share(id)];
            self.restrict(rows, vec![line], Some((from, Answer::Revoked)));
            if self.tunnels.get(&tunnel).is_some_and(|t| t.is_open()) {
                self.turn_out(now, tunnel, Some(id));
            }
            return Ok(None);
        }
        let unsaved = self.unsaved(super::persist::RowKey::Share(id));
        self.after_commit(unsaved, from, Answer::Revoked)
    }

    /// The tunnel ended, and its share links with it.
    pub(super) fn forget_shares(&mut self, id: TunnelId) {
        let gone: Vec<ShareId> = self.shares.of_tunnel(id).map(|row| row.id).collect();
        for share in gone {
            self.shares.remove(&share);
            self.timers.cancel(Timer::Share(share));
        }
    }

    /// One share link, for who checks its token.
    pub fn share_row(&self, id: ShareId) -> Option<&ShareRow> {
        self.shares.get(&id)
    }

    /// The share links of a tunnel that are remembered.
    pub fn shares(&self, tunnel: TunnelId) -> impl Iterator<Item = &ShareRow> + '_ {
        self.shares.of_tunnel(tunnel)
    }
}
