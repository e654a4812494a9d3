//! When a proof is looked at: soon and then ever more rarely while it is waited for, now and then while it
//! stands, more often while it is missing. And what follows from what was found.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Claim, Look, State};
use crate::engine::Action;
use crate::engine::entry::{Engine, audit};
use crate::engine::state::Who;
use crate::engine::timers::Timer;
use crate::names::{Domain, TunnelId, UserId};
use crate::times::{Now, WallTime};

/// Looks at once; more wait for a second.
const AT_ONCE: usize = 64;
/// Of them for one user: whoever has slow name servers waits for them alone.
const AT_ONCE_OF_USER: usize = 2;
/// Between two looks that somebody asks for.
const SOONEST: Duration = Duration::from_secs(5);
/// The pause after the first look that did not find a proof; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause while a proof is waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(1800);
/// The first pause when a proof that stood is missing, or nobody could say; it doubles.
const MISSING_PAUSE: Duration = Duration::from_secs(300);
/// How often a proof must be missing, whatever the time, before it is given up.
const MISSES: u32 = 4;

impl Engine {
    /// The timer of a domain.
    pub(in crate::engine) fn look_at_domain(&mut self, now: Now, number: u64) {
        let Some(domain) = self.domains.numbers.get(&number).cloned() else {
            return;
        };
        if self.domains.looking >= AT_ONCE {
            let after = Duration::from_secs(1);
            return self.timers.set(Timer::Domain(number), now.monotonic, after);
        }
        let domains = &mut self.domains;
        let Some(name) = domains.names.get_mut(&domain) else {
            return;
        };
        if name.look.is_some() {
            return;
        }
        let claimants = name.claims.iter().map(|claim| claim.user);
        let mut users: Vec<_> = claimants.chain(name.contestants.iter().copied()).collect();
        users.sort();
        users.dedup();
        // Any of them may pay for it, so that nobody's contest keeps an owner's proof from being seen.
        let looking_for = &mut domains.looking_for;
        let has_room =
            |user: &&UserId| looking_for.get(user).copied().unwrap_or(0) < AT_ONCE_OF_USER;
        domains.waiting.remove(&number);
        let Some(payer) = users.iter().find(has_room).copied() else {
            domains
                .waiting
                .extend(users.first().map(|user| (number, *user)));
            let after = Duration::from_secs(1);
            return self.timers.set(Timer::Domain(number), now.monotonic, after);
        };
        *looking_for.entry(payer).or_default() += 1;
        name.look = Some(Look {
            payer,
            users: users.clone(),
            is_asked_again: false,
        });
        domains.looking += 1;
        self.act(Action::LookUp { domain, users });
    }

    /// What a look has found. Where nobody could say, nothing changes.
    pub(in crate::engine) fn looked_up(
        &mut self,
        now: Now,
        domain: &Domain,
        found: Result<Vec<UserId>, String>,
    ) {
        let Some(look) = self.take_look(now, domain) else {
            return;
        };
        let Some(name) = self.domains.names.get_mut(domain) else {
            return;
        };
        name.looked_at = Some(now.wall);
        name.tries = name.tries.saturating_add(1);
        let before = name.said.take();
        name.said = match &found {
            Err(why) => Some(why.clone()),
            Ok(users) => {
                let is_missing = |user: &UserId| look.users.contains(user) && !users.contains(user);
                let is_missing = name.claims.iter().any(|claim| is_missing(&claim.user));
                is_missing.then(|| "the record is not there".to_owned())
            }
        };
        if name.said.is_none() {
            name.tries = 0;
        }
        let mut changed = name.said != before;
        if let Ok(users) = found {
            // Who joined them since it began was not looked for.
            let (contestants, unasked) = std::mem::take(&mut name.contestants)
                .into_iter()
                .partition::<BTreeSet<_>, _>(|user| look.users.contains(user));
            name.contestants = unasked;
            let another = |user: &UserId| {
                let waits = |claim: &Claim| claim.user == *user;
                contestants.contains(user) || name.claims.iter().any(waits)
            };
            let others: Vec<_> = users.iter().copied().filter(another).collect();
            changed |= self.judge_owner(now, domain, &others);
            changed |= self.judge_waiting(now, domain, &others);
            let proven = contestants.into_iter().filter(|user| others.contains(user));
            self.welcome(domain, proven.collect());
        }
        if changed && let Some(name) = self.domains.names.get(domain) {
            let tunnels: Vec<_> = name.claims.iter().map(|claim| claim.tunnel).collect();
            for tunnel in tunnels {
                self.act(Action::TellDomains { tunnel });
            }
        }
        match look.is_asked_again {
            true => self.look_soon(now, domain),
            false => self.look_later(now, domain),
        }
    }

    /// Those who have no claim and whose proof was seen may claim a domain that leads nowhere, however many
    /// others wait there. They are looked for again, so that they do for as long as it stands.
    fn welcome(&mut self, domain: &Domain, proven: BTreeSet<UserId>) {
        let Some(name) = self.domains.names.get_mut(domain) else {
            return;
        };
        let leads = name.owner().is_some();
        name.welcome = if leads { BTreeSet::new() } else { proven };
        name.contestants.extend(name.welcome.iter().copied());
    }

    /// A look is back: its place is free, and its name goes if nobody claims it any more.
    fn take_look(&mut self, now: Now, domain: &Domain) -> Option<Look> {
        let look = self.domains.names.get_mut(domain)?.look.take()?;
        self.domains.looked(look.payer);
        if let Some(next) = self.domains.next_waiting(look.payer) {
            self.timers
                .set(Timer::Domain(next), now.monotonic, Duration::ZERO);
        }
        self.domains.drop_if_unused(domain);
        Some(look)
    }

