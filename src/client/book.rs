//! The client's tunnels in memory, in step with the store: what is open, what is to be told to the
//! server, and what serves visits now. A change is in force after its commit; a close at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::admin::ApiError;
use crate::admin::checks::ProbeJson;
use crate::admin::types::{EndsNextJson, TunnelJson};
use crate::codes::Code;
use crate::engine::book::{BookChange, BookRow, BookSnapshot, BookState, Enrolment, HostMode};
use crate::engine::policy::Policy;
use crate::names::{Slug, TunnelId};
use crate::origin::OriginTunnel;
use crate::store::ClientStore;
use crate::times::{Clock, Now, WallTime};
use crate::wire::{Bound, DomainNews, Standing};

use super::domains;
use super::ends::{self, Ahead, Seen, Terms};

use super::guard::Guard;

/// A tunnel that serves visits.
pub(super) struct Live {
    pub(super) origin: Arc<OriginTunnel>,
    /// Whether visits may go on to it.
    pub(super) guard: Arc<Guard>,
    /// Fires when it ends: visits going on are cut.
    pub(super) ended: CancellationToken,
    pub(super) visits: AtomicU64,
    pub(super) visits_total: AtomicU64,
    /// Unix milliseconds of the latest visit; 0 = none since the start.
    pub(super) last_seen: AtomicU64,
    /// What the latest question through its public name found.
    probe: Mutex<Option<ProbeJson>>,
    /// When the latest visit that is over ended.
    ended_visit: Mutex<Option<Instant>>,
}

impl Live {
    fn new(row: &BookRow, authority: String, slug: Slug) -> Self {
        Self {
            origin: Arc::new(
                OriginTunnel::new(
                    row.id,
                    slug,
                    authority,
                    row.target.clone(),
                    row.host.clone(),
                )
                .with_proxy_protocol(row.proxy_protocol),
            ),
            guard: Arc::new(Guard::new(row)),
            ended: CancellationToken::new(),
            visits: AtomicU64::new(0),
            visits_total: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
            probe: Mutex::default(),
            ended_visit: Mutex::new(None),
        }
    }

    pub(super) fn probe(&self) -> Option<ProbeJson> {
        self.probe
            .lock()
            .expect("nothing panics while it holds the probe")
            .clone()
    }

    pub(super) fn set_probe(&self, found: ProbeJson) {
        *self
            .probe
            .lock()
            .expect("nothing panics while it holds the probe") = Some(found);
    }

    /// A visit is over.
    pub(super) fn note_end(&self, at: Instant) {
        *self.lock_ended() = Some(at);
    }

    fn lock_ended(&self) -> MutexGuard<'_, Option<Instant>> {
        self.ended_visit
            .lock()
            .expect("nothing panics while it holds a moment")
    }
}

/// The rows and what serves them.
pub(super) struct Book {
    store: ClientStore,
    /// Visits since the start.
    pub(super) visits_total: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    enrolment: Option<Enrolment>,
    rows: BTreeMap<TunnelId, BookRow>,
    live: HashMap<TunnelId, Arc<Live>>,
    /// What the server said is in force.
    terms: HashMap<TunnelId, Terms>,
    /// What it said of their domains.
    domains: HashMap<TunnelId, DomainNews>,
    /// Whether the link is there.
    up: bool,
    /// Since when it is not; none before it ever was.
    away: Option<WallTime>,
    /// The server's clock against ours, once it was heard.
    ahead: Option<Ahead>,
    /// What it said last, and when: setting our clock does not touch it.
    clock: Option<(WallTime, Instant)>,
}

