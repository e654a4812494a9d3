//! `wormkeyctl doctor`, the client's part: looks at all that a tunnel depends on, side by side, and says
//! what to do. Changes nothing. Each look has a deadline of its own; one doctor is at work at a time.

mod network;
mod tunnels;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::admin::ApiError;
use crate::admin::checks::{CheckJson, DoctorJson};
use crate::admin::types::LinkJson;
use crate::codes::Code;
use crate::engine::book::{BookRow, Enrolment};
use crate::link::outside::Opinion;
use crate::link::{Link, buffers};

use super::Client;

/// The longest of all looks; what is not known by then is said to be so.
const WITHIN: Duration = Duration::from_secs(30);
/// Looks of one kind under way at once.
const AT_ONCE: usize = 8;

/// What the looks start from, as it was when the doctor came.
struct Patient {
    enrolment: Option<Enrolment>,
    standing: LinkJson,
    link: Option<Link>,
    rows: Vec<BookRow>,
}

impl Client {
    /// Looks at everything.
    pub(super) async fn doctor(&self) -> Result<DoctorJson, ApiError> {
        let Ok(_alone) = self.doctor.try_lock() else {
            return Err(ApiError::new(
                Code::Overloaded,
                "another doctor is at work; try again in a moment",
            ));
        };
        let patient = Patient {
            enrolment: self.book.enrolment(),
            standing: self.standing.borrow().clone(),
            link: self.link().filter(|_| self.link_up()),
            rows: self.book.rows(),
        };
        let mut checks = vec![joined(&patient)];
        let (network, tunnels) = tokio::join!(self.network(&patient), self.tunnels(&patient));
        checks.extend(network);
        checks.push(socket_buffers());
        checks.extend(tunnels);
        Ok(DoctorJson { checks })
    }
}

fn joined(patient: &Patient) -> CheckJson {
    match &patient.enrolment {
        Some(enrolment) => CheckJson::ok(
            "joined",
            format!(
                "this is a device of {} at {}",
                enrolment.user, enrolment.domain
            ),
        ),
        None => CheckJson::fail(
            "joined",
            "this device has not joined a server",
            "get a join token with `wormkeyctl server invite` on the server, then `wormkeyctl join wkj_…` here",
        ),
    }
}

fn socket_buffers() -> CheckJson {
    match buffers() {
        Ok(buffers) => opinion("socket_buffers", buffers.opinion()),
        Err(err) => CheckJson::fail(
            "socket_buffers",
            format!("no UDP socket can be opened: {err}"),
            "look at the limits of the daemon: ulimit -n, or LimitNOFILE in its unit",
        ),
    }
}

/// An opinion as a check.
fn opinion(name: &str, opinion: Opinion) -> CheckJson {
    match opinion {
        Opinion::Well(what) => CheckJson::ok(name, what),
        Opinion::Poor(what, fix) => CheckJson::warn(name, what, fix),
        Opinion::Bad(what, fix) => CheckJson::fail(name, what, fix),
    }
}

/// A look, or that it took too long.
async fn in_time(name: &str, look: impl Future<Output = Vec<CheckJson>>) -> Vec<CheckJson> {
    tokio::time::timeout(WITHIN, look)
        .await
        .unwrap_or_else(|_| {
            let what = format!("not known after {} s", WITHIN.as_secs());
            vec![CheckJson::warn(name, what, "run the doctor again")]
        })
}

type Look<'a> = Pin<Box<dyn Future<Output = Option<CheckJson>> + Send + 'a>>;

/// Runs looks side by side, a few at a time; the findings keep their order.
async fn few_at_once(mut looks: Vec<Look<'_>>) -> Vec<CheckJson> {
    let mut found = Vec::new();
    while !looks.is_empty() {
        let rest = looks.split_off(looks.len().min(AT_ONCE));
        let now = std::mem::replace(&mut looks, rest);
        found.extend(all(now).await.into_iter().flatten());
    }
    found
}

async fn all(mut looks: Vec<Look<'_>>) -> Vec<Option<CheckJson>> {
    let mut found: Vec<Option<Option<CheckJson>>> = looks.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (look, found) in looks.iter_mut().zip(&mut found) {
            if found.is_none()
                && let Poll::Ready(check) = look.as_mut().poll(cx)
            {
                *found = Some(check);
            }
        }
        match found.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
