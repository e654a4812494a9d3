//! Own domains, carried out: proofs are looked up when the engine says so, certificates are asked for when
//! a domain is proven, and both are told to whoever has the tunnel. Whose a domain is, the engine decides.

mod lookup;
mod orders;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{debug, info};

use crate::acme;
use crate::admin::domains::{DomainJson, RecordJson};
use crate::config::DomainsConfig;
use crate::engine::domains::{DomainState, DomainView};
use crate::engine::{Event, TunnelView};
use crate::names::{Domain, Hostname, Kind, TunnelId, UserId};
use crate::tasks::Tasks;
use crate::times::{Clock, WallTime};
use crate::wire::{Control, DomainNews, DomainNote};

use super::desk::Desk;
use orders::Orders;

/// Questions that wait; what comes beyond is asked again later.
const WAITING: usize = 256;
/// Look-ups at once.
const AT_ONCE: usize = 8;
/// Names asked for in a handshake that wait to be looked at; the next handshake asks again.
const GREETED: usize = 64;
/// How often certificates are looked at when nothing happens.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same while some are being got.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Bytes of a sentence that go to clients: 64 domains with two each fit into a message.
const SAID: usize = 300;

/// A look that is to be made.
#[derive(Debug)]
struct Question {
    domain: Domain,
    users: Vec<UserId>,
}

/// What the desk, the edge and the task share. Clones share it.
#[derive(Clone)]
pub(crate) struct Own(Arc<Inner>);

struct Inner {
    key: hmac::Key,
    questions: mpsc::Sender<Question>,
    greeted: mpsc::Sender<Hostname>,
    /// The other ends, until the task takes them.
    ends: Mutex<Option<Ends>>,
    /// What leads where has changed.
    moved: Notify,
    /// How the certificate of each domain does, for people.
    certificates: Mutex<HashMap<Domain, String>>,
}

struct Ends {
    questions: mpsc::Receiver<Question>,
    greeted: mpsc::Receiver<Hostname>,
}

impl Own {
    /// `key` makes the proofs of users: the same one for as long as the server is the same.
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let (questions, asked) = mpsc::channel(WAITING);
        let (greeted, names) = mpsc::channel(GREETED);
        let ends = Ends {
            questions: asked,
            greeted: names,
        };
        Self(Arc::new(Inner {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            questions,
            greeted,
            ends: Mutex::new(Some(ends)),
            moved: Notify::new(),
            certificates: Mutex::default(),
        }))
    }

    /// What the record of a user says. No secret: whoever places it gives the domain to this user.
    pub(crate) fn proof(&self, user: UserId) -> String {
        let tag = hmac::sign(&self.0.key, &user.to_bytes());
        let short = data_encoding::BASE32_NOPAD.encode(&tag.as_ref()[..20]);
        format!("wormkey={}", short.to_ascii_lowercase())
    }

    /// Whether the look will be made.
    pub(crate) fn look_up(&self, domain: Domain, users: Vec<UserId>) -> bool {
        self.0
            .questions
            .try_send(Question { domain, users })
            .is_ok()
    }

    /// Something leads elsewhere now.
    pub(crate) fn moved(&self) {
        self.0.moved.notify_one();
    }

    /// A visitor wants TLS for a name that leads to somebody by its wildcard.
    pub(crate) fn greeted(&self, host: Hostname) {
        // A flood of names is not remembered.
        let _ = self.0.greeted.try_send(host);
    }

    fn certificates(&self) -> MutexGuard<'_, HashMap<Domain, String>> {
        let certificates = self.0.certificates.lock();
        certificates.unwrap_or_else(PoisonError::into_inner)
    }

    fn certificate(&self, view: &TunnelView, of: &DomainView) -> Option<String> {
        if view.row.kind != Kind::Http || of.state != DomainState::Proven {
            return None;
        }
        self.certificates().get(&of.domain).cloned()
    }

    /// For the client of a tunnel.
    pub(crate) fn news(&self, view: &TunnelView) -> Control {
        let note = |of: &DomainView| DomainNote {
            domain: of.domain.to_string(),
            state: of.state.as_str().to_owned(),
            since: of.since.as_millis(),
            missing_since: of.missing_since.map(WallTime::as_millis),
            looked_at: of.looked_at.map(WallTime::as_millis),
            said: of.said.as_deref().map(short),
            certificate: self.certificate(view, of).as_deref().map(short),
        };
        Control::DomainNews(DomainNews {
            tunnel: view.row.id,
            proof: self.proof(view.row.user),
            domains: view.domains.iter().map(note).collect(),
        })
    }

    /// For the operator.
    pub(crate) fn json(&self, view: &TunnelView) -> Vec<DomainJson> {
        let json = |of: &DomainView| DomainJson {
            domain: of.domain.to_string(),
            state: of.state.as_str().to_owned(),
            since: Some(of.since),
            missing_since: of.missing_since,
            checked_at: of.looked_at,
            record: Some(RecordJson::txt(
                of.domain.challenge(),
                self.proof(view.row.user),
            )),
            why: of.said.clone(),
            certificate: self.certificate(view, of),
        };
        view.domains.iter().map(json).collect()
    }

    /// Whose proofs are among the texts found.
    fn proven(&self, users: Vec<UserId>, texts: &[String]) -> Vec<UserId> {
        let proven = |user: &UserId| texts.contains(&self.proof(*user));
        users.into_iter().filter(proven).collect()
    }
}

