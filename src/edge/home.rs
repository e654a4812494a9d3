//! The base domain's own pages: what this server is, and whom to write to about it. Not a tunnel's, and not
//! the door.

use std::time::Duration;

use askama::Template;
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};

use super::EdgeSettings;
use super::body::EdgeBody;
use crate::http::head::Head;
use crate::names::VisitId;
use crate::times::{Clock, WallTime};
use crate::wire::RecvChunks;

/// Where RFC 9116 looks.
const SECURITY: &str = "/.well-known/security.txt";

/// Until when it says that it may be believed. RFC 9116 wants less than a year; it is made anew each time.
const SECURITY_HOLDS: Duration = Duration::from_secs(30 * 86_400);

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// What the operator says to the world.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Site {
    /// Where `/` of the base domain sends on to, instead of the page; a URI.
    pub redirect: Option<String>,
    /// Where abuse is reported; URIs, the first one is shown first.
    pub contacts: Vec<String>,
    /// Whether search engines may take what tunnels show.
    pub may_index: bool,
    /// Whether browsers see a page before their first visit to a tunnel.
    pub interstitial: bool,
}

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
<title>{{ domain }}</title>
<style nonce="{{ nonce }}">
{{ crate::edge::pages::STYLE|safe }}
svg{display:block;width:56px;height:56px;margin:0 0 1.25rem;color:var(--mark)}
h1{margin:0 0 .75rem;font-size:1.6rem;line-height:1.25;letter-spacing:-.01em;overflow-wrap:anywhere}
p:first-of-type{color:var(--ink)}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
a{color:var(--mark)}
footer{margin-top:1.75rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.9rem;overflow-wrap:anywhere}
</style>
</head>
<body>
<main>
<svg viewBox="0 0 44 44" fill="none" stroke="currentColor" stroke-width="2.5" aria-hidden="true"><ellipse cx="22" cy="22" rx="19" ry="12"/><ellipse cx="22" cy="22" rx="12" ry="7" opacity=".65"/><ellipse cx="22" cy="22" rx="5.5" ry="3" opacity=".4"/></svg>
<h1>{{ domain }}</h1>
<p>Tunnels come out here: public addresses, often short-lived, for services on somebody's own machine.</p>
<p>Each has a name of its own, <code>name.{{ domain }}</code>. What it shows is made and answered for by whoever
opened it, not by this server's operator. Type no password into a page that you do not expect here.</p>
{% if !contacts.is_empty() %}<footer>Something is wrong here? {% for contact in contacts %}<a href="{{ contact.uri }}" rel="nofollow">{{ contact.shown }}</a>{% if !loop.last %} · {% endif %}{% endfor %}</footer>
{% endif %}</main>
</body>
</html>
"#
)]
struct HomePage<'a> {
    domain: &'a str,
    nonce: &'a str,
    contacts: Vec<Contact<'a>>,
}

struct Contact<'a> {
    uri: &'a str,
    shown: &'a str,
}

/// Answers a request to the base domain; `None` for what is nothing there.
pub(super) fn answer<R: RecvChunks>(
    settings: &EdgeSettings,
    id: VisitId,
    head: &Head,
) -> Option<Response<EdgeBody<R>>> {
    if head.host != settings.domain || !matches!(head.method, Method::GET | Method::HEAD) {
        return None;
    }
    let path = head.path.split('?').next().unwrap_or_default();
    let (status, fields, body) = match path {
        "/" => match &settings.site.redirect {
            Some(to) => redirect(to),
            None => page(settings, id),
        },
        SECURITY if !settings.site.contacts.is_empty() => security(settings, Clock.now().wall),
        _ => return None,
    };
    let length = HeaderValue::from(body.len());
    let body = match head.method {
        Method::HEAD => Bytes::new(),
        _ => body.into(),
    };
    let mut response = Response::new(EdgeBody::own(body));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_LENGTH, length);
    fields.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    Some(response)
}

type Made = (StatusCode, HeaderMap, String);

/// Not a permanent one: the operator may change their mind.
fn redirect(to: &str) -> Made {
    let to = HeaderValue::from_str(to).expect("the configuration takes visible ASCII only");
    let fields = HeaderMap::from_iter([(header::LOCATION, to)]);
    (StatusCode::FOUND, fields, String::new())
}

fn page(settings: &EdgeSettings, id: VisitId) -> Made {
    // Fresh for each answer, which is all a nonce for our own style needs.
    let nonce = id.to_string().replace('_', "-");
    let contacts = settings.site.contacts.iter().map(|uri| Contact {
        uri,
        shown: uri.strip_prefix("mailto:").unwrap_or(uri),
    });
    let page = HomePage {
        domain: settings.domain.as_str(),
        nonce: &nonce,
        contacts: contacts.collect(),
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let policy = HeaderValue::try_from(policy).expect("an id is visible ASCII");
    let fields = HeaderMap::from_iter([
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
    ]);
    // Rendering into a String fails only if a field's Display does, and these are texts.
    (StatusCode::OK, fields, page.render().unwrap_or_default())
}

/// RFC 9116.
fn security(settings: &EdgeSettings, now: WallTime) -> Made {
    let contacts = settings.site.contacts.iter();
    let contacts: String = contacts.map(|uri| format!("Contact: {uri}\n")).collect();
    let expires = now.plus(SECURITY_HOLDS);
    let place = match settings.public_https_port {
        443 => settings.domain.to_string(),
        port => format!("{}:{port}", settings.domain),
    };
    let text = format!("{contacts}Expires: {expires}\nCanonical: https://{place}{SECURITY}\n");
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    let fields = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    (StatusCode::OK, fields, text)
}

/// Keeps what a tunnel shows out of search engines, unless its origin or the operator says otherwise.
pub(super) fn unindexed<B>(settings: &EdgeSettings, response: &mut Response<B>) {
    if settings.site.may_index || response.status().is_informational() {
        return;
    }
    let fields = response.headers_mut();
    fields
        .entry(ROBOTS)
        .or_insert(HeaderValue::from_static("noindex"));
}
