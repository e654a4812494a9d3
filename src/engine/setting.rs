//! What a policy may be here, and changing it: in force for the next visit at once, written after,
//! acknowledged when written. Visits that the new one would not let in are cut.

use std::sync::Arc;

use super::entry::{Asked, Engine, audit};
use super::limits::{Ceiling, Ceilings};
use super::persist::RowKey;
use super::policy::{Part, Policy};
use super::state::Tunnel;
use super::{Action, Answer, AskError, Requester, SetAsk, TunnelState};
use crate::names::{Kind, TunnelId, VisitId};
use crate::times::{Now, WallTime, show_duration};

impl Engine {
    /// A client or the operator changes a policy.
    pub(super) fn set(&mut self, now: Now, from: Requester, ask: &SetAsk) -> Asked {
        let tunnel = self.own_tunnel(from, ask.tunnel)?;
        match tunnel.row.state {
            TunnelState::Open => {}
            TunnelState::Closed => return Err(AskError::Ended { expired: false }),
            TunnelState::Expired => return Err(AskError::Ended { expired: true }),
        }
        let parts: Vec<&str> = ask.parts.iter().map(String::as_str).collect();
        let policy = if parts.is_empty() {
            ask.policy.clone()
        } else {
            let replaced = tunnel.row.policy.replace(&parts, &ask.policy);
            replaced.map_err(|e| AskError::Policy { why: e.to_string() })?
        };
        self.may_have(tunnel.row.kind, &policy)?;
        if policy == *tunnel.row.policy {
            let answer = Answer::Bound(Box::new(self.view(tunnel)));
            let unsaved = tunnel.unsaved;
            return self.after_commit(unsaved, from, answer);
        }
        self.put_policy(now, from, ask, policy);
        Ok(None)
    }

    fn put_policy(&mut self, now: Now, from: Requester, ask: &SetAsk, policy: Policy) {
        let id = ask.tunnel;
        let tunnel = self.tunnels.get_mut(&id).expect("the caller found it");
        let old = std::mem::replace(&mut tunnel.row.policy, Arc::new(policy));
        tunnel.row.policy_version += 1;
        let new = &tunnel.row.policy;
        if (old.tunnel_limit(), old.visitor_limit()) != (new.tunnel_limit(), new.visitor_limit()) {
            tunnel.gate.forget_rates();
        }
        let others_sign = others_sign(&old, new);
        self.turn_out(now, id);
        if others_sign {
            let visits = self.let_in(id);
            self.act(Action::CutSome { visits });
        }
        let tunnel = self.tunnels.get(&id).expect("the caller found it");
        let parts = match ask.parts.as_slice() {
            [] => "all".to_owned(),
            parts => parts.join(" "),
        };
        let detail = format!(
            "{} {parts}, version {}",
            tunnel.row.slug, tunnel.row.policy_version
        );
        let line = audit(now, self.who(from), "tunnel.set", id, detail);
        let answer = Answer::Bound(Box::new(self.view(tunnel)));
        self.restrict(vec![RowKey::Tunnel(id)], vec![line], Some((from, answer)));
    }

    /// The visits of a tunnel that came in; those that wait are asked for signatures when they do.
    fn let_in(&self, id: TunnelId) -> Vec<VisitId> {
        let came_in = |visit: &&VisitId| !self.held.contains(visit);
        let of_tunnel = self.stays.iter().filter(|(_, stay)| stay.tunnel == id);
        let mut visits: Vec<VisitId> = of_tunnel
            .map(|(visit, _)| visit)
            .filter(came_in)
            .copied()
            .collect();
        visits.sort_unstable();
        visits
    }

