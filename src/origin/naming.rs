//! Which name the origin hears, and how names are mapped on the way in and out. Pure: whether to
//! rewrite at all is decided by the tunnel's mind ([`crate::engine::HostMind`]).

use http::header::{CONTENT_LOCATION, LOCATION, ORIGIN, REFERER, SET_COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::engine::book::HostMode;
use crate::engine::{HostMind, HostUse};
use crate::names::Target;

/// The names of one exchange.
#[derive(Debug, Clone)]
pub(super) struct Naming {
    /// The public scheme and authority, as the visitor used them.
    public: (String, String),
    /// What the origin is called when names are rewritten.
    own: Option<Own>,
}

#[derive(Debug, Clone)]
struct Own {
    /// Scheme and authority by which the origin is addressed.
    name: (&'static str, String),
    /// Other authorities that mean the same origin.
    aliases: Vec<String>,
}

impl Naming {
    /// The names for one exchange that uses `used`.
    pub(super) fn new(
        mind: &HostMind,
        used: HostUse,
        target: &Target,
        scheme: &str,
        authority: &str,
    ) -> Self {
        let own = (used == HostUse::Rewrite).then(|| {
            let scheme = if matches!(target, Target::Https { .. }) {
                "https"
            } else {
                "http"
            };
            let authority = match mind.mode() {
                HostMode::Fixed(text) => text.clone(),
                _ => target.own_authority(),
            };
            Own {
                name: (scheme, authority),
                aliases: aliases(target),
            }
        });
        Self {
            public: (scheme.to_ascii_lowercase(), authority.to_ascii_lowercase()),
            own,
        }
    }

    /// What stands in `Host` or `:authority`.
    pub(super) fn host(&self) -> &str {
        match &self.own {
            Some(own) => &own.name.1,
            None => &self.public.1,
        }
    }

    /// Rewrites `Origin` and `Referer` where they name this tunnel's own public origin. A foreign
    /// `Origin` stays: it is how the origin tells its own pages from those of strangers.
    pub(super) fn map_request(&self, fields: &mut HeaderMap) {
        let Some(own) = &self.own else { return };
        let to = format!("{}://{}", own.name.0, own.name.1);
        for name in [ORIGIN, REFERER] {
            let Some(value) = fields.get(&name) else {
                continue;
            };
            let Some((scheme, authority, rest)) = split_url(value.as_bytes()) else {
                continue;
            };
            let is_public = scheme.eq_ignore_ascii_case(&self.public.0)
                && same_authority(authority, &self.public.1, &self.public.0);
            if is_public
                && let Ok(mapped) = HeaderValue::from_bytes(&[to.as_bytes(), rest].concat())
            {
                fields.insert(name, mapped);
            }
        }
    }

    /// Maps what names the origin back to the public name: `Location`, `Content-Location` and the
    /// `Domain` of cookies.
    pub(super) fn map_response(&self, fields: &mut HeaderMap) {
        let Some(own) = &self.own else { return };
        for name in [LOCATION, CONTENT_LOCATION] {
            if let Some(mapped) = fields.get(&name).and_then(|v| self.map_url(own, v)) {
                fields.insert(name, mapped);
            }
        }
        if fields.contains_key(SET_COOKIE) {
            let cookies: Vec<_> = fields.get_all(SET_COOKIE).iter().cloned().collect();
            fields.remove(SET_COOKIE);
            for cookie in cookies {
                let mapped = self.map_cookie(own, &cookie).unwrap_or(cookie);
                fields.append(SET_COOKIE, mapped);
            }
        }
    }

    fn map_url(&self, own: &Own, value: &HeaderValue) -> Option<HeaderValue> {
        let bytes = value.as_bytes();
        let (to, rest) = if let Some((scheme, authority, rest)) = split_url(bytes) {
            let web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            // The scheme need not be the origin's: one that trusts X-Forwarded-Proto writes https.
            if !web || !own.is(authority, &scheme.to_ascii_lowercase()) {
                return None;
            }
            (format!("{}://{}", self.public.0, self.public.1), rest)
        } else {
            let (authority, rest) = split_authority(bytes.strip_prefix(b"//")?);
            if !own.is(std::str::from_utf8(authority).ok()?, own.name.0) {
                return None;
            }
            (format!("//{}", self.public.1), rest)
        };
        HeaderValue::from_bytes(&[to.as_bytes(), rest].concat()).ok()
    }

    fn map_cookie(&self, own: &Own, cookie: &HeaderValue) -> Option<HeaderValue> {
        let mut changed = false;
        let mut parts = Vec::new();
        for (i, part) in cookie.as_bytes().split(|b| *b == b';').enumerate() {
            let domain = if i == 0 { None } else { domain_of(part) };
            if domain.is_some_and(|domain| own.has_domain(domain)) {
                changed = true;
                parts.push(format!(" Domain={}", host_of(&self.public.1)).into_bytes());
            } else {
                parts.push(part.to_vec());
            }
        }
        changed.then(|| HeaderValue::from_bytes(&parts.join(&b';')).ok())?
    }
}

impl Own {
    fn is(&self, authority: &str, scheme: &str) -> bool {
        std::iter::once(&self.name.1)
            .chain(&self.aliases)
            .any(|name| same_authority(authority, name, scheme))
    }

    /// Whether a cookie's domain is the origin's host, or a parent of it.
    fn has_domain(&self, domain: &str) -> bool {
        let domain = domain.trim_start_matches('.').to_ascii_lowercase();
        std::iter::once(&self.name.1)
            .chain(&self.aliases)
            .any(|name| {
                let host = host_of(name).to_ascii_lowercase();
                host == domain
                    || host
                        .strip_suffix(&*domain)
                        .is_some_and(|rest| rest.ends_with('.') && domain.contains('.'))
            })
    }
}

/// Loopback has several names, and servers write whichever they like.
fn aliases(target: &Target) -> Vec<String> {
    let own = target.own_authority();
    let Some((host, port)) = super::dial::host_and_port(target) else {
        return vec![own];
    };
    let is_loopback = match host {
        None | Some("localhost") => true,
        Some(host) => host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback()),
    };
    if !is_loopback {
        return vec![own];
    }
    ["localhost", "127.0.0.1", "[::1]"]
        .map(|host| format!("{host}:{port}"))
        .into_iter()
        .chain([own])
        .collect()
}

/// Scheme, authority and the rest of an absolute URL.
fn split_url(url: &[u8]) -> Option<(&str, &str, &[u8])> {
    let colon = url.windows(3).position(|w| w == b"://")?;
    let scheme = std::str::from_utf8(&url[..colon]).ok()?;
    if !scheme
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        return None;
    }
    let (authority, rest) = split_authority(&url[colon + 3..]);
    Some((scheme, std::str::from_utf8(authority).ok()?, rest))
}

