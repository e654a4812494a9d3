//! Request targets and tokens, byte by byte.

use super::HeadError;

/// RFC 9110's tchar.
pub(super) const fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// What may stand in a field value: visible bytes, space, tab, and the upper half.
pub(super) const fn is_value(b: u8) -> bool {
    matches!(b, b'\t' | b' '..=0x7e | 0x80..=0xff)
}

/// Bytes of a target's path: what browsers leave unencoded, and the few that sloppy clients do.
/// No `#`: a fragment is never sent.
const fn is_path(b: u8) -> bool {
    matches!(b, 0x21 | 0x22 | 0x24..=0x3b | 0x3d | 0x3f..=0x5f | 0x61..=0x7e)
}

const fn is_query(b: u8) -> bool {
    matches!(b, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e)
}

/// Judges a path and query as its bytes come in. Bytes go on exactly as they are, so this only
/// refuses: controls, spaces, fragments, broken UTF-8.
#[derive(Debug)]
pub(super) struct PathScanner {
    in_query: bool,
    utf8: [u8; 4],
    pending: usize,
}

impl PathScanner {
    pub(super) const fn new() -> Self {
        Self {
            in_query: false,
            utf8: [0; 4],
            pending: 0,
        }
    }

    pub(super) fn feed(&mut self, b: u8) -> Result<(), HeadError> {
        if b >= 0x80 {
            return self.feed_high(b);
        }
        if self.pending > 0 {
            return Err(HeadError::Target);
        }
        let fits = if self.in_query {
            is_query(b)
        } else {
            is_path(b)
        };
        self.in_query |= b == b'?';
        fits.then_some(()).ok_or(HeadError::Target)
    }

    /// How many bytes from here on fit, and change nothing for those behind them.
    pub(super) fn run(&self, bytes: &[u8]) -> usize {
        let goes_on = match (self.pending, self.in_query) {
            (0, true) => is_query as fn(u8) -> bool,
            (0, false) => |b| is_path(b) && b != b'?',
            _ => return 0,
        };
        let end = bytes.iter().position(|b| !goes_on(*b));
        end.unwrap_or(bytes.len())
    }

    pub(super) const fn end(&self) -> Result<(), HeadError> {
        if self.pending > 0 {
            return Err(HeadError::Target);
        }
        Ok(())
    }

    fn feed_high(&mut self, b: u8) -> Result<(), HeadError> {
        self.utf8[self.pending] = b;
        self.pending += 1;
        match std::str::from_utf8(&self.utf8[..self.pending]) {
            Ok(_) => self.pending = 0,
            // Not whole yet: at most three bytes, so the next one still has room.
            Err(e) if e.error_len().is_none() => {}
            Err(_) => return Err(HeadError::Target),
        }
        Ok(())
    }
}

/// Judges a method: who may pass, whatever the version.
pub(super) fn check_method(method: &[u8]) -> Result<(), HeadError> {
    if method.len() > super::limits::METHOD_MAX {
        return Err(HeadError::MethodTooLong);
    }
    match method {
        b"CONNECT" | b"TRACE" => Err(HeadError::MethodRefused),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(target: &[u8]) -> Result<(), HeadError> {
        let mut scanner = PathScanner::new();
        for b in target {
            scanner.feed(*b)?;
        }
        scanner.end()
    }

    #[test]
    fn targets_pass_byte_for_byte_or_not_at_all() {
        for good in [
            "/",
            "/a/../b//c",
            "/%00%2e",
            "/a\\b",
            "/ü?ö=ä",
            "/a|b{c}\"",
            "/?q=`{}|^",
            "/a;b,c",
            "/😀",
        ] {
            assert_eq!(judge(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            &b"/a#b"[..],
            b"/a b",
            b"/\0",
            b"/\x7f",
            b"/\xff",
            b"/\xc3",
            b"/\xc3a",
            b"/\xed\xa0\x80",
            b"/<a>",
            b"/a\tb",
            b"/?a=<",
            b"/?#",
        ] {
            assert_eq!(judge(bad), Err(HeadError::Target), "{bad:?}");
        }
    }

    #[test]
    fn what_passes_here_parses_as_a_uri() {
        // Otherwise hyper would answer in our place.
        for b in 0x21..=0x7eu8 {
            for prefix in ["/", "/?"] {
                let mut target = prefix.as_bytes().to_vec();
                target.push(b);
                if judge(&target).is_ok() {
                    let uri = http::Uri::try_from(&target[..]).unwrap();
                    let kept = uri.path_and_query().unwrap().as_str().as_bytes().to_vec();
                    assert_eq!(kept, target);
                }
            }
        }
    }
}
