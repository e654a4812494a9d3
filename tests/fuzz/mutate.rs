//! Breaks inputs: bits, bytes, numbers, pieces and words, and pieces of one input in another.

/// The longest input.
const LONGEST: usize = 64 * 1024;

/// Numbers at which something changes.
const EDGES: [u64; 14] = [
    0,
    1,
    0x3f,
    0x40,
    0x7f,
    0x80,
    0xff,
    0x3fff,
    0x4000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x3fff_ffff_ffff_ffff,
    u64::MAX,
];

/// A source of inputs. The same seed gives the same ones.
pub(crate) struct Mutator {
    state: u64,
    words: &'static [&'static str],
}

impl Mutator {
    pub(crate) fn new(seed: u64, words: &'static [&'static str]) -> Self {
        // Never zero: xorshift would stay there.
        let state = seed | 1;
        Self { state, words }
    }

    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        // The high half: the low bits of a xorshift are its weakest.
        let high = (self.random() >> 32) as usize;
        if limit == 0 { 0 } else { high % limit }
    }

    /// One of the inputs, broken in one to eight ways.
    pub(crate) fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(8) {
            self.once(&mut bytes, inputs);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn once(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let length = self.below(16).min(bytes.len() - at);
        match self.below(11) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.random() as u8,
            2 => bytes.insert(at, self.random() as u8),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let piece = bytes[at..at + length].to_vec();
                let times = 1 + self.below(8);
                splice(bytes, at, &piece.repeat(times));
            }
            5 => bytes.truncate(at),
            6 => {
                let number = EDGES[self.below(EDGES.len())].to_be_bytes();
                let size = [1, 2, 4, 8][self.below(4)];
                let number = &number[8 - size..];
                let end = (at + size).min(bytes.len());
                bytes.splice(at..end, number.iter().copied());
            }
            7 => {
                let number = EDGES[self.below(EDGES.len())].to_string();
                splice(bytes, at, number.as_bytes());
            }
            8 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                splice(bytes, at, word.as_bytes());
            }
            9 => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                splice(bytes, at, &other[from..to]);
            }
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

fn splice(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    if bytes.len() + piece.len() <= LONGEST {
        bytes.splice(at..at, piece.iter().copied());
    }
}
