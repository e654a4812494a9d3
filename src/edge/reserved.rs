//! The paths that are ours on every tunnel's host: nothing below them reaches an origin. One is
//! answered, by the client itself: the question it asks through its tunnel's public name.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response};

use super::body::EdgeBody;
use super::connection::Conn;
use super::forward::{self, Visiting};
use super::respond::Failure;
use super::{Admit, EdgeSettings, OpenStream};
use crate::wire::probe::ProbeNonce;

/// A client answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Answers a request for a path of ours.
pub(super) async fn answer<S: Admit + OpenStream>(
    conn: &Arc<Conn<S>>,
    settings: &EdgeSettings,
    mut asking: Visiting,
    has_body: bool,
) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
    let head = &mut asking.head;
    let is_probe = ProbeNonce::of_path(&head.path).is_some();
    if !is_probe || head.method != Method::GET || has_body || head.protocol.is_some() {
        return Err(Failure::OurPath);
    }
    // Whoever asks, nothing about them is needed for the answer.
    head.fields.clear();
    let pass = conn.edge.inside.probe(asking.id, &asking.label);
    let pass = pass.map_err(Failure::Refused)?;
    forward::once(conn, settings, asking, pass, ANSWER_WITHIN).await
}
