//! Where the engine meets the world: one lock around it, and its actions carried out in order.
//! Decides nothing itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::admin::EventLog;
use crate::admin::types::EventJson;
use crate::codes::Code;
use crate::engine::{
    Action, Admission, Answer, AskError, Change, Engine, Event, Refusal, Requester, Route, Ticket,
    Visit,
};
use crate::link::Link;
use crate::names::{DeviceId, Generation, LinkId, TunnelId, VisitId};
use crate::store::ServerStore;
use crate::times::{Clock, Now};
use crate::wire::Control;

use super::backend::tunnel_json;
use super::control;

/// The longest the driver sleeps: wall-clock deadlines must be met within a second even when the clock steps.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Clones share the desk.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Inner>);

struct Inner {
    clock: Clock,
    store: ServerStore,
    events: EventLog,
    boot: u64,
    next: AtomicU64,
    /// Deadlines may have moved.
    moved: Notify,
    state: Mutex<State>,
}

/// Everything under the one lock, so that actions are carried out in the order they were decided.
struct State {
    engine: Engine,
    links: HashMap<LinkId, Entry>,
    waiting: HashMap<VisitId, oneshot::Sender<Result<Route, Refusal>>>,
    calls: HashMap<u64, oneshot::Sender<Result<Answer, AskError>>>,
    cuts: HashMap<TunnelId, CancellationToken>,
}

/// A live link as the desk reaches it.
pub(crate) struct Entry {
    pub(crate) device: Option<DeviceId>,
    pub(crate) link: Link,
    /// For the link's own task, which writes to the client.
    pub(crate) outbox: mpsc::Sender<Post>,
}

/// What the desk hands to a link's task.
#[derive(Debug)]
pub(crate) enum Post {
    /// Say this.
    Say(Control),
    /// Say no more, and end.
    End(Code),
}

impl Desk {
    pub(crate) fn new(engine: Engine, store: ServerStore, boot: u64) -> Self {
        let state = State {
            engine,
            links: HashMap::new(),
            waiting: HashMap::new(),
            calls: HashMap::new(),
            cuts: HashMap::new(),
        };
        Self(Arc::new(Inner {
            clock: Clock,
            store,
            events: EventLog::default(),
            boot,
            next: AtomicU64::new(1),
            moved: Notify::new(),
            state: Mutex::new(state),
        }))
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

    pub(crate) fn now(&self) -> Now {
        self.0.clock.now()
    }

    /// A look at the engine.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        look(&self.lock().engine)
    }

    /// A link's address and live figures, for status.
    pub(crate) fn link(&self, id: LinkId) -> Option<Link> {
        self.lock().links.get(&id).map(|entry| entry.link.clone())
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
        drop(state);
        self.0.moved.notify_one();
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
        let known = self
            .lock()
            .links
            .remove(&id)
            .is_some_and(|entry| entry.device.is_some());
        if known {
            self.handle(Event::LinkDown { link: id });
        }
    }

    /// Sends a message to every live link, for GoAway.
    pub(crate) fn tell_all(&self, message: &Control) {
        for entry in self.lock().links.values() {
            let _ = entry.outbox.try_send(Post::Say(message.clone()));
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

    /// `Engine::admit`, and a seat in the hold when that is its answer.
    pub(super) fn admit(&self, visit: &Visit) -> Result<Seat, Refusal> {
        let now = self.now();
        let mut state = self.lock();
        let admission = state.engine.admit(now, visit);
        let seat = match admission {
            Ok(Admission::Pass(route)) => Ok(Seat::Pass(route)),
            Ok(Admission::Hold) => {
                let (tx, rx) = oneshot::channel();
                state.waiting.insert(visit.id, tx);
                Ok(Seat::Hold(rx))
            }
            Err(refusal) => Err(refusal),
        };
        self.carry_out(&mut state, now);
        drop(state);
        if matches!(seat, Ok(Seat::Hold(_))) {
            self.0.moved.notify_one();
        }
        seat
    }

    /// A held visitor went away. It may have been released in the same moment, so both ends are told.
    pub(super) fn forget_visit(&self, visit: VisitId) {
        let now = self.now();
        let mut state = self.lock();
        state.waiting.remove(&visit);
        state.engine.handle(now, Event::VisitGone { visit });
        state.engine.handle(now, Event::VisitEnded { visit });
        self.carry_out(&mut state, now);
    }

    /// The signal that ends the visits of a tunnel.
    pub(super) fn cut_of(&self, tunnel: TunnelId) -> CancellationToken {
        self.lock().cuts.entry(tunnel).or_default().clone()
    }

    /// Writes what is only in memory (`last_seen_at`), at shutdown.
    pub(crate) fn flush(&self) {
        let now = self.now();
        let mut state = self.lock();
        state.engine.flush_seen(now);
        self.carry_out(&mut state, now);
    }

    /// Calls the engine when something is due; ends at the stop signal.
    pub(crate) async fn drive(self, stop: CancellationToken) {
        loop {
            let now = self.now();
            let due = {
                let mut state = self.lock();
                state.engine.handle_timeout(now);
                self.carry_out(&mut state, now);
                state.engine.poll_timeout(now)
            };
            let longest = now.monotonic + LONGEST_SLEEP;
            let until = due.map_or(longest, |due| due.min(longest));
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
                    self.tell(&state.engine, &changes);
                    let desk = self.clone();
                    let done = Box::new(move |result: Result<(), crate::store::StoreError>| {
                        desk.committed(ticket, result.map_err(|e| log_store(&e)));
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
                    to: Requester::Admin { call, .. },
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
                    state.post(link, control::reply(request, outcome));
                }
                Action::Release { visit, outcome } => state.release(visit, outcome),
                Action::CutLink { link, code } => state.cut(link, code),
                Action::CutVisits { tunnel } => {
                    if let Some(cut) = state.cuts.remove(&tunnel) {
                        cut.cancel();
                    }
                }
                Action::Tell { link, tunnel, code } => {
                    state.post(link, control::update(tunnel, code))
                }
            }
        }
    }

    fn tell(&self, engine: &Engine, changes: &[Change]) {
        for change in changes {
            if let Change::Tunnel(row) = change
                && let Some(view) = engine.tunnel(&row.id.to_string())
            {
                self.0
                    .events
                    .tell(EventJson::Tunnel(Box::new(tunnel_json(engine, &view))));
            }
        }
    }

    fn committed(&self, ticket: Ticket, result: Result<(), Code>) {
        self.handle(Event::Committed { ticket, result });
    }
}

impl State {
    fn post(&mut self, link: LinkId, message: Control) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        if entry.outbox.try_send(Post::Say(message)).is_err() {
            // It asks faster than it reads: its answers would be lost, so it has to start again.
            entry
                .link
                .close(Code::Overloaded, "answers are not being read");
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

    fn release(&mut self, visit: VisitId, outcome: Result<Route, Refusal>) {
        if let Some(waiter) = self.waiting.remove(&visit) {
            // A visitor that left in this very moment tells us so itself: see `forget_visit`.
            let _ = waiter.send(outcome);
        }
    }
}

/// Where an admitted visit stands.
pub(super) enum Seat {
    Pass(Route),
    Hold(oneshot::Receiver<Result<Route, Refusal>>),
}

fn log_store(e: &crate::store::StoreError) -> Code {
    match e.code() {
        Code::DiskFull => warn!(err = %e, "commit refused, the disk is full"),
        _ => error!(err = %e, "commit failed"),
    }
    e.code()
}
