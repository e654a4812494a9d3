//! The one function that decides about a visit. Pure: what is counted and who was checked is told to it.

use std::net::IpAddr;
use std::time::Duration;

use ::http::Method;

use super::paths::{PathJudge, STEPS_MAX};
use super::{Part, PathPattern, Policy, RuleId, ShareUse};

/// What is known of a visit.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The operator suspended the tunnel, its device or its user.
    pub suspended: bool,
    /// Who visits.
    pub peer: IpAddr,
    /// What is asked for; none for what is not HTTP.
    pub http: Option<HttpFacts<'a>>,
    /// Limits that have no room for it now, in the order they are asked.
    pub over: &'a [Over],
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct HttpFacts<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, as the bytes that are forwarded; with or without the query.
    pub path: &'a str,
    /// What is known of who asks.
    pub login: Login<'a>,
    /// The share link it comes with.
    pub share: Option<ShareFacts<'a>>,
}

/// What is known of a visitor's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login<'a> {
    /// There are none.
    None,
    /// They are not checked yet.
    Unchecked,
    /// They are right.
    Right {
        /// Whose.
        user: &'a str,
    },
    /// They are wrong.
    Wrong,
}

/// A share link that was really made for this tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareFacts<'a> {
    /// Its time is over, or it was withdrawn.
    pub over: bool,
    /// The only methods it is for; empty: all.
    pub methods: &'a [Method],
    /// The only paths it is for; empty: all.
    pub paths: &'a [PathPattern],
}

/// A limit without room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// Which.
    pub rule: RuleId,
    /// When there may be room again.
    pub retry_in: Duration,
    /// It stands in the policy, not in the operator's settings; only those can be shadows.
    pub own: bool,
}

/// What becomes of a visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// Only when its credentials have been found right; to be asked again then. Where the policy only tells
    /// of them: it passes, and what would be told is known then.
    Verify,
    /// It does not.
    Denied,
    /// Its method does not.
    MethodNotAllowed,
    /// It has to say who it is.
    Unauthorized,
    /// Its share link is over.
    ShareOver,
    /// Not now.
    Limited {
        /// When to try again.
        retry_in: Duration,
    },
    /// The operator said so.
    Suspended,
}

/// A verdict, the rule that gave it, and the rules that would have given another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the visit.
    pub verdict: Verdict,
    /// Why.
    pub rule: RuleId,
    /// Rules that would have refused it if they were not shadows.
    pub shadowed: Vec<RuleId>,
}

/// Decides about a visit: suspended → networks → methods → limits → paths → auth and share. The first
/// refusal stands; limits come before what takes work. What a shadow part refuses is told and goes on;
/// suspension and the operator's limits are never shadows. Credentials that a shadow asks for are checked
/// last: those of a visit that is refused anyway are not worth it.
pub fn decide(policy: &Policy, facts: &Facts<'_>) -> Decision {
    decide_within(policy, facts, &mut { STEPS_MAX })
}

/// The same for one of many visits that are asked about at once: what the rules about its path cost comes off
/// the steps that all of them have.
pub fn decide_within(policy: &Policy, facts: &Facts<'_>, steps: &mut usize) -> Decision {
    let path = facts.http.as_ref().map_or("", |http| http.path);
    let most = STEPS_MAX.min(*steps);
    let mut paths = PathJudge::new(path, most);
    let decision = judge(policy, facts, &mut paths);
    *steps -= most - paths.left();
    decision
}

fn judge(policy: &Policy, facts: &Facts<'_>, paths: &mut PathJudge<'_>) -> Decision {
    let mut shadowed = Vec::new();
    if facts.suspended {
        return told(Verdict::Suspended, RuleId::Suspended, shadowed);
    }
    let mut passed = RuleId::Default;
    let mut unchecked = None;
    for part in [
        Part::Networks,
        Part::Methods,
        Part::Limits,
        Part::Paths,
        Part::Auth,
    ] {
        if part == Part::Limits
            && let Some((verdict, rule)) = limits(policy, facts, &mut shadowed)
        {
            return told(verdict, rule, shadowed);
        }
        match look(policy, part, facts, paths) {
            Ok(None) => {}
            Ok(Some(rule)) => passed = rule,
            Err((verdict, rule)) if !policy.is_shadow(part) => {
                return told(verdict, rule, shadowed);
            }
            Err((Verdict::Verify, rule)) => unchecked = Some(rule),
            Err((_, rule)) => shadowed.push(rule),
        }
    }
    match unchecked {
        Some(rule) => told(Verdict::Verify, rule, shadowed),
        None => told(Verdict::Pass, passed, shadowed),
    }
}