    /// Ends the visits that the policy as it is now would not let in.
    pub(super) fn turn_out(&mut self, now: Now, id: TunnelId) {
        let (mut cut, mut waited) = (Vec::new(), Vec::new());
        for (visit, refusal) in self.no_longer_allowed(now, id) {
            match self.held.contains(&visit) {
                true => waited.push((visit, refusal)),
                false => cut.push(visit),
            }
        }
        for (visit, refusal) in waited {
            self.visit_over(now, visit);
            let outcome = Err(refusal);
            self.act(Action::Release { visit, outcome });
        }
        if !cut.is_empty() {
            self.act(Action::CutSome { visits: cut });
        }
    }

    /// A tunnel that whoever asks may change. To a client a stranger's and none at all look the same.
    pub(super) fn own_tunnel(&self, from: Requester, id: TunnelId) -> Result<&Tunnel, AskError> {
        let device = match from {
            Requester::Admin { .. } => None,
            Requester::Link { .. } | Requester::Edge { .. } => Some(self.asker(from)?),
        };
        self.tunnels
            .get(&id)
            .filter(|t| device.is_none_or(|device| t.row.device == device))
            .ok_or_else(|| AskError::NotFound {
                what: id.to_string(),
            })
    }

    /// Whether a tunnel of this kind may have this policy here. What is asked beyond a ceiling is refused
    /// with its name, rather than cut down without a word.
    pub(super) fn may_have(&self, kind: Kind, policy: &Policy) -> Result<(), AskError> {
        if kind != Kind::Http && policy.needs_http() {
            return Err(AskError::Policy {
                why: format!("a {kind} tunnel has networks and limits only; the rest needs http"),
            });
        }
        let limits = &self.settings.limits;
        if limits.force_auth && !keeps_strangers_out(kind, policy) {
            return Err(AskError::AuthForced);
        }
        below(policy, &limits.device)?;
        below(policy, &limits.user)
    }

    /// When a tunnel ends that asks for this: never beyond the server's longest time.
    pub(super) fn expiry(
        &self,
        now: Now,
        asked: Option<WallTime>,
    ) -> Result<Option<WallTime>, AskError> {
        let Some(longest) = self.settings.limits.expiry_max else {
            return Ok(asked);
        };
        let latest = now.wall.plus(longest);
        match asked {
            None => Ok(Some(latest)),
            Some(at) if at <= latest => Ok(Some(at)),
            Some(_) => Err(over(Ceiling::Expiry, show_duration(longest))),
        }
    }
}

pub(super) fn over(what: Ceiling, max: impl ToString) -> AskError {
    let max = max.to_string();
    AskError::LimitReached { what, max }
}

/// Whether a visitor nobody knows is refused. A shadow keeps nobody out.
fn keeps_strangers_out(kind: Kind, policy: &Policy) -> bool {
    match kind {
        Kind::Http => policy.keeps_strangers_out(),
        _ => policy.allows_only_some() && !policy.is_shadow(Part::Networks),
    }
}

/// Whether visits that were let in may not be signed as is asked now: who signed them is known to the edge
/// alone, and was not asked for if nobody was.
fn others_sign(old: &Policy, new: &Policy) -> bool {
    let asks = |policy: &Policy| !policy.webhooks().is_empty() && !policy.is_shadow(Part::Webhook);
    let still = |webhook| new.webhooks().contains(webhook);
    asks(new) && !(asks(old) && old.webhooks().iter().all(still))
}

fn below(policy: &Policy, ceilings: &Ceilings) -> Result<(), AskError> {
    let asked = policy.tunnel_limit();
    for limit in [asked, policy.visitor_limit()] {
        if let (Some(rate), Some(most)) = (limit.rate, ceilings.rate)
            && rate.per_second() > most.per_second()
        {
            return Err(over(Ceiling::Rate, most));
        }
        if let (Some(concurrency), Some(most)) = (limit.concurrency, ceilings.streams)
            && concurrency > most
        {
            return Err(over(Ceiling::Streams, most));
        }
        if let (Some(bandwidth), Some(most)) = (limit.bandwidth, ceilings.bandwidth)
            && bandwidth > most
        {
            return Err(over(Ceiling::Bandwidth, most));
        }
    }
    Ok(())
}
