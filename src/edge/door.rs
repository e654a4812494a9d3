//! The server's own door on the HTTPS port: a request for no tunnel, after which the connection belongs
//! to whoever implements [`Attach`]. No visit, and not what flows through it.

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;

use super::body::EdgeBody;
use super::connection::{Conn, Patience};
use super::front::Visitor;
use super::respond::Failure;
use super::{Admit, Attach, EdgeSettings, OpenStream, own, upgrade};
use crate::http::{Host, Scheme, head};

/// Answers a request for the door; `None` for one that is not for it. On the base domain the door's
/// path is the door's alone. On a name that is no tunnel's, and on an address, only what the door
/// would open to is for it: everybody else hears what they always hear there.
pub(super) fn knock<S: Admit + Attach + OpenStream>(
    conn: &Conn<S>,
    settings: &EdgeSettings,
    visitor: &Visitor,
    parts: &Parts,
    has_body: bool,
    upgrade: &mut Option<OnUpgrade>,
) -> Option<Result<Response<EdgeBody<S::Rx>>, Failure>> {
    let is_door = parts.uri.path_and_query()?.as_str() == S::DOOR;
    // Only a connection of HTTP/1 can become another's.
    if !is_door || conn.facts.scheme != Scheme::Https || conn.facts.is_multiplexed {
        return None;
    }
    let at_home = is_home(conn, settings, visitor, parts)?;
    match judge(conn, visitor, parts, has_body) {
        Ok((response, place)) => {
            open(conn, upgrade.take()?, place);
            Some(Ok(response.map(|()| EdgeBody::own(Bytes::new()))))
        }
        // Who would have been let in hears everywhere that there is no room.
        Err(status) if at_home || status == StatusCode::SERVICE_UNAVAILABLE => {
            Some(Err(Failure::Door(status)))
        }
        Err(_) => None,
    }
}

/// Whether it is for the base domain, or else for nobody in particular; `None` for what is a tunnel's
/// or not acceptable.
fn is_home<S: Admit>(
    conn: &Conn<S>,
    settings: &EdgeSettings,
    visitor: &Visitor,
    parts: &Parts,
) -> Option<bool> {
    let host = head::authority(parts, conn.facts.scheme).ok()?.host;
    let name = match &host {
        Host::Name(name) => Some(name),
        Host::V6(_) | Host::Other(_) => None,
    };
    let other_sni = conn.facts.sni.is_some() && conn.facts.sni.as_ref() != name;
    if other_sni && !visitor.is_brought {
        return None;
    }
    let inside = &conn.edge.inside;
    if name.is_some_and(|name| own::place(inside, settings, name).is_some()) {
        return None;
    }
    Some(name == Some(&settings.domain))
}

fn judge<S: Attach>(
    conn: &Conn<S>,
    visitor: &Visitor,
    parts: &Parts,
    has_body: bool,
) -> Result<(Response<()>, S::Place), StatusCode> {
    if has_body {
        return Err(StatusCode::BAD_REQUEST);
    }
    let mut asked = Request::new(());
    *asked.method_mut() = parts.method.clone();
    *asked.version_mut() = parts.version;
    *asked.uri_mut() = parts.uri.clone();
    *asked.headers_mut() = parts.headers.clone();
    conn.edge.inside.judge(&asked, visitor.addr)
}

/// Its task is the role's and not the connections': a drain does not wait for it, because visits that
/// are still to finish may need it until the last.
fn open<S: Attach>(conn: &Conn<S>, on: OnUpgrade, place: S::Place) {
    let stop = conn.edge.tasks.stopped();
    let inside = conn.edge.inside.clone();
    let slot = conn.facts.slot.clone();
    let patience = Patience::new(&conn.activity);
    conn.edge.tasks.spawn("edge-door", async move {
        let _held = (slot, patience);
        let attached = async {
            if let Some(io) = upgrade::switched(on).await {
                inside.attach(io, place).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = attached => {}
        }
    });
}
