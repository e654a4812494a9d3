//! The client role: keeps one link to its server, takes its tunnels back whenever it is up, and hands
//! visits to the origin. It alone maps a tunnel id to a target; the server never learns it.

mod backend;
mod backlog;
mod book;
mod calls;
mod declared;
mod declared_policy;
mod doctor;
mod domains;
mod ends;
mod guard;
mod handed;
mod keeper;
mod life;
mod metrics;
mod minder;
mod oddities;
mod open;
mod policy;
mod probe;
mod requests;
mod session;
mod shadows;
#[cfg(test)]
mod tests;
mod visits;
mod vital;
mod ways;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::admin::types::{EventJson, LinkJson};
use crate::admin::{ApiError, EventLog};
use crate::codes::Code;
use crate::config::{ClientConfig, OriginsConfig};
use crate::engine::book::{BookRow, BookState};
use crate::link::senses::Senses;
use crate::link::{Link, LinkSettings};
use crate::names::TunnelId;
use crate::origin::{OriginPolicy, Origins};
use crate::store::{ClientStore, StateLock};
use crate::supervise::{Drains, Patience, SERVER_GRACE, SOFTWARE, prepare_state_dir};
use crate::tasks::Tasks;
use crate::times::{Clock, WallTime};
use crate::wire::{Capabilities, Control, Ping, Update};

use backlog::Backlog;
use book::Book;
use requests::{Answer, Question, Requests};

/// Messages waiting for a link to write them, beside the backlog of tunnels to be told of.
const OUTBOX: usize = 2048;
/// How long the server has to hear that the client drains.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// For an end that somebody asked for.
const IN_ORDER: Patience = Patience {
    links: Duration::from_secs(1),
    tasks: Duration::from_secs(5),
    store: Duration::from_secs(30),
};
/// How long a visit in flight has to finish when the client stops.
pub const GRACE: Duration = Duration::from_secs(10);

/// A client that runs: its store open, its socket bound, its keeper at work.
pub struct Running {
    /// What it answers to at the admin socket; also the way in for `wormkeyd dev`.
    pub backend: Arc<backend::Backend>,
    client: Arc<Client>,
    _lock: StateLock,
}

/// What the parts of the role share.
pub(crate) struct Client {
    book: Book,
    origins: Origins,
    requests: Requests,
    /// Tunnels that the server is still to be told of.
    backlog: Backlog,
    events: EventLog,
    tasks: Tasks,
    state_dir: PathBuf,
    link_settings: LinkSettings,
    started_at: WallTime,
    /// The link that is up now.
    current: Mutex<Option<Current>>,
    /// Share links on their way to who asked.
    shares: policy::Shares,
    /// Policies of declared tunnels that the server is still to be told of.
    wanted: declared_policy::Wanted,
    /// How the link stands, for status.
    standing: watch::Sender<LinkJson>,
    /// Moves when the enrolment changes: links of the old one end.
    epoch: watch::Sender<u64>,
    /// A session that `join` has just made, handed to the keeper.
    handed: Mutex<Option<session::Session>>,
    /// Held by whoever joins or leaves: one at a time, or the second would undo the first half way.
    membership: tokio::sync::Mutex<()>,
    /// Something happened that makes another try worth while at once.
    hurry: Notify,
    /// What the system tells of the network and of sleep. One asks at a time: the session, or the keeper.
    senses: tokio::sync::Mutex<Senses>,
    /// Which ways to the server are known to work.
    ways: ways::Ways,
    /// Questions to ourselves through the public names.
    probes: probe::Probes,
    /// The latest time that the server told: which question, and unix milliseconds.
    server_time: watch::Sender<Option<(u64, i64)>>,
    /// Held by the one doctor at work.
    doctor: tokio::sync::Mutex<()>,
    /// The server answered a Ping.
    pong: Notify,
    /// A visit has ended, for whoever waits until none is left.
    visit_ended: Notify,
    /// What servers do that they should not.
    oddities: oddities::Oddities,
    /// Findings about the configuration, for status.
    problems: Mutex<Vec<String>>,
    /// The way in for who asks this client to end.
    drains: Drains,
}