impl Book {
    pub(super) fn new(store: ClientStore, snapshot: BookSnapshot) -> Self {
        let mut state = State {
            enrolment: snapshot.enrolment,
            ..State::default()
        };
        for row in snapshot.tunnels {
            state.serve(&row);
            state.rows.insert(row.id, row);
        }
        Self {
            store,
            visits_total: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the book")
    }

    pub(super) fn enrolment(&self) -> Option<Enrolment> {
        self.lock().enrolment.clone()
    }

    pub(super) fn rows(&self) -> Vec<BookRow> {
        self.lock().rows.values().cloned().collect()
    }

    pub(super) fn row(&self, id: TunnelId) -> Option<BookRow> {
        self.lock().rows.get(&id).cloned()
    }

    /// The tunnel that serves visits of this id.
    pub(super) fn live(&self, id: TunnelId) -> Option<Arc<Live>> {
        self.lock().live.get(&id).cloned()
    }

    /// All tunnels that serve visits.
    pub(super) fn served(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().cloned().collect()
    }

    pub(super) fn live_count(&self) -> usize {
        self.lock()
            .rows
            .values()
            .filter(|r| r.state.is_live())
            .count()
    }

    /// Visits going on.
    pub(super) fn visits(&self) -> u64 {
        self.lock()
            .live
            .values()
            .map(|l| l.visits.load(Ordering::Relaxed))
            .sum()
    }

    /// By id or slug; of several with that slug the one that lives, else the latest.
    pub(super) fn find(&self, key: &str) -> Option<BookRow> {
        let state = self.lock();
        if let Ok(id) = key.parse::<TunnelId>() {
            return state.rows.get(&id).cloned();
        }
        let named = |r: &&BookRow| {
            r.slug
                .as_ref()
                .or(r.name.as_ref())
                .is_some_and(|s| s.as_str() == key)
        };
        let mut found: Vec<&BookRow> = state.rows.values().filter(named).collect();
        found.sort_by_key(|r| (r.state.is_live(), r.created_at));
        found.last().map(|r| (*r).clone())
    }

    /// The living tunnel that has, or asks for, this name.
    pub(super) fn named(&self, name: &Slug) -> Option<BookRow> {
        self.find(name.as_str()).filter(|r| r.state.is_live())
    }

    /// Puts a row on disk, then in force.
    pub(super) async fn put(&self, row: BookRow) -> Result<(), ApiError> {
        self.commit(vec![BookChange::Tunnel(row.clone())]).await?;
        let mut state = self.lock();
        // Closed while it was written: the end stands, here as on disk, where it was written after.
        let ended = state.rows.get(&row.id).is_some_and(|r| !r.state.is_live());
        if ended && row.state.is_live() {
            return Ok(());
        }
        state.serve(&row);
        state.rows.insert(row.id, row);
        Ok(())
    }

    /// Takes out a tunnel that the server refused at its first Bind.
    pub(super) async fn forget(&self, id: TunnelId) -> Result<(), ApiError> {
        {
            let mut state = self.lock();
            state.rows.remove(&id);
            state.end(id);
        }
        self.commit(vec![BookChange::Forget(id)]).await
    }

    /// Ends a tunnel here at once, then on disk. What cannot be written is not said to be done: nobody
    /// visits it any more, and ending it again tries the disk again.
    pub(super) async fn end(
        &self,
        id: TunnelId,
        to: BookState,
        now: WallTime,
    ) -> Result<(), ApiError> {
        let (row, before) = {
            let mut state = self.lock();
            state.end(id);
            let Some(row) = state.rows.get_mut(&id) else {
                return Ok(());
            };
            if row.state == to {
                return Ok(());
            }
            let before = (row.state, row.ended_at);
            row.state = to;
            row.ended_at.get_or_insert(now);
            (row.clone(), before)
        };
        let stored = self.commit(vec![BookChange::Tunnel(row)]).await;
        if stored.is_err()
            && let Some(row) = self.lock().rows.get_mut(&id).filter(|row| row.state == to)
        {
            (row.state, row.ended_at) = before;
        }
        stored
    }

    /// The server confirmed a tunnel. Gives the row as it is now; none when it was closed meanwhile.
    pub(super) async fn bound(&self, bound: &Bound) -> Result<Option<BookRow>, ApiError> {
        let Some(row) = self.row(bound.tunnel).filter(|r| r.state.is_live()) else {
            return Ok(None);
        };
        let slug = Slug::parse(&bound.slug).map_err(|e| {
            ApiError::new(
                Code::Protocol,
                format!("the server gave a name that is none: {e}"),
            )
        })?;
        let confirmed = BookRow {
            slug: Some(slug),
            url: Some(bound.url.clone()),
            policy: Arc::new(policy_of(bound)?),
            state: BookState::Open,
            expires_at: bound.expires_at.map(WallTime::from_millis),
            created_at: WallTime::from_millis(bound.created_at),
            public_port: bound.public_port.or(row.public_port),
            ..row.clone()
        };
        {
            let now = Clock.now();
            let mut state = self.lock();
            state.terms.insert(bound.tunnel, Terms::of(bound, now));
            state.hear_clock(bound.standing.as_ref(), now);
        }
        if confirmed != row {
            self.put(confirmed).await?;
        }
        Ok(self.row(bound.tunnel).filter(|r| r.state.is_live()))
    }

    /// The server says how a tunnel's clocks stand.
    pub(super) fn hear(&self, id: TunnelId, standing: Standing, now: Now) {
        let mut state = self.lock();
        if let Some(terms) = state.terms.get_mut(&id) {
            terms.hear(standing, now);
            state.hear_clock(Some(&standing), now);
        }
    }

    /// The server says how the domains of a tunnel stand.
    pub(super) fn hear_domains(&self, news: DomainNews) {
        let mut state = self.lock();
        if state
            .rows
            .get(&news.tunnel)
            .is_some_and(|r| r.state.is_live())
        {
            state.domains.insert(news.tunnel, news);
        }
    }

    /// The link is there, or is not.
    pub(super) fn link(&self, up: bool, now: WallTime) {
        let mut state = self.lock();
        if state.up && !up {
            state.away = Some(now);
        }
        state.up = up;
    }

    /// Open tunnels whose time has come by the server's clock, while it is not there to say so. Rather late
    /// than early, since an end is for ever: time that this machine slept through is not counted.
    pub(super) fn expired(&self, now: Instant) -> Vec<BookRow> {
        let state = self.lock();
        let Some((said, at)) = state.clock.filter(|_| !state.up) else {
            return Vec::new();
        };
        let now = said.plus(now.saturating_duration_since(at));
        let due =
            |r: &&BookRow| r.state == BookState::Open && r.expires_at.is_some_and(|at| at <= now);
        state.rows.values().filter(due).cloned().collect()
    }

    pub(super) async fn enrol(&self, enrolment: Enrolment) -> Result<(), ApiError> {
        self.commit(vec![BookChange::Enrolment(enrolment.clone())])
            .await?;
        self.lock().enrolment = Some(enrolment);
        Ok(())
    }

    /// Forgets the server and all tunnels.
    pub(super) async fn leave(&self) -> Result<(), ApiError> {
        self.commit(vec![BookChange::Left]).await?;
        let mut state = self.lock();
        let ids: Vec<TunnelId> = state.live.keys().copied().collect();
        ids.into_iter().for_each(|id| state.end(id));
        *state = State::default();
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.store.clone().close().await;
    }

    pub(super) async fn store_answers(&self) -> Result<(), crate::store::StoreError> {
        self.store.answers().await
    }

    /// Transactions put on disk so far, and the size of what is there.
    pub(super) async fn store_figures(&self) -> (u64, u64) {
        (self.store.groups(), self.store.bytes().await)
    }

    pub(super) async fn store_ended(&self) {
        self.store.ended().await;
    }

    async fn commit(&self, changes: Vec<BookChange>) -> Result<(), ApiError> {
        self.store
            .commit(changes)
            .await
            .map_err(|e| ApiError::new(e.code(), e.to_string()))
    }

    /// A tunnel as people see it.
    pub(super) fn json(&self, row: &BookRow, link_up: bool) -> TunnelJson {
        let state = self.lock();
        let live = state.live.get(&row.id);
        let exposure = live.and_then(|live| live.guard.exposure());
        let terms = state.terms.get(&row.id);
        let seen = state.seen(live.map(Arc::as_ref));
        let open = row.state == BookState::Open;
        let count =
            |pick: fn(&Live) -> &AtomicU64| live.map_or(0, |l| pick(l).load(Ordering::Relaxed));
        TunnelJson {
            id: row.id,
            slug: row
                .slug
                .as_ref()
                .or(row.name.as_ref())
                .map(ToString::to_string),
            url: row.url.clone(),
            kind: row.kind().to_string(),
            target: Some(row.target.to_string()),
            state: match row.state {
                BookState::Open if exposure.is_some() => "withheld",
                BookState::Open if !link_up => "offline",
                other => other.as_str(),
            }
            .to_owned(),
            expires_at: row.expires_at,
            created_at: row.created_at,
            ended_at: row.ended_at,
            last_seen_at: ends::last_seen(terms, &seen),
            idle_seconds: terms.and_then(Terms::idle).map(|idle| idle.as_secs()),
            ends_next: if open {
                ends::ends_next(row.expires_at, terms, &seen, Clock.now())
            } else {
                EndsNextJson::default()
            },
            hold_seconds: terms.map(|terms| terms.hold().as_secs_f64()),
            declared: row.declared,
            labels: row.labels.iter().cloned().collect(),
            host: Some(host_text(&row.host)),
            host_in_use: live.map(|l| l.origin.host_in_use()),
            visits: count(|l| &l.visits),
            visits_total: count(|l| &l.visits_total),
            public_port: row.public_port,
            proxy_protocol: row
                .proxy_protocol
                .map(|version| version.as_str().to_owned()),
            policy: Some(row.policy.shown()),
            domains: domains::shown(row, state.domains.get(&row.id)),
            device: None,
            user: None,
            probe: live.and_then(|l| l.probe()),
            warnings: exposure.iter().map(ToString::to_string).collect(),
        }
    }
}

impl State {
    /// Makes the row's tunnel serve visits, or stop, as its state says.
    fn serve(&mut self, row: &BookRow) {
        let Some(slug) = row
            .slug
            .as_ref()
            .or(row.name.as_ref())
            .filter(|_| row.state.is_live())
        else {
            if !row.state.is_live() {
                self.end(row.id);
            }
            return;
        };
        let authority = row.url.as_deref().map(authority_of).unwrap_or_default();
        let same = self.rows.get(&row.id).is_some_and(|old| {
            old.target == row.target
                && old.host == row.host
                && old.url == row.url
                && old.slug == row.slug
                && old.proxy_protocol == row.proxy_protocol
        });
        if same && let (Some(live), Some(old)) = (self.live.get(&row.id), self.rows.get(&row.id)) {
            live.guard.follow(old, row);
            return;
        }
        // A tunnel that now leads elsewhere serves new visits there; those going on finish where they are.
        let mut live = Live::new(row, authority, slug.clone());
        if let Some(old) = self.live.get(&row.id) {
            // They end with the tunnel all the same.
            live.ended = old.ended.clone();
            let seen = old.last_seen.load(Ordering::Relaxed);
            live.last_seen.store(seen, Ordering::Relaxed);
            *live.lock_ended() = *old.lock_ended();
            if let Some(before) = self.rows.get(&row.id)
                && before.target == row.target
                && before.host == row.host
            {
                live.guard = Arc::clone(&old.guard);
                live.guard.follow(before, row);
            }
        }
        self.live.insert(row.id, Arc::new(live));
    }

