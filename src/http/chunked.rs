//! A strict look at the framing of a chunked body (RFC 9112 section 7.1), as its bytes come in.
//! Not a decoder: hyper decodes what passed here, and the bytes themselves are never copied.

use super::target::{is_token, is_value};
use super::{HeadError, limits};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Size,
    MoreSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// Follows one chunked body.
#[derive(Debug)]
pub struct ChunkScanner {
    state: State,
    /// Of the chunk: its size while that is read, then what is left of it.
    left: u64,
    digits: u32,
    extensions: usize,
    trailers: usize,
    trailer_fields: usize,
}

impl Default for ChunkScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkScanner {
    /// At the start of a body.
    pub const fn new() -> Self {
        Self {
            state: State::Size,
            left: 0,
            digits: 0,
            extensions: 0,
            trailers: 0,
            trailer_fields: 0,
        }
    }

    /// Takes bytes: how many belong to the body, and whether it ended with them. The error carries how
    /// many bytes were in order before the offending one.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), (usize, HeadError)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Data {
                let room = (bytes.len() - at) as u64;
                let take = self.left.min(room);
                self.left -= take;
                // At most `room`, which came from a usize.
                at += take as usize;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            let done = self.step(bytes[at]).map_err(|e| (at, e))?;
            at += 1;
            if done {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    fn step(&mut self, b: u8) -> Result<bool, HeadError> {
        let next = match (self.state, b) {
            (State::Size, b) => {
                self.left = u64::from(hex(b).ok_or(HeadError::Chunk)?);
                self.digits = 1;
                State::MoreSize
            }
            (State::MoreSize, b'\r') | (State::Extension, b'\r') => State::SizeLf,
            (State::MoreSize, b';') => State::Extension,
            (State::MoreSize, b) => {
                self.add_digit(b)?;
                State::MoreSize
            }
            (State::Extension, b) if is_value(b) => {
                count(&mut self.extensions, limits::CHUNK_EXTENSIONS_MAX)?;
                State::Extension
            }
            (State::SizeLf, b'\n') if self.left == 0 => State::TrailerStart,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart, b) if is_token(b) => {
                count(&mut self.trailers, limits::TRAILERS_MAX)?;
                count(&mut self.trailer_fields, limits::FIELDS_MAX)?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerName, b) if is_token(b) => {
                count(&mut self.trailers, limits::TRAILERS_MAX)?;
                State::TrailerName
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b) if is_value(b) => {
                count(&mut self.trailers, limits::TRAILERS_MAX)?;
                State::TrailerValue
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => return Ok(true),
            _ => return Err(HeadError::Chunk),
        };
        self.state = next;
        Ok(false)
    }

    fn add_digit(&mut self, b: u8) -> Result<(), HeadError> {
        let digit = u64::from(hex(b).ok_or(HeadError::Chunk)?);
        self.digits += 1;
        // Four bits of room, and one for the sign of whoever reads it as signed.
        if self.left > limits::CONTENT_LENGTH_MAX >> 4 || self.digits > u64::BITS / 4 {
            return Err(HeadError::Chunk);
        }
        self.left = self.left << 4 | digit;
        Ok(())
    }
}

fn hex(b: u8) -> Option<u32> {
    char::from(b).to_digit(16)
}

fn count(counter: &mut usize, max: usize) -> Result<(), HeadError> {
    *counter += 1;
    if *counter > max {
        return Err(HeadError::Chunk);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(bytes: &[u8]) -> Result<(usize, bool), (usize, HeadError)> {
        ChunkScanner::new().feed(bytes)
    }

    #[test]
    fn whole_bodies_pass_and_nothing_after_them_is_taken() {
        for good in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"A;x=\"y z\"\r\n0123456789\r\n00\r\n\r\n",
            b"1\r\na\r\n0\r\nGrpc-Status: 0\r\nX:\r\n\r\n",
        ] {
            assert_eq!(
                scan(good),
                Ok((good.len(), true)),
                "{}",
                good.escape_ascii()
            );
            let more = [good, b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(scan(&more), Ok((good.len(), true)));
            for cut in 0..good.len() {
                assert_eq!(scan(&good[..cut]), Ok((cut, false)));
            }
        }
    }

    #[test]
    fn bad_framing_is_refused_at_its_byte() {
        for bad in [
            &b"0x"[..],
            b"\r",
            b"\n",
            b"g",
            b"-",
            b"+",
            b" ",
            b"5 ",
            b"5\n",
            b"5\r\r",
            b"5;\n",
            b"5;\0",
            b"5\r\nhellox",
            b"5\r\nhello\n",
            b"5\r\nhello\r\r",
            b"0\r\n\n",
            b"0\r\n ",
            b"0\r\n:",
            b"0\r\nX ",
            b"0\r\nX\r",
            b"0\r\nX: y\n",
            b"0\r\nX: \0",
            b"0\r\n\r\r",
        ] {
            assert_eq!(
                scan(bad),
                Err((bad.len() - 1, HeadError::Chunk)),
                "{}",
                bad.escape_ascii()
            );
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert_eq!(scan(b"7fffffffffffffff\r\n"), Ok((18, false)));
        for bad in [
            &b"8000000000000000"[..],
            b"ffffffffffffffff",
            b"10000000000000000",
        ] {
            assert!(scan(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(scan(b"0000000000000001\r\na\r\n").is_ok());
        assert!(
            scan(b"00000000000000001").is_err(),
            "zeros for ever are no size"
        );
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = |n: usize| [b"1;", &b"x".repeat(n)[..], b"\r\na\r\n"].concat();
        for n in [
            limits::CHUNK_EXTENSIONS_MAX - 1,
            limits::CHUNK_EXTENSIONS_MAX,
        ] {
            assert!(scan(&extension(n)).is_ok());
        }
        assert!(scan(&extension(limits::CHUNK_EXTENSIONS_MAX + 1)).is_err());
        let half = extension(limits::CHUNK_EXTENSIONS_MAX / 2 + 1);
        assert!(
            scan(&[&half[..], &half].concat()).is_err(),
            "the bound is per body"
        );
        let trailer = |n: usize| [b"0\r\nx:", &b"y".repeat(n - 1)[..], b"\r\n\r\n"].concat();
        for n in [limits::TRAILERS_MAX - 1, limits::TRAILERS_MAX] {
            assert!(matches!(scan(&trailer(n)), Ok((_, true))));
        }
        assert!(scan(&trailer(limits::TRAILERS_MAX + 1)).is_err());
        let fields = |n: usize| [b"0\r\n", &b"x:y\r\n".repeat(n)[..], b"\r\n"].concat();
        assert!(matches!(scan(&fields(limits::FIELDS_MAX)), Ok((_, true))));
        assert!(scan(&fields(limits::FIELDS_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_pieces_make_no_difference(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), any::<u8>()
            ], 0..100),
        ) {
            let whole = scan(&bytes);
            let mut scanner = ChunkScanner::new();
            let mut pieces = Ok((0, false));
            for (i, b) in bytes.iter().enumerate() {
                pieces = match scanner.feed(&[*b]) {
                    Ok((n, done)) => Ok((i + n, done)),
                    Err((n, e)) => Err((i + n, e)),
                };
                if !matches!(pieces, Ok((_, false))) {
                    break;
                }
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
