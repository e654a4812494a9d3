//! The exposure guard's eyes: looks at an origin before strangers do, and tells what should not be public.
//! Not the guard itself: the role decides what follows.
//!
//! Everything asked is harmless and could be asked twice: GETs, and the words by which a few databases
//! say who they are. No password is guessed, little is read, and all of it takes two seconds at most; what
//! has not answered by then makes the look unclear, which is not the same as harmless.
//!
//! - HTTP (`web`): a table of paths, and what only such a thing answers there.
//! - Bytes (`bytes`), where no HTTP is spoken, and in `tcp://`: a table of words and replies.
//! - Files (`directory`): what a `file:` target would serve.
//!
//! `tls://` is looked at through TLS as HTTP. What speaks nothing but HTTP/2 stays unclear; `udp://` is not
//! looked at.

mod bytes;
mod danger;
mod directory;
#[cfg(test)]
mod tests;
mod web;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use ::http::{HeaderValue, Request};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

pub use danger::{Danger, Exposure};

use self::web::{Answer, Ask};
use super::body::RequestBody;
use super::dial::{DialError, blocking};
use super::pool::{Pool, Speak};
use super::tunnel::OriginTunnel;
use crate::engine::book::HostMode;
use crate::names::{Kind, Target, VisitId};

/// All that a look may take.
const WITHIN: Duration = Duration::from_secs(2);
/// How long an answer's body is read: an endless one is judged by its beginning.
const BODY_WITHIN: Duration = Duration::from_millis(300);
/// How much of it is read.
const BODY: usize = 64 * 1024;
/// Questions at a time: a small server takes one connection after the other.
const AT_ONCE: usize = 6;
/// How long a greeting is waited for, and a reply; both are local, and written at once.
const GREETING_WITHIN: Duration = Duration::from_millis(150);
const REPLY_WITHIN: Duration = Duration::from_millis(400);
const REPLY: usize = 4096;

/// What a look at an origin told the guard.
#[derive(Debug)]
pub enum Sight {
    /// It answered, and nothing was found that should not be public.
    Harmless,
    /// Nothing was found, and not all was answered, or not in time: something may be there.
    Unclear,
    /// Something that should not.
    Exposed(Exposure),
    /// Nobody is there, or it may not be dialled: there was nothing to look at.
    Unreachable(DialError),
}

type Found = Vec<&'static Danger>;

/// What was found, and whether all was answered.
type Seen = (Found, bool);

/// Looks, for at most two seconds.
pub(super) async fn look(pool: &Pool, tunnel: &OriginTunnel) -> Sight {
    let found = match &tunnel.target {
        Target::File { dir } => {
            if let Err(error) = pool.dialler().check(&tunnel.target).await {
                return Sight::Unreachable(error);
            }
            let dir = dir.clone();
            let looked = blocking(move || directory::look(&dir));
            let by = Instant::now() + WITHIN;
            let found = timeout_at(by, looked).await;
            Ok(found.map_or_else(|_| (Found::new(), false), |found| (found, true)))
        }
        Target::Stream {
            kind: Kind::Udp, ..
        } => Ok((Found::new(), true)),
        _ => Looker::new(pool, tunnel).look().await,
    };
    match found {
        Err(error) => Sight::Unreachable(error),
        Ok((dangers, is_all)) => match Exposure::of(tunnel.target.to_string(), dangers) {
            Some(exposure) => Sight::Exposed(exposure),
            None if is_all => Sight::Harmless,
            None => Sight::Unclear,
        },
    }
}

/// Why a question has no answer.
enum Miss {
    Dial(DialError),
    NotHttp,
    Late,
}

/// What a reply told.
enum Heard {
    Danger(&'static Danger),
    Something,
    Nothing,
}

struct Looker<'a> {
    pool: &'a Pool,
    tunnel: &'a OriginTunnel,
    /// Where HTTP is spoken.
    web: Target,
    host: HeaderValue,
    by: Instant,
    /// Something was asked and not answered.
    missed: AtomicBool,
}

impl<'a> Looker<'a> {
    fn new(pool: &'a Pool, tunnel: &'a OriginTunnel) -> Self {
        let web = match tunnel.target.clone() {
            Target::Stream {
                kind: Kind::Tls,
                host,
                port,
            } => Target::Https {
                host: host.unwrap_or_else(|| "localhost".into()),
                port,
                verify: false,
            },
            Target::Stream { host, port, .. } => Target::Http { host, port },
            target => target,
        };
        // Under its own name an origin shows most, and `--host auto` may come to use it.
        let host = match tunnel.mind().mode() {
            HostMode::Fixed(text) => text.clone(),
            _ => web.own_authority(),
        };
        Self {
            pool,
            tunnel,
            host: HeaderValue::try_from(host)
                .unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            web,
            by: Instant::now() + WITHIN,
            missed: AtomicBool::new(false),
        }
    }

    async fn look(&self) -> Result<Seen, DialError> {
        let is_stream = matches!(self.tunnel.target, Target::Stream { .. });
        let mut found = if is_stream && self.is_in_clear() {
            self.stream().await
        } else {
            match self.web().await {
                Err(Miss::NotHttp) if self.is_in_clear() => {
                    self.bytes().await.map(|(found, _)| found)
                }
                other => other,
            }
        };
        if is_stream && let Ok(found) = &mut found {
            found.retain(|danger| danger.in_bytes_too);
        }
        match found {
            Ok(found) => Ok((found, !self.missed.load(Ordering::Relaxed))),
            // It is there and does not let itself be looked at, such as one that speaks nothing but HTTP/2.
            Err(
                Miss::Dial(
                    DialError::TooSlow { .. } | DialError::Tls { .. } | DialError::Handshake { .. },
                )
                | Miss::NotHttp
                | Miss::Late,
            ) => Ok((Found::new(), false)),
            Err(Miss::Dial(error)) => Err(error),
        }
    }

