//! The server's side of links: who comes in, what they may do, what they ask, and that they are still there.

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::codes::Code;
use crate::engine::limits::Act;
use crate::engine::{AskError, Event, Requester};
use crate::link::enrol::check_proof;
use crate::link::{Arriving, ControlRecv, ControlSend, Link, LinkError, Listener};
use crate::names::{DeviceId, LinkId};
use crate::tasks::Tasks;
use crate::times::Clock;
use crate::wire::token::JoinToken;
use crate::wire::{
    Capabilities, Control, Enroll, Hello, LinkTerms, Ping, TimeNote, VERSION, Welcome,
};

use super::control::{self, bind_ask, fault};
use super::desk::figures::{Figures, why};
use super::desk::{Desk, Entry, Post};
use super::keys::Pins;
use super::pace::Pace;
use super::silence::Silence;
use super::slugs;

/// How long a newcomer has from its Hello to its Enroll.
const ENROLL_WITHIN: Duration = Duration::from_secs(5);
/// Answers waiting for a client that does not read them; one Bind per tunnel it may have, and some.
const OUTBOX: usize = 2048;
/// How long a client may leave its answers unread, while it is to be heard: one that sleeps may wake.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// How long an enrolment may take to get on disk; its client waits no longer either.
const ENROLLED_WITHIN: Duration = Duration::from_secs(10);
/// How long the last words of a link may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Streams a known device may open to us: its control stream, and room for kinds to come.
const DEVICE_STREAMS: u32 = 4;

/// What every Welcome says.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub(super) domain: String,
    pub(super) pins: Pins,
    pub(super) keep_alive: Duration,
}

/// Takes in links until the listener closes.
pub(super) async fn accept(
    listener: std::sync::Arc<Listener>,
    desk: Desk,
    greeting: Greeting,
    tasks: Tasks,
) {
    let looks = desk
        .clone()
        .look_after(greeting.keep_alive, tasks.stopped());
    tasks.spawn_critical("link-looks", looks);
    while let Some(arriving) = listener.accept().await {
        let (desk, greeting) = (desk.clone(), greeting.clone());
        tasks.spawn("link", async move { serve(arriving, desk, greeting).await });
    }
    if listener.is_shut() {
        // A critical task lives until its group is told to stop, also when a drain ended its work.
        tasks.stopped().cancelled().await;
    }
}

async fn serve(arriving: Arriving, desk: Desk, greeting: Greeting) {
    let peer = arriving.peer();
    // Only who is really there is counted: else anybody could keep somebody out by writing their address
    // on datagrams.
    let (source, is_proved) = (peer.ip().into(), arriving.is_proved());
    let room = if is_proved {
        desk.source_may(Act::Handshake, source)
    } else {
        desk.source_has_room(Act::Handshake, source)
    };
    if room.is_err() {
        return debug!(%peer, "too many handshakes, link refused");
    }
    // In boxes, here and below: a link that idles for days holds no room for what is over in a moment.
    let established = Box::pin(arriving.establish()).await;
    // What breaks the protocol has come through the handshake, too.
    let is_there = matches!(established, Ok(_) | Err(LinkError::Protocol(_)));
    if is_there && !is_proved {
        let _ = desk.source_may(Act::Handshake, source);
    }
    let (link, tx, rx, hello) = match established {
        Ok(established) => established,
        Err(err) => return debug!(%peer, %err, "link not established"),
    };
    let id = desk.next_link();
    let (outbox, inbox) = mpsc::channel(OUTBOX);
    let entry = Entry {
        device: None,
        link: link.clone(),
        outbox,
        silence: Silence::default(),
        told: 0,
        figures: Figures::new(desk.now()),
    };
    let listed = Listed::new(desk.clone(), id, entry);
    let mut session = Session {
        id,
        link,
        tx,
        rx,
        inbox,
        desk,
        capabilities: hello.capabilities,
    };
    let carried = session.link.clone();
    let end = tokio::select! {
        biased;
        end = session.run(hello, &greeting) => end,
        // It ends only with the link.
        () = carried.carry_datagrams() => End::Gone,
    };
    session.note(&end);
    drop(listed);
    Box::pin(session.finish(end)).await;
}

