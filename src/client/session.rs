//! One link, from Welcome to its end: the conversation on its control stream. Visits that come down the link
//! are not told of there; [`super::visits`] takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{info, warn};

use crate::admin::ApiError;
use crate::codes::Code;
use crate::engine::book::{BookRow, BookState};
use crate::link::{ControlRecv, ControlSend, EndCause, Link, LinkError};
use crate::names::{DeviceId, TunnelId};
use crate::times::{Clock, WallTime};
use crate::wire::{
    Bind, Bound, Close, Closed, Control, Fault, GoAway, Ping, TimeNote, Update, Welcome,
};

use super::minder::Minder;
use super::requests::{Answer, Question};
use super::{Client, keeper, visits};

/// How long the server may leave a question unread, while it is to be heard.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// A server may ask for signs of life more often than we give them unasked, but not without end.
const BEAT_MIN: Duration = Duration::from_secs(1);

/// The number on a Ping that is only a sign of life: nobody waits for its answer.
const BEAT: u64 = 0;

/// How long the visits of a lost link have to end.
const STREAMS_END: Duration = Duration::from_secs(5);

/// A link with its conversation, after the Welcome.
pub(super) struct Session {
    pub(super) link: Link,
    pub(super) tx: ControlSend,
    pub(super) rx: ControlRecv,
    pub(super) welcome: Welcome,
    /// `host:port` as it was dialled.
    pub(super) address: String,
}

/// Why a session ended.
pub(super) enum Ended {
    /// The link was lost or the server ended it; try again.
    Lost(String),
    /// The server was started again and knows nothing of the link; it is there.
    Forgotten(String),
    /// The server asked to come back after this long.
    GoAway(Duration),
    /// This link fell silent, and a new one came up in its stead.
    Replaced(Box<Session>),
    /// The server refuses this device.
    Refused(Code, String),
    /// We end it: leave, or shutdown.
    Stopped,
}

impl Session {
    /// Runs until the link ends or the client stops.
    pub(super) async fn run(
        mut self,
        client: &Arc<Client>,
        mut outbox: mpsc::Receiver<Control>,
        epoch: watch::Receiver<u64>,
    ) -> Ended {
        let streams = client.tasks.child();
        let accept = visits::accept(Arc::clone(client), self.link.clone(), streams.clone());
        streams.spawn("visits", accept);
        // Of the link, not of its visits: those on a retired link go on with it.
        let datagrams = visits::datagrams(self.link.clone(), client.tasks.clone());
        client.tasks.spawn("datagrams", datagrams);
        client.look_towards(self.link.peer()).await;
        if client.drains.stand().goes_on() {
            // What the link before was told, if there was one, is forgotten with it.
            self.tx.push(&Control::Sleeping);
        }
        client.resume();
        client.probes.linked();
        let ended = self.converse(client, &mut outbox, epoch).await;
        // Before the streams are waited for: who asks now must hear at once that nobody answers.
        client.set_current(None);
        client.requests.link_lost();
        let (code, text) = match &ended {
            Ended::Stopped => (Code::Done, "the client stops"),
            _ => (Code::Done, "reconnecting"),
        };
        match ended {
            // What is in flight finishes on the old link: the server drains, it does not cut.
            Ended::GoAway(_) => client.retire(self, streams),
            Ended::Stopped => {
                self.link.close(code, text);
                streams.shutdown(STREAMS_END).await;
            }
            // An origin that is slow to let go must not hold up the next link, which may be there already.
            _ => {
                self.link.close(code, text);
                client.tasks.spawn("lost link", async move {
                    streams.shutdown(STREAMS_END).await;
                });
            }
        }
        ended
    }

