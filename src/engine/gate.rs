//! Whether a visit may come in: the tunnel's policy asked, with what is counted and who was checked. Asked
//! again about those that came in when the policy changes. Counting them is [`super::stays`]'s.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::Method;

use super::entry::Engine;
use super::limits::{Act, Bucket, Limit, Meter, Source, Sources, Table, Visitor};
use super::policy::{
    Decision, Facts, HttpFacts, Login, Over, Part, PasswordHash, Policy, RuleId, STEPS_MAX, Scope,
    ShareFacts, Verdict, decide, decide_within,
};
use super::routes::FOUND;
use super::state::Tunnel;
use super::stays::{Owner, Stay};
use super::{Credentials, Refusal, Verification, Visit};
use crate::names::{Kind, ShareId, TunnelId, VisitId};
use crate::times::Now;

/// Visitor addresses of one tunnel that are told apart.
const VISITORS: usize = 4096;

/// Passwords of one tunnel that are known to be right.
const VERIFIED: usize = 256;

/// What the rules about paths may cost in all when visits that go on are asked about again.
const STEPS_AGAIN: usize = 16 * STEPS_MAX;

/// Visits of one tunnel whose passwords are being checked, and whose guesses may be given back.
const GUESSES: usize = 64;

/// When to try again while too many visits go on: nobody knows when one ends.
const ROOM_IN: Duration = Duration::from_secs(1);

/// What is counted about a tunnel's visits.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) all: Meter,
    pub(super) visitors: Table<Visitor>,
    passwords: Bucket,
    /// The same while they are only told of: who is not kept out makes no guesses.
    told: Bucket,
    verified: Verified,
    guesses: Guesses,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            all: Meter::default(),
            visitors: Table::new(VISITORS),
            passwords: Bucket::default(),
            told: Bucket::default(),
            verified: Verified::default(),
            guesses: Guesses::default(),
        }
    }

    /// Other rates are in force: what was taken under the old ones means nothing under them.
    pub(super) fn forget_rates(&mut self) {
        self.all.bucket = Bucket::default();
        self.passwords = Bucket::default();
        self.told = Bucket::default();
        self.visitors.forget_rates();
    }
}

/// Digests of credentials that were found right, and for which hash of whom.
#[derive(Debug, Default)]
struct Verified {
    known: HashMap<[u8; 32], (String, PasswordHash)>,
    order: VecDeque<[u8; 32]>,
}

impl Verified {
    fn knows(&self, digest: &[u8; 32], user: &str, hash: &PasswordHash) -> bool {
        let known = self.known.get(digest);
        known.is_some_and(|(name, right)| name == user && right == hash)
    }

    fn learn(&mut self, digest: [u8; 32], user: String, hash: PasswordHash) {
        if self.known.insert(digest, (user, hash)).is_some() {
            return;
        }
        self.order.push_back(digest);
        if self.order.len() > VERIFIED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// Where a guess was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// For the tunnel and for the source.
    Guess,
    /// For the tunnel, which is only told of it.
    Told,
}

/// Guesses that were counted and not judged yet: each is given back once at most, to the visit that it was
/// counted for. Beyond the bound the oldest is forgotten; most such visits are gone.
#[derive(Debug, Default)]
struct Guesses(VecDeque<(VisitId, Counted)>);

impl Guesses {
    fn count(&mut self, visit: VisitId, counted: Counted) {
        if self.0.len() >= GUESSES {
            self.0.pop_front();
        }
        self.0.push_back((visit, counted));
    }