/// A link that the desk knows, for as long as its task runs: a task that panics leaves no ghost.
struct Listed {
    desk: Desk,
    id: LinkId,
}

impl Listed {
    fn new(desk: Desk, id: LinkId, entry: Entry) -> Self {
        desk.register(id, entry);
        Self { desk, id }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.desk.unregister(self.id);
    }
}

/// Why a session ends.
enum End {
    /// We end it, and say so.
    Refuse(Code, String),
    /// The engine ends it, once what was said has arrived.
    Said(Code),
    /// It ended by itself, or was cut at once.
    Gone,
}

impl From<LinkError> for End {
    fn from(_: LinkError) -> Self {
        Self::Gone
    }
}

struct Session {
    id: LinkId,
    link: Link,
    tx: ControlSend,
    rx: ControlRecv,
    inbox: mpsc::Receiver<Post>,
    desk: Desk,
    /// What the client can do.
    capabilities: Capabilities,
}

impl Session {
    async fn run(&mut self, hello: Hello, greeting: &Greeting) -> End {
        if !hello.versions.contains(&VERSION) {
            // A stranger's list may be as long as a message.
            let theirs = short(&format!("{:?}", hello.versions));
            let text = format!("this server speaks version {VERSION}, the client {theirs}");
            return End::Refuse(Code::VersionMismatch, text);
        }
        let device = match Box::pin(self.identify(&hello)).await {
            Ok(device) => device,
            Err(end) => return end,
        };
        self.desk.claim(self.id, device);
        self.link.allow_streams(DEVICE_STREAMS);
        let peer = self.link.peer();
        self.desk.handle(Event::LinkUp {
            link: self.id,
            device,
            peer,
        });
        info!(link = %self.id, %device, %peer, software = %short(&hello.software), "link up");
        if let Err(end) = Box::pin(self.welcome(device, greeting)).await {
            return end;
        }
        self.listen(device).await
    }

    /// Whose link it is: the pin's device, or a newcomer's that enrols.
    async fn identify(&mut self, hello: &Hello) -> Result<DeviceId, End> {
        let pin = self.link.pin();
        let known = self.desk.read(|engine| engine.device_of(&pin));
        match known {
            Ok(device) if !hello.enrolling => Ok(device),
            Ok(_) | Err(AskError::NotEnrolled) if hello.enrolling => self.enrol().await,
            Ok(device) => Ok(device),
            Err(e) => Err(End::Refuse(e.code(), e.to_string())),
        }
    }

    async fn enrol(&mut self) -> Result<DeviceId, End> {
        let message = tokio::time::timeout(ENROLL_WITHIN, self.rx.recv()).await;
        let Ok(Ok(Some(Control::Enroll(enroll)))) = message else {
            return Err(End::Refuse(
                Code::Protocol,
                "an Enroll was announced and did not come".into(),
            ));
        };
        let exporter = self.link.exporter()?;
        if !check_proof(&enroll.secret, &exporter, &enroll.proof) {
            let peer = self.link.peer().ip();
            let _ = self.desk.source_may(Act::FailedJoin, peer.into());
            return Err(End::Refuse(Code::BadToken, AskError::BadToken.to_string()));
        }
        self.desk.handle(self.enroll_event(enroll));
        // The answer comes through the outbox like every other one.
        let answer = tokio::select! {
            biased;
            _ = self.link.closed() => return Err(End::Gone),
            answer = tokio::time::timeout(ENROLLED_WITHIN, self.inbox.recv()) => answer,
        };
        let Ok(answer) = answer else {
            return Err(End::Refuse(
                Code::Storage,
                "the enrolment was not written down in time".into(),
            ));
        };
        let said = match answer {
            Some(Post::Say(message)) => *message,
            Some(Post::End(_)) | None => return Err(End::Gone),
        };
        match said {
            Control::Enrolled(enrolled) => {
                let device = enrolled.device;
                self.say(&Control::Enrolled(enrolled)).await?;
                info!(%device, peer = %self.link.peer(), "device enrolled");
                Ok(device)
            }
            Control::Error(f) => Err(End::Refuse(Code::from_wire(f.code.into()), f.detail)),
            _ => Err(End::Gone),
        }
    }

