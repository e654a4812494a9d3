//! The page before a browser's first visit to a tunnel, where the operator wants one: it says whose the page
//! behind it is not. Going on sets a cookie for that host alone. Programs never see it, and nobody who says
//! `wormkey-skip-interstitial`. Not a rule of a tunnel: who may not visit is refused as ever.

use askama::Template;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::EdgeSettings;
use super::body::EdgeBody;
use super::forward::Visiting;
use super::front::Visitor;
use super::respond::Failure;
use crate::http::head::Head;
use crate::http::{Scheme, cookies};
use crate::names::VisitId;
use crate::wire::RecvChunks;

/// Where the page's button leads; what was asked for follows as `to`.
pub(super) const PATH: &str = "/.wormkey/enter";

/// Who says this is no person with a browser.
const SKIP: HeaderName = HeaderName::from_static("wormkey-skip-interstitial");

const COOKIE: &str = "__Host-wormkey-seen";

/// For how long one who went on is not asked again: a week.
const SEEN_SECS: u32 = 7 * 86_400;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>{{ host }}</title>
<style nonce="{{ nonce }}">
{{ crate::edge::pages::STYLE|safe }}
h1{margin:0 0 .75rem;font-size:1.45rem;line-height:1.25;letter-spacing:-.01em;overflow-wrap:anywhere}
p:first-of-type{color:var(--ink)}
button{font:inherit;font-weight:600;padding:.65rem 1.4rem;border:0;border-radius:10px;background:var(--mark);color:var(--card);cursor:pointer}
a{color:var(--mark)}
footer{margin-top:1.75rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.9rem;overflow-wrap:anywhere}
</style>
</head>
<body>
<main>
<h1>{{ host }}</h1>
<p>This page is served from somebody's own machine, through a tunnel. Whoever opened the tunnel answers for it; {{ domain }}
only passes it on.</p>
<p>Go on if you know who sent you here. Type in no password, card or key that belongs somewhere else.</p>
<form method="post" action="{{ action }}"><button>Go on</button></form>
{% if let Some((uri, shown)) = contact %}<footer>Something is wrong here? <a href="{{ uri }}" rel="nofollow">{{ shown }}</a></footer>
{% endif %}</main>
</body>
</html>
"#
)]
struct InterstitialPage<'a> {
    host: &'a str,
    domain: &'a str,
    action: String,
    nonce: &'a str,
    contact: Option<(&'a str, &'a str)>,
}

/// Whether a visitor has gone on before, or wants no page: what a head says of it before our own fields are
/// taken out.
pub(super) fn is_past(fields: &HeaderMap) -> bool {
    fields.contains_key(SKIP) || cookies::values(fields, COOKIE).next().is_some()
}

/// Whether this is a person who opens a page, as far as a head tells.
pub(super) fn is_for(head: &Head) -> bool {
    let says = |name: HeaderName, what: &str| {
        let mut lines = head.fields.get_all(name).iter();
        lines.any(|line| line.to_str().is_ok_and(|line| line.contains(what)))
    };
    let opens = !head.fields.contains_key(MODE) || says(MODE, "navigate");
    head.method == Method::GET
        && head.protocol.is_none()
        && opens
        && says(header::ACCEPT, "text/html")
        && says(header::USER_AGENT, "Mozilla/")
}

/// The page.
pub(super) fn page<R: RecvChunks>(
    settings: &EdgeSettings,
    id: VisitId,
    head: &Head,
) -> Response<EdgeBody<R>> {
    // Fresh for each answer, which is all a nonce for our own style needs.
    let nonce = id.to_string().replace('_', "-");
    let contact = settings.site.contacts.first().map(|uri| {
        let shown = uri.strip_prefix("mailto:").unwrap_or(uri);
        (uri.as_str(), shown)
    });
    let page = InterstitialPage {
        host: head.host.as_str(),
        domain: settings.domain.as_str(),
        action: format!(
            "{PATH}?to={}",
            utf8_percent_encode(&head.path, NON_ALPHANUMERIC)
        ),
        nonce: &nonce,
        contact,
    };
    // Rendering into a String fails only if a field's Display does, and these are texts.
    let html = page.render().unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).expect("an id is visible ASCII");
    let fields = HeaderMap::from_iter([
        (header::CONTENT_LENGTH, HeaderValue::from(html.len())),
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("same-origin"),
        ),
    ]);
    let mut response = Response::new(EdgeBody::own(html.into()));
    *response.headers_mut() = fields;
    response
}

/// Lets one in who pressed the button. A link or a form of another site does not do that for them.
pub(super) fn enter<R: RecvChunks>(
    settings: &EdgeSettings,
    asking: &Visiting,
    has_body: bool,
) -> Result<Response<EdgeBody<R>>, Failure> {
    let head = &asking.head;
    let wanted = settings.site.interstitial && head.method == Method::POST && !has_body;
    if !wanted || !is_from_here(head, &asking.visitor) {
        return Err(Failure::OurPath);
    }
    let cookie = format!("{COOKIE}=1; Path=/; Max-Age={SEEN_SECS}; Secure; HttpOnly; SameSite=Lax");
    let visible = "numbers and checked paths are visible";
    let mut response = Response::new(EdgeBody::own(Bytes::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let fields = response.headers_mut();
    for (name, value) in [
        (header::SET_COOKIE, cookie),
        (header::LOCATION, asked_for(&head.path)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::CONTENT_LENGTH, "0".to_owned()),
    ] {
        fields.insert(name, HeaderValue::from_str(&value).expect(visible));
    }
    Ok(response)
}

/// Whether a page of this very host asks: browsers say so, and scripts of others cannot.
fn is_from_here(head: &Head, visitor: &Visitor) -> bool {
    let only = |name: HeaderName| {
        let mut lines = head.fields.get_all(name).iter();
        lines.next().filter(|_| lines.next().is_none())
    };
    let scheme = match visitor.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let here = format!("{scheme}://{}", head.authority);
    let is_origin = only(header::ORIGIN).is_some_and(|origin| *origin == *here);
    let is_same = only(SITE).is_none_or(|site| site == "same-origin");
    is_origin && is_same
}

/// Back to where the visitor was going, if that is a path of this host; else to the start.
fn asked_for(path: &str) -> String {
    let to = path
        .split_once("?to=")
        .and_then(|(_, to)| percent_decode_str(to).decode_utf8().ok())
        .unwrap_or_default();
    let is_path = to.starts_with('/') && !to.starts_with("//") && !to.starts_with(PATH);
    let is_plain = to.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_path && is_plain {
        to.into_owned()
    } else {
        "/".to_owned()
    }
}
