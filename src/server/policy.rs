//! Policies and share links between the wire, the admin API and the engine. The engine decides; here texts
//! are read and share tokens made, with a key that never leaves this process.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;

use crate::codes::Code;
use crate::engine::limits::{Act, Source};
use crate::engine::policy::share::{self, Purpose, ShareRow};
use crate::engine::policy::{Policy, RuleId};
use crate::engine::{Answer, AskError, LifeAsk, Refusal, Requester, SetAsk, ShareAsk};
use crate::names::ShareId;
use crate::times::WallTime;
use crate::wire::{Control, Life, Set, Share, ShareList, ShareNote, Shares};

use super::backend::Backend;
use super::control::fault;
use super::desk::Desk;

/// Share links in one message: each has at most a few KiB of paths.
const SHARES_PAGE: usize = 16;

/// What a client's Set asks for, or the refusal that it gets at once.
pub(super) fn set_ask(set: Set) -> Result<SetAsk, Box<Control>> {
    let text = Some(&*set.policy).filter(|text| !text.is_empty());
    let policy = text.map(|text| read(set.request, Some(text))).transpose()?;
    Ok(SetAsk {
        tunnel: set.tunnel,
        policy,
        parts: set.parts,
        life: set.life.map(life_ask).unwrap_or_default(),
    })
}

fn life_ask(life: Life) -> LifeAsk {
    let never = |millis| (millis != u64::MAX).then(|| Duration::from_millis(millis));
    LifeAsk {
        expires_in: life.expires_in_ms.map(never),
        idle: life.idle_ms.map(never),
        hold: life.hold_ms.map(Duration::from_millis),
        labels: life.labels,
    }
}

/// The policy that a message carries; none is an empty one.
pub(super) fn read(request: u64, text: Option<&str>) -> Result<Policy, Box<Control>> {
    let Some(text) = text else {
        return Ok(Policy::default());
    };
    Policy::parse(text)
        .map_err(|e| Box::new(fault(Some(request), Code::Usage, short(&e.to_string()))))
}

/// As much of what is wrong as an answer should carry.
fn short(text: &str) -> String {
    text.chars().take(2000).collect()
}

/// What a client's Share asks for, or the refusal that it gets at once.
pub(super) fn share_ask(share: Share) -> Result<ShareAsk, Box<Control>> {
    let request = share.request;
    let refuse = |what: String| Box::new(fault(Some(request), Code::Usage, what));
    let methods = share.methods.iter().map(|text| {
        let method = text.parse::<Method>();
        method.map_err(|_| refuse(format!("{:?} is no method", short(text))))
    });
    let paths = share
        .paths
        .iter()
        .map(|text| text.parse().map_err(|e| refuse(format!("{e}"))));
    Ok(ShareAsk {
        id: ShareId::random(),
        tunnel: share.tunnel,
        methods: methods.collect::<Result<_, _>>()?,
        paths: paths.collect::<Result<_, _>>()?,
        uses: share.uses,
        expires_at: WallTime::from_millis(share.expires_at),
    })
}

/// What a text gets that names no share link.
pub(super) fn no_share(request: u64) -> Control {
    fault(
        Some(request),
        Code::NotFound,
        "there is no such share link".to_owned(),
    )
}

fn note(row: &ShareRow) -> ShareNote {
    ShareNote {
        share: row.id.to_string(),
        created_at: row.created_at.as_millis(),
        expires_at: row.expires_at.as_millis(),
        uses_left: row.uses_left,
        methods: row.methods.iter().map(ToString::to_string).collect(),
        paths: row.paths.iter().map(ToString::to_string).collect(),
    }
}

impl Desk {
    /// A page of a tunnel's share links, for who asks over a link.
    pub(super) fn shares(&self, from: Requester, ask: &Shares) -> Control {
        let now = self.now();
        let after = ask.after.as_deref().and_then(|id| id.parse().ok());
        let page = self.read(|engine| {
            let rows = engine.shares_for(now, from, ask.tunnel)?;
            let rows = rows.into_iter();
            let rest = rows.filter(|row| after.is_none_or(|after: ShareId| row.id > after));
            Ok::<_, AskError>(rest.take(SHARES_PAGE).map(note).collect())
        });
        match page {
            Ok(shares) => Control::ShareList(ShareList {
                request: ask.request,
                shares,
            }),
            Err(err) => fault(Some(ask.request), err.code(), err.to_string()),
        }
    }

    /// A visitor opens a share link of the tunnel with this name: takes one use of it, on disk, and gives
    /// the share with the proof that a cookie keeps from then on.
    pub(crate) async fn open_share(
        &self,
        label: &str,
        peer: SocketAddr,
        token: &str,
    ) -> Result<(ShareRow, String), AskError> {
        let row = self
            .share_of(Purpose::Link, label, token)
            .ok_or(AskError::ShareOver)?;
        match self.redeem(row.id, peer).await? {
            Answer::Redeemed(row) => {
                let proof = share::token(self.share_key(), Purpose::Cookie, &row);
                Ok((*row, proof))
            }
            _ => Err(AskError::ShareOver),
        }
    }

    /// The same for a visitor at the edge. Who may not come to the tunnel at all uses nothing up, and who
    /// tries links that are none is limited like who tries names.
    pub(super) async fn let_in(
        &self,
        label: &str,
        peer: SocketAddr,
        token: &str,
    ) -> Result<(ShareRow, String), Refusal> {
        let source = Source::from(peer.ip());
        self.greet(label, peer)?;
        let opened = match self.share_of(Purpose::Link, label, token) {
            Some(_) => self.open_share(label, peer, token).await,
            None => match self.source_may(Act::UnknownHost, source) {
                Ok(()) => Err(AskError::ShareOver),
                Err(retry_in) => Err(AskError::TooOften { retry_in }),
            },
        };
        opened.map_err(|error| self.no_way_in(label, error))
    }

    /// What a visitor hears who is not let in.
    fn no_way_in(&self, label: &str, error: AskError) -> Refusal {
        let Some(tunnel) = self.read(|engine| Some(engine.tunnel(label)?.row.slug)) else {
            return Refusal::NoRoute { host: label.into() };
        };
        match error {
            AskError::Suspended => Refusal::Suspended { tunnel },
            AskError::Busy | AskError::Store { .. } => Refusal::HoldFull { tunnel },
            AskError::TooOften { retry_in } => Refusal::Limited {
                rule: RuleId::ShareOver,
                retry_in,
            },
            _ => Refusal::ShareOver { tunnel },
        }
    }

    /// The share that a token proves, for this purpose, on the tunnel with this name.
    pub(crate) fn share_of(&self, purpose: Purpose, label: &str, token: &str) -> Option<ShareRow> {
        let id = share::claimed(token)?;
        let row = self.read(|engine| {
            let tunnel = engine.tunnel(label)?.row.id;
            let row = engine.share_row(id)?;
            (row.tunnel == tunnel).then(|| row.clone())
        })?;
        share::proves(self.share_key(), purpose, &row, token).then_some(row)
    }
}

impl Backend {
    /// What the edge does when a visitor opens a share link: see [`Desk::open_share`].
    pub async fn open_share(
        &self,
        label: &str,
        peer: SocketAddr,
        token: &str,
    ) -> Result<(ShareRow, String), AskError> {
        self.desk().open_share(label, peer, token).await
    }

    /// The share whose cookie a visitor of this name shows, if it proves one.
    pub fn share_of_cookie(&self, label: &str, proof: &str) -> Option<ShareId> {
        let row = self.desk().share_of(Purpose::Cookie, label, proof)?;
        Some(row.id)
    }
}
