//! Asking for domains and giving them up. Asking has no effect before the proof is seen, and giving up has
//! it at once.

use std::collections::BTreeSet;

use super::{CONTESTANTS, Claim, DomainRow, Granted, OF_NAME, OF_TUNNEL, State};
use crate::engine::entry::{Asked, Engine, audit};
use crate::engine::limits::Ceiling;
use crate::engine::persist::{RowKey, Work};
use crate::engine::setting::over;
use crate::engine::state::Who;
use crate::engine::{Action, Answer, AskError, Change, Requester, TunnelRow, TunnelState};
use crate::names::{Domain, Kind, TunnelId, UserId};
use crate::times::Now;

/// The tunnel that asks.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Claimant {
    user: UserId,
    kind: Kind,
    tunnel: TunnelId,
}

impl Claimant {
    pub(in crate::engine) const fn of(row: &TunnelRow) -> Self {
        Self {
            user: row.user,
            kind: row.kind,
            tunnel: row.id,
        }
    }
}

/// In the order given, each once.
pub(in crate::engine) fn each_once(domains: Vec<Domain>) -> Vec<Domain> {
    let mut seen = BTreeSet::new();
    let is_new = |domain: &Domain| seen.insert(domain.clone());
    domains.into_iter().filter(is_new).collect()
}

/// What is written of the domains of a tunnel that opens.
pub(in crate::engine) fn first_claims(now: Now, tunnel: TunnelId, domains: &[Domain]) -> Change {
    let row = |domain: &Domain| DomainRow {
        domain: domain.clone(),
        tunnel,
        claimed_at: now.wall,
        proven_at: None,
        lost_at: None,
        missing_since: None,
    };
    let rows = domains.iter().map(row).collect();
    Change::Domains { tunnel, rows }
}

impl Engine {
    /// Whether a tunnel may ask for these domains, when it gives up so many others. Who is refused because of other users'
    /// makes all their proofs be looked at.
    pub(in crate::engine) fn may_claim(
        &mut self,
        now: Now,
        claimant: Claimant,
        domains: &[Domain],
        freed: usize,
    ) -> Result<(), AskError> {
        let Claimant { user, kind, tunnel } = claimant;
        if domains.is_empty() {
            return Ok(());
        }
        if !matches!(kind, Kind::Http | Kind::Tls) {
            return Err(AskError::NoDomains { kind });
        }
        let of_tunnel = self.domains.of_tunnel(tunnel).count();
        if of_tunnel + domains.len() > OF_TUNNEL + freed {
            return Err(over(Ceiling::TunnelDomains, OF_TUNNEL));
        }
        let most = self.settings.domains.per_user;
        if self.domains.count(user) + domains.len() > most + freed {
            return Err(over(Ceiling::UserDomains, most));
        }
        for domain in domains {
            if domain.is_within(&self.settings.domain) {
                let domain = domain.clone();
                return Err(AskError::DomainOfOurs { domain });
            }
            self.may_claim_one(now, user, tunnel, domain)?;
        }
        Ok(())
    }

    fn may_claim_one(
        &mut self,
        now: Now,
        user: UserId,
        tunnel: TunnelId,
        domain: &Domain,
    ) -> Result<(), AskError> {
        let Some(name) = self.domains.names.get_mut(domain) else {
            return Ok(());
        };
        let own = |claim: &&Claim| claim.user == user && claim.tunnel != tunnel;
        if let Some(other) = name.claims.iter().find(own)
            && let Some(other) = self.tunnels.get(&other.tunnel)
        {
            let (domain, slug) = (domain.clone(), other.row.slug.clone());
            return Err(AskError::DomainInUse { domain, slug });
        }
        let is_taken = name.owner().is_some_and(|owner| owner.user != user);
        let is_crowded = name.claims.len() >= OF_NAME && !name.welcome.contains(&user);
        if !is_taken && !is_crowded {
            return Ok(());
        }
        if name.contestants.len() < CONTESTANTS {
            name.contestants.insert(user);
        }
        self.look_soon(now, domain);
        let domain = domain.clone();
        Err(match is_taken {
            true => AskError::DomainTaken { domain },
            false => AskError::DomainCrowded { domain },
        })
    }

