//! `Authorization: Basic` (RFC 7617), read strictly: what is not exactly that is nobody's credentials.

use data_encoding::BASE64;
use http::header::{self, HeaderMap};

use crate::secret::Secret;

/// The most bytes of a user name; a policy's users are shorter.
const USER_MAX: usize = 256;

/// The most bytes of a password; beyond it, checking would only cost time.
const PASSWORD_MAX: usize = 1024;

/// What a visitor says to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basic {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Secret<String>,
}

/// Whether an `Authorization` is of the scheme `Basic`, well formed or not.
pub fn is_basic(value: &[u8]) -> bool {
    scheme(value).is_some()
}

/// The credentials of a head. None when there are none, when there are several, and when they are not
/// exactly base64 of UTF-8 with a colon and no control characters.
pub fn credentials(fields: &HeaderMap) -> Option<Basic> {
    let mut values = fields.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let encoded = scheme(value.as_bytes())?;
    if encoded.len() > BASE64.encode_len(USER_MAX + 1 + PASSWORD_MAX) {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    if text.chars().any(char::is_control) {
        return None;
    }
    let (user, password) = text.split_once(':')?;
    if user.is_empty() || user.len() > USER_MAX || password.len() > PASSWORD_MAX {
        return None;
    }
    Some(Basic {
        user: user.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

/// What follows the scheme and its spaces.
fn scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    match rest {
        [] => Some(rest),
        [b' ', ..] => Some(rest.trim_ascii_start()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Option<(String, String)> {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let basic = credentials(&fields)?;
        Some((basic.user, basic.password.expose().clone()))
    }

    fn encoded(text: &[u8]) -> String {
        format!("Basic {}", BASE64.encode(text))
    }

    #[test]
    fn what_is_basic_is_read() {
        let some = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        // The example of RFC 7617.
        let rfc = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(read(&[rfc]), some("Aladdin", "open sesame"));
        let twice = "bAsIc  QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(read(&[twice]), some("Aladdin", "open sesame"));
        assert_eq!(read(&[&encoded(b"bob:a:b:")]), some("bob", "a:b:"));
        assert_eq!(read(&[&encoded(b"bob:")]), some("bob", ""));
        let pound = encoded("test:123\u{a3}".as_bytes());
        assert_eq!(read(&[&pound]), some("test", "123\u{a3}"));
    }

    #[test]
    fn what_is_not_exactly_that_is_nobodys() {
        let long = encoded(format!("bob:{}", "x".repeat(PASSWORD_MAX + 1)).as_bytes());
        for other in [
            "",
            "Basic",
            "Basic ",
            "Basic:QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basically QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            // No padding, too much of it, something behind it, the other alphabet, bits that say nothing.
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ===",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ== x",
            "Basic Pz8_Ojo-",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZR==",
            &encoded(b"nocolon"),
            &encoded(b":nobody"),
            &encoded(b"bob:\xff"),
            &encoded(b"bob:a\nb"),
            &encoded(b"bo\0b:a"),
            &long,
        ] {
            assert_eq!(read(&[other]), None, "{other}");
        }
        let right = encoded(b"bob:right");
        assert_eq!(read(&[&right, &right]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_scheme_is_known_by_its_whole_name() {
        for ours in ["Basic", "BASIC x", "basic =="] {
            assert!(is_basic(ours.as_bytes()), "{ours}");
        }
        for other in ["", "Basi", "Basics x", "Bearer x", "Basic\tx"] {
            assert!(!is_basic(other.as_bytes()), "{other}");
        }
    }
}
