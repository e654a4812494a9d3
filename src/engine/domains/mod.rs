//! Own domains: which of them leads to which tunnel, and whose proof stands. A domain leads somewhere when
//! the TXT record of its user was seen, and is on disk; and to one tunnel at any instant. Not the look-ups:
//! the role makes them, and says whose proofs it found.
//!
//! | file | what it decides |
//! |---|---|
//! | `claims` | who may ask for a domain, and what asking and giving up changes |
//! | `looks` | when a proof is looked at, and what follows from what was found |

mod claims;
mod looks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::entry::Engine;
use super::persist::RowKey;
use super::timers::Timer;
use super::{Change, Requester, TunnelState};
use crate::names::{Domain, Hostname, Kind, TunnelId, UserId};
use crate::times::{Now, WallTime};

pub(super) use claims::{Claimant, each_once, first_claims};

/// Domains of one tunnel: as many as one message to its client can tell of.
const OF_TUNNEL: usize = 64;
/// Tunnels of different users that may wait for the proof of one domain.
const OF_NAME: usize = 8;
/// Users without a tunnel of theirs there whose proof is looked at because they were refused.
const CONTESTANTS: usize = 8;

/// What the operator sets about own domains (`[domains]` in server.toml).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSettings {
    /// The most domains of one user; 0 = none may be asked for.
    pub per_user: usize,
    /// How often a proof that stands is looked at, more or less.
    pub recheck: Duration,
    /// How long a proof may be gone before its domain leads nowhere any more.
    pub lost_after: Duration,
}

impl Default for DomainSettings {
    fn default() -> Self {
        Self {
            per_user: 100,
            recheck: Duration::from_secs(6 * 3600),
            lost_after: Duration::from_secs(86_400),
        }
    }
}

/// A tunnel's claim to a domain, as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainRow {
    /// The domain.
    pub domain: Domain,
    /// The tunnel that it shall lead to.
    pub tunnel: TunnelId,
    /// Since when it is asked for.
    pub claimed_at: WallTime,
    /// Since when it leads there; one tunnel's at most.
    pub proven_at: Option<WallTime>,
    /// When its proof was given up.
    pub lost_at: Option<WallTime>,
    /// Since when the proof is not found any more, while it still counts.
    pub missing_since: Option<WallTime>,
}

/// How a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainState {
    /// The record has not been seen yet.
    Pending,
    /// It leads to the tunnel.
    Proven,
    /// The record was seen, and then was gone for too long, or gave way to another user's.
    Lost,
}

impl DomainState {
    /// The text on the wire and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Proven => "proven",
            Self::Lost => "lost",
        }
    }
}

/// A domain of a tunnel as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// The domain.
    pub domain: Domain,
    /// How it stands.
    pub state: DomainState,
    /// Since when.
    pub since: WallTime,
    /// Since when the proof is not found any more, while it still counts.
    pub missing_since: Option<WallTime>,
    /// When its proof was looked at last.
    pub looked_at: Option<WallTime>,
    /// What stood in the way then; one sentence.
    pub said: Option<String>,
}

/// How a claim stands in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    /// The proof was seen, and that is being written.
    Proving(WallTime),
    Proven(WallTime),
    Lost(WallTime),
}

/// One tunnel's claim to one domain.
#[derive(Debug)]
struct Claim {
    tunnel: TunnelId,
    user: UserId,
    claimed_at: WallTime,
    state: State,
    missing_since: Option<WallTime>,
    /// Looks in a row, since the start, that did not find the proof.
    misses: u32,
}

/// A look that is under way.
#[derive(Debug)]
struct Look {
    /// Whose it counts as.
    payer: UserId,
    /// Whose proofs it looks for.
    users: Vec<UserId>,
    /// Somebody has asked for another since it began.
    is_asked_again: bool,
}

/// All that is known of one domain.
#[derive(Debug)]
struct Name {
    /// Of its timer.
    number: u64,
    /// The earliest first.
    claims: Vec<Claim>,
    contestants: BTreeSet<UserId>,
    /// Those of them whose proof was seen when nobody else's stood: there is a place for their claims.
    welcome: BTreeSet<UserId>,
    /// The look that is under way. Until it is back the name stays, even when nobody claims it any more:
    /// its place is in use, and its answer must not be taken for that of another.
    look: Option<Look>,
    /// Looks since something changed for those who wait.
    tries: u32,
    looked_at: Option<WallTime>,
    said: Option<String>,
}

impl Name {
    fn owner(&self) -> Option<&Claim> {
        let leads = |claim: &&Claim| matches!(claim.state, State::Proven(_));
        self.claims.iter().find(leads)
    }

    fn claim_mut(&mut self, tunnel: TunnelId) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.tunnel == tunnel)
    }
}

