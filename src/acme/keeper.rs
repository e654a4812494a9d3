//! Keeps certificates good: knows each one's course, starts what is due, and puts what comes of it in
//! force. One task decides; orders run beside it, a few at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::server::ResolvesServerCert;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::folder::{Failures, FolderError, Pair};
use super::issue::{CertName, IssueError, Issuer, Suggestion, Wanted, blocking, chain};
use super::plan::{self, Blame, Course, Failure, Life, Proof, Window};
use super::resolver::Resolver;
use crate::names::Hostname;
use crate::tasks::Tasks;
use crate::times::{Clock, WallTime};

/// Orders at once: more would only make a CA's limits come sooner.
const AT_ONCE: usize = 4;
/// Certificates of asked-for names. Each is a file and a few KiB of memory, and a CA's patience.
const ASKED_MAX: usize = 1000;
/// The longest sleep: the machine may sleep as well, or its clock be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// When a CA without windows is asked whether it has them now.
const NO_WINDOWS: Duration = Duration::from_secs(86_400);

/// What a name that was asked for has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A certificate that is served.
    Ready,
    /// One is being got, or will be at that time; with what went wrong so far.
    Waiting {
        /// When the next try is due; past for one that runs.
        next_try: WallTime,
        /// Of the latest try.
        last_error: Option<String>,
    },
    /// Nothing: there are too many already.
    Full,
}

/// How one certificate does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateStatus {
    /// What it is for.
    pub names: Vec<String>,
    /// From when until when the one that is served is good; none when there is none yet.
    pub life: Option<Life>,
    /// When it will be renewed.
    pub renews_at: Option<WallTime>,
    /// When the next try is due after a failure, or for the first one.
    pub next_try: Option<WallTime>,
    /// Whom the next try goes to.
    pub ca: String,
    /// Why the latest try failed.
    pub last_error: Option<String>,
    /// Whether an order is running.
    pub is_trying: bool,
}

/// A certificate that is to be kept good.
struct Line {
    names: Vec<CertName>,
    proofs: Vec<Proof>,
    pair: Option<Pair>,
    course: Course,
    /// Kept for a certificate, so that its renewal stays where it is.
    roll: u64,
    /// Since when it is ours.
    since: WallTime,
    window: Option<Window>,
    window_at: WallTime,
    last_error: Option<String>,
    is_busy: bool,
    /// Asked for by name, and so to be forgotten by name.
    is_asked: bool,
}

#[derive(Default)]
struct Book {
    lines: BTreeMap<String, Line>,
}

/// What is to be done for a line.
enum Job {
    Issue(Wanted),
    Window(Pair, usize),
}

/// A job that runs. One that does not reach its end has panicked: its line must not be busy for ever.
struct Running {
    keeper: Arc<Keeper>,
    id: String,
    is_order: bool,
    has_ended: bool,
}

impl Running {
    fn end(&mut self) {
        self.has_ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended {
            self.keeper.broke_off(&self.id, self.is_order);
        }
        self.keeper.changed.notify_one();
    }
}

pub(super) struct Keeper {
    pub(super) issuer: Arc<Issuer>,
    pub(super) resolver: Arc<Resolver>,
    /// The domain of the tunnels: its certificate is the one for strangers, too.
    pub(super) domain: Hostname,
    /// How names that are asked for can be proven.
    pub(super) asked_proofs: Vec<Proof>,
    book: Mutex<Book>,
    changed: Notify,
}

impl Line {
    fn life(&self) -> Option<Life> {
        self.pair.as_ref().map(|pair| pair.facts.life)
    }

    fn renews_at(&self) -> Option<WallTime> {
        Some(plan::renew_at(
            self.life()?,
            self.since,
            self.window,
            self.roll,
        ))
    }

    /// When something is to be done next.
    fn due(&self) -> WallTime {
        let window_at = self.pair.as_ref().map(|_| self.window_at);
        window_at.map_or(self.course.due(), |at| at.min(self.course.due()))
    }

    fn job(&self, now: WallTime) -> Option<Job> {
        if self.is_busy {
            return None;
        }
        if self.course.due() <= now {
            return Some(Job::Issue(Wanted {
                names: self.names.clone(),
                proofs: self.proofs.clone(),
                ca: self.course.ca(),
                rounds: self.course.rounds(),
                replaces: self.pair.as_ref().map(|pair| pair.facts.clone()),
            }));
        }
        let pair = self.pair.as_ref().filter(|_| self.window_at <= now)?;
        Some(Job::Window(pair.clone(), self.course.ca()))
    }
}

