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
//!
//! What is judged stands in a lock that all visitors wait for, so the work has a bound, counted in
//! [steps](STEPS_MAX): a path that rules cannot be asked about within it is refused like one with too many
//! readings. Rules at all their limits stay far below it as long as they name places, end in a suffix, or look
//! for a segment anywhere, as `/admin/**`, `/**/*.bak` and `/**/.git/**` do.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest pattern.
const PATTERN_MAX: usize = 256;

/// The longest path with tricks that is read in every way.
const TRICKY_MAX: usize = 2048;

/// What may be compared for one visit, in steps of about a byte: half a millisecond.
pub const STEPS_MAX: usize = 1 << 19;

/// What paths a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(Arc<Cut>);

/// Its text, and where that is cut.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Cut {
    text: String,
    /// What stands before, between and behind its `**`.
    runs: Box<[Run]>,
}

/// Segments without a `**` among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Run {
    /// Where they stand in the text, each with its slash before it.
    from: u16,
    to: u16,
    /// How many they are.
    many: u16,
}

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
        &self.0.text
    }

    /// Whether it matches the segments of a reading. What stands at either end can only stand there, and of
    /// what is between two `**` the first place that fits is as good as any, so no choice is ever taken back.
    fn matches(&self, path: &[&[u8]], case: Case, steps: &mut Steps) -> Result<bool, Spent> {
        let (last, before) = self
            .0
            .runs
            .split_last()
            .expect("a text has one run at least");
        let Some((first, between)) = before.split_first() else {
            return Ok(path.len() == last.len() && self.fits(last, path, case, steps)?);
        };
        let Some(most) = path.len().checked_sub(first.len() + last.len()) else {
            return Ok(false);
        };
        let (head, rest) = path.split_at(first.len());
        let (mut rest, tail) = rest.split_at(most);
        if !self.fits(first, head, case, steps)? || !self.fits(last, tail, case, steps)? {
            return Ok(false);
        }
        for run in between {
            loop {
                let Some((here, after)) = rest.split_at_checked(run.len()) else {
                    return Ok(false);
                };
                if self.fits(run, here, case, steps)? {
                    rest = after;
                    break;
                }
                rest = &rest[1..];
            }
        }
        Ok(true)
    }

    /// Whether a run stands at these segments, which are as many.
    fn fits(
        &self,
        run: &Run,
        path: &[&[u8]],
        case: Case,
        steps: &mut Steps,
    ) -> Result<bool, Spent> {
        let text = &self.0.text.as_bytes()[usize::from(run.from)..usize::from(run.to)];
        for (pattern, segment) in text.split(|b| *b == b'/').skip(1).zip(path) {
            if !segment_fits(pattern, segment, case, steps)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Run {
    fn len(&self) -> usize {
        usize::from(self.many)
    }
}

/// What stands before, between and behind the `**` of a text that is a pattern.
fn runs(text: &str) -> Box<[Run]> {
    let mut from = 0;
    let small = |at: usize| u16::try_from(at).expect("a pattern has at most 256 bytes");
    let run = |run: &str| {
        let to = from + run.len();
        let many = small(run.matches('/').count());
        let (from, to) = (
            small(std::mem::replace(&mut from, to + "/**".len())),
            small(to),
        );
        Run { from, to, many }
    };
    // Two stars are a segment of their own wherever they stand.
    text.trim_end_matches('/').split("/**").map(run).collect()
}

/// The path of one visit, and what judging it may still cost. Every rule about paths that the visit meets is
/// asked here.
#[derive(Debug)]
pub(super) struct PathJudge<'p> {
    path: &'p str,
    readings: Option<Readings>,
    steps: Steps,
}

impl<'p> PathJudge<'p> {
    /// Of a path as it is forwarded, with or without its query, that may cost so many steps.
    pub(super) const fn new(path: &'p str, most: usize) -> Self {
        Self {
            path,
            readings: None,
            steps: Steps { left: most },
        }
    }

    /// What it may still cost.
    pub(super) const fn left(&self) -> usize {
        self.steps.left
    }

    /// The first of these patterns that one of the readings matches, in any case of letters. When that cannot
    /// be said, the first of all.
    pub(super) fn denied_by<'r>(&mut self, patterns: &'r [PathPattern]) -> Option<&'r PathPattern> {
        let first = patterns.first()?;
        let readings = self.readings.get_or_insert_with(|| Readings::of(self.path));
        denying(patterns, readings, &mut self.steps).unwrap_or(Some(first))
    }

    /// Whether every reading is allowed by one of these patterns.
    pub(super) fn is_allowed(&mut self, patterns: &[PathPattern]) -> bool {
        let readings = self.readings.get_or_insert_with(|| Readings::of(self.path));
        all_allowed(patterns, readings, &mut self.steps).unwrap_or(false)
    }
}