/// The claims of all tunnels.
#[derive(Debug, Default)]
pub(super) struct Domains {
    names: HashMap<Domain, Name>,
    of_tunnel: HashMap<TunnelId, BTreeSet<Domain>>,
    of_user: HashMap<UserId, usize>,
    numbers: BTreeMap<u64, Domain>,
    next: u64,
    looking: usize,
    /// Looks under way, by whose they count as.
    looking_for: HashMap<UserId, usize>,
    /// Domains whose look waits for the end of another, by the numbers of their timers, and for whose.
    waiting: BTreeMap<u64, UserId>,
}

impl Domains {
    /// The tunnel that a host leads to: by its own name, else by its wildcard.
    pub(super) fn leads(&self, host: &str) -> Option<TunnelId> {
        let (_, tunnel) = self.found(&Hostname::parse(host).ok()?)?;
        Some(tunnel)
    }

    fn found(&self, host: &Hostname) -> Option<(&Domain, TunnelId)> {
        let owner = |domain: &Domain| {
            let (domain, name) = self.names.get_key_value(domain)?;
            Some((domain, name.owner()?.tunnel))
        };
        owner(&Domain::of_host(host.clone())).or_else(|| owner(&Domain::around(host)?))
    }

    /// Whether nothing is left of any.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let maps = self.names.is_empty() && self.of_tunnel.is_empty() && self.of_user.is_empty();
        let looking = self.looking + self.looking_for.len() + self.waiting.len();
        maps && self.numbers.is_empty() && looking == 0
    }

    fn of_tunnel(&self, tunnel: TunnelId) -> impl Iterator<Item = &Domain> {
        self.of_tunnel.get(&tunnel).into_iter().flatten()
    }

    fn count(&self, user: UserId) -> usize {
        self.of_user.get(&user).copied().unwrap_or(0)
    }

    /// A domain whose look waited for one of this user to end.
    fn next_waiting(&mut self, user: UserId) -> Option<u64> {
        let mut waiting = self.waiting.iter();
        let (number, _) = waiting.find(|(_, of)| **of == user)?;
        let number = *number;
        self.waiting.remove(&number);
        Some(number)
    }

    /// A look is over.
    fn looked(&mut self, payer: UserId) {
        self.looking -= 1;
        if let Some(count) = self.looking_for.get_mut(&payer) {
            *count -= 1;
            if *count == 0 {
                self.looking_for.remove(&payer);
            }
        }
    }

    /// Forgets a name that nobody claims and no look is under way for.
    fn drop_if_unused(&mut self, domain: &Domain) {
        let is_unused = |name: &&Name| name.claims.is_empty() && name.look.is_none();
        if let Some(name) = self.names.get(domain).filter(is_unused) {
            self.numbers.remove(&name.number);
            self.waiting.remove(&name.number);
            self.names.remove(domain);
        }
    }

    /// The number of the domain's timer.
    fn insert(&mut self, domain: &Domain, claim: Claim) -> u64 {
        let known = self.of_tunnel.entry(claim.tunnel).or_default();
        if known.insert(domain.clone()) {
            *self.of_user.entry(claim.user).or_default() += 1;
        }
        let name = self.names.entry(domain.clone()).or_insert_with(|| {
            self.next += 1;
            self.numbers.insert(self.next, domain.clone());
            Name {
                number: self.next,
                claims: Vec::new(),
                contestants: BTreeSet::new(),
                welcome: BTreeSet::new(),
                look: None,
                tries: 0,
                looked_at: None,
                said: None,
            }
        });
        name.claims.retain(|other| other.tunnel != claim.tunnel);
        name.claims.push(claim);
        name.number
    }

    /// Takes a claim out; the number of the timer that nobody needs any more.
    fn remove(&mut self, domain: &Domain, tunnel: TunnelId) -> Option<u64> {
        let known = self.of_tunnel.get_mut(&tunnel)?;
        if !known.remove(domain) {
            return None;
        }
        if known.is_empty() {
            self.of_tunnel.remove(&tunnel);
        }
        let name = self.names.get_mut(domain)?;
        let at = name.claims.iter().position(|c| c.tunnel == tunnel)?;
        let user = name.claims.remove(at).user;
        if let Some(count) = self.of_user.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                self.of_user.remove(&user);
            }
        }
        if !name.claims.is_empty() {
            return None;
        }
        let number = name.number;
        // What is known of those who were there is nothing to the next.
        name.contestants.clear();
        name.welcome.clear();
        name.said = None;
        self.drop_if_unused(domain);
        Some(number)
    }
}

/// A commit about own domains of a tunnel.
#[derive(Debug)]
pub(super) struct Granted {
    tunnel: TunnelId,
    /// Those that are asked for first with it.
    claimed: Vec<Domain>,
    /// Those that lead there with it.
    proven: Vec<Domain>,
    waiting: Vec<Requester>,
}

impl Engine {
    /// Whether an own domain leads a host to a tunnel, and the registered name that it is at or below.
    pub fn own_domain(&self, host: &Hostname) -> Option<Hostname> {
        let (domain, _) = self.domains.found(host)?;
        Some(domain.base().clone())
    }