    /// A client says which domains shall lead to its tunnel.
    pub(in crate::engine) fn wish_domains(
        &mut self,
        now: Now,
        from: Requester,
        id: TunnelId,
        wish: Vec<Domain>,
    ) -> Asked {
        let tunnel = self.own_tunnel(from, id)?;
        match tunnel.row.state {
            TunnelState::Open => {}
            TunnelState::Closed => return Err(AskError::Ended { expired: false }),
            TunnelState::Expired => return Err(AskError::Ended { expired: true }),
        }
        let claimant = Claimant::of(&tunnel.row);
        let (claimed, released) = self.domains_apart(id, wish);
        if !claimed.is_empty() && !self.may_wait() {
            return Err(AskError::Busy);
        }
        self.may_claim(now, claimant, &claimed, released.len())?;
        Ok(self.put_domains(now, from, id, claimed, released))
    }

    /// The same of a tunnel that is taken back: what cannot be had is left out, for the tunnel is there in any case.
    pub(in crate::engine) fn keep_to_domains(
        &mut self,
        now: Now,
        from: Requester,
        id: TunnelId,
        wish: Vec<Domain>,
    ) -> Option<Answer> {
        let (claimed, released) = self.domains_apart(id, wish);
        let claimant = self.tunnels.get(&id).map(|t| Claimant::of(&t.row));
        let claimant = claimant.expect("the caller found it");
        let mut had = Vec::new();
        for domain in claimed {
            had.push(domain);
            let may = self.may_claim(now, claimant, &had, released.len());
            if may.is_err() || !self.may_wait() {
                had.pop();
            }
        }
        self.put_domains(now, from, id, had, released)
    }

    /// What a wish adds, and what it leaves out.
    fn domains_apart(&self, id: TunnelId, wish: Vec<Domain>) -> (Vec<Domain>, Vec<Domain>) {
        let had: BTreeSet<_> = self.domains.of_tunnel(id).cloned().collect();
        let wish = each_once(wish);
        let released = had.iter().filter(|domain| !wish.contains(domain));
        let released = released.cloned().collect();
        let claimed = wish.into_iter().filter(|domain| !had.contains(domain));
        (claimed.collect(), released)
    }

    /// Puts in force what is given up, and asks for the commit of both.
    fn put_domains(
        &mut self,
        now: Now,
        from: Requester,
        id: TunnelId,
        claimed: Vec<Domain>,
        released: Vec<Domain>,
    ) -> Option<Answer> {
        // Whoever asks has perhaps just placed the record.
        let waiting: Vec<_> = self.domains.of_tunnel(id).cloned().collect();
        for domain in waiting {
            self.look_if_waiting(now, id, &domain);
        }
        if claimed.is_empty() && released.is_empty() {
            let tunnel = self.tunnels.get(&id).expect("the caller found it");
            return Some(Answer::Bound(Box::new(self.view(tunnel))));
        }
        let who = self.who(from);
        let mut lines = Vec::new();
        for domain in &released {
            self.take_out(now, domain, id);
            lines.push(audit(now, who, "domain.release", id, domain.to_string()));
        }
        for domain in &claimed {
            self.claim(now, id, domain);
            lines.push(audit(now, who, "domain.claim", id, domain.to_string()));
        }
        if !released.is_empty() {
            self.act(Action::TellDomains { tunnel: id });
        }
        if claimed.is_empty() {
            let tunnel = self.tunnels.get(&id).expect("the caller found it");
            let answer = Answer::Bound(Box::new(self.view(tunnel)));
            self.restrict(vec![RowKey::Domains(id)], lines, Some((from, answer)));
            return None;
        }
        let change = self.domains_change(id);
        let granted = Granted {
            tunnel: id,
            claimed,
            proven: Vec::new(),
            waiting: vec![from],
        };
        self.persist(vec![change], lines, Work::Domains(granted));
        None
    }

