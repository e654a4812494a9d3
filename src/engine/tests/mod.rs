//! The engine in a world of its own: a clock we own, a disk that commits when it is told to, no sockets.
//! After every step the world checks what has to hold at every instant.

mod bounds;
mod disk;
mod dormant;
mod ending;
mod enrolment;
mod holding;
mod leasing;
mod linking;
mod lives;
mod living;
mod owning;
mod policing;
mod ports;
mod probing;
mod storing;
mod storms;
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
            told_domains: Vec::new(),
            latest_wall: HashMap::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    // Time.

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

    // Events and what they lead to.

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
        let found = match self.records.get(&domain.challenge()) {
            None => Ok(Vec::new()),
            Some(None) => Err("no answer".to_owned()),
            Some(Some(of)) => Ok(users
                .iter()
                .copied()
                .filter(|user| of.contains(user))
                .collect()),
        };
        self.engine
            .handle(self.now, Event::LookedUp { domain, found });
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

    // What people and devices do.

    fn admin(&mut self) -> Requester {
        let call = self.number();
        Requester::Admin { call, uid: 1000 }
    }

    fn over(&mut self, client: &Client) -> Requester {
        let (link, request) = (client.link, self.number());
        Requester::Link { link, request }
    }

    /// The answer to something that has been asked.
    fn reply(&mut self, to: Requester) -> Outcome {
        self.replies.remove(&to).expect("it was answered")
    }

    /// Asks for a join token; returns the number of its secret.
    fn invite_asked(&mut self, from: Requester, user: &str, uses: u32, valid: Duration) -> u64 {
        let secret = self.number();
        let (user_id, id) = (self.number(), self.number());
        self.handle(Event::InviteAsked {
            from,
            user: user.into(),
            user_id: UserId::from_bytes(bytes(user_id)),
            id: InviteId::from_bytes(bytes(id)),
            secret_hash: hash(secret),
            uses,
            expires_at: self.now.wall.plus(valid),
        });
        secret
    }

    fn invites(&mut self, user: &str, uses: u32) -> u64 {
        let from = self.admin();
        let secret = self.invite_asked(from, user, uses, 8 * HOUR);
        assert!(matches!(self.reply(from), Ok(Answer::Invited { .. })));
        secret
    }

    /// A newcomer shows a token and a key.
    fn enroll_asked(&mut self, secret: u64, pin: Pin, name: &str) -> Requester {
        let (counter, id) = (self.number(), self.number());
        let from = Requester::Link {
            link: link(counter),
            request: 0,
        };
        self.handle(Event::EnrollAsked {
            from,
            peer: peer(),
            secret_hash: hash(secret),
            pin,
            name: name.into(),
            id: DeviceId::from_bytes(bytes(id)),
        });
        from
    }

    fn enrolls(&mut self, secret: u64, pin: Pin, name: &str) -> Outcome {
        let from = self.enroll_asked(secret, pin, name);
        self.reply(from)
    }

    fn new_pin(&mut self) -> Pin {
        Pin(hash(self.number()))
    }

    /// A device of that name, of a user of that name, with a link.
    fn connect(&mut self, name: &str) -> Client {
        self.connect_as(name, name)
    }

    fn connect_as(&mut self, user: &str, name: &str) -> Client {
        let secret = self.invites(user, 1);
        let pin = self.new_pin();
        let Ok(Answer::Enrolled { device, .. }) = self.enrolls(secret, pin, name) else {
            panic!("{name} was not enrolled");
        };
        let link = self.link_up(device);
        Client { device, link, pin }
    }

    fn link_up(&mut self, device: DeviceId) -> LinkId {
        let link = link(self.number());
        self.link_up_as(device, link);
        link
    }

    fn link_up_as(&mut self, device: DeviceId, link: LinkId) {
        self.up.insert(link);
        let newest = self.newest.entry(device).or_insert(link);
        *newest = link.max(*newest);
        self.handle(Event::LinkUp {
            link,
            device,
            peer: peer(),
        });
    }

    fn link_down(&mut self, link: LinkId) {
        self.handle(Event::LinkDown { link });
        self.up.remove(&link);
    }

    fn heard(&mut self, link: LinkId) {
        self.handle(Event::LinkHeard { link });
    }

    /// Time passes while clients keep their links alive.
    fn live_for(&mut self, by: Duration, clients: &[Client]) {
        let end = self.now.monotonic + by;
        while self.now.monotonic < end {
            let left = end.saturating_duration_since(self.now.monotonic);
            self.advance(secs(10).min(left));
            for client in clients {
                self.heard(client.link);
            }
        }
    }

    fn ask(&mut self, name: &str) -> BindAsk {
        BindAsk {
            tunnel: TunnelId::from_bytes(bytes(self.number())),
            name: Some(slug(name)),
            kind: Kind::Http,
            expires_at: None,
            expires_in: None,
            idle: None,
            hold: None,
            declared: false,
            labels: Vec::new(),
            public_port: None,
            policy: policy::Policy::default(),
            domains: None,
        }
    }

    fn bind_asked(&mut self, client: &Client, ask: &BindAsk) -> Requester {
        let from = self.over(client);
        self.handle(Event::BindAsked {
            from,
            ask: ask.clone(),
            proposals: ["quiet-lime-1", "quiet-lime-2"].map(slug).to_vec(),
        });
        from
    }

    fn bind(&mut self, client: &Client, ask: &BindAsk) -> Result<TunnelView, AskError> {
        let from = self.bind_asked(client, ask);
        self.reply(from).map(|answer| match answer {
            Answer::Bound(view) => *view,
            other => panic!("{other:?} is no answer to a bind"),
        })
    }

    fn opens(&mut self, client: &Client, name: &str) -> TunnelId {
        let ask = self.ask(name);
        self.bind(client, &ask).expect("it was opened").row.id
    }

    fn close_asked(&mut self, from: Requester, tunnel: TunnelId) {
        self.closing.insert(from, tunnel);
        self.handle(Event::CloseAsked { from, tunnel });
    }

    fn closes(&mut self, client: &Client, tunnel: TunnelId) -> Outcome {
        let from = self.over(client);
        self.close_asked(from, tunnel);
        self.reply(from)
    }

    fn operator_closes(&mut self, tunnel: TunnelId) -> Outcome {
        let from = self.admin();
        self.close_asked(from, tunnel);
        self.reply(from)
    }

    fn leaves(&mut self, client: &Client) -> Outcome {
        let from = self.over(client);
        self.handle(Event::LeaveAsked { from });
        self.reply(from)
    }

    fn revokes(&mut self, what: &str) -> Outcome {
        let from = self.admin();
        self.handle(Event::RevokeAsked {
            from,
            what: what.into(),
        });
        self.reply(from)
    }

    // Visits.

    fn visit(&mut self, label: &str) -> (VisitId, Result<Admission, Refusal>) {
        let visit = self.visit_to(label);
        self.asks_in(label, visit)
    }

    fn visit_of(&mut self, kind: Kind, label: &str) -> (VisitId, Result<Admission, Refusal>) {
        let http = (kind == Kind::Http).then(|| HttpAsk::new(http::Method::GET, "/"));
        let visit = Visit {
            kind,
            http,
            ..self.visit_to(label)
        };
        self.asks_in(label, visit)
    }

    /// A `GET /` from [`peer`].
    fn visit_to(&mut self, label: &str) -> Visit {
        Visit {
            id: VisitId::from_bytes(bytes(self.number())),
            kind: Kind::Http,
            label: label.into(),
            peer: peer(),
            bytes: 0,
            http: Some(HttpAsk::new(http::Method::GET, "/")),
        }
    }

    fn asks_in(&mut self, label: &str, visit: Visit) -> (VisitId, Result<Admission, Refusal>) {
        self.look();
        let admitted = self.engine.admit(self.now, &visit);
        if let Ok(Admission::Pass(route)) = &admitted {
            let by_id = route.tunnel.to_string() == label;
            assert!(by_id || route.slug.as_str() == label);
            assert_eq!(route.visit, visit.id);
            self.check_route(route);
            self.going_on.push(visit.id);
        }
        self.pump();
        (visit.id, admitted)
    }

    fn passes(&mut self, label: &str) -> Route {
        match self.visit(label).1 {
            Ok(Admission::Pass(route)) => route,
            other => panic!("{label}: {other:?}"),
        }
    }

    /// A visit that comes and goes.
    fn visited(&mut self, label: &str) {
        let visit = self.passes(label).visit;
        self.ends(visit);
    }

    fn waits(&mut self, label: &str) -> VisitId {
        match self.visit(label) {
            (visit, Ok(Admission::Hold)) => visit,
            (_, other) => panic!("{label}: {other:?}"),
        }
    }

    fn refused(&mut self, label: &str) -> Refusal {
        match self.visit(label).1 {
            Err(refusal) => refusal,
            Ok(other) => panic!("{label}: {other:?}"),
        }
    }

    fn ends(&mut self, visit: VisitId) {
        self.going_on.retain(|other| *other != visit);
        self.handle(Event::VisitEnded { visit });
    }

    fn release_of(&mut self, visit: VisitId) -> Option<Result<Route, Refusal>> {
        self.released.remove(&visit)
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

    // What has to hold.

    fn check(&self) {
        let mut owners = HashMap::new();
        for view in self.engine.tunnels() {
            let row = &view.row;
            if row.state == TunnelState::Open {
                let other = owners.insert(row.slug.clone(), row.id);
                assert_eq!(other, None, "{} has two owners", row.slug);
                if let Some(socket) = self.sockets.get(&row.id) {
                    assert_eq!(Some(socket.1), row.public_port, "another port");
                }
                assert!(self.disk.is_open(row.id), "{} is not on disk", row.id);
            }
            if let Some(link) = view.link {
                assert_eq!(self.newest.get(&row.device), Some(&link), "a ghost");
                assert_eq!(view.held, 0, "held with a live link");
            }
        }
        for (domain, _) in self.engine.domains_served() {
            let tunnel = self.engine.domain_tunnel(domain);
            let proven =
                |row: &&domains::DomainRow| row.domain == *domain && row.proven_at.is_some();
            let on_disk = self
                .disk
                .domains()
                .iter()
                .find(proven)
                .map(|row| row.tunnel);
            assert_eq!(tunnel, on_disk, "{domain} leads elsewhere on disk");
        }
        let counts = self.engine.counts();
        assert_eq!(counts.visits, self.going_on.len());
        let waiting: usize = self.engine.tunnels().map(|view| view.held).sum();
        assert_eq!(counts.held, waiting);
        let caps = &self.engine.settings().dormant;
        assert!(counts.dormant <= caps.links, "too many links sleep");
        assert!(counts.dormant_bytes <= caps.memory, "and hold too much");
        assert_eq!(self.engine.stays.len(), counts.visits + counts.held);
    }

    fn check_route(&self, route: &Route) {
        let row = self.disk.tunnel(route.tunnel).expect("it is on disk");
        assert_eq!(row.slug, route.slug);
        assert_eq!(row.state, TunnelState::Open, "on disk it is over");
        assert_eq!(self.newest.get(&row.device), Some(&route.link), "a ghost");
        assert!(self.up.contains(&route.link), "a dead link");
        assert!(
            !self.cut_visits.contains(&route.tunnel),
            "visited after its end"
        );
        assert!(
            row.expires_at
                .is_none_or(|at| at > self.latest_wall[&route.tunnel]),
            "visited after its expiry"
        );
        let revoked = self.disk.device(row.device).and_then(|d| d.revoked_at);
        assert_eq!(revoked, None, "a revoked device");
    }

    /// Acknowledged is durable.
    fn check_reply(&mut self, to: Requester, outcome: &Outcome) {
        match outcome {
            Ok(Answer::Bound(view)) => {
                let row = self.disk.tunnel(view.row.id).expect("it is on disk");
                assert_eq!((&row.slug, row.device), (&view.row.slug, view.row.device));
                assert_eq!(row.state, TunnelState::Open);
                // An id that the engine has forgotten may be used anew.
                self.cut_visits.remove(&view.row.id);
                let since = self.latest_wall.entry(view.row.id);
                since.or_insert(self.now.wall);
            }
            Ok(Answer::Closed) => {
                let tunnel = self.closing[&to];
                assert!(!self.disk.is_open(tunnel), "acknowledged, not on disk");
            }
            Ok(Answer::Enrolled { device, .. }) => assert!(self.disk.device(*device).is_some()),
            _ => {}
        }
    }

    /// Ends everything, lets all quarantines pass, and looks for what was left behind.
    fn finish(mut self) {
        self.commits();
        let open: Vec<TunnelId> = self.open_tunnels();
        for tunnel in open {
            assert_eq!(self.operator_closes(tunnel), Ok(Answer::Closed));
        }
        for visit in self.going_on.clone() {
            self.ends(visit);
        }
        let links: Vec<LinkId> = self.newest.values().copied().collect();
        for link in links {
            self.link_down(link);
        }
        self.step(self.engine.settings().quarantine + 30 * DAY);
        self.wake();
        assert!(self.sockets.is_empty(), "sockets without a tunnel");
        assert_eq!(self.engine.leftovers(), Vec::<&str>::new());
        assert_eq!(self.engine.poll_timeout(self.now), None);
    }

    fn open_tunnels(&self) -> Vec<TunnelId> {
        let open = |view: &TunnelView| view.row.state == TunnelState::Open;
        self.engine
            .tunnels()
            .filter(open)
            .map(|view| view.row.id)
            .collect()
    }
}

