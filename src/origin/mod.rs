//! The client's side of a visit: reach the local service ("origin") and bring back its answer. Not the
//! link: visits arrive as streams behind [`SendChunks`] and [`RecvChunks`]. Not decisions about tunnels:
//! the role maps a stream's tunnel id to an [`OriginTunnel`].
//!
//! ```text
//! head + body ──request──▶ pool ──dial (policy)──▶ origin
//!       ▲                                             │
//!       └──────────response · splice · files──────────┘
//! ```
//!
//! What an origin is spoken to in:
//! - `http:` and `unix:`: HTTP/1.1. A gRPC request (content type `application/grpc…`) is tried in HTTP/2 with
//!   prior knowledge first; no request is sent before the origin has shown that it speaks it. An origin that
//!   does not is asked in HTTP/1.1, and not tried again for a minute.
//! - `https:`: what ALPN agrees on; an upgrade asks for HTTP/1.1.
//! - `file:`: nothing is dialled; the directory is served from here.

mod body;
mod dial;
mod exchange;
mod exposure;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod line;
mod look;
mod naming;
mod policy;
mod pool;
mod raw;
mod request;
mod response;
mod socket;
mod splice;
mod tls;
mod tunnel;
mod udp;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tracing::debug;

pub use dial::DialError;
pub use exposure::{Danger, Exposure, Sight};
pub use look::Finding;
pub use policy::OriginPolicy;
pub use tls::OriginSetupError;
pub use tunnel::{OriginTunnel, VisitReport};

use self::pool::Pool;
use crate::names::Target;
use crate::tasks::Tasks;
use crate::wire::udp::Datagrams;
use crate::wire::{BytesHead, HttpHead, RecvChunks, SendChunks, StreamCode, UdpHead};

/// Every origin of this client: the policy, and the connections that are kept. Clones share both.
#[derive(Clone)]
pub struct Origins {
    pool: Pool,
}

impl Origins {
    /// Nothing is dialled yet. Stopping `tasks` cuts every connection: drain visits first.
    pub fn new(policy: OriginPolicy, tasks: Tasks) -> Result<Self, OriginSetupError> {
        Ok(Self {
            pool: Pool::new(policy, tasks)?,
        })
    }

    /// Takes a new policy. Kept connections are closed; visits in progress go on.
    pub fn set_policy(&self, policy: OriginPolicy) {
        self.pool.set_policy(policy);
    }

    /// Whether the policy allows the target at all: paths by their text behind symbolic links, hosts by
    /// the addresses they have now. The error tells which list to extend.
    pub async fn check(&self, target: &Target) -> Result<(), DialError> {
        self.pool.dialler().check(target).await
    }

    /// Does anything answer? At most two seconds; never an error.
    pub async fn look(&self, tunnel: &OriginTunnel) -> Finding {
        look::look(&self.pool, tunnel).await
    }

    /// Is there something that should not be public? At most two seconds; never an error.
    pub async fn sight(&self, tunnel: &OriginTunnel) -> Sight {
        exposure::look(&self.pool, tunnel).await
    }

    /// One probe of `--wait-for`: whether `path` answers below 500. At most two seconds.
    pub async fn ready(&self, tunnel: &OriginTunnel, path: &str) -> bool {
        look::ready(&self.pool, tunnel, path).await
    }

    /// Serves an http stream whose head was read; `rx` begins right after that head. The stream is
    /// finished, or reset with the code of the report.
    pub async fn http<S: SendChunks, R: RecvChunks>(
        &self,
        tunnel: Arc<OriginTunnel>,
        mut head: Box<HttpHead>,
        mut tx: S,
        rx: R,
    ) -> VisitReport {
        let mut report = VisitReport::default();
        let served = match &tunnel.target {
            Target::File { dir } => {
                let policy = self.pool.dialler().policy();
                Box::pin(files::serve(policy, dir, &head, &mut tx, rx, &mut report)).await
            }
            Target::Stream { .. } => Err(exchange::Failure::Dial(DialError::Unsupported {
                target: tunnel.target.to_string(),
            })),
            _ => exchange::serve(&self.pool, &tunnel, &mut head, &mut tx, rx, &mut report).await,
        };
        if let Err(err) = served {
            let code = err.code();
            debug!(visit = %head.visit, slug = %tunnel.slug, ?code, err = %Chain(&err), "visit broke off");
            tx.reset(code);
            report.error = Some(code);
        }
        report
    }

    /// Serves a bytes stream whose head was read: dials, and moves bytes until both sides have ended.
    pub async fn bytes<S: SendChunks, R: RecvChunks>(
        &self,
        tunnel: Arc<OriginTunnel>,
        head: BytesHead,
        mut tx: S,
        mut rx: R,
    ) -> VisitReport {
        let mut report = VisitReport::default();
        let served = raw::serve(&self.pool, &tunnel, &head, &mut tx, &mut rx, &mut report).await;
        if let Err(err) = served {
            let code = err.code();
            debug!(visit = %head.visit, slug = %tunnel.slug, ?code, err = %Chain(&err), "visit broke off");
            tx.reset(code);
            rx.stop(StreamCode::Cancelled);
            report.error = Some(code);
        }
        report
    }

    /// Serves a flow of datagrams until it ends.
    pub async fn udp<F: Datagrams>(
        &self,
        tunnel: Arc<OriginTunnel>,
        head: UdpHead,
        mut flow: F,
    ) -> VisitReport {
        let mut report = VisitReport::default();
        let served = udp::serve(&self.pool, &tunnel, &head, &mut flow, &mut report).await;
        if let Err(err) = served {
            let code = err.code();
            debug!(visit = %head.visit, slug = %tunnel.slug, ?code, err = %Chain(&err), "visit broke off");
            flow.fail(code);
            report.error = Some(code);
        }
        report
    }
}

impl std::fmt::Debug for Origins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origins").finish_non_exhaustive()
    }
}

/// An error with its causes, for one log line.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
