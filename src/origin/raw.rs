//! Visits that are bytes only: TCP, and TLS that is not ours to open.

use bytes::Bytes;
use tokio::time::Instant;

use super::dial::{CONNECT_DEADLINE, DialError};
use super::exchange::{Failure, gone};
use super::pool::Pool;
use super::socket::OriginIo;
use super::splice::{Moved, splice};
use super::tunnel::{OriginTunnel, VisitReport};
use crate::names::{Kind, Target};
use crate::wire::{RecvChunks, SendChunks};

/// Dials the tunnel's target and moves bytes both ways.
pub(super) async fn serve<S: SendChunks, R: RecvChunks>(
    pool: &Pool,
    tunnel: &OriginTunnel,
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
    let mut moved = Moved::default();
    let ended = splice(OriginIo::Plain(socket), Bytes::new(), tx, rx, &mut moved).await;
    report.bytes_in = moved.up;
    report.bytes_out = moved.down;
    ended.map_err(Failure::Splice)
}