fn link(counter: u64) -> LinkId {
    LinkId(Generation { boot: 1, counter })
}

impl Engine {
    /// The names of everything that is not empty, of what should be once all is over.
    fn leftovers(&self) -> Vec<&'static str> {
        let devices = self.devices.values();
        let empty = [
            ("links", self.links.is_empty()),
            ("visits", self.visits.is_empty()),
            ("held", self.held.is_empty()),
            ("sleepers", self.sleepers.is_empty()),
            ("tunnels", self.tunnels.is_empty()),
            ("names", self.names.is_empty()),
            ("former", self.former.is_empty()),
            ("ports", self.ports.is_empty()),
            ("former ports", self.former_ports.is_empty()),
            ("seeking", self.seeking.is_empty()),
            ("ended", self.ended.is_empty()),
            (
                "invites",
                self.invites.is_empty() && self.secrets.is_empty(),
            ),
            ("domains", self.domains.is_empty()),
            ("pending", self.pending.is_empty()),
            ("opening", self.opening.is_empty()),
            ("enrolling", self.enrolling.is_empty()),
            ("founding", self.founding.is_empty()),
            ("restrictions", self.restrictions.is_empty()),
            ("dirty", self.dirty.is_empty()),
            ("actions", self.actions.is_empty()),
            ("timers", self.timers.len() == 0),
            (
                "devices",
                devices
                    .clone()
                    .all(|d| d.link.is_none() && d.tunnels.is_empty() && d.opening == 0),
            ),
        ];
        let left = empty.into_iter().filter(|(_, empty)| !empty);
        left.map(|(name, _)| name).collect()
    }
}
