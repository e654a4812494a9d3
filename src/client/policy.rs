//! Policies and share links of this client's tunnels: asked of the server, which has the last word, and
//! kept in the book as it answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::admin::ApiError;
use crate::admin::types::{PolicyAsk, ShareJson, ShareLinkAsk, ShareLinkJson, TunnelJson};
use crate::codes::Code;
use crate::engine::book::{BookRow, BookState};
use crate::engine::policy::Policy;
use crate::names::TunnelId;
use crate::times::{Clock, WallTime, parse_duration};
use crate::wire::{Capabilities, Control, Life, Set, Share, ShareList, ShareNote, Shared, Unshare};

use super::Client;
use super::open::{ANSWER_WITHIN, answer_within};
use super::requests::Question;
use super::{life, name_of};

/// How long a link that is being made is waited for.
const LINK_WITHIN: Duration = Duration::from_secs(5);

/// Share links that have come and are to be handed to who asked.
#[derive(Default)]
pub(super) struct Shares {
    made: Mutex<HashMap<u64, Shared>>,
    told: Mutex<HashMap<u64, ShareList>>,
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Shared>> {
        self.made
            .lock()
            .expect("nothing panics while it holds the share links")
    }

    fn told(&self) -> MutexGuard<'_, HashMap<u64, ShareList>> {
        self.told
            .lock()
            .expect("nothing panics while it holds the lists of share links")
    }
}

impl Client {
    /// A server that knows nothing of policies would open the tunnel to everybody.
    pub(super) fn needs_policies(&self) -> Result<(), ApiError> {
        let current = self
            .current
            .lock()
            .expect("nothing panics while it holds the link");
        match &*current {
            Some(current) if !current.capabilities.has(Capabilities::POLICY) => Err(ApiError::new(
                Code::VersionMismatch,
                "the server is too old for policies; upgrade it",
            )),
            _ => Ok(()),
        }
    }

    /// Changes a tunnel's policy, its life, or both. The server's answer is what is in force, and what is kept.
    pub(super) async fn set(
        self: Arc<Self>,
        key: String,
        ask: PolicyAsk,
    ) -> Result<TunnelJson, ApiError> {
        let row = self.living(&key).await?;
        let life = life::read(&ask.life)?;
        if let Some(life) = &life {
            life::may_change(&row, &name_of(&row))?;
            let set = self.put(row, ask.policy.as_ref(), ask.parts, Some(life.clone()));
            let row = life::changed(set.await?, life);
            self.book.put(row.clone()).await?;
            self.tell_tunnel(&row);
            return Ok(self.book.json(&row, self.link_up()));
        }
        let policy = ask.policy.unwrap_or_default();
        let row = self.put_policy(row, &policy, ask.parts).await?;
        Ok(self.book.json(&row, self.link_up()))
    }

    /// The tunnel as it is when the server has put these parts of a policy in force.
    pub(super) async fn put_policy(
        &self,
        row: BookRow,
        policy: &Policy,
        parts: Vec<String>,
    ) -> Result<BookRow, ApiError> {
        self.put(row, Some(policy), parts, None).await
    }

    async fn put(
        &self,
        row: BookRow,
        policy: Option<&Policy>,
        parts: Vec<String>,
        life: Option<Life>,
    ) -> Result<BookRow, ApiError> {
        self.link_within(LINK_WITHIN).await?;
        self.needs_policies()?;
        if life.is_some() && !self.capabilities().has(Capabilities::LIFE) {
            return Err(ApiError::new(
                Code::VersionMismatch,
                "the server is too old to change how long a tunnel lives; upgrade it",
            ));
        }
        let (request, answer) = self.requests.ask(Question::Set(row.id));
        let message = Control::Set(Set {
            request,
            tunnel: row.id,
            policy: policy.map(Policy::to_text).unwrap_or_default(),
            parts,
            life,
        });
        let answer = self.ask(request, message, answer)?;
        let set = answer_within(answer, ANSWER_WITHIN, "changing the tunnel").await?;
        Ok(set.unwrap_or(row))
    }