    /// Whether the one whose proof stood keeps the domain; true when something changed. It is lost at once
    /// to another user who proves it, else after many looks over a long time.
    fn judge_owner(&mut self, now: Now, domain: &Domain, proven: &[UserId]) -> bool {
        let lost_after = self.settings.domains.lost_after;
        let Some(name) = self.domains.names.get_mut(domain) else {
            return false;
        };
        let mut claims = name.claims.iter_mut();
        let Some(owner) = claims.find(|claim| matches!(claim.state, State::Proven(_))) else {
            return false;
        };
        let tunnel = owner.tunnel;
        if proven.contains(&owner.user) {
            owner.misses = 0;
            let was_missing = owner.missing_since.take().is_some();
            if was_missing {
                self.write_domains(tunnel, Vec::new());
            }
            return was_missing;
        }
        owner.misses = owner.misses.saturating_add(1);
        let is_new = owner.missing_since.is_none();
        let since = *owner.missing_since.get_or_insert(now.wall);
        let too_long = owner.misses >= MISSES && now.wall.since(since) >= lost_after;
        if proven.is_empty() && !too_long {
            if is_new {
                self.write_domains(tunnel, Vec::new());
            }
            return is_new;
        }
        owner.state = State::Lost(now.wall);
        owner.missing_since = None;
        owner.misses = 0;
        name.tries = 0;
        let why = match proven.is_empty() {
            true => "its record is gone",
            false => "its record gave way to another user's",
        };
        let detail = format!("{domain} {why}");
        let line = audit(now, Who::ENGINE, "domain.lose", tunnel, detail);
        self.write_domains(tunnel, vec![line]);
        true
    }

    /// Gives a domain that leads nowhere to the first who proves it; true when something changed.
    fn judge_waiting(&mut self, now: Now, domain: &Domain, proven: &[UserId]) -> bool {
        let may_wait = self.may_wait();
        let Some(name) = self.domains.names.get_mut(domain) else {
            return false;
        };
        let has = |claim: &Claim| matches!(claim.state, State::Proven(_) | State::Proving(_));
        if !may_wait || name.claims.iter().any(has) {
            return false;
        }
        let mut claims = name.claims.iter_mut();
        let Some(claim) = claims.find(|claim| proven.contains(&claim.user)) else {
            return false;
        };
        claim.state = State::Proving(now.wall);
        let tunnel = claim.tunnel;
        name.tries = 0;
        self.grant_proof(now, tunnel, domain);
        false
    }

    /// Sets the next look by itself.
    pub(super) fn look_later(&mut self, now: Now, domain: &Domain) {
        let recheck = self.settings.domains.recheck;
        let Some(name) = self.domains.names.get(domain) else {
            return;
        };
        let doubled = |first: Duration, times: u32| first.saturating_mul(1 << times.min(16));
        let pause = match name.owner() {
            None => doubled(FIRST_PAUSE, name.tries.saturating_sub(1)).min(LONGEST_PAUSE),
            Some(owner) if owner.misses > 0 => {
                doubled(MISSING_PAUSE, owner.misses - 1).min(recheck)
            }
            Some(_) if name.said.is_some() => {
                doubled(MISSING_PAUSE, name.tries.saturating_sub(1)).min(recheck)
            }
            Some(_) => recheck,
        };
        let turn = name.looked_at.map_or(0, WallTime::as_millis);
        let pause = spread(pause, name.number, turn.unsigned_abs());
        self.timers
            .set(Timer::Domain(name.number), now.monotonic, pause);
    }

    /// Somebody waits for it. Who asks often does not make us ask often.
    pub(super) fn look_soon(&mut self, now: Now, domain: &Domain) {
        let Some(name) = self.domains.names.get_mut(domain) else {
            return;
        };
        name.tries = 0;
        if let Some(look) = &mut name.look {
            look.is_asked_again = true;
            return;
        }
        let since = name.looked_at.map(|at| now.wall.since(at));
        let after = since.map_or(Duration::ZERO, |since| SOONEST.saturating_sub(since));
        let number = name.number;
        self.timers.set(Timer::Domain(number), now.monotonic, after);
    }

    pub(super) fn look_if_waiting(&mut self, now: Now, tunnel: TunnelId, domain: &Domain) {
        let name = self.domains.names.get_mut(domain);
        let claim = name.and_then(|name| name.claim_mut(tunnel));
        let waits = claim.is_some_and(|c| {
            matches!(c.state, State::Pending | State::Lost(_)) || c.missing_since.is_some()
        });
        if waits {
            self.look_soon(now, domain);
        }
    }

    /// After a start: those that wait soon, those that stand some time within their turn, so that a thousand
    /// of them are not asked for in one moment.
    pub(super) fn look_after_start(&mut self, now: Now, domain: &Domain) {
        let recheck = self.settings.domains.recheck;
        let Some(name) = self.domains.names.get(domain) else {
            return;
        };
        let share = f64::from(u32::try_from(mix(name.number) >> 32).unwrap_or(0)) / 2_f64.powi(32);
        let waits = name
            .owner()
            .is_none_or(|owner| owner.missing_since.is_some());
        let within = if waits { FIRST_PAUSE } else { recheck };
        let after = within.mul_f64(share);
        self.timers
            .set(Timer::Domain(name.number), now.monotonic, after);
    }
}

/// A quarter more or less, so that what began together does not stay together.
fn spread(pause: Duration, number: u64, turn: u64) -> Duration {
    let roll = mix(number ^ mix(turn)) % 512;
    pause.mul_f64(0.75 + f64::from(u32::try_from(roll).unwrap_or(0)) / 1024.0)
}

/// Splitmix64's last steps: neighbours become strangers.
const fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
