//! Path rules: `/admin/**`, `/api/*/public`. Judged on the very bytes that are forwarded, and on everything
//! that an origin could take those bytes for.
//!
//! A pattern begins with `/`. Inside a segment `*` stands for any run of bytes, also none; alone it stands for
//! one segment that is not empty. `**` alone stands for any number of segments, also none: `/admin/**` is
//! `/admin` and all below it. A slash at the end means nothing. The query is not looked at.
//!
//! Origins disagree about `%2e`, `//`, `..`, `\` and `;`, so a path has several *readings*: as it stands,
//! decoded once, twice and three times, with `\` as `/`, without `;parameters`, without empty segments,
//! with dots resolved, and so on. A denied path is denied when **one** reading matches, in any case of
//! letters; an allowed one is allowed when **every** reading matches. A path that is full of tricks and
//! long besides has too many readings, and is refused wherever there are path rules.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// The longest pattern.
const PATTERN_MAX: usize = 256;

/// The longest path with tricks that is read in every way.
const TRICKY_MAX: usize = 2048;

/// What paths a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with a slash.
    #[error("{text:?} does not begin with /")]
    NoSlash {
        /// What was given.
        text: String,
    },
    /// Longer than 256 bytes.
    #[error("it has more than {PATTERN_MAX} bytes")]
    TooLong,
    /// It could never match what it seems to say.
    #[error("{text:?} has {what}; write the path as the service sees it, decoded")]
    Odd {
        /// What was given.
        text: String,
        /// What is odd about it.
        what: &'static str,
    },
}

impl PathPattern {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the readings matches, in any case of letters.
    pub fn denies(&self, readings: &Readings) -> bool {
        let pattern = self.0.to_ascii_lowercase();
        let pattern = segments(pattern.as_bytes());
        let hit = |reading: &Vec<u8>| {
            let reading = reading.to_ascii_lowercase();
            matches(&pattern, &segments(&reading))
        };
        readings.0.as_ref().is_none_or(|all| all.iter().any(hit))
    }

    fn allows(&self, reading: &[u8]) -> bool {
        matches(&segments(self.0.as_bytes()), &segments(reading))
    }
}

