//! Byte ranges and conditions of a request for a file (RFC 9110 sections 13 and 14). Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// A strong entity tag, quotes included.
    pub(super) etag: String,
    /// To the second, as HTTP has it.
    pub(super) modified: Option<SystemTime>,
}

impl Version {
    pub(super) fn new(length: u64, modified: Option<SystemTime>) -> Self {
        let since = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let nanos = since.map_or(0, |d| d.as_nanos());
        Self {
            etag: format!("\"{nanos:x}-{length:x}\""),
            modified: since.map(|d| UNIX_EPOCH + Duration::from_secs(d.as_secs())),
        }
    }

    /// Whether the visitor has this version already.
    pub(super) fn is_known_by(&self, fields: &HeaderMap) -> bool {
        let mut tags = fields.get_all(IF_NONE_MATCH).iter().peekable();
        if tags.peek().is_some() {
            return tags
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag);
        }
        let since = fields.get(IF_MODIFIED_SINCE).and_then(|v| v.to_str().ok());
        let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
        matches!((since, self.modified), (Some(since), Some(modified)) if modified <= since)
    }

    /// Whether a range may be taken from this version.
    fn matches_if_range(&self, fields: &HeaderMap) -> bool {
        let Some(value) = fields.get(IF_RANGE) else {
            return true;
        };
        let Ok(text) = value.to_str() else {
            return false;
        };
        // A weak tag never matches here; a date must be the very one.
        text.trim() == self.etag
            || httpdate::parse_http_date(text).is_ok_and(|date| self.modified == Some(date))
    }
}

/// Which part of a file is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// From a byte, so many.
    Range {
        from: u64,
        length: u64,
    },
    /// Nothing of the file is in the range.
    Unsatisfiable,
}

/// The part of a file of `length` that the fields ask for. Several ranges, other units and what does not
/// parse are as good as no range.
pub(super) fn part(fields: &HeaderMap, length: u64, version: &Version) -> Part {
    let mut ranges = fields.get_all(RANGE).iter();
    let (Some(value), None) = (ranges.next(), ranges.next()) else {
        return Part::Whole;
    };
    let spec = value.to_str().ok().and_then(|text| {
        let (unit, spec) = text.split_once('=')?;
        unit.trim()
            .eq_ignore_ascii_case("bytes")
            .then(|| spec.trim())
    });
    match spec.and_then(|spec| one_range(spec, length)) {
        Some(part) if version.matches_if_range(fields) => part,
        _ => Part::Whole,
    }
}

fn one_range(spec: &str, length: u64) -> Option<Part> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(length);
        return Some(from_to(length - suffix, length, length));
    }
    let first = number(first)?;
    let end = match last {
        "" => length,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(length)
        }
    };
    Some(from_to(first, end, length))
}

fn from_to(from: u64, end: u64, length: u64) -> Part {
    if from >= length || end <= from {
        return Part::Unsatisfiable;
    }
    Part::Range {
        from,
        length: end - from,
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More than fits is past any end.
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version() -> Version {
        Version::new(
            10,
            Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)),
        )
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(*name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn a_range_is_one_part_nothing_or_ignored() {
        let range = |from, length| Part::Range { from, length };
        for (value, expected) in [
            ("bytes=0-0", range(0, 1)),
            ("bytes=0-9", range(0, 10)),
            ("bytes=2-", range(2, 8)),
            ("bytes=9-", range(9, 1)),
            ("bytes=5-100", range(5, 5)),
            ("bytes=-3", range(7, 3)),
            ("bytes=-100", range(0, 10)),
            ("Bytes=1-1", range(1, 1)),
            ("bytes=0-99999999999999999999999", range(0, 10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("0-1", Part::Whole),
        ] {
            let got = part(&fields(&[("range", value)]), 10, &version());
            assert_eq!(got, expected, "{value}");
        }
        let twice = fields(&[("range", "bytes=0-1"), ("range", "bytes=2-3")]);
        assert_eq!(part(&twice, 10, &version()), Part::Whole);
        assert_eq!(
            part(&fields(&[("range", "bytes=0-")]), 0, &version()),
            Part::Unsatisfiable
        );
    }

    #[test]
    fn a_range_of_another_version_is_the_whole_file() {
        let etag = version().etag;
        for (value, whole) in [
            (&*etag, false),
            ("Tue, 14 Nov 2023 22:13:20 GMT", false),
            ("Tue, 14 Nov 2023 22:13:21 GMT", true),
            ("\"other\"", true),
            (&*format!("W/{etag}"), true),
            ("nonsense", true),
        ] {
            let got = part(
                &fields(&[("range", "bytes=0-0"), ("if-range", value)]),
                10,
                &version(),
            );
            assert_eq!(got == Part::Whole, whole, "{value}");
        }
    }

    #[test]
    fn a_version_is_known_by_its_tag_or_else_its_date() {
        let etag = version().etag;
        let date = "Tue, 14 Nov 2023 22:13:20 GMT";
        for (pairs, known) in [
            (&[("if-none-match", &*etag)][..], true),
            (&[("if-none-match", &*format!("\"x\", W/{etag}"))], true),
            (&[("if-none-match", "*")], true),
            (&[("if-none-match", "\"x\"")], false),
            (
                &[("if-none-match", "\"x\""), ("if-modified-since", date)],
                false,
            ),
            (&[("if-modified-since", date)], true),
            (
                &[("if-modified-since", "Tue, 14 Nov 2023 22:13:19 GMT")],
                false,
            ),
            (&[("if-modified-since", "soon")], false),
            (&[], false),
        ] {
            assert_eq!(version().is_known_by(&fields(pairs)), known, "{pairs:?}");
        }
    }
}
