//! Whether UDP works, both ways and with packets as large as a handshake's, without moving a link
//! to find out: a packet of a QUIC version that nobody speaks, to which every server must answer
//! with the versions it does (RFC 9000, 6.1). Pure.

use aws_lc_rs::rand;

/// What a server answers to at least, and QUIC's smallest path.
pub(super) const SIZE: usize = 1200;

/// Reserved for ever to be unknown (RFC 9000, 15).
const VERSION: [u8; 4] = [0x7a, 0x6a, 0x5a, 0x4a];

const FORM: u8 = 0xc0;
const NONCE: usize = 8;

/// A number that only an answer to our own question repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce([u8; NONCE]);

impl Nonce {
    pub(super) fn random() -> Self {
        let mut bytes = [0; NONCE];
        rand::fill(&mut bytes).expect("the system has random numbers");
        Self(bytes)
    }
}

/// The question.
pub(super) fn question(nonce: Nonce) -> [u8; SIZE] {
    let mut packet = [0; SIZE];
    packet[0] = FORM;
    packet[1..5].copy_from_slice(&VERSION);
    // To nobody in particular; the nonce stands as the address of the asker, too.
    for at in [5, 6 + NONCE] {
        packet[at] = NONCE as u8;
        packet[at + 1..=at + NONCE].copy_from_slice(&nonce.0);
    }
    packet
}

/// Whether a datagram is a question.
#[cfg(test)]
pub(super) fn is_question(datagram: &[u8]) -> bool {
    datagram.len() == SIZE && datagram[1..5] == VERSION
}

/// Whether a datagram is an answer: long header, version zero, addressed to the asker.
pub(super) fn is_answer(datagram: &[u8], nonce: Nonce) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
        && datagram.get(1..5) == Some(&[0; 4])
        && datagram.get(5).copied() == Some(NONCE as u8)
        && datagram.get(6..6 + NONCE) == Some(&nonce.0[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_our_own_question_counts() {
        let nonce = Nonce::random();
        let mut answer = question(nonce).to_vec();
        assert!(!is_answer(&answer, nonce));
        answer[1..5].fill(0);
        assert!(is_answer(&answer, nonce));
        assert!(!is_answer(&answer, Nonce::random()));
        for length in 0..14 {
            assert!(!is_answer(&answer[..length], nonce));
        }
    }
}
