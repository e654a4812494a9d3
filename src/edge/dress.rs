//! What a tunnel's policy changes about heads on their way: credentials that were ours, header rules,
//! security fields, CORS, and cookies that would reach other tunnels. Not what frames or routes a message:
//! rules cannot name that.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::engine::policy::{HeaderRules, Part, Policy};
use crate::http::{basic, cookies};
use crate::names::Hostname;

use super::cors;

/// Whether a request goes on otherwise than it came.
pub(super) fn changes_requests(policy: &Policy) -> bool {
    keeps_credentials(policy) || !policy.request_headers().is_empty()
}

/// Whether this tunnel asks for credentials. One that would only tell of wrong ones asks for none: those
/// that come were meant for the origin, and it may need them.
fn keeps_credentials(policy: &Policy) -> bool {
    !policy.users().is_empty() && !policy.is_shadow(Part::Auth)
}

/// What the origin gets. Credentials that this tunnel asked for are for us, and stay here; otherwise they are
/// the origin's own, and go on.
pub(super) fn request(policy: &Policy, fields: &mut HeaderMap) {
    let basic = |value: &HeaderValue| basic::is_basic(value.as_bytes());
    if keeps_credentials(policy) && fields.get_all(header::AUTHORIZATION).iter().any(basic) {
        fields.remove(header::AUTHORIZATION);
    }
    apply(policy.request_headers(), fields);
}

/// What the visitor gets. The owner's own rules come last but for cookies: no rule sets one for others.
pub(super) fn response(
    policy: &Policy,
    domain: &Hostname,
    origin: Option<&HeaderValue>,
    fields: &mut HeaderMap,
) {
    if let Some(cors) = policy.cors() {
        cors::allow(cors, origin, fields);
    }
    if let Some(secure) = policy.secure_headers() {
        for (name, value) in secure.fields() {
            // Several policies hold all at once, so that the origin's own is not lost.
            if name == header::CONTENT_SECURITY_POLICY {
                fields.append(name, value);
            } else {
                fields.insert(name, value);
            }
        }
    }
    apply(policy.response_headers(), fields);
    if !policy.cookie_domain() {
        cookies::keep_to_own_host(fields, domain);
        cookies::keep_to_own_data(fields);
    }
}

fn apply(rules: &HeaderRules, fields: &mut HeaderMap) {
    for name in rules.remove() {
        fields.remove(name);
    }
    for (name, value) in rules.set() {
        fields.insert(name, value.clone());
    }
}

/// Says that the answer depends on a request field.
pub(super) fn vary(fields: &mut HeaderMap, on: &HeaderName) {
    let said = |value: &HeaderValue| {
        let mut names = value
            .as_bytes()
            .split(|b| *b == b',')
            .map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(on.as_str().as_bytes()))
    };
    if !fields.get_all(header::VARY).iter().any(said) {
        fields.append(header::VARY, HeaderValue::from_name(on.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        Policy::parse(text).unwrap()
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn dressed(text: &str, fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = map(fields);
        let domain = Hostname::parse("t.example").unwrap();
        response(&policy(text), &domain, None, &mut fields);
        fields
    }

    const AUTH: &str = r#"{"auth":[{"user":"bob","hash":"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;

    #[test]
    fn credentials_stay_here_when_they_were_ours() {
        let shadow = AUTH.replace("]}", r#"],"shadow":["auth"]}"#);
        for (text, sent, kept) in [
            (&shadow[..], "Basic Ym9iOng=", true),
            (AUTH, "Basic Ym9iOng=", false),
            (AUTH, "basic nonsense", false),
            (AUTH, "Bearer x", true),
            ("{}", "Basic Ym9iOng=", true),
        ] {
            let mut fields = map(&[("authorization", sent)]);
            request(&policy(text), &mut fields);
            assert_eq!(fields.contains_key("authorization"), kept, "{text} {sent}");
        }
    }

    #[test]
    fn rules_take_out_and_put_in() {
        let text = r#"{"request_headers":{"set":{"X-A":"1"},"remove":["cookie","x-a"]},
            "response_headers":{"set":{"Server":"hidden","set-cookie":"a=1; domain=t.example"},"remove":["x-powered-by"]}}"#;
        let mut fields = map(&[("x-a", "0"), ("x-a", "2"), ("cookie", "a"), ("x-b", "b")]);
        request(&policy(text), &mut fields);
        assert_eq!(fields, map(&[("x-b", "b"), ("x-a", "1")]));
        let sent = [("server", "nginx"), ("x-powered-by", "php"), ("x-b", "b")];
        let got = dressed(text, &sent);
        // A rule is no way around the walls between tunnels.
        assert_eq!(got, map(&[("server", "hidden"), ("x-b", "b")]));
    }

    #[test]
    fn security_fields_stand_beside_the_policy_of_the_origin() {
        let sent = [
            ("content-security-policy", "default-src 'self'"),
            ("referrer-policy", "unsafe-url"),
        ];
        let got = dressed(r#"{"secure_headers":{}}"#, &sent);
        let policies: Vec<_> = got.get_all("content-security-policy").iter().collect();
        assert_eq!(policies, ["default-src 'self'", "frame-ancestors 'self'"]);
        assert_eq!(got["referrer-policy"], "strict-origin-when-cross-origin");
        assert_eq!(got["x-content-type-options"], "nosniff");
        assert_eq!(got["strict-transport-security"], "max-age=31536000");
    }

    #[test]
    fn cookies_for_all_tunnels_go_unless_they_are_allowed() {
        let wide = [
            ("set-cookie", "a=1; Domain=t.example"),
            ("clear-site-data", "\"cookies\""),
        ];
        assert!(dressed("{}", &wide).is_empty());
        assert_eq!(dressed(r#"{"cookie_domain":true}"#, &wide), map(&wide));
    }
}