    fn take(&mut self, visit: VisitId) -> Option<Counted> {
        let at = self.0.iter().position(|(of, _)| *of == visit)?;
        let (_, counted) = self.0.remove(at)?;
        if self.0.is_empty() {
            // A tunnel without visits needs no room for them.
            self.0 = VecDeque::new();
        }
        Some(counted)
    }
}

/// What the gate says to a visit that is not refused.
pub(super) enum Judged {
    /// It may come in, by this rule.
    In(RuleId, Vec<RuleId>),
    /// Its password has to be checked first.
    Verify(Verification),
}

impl Engine {
    /// Asks the policy of an open tunnel about a visit. Counts guesses, and nothing else.
    pub(super) fn judge_visit(
        &mut self,
        now: Now,
        id: TunnelId,
        visit: &Visit,
    ) -> Result<Judged, Refusal> {
        self.learn(now, id, visit);
        let over = self.over(now.monotonic, id, visit.peer.ip());
        let tunnel = self.tunnels.get(&id).expect(FOUND);
        let share = self.share_of(id, visit.http.as_ref().and_then(|http| http.share));
        let http = visit.http.as_ref().map(|http| HttpFacts {
            method: &http.method,
            path: &http.path,
            login: login(tunnel, http.credentials.as_ref()),
            share: share.map(|row| ShareFacts {
                over: row.is_over(now.wall),
                methods: &row.methods,
                paths: &row.paths,
            }),
        });
        let facts = Facts {
            suspended: self.is_suspended(tunnel),
            peer: visit.peer.ip(),
            http,
            over: &over,
        };
        let decision = decide(&tunnel.row.policy, &facts);
        if decision.verdict == Verdict::Verify {
            return match tunnel.row.policy.is_shadow(Part::Auth) {
                true => Ok(self.ask_for_word(now, id, visit, decision.shadowed)),
                false => self.ask_for_check(now, id, visit),
            };
        }
        let tunnel = self.tunnels.get(&id).expect(FOUND);
        match refusal(tunnel, &decision) {
            Some(refusal) => Err(refusal),
            None => Ok(Judged::In(decision.rule, decision.shadowed)),
        }
    }

    /// The policy of a name, for who may come there at all: suspension, networks and limits are asked, and
    /// who they are is not. For what is answered before that is known: counts as one of the visitor's, and
    /// not as the tunnel's.
    pub fn greet(
        &mut self,
        now: Now,
        label: &str,
        peer: SocketAddr,
    ) -> Result<Arc<Policy>, Refusal> {
        self.advance(now);
        if self.draining {
            return Err(Refusal::Draining);
        }
        let Some(id) = self.open_tunnel(Kind::Http, label) else {
            return Err(self.nothing_open(now, label));
        };
        let visit = Visit {
            id: VisitId::from_bytes([0; 16]),
            kind: Kind::Http,
            label: label.to_owned(),
            peer,
            bytes: 0,
            http: None,
        };
        self.judge_visit(now, id, &visit)?;
        let limits = &self.settings.limits;
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let each = tunnel.row.policy.visitor_limit().or(limits.visitor);
        if let Some(rate) = each.rate {
            let seat = tunnel.gate.visitors.seat(peer.ip().into());
            if let Some(meter) = tunnel.gate.visitors.meter(seat) {
                meter.bucket.count(now.monotonic, rate);
            }
        }
        Ok(Arc::clone(&tunnel.row.policy))
    }

    /// The share a visit says it comes with, if it is one of this tunnel.
    fn share_of(
        &self,
        id: TunnelId,
        share: Option<ShareId>,
    ) -> Option<&super::policy::share::ShareRow> {
        self.shares.get(&share?).filter(|row| row.tunnel == id)
    }

    /// Whether the operator keeps visits from a tunnel, itself or with its device or user.
    pub(super) fn is_suspended(&self, tunnel: &Tunnel) -> bool {
        let row = &tunnel.row;
        let device = self.devices.get(&row.device);
        let user = self.users.get(&row.user);
        row.suspended_at.is_some()
            || device.is_some_and(|device| device.row.suspended_at.is_some())
            || user.is_some_and(|user| user.suspended_at.is_some())
    }

