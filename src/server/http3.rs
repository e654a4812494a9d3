//! Visitors over QUIC: from the links' port, where they arrive, to the edge.

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
        let (edge, stop) = (edge.clone(), stop.clone());
        tasks.spawn("edge-quic", async move {
            let established = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                established = visitor.establish(HANDSHAKE_TIMEOUT) => established,
            };
            if let Some(connection) = established {
                edge.serve_quic(connection);
            }
        });
    }
    // A critical task lives until its group is told to stop.
    stop.cancelled().await;
}
