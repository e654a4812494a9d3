//! Visitors over QUIC: from the links' port, where they arrive, to the edge. Their handshakes count like
//! those of the other versions.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tracing::debug;

use super::desk::Desk;
use super::visits::Inside;
use crate::edge::Edge;
use crate::engine::limits::Act;
use crate::http::limits::HANDSHAKE_TIMEOUT;
use crate::link::Knocking;
use crate::tasks::Tasks;

/// Hands visitors over until the listener ends.
pub(super) async fn serve(
    mut knocking: mpsc::Receiver<Knocking>,
    edge: Edge<Inside>,
    desk: Desk,
    tasks: Tasks,
) {
    let stop = tasks.stopped();
    loop {
        let visitor = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            visitor = knocking.recv() => visitor,
        };
        let Some(visitor) = visitor else { break };
        let Some(peer) = visitor.peer() else { continue };
        let (edge, desk, stop) = (edge.clone(), desk.clone(), stop.clone());
        tasks.spawn("edge-quic", async move {
            let established = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                established = establish(visitor, peer, &desk) => established,
            };
            if let Some(connection) = established {
                edge.serve_quic(connection, peer);
            }
        });
    }
    // A critical task lives until its group is told to stop.
    stop.cancelled().await;
}

/// The handshake, if its source may have one more.
async fn establish(visitor: Knocking, peer: SocketAddr, desk: &Desk) -> Option<quinn::Connection> {
    // Only who is really there is counted: else anybody could keep somebody out by writing their address
    // on datagrams.
    let (source, is_proved) = (peer.ip().to_canonical().into(), visitor.is_proved());
    let room = if is_proved {
        desk.source_may(Act::Handshake, source)
    } else {
        desk.source_has_room(Act::Handshake, source)
    };
    if room.is_err() {
        debug!(%peer, "too many handshakes, visitor refused");
        return None;
    }
    let connection = visitor.establish(HANDSHAKE_TIMEOUT).await?;
    if !is_proved {
        let _ = desk.source_may(Act::Handshake, source);
    }
    Some(connection)
}
