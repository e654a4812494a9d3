//! What the edge asks for, given: the engine's admission with the wait of the hold, streams on live
//! links, and the way in for links whose UDP is blocked.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use crate::edge::{Admit, Attach, OpenError, OpenFlow, OpenStream, Pass};
use crate::engine::limits::Act;
use crate::engine::policy::Policy;
use crate::engine::policy::share::{Purpose, ShareRow};
use crate::engine::{Checked, Refusal, Route, Verification, Visit};
use crate::link::path::{self, BadUpgrade};
use crate::link::{LinkFlow, LinkRecv, LinkSend, Listener, OpenFailure};
use crate::names::{Hostname, LinkId, ShareId, VisitId};
use crate::secret::Secret;
use crate::wire::{StreamHead, UdpHead};

use super::desk::{Desk, Seat, Seated, Signals};
use super::passwords::Busy;
use super::together::Said;

/// How long after the end of its hold a visit that the engine forgot to release still waits.
const RELEASED_WITHIN: Duration = Duration::from_secs(60);

/// What stands behind the edge. Clones share it.
#[derive(Clone)]
pub(super) struct Inside {
    desk: Desk,
    listener: Arc<Listener>,
}

impl Inside {
    pub(super) const fn new(desk: Desk, listener: Arc<Listener>) -> Self {
        Self { desk, listener }
    }
}

impl Attach for Inside {
    const DOOR: &'static str = path::CONNECT;

    type Place = path::Place;

    fn judge(
        &self,
        asked: &Request<()>,
        peer: SocketAddr,
    ) -> Result<(Response<()>, path::Place), StatusCode> {
        let response = path::accept(asked).map_err(BadUpgrade::status)?;
        let place = self.listener.place_for_path(peer).map_err(|refused| {
            debug!(%peer, %refused, "websocket path refused");
            StatusCode::SERVICE_UNAVAILABLE
        })?;
        Ok((response, place))
    }

    fn attach<I>(&self, io: I, place: path::Place) -> impl Future<Output = ()> + Send
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let attached = self.listener.attach_path_at(io, place);
        // How it ended is told where it was carried.
        async move { drop(attached.await) }
    }
}

impl Admit for Inside {
    fn admit(&self, visit: Visit) -> impl Future<Output = Result<Pass, Refusal>> + Send {
        Admit::admit(&self.desk, visit)
    }

    fn probe(&self, probe: VisitId, label: &str) -> Result<Pass, Refusal> {
        Admit::probe(&self.desk, probe, label)
    }

    fn passes_tls(&self, label: &str) -> bool {
        self.desk.read(|engine| engine.passes_tls(label))
    }

    fn own_domain(&self, host: &Hostname) -> Option<Hostname> {
        self.desk.read(|engine| engine.own_domain(host))
    }

    fn greeted(&self, host: &Hostname) {
        self.desk.own().greeted(host.clone());
    }

    fn may_shake_hands(&self, peer: SocketAddr) -> bool {
        let source = peer.ip().into();
        self.desk.source_may(Act::Handshake, source).is_ok()
    }

    fn may_ask_for_nobody(&self, peer: SocketAddr) -> Result<(), Refusal> {
        self.desk.may_ask_for_nobody(peer)
    }

    fn greet(&self, label: &str, peer: SocketAddr) -> Result<Arc<Policy>, Refusal> {
        self.desk.greet(label, peer)
    }

    fn open_share(
        &self,
        label: &str,
        peer: SocketAddr,
        token: &str,
    ) -> impl Future<Output = Result<(ShareRow, String), Refusal>> + Send {
        self.desk.let_in(label, peer, token)
    }

    fn share_of(&self, label: &str, proof: &str) -> Option<ShareId> {
        let row = self.desk.share_of(Purpose::Cookie, label, proof)?;
        Some(row.id)
    }
}

impl OpenStream for Inside {
    type Tx = LinkSend;
    type Rx = LinkRecv;

    fn open(
        &self,
        link: LinkId,
        head: &StreamHead,
    ) -> impl Future<Output = Result<(LinkSend, LinkRecv), OpenError>> + Send {
        self.desk.open(link, head)
    }
}

impl OpenFlow for Inside {
    type Flow = LinkFlow;

    fn open_flow(
        &self,
        link: LinkId,
        head: UdpHead,
    ) -> impl Future<Output = Result<LinkFlow, OpenError>> + Send {
        let found = self.desk.link_for_visit(link);
        async move {
            let (carrier, heard) = found.ok_or(OpenError::LinkGone)?;
            let opened = carrier.open_flow(head).await.map_err(why_not)?;
            self.desk.sent_on(link, heard);
            Ok(opened)
        }
    }
}

/// Whose password it is, if a visit says one.
fn said_by(visit: &Visit) -> Option<Said> {
    let said = visit.http.as_ref()?.credentials.as_ref()?;
    Some((visit.peer.ip().into(), said.digest))
}

const fn why_not(failure: OpenFailure) -> OpenError {
    match failure {
        OpenFailure::LinkGone => OpenError::LinkGone,
        OpenFailure::NoStream => OpenError::NoStream,
    }
}

