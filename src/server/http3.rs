//! Visitors over QUIC: from the links' port, where they arrive, to the edge.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use super::visits::Inside;
use crate::edge::Edge;
use crate::http::limits::HANDSHAKE_TIMEOUT;
use crate::link::Knocking;
use crate::tasks::Tasks;

/// Hands visitors over until the listener ends.
pub(super) async fn serve(
    mut knocking: mpsc::Receiver<Knocking>,
    edge: Edge<Inside>,
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
        let peer = visitor.peer().map(canonical);
        // Who is not proved yet is asked about when the handshake has done it: an address that somebody else
        // writes on packets must not use up what its owner may.
        let is_asked = visitor.is_proved();
        if is_asked && !peer.is_some_and(|peer| edge.may_shake_hands(peer)) {
            continue;
        }
        let (edge, stop) = (edge.clone(), stop.clone());
        tasks.spawn("edge-quic", async move {
            let established = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                established = visitor.establish(HANDSHAKE_TIMEOUT) => established,
            };
            if let Some(connection) = established
                && (is_asked || edge.may_shake_hands(canonical(connection.remote_address())))
            {
                edge.serve_quic(connection);
            }
        });
    }
    // A critical task lives until its group is told to stop.
    stop.cancelled().await;
}

/// IPv4 visitors by their IPv4 address, whatever the socket is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