    fn is_in_clear(&self) -> bool {
        !matches!(self.web, Target::Https { .. })
    }

    /// Who says nothing to the words of databases may still speak HTTP.
    async fn stream(&self) -> Result<Found, Miss> {
        let (found, spoke) = self.bytes().await?;
        if spoke || !found.is_empty() {
            return Ok(found);
        }
        self.web().await
    }

    async fn web(&self) -> Result<Found, Miss> {
        let nowhere = format!("/{}", VisitId::random());
        let (start, unknown) = tokio::join!(self.ask("/"), self.ask(&nowhere));
        let (start, unknown) = match (start, unknown) {
            (Err(miss), Err(_)) => return Err(miss),
            (start, unknown) => (self.or_missed(start), self.or_missed(unknown)),
        };
        let of_page = |ask, answer: &Option<Answer>| {
            let judged = answer.as_ref().map(|answer| web::judge(ask, answer, None));
            judged.unwrap_or_default()
        };
        let mut found = of_page(Ask::Start, &start);
        found.extend(of_page(Ask::Unknown, &unknown));
        let unknown = unknown.as_ref();
        let again = Mutex::new(Vec::new());
        let elsewhere = each(web::paths(), |path| {
            let again = &again;
            async move {
                match self.ask(path).await {
                    Ok(answer) => web::judge(Ask::Path(path), &answer, unknown),
                    Err(_) => {
                        again.lock().expect("a push does not panic").push(path);
                        Found::new()
                    }
                }
            }
        });
        found.extend(elsewhere.await);
        // One that cannot answer several at a time may answer them one by one.
        for path in again.into_inner().expect("a push does not panic") {
            let answer = self.or_missed(self.ask(path).await);
            let judged = answer.map(|answer| web::judge(Ask::Path(path), &answer, unknown));
            found.extend(judged.unwrap_or_default());
        }
        Ok(found)
    }

    fn or_missed<T>(&self, heard: Result<T, Miss>) -> Option<T> {
        if heard.is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
        heard.ok()
    }

    async fn ask(&self, path: &str) -> Result<Answer, Miss> {
        if Instant::now() >= self.by {
            return Err(Miss::Late);
        }
        timeout_at(self.by, self.get(path))
            .await
            .unwrap_or(Err(Miss::Late))
    }

    async fn get(&self, path: &str) -> Result<Answer, Miss> {
        let request = Request::get(path)
            .header(HOST, self.host.clone())
            .header(USER_AGENT, "wormkey exposure guard")
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(RequestBody::empty())
            .expect("paths of the table and ids are valid");
        let lease = self.pool.lease(&self.web, Speak::Http1, true).await;
        let mut lease = lease.map_err(Miss::Dial)?;
        let answered = lease.ask(request).await.map_err(|_| Miss::NotHttp)?;
        let (head, mut body) = answered.into_parts();
        let until = self.by.min(Instant::now() + BODY_WITHIN);
        let mut text = Vec::new();
        while text.len() < BODY
            && let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await
        {
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        text.truncate(BODY);
        Ok(Answer {
            status: head.status.as_u16(),
            fields: head.headers,
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    /// What the words of databases find, and whether anything was said to them that tells what it is.
    async fn bytes(&self) -> Result<(Found, bool), Miss> {
        match self.hear(&bytes::GREETING, GREETING_WITHIN).await? {
            Heard::Danger(danger) => return Ok((vec![danger], true)),
            Heard::Something => return Ok((Vec::new(), true)),
            Heard::Nothing => {}
        }
        let found = each(bytes::PROBES, |probe| async move {
            match self.or_missed(self.hear(probe, REPLY_WITHIN).await) {
                Some(Heard::Danger(danger)) => vec![danger],
                _ => Vec::new(),
            }
        });
        Ok((found.await, false))
    }

    async fn hear(&self, probe: &bytes::Probe, within: Duration) -> Result<Heard, Miss> {
        let dialled = self.pool.dialler().dial(&self.tunnel.target, self.by).await;
        let mut socket = dialled.map_err(Miss::Dial)?;
        let mut reply = Vec::new();
        let until = self.by.min(Instant::now() + within);
        let listening = async {
            if !probe.say.is_empty() {
                socket.write_all(probe.say).await.ok()?;
            }
            while reply.len() < REPLY && socket.read_buf(&mut reply).await.ok()? > 0 {
                if let Some(danger) = (probe.read)(&reply) {
                    return Some(danger);
                }
            }
            None
        };
        let heard = timeout_at(until, listening).await.ok().flatten();
        Ok(match heard {
            Some(danger) => Heard::Danger(danger),
            None if reply.is_empty() => Heard::Nothing,
            None => Heard::Something,
        })
    }
}

/// Does the work for each item, some at a time; what all of it found.
async fn each<T, F: Future<Output = Found>>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Found {
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().expect("an iterator does not panic").next();
    let worker = || async {
        let mut found = Vec::new();
        while let Some(item) = next() {
            found.extend(work(item).await);
        }
        found
    };
    const { assert!(AT_ONCE == 6, "as many workers as are joined here") };
    let found = tokio::join!(worker(), worker(), worker(), worker(), worker(), worker());
    let (a, b, c, d, e, f) = found;
    [a, b, c, d, e, f].concat()
}