    fn enroll_event(&self, enroll: Enroll) -> Event {
        Event::EnrollAsked {
            from: Requester::Link {
                link: self.id,
                request: 0,
            },
            peer: self.link.peer(),
            secret_hash: JoinToken::secret_hash(&enroll.secret),
            pin: self.link.pin(),
            name: short(&enroll.device_name),
            id: DeviceId::random(),
        }
    }

    async fn welcome(&mut self, device: DeviceId, greeting: &Greeting) -> Result<(), End> {
        let user = self
            .desk
            .read(|engine| engine.device(device))
            .map(|d| d.user)
            .unwrap_or_default();
        let welcome = Welcome {
            version: VERSION,
            capabilities: Capabilities::OURS,
            software: super::SOFTWARE.into(),
            generation: self.id.0,
            terms: LinkTerms {
                keep_alive_ms: greeting.keep_alive.as_millis() as u64,
            },
            domain: greeting.domain.clone(),
            pins: (greeting.pins.all().iter())
                .map(|pin| pin.0.into())
                .collect(),
            addresses: Vec::new(),
            device,
            user,
        };
        self.say(&Control::Welcome(welcome)).await
    }

    async fn listen(&mut self, device: DeviceId) -> End {
        let closed = self.link.clone();
        let closed = closed.closed();
        tokio::pin!(closed);
        let tunnels = self
            .desk
            .read(|engine| engine.settings().tunnels_per_device);
        let mut pace = Pace::new(Clock.now().monotonic, tunnels);
        loop {
            // A client that asks without end must not keep a worker to itself.
            tokio::task::consume_budget().await;
            tokio::select! {
                biased;
                // A link that is gone needs no more answers.
                end = &mut closed => {
                    info!(link = %self.id, %device, end = %end, "link down");
                    return End::Gone;
                }
                // Answers before new questions, so that a busy asker is slowed down by its own answers.
                post = self.inbox.recv() => match post {
                    Some(Post::Say(message)) => if let Err(end) = self.say(&message).await { return end },
                    Some(Post::End(code)) => return End::Said(code),
                    None => return End::Gone,
                },
                // Who asks too fast is not read for a while; what was sent waits with its sender.
                message = paced(&pace, &mut self.rx) => match message {
                    Ok(Some(message)) => {
                        let now = Clock.now().monotonic;
                        pace.note(now);
                        if matches!(message, Control::Sleeping | Control::Awake) {
                            let count = self.desk.read(|engine| engine.tunnels_of_device(device));
                            pace.note_for_each(now, count);
                        }
                        if let Err(end) = Box::pin(self.message(message)).await { return end }
                    }
                    Ok(None) => return End::Refuse(Code::Protocol, "the control stream ended".into()),
                    Err(LinkError::Protocol(why)) => return End::Refuse(Code::Protocol, why.to_string()),
                    Err(_) => return End::Gone,
                },
            }
        }
    }

