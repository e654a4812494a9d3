//! The client's question to itself: it asks for its own tunnel at the public name, over the internet's
//! side, and answers when the question comes back over the link. What comes back tells a tunnel that
//! only looks open from one that works. No origin is part of it, and no visit is counted.
//!
//! [`Probes`] knows what is asked and answers it; `judge` says what an outcome means; `rounds` decides when.

mod judge;
mod rounds;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::{Notify, Semaphore, watch};

use crate::admin::checks::ProbeJson;
use crate::link::outside;
use crate::names::{Kind, TunnelId};
use crate::times::Clock;
use crate::wire::probe::{ProbeNonce, is_ours};
use crate::wire::{
    Frame, HttpHead, RecvChunks, ResponseHead, SendChunks, encode_frame, send_all,
    send_response_head,
};

use super::book::Live;
use super::{Client, fill_random};
use judge::{Asked, Surroundings};

pub(super) use rounds::keep_probing;

/// Questions under way at once.
const AT_ONCE: usize = 4;
/// Tunnels that opened since the last round and are worth a question of their own.
const NEWS: usize = 8;
/// A tunnel that was moved this moment is known everywhere a moment later.
const AGAIN_AFTER: Duration = Duration::from_millis(1500);
/// One question with all its steps.
const WITHIN: Duration = Duration::from_secs(15);

/// What this process asks itself.
pub(super) struct Probes {
    key: hmac::Key,
    /// Questions under way. What is not in here is a stranger's, and gets no proof.
    asked: Mutex<HashMap<ProbeNonce, TunnelId>>,
    slots: Semaphore,
    /// Tunnels that opened and were not asked for yet, or a new link.
    news: Mutex<News>,
    called: Notify,
    /// Between two rounds; none = only when a doctor asks.
    every: watch::Sender<Option<Duration>>,
}

#[derive(Default)]
struct News {
    opened: Vec<TunnelId>,
    linked: bool,
}

impl Probes {
    /// With a key that nobody else will ever know.
    pub(super) fn new(every: Option<Duration>) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut key = [0; 32];
        fill_random(&mut key)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            asked: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            news: Mutex::default(),
            called: Notify::new(),
            every: watch::channel(every).0,
        })
    }

    /// A new setting is in force.
    pub(super) fn set_every(&self, every: Option<Duration>) {
        self.every.send_replace(every);
    }

    /// A tunnel opened: worth a question soon.
    pub(super) fn opened(&self, id: TunnelId) {
        let mut news = self.news();
        // The rest have their turn with the rounds.
        if news.opened.len() < NEWS {
            news.opened.push(id);
        }
        drop(news);
        self.called.notify_one();
    }

    /// A new link is up.
    pub(super) fn linked(&self) {
        self.news().linked = true;
        self.called.notify_one();
    }

    fn news(&self) -> std::sync::MutexGuard<'_, News> {
        self.news
            .lock()
            .expect("nothing panics while it holds the news")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ProbeNonce, TunnelId>> {
        self.asked
            .lock()
            .expect("nothing panics while it holds the questions")
    }

    /// What only this process can say, and says of this tunnel alone.
    fn proof(&self, tunnel: TunnelId, nonce: ProbeNonce) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"wormkey probe");
        context.update(&tunnel.to_bytes());
        context.update(&nonce.0);
        HEXLOWER.encode(context.sign().as_ref())
    }

    /// Begins a question; it is over when the guard is dropped.
    fn ask(&self, tunnel: TunnelId) -> Result<Question<'_>, aws_lc_rs::error::Unspecified> {
        let mut nonce = ProbeNonce([0; 16]);
        fill_random(&mut nonce.0)?;
        self.lock().insert(nonce, tunnel);
        Ok(Question {
            probes: self,
            tunnel,
            nonce,
        })
    }

    /// The proof for a request that came over the link, if it is a question of ours.
    fn answer_to(&self, head: &HttpHead) -> Option<String> {
        let nonce = ProbeNonce::of_path(&head.path)?;
        let asked = *self.lock().get(&nonce)?;
        (asked == head.tunnel && head.method == Method::GET).then(|| self.proof(head.tunnel, nonce))
    }

    /// Whether a request is for us and no origin.
    pub(super) fn is_ours(head: &HttpHead) -> bool {
        is_ours(&head.path)
    }

    /// Answers a request for a path of ours: with the proof, or with nothing.
    pub(super) async fn answer<S: SendChunks, R: RecvChunks>(
        &self,
        head: &HttpHead,
        mut tx: S,
        rx: R,
    ) {
        drop(rx);
        let proof = self.answer_to(head);
        let status = match proof {
            Some(_) => StatusCode::OK,
            None => StatusCode::NOT_FOUND,
        };
        let body = Bytes::from(proof.unwrap_or_default());
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        fields.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let answer = ResponseHead {
            status,
            fields,
            ends: body.is_empty(),
        };
        let sent = async {
            send_response_head(&mut tx, &answer).await?;
            if !body.is_empty() {
                send_all(&mut tx, &mut [encode_frame(&Frame::Data(body))]).await?;
            }
            Ok::<(), crate::wire::StreamError>(())
        };
        // Who asked hears of a failure as of silence.
        if sent.await.is_ok() {
            tx.finish();
        }
    }
}

