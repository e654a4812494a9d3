//! Opening a tunnel on request: what is asked is checked here first, then written down, then asked of the
//! server, so that a crash at any point leaves either nothing or a tunnel that comes back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admin::ApiError;
use crate::admin::types::{OpenAsk, TunnelJson};
use crate::codes::Code;
use crate::engine::book::{BookRow, BookState, ProxyVersion};
use crate::engine::policy::Policy;
use crate::names::{Kind, Slug, Target, TunnelId};
use crate::origin::{DialError, OriginTunnel, Sight};
use crate::times::{Clock, parse_duration};
use crate::wire::Capabilities;

use super::book::host_mode;
use super::domains;
use super::guard::{self, needs_guard};
use super::requests::Answer;
use super::{Client, name_of};

/// How long a fresh link may take before `open` says that the server is away.
const LINK_WITHIN: Duration = Duration::from_secs(10);
/// How long the server has to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long a close waits for the server; late, it is remembered.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);
/// How long `--wait-for` waits when nothing is said.
const WAIT_FOR: Duration = Duration::from_secs(60);
/// Between two looks of `--wait-for`.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// An `open`, read and found well-formed.
pub(super) struct Wish {
    pub(super) row: BookRow,
    /// Who may visit, when that was said.
    policy: Option<Policy>,
    wait_for: Option<(String, Duration)>,
}

impl Wish {
    /// Reads what was asked; every refusal is the caller's to mend (exit 2).
    pub(super) fn read(ask: OpenAsk) -> Result<Self, ApiError> {
        let usage = |e: String| ApiError::new(Code::Usage, e);
        let target: Target = ask.target.parse().map_err(|e| usage(format!("{e}")))?;
        let name = ask.name.as_deref().map(Slug::parse).transpose();
        let name = name.map_err(|e| ApiError::new(Code::BadName, e.to_string()))?;
        let duration = |what: &str, text: &str| {
            parse_duration(text).map_err(|e| usage(format!("{what}: {e}")))
        };
        let now = Clock.now().wall;
        let expires_at = match ask.expires.as_deref() {
            None | Some("never") => None,
            Some(text) => Some(now.plus(duration("expires", text)?)),
        };
        let idle = match ask.idle.as_deref() {
            None => None,
            Some("never") => Some(None),
            Some(text) => Some(Some(duration("idle", text)?)),
        };
        let hold = ask
            .hold
            .as_deref()
            .map(|text| duration("hold", text))
            .transpose()?;
        let wait_timeout = ask
            .wait_timeout
            .as_deref()
            .map(|text| duration("wait_timeout", text))
            .transpose()?;
        let wait_for = ask
            .wait_for
            .map(|path| (path, wait_timeout.unwrap_or(WAIT_FOR)));
        if wait_for
            .as_ref()
            .is_some_and(|(path, _)| !path.starts_with('/'))
        {
            return Err(usage("wait-for: a path starts with /".into()));
        }
        let proxy_protocol = ask
            .proxy_protocol
            .as_deref()
            .map(proxy_version)
            .transpose()?;
        if proxy_protocol.is_some() && !matches!(target.kind(), Kind::Tcp | Kind::Tls) {
            return Err(usage("proxy_protocol is for tcp and tls targets".into()));
        }
        let domains = domains::read(&ask.domains)?;
        let row = BookRow {
            id: TunnelId::random(),
            name,
            slug: None,
            url: None,
            target,
            host: host_mode(ask.host.as_deref().unwrap_or("auto"))?,
            state: BookState::Opening,
            expires_at,
            idle,
            hold,
            declared: false,
            labels: ask.labels.into_iter().collect(),
            public_port: ask.public_port,
            yes_expose: ask.yes_expose,
            proxy_protocol,
            policy: Arc::new(ask.policy.clone().unwrap_or_default()),
            domains,
            created_at: now,
            ended_at: None,
        };
        Ok(Self {
            row,
            policy: ask.policy,
            wait_for,
        })
    }
}

impl Client {
    /// Opens a tunnel; the flag is false when it was there already.
    pub(super) async fn open(
        self: Arc<Self>,
        ask: OpenAsk,
    ) -> Result<(TunnelJson, bool), ApiError> {
        let wish = Wish::read(ask)?;
        if self.book.enrolment().is_none() {
            return Err(ApiError::new(
                Code::NotJoined,
                "this device has not joined a server",
            ));
        }
        if let Some(name) = &wish.row.name
            && let Some(there) = self.book.named(name)
        {
            return self.same_again(&wish, there).await;
        }
        self.origins
            .check(&wish.row.target)
            .await
            .map_err(|e| not_allowed(e, &self.state_dir))?;
        if let Some((path, within)) = &wish.wait_for {
            self.wait_for(&wish.row, path, *within).await?;
        }
        let seen = self.guard(&wish.row).await?;
        self.link_within(LINK_WITHIN).await?;
        self.server_carries(wish.row.kind())?;
        let row = self.open_new(wish.row, seen).await?;
        self.probes.opened(row.id);
        Ok((self.with_findings(&row).await, true))
    }

