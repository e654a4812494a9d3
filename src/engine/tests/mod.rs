//! The engine in a world of its own: a clock we own, a disk that commits when it is told to, no sockets.
//! After every step the world checks what has to hold at every instant ([`laws`]).

mod auditing;
mod bounds;
mod deeds;
mod disk;
mod dormant;
mod ending;
mod enrolment;
mod holding;
mod hostile;
mod laws;
mod leasing;
mod linking;
mod lives;
mod living;
mod owning;
mod policing;
mod ports;
mod probing;
mod sharing;
mod storing;
mod storms;
mod suspending;
mod walls;
mod watching;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use disk::Disk;

use super::*;
use crate::codes::Code;
use crate::names::{
    DeviceId, Domain, Generation, Hostname, InviteId, Kind, LinkId, Pin, Slug, TunnelId, UserId,
    VisitId,
};
use crate::times::{Clock, Now, WallTime};

type Outcome = Result<Answer, AskError>;

/// What the disk does with a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// Commits at once.
    Commits,
    /// Refuses at once.
    Fails(Code),
    /// Does nothing until told.
    Waits,
}

/// A device with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Client {
    device: DeviceId,
    link: LinkId,
    pin: Pin,
}

struct World {
    engine: Engine,
    now: Now,
    disk: Disk,
    store: Store,
    /// Commits asked for and not tried yet, in order.
    queue: VecDeque<(Ticket, Vec<Change>, Vec<AuditRow>)>,
    numbers: u64,
    replies: HashMap<Requester, Outcome>,
    released: HashMap<VisitId, Result<Route, Refusal>>,
    cut: Vec<(LinkId, Code)>,
    told: Vec<(LinkId, TunnelId, Code)>,
    /// Tunnels whose clients were told how their clocks stand.
    stood: Vec<TunnelId>,
    cut_visits: HashSet<TunnelId>,
    given_up: Vec<TunnelId>,
    /// What visits that go on were told they may move.
    shaped: HashMap<TunnelId, Bandwidth>,
    cut_alone: Vec<VisitId>,
    /// Visits that passed and did not end.
    going_on: Vec<VisitId>,
    /// What was asked to be closed, by whom.
    closing: HashMap<Requester, TunnelId>,
    /// The newest link of each device that the engine was told of, while it is up.
    newest: BTreeMap<DeviceId, LinkId>,
    up: HashSet<LinkId>,
    /// Public sockets that are open, and ports that other programs have.
    sockets: HashMap<TunnelId, (Kind, u16)>,
    strangers: HashSet<(Kind, u16)>,
    /// Whose records stand at each domain's place; None: its name server does not answer.
    records: HashMap<String, Option<HashSet<UserId>>>,
    /// Domains that were looked up.
    looks: Vec<Domain>,
    /// Looks whose answers are kept back, once they are.
    kept_back: Option<Vec<(Domain, Vec<UserId>)>>,
    /// Tunnels whose clients were told how their domains stand.
    told_domains: Vec<TunnelId>,
    /// The latest wall time the engine saw since each tunnel is in force.
    latest_wall: HashMap<TunnelId, WallTime>,
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const HOUR: Duration = secs(3600);
const DAY: Duration = secs(86_400);

fn settings() -> EngineSettings {
    EngineSettings {
        domain: Hostname::parse("t.example.com").unwrap(),
        ports: Some((20_000, 20_002)),
        public_port: 443,
        hold: secs(10),
        hold_max: secs(60),
        held_visits: 4,
        held_visits_total: 6,
        held_memory: 1 << 20,
        held_memory_per_user: 1 << 20,
        held_memory_total: 1 << 20,
        dormant: DormantCaps {
            links: 1000,
            links_per_user: 1000,
            memory: u64::MAX,
            memory_per_user: u64::MAX,
        },
        idle: Some(DAY),
        idle_max: None,
        offline_max: 7 * DAY,
        quarantine: 7 * DAY,
        keep_alive: secs(5),
        tunnels_per_device: 5,
        limits: unlimited(),
        domains: domains::DomainSettings::default(),
    }
}

/// Limits that no scenario comes near unless it sets its own.
fn unlimited() -> limits::LimitSettings {
    let much = limits::Rate::new(1_000_000, limits::Per::Second);
    limits::LimitSettings {
        tunnel: limits::Limit::default(),
        visitor: limits::Limit::default(),
        sources: limits::SourceRates {
            failed_joins: much,
            handshakes: much,
            unknown_hosts: much,
            passwords: much,
            api_calls: much,
        },
        tunnel_passwords: much,
        ..limits::LimitSettings::default()
    }
}

fn slug(text: &str) -> Slug {
    Slug::parse(text).unwrap()
}

fn peer() -> SocketAddr {
    "192.0.2.7:4433".parse().unwrap()
}

fn bytes(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

fn hash(number: u64) -> [u8; 32] {
    let mut hash = [7; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    hash
}

impl World {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: EngineSettings) -> Self {
        let now = Now {
            monotonic: Clock.now().monotonic,
            wall: WallTime::from_millis(1_700_000_000_000),
        };
        Self {
            engine: Engine::new(settings, Snapshot::default(), now),
            now,
            disk: Disk::default(),
            store: Store::Commits,
            queue: VecDeque::new(),
            numbers: 0,
            replies: HashMap::new(),
            released: HashMap::new(),
            cut: Vec::new(),
            told: Vec::new(),
            stood: Vec::new(),
            cut_visits: HashSet::new(),
            given_up: Vec::new(),
            cut_alone: Vec::new(),
            shaped: HashMap::new(),
            going_on: Vec::new(),
            closing: HashMap::new(),
            newest: BTreeMap::new(),
            up: HashSet::new(),
            sockets: HashMap::new(),
            strangers: HashSet::new(),
            records: HashMap::new(),
            looks: Vec::new(),
            kept_back: None,
            told_domains: Vec::new(),
            latest_wall: HashMap::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Time passes, and the engine is woken whenever it wants to be.
    fn advance(&mut self, by: Duration) {
        let end = self.now.monotonic + by;
        while let Some(at) = self.engine.poll_timeout(self.now).filter(|at| *at <= end) {
            self.step(at.saturating_duration_since(self.now.monotonic));
            self.wake();
        }
        self.step(end.saturating_duration_since(self.now.monotonic));
    }

    /// Time passes, and nobody wakes the engine.
    fn step(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.wall = self.now.wall.plus(by);
    }

    /// The wall clock is set.
    fn set_wall(&mut self, wall: WallTime) {
        self.now.wall = wall;
    }

    fn wake(&mut self) {
        self.look();
        self.engine.handle_timeout(self.now);
        self.pump();
    }

    fn look(&mut self) {
        for latest in self.latest_wall.values_mut() {
            *latest = self.now.wall.max(*latest);
        }
    }

    fn handle(&mut self, event: Event) {
        self.look();
        self.engine.handle(self.now, event);
        self.pump();
    }

    /// Carries out all actions, then checks what has to hold at every instant.
    fn pump(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.carry_out(action);
            if self.store != Store::Waits {
                self.commit_all();
            }
        }
        self.check();
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Persist {
                ticket,
                changes,
                audit,
            } => self.queue.push_back((ticket, changes, audit)),
            Action::Reply { to, outcome } => {
                self.check_reply(to, &outcome);
                let before = self.replies.insert(to, outcome);
                assert_eq!(before, None, "answered twice: {to:?}");
            }
            Action::Release { visit, outcome } => {
                if let Ok(route) = &outcome {
                    self.check_route(route);
                    self.going_on.push(visit);
                }
                let before = self.released.insert(visit, outcome);
                assert_eq!(before, None, "released twice: {visit}");
            }
            Action::CutLink { link, code } => {
                self.up.remove(&link);
                self.cut.push((link, code));
            }
            Action::GiveUp { tunnel } => self.given_up.push(tunnel),
            Action::Shape { tunnel, bandwidth } => {
                self.shaped.insert(tunnel, bandwidth);
            }
            Action::Listen { tunnel, kind, port } => self.listen(tunnel, (kind, port)),
            Action::Unlisten { tunnel } => {
                self.sockets.remove(&tunnel);
            }
            Action::LookUp { domain, users } => self.look_up(domain, &users),
            Action::TellDomains { tunnel } => self.told_domains.push(tunnel),
            Action::CutSome { visits } => self.cut_alone.extend(visits),
            Action::CutVisits { tunnel } => {
                self.latest_wall.remove(&tunnel);
                self.cut_visits.insert(tunnel);
            }
            Action::Tell { link, tunnel, code } => {
                assert!(self.up.contains(&link), "told over a dead link");
                self.told.push((link, tunnel, code));
            }
            Action::Stand { link, tunnel } => {
                assert!(self.up.contains(&link), "told over a dead link");
                self.stood.push(tunnel);
            }
        }
    }

    fn look_up(&mut self, domain: Domain, users: &[UserId]) {
        self.looks.push(domain.clone());
        if let Some(kept_back) = &mut self.kept_back {
            return kept_back.push((domain, users.to_vec()));
        }
        let found = self.finds(&domain, users);
        self.engine
            .handle(self.now, Event::LookedUp { domain, found });
    }

    /// What a look finds now.
    fn finds(&self, domain: &Domain, users: &[UserId]) -> Result<Vec<UserId>, String> {
        match self.records.get(&domain.challenge()) {
            None => Ok(Vec::new()),
            Some(None) => Err("no answer".to_owned()),
            Some(Some(of)) => Ok(users
                .iter()
                .copied()
                .filter(|user| of.contains(user))
                .collect()),
        }
    }

    /// The system opens a socket, unless somebody has the port.
    fn listen(&mut self, tunnel: TunnelId, port: (Kind, u16)) {
        let taken = self.strangers.contains(&port)
            || self
                .sockets
                .iter()
                .any(|(of, had)| *had == port && *of != tunnel);
        if !taken {
            self.sockets.insert(tunnel, port);
        }
        let open = !taken;
        self.engine
            .handle(self.now, Event::Listened { tunnel, open });
    }

    /// Tries every commit that waits, in order, and tells the engine.
    fn commit_all(&mut self) {
        while let Some((ticket, result)) = self.try_next() {
            self.look();
            self.engine
                .handle(self.now, Event::Committed { ticket, result });
        }
    }

    /// Tries the next commit; the engine is not told yet.
    fn try_next(&mut self) -> Option<(Ticket, Result<(), Code>)> {
        let (ticket, changes, audit) = self.queue.pop_front()?;
        let result = match self.store {
            Store::Fails(code) => Err(code),
            Store::Commits | Store::Waits => self.disk.commit(&changes, &audit),
        };
        Some((ticket, result))
    }

    /// The disk works again, or for the first time.
    fn commits(&mut self) {
        self.store = Store::Commits;
        self.commit_all();
        self.pump();
    }

    fn state(&self, key: &str) -> &'static str {
        self.engine.tunnel(key).map_or("none", |view| view.state)
    }

    /// The process dies and starts again from what is on disk.
    fn restart(&mut self) {
        let settings = self.engine.settings().clone();
        self.queue.clear();
        self.replies.clear();
        self.going_on.clear();
        self.newest.clear();
        self.up.clear();
        self.sockets.clear();
        self.cut_visits.clear();
        self.latest_wall.clear();
        for tunnel in self.disk.open() {
            self.latest_wall.insert(tunnel, self.now.wall);
        }
        let snapshot = self.disk.snapshot();
        self.engine = Engine::new(settings, snapshot, self.now);
        self.pump();
    }
}

fn link(counter: u64) -> LinkId {
    LinkId(Generation { boot: 1, counter })
}