/// A question under way.
struct Question<'a> {
    probes: &'a Probes,
    tunnel: TunnelId,
    nonce: ProbeNonce,
}

impl Question<'_> {
    fn proof(&self) -> String {
        self.probes.proof(self.tunnel, self.nonce)
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.probes.lock().remove(&self.nonce);
    }
}

impl Client {
    /// Asks for a tunnel through its public name, and remembers the outcome. None for what cannot be asked:
    /// another kind, not open yet, or no link to bring the question back.
    pub(super) async fn probe(&self, id: TunnelId) -> Option<ProbeJson> {
        let row = self.book.row(id).filter(|row| row.state.is_live())?;
        let live = self.book.live(id)?;
        let url = row.url.filter(|_| row.target.kind() == Kind::Http)?;
        let (host, port) = place_of(&url)?;
        let _slot = self.probes.slots.acquire().await.ok()?;
        let asking = async {
            let first = self.probe_once(id, &host, port).await?;
            if first.state != judge::BROKEN {
                return Some(first);
            }
            tokio::time::sleep(AGAIN_AFTER).await;
            self.probe_once(id, &host, port).await
        };
        let found = tokio::time::timeout(WITHIN, asking)
            .await
            .unwrap_or_else(|_| Some(judge::late(&host, Clock.now().wall)))?;
        tell(&live, &row.target.to_string(), &found);
        live.set_probe(found.clone());
        Some(found)
    }

    /// None when the link went meanwhile: then the outcome says nothing about the tunnel.
    async fn probe_once(&self, id: TunnelId, host: &str, port: u16) -> Option<ProbeJson> {
        if !self.link_up() {
            return None;
        }
        let question = self.probes.ask(id).ok()?;
        let (outcome, addresses) = match outside::resolve(host, port).await {
            Ok(found) => {
                let path = question.nonce.path();
                (outside::visit(host, &found, &path).await, found)
            }
            Err(error) => (Err(error), Vec::new()),
        };
        let surroundings = Surroundings {
            server: self.link()?.peer().ip(),
            found: addresses.iter().map(|at| at.ip()).collect(),
        };
        let asked = Asked {
            host,
            proof: &question.proof(),
        };
        let found = judge::judge(outcome, &asked, &surroundings, Clock.now().wall);
        self.link_up().then_some(found)
    }

    /// Sentences about tunnels that look open and do not work.
    pub(super) fn broken_tunnels(&self) -> Vec<String> {
        if !self.link_up() {
            // They do not even look open.
            return Vec::new();
        }
        self.book
            .served()
            .iter()
            .filter_map(|live| {
                let probe = live.probe().filter(|probe| probe.state == judge::BROKEN)?;
                Some(format!(
                    "tunnel {} looks open and does not work: {}",
                    live.origin.slug, probe.detail
                ))
            })
            .collect()
    }
}

/// A change for the worse or the better is news; the rest is not.
fn tell(live: &Live, target: &str, found: &ProbeJson) {
    let before = live.probe().is_some_and(|p| p.state == judge::BROKEN);
    let slug = &live.origin.slug;
    match (before, found.state == judge::BROKEN) {
        (false, true) => {
            tracing::warn!(%slug, target, why = found.detail, "tunnel looks open and does not work");
        }
        (true, false) => tracing::info!(%slug, "tunnel works again"),
        _ => {}
    }
}

/// Host and port of a tunnel's address.
pub(super) fn place_of(url: &str) -> Option<(String, u16)> {
    let url: http::Uri = url.parse().ok()?;
    let port = url.port_u16().unwrap_or(443);
    Some((url.host()?.to_owned(), port))
}

/// Whether an address is one that routers keep for the inside.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let carrier = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || carrier
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
