//! Visits that are bytes only: TCP, and TLS that is not ours to open.

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};

use super::dial::{CONNECT_DEADLINE, DialError};
use super::exchange::{Failure, gone};
use super::pool::Pool;
use super::socket::OriginIo;
use super::splice::{Moved, SpliceError, splice};
use super::tunnel::{OriginTunnel, VisitReport};
use crate::engine::book::ProxyVersion;
use crate::names::{Kind, Target};
use crate::wire::{BytesHead, RecvChunks, SendChunks, proxy};

/// Dials the tunnel's target and moves bytes both ways.
pub(super) async fn serve<S: SendChunks, R: RecvChunks>(
    pool: &Pool,
    tunnel: &OriginTunnel,
    head: &BytesHead,
    tx: &mut S,
    rx: &mut R,
    report: &mut VisitReport,
) -> Result<(), Failure> {
    let Target::Stream {
        kind: Kind::Tcp | Kind::Tls,
        ..
    } = &tunnel.target
    else {
        return Err(Failure::Dial(DialError::Unsupported {
            target: tunnel.target.to_string(),
        }));
    };
    let by = Instant::now() + CONNECT_DEADLINE;
    let socket = tokio::select! {
        biased;
        gone = gone(tx) => return Err(gone),
        dialled = pool.dialler().dial(&tunnel.target, by) => dialled?,
    };
    socket.keep_alive();
    let mut io = OriginIo::Plain(socket);
    if let Some(version) = tunnel.proxy_protocol() {
        let header = match version {
            ProxyVersion::V1 => proxy::v1(head.peer, head.local),
            ProxyVersion::V2 => proxy::v2(head.peer, head.local),
        };
        introduce(&mut io, header, by).await?;
    }
    let mut moved = Moved::default();
    let ended = splice(io, Bytes::new(), tx, rx, &mut moved).await;
    report.bytes_in = moved.up;
    report.bytes_out = moved.down;
    ended.map_err(Failure::Splice)
}

/// Says who visits, before anything else.
async fn introduce(io: &mut OriginIo, header: Bytes, by: Instant) -> Result<(), Failure> {
    let late = || std::io::ErrorKind::TimedOut.into();
    let said = timeout_at(by, io.write_all(&header)).await;
    said.unwrap_or_else(|_| Err(late()))
        .map_err(|error| Failure::Splice(SpliceError::Origin(error)))
}
