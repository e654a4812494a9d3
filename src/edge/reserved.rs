//! The paths that are ours on every tunnel's host: nothing below them reaches an origin. Three are
//! answered: share links, here; the button of the page before a first visit; and by the client itself the
//! question it asks through its tunnel's public name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::body::EdgeBody;
use super::connection::Conn;
use super::credentials::SHARE_COOKIE;
use super::forward::{self, Visiting};
use super::respond::Failure;
use super::{Admit, EdgeSettings, OpenStream, interstitial};
use crate::engine::policy::share::{self, ShareRow};
use crate::times::Clock;
use crate::wire::RecvChunks;
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
    if let Some(token) = asking.head.path.strip_prefix(share::PATH) {
        return open_share(conn, &asking, token, has_body).await;
    }
    if asking.head.path.split('?').next() == Some(interstitial::PATH) {
        return interstitial::enter(settings, &asking, has_body);
    }
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

/// Lets a visitor in who opens a share link: a cookie for this host alone, and on to where the link leads.
/// Only a GET does, for whatever else programs try must not use a link up.
async fn open_share<S: Admit + OpenStream>(
    conn: &Arc<Conn<S>>,
    asking: &Visiting,
    token: &str,
    has_body: bool,
) -> Result<Response<EdgeBody<S::Rx>>, Failure> {
    let head = &asking.head;
    if head.method != Method::GET || has_body || head.protocol.is_some() {
        return Err(Failure::OurPath);
    }
    // Programs that add something to a link (`?utm_source=…`) do not break it.
    let token = token.split('?').next().unwrap_or_default();
    let opened = conn
        .edge
        .inside
        .open_share(&asking.label, asking.visitor.addr, token);
    let (row, proof) = opened.await.map_err(Failure::Refused)?;
    Ok(let_in(&row, &proof))
}

fn let_in<R: RecvChunks>(row: &ShareRow, proof: &str) -> Response<EdgeBody<R>> {
    let mut response = Response::new(EdgeBody::own(Bytes::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let fields = response.headers_mut();
    let left = row.expires_at.as_millis() - Clock.now().wall.as_millis();
    // Rounded down: a cookie does not outlive its link.
    let secs = (left / 1000).max(0);
    let cookie =
        format!("{SHARE_COOKIE}={proof}; Path=/; Max-Age={secs}; Secure; HttpOnly; SameSite=Lax");
    let visible = "tokens, numbers and paths of a head are visible";
    for (name, value) in [
        (header::SET_COOKIE, cookie),
        (header::LOCATION, leads_to(row)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CONTENT_LENGTH, "0".to_owned()),
    ] {
        fields.insert(name, HeaderValue::from_str(&value).expect(visible));
    }
    response
}

/// The first path that the link is for, as far as it is one; else the start.
fn leads_to(row: &ShareRow) -> String {
    let first = row.paths.first().map_or("/", |pattern| pattern.as_str());
    let certain = first.split('*').next().unwrap_or_default();
    // Two slashes would lead to another host.
    let is_path = certain.starts_with('/') && !certain.starts_with("//");
    let plain = certain.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_path && plain {
        certain.to_owned()
    } else {
        "/".to_owned()
    }
}
