//! Keeps the link: dials, enrols, reconnects for ever with full jitter, never proceeds past a wrong pin.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use crate::admin::ApiError;
use crate::admin::types::LinkJson;
use crate::codes::Code;
use crate::engine::Backoff;
use crate::engine::book::Enrolment;
use crate::engine::watch::Hint;
use crate::link::enrol::proof;
use crate::link::{Connected, Dialer, Identity, Link, LinkError};
use crate::names::{Hostname, Pin};
use crate::times::Clock;
use crate::wire::token::JoinToken;
use crate::wire::{Capabilities, Control, Enroll, Enrolled, Hello, VERSION, Welcome};

use super::session::{Ended, Session};
use super::{Client, Current, OUTBOX, SOFTWARE};

/// How long the server has to answer a Hello or an Enroll.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A link that lived this long was a good one: the next wait starts small again.
const SETTLED: Duration = Duration::from_secs(10);

/// How long what a Welcome says anew may wait for somebody who joins; the next Welcome says it again.
const LEARN_WITHIN: Duration = Duration::from_secs(1);

/// Keys and addresses remembered of a server: current and next, and room for a slip.
const LEARNT: usize = 8;
/// A host name, a colon and a port.
const ADDRESS_MAX: usize = 260;
/// The longest word of a server that is kept or shown.
const TEXT_MAX: usize = 300;

