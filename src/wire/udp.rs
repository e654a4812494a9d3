//! Datagrams of udp tunnels: `{ varint flow*2+f, [f=1: varint packet, u8 index, u8 count], payload }`, one
//! QUIC datagram each. A payload larger than the path takes is split into fragments, and put together
//! again in bounded memory, or lost; it never rides a reliable stream. Pure.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};

use super::{StreamError, VARINT_MAX, WireError, get_varint, put_varint};

/// The most that one datagram of UDP carries over IPv4; IPv6 without jumbograms has 20 bytes more, which
/// nobody uses.
pub const PAYLOAD_MAX: usize = 65_507;

/// The longest header: two varints of eight bytes, index and count.
const HEADER_MAX: usize = 18;

/// Packets of one flow that may be incomplete at once; of more, the oldest is given up.
const INCOMPLETE_MAX: usize = 4;

/// How long the rest of a packet may take: far longer than reordering, far shorter than anybody waits.
const COMPLETE_WITHIN: Duration = Duration::from_secs(1);

/// Datagrams of one flow both ways, whatever carries them.
pub trait Datagrams: Send + Unpin + 'static {
    /// Sends one payload, or loses it: never waits.
    fn send(&mut self, payload: Bytes);

    /// The next payload; an error when the flow is over, an orderly end included.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, FlowEnd>>;

    /// Ends the flow because of a failure, which the other end is told.
    fn fail(&mut self, code: super::StreamCode);
}

/// Why a flow carries nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowEnd {
    /// The other end is done with it.
    #[error("the flow has ended")]
    Ended,
    /// The other end gave it up, or the link is gone.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A datagram of a link, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowDatagram {
    /// The flow it belongs to.
    pub flow: u64,
    /// Which part of which packet it is; none for a whole payload.
    pub part: Option<Part>,
    /// The bytes.
    pub payload: Bytes,
}

/// The place of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The packet; the sender counts.
    pub packet: u64,
    /// Which fragment, from 0.
    pub index: u8,
    /// How many there are; at least 2.
    pub count: u8,
}

/// Reads a datagram of a link.
pub fn decode_datagram(mut bytes: Bytes) -> Result<FlowDatagram, WireError> {
    let short = WireError::Truncated { what: "a datagram" };
    let (mark, length) = get_varint(&bytes).ok_or_else(|| short.clone())?;
    bytes.advance(length);
    let flow = mark >> 1;
    if mark & 1 == 0 {
        return Ok(FlowDatagram {
            flow,
            part: None,
            payload: bytes,
        });
    }
    let (packet, length) = get_varint(&bytes).ok_or_else(|| short.clone())?;
    bytes.advance(length);
    let &[index, count, ..] = &bytes[..] else {
        return Err(short);
    };
    bytes.advance(2);
    if count < 2 || index >= count || bytes.is_empty() {
        return Err(WireError::malformed("fragment", "its index and count"));
    }
    Ok(FlowDatagram {
        flow,
        part: Some(Part {
            packet,
            index,
            count,
        }),
        payload: bytes,
    })
}

/// Writes the datagrams of one flow.
#[derive(Debug)]
pub struct Splitter {
    flow: u64,
    packets: u64,
}

impl Splitter {
    /// For a flow.
    pub const fn new(flow: u64) -> Self {
        Self { flow, packets: 0 }
    }

    /// The datagrams of one payload, none longer than `max`; none at all when it cannot be carried.
    pub fn split(&mut self, payload: &Bytes, max: usize) -> Vec<Bytes> {
        let mut whole = BytesMut::with_capacity(payload.len() + HEADER_MAX);
        put_varint(&mut whole, (self.flow << 1) & VARINT_MAX);
        if whole.len() + payload.len() <= max {
            whole.extend_from_slice(payload);
            return vec![whole.freeze()];
        }
        let Some(room) = max.checked_sub(HEADER_MAX).filter(|room| *room > 0) else {
            return Vec::new();
        };
        let Ok(count) = u8::try_from(payload.len().div_ceil(room)) else {
            return Vec::new();
        };
        self.packets = (self.packets + 1) & VARINT_MAX;
        // Of one size, so that none is a crumb.
        let size = payload.len().div_ceil(usize::from(count));
        let parts = payload.chunks(size).zip(0_u8..);
        parts
            .map(|(piece, index)| {
                let mut out = BytesMut::with_capacity(piece.len() + HEADER_MAX);
                put_varint(&mut out, ((self.flow << 1) | 1) & VARINT_MAX);
                put_varint(&mut out, self.packets);
                out.extend_from_slice(&[index, count]);
                out.extend_from_slice(piece);
                out.freeze()
            })
            .collect()
    }
}

/// Puts the fragments of one flow together: few packets at once, each under a deadline.
#[derive(Debug, Default)]
pub struct Reassembly {
    incomplete: VecDeque<Incomplete>,
}

#[derive(Debug)]
struct Incomplete {
    packet: u64,
    parts: Vec<Option<Bytes>>,
    missing: usize,
    length: usize,
    until: Instant,
}

impl Reassembly {
    /// Takes a fragment; gives the payload that it completes.
    pub fn push(&mut self, now: Instant, part: Part, piece: Bytes) -> Option<Bytes> {
        self.incomplete.retain(|packet| packet.until > now);
        let at = self.place(now, part);
        let packet = &mut self.incomplete[at];
        let slot = packet.parts.get_mut(usize::from(part.index));
        // One that came already is a duplicate.
        let slot = slot.filter(|slot| slot.is_none())?;
        if packet.length + piece.len() > PAYLOAD_MAX {
            self.incomplete.remove(at);
            return None;
        }
        packet.length += piece.len();
        packet.missing -= 1;
        *slot = Some(piece);
        if packet.missing > 0 {
            return None;
        }
        let packet = self.incomplete.remove(at)?;
        let mut whole = BytesMut::with_capacity(packet.length);
        packet
            .parts
            .iter()
            .flatten()
            .for_each(|piece| whole.extend_from_slice(piece));
        Some(whole.freeze())
    }

