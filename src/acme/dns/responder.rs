//! A name server for one zone that holds nothing but proofs: for `_acme-challenge` delegated to us by NS
//! or CNAME. It knows TXT at the zone's top while a proof runs, SOA and NS, and refuses the rest.
//!
//! Anybody may send it anything with anybody's address. So an answer over UDP is at most three times its
//! question (else it says "ask over TCP"), answers per second have a bound, and nothing is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::super::challenges::Challenges;
use crate::dns::{
    CLASS_ANY, CLASS_IN, HEADER, Header, Name, OPCODE_MASK, Reader, TYPE_ANY, TYPE_NS, TYPE_OPT,
    TYPE_SOA, TYPE_TXT, put_record, txt,
};
use crate::tasks::Tasks;
use crate::times::Clock;

/// The largest answer over UDP without fragments anywhere.
const UDP_MAX: usize = 1232;
/// The same for those who do not say that they take more.
const UDP_PLAIN: usize = 512;
/// The longest question that makes sense: a name, and a few options.
const QUESTION_MAX: usize = 1024;
/// An answer over UDP is at most so many times its question.
const GAIN_MAX: usize = 3;
/// Answers over UDP in a second; a CA looks from a handful of places.
const PER_SECOND: u32 = 200;
/// TCP: connections at once, questions of one, and how long it may take over them.
const CONNECTIONS: usize = 32;
const QUESTIONS: usize = 8;
const CONNECTION_TIME: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const QR: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const NO_ERROR: u16 = 0;
const BAD_FORM: u16 = 1;
const NO_SUCH_NAME: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;
const REFUSED: u16 = 5;

/// The question's name, which stands right behind the header.
const POINTER_TO_NAME: u16 = 0xc000 | HEADER as u16;

/// What the responder answers for.
#[derive(Debug, Clone)]
pub(in crate::acme) struct Zone {
    /// Its top, where the proofs stand.
    pub(in crate::acme) top: Name,
    /// Who serves it: this machine's name.
    pub(in crate::acme) server: Name,
}

/// Answers on both sockets until the group stops.
pub(in crate::acme) fn spawn(
    (udp, tcp): (UdpSocket, TcpListener),
    zone: Zone,
    challenges: Arc<Challenges>,
    tasks: &Tasks,
) {
    let answers = Arc::new(Answers { zone, challenges });
    let stop = tasks.stopped();
    let (of_udp, until) = (Arc::clone(&answers), stop.clone());
    tasks.spawn("acme-dns-udp", async move {
        tokio::select! {
            biased;
            () = until.cancelled() => {}
            () = serve_udp(&udp, &of_udp) => {}
        }
    });
    let connections = tasks.clone();
    tasks.spawn("acme-dns-tcp", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = serve_tcp(&tcp, &answers, &connections) => {}
        }
    });
}

async fn serve_udp(socket: &UdpSocket, answers: &Answers) {
    let mut buffer = [0; QUESTION_MAX];
    let mut allowance = Allowance::new();
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                if let Some(answer) = answers.over_udp(&buffer[..length])
                    && allowance.take()
                {
                    // One that does not go out is asked for again.
                    let _ = socket.try_send_to(&answer, peer);
                }
            }
            Err(error) => {
                debug!(%error, "cannot receive a dns question");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_tcp(listener: &TcpListener, answers: &Arc<Answers>, tasks: &Tasks) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "cannot accept a dns connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let (answers, stop) = (Arc::clone(answers), tasks.stopped());
        tasks.spawn("acme-dns-connection", async move {
            let _slot = slot;
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ended = timeout(CONNECTION_TIME, converse(stream, &answers)) => {
                    log_end(peer, ended.map_or(Ok(()), |ended| ended));
                }
            }
        });
    }
}

fn log_end(peer: SocketAddr, ended: std::io::Result<()>) {
    if let Err(error) = ended {
        debug!(%peer, %error, "dns connection ended early");
    }
}

async fn converse(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    for _ in 0..QUESTIONS {
        let length = usize::from(stream.read_u16().await?);
        if length > QUESTION_MAX {
            return Ok(());
        }
        let mut question = vec![0; length];
        stream.read_exact(&mut question).await?;
        let Some(answer) = answers.to(&question, usize::from(u16::MAX)) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        stream.write_all(&framed).await?;
    }
    Ok(())
}

/// Answers that may still go out in this second.
struct Allowance {
    since: Instant,
    left: u32,
}

impl Allowance {
    fn new() -> Self {
        Self {
            since: Instant::from_std(Clock.now().monotonic),
            left: PER_SECOND,
        }
    }

    fn take(&mut self) -> bool {
        let now = Instant::from_std(Clock.now().monotonic);
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.left) = (now, PER_SECOND);
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
}

struct Answers {
    zone: Zone,
    challenges: Arc<Challenges>,
}

/// A question that can be answered.
struct Question {
    id: u16,
    flags: u16,
    name: Name,
    kind: u16,
    class: u16,
    /// Where it ends in the message.
    end: usize,
    /// What the asker takes over UDP, when it says.
    takes: Option<usize>,
}

