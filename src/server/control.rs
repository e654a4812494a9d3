//! Between the engine's values and the control stream's messages. Pure.

use std::time::Duration;

use crate::codes::Code;
use crate::engine::{Answer, AskError, BindAsk, Standing, TunnelView};
use crate::names::{Domain, Kind, Slug, TunnelId};
use crate::times::{Now, WallTime};
use crate::wire::{self, Bind, Bound, Capabilities, Closed, Control, Enrolled, Fault, Update};

/// What a client's Bind asks for, or the refusal that it gets at once.
pub(super) fn bind_ask(bind: Bind, capabilities: Capabilities) -> Result<BindAsk, Box<Control>> {
    let request = bind.request;
    let refuse = |code, detail: String| Box::new(fault(Some(request), code, detail));
    let name = match bind.name.as_deref().map(Slug::parse) {
        None => None,
        Some(Ok(slug)) => Some(slug),
        Some(Err(e)) => return Err(refuse(Code::BadName, e.to_string())),
    };
    let Ok(kind) = bind.kind.parse::<Kind>() else {
        return Err(refuse(
            Code::UnsupportedKind,
            "this kind of tunnel is not known here".into(),
        ));
    };
    if !capabilities.has(Capabilities::needed_for(kind)) {
        let error = AskError::ClientTooOld { kind };
        return Err(refuse(error.code(), error.to_string()));
    }
    let policy = super::policy::read(request, bind.policy.as_deref())?;
    let domains = (bind.domains)
        .map(|domains| read_domains(request, &domains))
        .transpose()?;
    Ok(BindAsk {
        tunnel: bind.tunnel,
        name,
        kind,
        expires_at: bind.expires_at.map(WallTime::from_millis),
        expires_in: bind.expires_in_ms.map(Duration::from_millis),
        idle: bind
            .idle_ms
            .map(|ms| (ms != Bind::NEVER).then(|| Duration::from_millis(ms))),
        hold: bind.hold_ms.map(Duration::from_millis),
        declared: bind.declared,
        labels: bind.labels,
        public_port: bind.public_port,
        policy,
        domains,
    })
}

/// What a client's SetDomains asks for, or the refusal that it gets at once.
pub(super) fn read_domains(request: u64, domains: &[String]) -> Result<Vec<Domain>, Box<Control>> {
    let read = |text: &String| {
        Domain::parse(text)
            .map_err(|e| Box::new(fault(Some(request), Code::BadDomain, e.to_string())))
    };
    domains.iter().map(read).collect()
}

/// The message that answers a client's request.
pub(super) fn reply(request: u64, outcome: Result<Answer, AskError>) -> Control {
    match outcome {
        Ok(Answer::Bound(view)) => Control::Bound(bound(request, &view)),
        Ok(Answer::Enrolled { device, user }) => Control::Enrolled(Enrolled { device, user }),
        Ok(
            Answer::Closed
            | Answer::Left
            | Answer::Invited { .. }
            | Answer::Revoked
            | Answer::Shared(_)
            | Answer::Redeemed(_)
            | Answer::Suspended
            | Answer::Resumed,
        ) => Control::Closed(Closed { request }),
        Err(e) => fault(Some(request), e.code(), e.to_string()),
    }
}

fn bound(request: u64, view: &TunnelView) -> Bound {
    let row = &view.row;
    Bound {
        request,
        tunnel: row.id,
        slug: row.slug.to_string(),
        url: view.url.clone(),
        expires_at: row.expires_at.map(WallTime::as_millis),
        created_at: row.created_at.as_millis(),
        idle_ms: row.idle.map_or(Bind::NEVER, millis),
        hold_ms: millis(row.hold),
        standing: None,
        public_port: row.public_port,
        policy: (!row.policy.is_empty()).then(|| row.policy.to_text()),
    }
}

/// How the clocks of a tunnel stand.
pub(super) fn standing(now: Now, standing: &Standing) -> wire::Standing {
    wire::Standing {
        now: now.wall.as_millis(),
        last_seen_at: standing.last_seen_at.map(WallTime::as_millis),
        idle_left_ms: standing.idle_left.map(millis),
        offline_max_ms: millis(standing.offline_max),
    }
}

/// Tells a client how the clocks of its open tunnel stand.
pub(super) fn still_open(tunnel: TunnelId, standing: wire::Standing) -> Control {
    Control::Update(Update {
        tunnel,
        state: "open".into(),
        code: Code::Done.row().wire,
        standing: Some(standing),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(Bind::NEVER)
}

/// Tells a client what became of its tunnel.
pub(super) fn update(tunnel: TunnelId, code: Code) -> Control {
    let state = match code {
        Code::TunnelExpired => "expired",
        Code::Suspended => "suspended",
        Code::Done => "open",
        _ => "closed",
    };
    Control::Update(Update {
        tunnel,
        state: state.into(),
        code: code.row().wire,
        standing: None,
    })
}

/// A refusal on the control stream; without a request it is about the link itself.
pub(super) fn fault(request: Option<u64>, code: Code, detail: String) -> Control {
    Control::Error(Fault {
        request,
        code: code.row().wire,
        detail,
    })
}