    /// Refuses an origin that should not be public; whether it was there and let itself be looked at.
    async fn guard(&self, row: &BookRow) -> Result<bool, ApiError> {
        if !needs_guard(row) {
            return Ok(true);
        }
        match self.sight(row).await {
            Sight::Harmless => Ok(true),
            Sight::Unclear | Sight::Unreachable(_) => Ok(false),
            Sight::Exposed(exposure) => Err(guard::refusal(&exposure)),
        }
    }

    /// Accepted once is accepted; else the origin may have become something else since.
    async fn look_again(&self, there: &BookRow) -> Result<(), ApiError> {
        let live = self.book.live(there.id);
        let Some(live) = live.filter(|_| needs_guard(there)) else {
            return Ok(());
        };
        match self.origins.sight(&live.origin).await {
            Sight::Harmless => live.guard.pass(),
            Sight::Unclear | Sight::Unreachable(_) => {}
            Sight::Exposed(exposure) => {
                live.guard.withhold(exposure.clone());
                return Err(guard::refusal(&exposure));
            }
        }
        Ok(())
    }

    /// What the exposure guard sees at a tunnel's origin.
    pub(super) async fn sight(&self, row: &BookRow) -> Sight {
        self.origins.sight(&probe_tunnel(row)).await
    }

    /// Whether the server's release can carry a kind at all; what it allows it says itself.
    fn server_carries(&self, kind: Kind) -> Result<(), ApiError> {
        if self.capabilities().has(Capabilities::needed_for(kind)) {
            return Ok(());
        }
        Err(ApiError::new(
            Code::UnsupportedKind,
            format!("{kind} tunnels need a newer server; ask its operator to upgrade wormkeyd"),
        ))
    }

    /// The name is ours already: the same target is the same tunnel, another one is a conflict.
    async fn same_again(
        &self,
        wish: &Wish,
        there: BookRow,
    ) -> Result<(TunnelJson, bool), ApiError> {
        let (policy, wish) = (wish.policy.as_ref(), &wish.row);
        if wish.target != there.target {
            let detail = format!("{} leads to {} already", name_of(&there), there.target);
            return Err(ApiError::new(Code::Conflict, detail));
        }
        if let (Some(wished), Some(had)) = (wish.public_port, there.public_port)
            && wished != had
        {
            let detail = format!("{} has the public port {had} already", name_of(&there));
            return Err(ApiError::new(Code::Conflict, detail));
        }
        let mut there = there;
        if wish.yes_expose && !there.yes_expose {
            there.yes_expose = true;
            self.book.put(there.clone()).await?;
        }
        // Who says who may visit gets that, also of a tunnel that is there.
        if there.state != BookState::Open {
            if let Some(policy) = policy {
                there.policy = Arc::new(policy.clone());
            }
            self.look_again(&there).await?;
            there = self.bind_and_wait(there).await?;
        }
        // The server may know it from an earlier try, with another policy.
        if let Some(policy) = policy.filter(|policy| **policy != *there.policy) {
            there = self.put_policy(there, policy, Vec::new()).await?;
        }
        // Asking again is also a way to have a record looked for at once.
        if !wish.domains.is_empty() {
            let all = there.domains.iter().chain(&wish.domains).cloned();
            let all = all.collect();
            there = self.put_domains(there, all).await?;
        }
        self.look_again(&there).await?;
        let row = there;
        Ok((self.with_findings(&row).await, false))
    }

    async fn open_new(&self, row: BookRow, seen: bool) -> Result<BookRow, ApiError> {
        let id = row.id;
        self.book.put(row.clone()).await?;
        let bound = self.bind_and_wait(row).await;
        if bound.is_err()
            && self
                .book
                .row(id)
                .is_some_and(|r| r.state == BookState::Opening)
        {
            // Nobody was promised anything: it is taken back on both sides, so that trying again is clean.
            self.withdraw(id).await;
        }
        if seen && let Some(live) = self.book.live(id) {
            live.guard.pass();
        }
        bound
    }

    /// Takes back an opening whose answer did not come: the server may have heard of it or not.
    async fn withdraw(&self, id: TunnelId) {
        let _ = self
            .book
            .end(id, BookState::Closing, Clock.now().wall)
            .await;
        if self.ask_close(id).is_err() {
            self.tell_server(id);
        }
    }

    async fn bind_and_wait(&self, row: BookRow) -> Result<BookRow, ApiError> {
        let answer = self.ask_bind(&row)?;
        let bound = answer_within(answer, ANSWER_WITHIN, "opening the tunnel").await?;
        bound.ok_or_else(|| {
            ApiError::new(Code::TunnelClosed, "the tunnel was closed while it opened")
        })
    }

    /// Waits for the link that is being made, if there is none.
    pub(super) async fn link_within(&self, within: Duration) -> Result<(), ApiError> {
        let mut standing = self.standing.subscribe();
        let hopeless = |state: &str| state == "refused";
        let up = standing.wait_for(|link| link.state == "up" || hopeless(&link.state));
        match tokio::time::timeout(within, up).await {
            Ok(Ok(link)) if link.state == "up" => Ok(()),
            _ => Err(self.no_link()),
        }
    }