    /// The claims of a tunnel that has just opened; they are on disk with it. Those that somebody else took
    /// meanwhile are not its own.
    pub(in crate::engine) fn claim_at_opening(
        &mut self,
        now: Now,
        id: TunnelId,
        domains: Vec<Domain>,
    ) {
        let Some(claimant) = self.tunnels.get(&id).map(|t| Claimant::of(&t.row)) else {
            return;
        };
        let mut left_out = false;
        for domain in domains {
            let one = std::slice::from_ref(&domain);
            match self.may_claim(now, claimant, one, 0) {
                Ok(()) => {
                    self.claim(now, id, &domain);
                    self.look_soon(now, &domain);
                }
                Err(_) => left_out = true,
            }
        }
        if left_out {
            self.write_domains(id, Vec::new());
        }
    }

    fn claim(&mut self, now: Now, id: TunnelId, domain: &Domain) {
        let tunnel = self.tunnels.get(&id).expect("the caller found it");
        let claim = Claim {
            tunnel: id,
            user: tunnel.row.user,
            claimed_at: now.wall,
            state: State::Pending,
            missing_since: None,
            misses: 0,
        };
        self.domains.insert(domain, claim);
    }

    /// Claims or proofs are on disk.
    pub(in crate::engine) fn domains_granted(&mut self, now: Now, granted: Granted) {
        let id = granted.tunnel;
        for domain in &granted.claimed {
            self.look_soon(now, domain);
        }
        for domain in &granted.proven {
            let name = self.domains.names.get_mut(domain);
            let Some(claim) = name.and_then(|name| name.claim_mut(id)) else {
                continue;
            };
            if let State::Proving(at) = claim.state {
                claim.state = State::Proven(at);
            }
        }
        if !granted.proven.is_empty() {
            self.act(Action::TellDomains { tunnel: id });
        }
        for from in granted.waiting {
            let outcome = match self.tunnels.get(&id).filter(|t| t.is_open()) {
                Some(tunnel) => Ok(Some(Answer::Bound(Box::new(self.view(tunnel))))),
                None => Err(AskError::Ended { expired: false }),
            };
            self.answer(from, outcome);
        }
    }

    /// Nothing of it is on disk: nothing was claimed, and what is proven is to be proven again.
    pub(in crate::engine) fn domains_not_granted(
        &mut self,
        now: Now,
        granted: Granted,
        error: &AskError,
    ) {
        let id = granted.tunnel;
        for domain in &granted.claimed {
            self.take_out(now, domain, id);
        }
        for domain in &granted.proven {
            let name = self.domains.names.get_mut(domain);
            let Some(claim) = name.and_then(|name| name.claim_mut(id)) else {
                continue;
            };
            if let State::Proving(_) = claim.state {
                claim.state = State::Pending;
                self.look_later(now, domain);
            }
        }
        // A later commit may have written what was just taken back.
        if self.has_open(id) {
            self.write_domains(id, Vec::new());
        }
        for from in granted.waiting {
            self.answer(from, Err(error.clone()));
        }
    }

    /// Writes down that a proof was seen; the domain leads to the tunnel when it is on disk.
    pub(super) fn grant_proof(&mut self, now: Now, id: TunnelId, domain: &Domain) {
        let line = audit(now, Who::ENGINE, "domain.prove", id, domain.to_string());
        let change = self.domains_change(id);
        let granted = Granted {
            tunnel: id,
            claimed: Vec::new(),
            proven: vec![domain.clone()],
            waiting: Vec::new(),
        };
        self.persist(vec![change], vec![line], Work::Domains(granted));
    }
}
