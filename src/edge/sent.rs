//! A request's body: as it comes, or kept in memory when it has to be looked at before any of it goes on; and
//! the room there is for that. Not what is looked for.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::EdgeSettings;
use super::access::VisitLog;
use super::incoming::{BodyBroken, RequestBody};
use super::pace::Pace;
use super::respond::Failure;
use crate::engine::Route;
use crate::engine::limits::Visitor;
use crate::http::limits::{SIGNED_BODY_TIMEOUT, SIGNED_PART};
use crate::names::{TunnelId, UserId};
use crate::times::Clock;

/// What goes on at once of a body that was kept.
const PIECE: usize = 64 * 1024;

/// The room for bodies that are kept. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<Mutex<Used>>);

#[derive(Default)]
struct Used {
    all: usize,
    of: HashMap<Whose, usize>,
}

/// Whom a body counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    /// The owner of the tunnel it is for.
    User(UserId),
    Tunnel(TunnelId),
    Visitor(Visitor),
}

impl Whose {
    /// Which part of the room it may take, one body at least. Who trickles bodies, to whomever, leaves room
    /// for who delivers them.
    const fn part(self) -> usize {
        match self {
            Self::User(_) => SIGNED_PART,
            Self::Tunnel(_) => 2 * SIGNED_PART,
            Self::Visitor(_) => 8 * SIGNED_PART,
        }
    }
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Used> {
        // Plain numbers: a panic cannot leave them half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one body, none of it taken yet. Users are walls, and so are tunnels and visitors.
    pub(super) fn lodging(&self, route: &Route, settings: &EdgeSettings) -> Lodging {
        let owner = route.bandwidth.owner.map(|(_, user)| Whose::User(user));
        let tunnel = Whose::Tunnel(route.tunnel);
        Lodging {
            room: self.clone(),
            whose: [
                Some(Whose::Visitor(route.bandwidth.from)),
                Some(tunnel),
                owner,
            ],
            body: settings.signed_body,
            all: settings.signed_memory,
            bytes: 0,
        }
    }
}

/// What one body takes of the room; given back when it is dropped.
pub(super) struct Lodging {
    room: Room,
    whose: [Option<Whose>; 3],
    /// The most bytes of one body, and of all that are kept.
    body: usize,
    all: usize,
    bytes: usize,
}

impl Lodging {
    /// Takes some more, if there is.
    fn take(&mut self, bytes: usize) -> bool {
        let mut used = self.room.lock();
        let whose = self.whose.iter().flatten();
        let is_full = |whose: &Whose| {
            let own = used.of.get(whose).copied().unwrap_or_default();
            own + bytes > (self.all / whose.part()).max(self.body)
        };
        if used.all + bytes > self.all || whose.clone().any(is_full) {
            return false;
        }
        used.all += bytes;
        for whose in whose {
            *used.of.entry(*whose).or_default() += bytes;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Lodging {
    fn drop(&mut self) {
        let mut used = self.room.lock();
        used.all -= self.bytes;
        for whose in self.whose.iter().flatten() {
            if let Some(own) = used.of.get_mut(whose) {
                *own -= self.bytes;
                if *own == 0 {
                    used.of.remove(whose);
                }
            }
        }
    }
}

/// A request's body on this side.
pub(super) struct Sent {
    /// What was read ahead of time.
    kept: BytesMut,
    trailers: Option<HeaderMap>,
    /// What is still to come.
    rest: Option<RequestBody>,
    /// What the visitor waits for has been said: hyper sends its 100 as soon as somebody reads.
    begun: bool,
    lodging: Option<Lodging>,
    log: VisitLog,
}

impl Sent {
    pub(super) fn new(body: RequestBody, log: VisitLog) -> Self {
        Self {
            kept: BytesMut::new(),
            trailers: None,
            rest: Some(body),
            begun: false,
            lodging: None,
            log,
        }
    }

    /// Reads all of it, if it has at most `most` bytes. Whatever the outcome, what was read still goes on.
    pub(super) async fn keep(&mut self, most: usize, lodging: Lodging) -> Result<(), Failure> {
        let least = usize::try_from(self.size_hint().lower()).unwrap_or(usize::MAX);
        if least > most {
            return Err(Failure::SignedTooLarge);
        }
        let lodging = self.lodging.insert(lodging);
        let (mut pace, end) = (Pace::default(), now() + SIGNED_BODY_TIMEOUT);
        while let Some(rest) = self.rest.as_mut().filter(|rest| !rest.is_end_stream()) {
            self.begun = true;
            let due = pace.wait(now()).min(end);
            let frame = match timeout_at(due, rest.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => break,
                Ok(Some(Err(_))) => return Err(Failure::BodyBroken),
                Err(_) => return Err(Failure::BodySlow),
            };
            match frame.into_data() {
                Ok(data) => {
                    self.log.received(data.len() as u64);
                    pace.got(now(), data.len() as u64);
                    self.kept.extend_from_slice(&data);
                    if self.kept.len() > most {
                        return Err(Failure::SignedTooLarge);
                    }
                    if !lodging.take(data.len()) {
                        return Err(Failure::Overloaded);
                    }
                }
                Err(other) => self.trailers = other.into_trailers().ok(),
            }
        }
        self.rest = None;
        Ok(())
    }

    /// What was read.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Whether somebody has begun to read it.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(
                self.trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            );
        };
        let polled = ready!(Pin::new(rest).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            let size = frame.data_ref().map_or(0, Bytes::len);
            self.log.received(size as u64);
        }
        Poll::Ready(polled)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        if self.kept.is_empty() {
            return self.poll_rest(cx);
        }
        let size = self.kept.len().min(PIECE);
        let piece = self.kept.split_to(size).freeze();
        if self.kept.is_empty() {
            self.lodging = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref();
        self.kept.is_empty()
            && self.trailers.is_none()
            && rest.is_none_or(RequestBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(rest) if self.kept.is_empty() => rest.size_hint(),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.kept.len() as u64),
        }
    }
}

fn now() -> Instant {
    Instant::from_std(Clock.now().monotonic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::limits::SIGNED_MEMORY_MAX;

    const ROOM: usize = SIGNED_MEMORY_MAX;
    const ROOM_EACH: usize = ROOM / SIGNED_PART;

    fn lodging(room: &Room, user: u8) -> Lodging {
        let user = Whose::User(UserId::from_bytes([user; 16]));
        Lodging {
            room: room.clone(),
            whose: [Some(user), None, None],
            body: 1 << 20,
            all: ROOM,
            bytes: 0,
        }
    }

    #[test]
    fn one_visitor_left_no_room_for_the_deliveries_of_others() {
        let room = Room::default();
        let of = |visitor: [u8; 4], tunnel: u8, user: u8| Lodging {
            room: room.clone(),
            whose: [
                Some(Whose::Visitor(std::net::IpAddr::from(visitor).into())),
                Some(Whose::Tunnel(TunnelId::from_bytes([tunnel; 16]))),
                Some(Whose::User(UserId::from_bytes([user; 16]))),
            ],
            body: 1 << 20,
            all: ROOM,
            bytes: 0,
        };
        let mut hostile: Vec<_> = (0..17).map(|n| of([192, 0, 2, 1], n, n % 5)).collect();
        let lodged = hostile
            .iter_mut()
            .filter_map(|one| one.take(1 << 20).then_some(()));
        assert_eq!(lodged.count(), 2);
        assert!(of([192, 0, 2, 2], 0, 0).take(1 << 20));
        // Many visitors at one tunnel leave room for the other tunnels of its owner.
        let mut crowd: Vec<_> = (0..40).map(|n| of([198, 51, 100, n], 9, 9)).collect();
        assert_eq!(
            crowd
                .iter_mut()
                .filter_map(|one| one.take(1 << 20).then_some(()))
                .count(),
            8
        );
        assert!(of([192, 0, 2, 2], 8, 9).take(1 << 20));
        drop((hostile, crowd));
        assert!(room.lock().all == 0 && room.lock().of.is_empty());
    }

    #[test]
    fn one_user_leaves_room_for_others_and_all_of_it_comes_back() {
        let room = Room::default();
        let (mut first, mut second) = (lodging(&room, 1), lodging(&room, 1));
        assert!(first.take(ROOM_EACH - 1) && second.take(1));
        assert!(!first.take(1) && !second.take(1));
        let mut others: Vec<_> = (2..=4).map(|user| lodging(&room, user)).collect();
        assert!(others.iter_mut().all(|other| other.take(ROOM_EACH)));
        let mut late = lodging(&room, 5);
        assert!(!late.take(1), "there is a limit to all");
        drop(second);
        assert!(late.take(1) && !late.take(1));
        drop((first, others, late));
        assert!(room.lock().all == 0 && room.lock().of.is_empty());
    }
}