    /// Makes a share link.
    pub(super) async fn share(
        self: Arc<Self>,
        key: String,
        ask: ShareLinkAsk,
    ) -> Result<ShareLinkJson, ApiError> {
        let lasts = parse_duration(&ask.expires)
            .map_err(|e| ApiError::new(Code::Usage, format!("expires: {e}")))?;
        let row = self.living(&key).await?;
        let (request, answer) = self.requests.ask(Question::Share);
        let message = Control::Share(Share {
            request,
            tunnel: row.id,
            expires_at: Clock.now().wall.plus(lasts).as_millis(),
            uses: ask.uses,
            methods: ask.methods,
            paths: ask.paths,
        });
        let answer = self.ask(request, message, answer)?;
        let answered = answer_within(answer, ANSWER_WITHIN, "making the share link").await;
        let shared = self.shares.lock().remove(&request);
        answered?;
        let shared = shared.ok_or_else(|| {
            ApiError::new(Code::Protocol, "the server gave no link with its answer")
        })?;
        Ok(ShareLinkJson {
            id: shared.share,
            url: shared.url,
            expires_at: WallTime::from_millis(shared.expires_at),
        })
    }

    /// The server has made a share link. One that nobody waits for is not kept.
    pub(super) fn shared(&self, shared: Shared) {
        let request = shared.request;
        let Some((Question::Share, Some(waiter))) = self.requests.take(request) else {
            return;
        };
        self.shares.lock().insert(request, shared);
        if waiter.send(Ok(None)).is_err() {
            self.shares.lock().remove(&request);
        }
    }

    /// The share links of a tunnel that are not over.
    pub(super) async fn shares_of(
        self: Arc<Self>,
        key: String,
    ) -> Result<Vec<ShareJson>, ApiError> {
        let row = self.living(&key).await?;
        let mut all: Vec<ShareJson> = Vec::new();
        // A tunnel has 1000 at most; a server that told of more would be asked for ever.
        while all.len() < 1000 {
            let after = all.last().map(|share| share.id.clone());
            let page = self.shares_page(row.id, after).await?;
            if page.is_empty() {
                break;
            }
            all.extend(page.into_iter().map(share_json));
        }
        Ok(all)
    }

    async fn shares_page(
        &self,
        tunnel: TunnelId,
        after: Option<String>,
    ) -> Result<Vec<ShareNote>, ApiError> {
        let (request, answer) = self.requests.ask(Question::Shares);
        let message = Control::Shares(crate::wire::Shares {
            request,
            tunnel,
            after,
        });
        let answer = self.ask(request, message, answer)?;
        let answered = answer_within(answer, ANSWER_WITHIN, "listing the share links").await;
        let list = self.shares.told().remove(&request);
        answered?;
        let list = list.ok_or_else(|| {
            ApiError::new(Code::Protocol, "the server gave no list with its answer")
        })?;
        Ok(list.shares)
    }

    /// The server tells of share links. A list that nobody waits for is not kept.
    pub(super) fn share_list(&self, list: ShareList) {
        let request = list.request;
        let Some((Question::Shares, Some(waiter))) = self.requests.take(request) else {
            return;
        };
        self.shares.told().insert(request, list);
        if waiter.send(Ok(None)).is_err() {
            self.shares.told().remove(&request);
        }
    }

    /// Withdraws a share link; who came in with it is out.
    pub(super) async fn unshare(self: Arc<Self>, share: String) -> Result<(), ApiError> {
        self.link_within(LINK_WITHIN).await?;
        self.needs_policies()?;
        let (request, answer) = self.requests.ask(Question::Unshare);
        let message = Control::Unshare(Unshare { request, share });
        let answer = self.ask(request, message, answer)?;
        answer_within(answer, ANSWER_WITHIN, "withdrawing the share link").await?;
        Ok(())
    }

    /// A tunnel that the server knows, over a link to a server that knows policies.
    pub(super) async fn living(&self, key: &str) -> Result<BookRow, ApiError> {
        let none = || ApiError::new(Code::NotFound, format!("there is no tunnel {key}"));
        let row = self.book.find(key).ok_or_else(none)?;
        match row.state {
            BookState::Open | BookState::Opening => {}
            BookState::Closing | BookState::Closed => {
                return Err(ApiError::new(Code::TunnelClosed, "that tunnel is closed"));
            }
            BookState::Expired => {
                return Err(ApiError::new(
                    Code::TunnelExpired,
                    "that tunnel has expired",
                ));
            }
        }
        self.link_within(LINK_WITHIN).await?;
        self.needs_policies()?;
        Ok(row)
    }
}

fn share_json(note: ShareNote) -> ShareJson {
    ShareJson {
        id: note.share,
        created_at: WallTime::from_millis(note.created_at),
        expires_at: WallTime::from_millis(note.expires_at),
        uses_left: note.uses_left,
        methods: note.methods,
        paths: note.paths,
    }
}
