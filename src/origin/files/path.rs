//! A request target -> the path inside a directory that it names. Pure; touches no file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// What need not be escaped in a path segment (RFC 3986 unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path relative to the directory, of names only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The names on the way, decoded; none is empty, a dot or two, or holds a slash or a NUL.
    names: Vec<OsString>,
    /// Whether it ended in a slash: a directory is meant.
    pub(super) is_dir: bool,
    /// Whether a name begins with a dot.
    pub(super) is_hidden: bool,
}

impl Wanted {
    /// Reads a request target; `None` when it can name no path.
    pub(super) fn parse(target: &str) -> Option<Self> {
        let path = target.split('?').next()?.strip_prefix('/')?;
        let mut names = Vec::new();
        for segment in path.split('/') {
            let name = decode(segment)?;
            match name.as_slice() {
                // `//` names nothing between its slashes.
                b"" => {}
                b"." | b".." => return None,
                name if name.contains(&b'/') || name.contains(&0) => return None,
                _ => names.push(OsString::from_vec(name)),
            }
        }
        Some(Self {
            is_dir: path.is_empty() || path.ends_with('/'),
            is_hidden: names.iter().any(|name| is_hidden(name)),
            names,
        })
    }

    /// The path relative to the directory; `.` for the directory itself.
    pub(super) fn relative(&self) -> PathBuf {
        if self.names.is_empty() {
            return PathBuf::from(".");
        }
        self.names.iter().collect()
    }

    /// Whether it is the directory itself.
    pub(super) fn is_root(&self) -> bool {
        self.names.is_empty()
    }

    /// The directory's own address: one slash at each end, whatever the visitor wrote, so that no
    /// second slash turns it into another host's.
    pub(super) fn with_slash(&self, target: &str) -> String {
        let mut out = String::from("/");
        for name in &self.names {
            out.push_str(&encode(name));
            out.push('/');
        }
        if let Some((_, query)) = target.split_once('?') {
            out.push('?');
            out.push_str(query);
        }
        out
    }

    /// What a person reads above a listing.
    pub(super) fn title(&self) -> String {
        let mut out = String::from("/");
        for name in &self.names {
            out.push_str(&name.to_string_lossy());
            out.push('/');
        }
        out
    }
}

/// Whether a name is hidden by the custom of a leading dot.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// A name as a path segment of a URL.
pub(super) fn encode(name: &OsStr) -> String {
    percent_encode(name.as_bytes(), SEGMENT).to_string()
}

/// Percent-decodes once; `None` for an escape that is none.
fn decode(segment: &str) -> Option<Vec<u8>> {
    let bytes = segment.as_bytes();
    let escapes = bytes.iter().enumerate().filter(|(_, b)| **b == b'%');
    for (i, _) in escapes {
        let digits = bytes.get(i + 1..i + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
    }
    Some(percent_decode(bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_a_path_inside_or_nothing() {
        for (target, expected) in [
            ("/", Some(".")),
            ("/a/b.txt", Some("a/b.txt")),
            ("/a%20b?x=/../y", Some("a b")),
            ("//a///b", Some("a/b")),
            ("/a/%2e%2e/b", None),
            ("/../etc/passwd", None),
            ("/a/..", None),
            ("/./a", None),
            ("/a%2f..%2fb", None),
            ("/a%00b", None),
            ("/%", None),
            ("/%4", None),
            ("/%zz", None),
            ("a", None),
            ("*", None),
            ("/%252e%252e/x", Some("%2e%2e/x")),
            ("/..\\..\\x", Some("..\\..\\x")),
        ] {
            let got = Wanted::parse(target).map(|w| w.relative());
            assert_eq!(got, expected.map(PathBuf::from), "{target}");
        }
    }

    #[test]
    fn a_redirect_stays_on_this_host() {
        for (target, expected) in [
            ("/a", "/a/"),
            ("//evil.example/%2e", "none"),
            ("//evil.example", "/evil.example/"),
            ("/a%0d%0ab?q", "/a%0D%0Ab/?q"),
            ("/\\evil", "/%5Cevil/"),
        ] {
            let got = Wanted::parse(target).map(|w| w.with_slash(target));
            assert_eq!(got.as_deref().unwrap_or("none"), expected, "{target}");
        }
    }
}