    fn place(&mut self, now: Instant, part: Part) -> usize {
        let known = |other: &Incomplete| {
            other.packet == part.packet && other.parts.len() == usize::from(part.count)
        };
        if let Some(at) = self.incomplete.iter().position(known) {
            return at;
        }
        if self.incomplete.len() >= INCOMPLETE_MAX {
            self.incomplete.pop_front();
        }
        self.incomplete.push_back(Incomplete {
            packet: part.packet,
            parts: vec![None; part.count.into()],
            missing: part.count.into(),
            length: 0,
            until: now + COMPLETE_WITHIN,
        });
        self.incomplete.len() - 1
    }

    /// Packets that are not whole yet.
    pub fn incomplete(&self) -> usize {
        self.incomplete.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::times::Clock;

    fn parts(payload: &Bytes, max: usize) -> Vec<FlowDatagram> {
        let split = Splitter::new(7).split(payload, max);
        assert!(split.iter().all(|datagram| datagram.len() <= max));
        split
            .into_iter()
            .map(|d| decode_datagram(d).unwrap())
            .collect()
    }

    fn payload(length: usize) -> Bytes {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    fn put_together(parts: &[FlowDatagram]) -> Vec<Bytes> {
        let (mut reassembly, now) = (Reassembly::default(), Clock.now().monotonic);
        let whole = parts.iter().filter_map(|datagram| match datagram.part {
            Some(part) => reassembly.push(now, part, datagram.payload.clone()),
            None => Some(datagram.payload.clone()),
        });
        whole.collect()
    }

    #[test]
    fn what_fits_is_one_datagram_and_what_does_not_comes_back_whole() {
        for (length, max, count) in [
            (0, 100, 1),
            (99, 100, 1),
            (100, 100, 2),
            (1200, 1162, 2),
            (PAYLOAD_MAX, 1162, 58),
        ] {
            let sent = payload(length);
            let parts = parts(&sent, max);
            assert_eq!(parts.len(), count, "{length}");
            assert_eq!(put_together(&parts), [sent], "{length}");
        }
        assert!(Splitter::new(7).split(&payload(100), 10).is_empty());
        assert!(
            Splitter::new(7).split(&payload(60_000), 100).is_empty(),
            "more than 255 pieces"
        );
    }

    #[test]
    fn order_and_duplicates_change_nothing_and_a_loss_loses_one_packet() {
        let sent = payload(5000);
        let mut all = parts(&sent, 1000);
        all.reverse();
        all.insert(2, all[0].clone());
        assert_eq!(put_together(&all), std::slice::from_ref(&sent));
        let mut splitter = Splitter::new(7);
        let mut both: Vec<_> = splitter.split(&sent, 1000);
        both.remove(3);
        both.extend(splitter.split(&payload(3000), 1000));
        let both: Vec<_> = both
            .into_iter()
            .map(|d| decode_datagram(d).unwrap())
            .collect();
        assert_eq!(put_together(&both), [payload(3000)]);
    }

    #[test]
    fn memory_is_bounded_in_packets_in_bytes_and_in_time() {
        let (mut reassembly, now) = (Reassembly::default(), Clock.now().monotonic);
        let part = |packet, index| Part {
            packet,
            index,
            count: 2,
        };
        for packet in 0..100 {
            assert_eq!(reassembly.push(now, part(packet, 0), payload(10)), None);
            assert!(reassembly.incomplete() <= INCOMPLETE_MAX);
        }
        // The oldest were given up, the latest are there.
        assert_eq!(reassembly.push(now, part(0, 1), payload(10)), None);
        assert!(reassembly.push(now, part(99, 1), payload(10)).is_some());
        assert_eq!(
            reassembly.push(now, part(98, 1), payload(PAYLOAD_MAX)),
            None
        );
        let later = now + COMPLETE_WITHIN;
        assert_eq!(reassembly.push(later, part(97, 1), payload(10)), None);
        assert_eq!(reassembly.incomplete(), 1, "all others are too old");
    }

    #[test]
    fn hostile_places_are_refused() {
        for (index, count) in [(0, 0), (0, 1), (2, 2), (255, 255)] {
            assert!(decode_datagram(Bytes::from(vec![15, 1, index, count, 1])).is_err());
        }
        for short in [&[][..], &[15], &[15, 1], &[15, 1, 0], &[15, 1, 0, 2]] {
            assert!(decode_datagram(Bytes::copy_from_slice(short)).is_err());
        }
        // The same packet with another count is another packet, and completes nothing.
        let (mut reassembly, now) = (Reassembly::default(), Clock.now().monotonic);
        for (index, count) in [(0, 2), (1, 3), (2, 3)] {
            let part = Part {
                packet: 1,
                index,
                count,
            };
            assert_eq!(reassembly.push(now, part, payload(1)), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(datagrams in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..60)
        ) {
            let (mut reassembly, now) = (Reassembly::default(), Clock.now().monotonic);
            for bytes in datagrams {
                if let Ok(FlowDatagram { part: Some(part), payload, .. }) = decode_datagram(bytes.into()) {
                    let _ = reassembly.push(now, part, payload);
                }
                prop_assert!(reassembly.incomplete() <= INCOMPLETE_MAX);
            }
        }
    }
}