struct Current {
    link: Link,
    /// What the server can do.
    capabilities: Capabilities,
    outbox: mpsc::Sender<Control>,
}

impl Running {
    /// Opens the store, binds the socket, starts the keeper. An unjoined client runs, and says how to join.
    /// `own_addrs` are listeners of this process that no tunnel may lead to.
    pub async fn start(
        config: ClientConfig,
        config_path: Option<PathBuf>,
        own_addrs: Vec<SocketAddr>,
    ) -> anyhow::Result<Self> {
        prepare_state_dir(&config.state_dir)?;
        let lock = StateLock::acquire(&config.state_dir, "client")?;
        let has_key = config.state_dir.join("client.key").exists();
        let (store, snapshot) =
            ClientStore::open(&config.state_dir, has_key).context("opening the state database")?;
        let tasks = Tasks::new();
        let own = Own {
            config_path: config_path.clone(),
            addrs: own_addrs,
        };
        let origins = Origins::new(own.policy(&config), tasks.clone())
            .context("preparing to reach origins")?;
        let ways = ways::Ways::new(store.clone(), &snapshot.networks);
        let client = Arc::new(Client {
            book: Book::new(store, snapshot),
            origins,
            requests: Requests::default(),
            backlog: Backlog::default(),
            events: EventLog::default(),
            tasks: tasks.clone(),
            state_dir: config.state_dir.clone(),
            link_settings: link_settings(&config),
            started_at: Clock.now().wall,
            current: Mutex::new(None),
            shares: policy::Shares::default(),
            wanted: declared_policy::Wanted::default(),
            standing: watch::channel(LinkJson::default()).0,
            epoch: watch::channel(0).0,
            handed: Mutex::new(None),
            membership: tokio::sync::Mutex::new(()),
            hurry: Notify::new(),
            senses: tokio::sync::Mutex::new(Senses::start(&tasks)),
            ways,
            probes: probe::Probes::new(config.probe.every)
                .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?,
            server_time: watch::channel(None).0,
            doctor: tokio::sync::Mutex::new(()),
            pong: Notify::new(),
            visit_ended: Notify::new(),
            oddities: oddities::Oddities::default(),
            problems: Mutex::new(Vec::new()),
            drains: Drains::new(),
        });
        tasks.spawn_critical("store", watch_store(Arc::clone(&client)));
        client.declare(&config.tunnels).await;
        let socket =
            crate::admin::socket::bind(&config.admin.socket, 0o660, config.admin.group.as_deref())?;
        let backend = Arc::new(backend::Backend::new(
            Arc::clone(&client),
            config.clone(),
            own,
        ));
        tasks.spawn_critical(
            "admin",
            crate::admin::serve_client(socket, Arc::clone(&backend), tasks.clone()),
        );
        crate::admin::scrapers(config.metrics.listen, &backend, &tasks)
            .await
            .context("listening for scrapers (metrics.listen)")?;
        tasks.spawn_critical("keeper", keeper::keep(Arc::clone(&client)));
        tasks.spawn_critical("expiry", expire(Arc::clone(&client)));
        tasks.spawn_critical("probes", probe::keep_probing(Arc::clone(&client)));
        info!(socket = %config.admin.socket.display(), joined = client.book.enrolment().is_some(), "client ready");
        Ok(Self {
            backend,
            client,
            _lock: lock,
        })
    }

    /// Fires when a part without which the client is no use has ended.
    pub fn failed(&self) -> tokio_util::sync::CancellationToken {
        self.client.tasks.stopped()
    }

