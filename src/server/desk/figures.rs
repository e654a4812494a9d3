//! How links do, for status: looked at once a second, and told a page at a time. Decides nothing.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Desk, State};
use crate::admin::figures::{LinkFiguresJson, LinkPage};
use crate::admin::types::PacketsJson;
use crate::codes::Code;
use crate::engine::Event;
use crate::link::path::PathKind;
use crate::link::{Link, LinkEnd};
use crate::names::{DeviceId, LinkId};
use crate::times::{Now, WallTime};

/// Between two looks at a link, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Links that are looked at while a visit may have to wait for the desk: some 50 µs.
const LOOKED_AT_ONCE: usize = 64;

/// Between two looks at one that has just gone away, or for which a visit waits: what ends the wait is
/// only seen by looking.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// The longest reason for a link's end that is kept.
const WHY_MAX: usize = 200;

/// What is known of one link beside what it knows itself.
#[derive(Debug)]
pub(crate) struct Figures {
    up_at: WallTime,
    heard_at: Instant,
    longest_stall: Duration,
    /// What the engine was told that it holds; nothing while it is awake.
    weight: u64,
}

impl Figures {
    pub(crate) const fn new(now: Now) -> Self {
        Self {
            up_at: now.wall,
            heard_at: now.monotonic,
            longest_stall: Duration::ZERO,
            weight: 0,
        }
    }

    /// A look: whether anything was heard since the last one, and since when a visit waits for an answer.
    /// Something is due then, and at every keep-alive. What the looks themselves leave open is not
    /// counted, so a stall was at least as long as this says.
    fn look(&mut self, now: Instant, news: bool, asked: Option<Instant>, keep_alive: Duration) {
        let due = self.heard_at + keep_alive;
        let due = asked.map_or(due, |asked| due.min(asked));
        let stall = now.saturating_duration_since(due).saturating_sub(LOOK);
        self.longest_stall = self.longest_stall.max(stall);
        if news {
            self.heard_at = now;
        }
    }
}

/// A link and what is to be said of it, with the lock of the desk given back.
struct Row {
    link: Link,
    json: LinkFiguresJson,
}