/// Whether every reading is allowed by one of the patterns.
pub(super) fn all_allowed(patterns: &[PathPattern], readings: &Readings) -> bool {
    let allowed = |reading: &Vec<u8>| patterns.iter().any(|p| p.allows(reading));
    readings
        .0
        .as_ref()
        .is_some_and(|all| all.iter().all(allowed))
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let shown = || text.chars().take(64).collect();
        if text.len() > PATTERN_MAX {
            return Err(PatternError::TooLong);
        }
        if !text.starts_with('/') {
            return Err(PatternError::NoSlash { text: shown() });
        }
        let odd = |what| PatternError::Odd {
            text: shown(),
            what,
        };
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(odd("a space or a control character"));
        }
        if text.contains(['?', '#', '\\', ';', '%']) {
            return Err(odd("one of ? # \\ ; %"));
        }
        let inner = text.strip_suffix('/').unwrap_or(text);
        let mut segments = inner.split('/').skip(1);
        if segments.any(|s| matches!(s, "" | "." | "..")) {
            return Err(odd("an empty or a dot segment"));
        }
        if inner.split('/').any(|s| s != "**" && s.contains("**")) {
            return Err(odd("** inside a segment"));
        }
        let inner = if inner.is_empty() { "/" } else { inner };
        Ok(Self(inner.to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything an origin could take a path for; none when that is too much to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readings(Option<HashSet<Vec<u8>>>);

impl Readings {
    /// Of a path as it is forwarded, with or without its query.
    pub fn of(path: &str) -> Self {
        let path = path.split('?').next().unwrap_or_default().as_bytes();
        if !is_tricky(path) {
            return Self(Some(HashSet::from([path.to_vec()])));
        }
        if path.len() > TRICKY_MAX {
            return Self(None);
        }
        let mut all = HashSet::new();
        let mut decoded = path.to_vec();
        for _ in 0..=3 {
            spell_out(&decoded, &mut all);
            decoded = decode(&decoded);
        }
        Self(Some(all))
    }
}

/// Whether there is more than one way to read it.
fn is_tricky(path: &[u8]) -> bool {
    let odd = |b: &u8| matches!(b, b'%' | b'\\' | b';' | b'#') || !b.is_ascii_graphic();
    path.iter().any(odd)
        || path.windows(2).any(|pair| pair == b"//")
        || path.split(|b| *b == b'/').any(|s| s.ends_with(b"."))
}

/// One degree of decoding, read with and without each of the habits that origins have.
fn spell_out(path: &[u8], all: &mut HashSet<Vec<u8>>) {
    for habits in 0..16_u8 {
        let has = |bit: u8| habits & (1 << bit) != 0;
        let mut text = path.to_vec();
        // A text of C ends at the first zero, and a fragment is not sent on.
        if has(0)
            && let Some(end) = text.iter().position(|b| matches!(b, 0 | b'#'))
        {
            text.truncate(end);
        }
        if has(1) {
            text.iter_mut()
                .filter(|b| **b == b'\\')
                .for_each(|b| *b = b'/');
        }
        let mut parts: Vec<&[u8]> = text.split(|b| *b == b'/').collect();
        if has(2) {
            for part in &mut parts {
                *part = part.split(|b| *b == b';').next().unwrap_or_default();
            }
        }
        if has(3) {
            all.insert(join(&resolve(&parts, true)));
            parts = resolve(&parts, false);
        }
        all.insert(join(&parts));
    }
}

/// Without `.`, `..` and empty segments; and, as Windows has it, without dots and spaces at a segment's end.
fn resolve<'p>(parts: &[&'p [u8]], trim: bool) -> Vec<&'p [u8]> {
    let mut out: Vec<&[u8]> = vec![b""];
    for part in parts {
        match *part {
            b"" | b"." => {}
            b".." => out.truncate((out.len() - 1).max(1)),
            part if trim => {
                let ends = |b: &u8| !matches!(b, b'.' | b' ');
                let end = part.iter().rposition(ends).map_or(0, |at| at + 1);
                out.push(&part[..end]);
            }
            part => out.push(part),
        }
    }
    out
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&b'/')
}

/// Decodes `%xx`, `%uxxxx`, and the overlong spellings of dot, slash and backslash.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        let (decoded, length) = match byte {
            b'%' => escape(&path[at..]).unwrap_or((byte, 1)),
            _ => (byte, 1),
        };
        out.push(decoded);
        at += length;
        let plain = match out.as_slice() {
            [.., 0xC0, 0xAE] => Some(b'.'),
            [.., 0xC0, 0xAF] => Some(b'/'),
            [.., 0xC1, 0x9C] => Some(b'\\'),
            _ => None,
        };
        if let Some(plain) = plain {
            out.truncate(out.len() - 2);
            out.push(plain);
        }
    }
    out
}

fn escape(text: &[u8]) -> Option<(u8, usize)> {
    let hex = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let digits = std::str::from_utf8(digits).ok()?;
        let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
        u16::from_str_radix(digits, 16).ok().filter(|_| plain)
    };
    if matches!(text.get(1), Some(b'u' | b'U')) {
        return hex(2, 6)
            .and_then(|code| u8::try_from(code).ok())
            .map(|b| (b, 6));
    }
    hex(1, 3)
        .and_then(|code| u8::try_from(code).ok())
        .map(|b| (b, 3))
}

/// The segments after the first slash; one slash at the end means nothing.
fn segments(path: &[u8]) -> Vec<&[u8]> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Vec::new();
    }
    path.split(|b| *b == b'/').collect()
}

/// Whether segments match, `**` being any number of them. Linear but for the last `**`, which is tried
/// again one segment further each time.
fn matches(pattern: &[&[u8]], path: &[&[u8]]) -> bool {
    wild(
        pattern,
        path,
        |p| *p == b"**",
        |p, s| (*p != b"*" || !s.is_empty()) && wild(p, s, |b| *b == b'*', |a, b| a == b),
    )
}

fn wild<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(any) if is_any(any) => {
                again = Some((p + 1, t));
                p += 1;
            }
            Some(one) if fits(one, &text[t]) => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, from)) = again else {
                    return false;
                };
                again = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
        }
    }
    pattern[p..].iter().all(is_any)
}