    /// Lets visits in flight finish, within the grace. Whether they did.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.client.announce_drain().await;
        let none_left = async {
            loop {
                let ended = self.client.visit_ended.notified();
                if self.client.book.visits() == 0 {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(grace, none_left).await.is_ok()
    }

    /// Ends the link and all tasks. Tunnels stay promised: stopping is not closing.
    pub async fn stop(self) {
        self.end(IN_ORDER).await;
    }

    /// The same as far as it can be done at once, after a part of the client has failed.
    pub(crate) async fn fail(self) {
        self.end(Patience::FAILED).await;
    }

    async fn end(self, patience: Patience) {
        patience.tell_systemd();
        // First of all, or the keeper would take the closed link for a lost one and come back.
        self.client.tasks.stop();
        if let Some(link) = self.client.link() {
            link.close_and_tell(Code::Done, "the client stops", patience.links)
                .await;
        }
        if !self.client.tasks.shutdown(patience.tasks).await {
            warn!("some tasks did not end in time");
        }
        let closed = tokio::time::timeout(patience.store, self.client.book.close()).await;
        if closed.is_err() {
            warn!("the state database was not closed in time");
        }
        info!("client stopped");
    }
}

fn link_settings(config: &ClientConfig) -> LinkSettings {
    LinkSettings {
        keep_alive: config.link.keep_alive,
        idle_timeout: config.link.idle_timeout,
        ..LinkSettings::default()
    }
}

/// What is this process's own, and no tunnel's target.
pub(crate) struct Own {
    config_path: Option<PathBuf>,
    addrs: Vec<SocketAddr>,
}

impl Own {
    /// What may be dialled: as the settings say, and never our own sockets, state or configuration.
    fn policy(&self, config: &ClientConfig) -> OriginPolicy {
        let OriginsConfig { allow, unix, files } = config.origins.clone();
        let mut own_paths = vec![
            config.state_dir.clone(),
            config.admin.socket.clone(),
            PathBuf::from("/run/wormkey"),
            PathBuf::from("/etc/wormkey"),
            PathBuf::from("/var/lib/wormkey"),
        ];
        own_paths.extend(self.config_path.clone());
        OriginPolicy {
            allow,
            unix,
            files,
            own_paths,
            own_addrs: self.addrs.clone(),
        }
    }
}

impl Client {
    /// Tells the server to send no more visits, and waits until it has heard.
    async fn announce_drain(&self) {
        let heard = self.pong.notified();
        let told = self
            .post(Control::Sleeping)
            .and_then(|()| self.post(Control::Ping(Ping { nonce: random() })));
        if told.is_ok() {
            info!("told the server that this client drains");
            let _ = tokio::time::timeout(HEARD_WITHIN, heard).await;
        }
    }

    /// Sends a message over the link that is up.
    fn post(&self, message: Control) -> Result<(), ApiError> {
        let current = self
            .current
            .lock()
            .expect("nothing panics while it holds the link");
        let Some(current) = &*current else {
            return Err(self.no_link());
        };
        current.outbox.try_send(message).map_err(|_| {
            ApiError::new(
                Code::Overloaded,
                "too many requests wait for the server already; try again",
            )
        })
    }

    fn no_link(&self) -> ApiError {
        let standing = self.standing.borrow();
        let why = standing.last_error.as_deref().unwrap_or("no link yet");
        ApiError::new(
            Code::ServerUnreachable,
            format!("the server cannot be reached: {why}"),
        )
    }

    fn set_current(&self, current: Option<Current>) {
        *self
            .current
            .lock()
            .expect("nothing panics while it holds the link") = current;
    }

    fn link(&self) -> Option<Link> {
        self.current
            .lock()
            .expect("nothing panics while it holds the link")
            .as_ref()
            .map(|c| c.link.clone())
    }

    /// What the server at the other end can do; nothing while there is none.
    fn capabilities(&self) -> Capabilities {
        self.current
            .lock()
            .expect("nothing panics while it holds the link")
            .as_ref()
            .map_or_else(Capabilities::default, |c| c.capabilities)
    }

    fn link_up(&self) -> bool {
        self.standing.borrow().state == "up"
    }

    /// Says how the link stands, to status and to whoever watches.
    fn stand(&self, link: LinkJson) {
        self.book.link(link.state == "up", Clock.now().wall);
        self.standing.send_replace(link.clone());
        self.events.tell(EventJson::Link(link));
    }

    /// A link is up: takes back what lives, tells what was closed meanwhile, one by one as the server
    /// answers.
    fn resume(&self) {
        let telling = |row: &BookRow| match row.state {
            BookState::Opening | BookState::Open | BookState::Closing => Some(row.id),
            BookState::Closed | BookState::Expired => None,
        };
        self.backlog
            .fill(self.book.rows().iter().filter_map(telling));
    }

    /// The next thing to tell the server of the backlog, when it has answered most of what it was asked.
    async fn next_of_backlog(&self) -> Control {
        loop {
            let id = self.backlog.next(|| self.requests.open()).await;
            let Some(row) = self.book.row(id) else {
                continue;
            };
            match row.state {
                BookState::Opening | BookState::Open => {
                    let (request, _) = self.requests.ask(Question::Bind(id));
                    return session::bind_message(request, &row, Clock.now().wall);
                }
                BookState::Closing => {
                    let (request, _) = self.requests.ask(Question::Close(id));
                    return session::close_message(request, id);
                }
                BookState::Closed | BookState::Expired => {}
            }
        }
    }

    /// Tells the server how a tunnel stands, now or when its turn comes; nobody waits for the answer.
    fn tell_server(&self, id: TunnelId) {
        if self.link().is_some() {
            self.backlog.push(id);
        }
    }

    /// Asks the server to open a tunnel; the answer comes to the receiver.
    fn ask_bind(&self, row: &BookRow) -> Result<tokio::sync::oneshot::Receiver<Answer>, ApiError> {
        if !row.policy.is_empty() {
            self.needs_policies()?;
        }
        if !row.domains.is_empty() {
            self.needs_domains()?;
        }
        let (request, answer) = self.requests.ask(Question::Bind(row.id));
        self.ask(
            request,
            session::bind_message(request, row, Clock.now().wall),
            answer,
        )
    }

    /// Asks the server to end a tunnel.
    fn ask_close(&self, id: TunnelId) -> Result<tokio::sync::oneshot::Receiver<Answer>, ApiError> {
        let (request, answer) = self.requests.ask(Question::Close(id));
        self.ask(request, session::close_message(request, id), answer)
    }

    fn ask<T>(&self, request: u64, message: Control, answer: T) -> Result<T, ApiError> {
        match self.post(message) {
            Ok(()) => Ok(answer),
            Err(e) => {
                self.requests.take(request);
                Err(e)
            }
        }
    }

    /// The server does not give a tunnel: one that never was is forgotten, one that is over is marked so.
    async fn bind_refused(&self, id: TunnelId, code: Code, detail: &str) {
        let Some(row) = self.book.row(id) else { return };
        let now = Clock.now().wall;
        let done = match (row.state, code) {
            (_, Code::TunnelExpired) => self.book.end(id, BookState::Expired, now).await,
            (_, Code::TunnelClosed) => self.book.end(id, BookState::Closed, now).await,
            (BookState::Opening, _) if row.declared => {
                self.note_problem(format!("tunnel {}: {detail}", name_of(&row)));
                Ok(())
            }
            (BookState::Opening, Code::DiskFull | Code::Storage | Code::Overloaded) => Ok(()),
            (BookState::Opening, _) => self.book.forget(id).await,
            // It was ours and the server now says otherwise: kept, and asked again at the next link.
            _ => Ok(()),
        };
        warn!(tunnel = %id, %code, detail, "server does not open a tunnel");
        if let Err(err) = done {
            warn!(tunnel = %id, %err, "refusal not stored");
        }
        if let Some(row) = self.book.row(id) {
            self.tell_tunnel(&row);
        }
    }

    /// The server says that a tunnel has changed.
    async fn updated(&self, update: Update) {
        if let Some(standing) = update.standing {
            self.book.hear(update.tunnel, standing, Clock.now());
        }
        let Some(to) = session::updated_state(&update) else {
            return;
        };
        let Some(row) = self.book.row(update.tunnel) else {
            return self.oddities.note("end of an unknown tunnel");
        };
        // What is over stays as it is: a server may not make us write and tell the same without end.
        if matches!(row.state, BookState::Closed | BookState::Expired) {
            return;
        }
        if let Err(err) = self.book.end(update.tunnel, to, Clock.now().wall).await {
            warn!(tunnel = %update.tunnel, %err, "change not stored");
        }
        if let Some(row) = self.book.row(update.tunnel) {
            info!(tunnel = %row.id, slug = %name_of(&row), state = to.as_str(), "tunnel ended");
            self.tell_tunnel(&row);
        }
    }

    fn tell_tunnel(&self, row: &BookRow) {
        self.events.tell(EventJson::Tunnel(Box::new(
            self.book.json(row, self.link_up()),
        )));
    }

    /// Keeps a link that drains until its visits are done, beside the new one. Its control stream stays
    /// open with it: without one the server would end it.
    fn retire(&self, session: session::Session, streams: Tasks) {
        self.tasks.spawn("retired link", async move {
            // Taken whole: a block takes only the fields it names, and the control stream would stay out.
            let session = session;
            streams.stop();
            streams.finished(SERVER_GRACE).await;
            session.link.close(Code::Done, "reconnected");
        });
    }

    /// Findings about the configuration, and the tunnels that the exposure guard withholds.
    fn all_problems(&self) -> Vec<String> {
        let mut problems = self
            .problems
            .lock()
            .expect("nothing panics while it holds the problems")
            .clone();
        problems.extend(self.book.rows().iter().filter_map(|row| {
            let exposure = self.book.live(row.id)?.guard.exposure()?;
            Some(guard::problem(&name_of(row), &exposure))
        }));
        problems.extend(self.broken_tunnels());
        problems
    }

    fn note_problem(&self, problem: String) {
        let mut problems = self
            .problems
            .lock()
            .expect("nothing panics while it holds the problems");
        if !problems.contains(&problem) && problems.len() < 64 {
            problems.push(problem);
        }
    }
}

fn name_of(row: &BookRow) -> String {
    row.slug
        .as_ref()
        .or(row.name.as_ref())
        .map_or_else(|| row.id.to_string(), ToString::to_string)
}

/// Random bytes that nobody can guess.
fn fill_random(bytes: &mut [u8]) -> Result<(), aws_lc_rs::error::Unspecified> {
    aws_lc_rs::rand::fill(bytes)
}

/// Random bits for jitter; not for secrets.
fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // Failing here only makes the jitter less random.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// A store that has died takes no promises any more: the process is no use then.
async fn watch_store(client: Arc<Client>) {
    let stop = client.tasks.stopped();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = client.book.store_ended() => {}
    }
}

/// Marks tunnels expired on this side when their time comes while the server is away. By its clock, not by
/// ours: where that is not known, and while it is there to say so itself, nothing is.
async fn expire(client: Arc<Client>) {
    let stop = client.tasks.stopped();
    // The server decides; here it is only told to people, so a second is early enough.
    let mut turn = tokio::time::interval(Duration::from_secs(1));
    // A process that was stopped for an hour need not look an hour's worth of times.
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = turn.tick() => {}
        }
        let now = Clock.now();
        for row in client.book.expired(now.monotonic) {
            if let Err(err) = client.book.end(row.id, BookState::Expired, now.wall).await {
                warn!(tunnel = %row.id, %err, "expiry not stored");
            }
            if let Some(row) = client.book.row(row.id) {
                client.tell_tunnel(&row);
            }
        }
    }
}

/// Runs until a signal or a failure, as `wormkeyd client` does.
pub async fn run(config: ClientConfig, config_path: Option<PathBuf>) -> anyhow::Result<()> {
    let token = handed::token()?;
    let running = Running::start(config, config_path, Vec::new()).await?;
    crate::supervise::keep(Arc::clone(&running.client), &running.client.tasks);
    if let Some(token) = token {
        handed::join(Arc::clone(&running.backend), token, &running.client.tasks);
    }
    let outcome = crate::supervise::until_stopped(
        &running.failed(),
        &running.client.drains,
        || async { drop(running.backend.reload_now().await) },
        (GRACE, |grace| running.drain(grace)),
    )
    .await;
    match &outcome {
        Ok(()) => running.stop().await,
        Err(_) => running.fail().await,
    }
    outcome
}