impl Question {
    fn read(message: &[u8]) -> Result<Self, Option<u16>> {
        let mut reader = Reader::new(message);
        let header = Header::read(&mut reader).ok_or(None)?;
        // An answer is never answered: two servers would talk for ever.
        if header.flags & QR != 0 {
            return Err(None);
        }
        if header.flags & OPCODE_MASK != 0 {
            return Err(Some(NOT_IMPLEMENTED));
        }
        let bad = Err(Some(BAD_FORM));
        if header.counts[0] != 1 {
            return bad;
        }
        let Some(name) = reader.name() else {
            return bad;
        };
        let (Some(kind), Some(class)) = (reader.u16(), reader.u16()) else {
            return bad;
        };
        let end = reader.position();
        let others = header.counts[1..].iter().map(|n| usize::from(*n)).sum();
        let takes = (0..others)
            .map_while(|_| reader.record())
            .find(|record| record.kind == TYPE_OPT)
            // An OPT record's class is the size.
            .map(|record| usize::from(record.class));
        Ok(Self {
            id: header.id,
            flags: header.flags,
            name,
            kind,
            class,
            end,
            takes,
        })
    }
}

impl Answers {
    fn over_udp(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.to(message, message.len() * GAIN_MAX)
    }

    /// The answer, no longer than `most` unless the bare question is; none for what deserves none.
    fn to(&self, message: &[u8], most: usize) -> Option<Vec<u8>> {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(Some(code)) => return Some(bare(message, code)),
            Err(None) => return None,
        };
        let is_tcp = most == usize::from(u16::MAX);
        let takes = question.takes.unwrap_or(0).clamp(UDP_PLAIN, UDP_MAX);
        let most = if is_tcp { most } else { most.min(takes) };
        let reply = self.reply(&question);
        let whole = write(message, &question, &reply, false);
        if whole.len() <= most {
            return Some(whole);
        }
        let none = Reply {
            answers: Vec::new(),
            authority: None,
            ..reply
        };
        Some(write(message, &question, &none, true))
    }

    fn reply(&self, question: &Question) -> Reply {
        let nothing = |code| Reply {
            code,
            is_ours: code != REFUSED,
            answers: Vec::new(),
            authority: None,
        };
        let zone = &self.zone;
        let is_in = question.class == CLASS_IN || question.class == CLASS_ANY;
        let Some(top_at) = question.name.offset_of(&zone.top).filter(|_| is_in) else {
            return nothing(REFUSED);
        };
        let wants = |kind| question.kind == kind || question.kind == TYPE_ANY;
        let mut reply = nothing(NO_ERROR);
        if top_at == 0 {
            if wants(TYPE_TXT) {
                let records = self.challenges.records();
                (reply.answers).extend(records.iter().map(|value| (TYPE_TXT, txt(value))));
            }
            if question.kind == TYPE_SOA {
                reply.answers.push((TYPE_SOA, self.soa(&question.name)));
            }
            if question.kind == TYPE_NS {
                let server = near(&question.name, &zone.server);
                reply.answers.push((TYPE_NS, server));
            }
        } else {
            reply.code = NO_SUCH_NAME;
        }
        if reply.answers.is_empty() {
            reply.authority = Some((top_at, self.soa(&question.name)));
        }
        reply
    }

    /// Nobody is to remember for long what changes within minutes.
    fn soa(&self, asked: &Name) -> Vec<u8> {
        let server = near(asked, &self.zone.server);
        let mut data = [&server[..], &server[..]].concat();
        for number in [1_u32, 3600, 600, 86_400, 1] {
            data.extend(number.to_be_bytes());
        }
        data
    }
}

struct Reply {
    code: u16,
    is_ours: bool,
    answers: Vec<(u16, Vec<u8>)>,
    /// Where the zone's name stands in the question's, and its SOA.
    authority: Option<(usize, Vec<u8>)>,
}

/// A name: a pointer into the question's where that ends with it.
fn near(asked: &Name, name: &Name) -> Vec<u8> {
    match asked.offset_of(name) {
        Some(offset) => pointer(offset).to_vec(),
        None => name.wire().to_vec(),
    }
}

fn pointer(offset: usize) -> [u8; 2] {
    (POINTER_TO_NAME + u16::try_from(offset).unwrap_or(0)).to_be_bytes()
}

/// A header that says what is wrong, and nothing else.
fn bare(message: &[u8], code: u16) -> Vec<u8> {
    let mut reader = Reader::new(message);
    let asked = Header::read(&mut reader);
    let mut out = Vec::with_capacity(HEADER);
    Header {
        id: asked.map_or(0, |header| header.id),
        flags: QR | code | asked.map_or(0, |header| header.flags & OPCODE_MASK),
        counts: [0; 4],
    }
    .write(&mut out);
    out
}

fn write(message: &[u8], question: &Question, reply: &Reply, truncated: bool) -> Vec<u8> {
    let mut flags = QR | reply.code | (question.flags & RECURSION_DESIRED);
    flags |= if reply.is_ours { AUTHORITATIVE } else { 0 };
    flags |= if truncated { TRUNCATED } else { 0 };
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(UDP_PLAIN);
    Header {
        id: question.id,
        flags,
        counts: [
            1,
            count(reply.answers.len()),
            u16::from(reply.authority.is_some()),
            u16::from(question.takes.is_some()),
        ],
    }
    .write(&mut out);
    // As it came: some askers vary the letters' case, and want it back.
    out.extend(&message[HEADER..question.end]);
    for (kind, data) in &reply.answers {
        put_record(&mut out, &pointer(0), (*kind, CLASS_IN), 1, data);
    }
    if let Some((offset, soa)) = &reply.authority {
        put_record(&mut out, &pointer(*offset), (TYPE_SOA, CLASS_IN), 1, soa);
    }
    if question.takes.is_some() {
        let size = u16::try_from(UDP_MAX).unwrap_or(u16::MAX);
        put_record(&mut out, &[0], (TYPE_OPT, size), 0, &[]);
    }
    out
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