    async fn converse(
        &mut self,
        client: &Arc<Client>,
        outbox: &mut mpsc::Receiver<Control>,
        mut epoch: watch::Receiver<u64>,
    ) -> Ended {
        let stop = client.tasks.stopped();
        let link = self.link.clone();
        let closed = link.closed();
        tokio::pin!(closed);
        let asked = beat_asked(&self.welcome, client.link_settings.keep_alive);
        let keep_alive = asked.unwrap_or(client.link_settings.keep_alive);
        let mut minder = Minder::new(client, &self.link, &self.address, keep_alive);
        let mut beat = asked.map(beats);
        let mut unread: Unread = None;
        loop {
            // A server that talks without end must not keep the one thread to itself.
            tokio::task::consume_budget().await;
            let saying = self.tx.has_unsent();
            unread = match unread {
                _ if !saying => None,
                None => Some(Box::pin(unread_by(self.link.clone()))),
                waiting => waiting,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                // Joined elsewhere, or left: this link is nobody's any more.
                _ = epoch.changed() => return Ended::Lost("the enrolment changed".into()),
                end = &mut closed => return tokio::select! {
                    biased;
                    () = stop.cancelled() => Ended::Stopped,
                    fresh = minder.successor() => fresh.map_or_else(|| lost(&end), Ended::Replaced),
                },
                message = self.rx.recv() => match message {
                    Ok(Some(message)) => if let Some(ended) = self.message(client, message).await { return ended },
                    Ok(None) => return Ended::Lost("the server ended the control stream".into()),
                    Err(LinkError::Protocol(why)) => return Ended::Lost(format!("the server broke the protocol: {why}")),
                    // The link is over, or is being ended for what the server did: it is told above.
                    Err(_) => link.close(Code::Protocol, "the control stream failed"),
                },
                // The same.
                sent = self.tx.sent(), if saying => if sent.is_err() {
                    link.close(Code::Protocol, "the control stream failed");
                },
                () = under_way(&mut unread) => return Ended::Lost("the server does not read what is said".into()),
                // One at a time: what waits for the network waits in the outbox, which is bounded.
                message = outbox.recv(), if !saying => {
                    let Some(message) = message else { return Ended::Stopped };
                    self.tx.push(&message);
                }
                // After what people ask: they wait, and a thousand tunnels that come back do not.
                message = client.next_of_backlog(), if !saying => self.tx.push(&message),
                () = due(&mut beat), if !saying => if !minder.is_silent() {
                    self.tx.push(&Control::Ping(Ping { nonce: BEAT }));
                },
                // Last, so that whatever has come in is heard before it is missed.
                fresh = minder.mind() => return Ended::Replaced(fresh),
            }
        }
    }

    async fn message(&mut self, client: &Arc<Client>, message: Control) -> Option<Ended> {
        match message {
            Control::Bound(bound) => self.bound(client, bound).await,
            Control::Shared(shared) => client.shared(shared),
            Control::ShareList(list) => client.share_list(list),
            Control::DomainNews(news) => client.domain_news(news),
            Control::Closed(Closed { request }) => self.closed(client, request).await,
            Control::Error(f) => return self.fault(client, f).await,
            Control::Update(update) => client.updated(update).await,
            // Behind what is not out yet, a Pong would be no news.
            Control::Ping(Ping { nonce }) => {
                if !self.tx.has_unsent() {
                    self.tx.push(&Control::Pong(Ping { nonce }));
                }
            }
            Control::GoAway(away) => {
                info!("server asks to reconnect");
                return Some(Ended::GoAway(go_away_delay(&away)));
            }
            Control::Pong(Ping { nonce: BEAT }) => {}
            Control::Pong(_) => client.pong.notify_waiters(),
            Control::Time(TimeNote { nonce, at }) => {
                client.server_time.send_replace(at.map(|at| (nonce, at)));
            }
            // A second Welcome changes nothing; signs of life say no more than that. The rest is out of
            // place from a server and is left alone: a hostile one gets no reaction to build on.
            _ => client.oddities.note("message out of place"),
        }
        None
    }

    /// Only an answer counts: each one is written down, and a server may not make us write without end.
    async fn bound(&mut self, client: &Arc<Client>, bound: Bound) {
        let waiter = match client.requests.take(bound.request) {
            Some((Question::Bind(id) | Question::Set(id), waiter)) if id == bound.tunnel => waiter,
            _ => return client.oddities.note("answer that nobody asked for"),
        };
        client.backlog.answered();
        let answer = client.book.bound(&bound).await;
        if let Ok(Some(row)) = &answer {
            client.tell_tunnel(row);
        }
        if let Some(waiter) = waiter {
            let _ = waiter.send(answer);
        }
    }

    async fn closed(&mut self, client: &Arc<Client>, request: u64) {
        let Some((question, waiter)) = client.requests.take(request) else {
            return client.oddities.note("answer that nobody asked for");
        };
        client.backlog.answered();
        let now = Clock.now().wall;
        let answer: Answer = match question {
            Question::Close(id) => client
                .book
                .end(id, BookState::Closed, now)
                .await
                .map(|()| client.book.row(id)),
            Question::Bind(_)
            | Question::Set(_)
            | Question::Share
            | Question::Shares
            | Question::Unshare
            | Question::Leave => Ok(None),
        };
        if let (Ok(Some(row)), Question::Close(_)) = (&answer, question) {
            client.tell_tunnel(row);
        }
        if let Some(waiter) = waiter {
            let _ = waiter.send(answer);
        }
    }