impl Admit for Desk {
    async fn admit(&self, mut visit: Visit) -> Result<Pass, Refusal> {
        match self.seat(&mut visit).await? {
            Seat::Pass(route, signals) => Ok(self.pass(*route, signals)),
            // The policy changed under every check: what nobody has found right is wrong.
            Seat::Verify(verification) => Err(Refusal::Unauthorized {
                realm: verification.realm,
            }),
            Seat::Hold(released) => {
                let mut held = Held {
                    desk: self.clone(),
                    visit: visit.id,
                    released: Some(released),
                };
                let longest = self.longest_hold(&visit.label) + RELEASED_WITHIN;
                let outcome = held.wait(longest).await;
                outcome.map(|(route, signals)| self.pass(route, signals))
            }
        }
    }

    fn probe(&self, probe: VisitId, label: &str) -> Result<Pass, Refusal> {
        let (route, signals) = Self::probe(self, probe, label)?;
        Ok(Pass {
            route,
            cut: signals.cut,
            offline: signals.offline,
            rates: signals.rates,
            // The engine has counted nothing, so there is nothing to tell it.
            guard: Box::new(()),
        })
    }
}

impl Desk {
    /// Asks the engine, and checks the password when that is its answer. Once more for a policy that
    /// changed meanwhile, and not for ever. A check that is only for telling keeps nobody out when it cannot
    /// be made.
    async fn seat(&self, visit: &mut Visit) -> Result<Seat, Refusal> {
        let said = said_by(visit);
        if let Some(said) = said {
            self.together().wait(said).await;
        }
        let mut seat = Self::admit(self, visit)?;
        let is_checked = matches!(seat, Seat::Verify(_));
        let _leads = said
            .filter(|_| is_checked)
            .map(|said| self.together().lead(said));
        for _ in 0..2 {
            let Seat::Verify(verification) = seat else {
                break;
            };
            let http = visit.http.as_mut();
            let said = http.and_then(|http| http.credentials.as_mut());
            let said = said.expect("only credentials are checked");
            let shadow = verification.shadow;
            let check = self.check(*verification, said.password.clone());
            match Box::pin(check).await {
                Ok(checked) => said.checked = Some(checked),
                Err(_) if shadow => said.given_up = true,
                Err(refusal) => return Err(refusal),
            }
            seat = Self::admit(self, visit)?;
        }
        if let Seat::Verify(asked) = &seat
            && asked.shadow
            && let Some(said) = visit
                .http
                .as_mut()
                .and_then(|http| http.credentials.as_mut())
        {
            said.given_up = true;
            seat = Self::admit(self, visit)?;
        }
        Ok(seat)
    }

    async fn check(
        &self,
        asked: Verification,
        password: Secret<String>,
    ) -> Result<Checked, Refusal> {
        let Verification {
            tunnel,
            owner,
            realm,
            hash,
            shadow: _,
        } = asked;
        let whose = (owner, tunnel);
        let checked = self.passwords().fits(whose, hash.clone(), password).await;
        match checked {
            Ok(right) => Ok(Checked { hash, right }),
            Err(Busy) => Err(Refusal::HoldFull { tunnel: realm }),
        }
    }

    fn pass(&self, route: Route, signals: Signals) -> Pass {
        let guard = Box::new(Open {
            desk: self.clone(),
            visit: route.visit,
        });
        Pass {
            route,
            cut: signals.cut,
            offline: signals.offline,
            rates: signals.rates,
            guard,
        }
    }
}

/// A visit in the hold. Dropped while it waits, it is a visitor that went away.
struct Held {
    desk: Desk,
    visit: VisitId,
    released: Option<tokio::sync::oneshot::Receiver<Seated>>,
}

impl Held {
    async fn wait(&mut self, longest: Duration) -> Seated {
        let Some(released) = &mut self.released else {
            return Err(Refusal::Draining);
        };
        let Ok(outcome) = tokio::time::timeout(longest, released).await else {
            // The engine does not know of it any more. It is still to be forgotten here.
            return Err(Refusal::Draining);
        };
        self.released = None;
        // The engine releases every held visit; a lost release means that the process is ending.
        outcome.unwrap_or(Err(Refusal::Draining))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.released.is_some() {
            self.desk.forget_visit(self.visit);
        }
    }
}

/// An open visit; dropped when it is over.
struct Open {
    desk: Desk,
    visit: VisitId,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.desk.visit_ended(self.visit);
    }
}

impl OpenStream for Desk {
    type Tx = LinkSend;
    type Rx = LinkRecv;

    fn open(
        &self,
        link: LinkId,
        head: &StreamHead,
    ) -> impl Future<Output = Result<(LinkSend, LinkRecv), OpenError>> + Send {
        let found = self.link_for_visit(link);
        async move {
            let (carrier, heard) = found.ok_or(OpenError::LinkGone)?;
            let opened = carrier.open(head).await.map_err(why_not)?;
            self.sent_on(link, heard);
            Ok(opened)
        }
    }
}