/// Looks up and asks until the stop signal.
pub(super) async fn serve(
    desk: Desk,
    certificates: Option<acme::Certificates>,
    settings: DomainsConfig,
    tasks: Tasks,
) {
    let own = desk.own().clone();
    let taken = own
        .0
        .ends
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let Some(mut ends) = taken else {
        return;
    };
    let stop = tasks.stopped();
    let free = Arc::new(Semaphore::new(AT_ONCE));
    let mut orders = Orders::new(certificates, &settings);
    loop {
        let soon = look_at_certificates(&desk, &mut orders);
        let wait = if soon { LOOK_SOON } else { LOOK_EVERY };
        let again = tokio::time::sleep(wait);
        tokio::pin!(again);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = own.0.moved.notified() => break,
                Some(question) = take(&mut ends.questions, &free) => {
                    look(&desk, question, settings.resolver, &tasks);
                }
                Some(host) = ends.greeted.recv() => {
                    let user = desk.read(|engine| engine.wildcard_owner(&host));
                    if let Some(user) = user && orders.want(host, user, Clock.now().monotonic) {
                        break;
                    }
                }
                () = &mut again => break,
            }
        }
    }
}

/// The next question, when there is a place for its look-up.
async fn take(
    questions: &mut mpsc::Receiver<Question>,
    free: &Arc<Semaphore>,
) -> Option<(Question, OwnedSemaphorePermit)> {
    let place = Arc::clone(free).acquire_owned().await.ok()?;
    Some((questions.recv().await?, place))
}

fn look(
    desk: &Desk,
    (question, place): (Question, OwnedSemaphorePermit),
    resolver: Option<SocketAddr>,
    tasks: &Tasks,
) {
    let (desk, stop) = (desk.clone(), tasks.stopped());
    tasks.spawn("domain-look-up", async move {
        let Question { domain, users } = question;
        let name = domain.challenge();
        let found = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            found = lookup::txt(resolver, &name) => found,
        };
        debug!(%domain, ?found, "looked for the proof of a domain");
        let found = match found {
            Ok(texts) => Ok(desk.own().proven(users, &texts)),
            Err(error) => Err(error.to_string()),
        };
        desk.handle(Event::LookedUp { domain, found });
        drop(place);
    });
}

/// Asks for certificates that are missing, gives up those that nobody needs, and tells what changed.
/// Whether some are being got.
fn look_at_certificates(desk: &Desk, orders: &mut Orders) -> bool {
    let (served, wildcards) = desk.read(|engine| {
        let served: HashMap<Domain, UserId> = (engine.domains_served())
            .map(|(domain, user)| (domain.clone(), user))
            .collect();
        let wildcards: HashSet<Hostname> = (orders.greeted())
            .filter(|host| engine.wildcard_owner(host).is_some())
            .cloned()
            .collect();
        (served, wildcards)
    });
    let now = Clock.now();
    let told = orders.keep(&served, &wildcards, now.monotonic);
    let own = desk.own();
    let before = std::mem::replace(&mut *own.certificates(), told.clone());
    let changed = |domain: &&Domain| before.get(*domain) != told.get(*domain);
    let tunnels: HashSet<TunnelId> = desk.read(|engine| {
        let of = |domain: &Domain| engine.domain_tunnel(domain);
        told.keys().filter(changed).filter_map(of).collect()
    });
    for tunnel in tunnels {
        info!(%tunnel, "certificates of its domains changed");
        desk.tell_domains(tunnel);
    }
    orders.are_waiting()
}

fn short(text: &str) -> String {
    let end = (0..=SAID).rev().find(|end| text.is_char_boundary(*end));
    match text.len() <= SAID {
        true => text.to_owned(),
        false => text[..end.unwrap_or(0)].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_its_users_alone_and_stays_the_same() {
        let own = Own::new(&[7; 32]);
        let (alice, bob) = (UserId::random(), UserId::random());
        assert_eq!(own.proof(alice), Own::new(&[7; 32]).proof(alice));
        assert_ne!(own.proof(alice), own.proof(bob));
        assert_ne!(own.proof(alice), Own::new(&[8; 32]).proof(alice));
        let texts = ["v=spf1 -all".to_owned(), own.proof(bob)];
        assert_eq!(own.proven(vec![alice, bob], &texts), [bob]);
        assert!(own.proven(vec![alice], &texts).is_empty());
        let proof = own.proof(alice);
        assert!(
            proof.len() == 40 && proof.starts_with("wormkey="),
            "{proof}"
        );
    }

    #[test]
    fn what_others_say_is_cut_to_what_a_message_bears() {
        for text in ["", "short", &"ü".repeat(500), &"\u{1f980}".repeat(500)] {
            let cut = short(text);
            assert!(cut.len() <= SAID && text.starts_with(&cut), "{cut}");
        }
        assert_eq!(short(&"x".repeat(500)).len(), SAID);
    }
}