/// Keeps a link up for as long as the client runs.
pub(super) async fn keep(client: Arc<Client>) {
    let stop = client.tasks.stopped();
    let mut backoff = Backoff::default();
    let mut epoch = client.epoch.subscribe();
    // What came up in the stead of a link that fell silent.
    let mut successor = None;
    while !stop.is_cancelled() {
        let (anew, handed) = client.take_handed(&mut epoch);
        if anew {
            // Joined elsewhere, or left, since it was dialled.
            successor = None;
        }
        let session = match handed.or(successor.take()) {
            Some(session) => Ok(session),
            None => match client.book.enrolment() {
                Some(enrolment) => {
                    let mut epoch = epoch.clone();
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        // Joined elsewhere, or left: nobody wants this link any more.
                        _ = epoch.changed() => continue,
                        session = connect(&client, &enrolment) => session,
                        // The handshake came from an address that we have no longer: its answers go there.
                        hint = client.next_move() => {
                            debug!(?hint, "hint from the system, dialling anew");
                            continue;
                        }
                    }
                }
                None => {
                    client.stand(LinkJson {
                        state: "not_joined".into(),
                        ..LinkJson::default()
                    });
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = client.hurry.notified() => continue,
                    }
                }
            },
        };
        let wait = match session {
            Ok(session) => {
                let begun = Clock.now().monotonic;
                let ended = run(&client, session, epoch.clone()).await;
                if Clock.now().monotonic.saturating_duration_since(begun) >= SETTLED {
                    backoff.reset();
                }
                match ended {
                    Ended::Replaced(session) => {
                        successor = Some(*session);
                        continue;
                    }
                    ended => after(&client, ended, &mut backoff),
                }
            }
            Err(failure) => failed(&client, &failure, &mut backoff),
        };
        let Some(wait) = wait else { return };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = client.hurry.notified() => backoff.reset(),
            // Another network, or awake again: what failed before may work now.
            hint = client.next_move() => {
                debug!(?hint, "hint from the system, trying at once");
                backoff.reset();
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Why no session came about.
pub(super) enum Failure {
    Link(LinkError),
    Refused(Code, String),
}

impl Failure {
    /// As the caller of `join` gets it.
    pub(super) fn into_api(self) -> ApiError {
        match self {
            Self::Refused(code, detail) => ApiError::new(code, detail),
            Self::Link(e) => ApiError::new(api_code(&e), chain(&e)),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Refused(code, _) => *code,
            Self::Link(e) => api_code(e),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(e) => f.write_str(&chain(e)),
            Self::Refused(_, detail) => f.write_str(detail),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(e: LinkError) -> Self {
        Self::Link(e)
    }
}

/// What a failed link means to a person: most ways of failing are "cannot be reached".
fn api_code(e: &LinkError) -> Code {
    match e.code() {
        code
        @ (Code::Internal | Code::TimedOut | Code::Protocol | Code::Done | Code::Cancelled) => {
            debug!(%code, "link failed");
            Code::ServerUnreachable
        }
        code => code,
    }
}

/// An error with its causes, joined as the log joins them.
fn chain(e: &LinkError) -> String {
    let mut text = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn run(client: &Arc<Client>, session: Session, epoch: watch::Receiver<u64>) -> Ended {
    let (outbox, inbox) = mpsc::channel(OUTBOX);
    let address = session.link.peer().to_string();
    let generation = session.welcome.generation;
    info!(server = address, %generation, domain = session.welcome.domain, "link up");
    learn(client, &session.welcome, &epoch).await;
    client.set_current(Some(Current {
        link: session.link.clone(),
        capabilities: session.welcome.capabilities,
        outbox,
    }));
    client.stand_up(&session.link, Some(generation.to_string()));
    session.run(client, inbox, epoch).await
}

/// Remembers what a Welcome says anew: the server's next key, its addresses.
async fn learn(client: &Client, welcome: &Welcome, epoch: &watch::Receiver<u64>) {
    // Whoever joins another server now must not find this one's keys under its name.
    let Ok(_alone) = tokio::time::timeout(LEARN_WITHIN, client.membership.lock()).await else {
        return;
    };
    if epoch.has_changed().unwrap_or(true) {
        return;
    }
    let Some(known) = client.book.enrolment() else {
        return;
    };
    let mut pins = welcome.pins();
    pins.truncate(LEARNT);
    if pins.is_empty() {
        pins.clone_from(&known.pins);
    }
    let addresses = learnt_addresses(&welcome.addresses);
    let addresses = if addresses.is_empty() {
        known.addresses.clone()
    } else {
        addresses
    };
    let domain = Hostname::parse(&welcome.domain).unwrap_or_else(|_| known.domain.clone());
    let user = printable(&welcome.user);
    let fresh = Enrolment {
        pins,
        addresses,
        domain,
        user,
        ..known.clone()
    };
    if fresh != known
        && let Err(err) = client.book.enrol(fresh).await
    {
        warn!(%err, "news from the server not stored");
    }
}

/// The addresses worth keeping: few, and short.
fn learnt_addresses(given: &[String]) -> Vec<String> {
    let is_sound = |a: &&String| a.len() <= ADDRESS_MAX && a.bytes().all(|b| b.is_ascii_graphic());
    given
        .iter()
        .filter(is_sound)
        .take(LEARNT)
        .cloned()
        .collect()
}

/// What a server says for people, cut to a length that tables and terminals bear.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(TEXT_MAX)
        .collect()
}

/// How long to wait after a session; none when the client stops.
fn after(client: &Client, ended: Ended, backoff: &mut Backoff) -> Option<Duration> {
    match ended {
        Ended::Stopped => None,
        // It is run at once.
        Ended::Replaced(_) => Some(Duration::ZERO),
        Ended::GoAway(wait) => {
            // A server that says it to every link that comes up is no reason to spin.
            let wait = wait.max(backoff.next(super::random()));
            client.wait_standing("waiting", "the server asked to reconnect".into(), wait);
            Some(wait)
        }
        Ended::Lost(why) => Some(lost(client, why, backoff.next(super::random()))),
        Ended::Forgotten(why) => Some(lost(client, why, backoff.next_told(super::random()))),
        Ended::Refused(code, why) => Some(refused(client, code, why, backoff)),
    }
}

fn lost(client: &Client, why: String, wait: Duration) -> Duration {
    warn!(err = why, retry_in = ?wait, "link lost, reconnecting");
    client.wait_standing("waiting", why, wait);
    wait
}

fn failed(client: &Client, failure: &Failure, backoff: &mut Backoff) -> Option<Duration> {
    let why = failure.to_string();
    match failure.code() {
        code if is_lasting(code) => Some(refused(client, code, why, backoff)),
        _ => {
            let wait = backoff.next(super::random());
            warn!(err = why, retry_in = ?wait, "server not reached, trying again");
            client.wait_standing("connecting", why, wait);
            Some(wait)
        }
    }
}

/// Whether a refusal is one that waiting alone will hardly cure.
pub(super) const fn is_lasting(code: Code) -> bool {
    matches!(
        code,
        Code::WrongPin
            | Code::Revoked
            | Code::UnknownDevice
            | Code::VersionMismatch
            | Code::BadToken
    )
}

/// Something that waiting alone will hardly cure. Still tried, rarely: the server may be put right.
fn refused(client: &Client, code: Code, why: String, backoff: &mut Backoff) -> Duration {
    let wait = backoff.next(super::random()).max(Duration::from_secs(5));
    error!(%code, err = why, fix = code.row().fix, "the server is not to be used");
    client.wait_standing("refused", why, wait);
    wait
}

impl Client {
    fn wait_standing(&self, state: &str, why: String, wait: Duration) {
        let now = Clock.now().wall;
        self.stand(LinkJson {
            state: state.into(),
            since: Some(now),
            last_error: Some(why),
            next_attempt: Some(now.plus(wait)),
            ..LinkJson::default()
        });
    }

    /// The link is up: for the first time, or heard again (then the generation is as it was).
    pub(super) fn stand_up(&self, link: &Link, generation: Option<String>) {
        let before = self.standing.borrow().clone();
        self.stand(LinkJson {
            state: "up".into(),
            address: Some(link.peer().to_string()),
            since: Some(Clock.now().wall),
            generation: generation.or(before.generation),
            last_error: before.last_error,
            ..LinkJson::default()
        });
    }

    /// The link is heard again.
    pub(super) fn stand_heard(&self, link: &Link) {
        let silent = self.standing.borrow().state == "silent";
        if silent {
            info!("link heard again");
            self.stand_up(link, None);
        }
    }

    /// The next hint of the system; none when it gives none.
    pub(super) async fn next_hint(&self) -> Option<Hint> {
        self.senses.lock().await.next().await
    }

    /// The next hint after which another try is worth while. A clock that is set is none.
    pub(super) async fn next_move(&self) -> Hint {
        loop {
            match self.next_hint().await {
                Some(Hint::ClockStepped) => {}
                Some(hint) => return hint,
                None => std::future::pending().await,
            }
        }
    }

    /// From now on the way to this server is what counts.
    pub(super) async fn look_towards(&self, server: std::net::SocketAddr) {
        self.senses.lock().await.towards(server);
    }

    /// The link hears nothing, and the try to replace it failed too.
    pub(super) fn stand_silent(&self, why: &str, wait: Duration) {
        let before = self.standing.borrow().clone();
        let now = Clock.now().wall;
        self.stand(LinkJson {
            state: "silent".into(),
            since: if before.state == "silent" {
                before.since
            } else {
                Some(now)
            },
            last_error: Some(why.to_owned()),
            next_attempt: Some(now.plus(wait)),
            ..before
        });
    }

    /// A session of a new enrolment: it is the keeper's next, and links of the old one end.
    pub(super) fn hand(&self, session: Session) {
        let mut handed = self.handed();
        *handed = Some(session);
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// What was handed, and whether the enrolment has changed since the last look: known together, or a
    /// session would be ended by the very change that it came with.
    fn take_handed(&self, epoch: &mut watch::Receiver<u64>) -> (bool, Option<Session>) {
        let mut handed = self.handed();
        let anew = epoch.has_changed().unwrap_or(true);
        epoch.mark_unchanged();
        (anew, handed.take())
    }

    fn handed(&self) -> std::sync::MutexGuard<'_, Option<Session>> {
        self.handed
            .lock()
            .expect("nothing panics while it holds the session")
    }

    /// The key of a device that has joined. One that is gone is not made anew: the server would not know it.
    pub(super) fn identity(&self) -> Result<Identity, Failure> {
        Identity::load(&self.key_file()).map_err(key_failure)
    }

    fn key_file(&self) -> std::path::PathBuf {
        self.state_dir.join("client.key")
    }
}

fn key_failure(e: crate::link::IdentityError) -> Failure {
    Failure::Refused(
        Code::Storage,
        format!("the device's key cannot be used: {e}"),
    )
}

/// A connection beside the link that fell silent, without a Hello: no tunnel knows of it yet.
pub(super) async fn race(client: Arc<Client>) -> Result<(Connected, String), Failure> {
    let gone = || Failure::Refused(Code::NotJoined, "this device has left the server".into());
    let enrolment = client.book.enrolment().ok_or_else(gone)?;
    let dialer = Dialer::new(&client.identity()?, &client.link_settings)?;
    let mut last = no_address();
    for address in &enrolment.addresses {
        let fallback = client.ways.fallback(address);
        match dialer
            .connect_with(address, &enrolment.pins, Some(&fallback))
            .await
        {
            Ok(connected) => return Ok((connected, address.clone())),
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}

/// Makes a raced connection the link: from its Hello on, the tunnels are its.
pub(super) async fn take(connected: Connected, address: &str) -> Result<Session, Failure> {
    introduce(connected, address, None)
        .await
        .map(|(session, _)| session)
}

fn no_address() -> Failure {
    Failure::Refused(
        Code::ServerUnreachable,
        "no address of the server is known".into(),
    )
}

/// Dials the server's addresses in turn until one gives a session.
async fn connect(client: &Client, enrolment: &Enrolment) -> Result<Session, Failure> {
    let identity = client.identity()?;
    let dialer = Dialer::new(&identity, &client.link_settings)?;
    let mut last = no_address();
    for address in &enrolment.addresses {
        match greet(client, &dialer, address, &enrolment.pins, None).await {
            Ok((session, _)) => return Ok(session),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Enrols with a join token: tries its addresses in turn until one answers, for better or worse.
pub(super) async fn enrol(
    client: &Client,
    token: &JoinToken,
) -> Result<(Session, Enrolment), Failure> {
    let (identity, _) = Identity::load_or_create(&client.key_file()).map_err(key_failure)?;
    let dialer = Dialer::new(&identity, &client.link_settings)?;
    let mut last = Failure::Refused(
        Code::ServerUnreachable,
        "the join token names no address".into(),
    );
    for address in &token.addresses {
        match greet(client, &dialer, address, &token.pins, Some(token)).await {
            Ok((session, Some(enrolled))) => {
                let enrolment = enrolment_of(token, &session.welcome, enrolled)?;
                return Ok((session, enrolment));
            }
            Ok((_, None)) => {
                last = Failure::Refused(
                    Code::Protocol,
                    "the server did not enrol this device".into(),
                )
            }
            // An answer is an answer: the other addresses are the same server's.
            Err(refused @ Failure::Refused(..)) => return Err(refused),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

fn enrolment_of(
    token: &JoinToken,
    welcome: &Welcome,
    enrolled: Enrolled,
) -> Result<Enrolment, Failure> {
    let domain = Hostname::parse(&welcome.domain).map_err(|e| {
        Failure::Refused(Code::Protocol, format!("the server's domain is none: {e}"))
    })?;
    Ok(Enrolment {
        addresses: token.addresses.clone(),
        pins: token.pins.clone(),
        device: enrolled.device,
        user: printable(&enrolled.user),
        domain,
        joined_at: Clock.now().wall,
    })
}

async fn greet(
    client: &Client,
    dialer: &Dialer,
    address: &str,
    pins: &[Pin],
    token: Option<&JoinToken>,
) -> Result<(Session, Option<Enrolled>), Failure> {
    let fallback = client.ways.fallback(address);
    let connected = dialer.connect_with(address, pins, Some(&fallback)).await?;
    introduce(connected, address, token).await
}

/// Hello, with a token Enroll and Enrolled, then Welcome.
async fn introduce(
    connected: Connected,
    address: &str,
    token: Option<&JoinToken>,
) -> Result<(Session, Option<Enrolled>), Failure> {
    let hello = Hello {
        versions: vec![VERSION],
        capabilities: Capabilities::OURS,
        software: SOFTWARE.into(),
        device_name: device_name(),
        enrolling: token.is_some(),
    };
    let (link, mut tx, mut rx) = connected.greet(hello).await?;
    if let Some(token) = token {
        let secret = *token.secret.expose();
        let proof = proof(&secret, &link.exporter()?);
        tx.push(&Control::Enroll(Enroll {
            secret,
            proof,
            device_name: device_name(),
        }));
    }
    let mut enrolled = None;
    let answer = async {
        tx.sent().await?;
        loop {
            match rx.recv().await? {
                Some(Control::Enrolled(e)) if token.is_some() => enrolled = Some(e),
                Some(Control::Welcome(welcome)) => return Ok(welcome),
                Some(Control::Error(f)) => {
                    let detail = printable(&f.detail);
                    return Err(Failure::Refused(Code::from_wire(f.code.into()), detail));
                }
                Some(_) => {
                    return Err(Failure::Refused(
                        Code::Protocol,
                        "the server broke the protocol".into(),
                    ));
                }
                None => return Err(Failure::Link(LinkError::Late { what: "Welcome" })),
            }
        }
    };
    let welcome = match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(welcome) => welcome?,
        Err(_) => return Err(Failure::Link(LinkError::Late { what: "Welcome" })),
    };
    Ok((
        Session {
            link,
            tx,
            rx,
            welcome,
            address: address.to_owned(),
        },
        enrolled,
    ))
}

/// The machine's name, for people.
fn device_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() {
        "unnamed".into()
    } else {
        name
    }
}
