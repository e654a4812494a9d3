//! What the edge asks for, given: the engine's admission with the wait of the hold, and streams on live links.

use std::future::Future;

use crate::edge::{Admit, OpenError, OpenStream, Pass};
use crate::engine::{Refusal, Route, Visit};
use crate::link::{LinkRecv, LinkSend, OpenFailure};
use crate::names::{LinkId, VisitId};
use crate::wire::StreamHead;

use super::desk::{Desk, Seat, Seated, Signals};

impl Admit for Desk {
    async fn admit(&self, visit: Visit) -> Result<Pass, Refusal> {
        match Self::admit(self, &visit)? {
            Seat::Pass(route, signals) => Ok(self.pass(route, signals)),
            Seat::Hold(released) => {
                let mut held = Held {
                    desk: self.clone(),
                    visit: visit.id,
                    released: Some(released),
                };
                let outcome = held.wait().await;
                outcome.map(|(route, signals)| self.pass(route, signals))
            }
        }
    }
}

impl Desk {
    fn pass(&self, route: Route, signals: Signals) -> Pass {
        let guard = Box::new(Open {
            desk: self.clone(),
            visit: route.visit,
        });
        Pass {
            route,
            cut: signals.cut,
            offline: signals.offline,
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
    async fn wait(&mut self) -> Seated {
        let Some(released) = &mut self.released else {
            return Err(Refusal::Draining);
        };
        let outcome = released.await;
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
            let link = found.ok_or(OpenError::LinkGone)?;
            link.open(head).await.map_err(|e| match e {
                OpenFailure::LinkGone => OpenError::LinkGone,
                OpenFailure::NoStream => OpenError::NoStream,
            })
        }
    }
}
