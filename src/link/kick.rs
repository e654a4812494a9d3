//! Lets a few packets pass the congestion controller when the network is back: a "kick". Not a
//! congestion controller of its own: CUBIC decides everything else.
//!
//! After an outage with data in flight the window is full, and nothing that could show that the
//! network works again may be sent until QUIC's probe timer fires, which doubles without a cap: a link
//! would stay silent for as long again as the outage lasted. Probes need not be held back by the
//! congestion controller (RFC 9002, section 7.5), and four packets overload no network.
//!
//! A stop without losses has another sequel: what was on its way is answered after seconds, which QUIC takes
//! for the way's length. It spreads what it sends over that, and a link on the spot goes on as if to the
//! moon. Until the estimate is believable again, what CUBIC allows is sent at once.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

/// Four full packets: the first finds the way, the others bring new data along.
const ALLOWANCE: u64 = 4 * 1200;

/// Unanswered for so long, a packet that goes out brings an allowance with it. The end that got no
/// hint is helped by this: it replies to the other's first packet, and its data may follow.
const PATIENCE: Duration = Duration::from_secs(1);

/// An answer that takes so long, and four times as long as usual, tells of a stop and not of the way.
const STOP: Duration = Duration::from_millis(250);

/// After so many answers QUIC's estimate, which each moves by an eighth, has forgotten any stop.
const ANSWERS: u8 = 64;

/// Packets that QUIC sends in one go.
const BATCH: u64 = 10;

/// Makes a [`Kick`] for each path of each connection.
#[derive(Debug, Default)]
pub(super) struct Kickable(Arc<CubicConfig>);

impl ControllerFactory for Kickable {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Kick {
            cubic: Arc::clone(&self.0).build(now, current_mtu),
            allowance: Arc::default(),
            answered: now,
            helped: now,
            patience: PATIENCE,
            mtu: current_mtu,
            in_flight: 0,
            answer: None,
            believable: None,
        })
    }
}

/// CUBIC, and the bytes that may pass it. Clones share the allowance, so that whoever holds one can
/// give it to the connection.
struct Kick {
    cubic: Box<dyn Controller>,
    allowance: Arc<AtomicU64>,
    /// When the peer last acknowledged something.
    answered: Instant,
    /// When an allowance was last given for want of answers.
    helped: Instant,
    patience: Duration,
    mtu: u16,
    /// Bytes sent and not yet answered, and what was sent since that asks for no answer.
    in_flight: u64,
    answer: Option<Answer>,
    /// After an answer that told of a stop: the estimate of the round trip that tells of the way again.
    /// And how many answers it may take to get there: a way that got longer for good never does.
    believable: Option<(Duration, u8)>,
}

/// What one acknowledgement says of the way.
#[derive(Clone, Copy)]
struct Answer {
    /// How long the latest of what it answers took.
    took: Duration,
    /// QUIC's estimate of the round trip before it, and the shortest ever.
    estimate: Duration,
    least: Duration,
}

impl Kick {
    /// Whether QUIC's estimate is believable from here on.
    fn judge(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        if answer.took >= STOP.max(4 * answer.estimate) {
            self.believable
                .get_or_insert((2 * answer.estimate, ANSWERS));
        } else if let Some((most, left)) = self.believable {
            let is_there = left == 0 || answer.estimate <= most.max(4 * answer.least);
            self.believable = (!is_there).then(|| (most, left - 1));
        }
    }

    /// Whether a batch may go at once, however slowly QUIC would send it: it fits into CUBIC's window, or
    /// nothing else is under way, as when a path begins.
    fn is_unhurried(&self) -> bool {
        let batch = BATCH * u64::from(self.mtu);
        self.believable.is_some()
            && (self.in_flight == 0 || self.in_flight + batch <= self.cubic.window())
    }

    fn allow(&self) {
        self.allowance.store(ALLOWANCE, Ordering::Relaxed);
    }

    fn spend(&self, bytes: u64) {
        if self.allowance.load(Ordering::Relaxed) == 0 {
            return;
        }
        let left = |left: u64| Some(left.saturating_sub(bytes));
        let _ = self
            .allowance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }
}

/// Lets the next few packets of a connection pass. To be followed by something that wakes it.
pub(super) fn arm(connection: &Connection) {
    if let Ok(kick) = connection.congestion_state().into_any().downcast::<Kick>() {
        kick.allow();
    }
}

impl Controller for Kick {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.spend(bytes);
        self.in_flight = self.in_flight.saturating_add(bytes);
        let unanswered = now.saturating_duration_since(self.answered.max(self.helped));
        if unanswered >= self.patience {
            self.helped = now;
            self.allow();
        }
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.answered = now;
        // The least ever, because a late acknowledgement makes an outage look like a long way.
        self.patience = PATIENCE.max(4 * rtt.min());
        let took = now.saturating_duration_since(sent);
        self.answer = Some(Answer {
            took: self.answer.map_or(took, |answer| answer.took.min(took)),
            estimate: rtt.get(),
            least: rtt.min(),
        });
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.judge();
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        match self.allowance.load(Ordering::Relaxed) {
            0 if !self.is_unhurried() => self.cubic.window(),
            _ => u64::MAX,
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            allowance: Arc::clone(&self.allowance),
            answered: self.answered,
            helped: self.helped,
            patience: self.patience,
            mtu: self.mtu,
            in_flight: self.in_flight,
            answer: self.answer,
            believable: self.believable,
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Clock;

    fn controller() -> (Box<dyn Controller>, Instant) {
        let now = Clock.now().monotonic;
        (Arc::new(Kickable::default()).build(now, 1200), now)
    }

    fn kick(controller: &dyn Controller) {
        let clone = controller.clone_box().into_any();
        clone.downcast_ref::<Kick>().unwrap().allow();
    }

    #[test]
    fn four_packets_pass_after_a_kick_and_then_cubic_rules_again() {
        let (mut controller, now) = controller();
        let cubic = controller.window();
        kick(&*controller);
        for n in 0..4 {
            assert_eq!(controller.window(), u64::MAX);
            controller.on_sent(now, 1200, n);
        }
        assert_eq!(controller.window(), cubic);
    }

    #[test]
    fn a_batch_larger_than_the_allowance_spends_it() {
        let (mut controller, now) = controller();
        kick(&*controller);
        controller.on_sent(now, 1_000_000, 1);
        assert!(controller.window() < u64::MAX);
    }

    #[test]
    fn what_is_sent_after_a_second_without_answers_brings_an_allowance_once_a_second() {
        let (mut controller, now) = controller();
        let ms = Duration::from_millis;
        let mut helped = 0;
        for n in 0..50 {
            controller.on_sent(now + ms(n * 100), 1200, n);
            if controller.window() == u64::MAX {
                helped += 1;
                controller.on_sent(now + ms(n * 100), 4800, n);
            }
        }
        assert_eq!(helped, 4);
    }
}
