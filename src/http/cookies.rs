//! Cookies that are somebody's business here: our own in requests, and those that an origin sets for more
//! than its own host. Not a cookie jar.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::names::Hostname;

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// How many cookies of one name are looked at; browsers send one.
const LOOKS: usize = 4;

/// The values of a visitor's cookies of exactly this name.
pub fn values<'f>(fields: &'f HeaderMap, name: &'f str) -> impl Iterator<Item = &'f str> {
    fields
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(found, _)| *found == name)
        .map(|(_, value)| value)
        .take(LOOKS)
}

/// Removes cookies that an origin sets for the tunnel domain or for what is above it: they would go to
/// every other tunnel.
pub fn keep_to_own_host(fields: &mut HeaderMap, domain: &Hostname) {
    let reaches = |value: &HeaderValue| reaches_others(value.as_bytes(), domain.as_str());
    if !fields.get_all(header::SET_COOKIE).iter().any(reaches) {
        return;
    }
    let all = fields.get_all(header::SET_COOKIE).iter();
    let kept: Vec<_> = all.filter(|value| !reaches(value)).cloned().collect();
    fields.remove(header::SET_COOKIE);
    for cookie in kept {
        fields.append(header::SET_COOKIE, cookie);
    }
}

/// Keeps an origin from emptying what others keep: `Clear-Site-Data` takes the cookies of all of the
/// domain, of every other tunnel too. What it says of its own storage and cache stands.
pub fn keep_to_own_data(fields: &mut HeaderMap) {
    let harmless = |directive: &&[u8]| {
        let has = |what: &[u8]| {
            directive
                .windows(what.len())
                .any(|w| w.eq_ignore_ascii_case(what))
        };
        !has(b"*") && !has(b"cookies")
    };
    let lines = fields.get_all(CLEAR_SITE_DATA);
    if lines.iter().all(|line| harmless(&line.as_bytes())) {
        return;
    }
    let said = lines
        .iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let kept: Vec<_> = said.filter(harmless).map(<[u8]>::trim_ascii).collect();
    let kept = kept.join(&b", "[..]);
    fields.remove(CLEAR_SITE_DATA);
    if !kept.is_empty() {
        let kept = HeaderValue::from_bytes(&kept).expect("parts of values are one");
        fields.insert(CLEAR_SITE_DATA, kept);
    }
}

/// Whether a cookie's `Domain` is at or above ours (RFC 6265 section 5.2.3). What browsers read in
/// different ways is taken the worst way.
fn reaches_others(cookie: &[u8], domain: &str) -> bool {
    let attributes = cookie.split(|b| *b == b';').skip(1);
    let domains = attributes.filter_map(|attribute| {
        let mut parts = attribute.splitn(2, |b| *b == b'=');
        let name = parts.next()?.trim_ascii();
        let value = parts.next()?.trim_ascii();
        name.eq_ignore_ascii_case(b"domain").then_some(value)
    });
    // An empty one is as good as none, or as the one before it.
    let Some(last) = domains.filter(|value| !value.is_empty()).last() else {
        return false;
    };
    let bare = |b: u8| matches!(b, b'"' | b'\'' | b' ' | b'\t' | b'.');
    let start = last.iter().position(|b| !bare(*b));
    let end = last.iter().rposition(|b| !bare(*b));
    let (Some(start), Some(end)) = (start, end) else {
        return true;
    };
    let name = &last[start..=end];
    // What is no plain name may become one: browsers undo escapes and fold what looks like ASCII.
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if !name.iter().all(plain) {
        return true;
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    domain == name
        || domain
            .strip_suffix(name.as_str())
            .is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cookies: &[&str]) -> Vec<String> {
        let mut fields = HeaderMap::new();
        for cookie in cookies {
            let value = HeaderValue::from_bytes(cookie.as_bytes()).unwrap();
            fields.append(header::SET_COOKIE, value);
        }
        keep_to_own_host(&mut fields, &Hostname::parse("t.example.com").unwrap());
        let all = fields.get_all(header::SET_COOKIE).iter();
        all.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    }

    #[test]
    fn cookies_for_everybody_are_dropped() {
        for wide in [
            "a=1; Domain=t.example.com",
            "a=1; domain=.t.example.com",
            "a=1;DOMAIN=T.Example.COM",
            "a=1; Path=/; Domain = example.com ; Secure",
            "a=1; domain=\"t.example.com\"",
            "a=1; domain=..t.example.com.",
            "a=1; domain=com",
            "a=1; domain=app.t.example.com; domain=t.example.com",
            "a=1; domain=t.example.com; domain=",
            "a=1; domain=t.example.com; domain",
            "a=1; domain=%74.example.com",
            "a=1; domain=ｔ.example.com",
            "a=1; domain=.",
            "; domain=t.example.com",
        ] {
            assert_eq!(kept(&[wide]), [""; 0], "{wide}");
        }
    }

    #[test]
    fn cookies_for_the_own_host_stay() {
        for own in [
            "a=1",
            "a=1; Domain",
            "a=1; Domain=",
            "a=1; Domain=app.t.example.com",
            "a=1; domain=t.example.com; domain=app.t.example.com",
            "domain=t.example.com",
            "a=domain=t.example.com",
            "a=1; xdomain=t.example.com",
            "a=1; domain=le.com",
            "a=1; domain=other.com",
        ] {
            assert_eq!(kept(&[own]), [own], "{own}");
        }
        let mixed = kept(&["a=1", "b=2; domain=example.com", "c=3; Path=/"]);
        assert_eq!(mixed, ["a=1", "c=3; Path=/"]);
    }

    #[test]
    fn an_origin_cleared_the_cookies_of_other_tunnels() {
        for (sent, kept) in [
            (&["\"cookies\""][..], None),
            (&["\"*\""], None),
            (&["\"Cookies\" "], None),
            (&["*"], None),
            (
                &["\"cache\", \"cookies\",\"storage\""],
                Some("\"cache\", \"storage\""),
            ),
            (&["\"cache\"", "\"cookies\""], Some("\"cache\"")),
            (
                &["\"cache\" , \"storage\""],
                Some("\"cache\" , \"storage\""),
            ),
        ] {
            let mut fields = HeaderMap::new();
            for line in sent {
                fields.append(CLEAR_SITE_DATA, line.parse().unwrap());
            }
            keep_to_own_data(&mut fields);
            let all = fields.get_all(CLEAR_SITE_DATA).iter();
            let all: Vec<_> = all.map(|v| v.to_str().unwrap()).collect();
            assert_eq!(all, Vec::from_iter(kept), "{sent:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_by_its_exact_name() {
        let mut fields = HeaderMap::new();
        for line in ["x=1; name=a; NAME=b; nam=c", "name=d=e;name; xname=f"] {
            fields.append(header::COOKIE, line.parse().unwrap());
        }
        assert_eq!(values(&fields, "name").collect::<Vec<_>>(), ["a", "d=e"]);
        assert_eq!(values(&fields, "other").count(), 0);
    }
}