    async fn say(&mut self, message: &Control) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = self.tx.send(message) => Ok(sent?),
            () = self.link.heard_for(READ_WITHIN) => Err(End::Refuse(
                Code::Overloaded,
                "answers are not being read".into(),
            )),
        }
    }

    async fn message(&mut self, message: Control) -> Result<(), End> {
        let from = |request| Requester::Link {
            link: self.id,
            request,
        };
        match message {
            Control::Bind(bind) => {
                let request = bind.request;
                match bind_ask(bind, self.capabilities) {
                    Ok(ask) => {
                        let proposals = slugs::propose();
                        self.desk.handle(Event::BindAsked {
                            from: from(request),
                            ask,
                            proposals,
                        });
                    }
                    Err(refusal) => self.say(&refusal).await?,
                }
            }
            Control::Set(set) => {
                let request = set.request;
                match super::policy::set_ask(set) {
                    Ok(ask) => self.desk.handle(Event::SetAsked {
                        from: from(request),
                        ask,
                    }),
                    Err(refusal) => self.say(&refusal).await?,
                }
            }
            Control::SetDomains(set) => {
                let request = set.request;
                match control::read_domains(request, &set.domains) {
                    Ok(domains) => self.desk.handle(Event::DomainsAsked {
                        from: from(request),
                        tunnel: set.tunnel,
                        domains,
                    }),
                    Err(refusal) => self.say(&refusal).await?,
                }
            }
            Control::Share(share) => {
                let request = share.request;
                match super::policy::share_ask(share) {
                    Ok(ask) => self.desk.handle(Event::ShareAsked {
                        from: from(request),
                        ask,
                    }),
                    Err(refusal) => self.say(&refusal).await?,
                }
            }
            Control::Shares(shares) => {
                let message = self.desk.shares(from(shares.request), &shares);
                self.say(&message).await?;
            }
            Control::Unshare(unshare) => match unshare.share.parse() {
                Ok(share) => self.desk.handle(Event::UnshareAsked {
                    from: from(unshare.request),
                    share,
                }),
                Err(_) => self.say(&super::policy::no_share(unshare.request)).await?,
            },
            Control::Close(close) => {
                self.desk.handle(Event::CloseAsked {
                    from: from(close.request),
                    tunnel: close.tunnel,
                });
            }
            Control::Leave(leave) => self.desk.handle(Event::LeaveAsked {
                from: from(leave.request),
            }),
            Control::Ping(Ping { nonce }) => self.say(&Control::Pong(Ping { nonce })).await?,
            Control::Time(TimeNote { nonce, .. }) => {
                let at = Some(self.desk.now().wall.as_millis());
                self.say(&Control::Time(TimeNote { nonce, at })).await?;
            }
            Control::Sleeping => self.desk.handle(Event::LinkAsleep { link: self.id }),
            Control::Awake => self.desk.handle(Event::LinkAwake { link: self.id }),
            // Only a sign of life.
            Control::Pong(_) => {}
            Control::Error(f) => {
                debug!(link = %self.id, code = f.code, detail = %short(&f.detail), "client reports")
            }
            Control::Hello(_)
            | Control::Enroll(_)
            | Control::Welcome(_)
            | Control::Enrolled(_)
            | Control::Bound(_)
            | Control::Shared(_)
            | Control::ShareList(_)
            | Control::DomainNews(_)
            | Control::Closed(_)
            | Control::Update(_)
            | Control::GoAway(_) => {
                return Err(End::Refuse(Code::Protocol, "a message out of place".into()));
            }
        }
        Ok(())
    }

    /// Remembers how it ended, for status.
    fn note(&self, end: &End) {
        let (code, why) = match end {
            End::Gone => why(self.link.ended()),
            End::Said(code) => (Some(*code), code.row().cause.to_owned()),
            End::Refuse(code, detail) => (Some(*code), format!("{code}: {detail}")),
        };
        self.desk.note_end(self.id, code, &why);
    }

    async fn finish(mut self, end: End) {
        let (code, detail) = match end {
            End::Gone => return,
            End::Said(code) => (code, code.row().cause.to_owned()),
            End::Refuse(code, detail) => {
                debug!(link = %self.id, peer = %self.link.peer(), %code, %detail, "link refused");
                // What does not fit any more is not waited for: the close says the code as well.
                self.tx.push(&fault(None, code, detail.clone()));
                let _ = tokio::time::timeout(LAST_WORDS, self.tx.sent()).await;
                (code, detail)
            }
        };
        // A close overtakes what is still on its way, so what was said last gets a moment to arrive.
        self.tx.flush(LAST_WORDS).await;
        self.link.close(code, &detail);
    }
}

/// The next message, once it may be read. Dropping the future loses nothing.
async fn paced(pace: &Pace, rx: &mut ControlRecv) -> Result<Option<Control>, LinkError> {
    let next = pace.next();
    if next > Clock.now().monotonic {
        tokio::time::sleep_until(next.into()).await;
    }
    rx.recv().await
}

/// What a peer says of itself, cut to a length that logs and tables bear.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
