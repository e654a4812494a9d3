//! What a policy may be here, and changing it or a tunnel's life: in force for the next visit at once, written after,
//! acknowledged when written. Visits that the new one would not let in are cut.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Asked, Engine, audit};
use super::limits::{Ceiling, Ceilings};
use super::persist::RowKey;
use super::policy::{Part, Policy};
use super::state::Tunnel;
use super::{Action, Answer, AskError, Requester, SetAsk, TunnelRow, TunnelState};
use crate::names::{Kind, ShareId, TunnelId, VisitId};
use crate::times::{Now, WallTime, show_duration};

impl Engine {
    /// A client or the operator changes a policy, or a life.
    pub(super) fn set(&mut self, now: Now, from: Requester, ask: &SetAsk) -> Asked {
        let tunnel = self.own_tunnel(from, ask.tunnel)?;
        match tunnel.row.state {
            TunnelState::Open => {}
            TunnelState::Closed => return Err(AskError::Ended { expired: false }),
            TunnelState::Expired => return Err(AskError::Ended { expired: true }),
        }
        let policy = asked_policy(tunnel, ask)?;
        if let Some(policy) = &policy {
            self.may_have(tunnel.row.kind, policy)?;
        }
        let row = self.with_life(now, &tunnel.row, &ask.life)?;
        let policy = policy.filter(|policy| *policy != *tunnel.row.policy);
        // Whoever says how long it may be idle starts that clock anew.
        if policy.is_none() && row == tunnel.row && ask.life.idle.is_none() {
            let answer = Answer::Bound(Box::new(self.view(tunnel)));
            let unsaved = tunnel.unsaved;
            return self.after_commit(unsaved, from, answer);
        }
        let id = ask.tunnel;
        let is_client = !matches!(from, Requester::Admin { .. });
        if is_client && !self.may_restrict(RowKey::Tunnel(id)) {
            return Err(AskError::Busy);
        }
        self.tunnels.get_mut(&id).expect("it was found above").row = row;
        self.set_clocks(now, id, &ask.life);
        let changes_policy = policy.is_some();
        if let Some(policy) = policy {
            self.put_policy(now, id, policy);
        }
        let tunnel = self.tunnels.get(&id).expect("it was found above");
        let detail = told(&tunnel.row, ask, changes_policy);
        let line = audit(now, self.who(from), "tunnel.set", id, detail);
        let answer = Answer::Bound(Box::new(self.view(tunnel)));
        self.restrict_again(RowKey::Tunnel(id), line, (from, answer));
        Ok(None)
    }

    fn put_policy(&mut self, now: Now, id: TunnelId, policy: Policy) {
        let tunnel = self.tunnels.get_mut(&id).expect("the caller found it");
        let old = std::mem::replace(&mut tunnel.row.policy, Arc::new(policy));
        tunnel.row.policy_version += 1;
        let new = &tunnel.row.policy;
        let (others_sign, limits) = (others_sign(&old, new), |policy: &Policy| {
            (policy.tunnel_limit(), policy.visitor_limit())
        });
        if limits(&old) != limits(new) {
            tunnel.gate.forget_rates();
            self.shape_anew(id);
        }
        self.turn_out(now, id, None);
        if others_sign {
            let visits = self.let_in(id);
            self.act(Action::CutSome { visits });
        }
    }

    /// The visits of a tunnel that came in; those that wait are asked for signatures when they do.
    fn let_in(&self, id: TunnelId) -> Vec<VisitId> {
        let tunnel = self.tunnels.get(&id).expect("the caller found it");
        let came_in = |visit: &VisitId| !self.held.contains(visit);
        let mut visits: Vec<VisitId> = tunnel.inside.by(None).filter(came_in).collect();
        visits.sort_unstable();
        visits
    }

    /// Ends the visits that the policy as it is now would not let in: all of them, or those by one share link.
    pub(super) fn turn_out(&mut self, now: Now, id: TunnelId, by: Option<ShareId>) {
        let (mut cut, mut waited) = (Vec::new(), Vec::new());
        for (visit, refusal) in self.no_longer_allowed(now, id, by) {
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

/// The policy that a change comes to.
fn asked_policy(tunnel: &Tunnel, ask: &SetAsk) -> Result<Option<Policy>, AskError> {
    let Some(policy) = &ask.policy else {
        return Ok(None);
    };
    if ask.parts.is_empty() {
        return Ok(Some(policy.clone()));
    }
    let parts: Vec<&str> = ask.parts.iter().map(String::as_str).collect();
    let replaced = tunnel.row.policy.replace(&parts, policy);
    replaced
        .map(Some)
        .map_err(|e| AskError::Policy { why: e.to_string() })
}

/// What changed, for the audit.
fn told(row: &TunnelRow, ask: &SetAsk, changes_policy: bool) -> String {
    let mut told = Vec::new();
    let until = |at: Option<WallTime>| at.map_or("never".to_owned(), |at| at.to_string());
    let lasts = |span: Option<Duration>| span.map_or("never".to_owned(), show_duration);
    if ask.life.expires_in.is_some() {
        told.push(format!("expires {}", until(row.expires_at)));
    }
    if ask.life.idle.is_some() {
        told.push(format!("idle {}", lasts(row.idle)));
    }
    if ask.life.hold.is_some() {
        told.push(format!("hold {}", show_duration(row.hold)));
    }
    if ask.life.labels.is_some() {
        told.push("labels".to_owned());
    }
    if changes_policy {
        let parts = match ask.parts.as_slice() {
            [] => "all".to_owned(),
            parts => parts.join(" "),
        };
        told.push(format!("{parts}, version {}", row.policy_version));
    }
    format!("{} {}", row.slug, told.join(", "))
}

pub(super) fn over(what: Ceiling, max: impl ToString) -> AskError {
    let max = max.to_string();
    AskError::LimitReached { what, max }
}

/// Whether a visitor nobody knows is refused. A shadow keeps nobody out.
fn keeps_strangers_out(kind: Kind, policy: &Policy) -> bool {
    match kind {
        Kind::Http => policy.keeps_strangers_out(),
        _ => policy.allows_only_few() && !policy.is_shadow(Part::Networks),
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