fn denying<'r>(
    patterns: &'r [PathPattern],
    readings: &Readings,
    steps: &mut Steps,
) -> Result<Option<&'r PathPattern>, Spent> {
    let all = readings.0.as_ref().ok_or(Spent)?;
    // Only what stands before the one that was found can still be the first.
    let (mut hit, mut before) = (None, patterns);
    for reading in all {
        let segments = cut(reading, steps)?;
        for (at, pattern) in before.iter().enumerate() {
            if pattern.matches(&segments, Case::Any, steps)? {
                (hit, before) = (Some(pattern), &before[..at]);
                break;
            }
        }
    }
    Ok(hit)
}

fn all_allowed(
    patterns: &[PathPattern],
    readings: &Readings,
    steps: &mut Steps,
) -> Result<bool, Spent> {
    for reading in readings.0.as_ref().ok_or(Spent)? {
        let segments = cut(reading, steps)?;
        let mut is_allowed = false;
        for pattern in patterns {
            is_allowed = pattern.matches(&segments, Case::Same, steps)?;
            if is_allowed {
                break;
            }
        }
        if !is_allowed {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What may still be compared.
#[derive(Debug)]
struct Steps {
    left: usize,
}

/// Nobody can say within the bound.
#[derive(Debug)]
struct Spent;

impl Steps {
    fn take(&mut self, many: usize) -> Result<(), Spent> {
        let left = self.left.checked_sub(many);
        self.left = left.unwrap_or(0);
        left.map(|_| ()).ok_or(Spent)
    }
}

/// Whether letters in another case are other letters.
#[derive(Debug, Clone, Copy)]
enum Case {
    Any,
    Same,
}

impl Case {
    fn same(self, one: &[u8], other: &[u8]) -> bool {
        match self {
            Self::Any => one.eq_ignore_ascii_case(other),
            Self::Same => one == other,
        }
    }
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
        Ok(Self(Arc::new(Cut {
            text: inner.to_owned(),
            runs: runs(inner),
        })))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
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
            let again = decode(&decoded);
            if again == decoded {
                break;
            }
            decoded = again;
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
    let holds = |what: &[u8]| path.iter().any(|b| what.contains(b));
    // A habit that finds nothing to do makes no difference.
    let busy = [holds(b"\0#"), holds(b"\\"), holds(b";"), true];
    let idle = |habits: u8| {
        (0..)
            .zip(busy)
            .any(|(bit, busy)| !busy && habits & (1 << bit) != 0)
    };
    for habits in (0..16_u8).filter(|habits| !idle(*habits)) {
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
fn cut<'r>(path: &'r [u8], steps: &mut Steps) -> Result<Vec<&'r [u8]>, Spent> {
    steps.take(path.len())?;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    Ok(path.split(|b| *b == b'/').collect())
}

/// Whether a segment matches, `*` in it being any run of bytes. As with segments, no choice is taken back.
fn segment_fits(
    pattern: &[u8],
    segment: &[u8],
    case: Case,
    steps: &mut Steps,
) -> Result<bool, Spent> {
    steps.take(1 + pattern.len())?;
    if pattern == b"*" {
        return Ok(!segment.is_empty());
    }
    let mut pieces = pattern.split(|b| *b == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(last) = pieces.next_back() else {
        return Ok(case.same(first, segment));
    };
    let Some(most) = segment.len().checked_sub(first.len() + last.len()) else {
        return Ok(false);
    };
    let (head, rest) = segment.split_at(first.len());
    let (mut rest, tail) = rest.split_at(most);
    if !case.same(first, head) || !case.same(last, tail) {
        return Ok(false);
    }
    for piece in pieces {
        loop {
            let Some((here, after)) = rest.split_at_checked(piece.len()) else {
                return Ok(false);
            };
            steps.take(1 + piece.len())?;
            if case.same(piece, here) {
                rest = after;
                break;
            }
            rest = &rest[1..];
        }
    }
    Ok(true)
}
