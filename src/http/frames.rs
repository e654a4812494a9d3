//! A look at HTTP/2 frames as they come in: how many are of no use for any visit, and whether a head
//! has begun and not ended. Not a parser: payloads are skipped, and what a frame means is the HTTP/2
//! stack's business.

use super::limits::RESET_COST;

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Follows one connection's frames. Bytes come in pieces of any size.
#[derive(Debug, Default)]
pub struct FrameScanner {
    /// Bytes of the preface seen.
    preface: usize,
    /// The frame head at hand.
    head: [u8; FRAME_HEAD],
    filled: usize,
    /// Payload still to be skipped.
    skip: usize,
    in_head: bool,
}

impl FrameScanner {
    /// At a connection's first byte.
    pub const fn new() -> Self {
        Self {
            preface: 0,
            head: [0; FRAME_HEAD],
            filled: 0,
            skip: 0,
            in_head: false,
        }
    }

    /// Looks at the next bytes; what the frames that began in them cost beyond their use.
    pub fn feed(&mut self, mut bytes: &[u8]) -> u32 {
        let mut cost: u32 = 0;
        let taken = bytes.len().min(PREFACE - self.preface);
        self.preface += taken;
        bytes = &bytes[taken..];
        while !bytes.is_empty() {
            if self.skip > 0 {
                let taken = self.skip.min(bytes.len());
                self.skip -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = bytes.len().min(FRAME_HEAD - self.filled);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == FRAME_HEAD {
                self.filled = 0;
                cost = cost.saturating_add(self.begin());
            }
        }
        cost
    }

    /// Whether a head has begun and not ended, the preface counted as the first: only the peer can go on.
    pub const fn is_in_head(&self) -> bool {
        self.preface < PREFACE || self.in_head
    }

    fn begin(&mut self) -> u32 {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            HEADERS | CONTINUATION => {
                self.in_head = flags & END_HEADERS == 0;
                u32::from(kind == CONTINUATION)
            }
            // Fast downloads ask for more window thousands of times a second.
            WINDOW_UPDATE => 0,
            DATA => u32::from(self.skip == 0 && flags & END_STREAM == 0),
            RST_STREAM => RESET_COST,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(FRAME_HEAD + payload, 0xff);
        bytes
    }

    fn begun() -> FrameScanner {
        let mut scanner = FrameScanner::new();
        assert_eq!(scanner.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), 0);
        assert!(scanner.is_in_head());
        scanner.feed(b"\n");
        assert!(!scanner.is_in_head());
        scanner
    }

    #[test]
    fn what_serves_a_visit_costs_nothing() {
        let mut scanner = begun();
        for (kind, flags, size) in [(1, 4, 30), (1, 5, 9), (0, 0, 1), (0, 1, 0), (8, 0, 4)] {
            assert_eq!(scanner.feed(&frame(kind, flags, size)), 0, "{kind}");
        }
        for (kind, size) in [(6, 8), (4, 6), (2, 5), (0, 0), (200, 3)] {
            assert_eq!(scanner.feed(&frame(kind, 0, size)), 1, "{kind}");
        }
        assert_eq!(scanner.feed(&frame(3, 0, 4)), RESET_COST);
    }

    #[test]
    fn a_head_ends_with_the_flag_that_says_so() {
        let mut scanner = begun();
        scanner.feed(&frame(1, 0, 10));
        assert!(scanner.is_in_head());
        assert_eq!(scanner.feed(&frame(9, 0, 10)), 1);
        assert!(scanner.is_in_head());
        scanner.feed(&frame(9, 4, 0));
        assert!(!scanner.is_in_head());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            frames in proptest::collection::vec((0u8..12, 0u8..8, 0usize..40), 0..40),
            piece in 1usize..50,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|&(k, f, n)| frame(k, f, n)).collect();
            let (mut whole, mut pieces) = (begun(), begun());
            let expected = whole.feed(&bytes);
            let cost: u32 = bytes.chunks(piece).map(|p| pieces.feed(p)).sum();
            prop_assert_eq!(cost, expected);
            prop_assert_eq!(pieces.is_in_head(), whole.is_in_head());
        }
    }
}
