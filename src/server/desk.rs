//! Where the engine meets the world: one lock around it, and its actions carried out in order.
//! Decides nothing itself.

pub(crate) mod figures;
#[cfg(test)]
mod tests;
mod visiting;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::admin::EventLog;
use crate::admin::types::EventJson;
use crate::codes::Code;
use crate::engine::limits::{Act, Source};
use crate::engine::policy::share::{self, ShareRow};
use crate::engine::{
    Action, Answer, AskError, Change, Engine, Event, Requester, Ticket, TunnelState,
};
use crate::link::Link;
use crate::names::{DeviceId, Generation, LinkId, QuickMap, ShareId, TunnelId, VisitId};
use crate::store::ServerStore;
use crate::times::{Clock, Now};
use crate::wire::{Control, Shared};

use super::backend::tunnel_json;
use super::control;
use super::domains::Own;
use super::passwords::Passwords;
use super::ports::Ports;
use super::silence::Silence;
use super::together::Together;
use figures::Figures;
pub(super) use visiting::{Seat, Seated, Signals};

/// The longest the driver sleeps: wall-clock deadlines must be met within a second even when the clock steps.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Clones share the desk.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Inner>);

struct Inner {
    clock: Clock,
    store: ServerStore,
    ports: Ports,
    events: EventLog,
    boot: u64,
    /// Signs share links.
    share_key: [u8; 32],
    passwords: Passwords,
    together: Together,
    own: Own,
    next: AtomicU64,
    /// Something falls due before the driver looks again by itself.
    moved: Notify,
    state: Mutex<State>,
    /// One at a time looks whether the lock can be had.
    looks: Arc<Semaphore>,
}

/// Everything under the one lock, so that actions are carried out in the order they were decided.
struct State {
    engine: Engine,
    links: QuickMap<LinkId, Entry>,
    waiting: QuickMap<VisitId, oneshot::Sender<Seated>>,
    calls: HashMap<u64, oneshot::Sender<Result<Answer, AskError>>>,
    signals: QuickMap<TunnelId, Signals>,
    /// Why the last link of each device ended, if it went wrong; one for each that ever had one.
    ends: HashMap<DeviceId, String>,
    /// What ends one visit alone: its tunnel's policy changed.
    cuts: QuickMap<VisitId, CancellationToken>,
    /// When the driver looks again by itself; it has not looked yet without one.
    looks_at: Option<Instant>,
}

/// A live link as the desk reaches it.
pub(crate) struct Entry {
    pub(crate) device: Option<DeviceId>,
    pub(crate) link: Link,
    /// For the link's own task, which writes to the client.
    pub(crate) outbox: mpsc::Sender<Post>,
    /// Visits sent on it that nothing was heard after.
    pub(crate) silence: Silence,
    /// How many datagrams the engine was told of.
    pub(crate) told: u64,
    /// How it does, for status.
    pub(crate) figures: Figures,
}

/// What the desk hands to a link's task.
#[derive(Debug)]
pub(crate) enum Post {
    /// Say this.
    Say(Box<Control>),
    /// Say no more, and end.
    End(Code),
}

impl Desk {
    pub(crate) fn new(
        engine: Engine,
        store: ServerStore,
        boot: u64,
        ports: Ports,
        share_key: [u8; 32],
        own: Own,
    ) -> Self {
        let state = State {
            engine,
            links: QuickMap::default(),
            waiting: QuickMap::default(),
            calls: HashMap::new(),
            signals: QuickMap::default(),
            ends: HashMap::new(),
            cuts: QuickMap::default(),
            looks_at: None,
        };
        Self(Arc::new(Inner {
            clock: Clock,
            store,
            ports,
            events: EventLog::default(),
            boot,
            share_key,
            passwords: Passwords::new(),
            together: Together::default(),
            own,
            next: AtomicU64::new(1),
            moved: Notify::new(),
            state: Mutex::new(state),
            looks: Arc::new(Semaphore::new(1)),
        }))
    }