fn split_authority(bytes: &[u8]) -> (&[u8], &[u8]) {
    // A browser reads a backslash as a slash; so does this, or a host could hide behind one.
    let end = bytes
        .iter()
        .position(|b| b"/?#\\".contains(b))
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

fn same_authority(a: &str, b: &str, scheme: &str) -> bool {
    let default = if scheme == "https" { ":443" } else { ":80" };
    let bare = |text: &str| {
        text.strip_suffix(default)
            .unwrap_or(text)
            .to_ascii_lowercase()
    };
    bare(a) == bare(b)
}

/// The host of an authority, without brackets' content touched.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn domain_of(attribute: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(attribute).ok()?;
    let (name, value) = text.split_once('=')?;
    name.trim()
        .eq_ignore_ascii_case("domain")
        .then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(mode: HostMode, used: HostUse, target: &str) -> Naming {
        let mind = HostMind::new(mode);
        Naming::new(
            &mind,
            used,
            &target.parse().unwrap(),
            "https",
            "App.t.example.com",
        )
    }

    fn rewriting() -> Naming {
        naming(HostMode::Auto, HostUse::Rewrite, "3000")
    }

    fn asked(naming: &Naming, name: &'static str, value: &str) -> String {
        let mut fields = HeaderMap::new();
        fields.insert(name, value.parse().unwrap());
        naming.map_request(&mut fields);
        fields[name].to_str().unwrap().to_owned()
    }

    fn answered(naming: &Naming, name: &'static str, value: &str) -> String {
        let mut fields = HeaderMap::new();
        fields.insert(name, value.parse().unwrap());
        naming.map_response(&mut fields);
        fields[name].to_str().unwrap().to_owned()
    }

    #[test]
    fn the_host_is_the_public_name_the_origins_own_or_the_text_given() {
        let fixed = HostMode::Fixed("shop.test".into());
        for (mode, used, target, host) in [
            (HostMode::Auto, HostUse::Keep, "3000", "app.t.example.com"),
            (HostMode::Auto, HostUse::Rewrite, "3000", "localhost:3000"),
            (
                HostMode::Rewrite,
                HostUse::Rewrite,
                "https://nas.lan",
                "nas.lan",
            ),
            (
                HostMode::Rewrite,
                HostUse::Rewrite,
                "unix:/run/a",
                "localhost",
            ),
            (fixed, HostUse::Rewrite, "3000", "shop.test"),
        ] {
            assert_eq!(naming(mode, used, target).host(), host);
        }
    }

    #[test]
    fn only_the_tunnels_own_origin_is_rewritten() {
        for (value, expected) in [
            ("https://app.t.example.com", "http://localhost:3000"),
            ("https://APP.t.example.com:443", "http://localhost:3000"),
            ("http://app.t.example.com", "http://app.t.example.com"),
            (
                "https://app.t.example.com:8443",
                "https://app.t.example.com:8443",
            ),
            ("https://evil.example", "https://evil.example"),
            (
                "https://app.t.example.com.evil.example",
                "https://app.t.example.com.evil.example",
            ),
            (
                "https://evil@app.t.example.com",
                "https://evil@app.t.example.com",
            ),
            ("null", "null"),
        ] {
            assert_eq!(asked(&rewriting(), "origin", value), expected);
            let kept = naming(HostMode::Auto, HostUse::Keep, "3000");
            assert_eq!(asked(&kept, "origin", value), value);
        }
        for (value, expected) in [
            ("https://app.t.example.com/a?b", "http://localhost:3000/a?b"),
            ("https://app.t.example.com?b", "http://localhost:3000?b"),
            (
                "https://evil.example/https://app.t.example.com/",
                "https://evil.example/https://app.t.example.com/",
            ),
        ] {
            assert_eq!(asked(&rewriting(), "referer", value), expected);
        }
    }

    #[test]
    fn locations_lead_back_to_the_public_name() {
        for (value, expected) in [
            (
                "http://localhost:3000/x?y#z",
                "https://app.t.example.com/x?y#z",
            ),
            ("https://localhost:3000/x", "https://app.t.example.com/x"),
            ("http://127.0.0.1:3000", "https://app.t.example.com"),
            ("http://[::1]:3000/", "https://app.t.example.com/"),
            ("//localhost:3000/x", "//app.t.example.com/x"),
            ("/relative", "/relative"),
            ("http://localhost:4000/", "http://localhost:4000/"),
            ("http://localhost:3000.evil/", "http://localhost:3000.evil/"),
            (
                "https://login.example/?next=http://localhost:3000/",
                "https://login.example/?next=http://localhost:3000/",
            ),
            ("myapp://localhost:3000/", "myapp://localhost:3000/"),
        ] {
            assert_eq!(answered(&rewriting(), "location", value), expected);
        }
        let port_80 = naming(HostMode::Rewrite, HostUse::Rewrite, "http://shop.lan");
        assert_eq!(
            answered(&port_80, "location", "http://shop.lan:80/a"),
            "https://app.t.example.com/a"
        );
        assert_eq!(
            answered(&port_80, "location", "https://shop.lan/a"),
            "https://app.t.example.com/a"
        );
    }

    #[test]
    fn cookie_domains_lead_back_to_the_public_name() {
        let shop = naming(
            HostMode::Fixed("www.shop.test".into()),
            HostUse::Rewrite,
            "3000",
        );
        for (value, expected) in [
            (
                "a=1; Domain=www.shop.test; Path=/",
                "a=1; Domain=app.t.example.com; Path=/",
            ),
            ("a=1; domain=.shop.test", "a=1; Domain=app.t.example.com"),
            (
                "a=1; Domain=localhost; HttpOnly",
                "a=1; Domain=app.t.example.com; HttpOnly",
            ),
            ("a=1; Domain=op.test", "a=1; Domain=op.test"),
            ("a=1; Domain=test", "a=1; Domain=test"),
            (
                "domain=www.shop.test; Secure",
                "domain=www.shop.test; Secure",
            ),
            ("a=1; Path=/", "a=1; Path=/"),
        ] {
            assert_eq!(answered(&shop, "set-cookie", value), expected);
        }
    }

    #[test]
    fn nothing_is_mapped_while_the_public_name_is_kept() {
        let kept = naming(HostMode::Auto, HostUse::Keep, "3000");
        for value in ["http://localhost:3000/", "/x"] {
            assert_eq!(answered(&kept, "location", value), value);
        }
    }
}
