//! Datagrams in WebSocket messages: one binary message is one or several QUIC datagrams, each behind
//! its length. Pure. What the datagrams say is QUIC's business.
//!
//! ```text
//! message  := datagram+, at most 16 KiB
//! datagram := u16 length (1 to 6500), bytes
//! ```

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::link::socket::PAYLOAD_MAX;

/// The most that QUIC sends: a link whose packets have grown on UDP brings them along.
pub(super) const DATAGRAM_MAX: usize = PAYLOAD_MAX as usize;

/// One TLS record.
pub(super) const MESSAGE_MAX: usize = 16 * 1024;

const LENGTH: usize = 2;

const _: () = assert!(LENGTH + DATAGRAM_MAX <= MESSAGE_MAX, "each fits a message");

/// Why a message is not ours; the peer that sent it is none either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Nothing in it.
    #[error("an empty message")]
    Empty,
    /// It ends in the middle of a datagram.
    #[error("a message cut short")]
    Truncated,
    /// A datagram without a byte, or with more than any network takes.
    #[error("a datagram of {length} bytes")]
    Length {
        /// As announced.
        length: usize,
    },
    /// A text message.
    #[error("a text message")]
    Text,
}

/// Appends a datagram, unless the message has no room left; a datagram that fits in no message is
/// for the caller to leave out.
pub(super) fn put(message: &mut BytesMut, datagram: &[u8]) -> bool {
    if message.len() + framed(datagram) > MESSAGE_MAX {
        return false;
    }
    let Some(length) = acceptable(datagram.len()) else {
        return false;
    };
    message.put_u16(length);
    message.put_slice(datagram);
    true
}

/// What a datagram takes in a message.
pub(super) fn framed(datagram: &[u8]) -> usize {
    LENGTH + datagram.len()
}

fn acceptable(length: usize) -> Option<u16> {
    let length = u16::try_from(length).ok()?;
    (1..=DATAGRAM_MAX)
        .contains(&usize::from(length))
        .then_some(length)
}

/// The datagrams of a message, one after the other, up to the first that is wrong.
#[derive(Debug)]
pub(super) struct Datagrams {
    rest: Bytes,
    started: bool,
}

/// Takes a message apart. Nothing is copied, and nothing is allocated.
pub(super) fn datagrams(message: Bytes) -> Datagrams {
    Datagrams {
        rest: message,
        started: false,
    }
}

impl Iterator for Datagrams {
    type Item = Result<Bytes, BadMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            let empty = !std::mem::replace(&mut self.started, true);
            return empty.then_some(Err(BadMessage::Empty));
        }
        self.started = true;
        let taken = take(&mut self.rest);
        if taken.is_err() {
            self.rest.clear();
        }
        Some(taken)
    }
}

fn take(rest: &mut Bytes) -> Result<Bytes, BadMessage> {
    let length = usize::from(rest.try_get_u16().map_err(|_| BadMessage::Truncated)?);
    if acceptable(length).is_none() {
        return Err(BadMessage::Length { length });
    }
    if rest.len() < length {
        return Err(BadMessage::Truncated);
    }
    Ok(rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(message: &[u8]) -> Result<Vec<Bytes>, BadMessage> {
        datagrams(Bytes::copy_from_slice(message)).collect()
    }

    #[test]
    fn what_is_no_row_of_datagrams_is_refused() {
        let long = [&[0x19, 0x65][..], &[0; 6501]].concat();
        for (message, expected) in [
            (&[][..], BadMessage::Empty),
            (&[0], BadMessage::Truncated),
            (&[0, 2, 7], BadMessage::Truncated),
            (&[0, 1, 7, 0], BadMessage::Truncated),
            (&[0, 0], BadMessage::Length { length: 0 }),
            (&long, BadMessage::Length { length: 6501 }),
            (&[0xff, 0xff, 1], BadMessage::Length { length: 65535 }),
        ] {
            assert_eq!(all(message), Err(expected), "{message:?}");
        }
    }

    #[test]
    fn a_bad_end_ends_the_message() {
        let mut parts = datagrams(Bytes::from_static(&[0, 1, 7, 0, 9, 1]));
        assert_eq!(parts.next(), Some(Ok(Bytes::from_static(&[7]))));
        assert_eq!(parts.next(), Some(Err(BadMessage::Truncated)));
        assert_eq!(parts.next(), None);
    }

    #[test]
    fn a_message_takes_no_more_than_it_may() {
        let mut message = BytesMut::new();
        assert!(!put(&mut message, &[]));
        assert!(!put(&mut message, &[0; DATAGRAM_MAX + 1]));
        while put(&mut message, &[1; DATAGRAM_MAX]) {}
        assert!(message.len() <= MESSAGE_MAX);
        assert_eq!(
            all(&message).unwrap().len(),
            MESSAGE_MAX / (DATAGRAM_MAX + 2)
        );
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=DATAGRAM_MAX), 1..=10)) {
            let mut message = BytesMut::new();
            let fit = rows.iter().take_while(|row| put(&mut message, row)).count();
            prop_assert!(fit >= rows.len().min(2));
            prop_assert_eq!(all(&message).unwrap(), &rows[..fit]);
        }

        #[test]
        fn no_bytes_make_it_panic_or_invent(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            if let Ok(parts) = all(&bytes) {
                let mut again = BytesMut::new();
                for part in &parts {
                    again.put_u16(u16::try_from(part.len()).unwrap());
                    again.put_slice(part);
                }
                prop_assert_eq!(&again[..], &bytes[..]);
            }
        }
    }
}