    /// The domains for which visitors get certificates of ours: those that lead to http tunnels, and whose
    /// user each is.
    pub fn domains_served(&self) -> impl Iterator<Item = (&Domain, UserId)> {
        self.domains.names.iter().filter_map(|(domain, name)| {
            let owner = name.owner()?;
            let tunnel = self.tunnels.get(&owner.tunnel)?;
            (tunnel.row.kind == Kind::Http).then_some((domain, owner.user))
        })
    }

    /// The tunnel that a domain leads to.
    pub fn domain_tunnel(&self, domain: &Domain) -> Option<TunnelId> {
        Some(self.domains.names.get(domain)?.owner()?.tunnel)
    }

    /// The user whose domain leads a host to an http tunnel, where it is a wildcard.
    pub fn wildcard_owner(&self, host: &Hostname) -> Option<UserId> {
        let (domain, tunnel) = self.domains.found(host)?;
        let tunnel = &self.tunnels.get(&tunnel)?.row;
        (domain.is_wildcard() && tunnel.kind == Kind::Http).then_some(tunnel.user)
    }

    pub(super) fn domain_views(&self, tunnel: TunnelId) -> Vec<DomainView> {
        let views = self.domains.of_tunnel(tunnel).filter_map(|domain| {
            let name = self.domains.names.get(domain)?;
            let claim = name.claims.iter().find(|claim| claim.tunnel == tunnel)?;
            let (state, since) = match claim.state {
                State::Pending | State::Proving(_) => (DomainState::Pending, claim.claimed_at),
                State::Proven(at) => (DomainState::Proven, at),
                State::Lost(at) => (DomainState::Lost, at),
            };
            let is_well = state == DomainState::Proven && claim.missing_since.is_none();
            let others = name.owner().is_some_and(|owner| owner.user != claim.user);
            let said = match others {
                true => Some("another user's proof stands".to_owned()),
                false => name.said.clone().filter(|_| !is_well),
            };
            Some(DomainView {
                domain: domain.clone(),
                state,
                since,
                missing_since: claim.missing_since,
                looked_at: name.looked_at,
                said,
            })
        });
        views.collect()
    }

    pub(super) fn has_open(&self, tunnel: TunnelId) -> bool {
        self.tunnels.get(&tunnel).is_some_and(|t| t.is_open())
    }

    /// The own domains of a tunnel, as they are to be on disk.
    pub(super) fn domains_change(&self, tunnel: TunnelId) -> Change {
        let rows = self.domains.of_tunnel(tunnel).filter_map(|domain| {
            let name = self.domains.names.get(domain)?;
            let claim = name.claims.iter().find(|claim| claim.tunnel == tunnel)?;
            Some(row(domain, claim))
        });
        let rows = rows.collect();
        Change::Domains { tunnel, rows }
    }

    /// Takes up the claims that are on disk, of tunnels that are open.
    pub(super) fn load_domains(&mut self, now: Now, rows: Vec<DomainRow>) {
        for row in rows {
            let tunnel = self.tunnels.get(&row.tunnel).map(|t| &t.row);
            let Some(tunnel) = tunnel.filter(|t| t.state == TunnelState::Open) else {
                continue;
            };
            let claim = Claim {
                tunnel: row.tunnel,
                user: tunnel.user,
                claimed_at: row.claimed_at,
                state: match (row.proven_at, row.lost_at) {
                    (Some(at), _) => State::Proven(at),
                    (None, Some(at)) => State::Lost(at),
                    (None, None) => State::Pending,
                },
                missing_since: row.missing_since,
                misses: 0,
            };
            self.domains.insert(&row.domain, claim);
            self.look_after_start(now, &row.domain);
        }
    }

    /// The tunnel is over: its domains lead nowhere, and are free. On disk they go with its end.
    pub(super) fn forget_domains(&mut self, now: Now, tunnel: TunnelId) {
        let domains: Vec<_> = self.domains.of_tunnel(tunnel).cloned().collect();
        for domain in &domains {
            self.take_out(now, domain, tunnel);
        }
        if !domains.is_empty() {
            self.act(super::Action::TellDomains { tunnel });
        }
    }

    fn take_out(&mut self, now: Now, domain: &Domain, tunnel: TunnelId) {
        if let Some(number) = self.domains.remove(domain, tunnel) {
            self.timers.cancel(Timer::Domain(number));
        } else {
            // Somebody else may have waited for this.
            self.look_soon(now, domain);
        }
    }

    /// What is in memory is to be on disk; nobody waits for it.
    fn write_domains(&mut self, tunnel: TunnelId, audit: Vec<super::AuditRow>) {
        self.restrict(vec![RowKey::Domains(tunnel)], audit, None);
    }
}

fn row(domain: &Domain, claim: &Claim) -> DomainRow {
    let (proven_at, lost_at) = match claim.state {
        State::Pending => (None, None),
        State::Proving(at) | State::Proven(at) => (Some(at), None),
        State::Lost(at) => (None, Some(at)),
    };
    DomainRow {
        domain: domain.clone(),
        tunnel: claim.tunnel,
        claimed_at: claim.claimed_at,
        proven_at,
        lost_at,
        missing_since: claim.missing_since,
    }
}