    async fn wait_for(&self, row: &BookRow, path: &str, within: Duration) -> Result<(), ApiError> {
        let tunnel = probe_tunnel(row);
        let ready = async {
            let mut turn = tokio::time::interval(LOOK_EVERY);
            turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                turn.tick().await;
                if self.origins.ready(&tunnel, path).await {
                    return;
                }
            }
        };
        tokio::time::timeout(within, ready).await.map_err(|_| {
            let within = crate::times::show_duration(within);
            ApiError::new(
                Code::OriginUnreachable,
                format!("{} did not answer {path} within {within}", row.target),
            )
        })
    }

    /// The tunnel with what a look at its origin found.
    async fn with_findings(&self, row: &BookRow) -> TunnelJson {
        let mut json = self.book.json(row, self.link_up());
        if let Some(live) = self.book.live(row.id) {
            let finding = self.origins.look(&live.origin).await;
            if finding.is_warning() {
                json.warnings.push(finding.to_string());
            }
        }
        json
    }

    /// Ends a tunnel: at once here, on the server now or when it is back.
    pub(super) async fn close(self: Arc<Self>, key: String) -> Result<TunnelJson, ApiError> {
        let none = || ApiError::new(Code::NotFound, format!("there is no tunnel {key}"));
        let row = self.book.find(&key).ok_or_else(none)?;
        if row.state.is_live() {
            let now = Clock.now().wall;
            let stored = self.book.end(row.id, BookState::Closing, now).await;
            // The server is told all the same: what it knows for closed stays so, whatever our disk says.
            match self.ask_close(row.id) {
                // Late or lost, it is asked again at the next link.
                Ok(answer) => {
                    let _ = answer_within(answer, CLOSED_WITHIN, "closing the tunnel").await;
                }
                Err(_) => self.tell_server(row.id),
            }
            stored?;
        }
        let row = self.book.row(row.id).unwrap_or(row);
        let mut json = self.book.json(&row, self.link_up());
        if row.state == BookState::Closing {
            json.warnings
                .push("the server is away; it will be told when it is back".into());
        }
        self.tell_tunnel(&row);
        Ok(json)
    }
}

fn proxy_version(text: &str) -> Result<ProxyVersion, ApiError> {
    text.parse().map_err(|()| {
        ApiError::new(
            Code::Usage,
            format!("proxy_protocol: {text:?} is no version; write v1 or v2"),
        )
    })
}

/// A tunnel that exists only to be looked at.
fn probe_tunnel(row: &BookRow) -> OriginTunnel {
    let slug = row
        .name
        .clone()
        .or_else(|| Slug::parse("probe").ok())
        .expect("the word is a slug");
    let authority = row.target.own_authority();
    OriginTunnel::new(
        row.id,
        slug,
        authority,
        row.target.clone(),
        row.host.clone(),
    )
}

fn not_allowed(e: DialError, state_dir: &Path) -> ApiError {
    let code = if e.is_policy() {
        Code::TargetNotAllowed
    } else {
        Code::OriginUnreachable
    };
    ApiError::new(code, format!("{e}{}", own_client(&e, state_dir)))
}

/// The machine's client cannot see what is below people's homes, whatever its settings allow.
fn own_client(e: &DialError, state_dir: &Path) -> &'static str {
    let is_home = |dir: &Path| {
        ["/home", "/root", "/run/user"]
            .iter()
            .any(|h| dir.starts_with(h))
    };
    match e {
        DialError::DirectoryNotAllowed { dir }
            if state_dir.starts_with("/var/lib") && is_home(dir.as_ref()) =>
        {
            "; the machine's client does not serve people's homes: start your own, with \
             systemctl --user enable --now wormkeyd-client"
        }
        _ => "",
    }
}

/// Waits for the server's answer to a question.
pub(super) async fn answer_within(
    answer: oneshot::Receiver<Answer>,
    within: Duration,
    what: &str,
) -> Answer {
    match tokio::time::timeout(within, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(ApiError::new(
            Code::ServerUnreachable,
            format!("the link was lost while {what}"),
        )),
        Err(_) => Err(ApiError::new(
            Code::TimedOut,
            format!("the server took too long with {what}"),
        )),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn only_the_machines_client_sends_people_to_their_own() {
        let refused = |dir: &str| DialError::DirectoryNotAllowed { dir: dir.into() };
        let machine = Path::new("/var/lib/wormkey");
        for (dir, state, sends) in [
            ("/home/alice/site", machine, true),
            ("/root/site", machine, true),
            ("/srv/site", machine, false),
            ("/homes/site", machine, false),
            (
                "/home/alice/site",
                Path::new("/home/alice/.local/state/wormkey"),
                false,
            ),
        ] {
            let said = not_allowed(refused(dir), state).detail;
            assert_eq!(said.contains("--user"), sends, "{said}");
        }
    }
}
