//! Field sections as QPACK writes them (RFC 9204), without a dynamic table: we allow none, so a section
//! that refers to one is an error, and no memory is kept from one request to the next.

use bytes::{BufMut as _, BytesMut};

use super::fixed::STATIC;
use super::huffman;

/// What the RFC adds to the bytes of each line in a section's size.
const LINE: usize = 32;

/// Bytes of one number: more than any 62-bit number has.
const NUMBER_MAX: u32 = 10;

/// Name and value.
pub(super) type Line = (Vec<u8>, Vec<u8>);

/// Why a section is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// No section at all; the connection's end.
    Malformed,
    /// More lines or bytes than asked for; the rest was not looked at.
    TooLarge,
}

/// Reads a section of at most so many lines, and bytes as the RFC counts them.
pub(super) fn decode(block: &[u8], lines: usize, bytes: usize) -> Result<Vec<Line>, Problem> {
    let mut reader = Reader(block, bytes);
    // Required Insert Count and Base: of a section that refers to nothing, nothing.
    let (_, required) = reader.number(8)?;
    let (sign, _) = reader.number(7)?;
    if required != 0 || sign != 0 {
        return Err(Problem::Malformed);
    }
    let (mut out, mut size) = (Vec::new(), 0usize);
    while !reader.0.is_empty() {
        let (name, value) = reader.line()?;
        size = size.saturating_add(name.len() + value.len() + LINE);
        if size > bytes || out.len() == lines {
            return Err(Problem::TooLarge);
        }
        out.push((name, value));
    }
    Ok(out)
}

/// Writes the section of a head or of trailers.
pub(super) fn encode<'a>(lines: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(&[0, 0]);
    for (name, value) in lines {
        let whole = |(n, v): &(&str, &str)| n.as_bytes() == name && v.as_bytes() == value;
        let named = |(n, _): &(&str, &str)| n.as_bytes() == name;
        if let Some(index) = STATIC.iter().position(whole) {
            put_number(&mut out, 0b1100_0000, 6, index);
            continue;
        }
        match STATIC.iter().position(named) {
            Some(index) => put_number(&mut out, 0b0101_0000, 4, index),
            None => {
                put_number(&mut out, 0b0010_0000, 3, name.len());
                out.put_slice(name);
            }
        }
        put_number(&mut out, 0, 7, value.len());
        out.put_slice(value);
    }
    out
}

fn put_number(out: &mut BytesMut, flags: u8, prefix: u32, number: usize) {
    let full = (1usize << prefix) - 1;
    if number < full {
        out.put_u8(flags | low(number));
        return;
    }
    out.put_u8(flags | low(full));
    let mut rest = number - full;
    while rest >= 128 {
        out.put_u8(low(rest & 127) | 128);
        rest >>= 7;
    }
    out.put_u8(low(rest));
}

fn low(number: usize) -> u8 {
    u8::try_from(number).expect("callers keep it below 256")
}

/// The number that begins in a byte's last `prefix` bits: what stands before it in the byte, the number,
/// and how many bytes it took. None when it goes on beyond `bytes`.
pub(super) fn number(bytes: &[u8], prefix: u32) -> Result<Option<(u8, u64, usize)>, Problem> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    let full = u8::MAX >> (8 - prefix);
    let (flags, mut value) = (first & !full, u64::from(first & full));
    if first & full != full {
        return Ok(Some((flags, value, 1)));
    }
    for (at, byte) in (0..).zip(&bytes[1..]) {
        let part = u64::from(byte & 127);
        if at == NUMBER_MAX - 1 || part << (7 * at) >> (7 * at) != part {
            return Err(Problem::Malformed);
        }
        value = value
            .checked_add(part << (7 * at))
            .ok_or(Problem::Malformed)?;
        if byte & 128 == 0 {
            return Ok(Some((flags, value, at as usize + 2)));
        }
    }
    Ok(None)
}