    /// The right to wait for the lock on a thread of its own.
    pub(super) fn looks(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.looks)
    }

    /// What happened to tunnels, for whoever watches.
    pub(crate) fn events(&self) -> &EventLog {
        &self.0.events
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside the engine leaves decisions half made: better to stop than to go on with them.
        self.0
            .state
            .lock()
            .expect("the engine never panics while it decides")
    }

    /// The same for what is told when things end. After a panic of the engine nothing is left to tell, and
    /// a second panic, in a drop, would end the process before it has said why.
    fn lock_to_end(&self) -> Option<MutexGuard<'_, State>> {
        self.0.state.lock().ok()
    }

    pub(crate) fn now(&self) -> Now {
        self.0.clock.now()
    }

    /// A look at the engine.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        look(&self.lock().engine)
    }

    /// A live link on which a visit is to be sent, and how much was heard on it before.
    pub(super) fn link_for_visit(&self, id: LinkId) -> Option<(Link, u64)> {
        let link = self.lock().links.get(&id)?.link.clone();
        let heard = link.heard();
        Some((link, heard))
    }

    /// The visit was sent, and is owed an answer from now on. Not sooner: one that waits for a free stream
    /// has said nothing, and who is not asked does not answer.
    pub(super) fn sent_on(&self, id: LinkId, heard: u64) {
        let now = self.now().monotonic;
        if let Some(entry) = self.lock().links.get_mut(&id) {
            entry.silence.note(now, heard);
        }
    }

    /// Since when a visit that was sent on a link waits for an answer.
    #[cfg(test)]
    pub(super) fn asked_since(&self, id: LinkId) -> Option<Instant> {
        self.lock().links.get(&id)?.silence.since()
    }

    /// The next link's generation.
    pub(crate) fn next_link(&self) -> LinkId {
        let counter = self.0.next.fetch_add(1, Ordering::Relaxed);
        LinkId(Generation {
            boot: self.0.boot,
            counter,
        })
    }

    /// Tells the engine what happened and carries out what it decides.
    pub(crate) fn handle(&self, event: Event) {
        let now = self.now();
        let mut state = self.lock();
        state.engine.handle(now, event);
        self.carry_out(&mut state, now);
        self.wake_driver(state, now);
    }

    /// Ends a turn at the engine. The driver is woken when something falls due sooner than it looks, and
    /// sleeps on otherwise: to wake it for each visit would cost more than the engine's decision about it.
    fn wake_driver(&self, state: MutexGuard<'_, State>, now: Now) {
        let due = state.engine.poll_timeout(now);
        let looks_at = state.looks_at;
        drop(state);
        if due.is_some_and(|due| looks_at.is_none_or(|at| due < at)) {
            self.0.moved.notify_one();
        }
    }

    /// Puts a link where the engine's actions find it; before `LinkUp`, or before its enrolment is asked for.
    pub(crate) fn register(&self, id: LinkId, entry: Entry) {
        self.lock().links.insert(id, entry);
    }

    /// Marks whose link it is once it is known.
    pub(crate) fn claim(&self, id: LinkId, device: DeviceId) {
        if let Some(entry) = self.lock().links.get_mut(&id) {
            entry.device = Some(device);
        }
    }

    /// The link's task ends.
    pub(crate) fn unregister(&self, id: LinkId) {
        let Some(mut state) = self.lock_to_end() else {
            return;
        };
        let entry = state.links.remove(&id);
        if entry.as_ref().is_some_and(|entry| entry.device.is_some()) {
            let now = self.now();
            state.engine.handle(now, Event::LinkDown { link: id });
            self.carry_out(&mut state, now);
        }
        self.wake_driver(state, self.now());
    }

    /// Sends a message to every live link, for GoAway.
    pub(crate) fn tell_all(&self, message: &Control) {
        for entry in self.lock().links.values() {
            let _ = entry.outbox.try_send(Post::Say(Box::new(message.clone())));
        }
    }

    /// Asks the engine something on behalf of an admin call, and waits until it is done and on disk.
    pub(crate) async fn ask(
        &self,
        uid: u32,
        event: impl FnOnce(Requester) -> Event,
    ) -> Result<Answer, AskError> {
        let call = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.lock().calls.insert(call, tx);
        self.handle(event(Requester::Admin { call, uid }));
        // The engine answers every request; a lost answer means that the process is ending.
        rx.await.unwrap_or(Err(AskError::Store {
            code: Code::Draining,
        }))
    }

    /// Whether a source may do something once more, and counts it if so; else in how long.
    pub(crate) fn source_may(&self, act: Act, source: Source) -> Result<(), Duration> {
        let now = self.now();
        self.lock().engine.source_may(now, act, source)
    }

    /// The same without counting it.
    pub(crate) fn source_has_room(&self, act: Act, source: Source) -> Result<(), Duration> {
        let now = self.now();
        self.lock().engine.source_has_room(now, act, source)
    }

    /// A visitor opens a share link: takes one use of it.
    pub(crate) async fn redeem(
        &self,
        share: ShareId,
        peer: SocketAddr,
    ) -> Result<Answer, AskError> {
        let call = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.lock().calls.insert(call, tx);
        let from = Requester::Edge { call, peer };
        self.handle(Event::RedeemAsked { from, share });
        rx.await.unwrap_or(Err(AskError::Store {
            code: Code::Draining,
        }))
    }

    /// Writes what is only in memory (`last_seen_at`), at shutdown. Nothing, after a panic of the engine:
    /// the shutdown that follows from it has to come to its end.
    pub(crate) fn flush(&self) {
        let now = self.now();
        let Some(mut state) = self.lock_to_end() else {
            return;
        };
        state.engine.flush_seen(now);
        self.carry_out(&mut state, now);
    }

    /// Carries out what follows from the state on disk: after this, public ports are open.
    pub(super) fn settle(&self) {
        let now = self.now();
        let mut state = self.lock();
        state.engine.handle_timeout(now);
        self.carry_out(&mut state, now);
    }

    /// Calls the engine when something is due; ends at the stop signal.
    pub(crate) async fn drive(self, stop: CancellationToken) {
        loop {
            let now = self.now();
            let until = {
                let mut state = self.lock();
                state.engine.handle_timeout(now);
                self.carry_out(&mut state, now);
                let longest = now.monotonic + LONGEST_SLEEP;
                let due = state.engine.poll_timeout(now);
                let until = due.map_or(longest, |due| due.min(longest));
                state.looks_at = Some(until);
                until
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.0.moved.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Carries out every action that is due. Nothing in here waits: commits are queued, answers are
    /// handed to whoever waits, and a full queue is a refusal.
    fn carry_out(&self, state: &mut State, now: Now) {
        while let Some(action) = state.engine.poll_action() {
            match action {
                Action::Persist {
                    ticket,
                    changes,
                    audit,
                } => {
                    let opening = self.tell(&state.engine, &changes);
                    let desk = self.clone();
                    let done = Box::new(move |result: Result<(), crate::store::StoreError>| {
                        desk.committed(ticket, result.map_err(|e| log_store(&e)), &opening);
                    });
                    if let Err(e) = self.0.store.commit_then(changes, audit, done) {
                        let event = Event::Committed {
                            ticket,
                            result: Err(log_store(&e)),
                        };
                        state.engine.handle(now, event);
                    }
                }
                Action::Reply {
                    to: Requester::Admin { call, .. } | Requester::Edge { call, .. },
                    outcome,
                } => {
                    if let Some(waiter) = state.calls.remove(&call) {
                        let _ = waiter.send(outcome);
                    }
                }
                Action::Reply {
                    to: Requester::Link { link, request },
                    outcome,
                } => {
                    if let Ok(Answer::Bound(view)) = &outcome
                        && !view.domains.is_empty()
                    {
                        // First, so that who waits for the answer finds it told.
                        state.post(link, self.0.own.news(view));
                    }
                    let message = match outcome {
                        Ok(Answer::Shared(row)) => self.shared(&state.engine, request, &row),
                        outcome => control::reply(request, outcome),
                    };
                    state.answer(now, link, message);
                }
                Action::Listen { tunnel, kind, port } => {
                    let open = self.0.ports.listen(tunnel, kind, port);
                    state.engine.handle(now, Event::Listened { tunnel, open });
                }
                Action::Unlisten { tunnel } => self.0.ports.close(tunnel),
                Action::Release { visit, outcome } => state.release(visit, outcome),
                Action::CutLink { link, code } => state.cut(link, code),
                Action::CutVisits { tunnel } => {
                    if let Some(signals) = state.signals.remove(&tunnel) {
                        signals.cut.cancel();
                    }
                }
                Action::CutSome { visits } => {
                    for visit in visits {
                        if let Some(cut) = state.cuts.remove(&visit) {
                            cut.cancel();
                        }
                    }
                }
                Action::Shape { tunnel, bandwidth } => {
                    if let Some(signals) = state.signals.get(&tunnel) {
                        signals.rates.tell(bandwidth);
                    }
                }
                Action::GiveUp { tunnel } => {
                    if let Some(signals) = state.signals.get_mut(&tunnel) {
                        std::mem::take(&mut signals.offline).cancel();
                    }
                }
                Action::Tell { link, tunnel, code } => {
                    state.post(link, control::update(tunnel, code))
                }
                Action::Stand { link, tunnel } => state.stand(now, link, tunnel),
                Action::LookUp { domain, users } => {
                    if !self.0.own.look_up(domain.clone(), users) {
                        let found = Err("too many look-ups wait".to_owned());
                        let event = Event::LookedUp { domain, found };
                        state.engine.handle(now, event);
                    }
                }
                Action::TellDomains { tunnel } => {
                    self.0.own.moved();
                    self.news(state, tunnel);
                }
            }
        }
    }

    /// What own domains are known by.
    pub(super) fn own(&self) -> &Own {
        &self.0.own
    }

    /// Tells a client, and whoever watches, how the own domains of its tunnel stand.
    pub(super) fn tell_domains(&self, tunnel: TunnelId) {
        self.news(&mut self.lock(), tunnel);
    }

    fn news(&self, state: &mut State, tunnel: TunnelId) {
        let Some(view) = state.engine.tunnel(&tunnel.to_string()) else {
            return;
        };
        if view.row.state != TunnelState::Open {
            return;
        }
        let device = state.engine.device(view.row.device);
        if let Some(link) = device.and_then(|device| device.link) {
            state.post(link, self.0.own.news(&view));
        }
        self.tell_tunnel(&state.engine, tunnel);
    }

    /// The message that carries a new share link.
    fn shared(&self, engine: &Engine, request: u64, row: &ShareRow) -> Control {
        let token = share::token(&self.0.share_key, share::Purpose::Link, row);
        let tunnel = engine.tunnel(&row.tunnel.to_string());
        let url = tunnel.map(|view| view.url).unwrap_or_default();
        Control::Shared(Shared {
            request,
            share: row.id.to_string(),
            url: format!("{url}{}{token}", share::PATH),
            expires_at: row.expires_at.as_millis(),
        })
    }

    /// Who waits for the check of another visit.
    pub(super) fn together(&self) -> &Together {
        &self.0.together
    }

    /// Who checks passwords.
    pub(super) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }

    /// What share links are signed with.
    pub(super) fn share_key(&self) -> &[u8; 32] {
        &self.0.share_key
    }

    /// Tells of tunnels that changed. Gives those that are only opening: they are nothing to tell of
    /// before they are on disk.
    fn tell(&self, engine: &Engine, changes: &[Change]) -> Vec<TunnelId> {
        let tunnels = changes.iter().filter_map(|change| match change {
            Change::Tunnel(row) => Some(row.id),
            _ => None,
        });
        tunnels
            .filter(|id| !self.tell_tunnel(engine, *id))
            .collect()
    }

    /// Whether the engine knows it.
    fn tell_tunnel(&self, engine: &Engine, id: TunnelId) -> bool {
        let Some(view) = engine.tunnel(&id.to_string()) else {
            return false;
        };
        let mut json = tunnel_json(engine, &view, self.now());
        json.domains = self.0.own.json(&view);
        self.0.events.tell(EventJson::Tunnel(Box::new(json)));
        true
    }

    fn committed(&self, ticket: Ticket, result: Result<(), Code>, opening: &[TunnelId]) {
        self.handle(Event::Committed { ticket, result });
        if !opening.is_empty() {
            let state = self.lock();
            for id in opening {
                self.tell_tunnel(&state.engine, *id);
            }
        }
    }
}

impl State {
    fn post(&mut self, link: LinkId, message: Control) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        if entry.outbox.try_send(Post::Say(Box::new(message))).is_err() {
            // It asks faster than it reads: its answers would be lost, so it has to start again.
            entry
                .link
                .close(Code::Overloaded, "answers are not being read");
        }
    }

    /// Answers a client; who opens a tunnel also hears how its clocks stand.
    fn answer(&mut self, now: Now, link: LinkId, mut message: Control) {
        if let Control::Bound(bound) = &mut message {
            let standing = self.engine.standing(now, bound.tunnel);
            bound.standing = standing.map(|standing| control::standing(now, &standing));
        }
        self.post(link, message);
    }

    /// Tells a client how the clocks of a tunnel stand. Answers come first: where many wait to be read,
    /// this is left out, and told again after the next visit.
    fn stand(&mut self, now: Now, link: LinkId, tunnel: TunnelId) {
        let Some(standing) = self.engine.standing(now, tunnel) else {
            return;
        };
        let message = control::still_open(tunnel, control::standing(now, &standing));
        if let Some(entry) = self.links.get(&link)
            && entry.outbox.capacity() > entry.outbox.max_capacity() / 2
        {
            let _ = entry.outbox.try_send(Post::Say(Box::new(message)));
        }
    }

    fn cut(&mut self, link: LinkId, code: Code) {
        debug!(%link, %code, "cutting link");
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        // A client that leaves gets its answer first. Everybody else is cut at once.
        let after_answers = code == Code::Done && entry.outbox.try_send(Post::End(code)).is_ok();
        if !after_answers {
            entry.link.close(code, code.row().cause);
        }
    }
}

fn log_store(e: &crate::store::StoreError) -> Code {
    match e.code() {
        Code::DiskFull => warn!(err = %e, "commit refused, the disk is full"),
        _ => error!(err = %e, "commit failed"),
    }
    e.code()
}
