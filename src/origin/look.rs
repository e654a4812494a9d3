//! A look at an origin before anybody visits: does anything answer? Never an error, never a visit.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use super::dial::DialError;
use super::exchange::{Exchange, Failure};
use super::pool::Pool;
use super::request::Plan;
use super::tunnel::OriginTunnel;
use crate::names::{Kind, Target, VisitId};
use crate::wire::{HttpHead, SendChunks, StreamCode, StreamError};

/// All that a look may take.
const LOOK: Duration = Duration::from_secs(2);

/// What a look at an origin found; one sentence by `Display`.
#[derive(Debug)]
pub enum Finding {
    /// It speaks HTTP.
    Answers {
        /// The status of its start page.
        status: u16,
    },
    /// It takes connections, or the directory is there; there is no more to look at.
    Accepts {
        /// The target.
        what: String,
    },
    /// Nobody is there.
    NothingListens {
        /// The target.
        what: String,
    },
    /// Somebody is there and speaks no HTTP/1.1, which gRPC servers do not.
    NotHttp {
        /// The target.
        what: String,
    },
    /// The client's settings do not allow the target.
    NotAllowed(DialError),
    /// The target cannot be reached for another reason.
    Unreachable(DialError),
    /// No answer within two seconds, or nothing that can be looked at.
    Silent {
        /// The target.
        what: String,
    },
}

impl Finding {
    /// Whether the person who opens a tunnel should hear of it.
    pub const fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::NothingListens { .. } | Self::NotAllowed(_) | Self::Unreachable(_)
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { status } => write!(f, "the origin answers ({status})"),
            Self::Accepts { what } => write!(f, "{what} is there"),
            Self::NothingListens { what } => write!(f, "nothing listens at {what} yet"),
            Self::NotHttp { what } => write!(f, "{what} is there, but does not speak HTTP/1.1"),
            Self::NotAllowed(error) => error.fmt(f),
            Self::Unreachable(error) => match std::error::Error::source(error) {
                Some(source) => write!(f, "{error}: {source}"),
                None => error.fmt(f),
            },
            Self::Silent { what } => write!(f, "{what} has not answered within 2 s"),
        }
    }
}

/// Looks, for at most two seconds; under `--host auto` the tunnel's mind learns from it.
pub(super) async fn look(pool: &Pool, tunnel: &OriginTunnel) -> Finding {
    let what = tunnel.target.to_string();
    let looked = timeout(LOOK, async {
        match &tunnel.target {
            Target::File { dir } => {
                pool.dialler().check(&tunnel.target).await?;
                Ok(match tokio::fs::metadata(dir).await {
                    Ok(meta) if meta.is_dir() => Finding::Accepts { what: what.clone() },
                    _ => Finding::NothingListens { what: what.clone() },
                })
            }
            Target::Stream {
                kind: Kind::Udp, ..
            } => {
                pool.dialler().check(&tunnel.target).await?;
                Ok(Finding::Silent { what: what.clone() })
            }
            Target::Stream { .. } => {
                pool.dialler()
                    .dial(&tunnel.target, Instant::now() + LOOK)
                    .await?;
                Ok(Finding::Accepts { what: what.clone() })
            }
            _ => ask(pool, tunnel, "/")
                .await
                .map(|status| Finding::Answers { status }),
        }
    })
    .await;
    match looked {
        Ok(Ok(finding)) => finding,
        Ok(Err(Failure::Dial(DialError::NothingListens { .. }))) => {
            Finding::NothingListens { what }
        }
        Ok(Err(Failure::Dial(error))) if error.is_policy() => Finding::NotAllowed(error),
        Ok(Err(Failure::Dial(DialError::TooSlow { .. }))) | Err(_) => Finding::Silent { what },
        Ok(Err(Failure::Dial(error))) => Finding::Unreachable(error),
        Ok(Err(_)) => Finding::NotHttp { what },
    }
}

/// One probe for `--wait-for`: whether the origin answers below 500.
pub(super) async fn ready(pool: &Pool, tunnel: &OriginTunnel, path: &str) -> bool {
    match &tunnel.target {
        Target::File { .. } | Target::Stream { .. } => {
            matches!(look(pool, tunnel).await, Finding::Accepts { .. })
        }
        _ => matches!(timeout(LOOK, ask(pool, tunnel, path)).await, Ok(Ok(status)) if status < 500),
    }
}

/// The status of a GET of ours, under the host that the origin takes.
async fn ask(pool: &Pool, tunnel: &OriginTunnel, path: &str) -> Result<u16, Failure> {
    let mut head = probe_head(tunnel, path);
    let fields = std::mem::take(&mut head.fields);
    let plan = Plan::new(&head, fields, [0; 16])?;
    let body = RequestBody::empty();
    let exchange = Exchange::new(pool, tunnel, &head, plan, body.watch());
    let answered = exchange.ask(&mut Nobody, body).await?;
    Ok(answered.response.status().as_u16())
}

fn probe_head(tunnel: &OriginTunnel, path: &str) -> HttpHead {
    let mut fields = HeaderMap::new();
    fields.insert(USER_AGENT, HeaderValue::from_static("wormkey"));
    fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
    HttpHead {
        tunnel: tunnel.id,
        visit: VisitId::random(),
        method: Method::GET,
        scheme: "https".to_owned(),
        authority: tunnel.public_authority.clone(),
        path: path.to_owned(),
        fields,
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        protocol: None,
        version: 11,
        has_body: false,
        expects_continue: false,
        timeout_ms: 0,
        shadowed: Vec::new(),
    }
}

/// Where interim answers to a probe go.
struct Nobody;

impl SendChunks for Nobody {
    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<(), StreamError>> {
        bufs.iter_mut().for_each(Bytes::clear);
        Poll::Ready(Ok(()))
    }

    fn poll_stopped(&mut self, _: &mut Context<'_>) -> Poll<Option<StreamError>> {
        Poll::Pending
    }

    fn finish(&mut self) {}

    fn reset(&mut self, _: StreamCode) {}
}