impl Desk {
    /// Looks at all links again and again, until the stop signal: one clock for all of them, because a timer
    /// and a turn of each link's task would cost more than the look.
    pub(crate) async fn look_after(self, every: Duration, stop: CancellationToken) {
        let mut round = tokio::time::interval(every.min(LOOK));
        // A process that was stopped for an hour need not look an hour's worth of times.
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut soon = Vec::new();
        loop {
            let links = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = round.tick() => self.lock().links.keys().copied().collect(),
                () = tokio::time::sleep(LOOK_SOON), if !soon.is_empty() => std::mem::take(&mut soon),
            };
            soon.clear();
            for some in links.chunks(LOOKED_AT_ONCE) {
                soon.extend(self.look_at(some));
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks at some, and says which of them to look at again soon.
    pub(crate) fn look_at(&self, links: &[LinkId]) -> Vec<LinkId> {
        let now = self.now();
        let mut state = self.lock();
        let mut told = false;
        for link in links {
            told |= state.look_at(now, *link);
        }
        let soon = links.iter().copied();
        let soon = soon.filter(|link| state.is_looked_at_soon(now, *link));
        let soon = soon.collect();
        if told {
            self.carry_out(&mut state, now);
            self.wake_driver(state, now);
        }
        soon
    }

    /// Remembers why a device's link ended, until its next one ends.
    pub(crate) fn note_end(&self, id: LinkId, code: Option<Code>, why: &str) {
        let Some(mut state) = self.lock_to_end() else {
            return;
        };
        let Some(device) = state.links.get(&id).and_then(|entry| entry.device) else {
            return;
        };
        // Ends that somebody wanted are no errors.
        if matches!(code, Some(Code::Done | Code::Superseded)) {
            state.ends.remove(&device);
        } else {
            let why = why.chars().filter(|c| !c.is_control()).take(WHY_MAX);
            state.ends.insert(device, why.collect());
        }
    }

    /// The live links after one, oldest first, and where the next page begins.
    pub(crate) fn links(&self, after: Option<LinkId>, limit: usize) -> LinkPage {
        let now = self.now();
        let (rows, next) = {
            let state = self.lock();
            let mut ids: Vec<(LinkId, DeviceId)> = state
                .links
                .iter()
                .filter(|(id, _)| after.is_none_or(|after| **id > after))
                .filter_map(|(id, entry)| entry.device.map(|device| (*id, device)))
                .collect();
            ids.sort_unstable();
            let more = ids.len() > limit;
            ids.truncate(limit);
            let next = ids.last().filter(|_| more).map(|(id, _)| id.to_string());
            let rows = ids.into_iter();
            let rows = rows.filter_map(|(id, device)| state.row(now, id, device));
            (rows.collect::<Vec<_>>(), next)
        };
        // QUIC has locks of its own, and a visit must not wait for ours meanwhile.
        let links = rows.into_iter().map(Row::measured).collect();
        LinkPage { links, next }
    }
}

impl State {
    /// Looks at a link: tells the engine when anything was heard since the last look, or when a visit
    /// waits on it and nothing is; and of one that sleeps, what it holds. Whether the engine was told
    /// anything.
    fn look_at(&mut self, now: Now, id: LinkId) -> bool {
        let keep_alive = self.engine.settings().keep_alive;
        let sleeps = self.engine.dormant_since(id).is_some();
        // Of one that is not claimed yet the engine knows nothing.
        let entry = self.links.get_mut(&id);
        let Some(entry) = entry.filter(|entry| entry.device.is_some()) else {
            return false;
        };
        let heard = entry.link.heard();
        let news = heard != std::mem::replace(&mut entry.told, heard);
        let asked = entry.silence.since();
        entry.figures.look(now.monotonic, news, asked, keep_alive);
        let away = asked.is_some()
            && entry
                .silence
                .is_away(now.monotonic, heard, entry.link.rtt());
        let bytes = if sleeps { entry.link.load().bytes } else { 0 };
        let weighs = bytes != std::mem::replace(&mut entry.figures.weight, bytes);
        let events = [
            news.then_some(Event::LinkHeard { link: id }),
            away.then_some(Event::LinkAway { link: id }),
            (weighs && sleeps).then_some(Event::LinkWeighs { link: id, bytes }),
        ];
        let mut told = false;
        for event in events.into_iter().flatten() {
            told = true;
            self.engine.handle(now, event);
        }
        told
    }

    /// Whether it has just gone away, or a visit waits for it.
    fn is_looked_at_soon(&self, now: Now, id: LinkId) -> bool {
        let gone = self.engine.dormant_since(id);
        gone.is_some_and(|since| {
            now.monotonic.saturating_duration_since(since) < 2 * LOOK || self.engine.holds_for(id)
        })
    }

    /// What the desk and the engine know; none of a link that a newer one has fenced.
    fn row(&self, now: Now, id: LinkId, device: DeviceId) -> Option<Row> {
        let entry = self.links.get(&id)?;
        let view = self.engine.device(device)?;
        if view.link != Some(id) {
            return None;
        }
        let dormant_since = self.engine.dormant_since(id).map(|since| {
            let ago = now.monotonic.saturating_duration_since(since).as_millis();
            let ago = i64::try_from(ago).unwrap_or(i64::MAX);
            WallTime::from_millis(now.wall.as_millis().saturating_sub(ago))
        });
        let json = LinkFiguresJson {
            generation: id.to_string(),
            device,
            device_name: view.row.name,
            user: view.user,
            state: if view.dormant { "dormant" } else { "up" }.to_owned(),
            since: entry.figures.up_at,
            dormant_since,
            longest_stall_ms: millis(entry.figures.longest_stall),
            last_error: self.ends.get(&device).cloned(),
            ..LinkFiguresJson::default()
        };
        Some(Row {
            link: entry.link.clone(),
            json,
        })
    }
}

impl Row {
    /// What the link knows.
    fn measured(self) -> LinkFiguresJson {
        let (stats, load) = (self.link.stats(), self.link.load());
        LinkFiguresJson {
            path: match self.link.path().kind {
                PathKind::Udp => "udp".to_owned(),
                PathKind::WebSocket => "websocket".to_owned(),
            },
            address: self.link.peer().to_string(),
            rtt_ms: millis(stats.rtt),
            packets: PacketsJson {
                sent: stats.sent_packets,
                lost: stats.lost_packets,
            },
            moves: stats.peer_moves,
            streams: load.streams as u64,
            bytes: load.bytes,
            ..self.json
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// How a link ended that has ended.
pub(crate) fn why(end: Option<LinkEnd>) -> (Option<Code>, String) {
    match end {
        Some(end) => (end.code, end.to_string()),
        None => (None, "it was given up".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Clock;

    #[test]
    fn a_stall_is_the_time_that_something_was_due() {
        let (now, keep_alive) = (Clock.now(), Duration::from_secs(5));
        let at = |secs| now.monotonic + Duration::from_secs(secs);
        let mut figures = Figures::new(now);
        for second in 1..=6 {
            figures.look(at(second), false, None, keep_alive);
        }
        figures.look(at(6), true, None, keep_alive);
        assert_eq!(figures.longest_stall, Duration::ZERO, "quiet, as it may be");
        // Nothing came when it was due, at 11 s; heard again at 20 s.
        figures.look(at(20), true, None, keep_alive);
        assert_eq!(figures.longest_stall, Duration::from_secs(8));
        // A visit waits from 21 s on: then an answer is due at once.
        figures.look(at(23), false, Some(at(21)), keep_alive);
        assert_eq!(
            figures.longest_stall,
            Duration::from_secs(8),
            "a shorter one"
        );
        figures.look(at(40), false, Some(at(21)), keep_alive);
        assert_eq!(figures.longest_stall, Duration::from_secs(18));
    }
}