/// What is left of a section, and the longest string that is looked at.
struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn number(&mut self, prefix: u32) -> Result<(u8, u64), Problem> {
        let (flags, value, taken) = number(self.0, prefix)?.ok_or(Problem::Malformed)?;
        self.0 = &self.0[taken..];
        Ok((flags, value))
    }

    fn line(&mut self) -> Result<Line, Problem> {
        let first = *self.0.first().ok_or(Problem::Malformed)?;
        // The bit beside each pattern says "of the static table".
        if first & 0b1100_0000 == 0b1100_0000 {
            let (_, index) = self.number(6)?;
            let (name, value) = fixed(index)?;
            return Ok((name.into(), value.into()));
        }
        let name = if first & 0b1101_0000 == 0b0101_0000 {
            let (_, index) = self.number(4)?;
            fixed(index)?.0.into()
        } else if first & 0b1110_0000 == 0b0010_0000 {
            self.text(3)?
        } else {
            return Err(Problem::Malformed);
        };
        Ok((name, self.text(7)?))
    }

    /// A string: one bit that says whether it is Huffman-coded, its length, its bytes.
    fn text(&mut self, prefix: u32) -> Result<Vec<u8>, Problem> {
        let (flags, length) = self.number(prefix)?;
        let length = usize::try_from(length).map_err(|_| Problem::Malformed)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Problem::Malformed)?;
        self.0 = rest;
        if length > self.1 {
            return Err(Problem::TooLarge);
        }
        if flags & 1 << prefix == 0 {
            return Ok(text.to_vec());
        }
        huffman::decode(text).ok_or(Problem::Malformed)
    }
}

fn fixed(index: u64) -> Result<(&'static str, &'static str), Problem> {
    let index = usize::try_from(index).map_err(|_| Problem::Malformed)?;
    STATIC.get(index).copied().ok_or(Problem::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(block: &[u8]) -> Result<Vec<Line>, Problem> {
        decode(block, 100, 32 * 1024)
    }

    #[test]
    fn a_section_of_the_rfc_is_read() {
        let mut block = vec![0, 0, 0x51, 0x0b];
        block.extend_from_slice(b"/index.html");
        let path = (b":path".to_vec(), b"/index.html".to_vec());
        assert_eq!(read(&block), Ok(vec![path]));
    }

    #[test]
    fn what_refers_to_a_dynamic_table_is_malformed() {
        for block in [
            &[][..],
            &[0],
            &[1, 0],
            &[0, 0x80],
            &[0, 0, 0x80],
            &[0, 0, 0x40, 0],
            &[0, 0, 0x10],
            &[0, 0, 0x00, 0],
            &[0, 0, 0xff, 36],
            &[0, 0, 0x51, 5, b'a'],
            &[
                0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
            ],
        ] {
            assert_eq!(read(block), Err(Problem::Malformed), "{block:?}");
        }
    }

    #[test]
    fn a_section_over_its_limits_is_not_read_to_its_end() {
        let block = |lines: usize| [&[0, 0][..], &vec![0xc0 | 17; lines]].concat();
        assert_eq!(read(&block(100)).map(|lines| lines.len()), Ok(100));
        assert_eq!(read(&block(30_000)), Err(Problem::TooLarge));
        let (name, value) = (b"x".as_slice(), vec![b'v'; 33 * 1024]);
        let large = encode([(name, value.as_slice())].into_iter());
        assert_eq!(read(&large), Err(Problem::TooLarge));
    }

    #[test]
    fn a_coded_string_over_the_limit_was_decoded_first() {
        // No code: all ones are the end of a string, which must not occur.
        let mut block = vec![0, 0, 0x51, 0xff];
        let length: usize = 40_000;
        let mut rest = length - 127;
        while rest >= 128 {
            block.push(low(rest & 127) | 128);
            rest >>= 7;
        }
        block.push(low(rest));
        block.resize(block.len() + length, 0xff);
        assert_eq!(read(&block), Err(Problem::TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            lines in prop::collection::vec(("[a-z-]{1,40}", "[ -~]{0,300}"), 0..20),
        ) {
            let bytes = |text: &String| text.clone().into_bytes();
            let lines: Vec<Line> = lines.iter().map(|(n, v)| (bytes(n), bytes(v))).collect();
            let block = encode(lines.iter().map(|(n, v)| (n.as_slice(), v.as_slice())));
            prop_assert_eq!(read(&block), Ok(lines));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&[&[0, 0][..], &bytes].concat());
            let _ = read(&bytes);
        }
    }
}