    async fn fault(&mut self, client: &Arc<Client>, f: Fault) -> Option<Ended> {
        let code = Code::from_wire(f.code.into());
        let detail: String = f
            .detail
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect();
        let Some(request) = f.request else {
            return Some(if keeper::is_lasting(code) {
                Ended::Refused(code, detail)
            } else {
                Ended::Lost(detail)
            });
        };
        let (question, waiter) = client.requests.take(request)?;
        client.backlog.answered();
        let answer = Err(ApiError::new(code, detail.clone()));
        match question {
            Question::Bind(id) => client.bind_refused(id, code, &detail).await,
            // What the server does not know is closed already.
            Question::Close(id) if code == Code::NotFound => {
                let _ = client
                    .book
                    .end(id, BookState::Closed, Clock.now().wall)
                    .await;
            }
            // Who asked is told; nothing else follows from it.
            Question::Set(_) | Question::Share | Question::Shares | Question::Unshare => {}
            Question::Close(_) | Question::Leave => {
                warn!(%code, detail, "server refused a request")
            }
        }
        if let Some(waiter) = waiter {
            let _ = waiter.send(answer);
        }
        None
    }
}

/// What has not been read, and until when it has to be.
type Unread = Option<Pin<Box<dyn Future<Output = ()> + Send>>>;

async fn unread_by(link: Link) {
    link.heard_for(READ_WITHIN).await;
}

async fn under_way(unread: &mut Unread) {
    match unread {
        Some(unread) => unread.await,
        None => std::future::pending().await,
    }
}

/// How often the server wants to hear from us, where that is more often than we keep alive unasked.
fn beat_asked(welcome: &Welcome, keep_alive: Duration) -> Option<Duration> {
    let asked = Duration::from_millis(welcome.terms.keep_alive_ms);
    (!asked.is_zero() && asked < keep_alive).then(|| asked.max(BEAT_MIN))
}

fn beats(every: Duration) -> Interval {
    let mut beat = interval_at(Instant::now() + every, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

async fn due(beat: &mut Option<Interval>) {
    match beat {
        Some(beat) => drop(beat.tick().await),
        None => std::future::pending().await,
    }
}

fn lost(end: &crate::link::LinkEnd) -> Ended {
    match end.code {
        Some(code) if keeper::is_lasting(code) => Ended::Refused(code, end.to_string()),
        _ if end.cause == EndCause::StatelessReset => Ended::Forgotten(end.to_string()),
        _ => Ended::Lost(end.to_string()),
    }
}

/// When to come back: after the server's pause, somewhere within its spread, both bounded.
fn go_away_delay(away: &GoAway) -> Duration {
    let spread = away.spread_ms.min(60_000);
    let jitter = if spread == 0 {
        0
    } else {
        super::random() % spread
    };
    Duration::from_millis(away.after_ms.min(60_000) + jitter)
}

/// The Bind that opens a tunnel or takes it back.
pub(super) fn bind_message(request: u64, row: &BookRow, now: WallTime) -> Control {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(Bind::NEVER);
    // Until it is confirmed there is a length only: the server's clock makes it a moment. One that does not
    // know of lengths gets the moment by ours.
    let lives = row
        .expires_at
        .filter(|_| row.state == BookState::Opening)
        .map(|at| at.since(row.created_at));
    let expires_at = lives.map(|lives| now.plus(lives)).or(row.expires_at);
    Control::Bind(Bind {
        request,
        tunnel: row.id,
        name: row
            .slug
            .as_ref()
            .or(row.name.as_ref())
            .map(ToString::to_string),
        kind: row.kind().to_string(),
        expires_at: expires_at.map(WallTime::as_millis),
        expires_in_ms: lives.map(millis),
        idle_ms: row.idle.map(|idle| idle.map_or(Bind::NEVER, millis)),
        hold_ms: row.hold.map(millis),
        declared: row.declared,
        labels: row.labels.clone(),
        public_port: row.public_port,
        policy: (!row.policy.is_empty()).then(|| row.policy.to_text()),
        domains: Some(row.domains.iter().map(ToString::to_string).collect()),
    })
}

/// The Close that ends one.
pub(super) fn close_message(request: u64, tunnel: TunnelId) -> Control {
    Control::Close(Close { request, tunnel })
}

/// The Leave that ends all.
pub(super) fn leave_message(request: u64, device: DeviceId) -> Control {
    Control::Leave(Close {
        request,
        tunnel: TunnelId::from_bytes(device.to_bytes()),
    })
}

/// What an Update says a tunnel has become; none for a word of a newer server.
pub(super) fn updated_state(update: &Update) -> Option<BookState> {
    match update.state.as_str() {
        "expired" => Some(BookState::Expired),
        "closed" => Some(BookState::Closed),
        _ => None,
    }
}