    /// Remembers credentials that were checked and found right; the guess was none, and is given back: to
    /// each visit that was checked for itself, for several may have come before the first was known.
    fn learn(&mut self, now: Now, id: TunnelId, visit: &Visit) {
        let http = visit.http.as_ref();
        let Some(said) = http.and_then(|http| http.credentials.as_ref()) else {
            return;
        };
        let limits = &self.settings.limits;
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let Some(checked) = &said.checked else {
            return;
        };
        let counted = tunnel.gate.guesses.take(visit.id);
        if !checked.right {
            return;
        }
        let user = tunnel.row.policy.user(&said.user);
        if user.is_none_or(|user| *user.hash() != checked.hash) {
            return;
        }
        let (digest, hash) = (said.digest, &checked.hash);
        if !tunnel.gate.verified.knows(&digest, &said.user, hash) {
            let user = said.user.clone();
            tunnel.gate.verified.learn(digest, user, hash.clone());
        }
        let (at, rate) = (now.monotonic, limits.tunnel_passwords);
        match counted {
            Some(Counted::Guess) => {
                tunnel.gate.passwords.give_back(at, rate);
                let source = Source::from(visit.peer.ip());
                self.sources
                    .give_back(at, &limits.sources, Act::Password, source);
            }
            Some(Counted::Told) => tunnel.gate.told.give_back(at, rate),
            None => {}
        }
    }

    /// Counts a guess, and says what to check it against.
    fn ask_for_check(&mut self, now: Now, id: TunnelId, visit: &Visit) -> Result<Judged, Refusal> {
        let limits = &self.settings.limits;
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        let rate = limits.tunnel_passwords;
        let over = |scope, rate, retry_in| Refusal::Limited {
            rule: RuleId::Guesses(scope, rate),
            retry_in,
        };
        let bucket = &mut tunnel.gate.passwords;
        let (at, source) = (now.monotonic, Source::from(visit.peer.ip()));
        bucket
            .peek(at, rate)
            .map_err(|wait| over(Scope::Tunnel, rate, wait))?;
        self.sources
            .take(at, &limits.sources, Act::Password, source)
            .map_err(|wait| over(Scope::Source, limits.sources.passwords, wait))?;
        bucket.count(at, rate);
        tunnel.gate.guesses.count(visit.id, Counted::Guess);
        Ok(Judged::Verify(self.check_of(id, visit)))
    }

    /// What to check the credentials of a visit against.
    fn check_of(&self, id: TunnelId, visit: &Visit) -> Verification {
        let tunnel = self.tunnels.get(&id).expect(FOUND);
        let http = visit.http.as_ref();
        let said = http.and_then(|http| http.credentials.as_ref());
        let known = said.and_then(|said| tunnel.row.policy.user(&said.user));
        let user = known.or_else(|| tunnel.row.policy.users().first());
        let hash = user
            .expect("only a policy with users asks for a check")
            .hash();
        Verification {
            tunnel: id,
            owner: tunnel.row.user,
            realm: tunnel.row.slug.clone(),
            hash: hash.clone(),
            shadow: tunnel.row.policy.is_shadow(Part::Auth),
        }
    }

    /// The same where credentials are only told of: nobody is kept out, and as many are checked as may be
    /// tried at the tunnel. Of the others it is told that they are too many.
    fn ask_for_word(
        &mut self,
        now: Now,
        id: TunnelId,
        visit: &Visit,
        mut shadowed: Vec<RuleId>,
    ) -> Judged {
        let http = visit.http.as_ref();
        let said = http.and_then(|http| http.credentials.as_ref());
        if said.is_some_and(|said| said.given_up) {
            return Judged::In(RuleId::Default, shadowed);
        }
        let rate = self.settings.limits.tunnel_passwords;
        let gate = &mut self.tunnels.get_mut(&id).expect(FOUND).gate;
        let bucket = &mut gate.told;
        if bucket.peek(now.monotonic, rate).is_err() {
            shadowed.push(RuleId::Guesses(Scope::Tunnel, rate));
            return Judged::In(RuleId::Default, shadowed);
        }
        bucket.count(now.monotonic, rate);
        gate.guesses.count(visit.id, Counted::Told);
        Judged::Verify(self.check_of(id, visit))
    }