fn told(verdict: Verdict, rule: RuleId, shadowed: Vec<RuleId>) -> Decision {
    Decision {
        verdict,
        rule,
        shadowed,
    }
}

/// The rule that let it pass, if one had to, or the one that did not.
type Looked = Result<Option<RuleId>, (Verdict, RuleId)>;

/// The first limit without room that is no shadow.
fn limits(
    policy: &Policy,
    facts: &Facts<'_>,
    shadowed: &mut Vec<RuleId>,
) -> Option<(Verdict, RuleId)> {
    for over in facts.over {
        let (rule, retry_in) = (over.rule.clone(), over.retry_in);
        if !over.own || !policy.is_shadow(Part::Limits) {
            return Some((Verdict::Limited { retry_in }, rule));
        }
        shadowed.push(rule);
    }
    None
}

fn look(policy: &Policy, part: Part, facts: &Facts<'_>, paths: &mut PathJudge<'_>) -> Looked {
    match (part, &facts.http) {
        (Part::Networks, _) => networks(policy, facts.peer),
        (Part::Methods, Some(http)) => methods(policy, http.method),
        (Part::Paths, Some(_)) => paths_of(policy, paths),
        (Part::Auth, Some(http)) => who(policy, http, paths),
        // Nobody can say who they are to a tunnel that is not HTTP; it is for those whom the networks allow.
        (Part::Methods | Part::Paths | Part::Auth, None) => Ok(None),
        // The edge looks at signatures, since the body is signed, and only of what has passed here.
        (Part::Webhook | Part::Limits, _) => Ok(None),
    }
}

/// What is denied is denied, whatever is allowed; and an `allow` that names somebody allows nobody else.
fn networks(policy: &Policy, peer: IpAddr) -> Looked {
    if let Some(net) = policy.deny.iter().find(|net| net.contains(peer)) {
        return Err((Verdict::Denied, RuleId::Deny(*net)));
    }
    if policy.allow.is_empty() || policy.allow.iter().any(|net| net.contains(peer)) {
        return Ok(None);
    }
    Err((Verdict::Denied, RuleId::Allow))
}

fn methods(policy: &Policy, method: &Method) -> Looked {
    if policy.methods.is_empty() || policy.methods.contains(method) {
        return Ok(None);
    }
    let rule = RuleId::Method(method.clone());
    Err((Verdict::MethodNotAllowed, rule))
}

fn paths_of(policy: &Policy, paths: &mut PathJudge<'_>) -> Looked {
    if let Some(pattern) = paths.denied_by(&policy.deny_paths) {
        return Err((Verdict::Denied, RuleId::DenyPath(pattern.clone())));
    }
    if policy.allow_paths.is_empty() || paths.is_allowed(&policy.allow_paths) {
        return Ok(None);
    }
    Err((Verdict::Denied, RuleId::AllowPath))
}

/// Credentials that are right, or a share link that is for this.
fn who(policy: &Policy, http: &HttpFacts<'_>, paths: &mut PathJudge<'_>) -> Looked {
    if !policy.asks_who() {
        return Ok(None);
    }
    let asked = match http.login {
        Login::Right { user } => return Ok(Some(RuleId::User(user.to_owned()))),
        // They may be right: a share link is only looked at when they turn out not to be.
        Login::Unchecked if !policy.auth.is_empty() => {
            return Err((Verdict::Verify, RuleId::Auth));
        }
        Login::None | Login::Unchecked | Login::Wrong => !policy.auth.is_empty(),
    };
    let share = http.share.filter(|_| policy.share != ShareUse::Off);
    match share {
        Some(share) if share.over => Err((Verdict::ShareOver, RuleId::ShareOver)),
        Some(share) if share_is_for(&share, http, paths) => Ok(Some(RuleId::Share)),
        Some(_) => Err((Verdict::Denied, RuleId::ShareNarrower)),
        None if asked => Err((Verdict::Unauthorized, RuleId::Auth)),
        None => Err((Verdict::Denied, RuleId::Share)),
    }
}

fn share_is_for(share: &ShareFacts<'_>, http: &HttpFacts<'_>, paths: &mut PathJudge<'_>) -> bool {
    let method = share.methods.is_empty() || share.methods.contains(http.method);
    method && (share.paths.is_empty() || paths.is_allowed(share.paths))
}