impl Keeper {
    pub(super) fn new(
        issuer: Arc<Issuer>,
        resolver: Arc<Resolver>,
        domain: Hostname,
        asked_proofs: Vec<Proof>,
    ) -> Self {
        Self {
            issuer,
            resolver,
            domain,
            asked_proofs,
            book: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Takes a certificate into care; one from an earlier life of the daemon is served at once.
    pub(super) fn add(&self, names: Vec<CertName>, proofs: Vec<Proof>, is_asked: bool) {
        let id = id_of(&names);
        let now = Clock.now().wall;
        let (pair, damage) = match self.issuer.folder.certificate(&id) {
            Ok(pair) => (pair.filter(|pair| covers(pair, &names)), None),
            Err(error) => (None, Some(told(&error))),
        };
        let roll = random();
        let cas = self.issuer.cas.len();
        let remembered = self.issuer.folder.failures(&id);
        let remembered = remembered.filter(|failures| failures.cas == self.issuer.cas);
        let course = match (&remembered, &pair) {
            (Some(failures), _) => failures.course.clone().resumed(cas, now),
            (None, None) => Course::new(cas, now),
            (None, Some(pair)) => {
                let mut course = Course::new(cas, now);
                let life = pair.facts.life;
                course.succeeded(plan::renew_at(life, life.from, None, roll));
                course
            }
        };
        if let Some(pair) = &pair {
            self.serve(&names, pair);
        }
        let since = pair.as_ref().map_or(now, |pair| pair.facts.life.from);
        let line = Line {
            since,
            names,
            proofs,
            pair,
            course,
            roll,
            window: None,
            window_at: now,
            last_error: damage.or(remembered.map(|failures| failures.last_error)),
            is_busy: false,
            is_asked,
        };
        self.with(|book| {
            book.lines.entry(id).or_insert(line);
        });
        self.changed.notify_one();
    }

    /// A certificate for a name that is proven to be its owner's.
    pub(super) fn ask(&self, name: &Hostname) -> Asked {
        let id = name.to_string();
        let known = self.with(|book| {
            if let Some(line) = book.lines.get(&id) {
                return Some(match &line.pair {
                    Some(_) => Asked::Ready,
                    None => Asked::Waiting {
                        next_try: line.course.due(),
                        last_error: line.last_error.clone(),
                    },
                });
            }
            let asked = book.lines.values().filter(|line| line.is_asked).count();
            (asked >= ASKED_MAX).then_some(Asked::Full)
        });
        if let Some(known) = known {
            return known;
        }
        let name = CertName {
            host: name.clone(),
            is_wildcard: false,
        };
        self.add(vec![name], self.asked_proofs.clone(), true);
        self.with(|book| match book.lines.get(&id) {
            Some(line) if line.pair.is_some() => Asked::Ready,
            line => Asked::Waiting {
                next_try: line.map_or(Clock.now().wall, |line| line.course.due()),
                last_error: line.and_then(|line| line.last_error.clone()),
            },
        })
    }

    /// Whether there is a certificate for a name on disk.
    pub(super) fn is_kept(&self, name: &Hostname) -> bool {
        let kept = self.issuer.folder.certificate(&name.to_string());
        matches!(kept, Ok(Some(_)))
    }

    /// The name is nobody's any more: its certificate is not served and not renewed.
    pub(super) fn forget(&self, name: &Hostname) {
        let id = name.to_string();
        let was_asked = self.with(|book| {
            let was_asked = book.lines.get(&id).is_some_and(|line| line.is_asked);
            was_asked && book.lines.remove(&id).is_some()
        });
        if was_asked {
            self.resolver.change(|shelf| {
                shelf.of_names.remove(name);
            });
        }
    }

    /// Somebody has mended something: what failed is tried again at once, unless the CA asked for a wait.
    pub(super) fn hurry(&self) {
        let now = Clock.now().wall;
        self.with(|book| (book.lines.values_mut()).for_each(|line| line.course.hurry(now)));
        self.changed.notify_one();
    }

    pub(super) fn status(&self) -> Vec<CertificateStatus> {
        let cas = &self.issuer.cas;
        self.with(|book| {
            let lines = book.lines.values();
            lines.map(|line| status(line, cas)).collect()
        })
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.resolver) as Arc<dyn ResolvesServerCert>
    }

    /// Does what is due until the group stops.
    pub(super) async fn keep(self: Arc<Self>, tasks: Tasks) {
        let stop = tasks.stopped();
        loop {
            let wait = self.start_due(&tasks);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts what is due; how long nothing will be.
    fn start_due(self: &Arc<Self>, tasks: &Tasks) -> Duration {
        let now = Clock.now().wall;
        while let Some((id, job)) = self.next_job(now) {
            let mut running = Running {
                keeper: Arc::clone(self),
                id,
                is_order: matches!(job, Job::Issue(_)),
                has_ended: false,
            };
            let stop = tasks.stopped();
            tasks.spawn("acme-job", async move {
                let (keeper, id) = (&running.keeper, &running.id);
                match job {
                    // It stops by itself, and clears away what it has put up.
                    Job::Issue(wanted) => keeper.issue(id, wanted).await,
                    Job::Window(pair, ca) => tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = keeper.ask_window(id, &pair, ca) => {}
                    },
                }
                running.end();
            });
        }
        self.with(|book| {
            let busy = book.lines.values().filter(|line| line.is_busy).count();
            let idle = book.lines.values().filter(|line| !line.is_busy);
            // One that ends wakes us.
            let due = idle.map(Line::due).min().filter(|_| busy < AT_ONCE);
            due.map_or(LOOK_EVERY, |due| due.since(now).min(LOOK_EVERY))
        })
    }

    fn next_job(&self, now: WallTime) -> Option<(String, Job)> {
        self.with(|book| {
            let busy = book.lines.values().filter(|line| line.is_busy).count();
            if busy >= AT_ONCE {
                return None;
            }
            // The longest overdue first.
            let due = (book.lines.iter_mut())
                .filter_map(|(id, line)| Some((line.due(), id, line.job(now)?, line)));
            let (_, id, job, line) = due.min_by_key(|(due, ..)| *due)?;
            line.is_busy = true;
            Some((id.clone(), job))
        })
    }

    async fn issue(&self, id: &str, wanted: Wanted) {
        let ca = &self.issuer.cas[wanted.ca];
        let shown: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
        let names = shown.join(", ");
        info!(%names, %ca, "asking for a certificate");
        match self.issuer.issue(id, &wanted).await {
            Ok(pair) => {
                info!(%names, %ca, until = %pair.facts.life.until, "certificate in use");
                self.issued(id, pair);
                self.remember(id, None).await;
            }
            Err((IssueError::Stopped, _)) => {
                self.with_line(id, |line| line.is_busy = false);
            }
            Err((error, failure)) => {
                let error = told(&error);
                let Some(course) = self.failed(id, &error, failure) else {
                    return debug!(%names, %error, "no certificate for a name that was given up");
                };
                warn!(%names, %ca, %error, next_try = %course.due(), "no certificate, the old one stays");
                // A daemon that restarts often must not use up what a CA allows; what it does not count
                // is tried anew.
                let counts = failure.blame == Blame::Refused || failure.retry_after.is_some();
                if counts || self.issuer.folder.failures(id).is_some() {
                    let cas = self.issuer.cas.clone();
                    let failures = Failures {
                        cas,
                        course,
                        last_error: error,
                    };
                    self.remember(id, Some(failures)).await;
                }
            }
        }
    }

    fn issued(&self, id: &str, pair: Pair) {
        let now = Clock.now().wall;
        let roll = random();
        let names = self.with_line(id, |line| {
            line.course
                .succeeded(plan::renew_at(pair.facts.life, now, None, roll));
            line.since = now;
            line.pair = Some(pair.clone());
            line.roll = roll;
            line.window = None;
            line.window_at = now;
            line.last_error = None;
            line.is_busy = false;
            line.names.clone()
        });
        // None: it was forgotten meanwhile.
        if let Some(names) = names {
            self.serve(&names, &pair);
        }
    }

    fn failed(&self, id: &str, error: &str, failure: Failure) -> Option<Course> {
        let now = Clock.now().wall;
        self.with_line(id, |line| {
            let life = line.life().map(Life::length);
            line.course.failed(now, failure, life, random());
            line.last_error = Some(error.to_owned());
            line.is_busy = false;
            line.course.clone()
        })
    }

    /// Counts as a failure of ours, so that it is tried again, and not at once.
    fn broke_off(&self, id: &str, is_order: bool) {
        warn!(%id, "work on a certificate broke off, it is tried again");
        if is_order {
            let failure = Failure {
                blame: Blame::Ours,
                retry_after: None,
            };
            self.failed(id, "the work on it broke off: the log says why", failure);
        } else {
            let now = Clock.now().wall;
            self.with_line(id, |line| {
                line.is_busy = false;
                line.window_at = now.plus(NO_WINDOWS);
            });
        }
    }

    async fn remember(&self, id: &str, failures: Option<Failures>) {
        let (folder, id) = (self.issuer.folder.clone(), id.to_owned());
        let kept = blocking(move || folder.keep_failures(&id, failures.as_ref())).await;
        if let Err(error) = kept {
            warn!(error = %chain(&error), "failures are not remembered");
        }
    }

    async fn ask_window(&self, id: &str, pair: &Pair, ca: usize) {
        let life = pair.facts.life;
        let suggested = self.issuer.suggestion(ca, &pair.facts).await;
        let now = Clock.now().wall;
        self.with_line(id, |line| {
            line.is_busy = false;
            let again = match suggested {
                Ok(Some(Suggestion { window, again })) => {
                    line.window = Some(window);
                    plan::window_again(life, Some(again))
                }
                Ok(None) => NO_WINDOWS,
                // Not worth a warning: the share of its life decides then.
                Err(error) => {
                    debug!(%id, error = %chain(&error), "no renewal window");
                    plan::window_again(life, None)
                }
            };
            line.window_at = now.plus(again);
            if let Some(at) = line.renews_at() {
                line.course.moved(at);
            }
        });
    }

    fn serve(&self, names: &[CertName], pair: &Pair) {
        self.resolver.change(|shelf| {
            for name in names {
                let of = if name.is_wildcard {
                    &mut shelf.of_wildcards
                } else {
                    &mut shelf.of_names
                };
                of.insert(name.host.clone(), Arc::clone(&pair.key));
                if name.host == self.domain {
                    shelf.for_strangers = Arc::clone(&pair.key);
                }
            }
        });
    }

    fn with_line<T>(&self, id: &str, change: impl FnOnce(&mut Line) -> T) -> Option<T> {
        self.with(|book| book.lines.get_mut(id).map(change))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn status(line: &Line, cas: &[String]) -> CertificateStatus {
    let is_well = line.pair.is_some() && line.course.failures() == 0;
    CertificateStatus {
        names: line.names.iter().map(ToString::to_string).collect(),
        life: line.life(),
        renews_at: line
            .pair
            .as_ref()
            .map(|_| line.course.due())
            .filter(|_| is_well),
        next_try: (!is_well).then(|| line.course.due()),
        ca: cas[line.course.ca()].clone(),
        last_error: line.last_error.clone(),
        is_trying: line.is_busy && line.course.due() <= Clock.now().wall,
    }
}

/// What a file of it is called: names have no character that a file's name has not, but for the star.
fn id_of(names: &[CertName]) -> String {
    let first = names.first().expect("a certificate has a name");
    let star = if first.is_wildcard { "wildcard." } else { "" };
    format!("{star}{}", first.host)
}

fn covers(pair: &Pair, names: &[CertName]) -> bool {
    let has = |name: &CertName| pair.facts.names.contains(&name.to_string());
    names.iter().all(has)
}

/// One line of what others said, too, so it is cut and cleaned.
fn told(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 1000;
    let text: String = chain(error)
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST)
        .collect();
    text
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers nothing of TLS would work; a zero here only spreads nothing.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

impl From<FolderError> for super::StartError {
    fn from(error: FolderError) -> Self {
        Self::Folder(error)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::challenges::Challenges;
    use super::super::folder::Folder;
    use super::super::testing::pair;
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_a_failure_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let challenges = Challenges::new();
        let resolver = Resolver::new(Arc::clone(&challenges), pair(&["self.signed"]));
        let issuer = Issuer {
            // Nobody to ask, which no settings allow: the job finds it out the hard way.
            cas: Vec::new(),
            root: None,
            email: None,
            folder: Folder::open(dir.path()).unwrap(),
            challenges,
            dns: None,
            dns_wait: Duration::ZERO,
            stop: CancellationToken::new(),
        };
        let host = Hostname::parse("t.example").unwrap();
        let name = CertName {
            host: host.clone(),
            is_wildcard: false,
        };
        let keeper = Keeper::new(Arc::new(issuer), resolver, host, Vec::new());
        let (keeper, tasks) = (Arc::new(keeper), Tasks::new());
        keeper.add(vec![name], vec![Proof::Http], false);
        let now = Clock.now().wall;
        keeper.start_due(&tasks);
        assert!(tasks.finished(Duration::from_secs(20)).await);
        let line = keeper.with(|book| book.lines.remove("t.example")).unwrap();
        assert!(!line.is_busy && line.last_error.is_some());
        assert!(line.due() > now, "not in a storm");
    }
}