    /// The limits that have no room for one more visit.
    fn over(&mut self, now: Instant, id: TunnelId, ip: IpAddr) -> Vec<Over> {
        let visitor = Visitor::from(ip);
        let tunnel = self.tunnels.get_mut(&id).expect(FOUND);
        tunnel.gate.visitors.tidy(now, visitor);
        let own = &tunnel.row.policy;
        let limits = &self.settings.limits;
        let meter = tunnel.gate.visitors.look(visitor);
        let mut over = Vec::new();
        let own_limit = own.visitor_limit();
        look(
            now,
            Scope::Visitor,
            &meter,
            own_limit,
            limits.visitor,
            &mut over,
        );
        let own_limit = own.tunnel_limit();
        look(
            now,
            Scope::Tunnel,
            &tunnel.gate.all,
            own_limit,
            limits.tunnel,
            &mut over,
        );
        let none = Limit::default();
        for (owner, scope, ceilings) in [
            (
                Owner::Device(tunnel.row.device),
                Scope::Device,
                &limits.device,
            ),
            (Owner::User(tunnel.row.user), Scope::User, &limits.user),
        ] {
            let most = Limit {
                rate: ceilings.rate,
                concurrency: ceilings.streams,
                bandwidth: None,
            };
            if let Some(owned) = self.owned.get(&owner) {
                look(now, scope, &owned.meter, none, most, &mut over);
            }
        }
        over
    }

    /// The visits of a tunnel, going on or waiting, that its policy as it is now would not let in. Limits
    /// are for those who come. All of them, or those who came in by one share link.
    pub(super) fn no_longer_allowed(
        &self,
        now: Now,
        id: TunnelId,
        by: Option<ShareId>,
    ) -> Vec<(VisitId, Refusal)> {
        let tunnel = self.tunnels.get(&id).expect(FOUND);
        let policy = &tunnel.row.policy;
        let path = |stay: &Stay| stay.http.as_ref().map_or(0, |http| http.path.len());
        let inside = tunnel.inside.by(by);
        let mut asked: Vec<_> = inside
            .filter_map(|visit| Some((visit, self.stays.get(&visit)?)))
            .collect();
        // Should the work not be done with all of them, those with the longest paths are out.
        asked.sort_unstable_by_key(|(visit, stay)| (path(stay), *visit));
        let mut steps = STEPS_AGAIN;
        let mut out: Vec<_> = asked
            .into_iter()
            .filter_map(|(visit, stay)| {
                let share = self.share_of(id, stay.http.as_ref().and_then(|http| http.share));
                let http = stay.http.as_ref().map(|http| HttpFacts {
                    method: &http.method,
                    path: &http.path,
                    login: match &http.user {
                        Some((name, hash))
                            if policy.user(name).is_some_and(|user| user.hash() == hash) =>
                        {
                            Login::Right { user: name }
                        }
                        _ => Login::None,
                    },
                    share: share.map(|row| ShareFacts {
                        over: row.is_over(now.wall),
                        methods: &row.methods,
                        paths: &row.paths,
                    }),
                });
                let facts = Facts {
                    suspended: false,
                    peer: stay.peer,
                    http,
                    over: &[],
                };
                let decision = decide_within(policy, &facts, &mut steps);
                refusal(tunnel, &decision).map(|refusal| (visit, refusal))
            })
            .collect();
        out.sort_by_key(|(visit, _)| *visit);
        out
    }

    /// A visit to a name that nothing answers: counted for its source, and refused as that when there are
    /// too many.
    pub(super) fn nobody_there(&mut self, now: Now, visit: &Visit, refusal: Refusal) -> Refusal {
        if !matches!(refusal, Refusal::NoRoute { .. }) {
            return refusal;
        }
        let limited = self.may_ask_for_nobody(now, visit.peer.ip()).err();
        limited.unwrap_or(refusal)
    }

    /// The same for a name that is not even below our domain.
    pub fn may_ask_for_nobody(&mut self, now: Now, peer: IpAddr) -> Result<(), Refusal> {
        let may = self.source_may(now, Act::UnknownHost, peer.into());
        may.map_err(|retry_in| Refusal::Limited {
            rule: RuleId::UnknownHosts(self.settings.limits.sources.unknown_hosts),
            retry_in,
        })
    }