    fn hear_clock(&mut self, standing: Option<&Standing>, now: Now) {
        let ahead = Ahead::of(standing, now.wall);
        self.ahead = Some(ahead);
        self.clock = Some((ahead.shift(now.wall), now.monotonic));
    }

    /// What this client has seen of a tunnel itself.
    fn seen(&self, live: Option<&Live>) -> Seen {
        let latest = live.map_or(0, |live| live.last_seen.load(Ordering::Relaxed));
        let latest = i64::try_from(latest).ok().filter(|latest| *latest != 0);
        Seen {
            visits: live.map_or(0, |live| live.visits.load(Ordering::Relaxed)),
            ended: live.and_then(|live| *live.lock_ended()),
            latest: latest.map(WallTime::from_millis),
            up: self.up,
            away: self.away,
            ahead: self.ahead,
        }
    }

    fn end(&mut self, id: TunnelId) {
        self.terms.remove(&id);
        if let Some(live) = self.live.remove(&id) {
            live.ended.cancel();
        }
    }
}

/// The policy that the server says is in force.
fn policy_of(bound: &Bound) -> Result<Policy, ApiError> {
    let text = bound.policy.as_deref().unwrap_or("{}");
    Policy::parse(text).map_err(|e| {
        ApiError::new(
            Code::Protocol,
            format!("the server has a policy unread: {e}"),
        )
    })
}

fn authority_of(url: &str) -> String {
    url.split_once("://")
        .map_or(url, |(_, rest)| rest)
        .to_owned()
}

/// The text of a Host mode, as settings and JSON have it.
pub(super) fn host_text(mode: &HostMode) -> String {
    match mode {
        HostMode::Auto => "auto".into(),
        HostMode::Keep => "keep".into(),
        HostMode::Rewrite => "rewrite".into(),
        HostMode::Fixed(value) => value.clone(),
    }
}

/// Reads a Host mode as people write it.
pub(super) fn host_mode(text: &str) -> Result<HostMode, ApiError> {
    match text {
        "auto" => Ok(HostMode::Auto),
        "keep" => Ok(HostMode::Keep),
        "rewrite" => Ok(HostMode::Rewrite),
        value if value.parse::<http::uri::Authority>().is_ok() => {
            Ok(HostMode::Fixed(value.to_owned()))
        }
        value => Err(ApiError::new(
            Code::Usage,
            format!("{value:?} is no host; use auto, keep, rewrite or a name"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Clock;

    fn book(dir: &std::path::Path) -> Book {
        let (store, snapshot) = ClientStore::open(dir, false).unwrap();
        Book::new(store, snapshot)
    }

    fn row() -> BookRow {
        BookRow::sample(TunnelId::random(), Clock.now().wall)
    }

    #[tokio::test]
    async fn a_close_while_the_tunnel_is_written_stands() {
        let dir = tempfile::tempdir().unwrap();
        let book = book(dir.path());
        let row = row();
        book.put(row.clone()).await.unwrap();
        let moved = BookRow {
            url: Some("https://app.example.com".into()),
            ..row.clone()
        };
        let now = Clock.now().wall;
        let (put, ended) = tokio::join!(book.put(moved), book.end(row.id, BookState::Closing, now));
        put.unwrap();
        ended.unwrap();
        assert_eq!(book.row(row.id).unwrap().state, BookState::Closing);
        assert!(book.live(row.id).is_none());
        book.close().await;
        let (_, snapshot) = ClientStore::open(dir.path(), true).unwrap();
        assert_eq!(snapshot.tunnels[0].state, BookState::Closing);
    }

    #[tokio::test]
    async fn an_end_that_is_not_written_can_be_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let book = book(dir.path());
        let row = row();
        book.put(row.clone()).await.unwrap();
        // Stands for every reason why nothing can be written.
        book.close().await;
        let now = Clock.now().wall;
        for _ in 0..2 {
            book.end(row.id, BookState::Closing, now)
                .await
                .expect_err("nothing is on disk");
            assert!(book.live(row.id).is_none(), "nobody visits it any more");
        }
        assert!(book.row(row.id).unwrap().state.is_live());
    }

    #[tokio::test]
    async fn visits_on_the_old_target_end_with_the_tunnel() {
        let dir = tempfile::tempdir().unwrap();
        let book = book(dir.path());
        let row = row();
        book.put(row.clone()).await.unwrap();
        let old = book.live(row.id).unwrap();
        let moved = BookRow {
            target: "4000".parse().unwrap(),
            ..row.clone()
        };
        book.put(moved).await.unwrap();
        assert!(!old.ended.is_cancelled());
        book.end(row.id, BookState::Closed, Clock.now().wall)
            .await
            .unwrap();
        assert!(old.ended.is_cancelled());
    }
}