    /// Whether a source may do something once more, and counts it if so; else in how long. For what
    /// happens outside of the engine: handshakes, calls of the admin API.
    pub fn source_may(&mut self, now: Now, act: Act, source: Source) -> Result<(), Duration> {
        let rates = &self.settings.limits.sources;
        self.sources.take(now.monotonic, rates, act, source)
    }

    /// The same without counting it.
    pub fn source_has_room(&mut self, now: Now, act: Act, source: Source) -> Result<(), Duration> {
        let rates = &self.settings.limits.sources;
        self.sources.check(now.monotonic, rates, act, source)
    }

    /// Other settings are in force.
    pub(super) fn forget_rates(&mut self) {
        self.sources = Sources::default();
        self.owned
            .values_mut()
            .for_each(|owned| owned.meter.bucket = Bucket::default());
        self.tunnels
            .each_mut()
            .for_each(|tunnel| tunnel.gate.forget_rates());
    }
}

/// Notes what of a meter has no room: by the tunnel's own limit, or where it has none, by the operator's.
fn look(
    now: Instant,
    scope: Scope,
    meter: &Meter,
    own: Limit,
    default: Limit,
    over: &mut Vec<Over>,
) {
    let limit = own.or(default);
    if let Some(rate) = limit.rate
        && let Err(retry_in) = meter.bucket.peek(now, rate)
    {
        over.push(Over {
            rule: RuleId::Rate(scope, rate),
            retry_in,
            own: own.rate.is_some(),
        });
    }
    if let Some(most) = limit.concurrency
        && meter.open >= most.get()
    {
        over.push(Over {
            rule: RuleId::Concurrency(scope, most.get()),
            retry_in: ROOM_IN,
            own: own.concurrency.is_some(),
        });
    }
}

/// What is known of somebody's credentials.
fn login<'v>(tunnel: &Tunnel, said: Option<&'v Credentials>) -> Login<'v> {
    let Some(said) = said else {
        return Login::None;
    };
    let policy = &tunnel.row.policy;
    let user = policy.user(&said.user);
    let known = |hash| tunnel.gate.verified.knows(&said.digest, &said.user, hash);
    if user.is_some_and(|user| known(user.hash())) {
        return Login::Right { user: &said.user };
    }
    let against = user.or_else(|| policy.users().first());
    match &said.checked {
        // Checked against another hash: the policy has changed meanwhile.
        Some(checked) if against.is_some_and(|user| *user.hash() == checked.hash) => Login::Wrong,
        _ => Login::Unchecked,
    }
}

/// Whose credentials let a visit in.
pub(super) fn whose(tunnel: &Tunnel, said: Option<&Credentials>) -> Option<(String, PasswordHash)> {
    match login(tunnel, said) {
        Login::Right { user } => {
            let hash = tunnel.row.policy.user(user)?.hash();
            Some((user.to_owned(), hash.clone()))
        }
        Login::None | Login::Unchecked | Login::Wrong => None,
    }
}

/// What visitors get of a decision; none when they may come in.
fn refusal(tunnel: &Tunnel, decision: &Decision) -> Option<Refusal> {
    let (slug, rule) = (|| tunnel.row.slug.clone(), || decision.rule.clone());
    Some(match decision.verdict {
        Verdict::Pass => return None,
        Verdict::Denied => Refusal::Denied { rule: rule() },
        Verdict::MethodNotAllowed => Refusal::MethodNotAllowed {
            rule: rule(),
            allowed: allowed(&tunnel.row.policy),
        },
        Verdict::Verify | Verdict::Unauthorized => Refusal::Unauthorized { realm: slug() },
        Verdict::ShareOver => Refusal::ShareOver { tunnel: slug() },
        Verdict::Limited { retry_in } => Refusal::Limited {
            rule: rule(),
            retry_in,
        },
        Verdict::Suspended => Refusal::Suspended { tunnel: slug() },
    })
}

fn allowed(policy: &Policy) -> String {
    let names: Vec<&str> = policy.methods().iter().map(Method::as_str).collect();
    names.join(", ")
}
