//! What our own answers look like: one self-contained page, and problem+json. No asset from anywhere,
//! no script, nothing about internals.

use askama::Template;

use super::respond::{Outside, whole_seconds};
use crate::codes::Code;
use crate::names::VisitId;

/// A page and the policy it is shown under.
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

/// What every page of ours looks like.
pub(super) const STYLE: &str = r#":root{--ground:#f6f5f1;--card:#fff;--ink:#1d1f24;--soft:#63676f;--line:#e3e1da;--mark:#0f8a6a}
@media (prefers-color-scheme:dark){:root{--ground:#14161a;--card:#1c1f25;--ink:#eceef1;--soft:#9aa0aa;--line:#2b2f37;--mark:#4fd1a8}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--ground);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:36rem;background:var(--card);border:1px solid var(--line);border-radius:16px;padding:2.25rem 2.25rem 1.5rem;box-shadow:0 12px 40px rgb(0 0 0/.06)}
p{margin:0 0 1rem;color:var(--soft)}"#;

/// The style stands in the page and is allowed by a nonce; nothing else is allowed at all.
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
{% if refresh > 0 %}<meta http-equiv="refresh" content="{{ refresh }}">
{% endif %}<title>{{ status }} · {{ title }}</title>
<style nonce="{{ nonce }}">
{{ crate::edge::pages::STYLE|safe }}
.hole{display:block;width:44px;height:44px;margin:0 0 1.25rem;color:var(--mark)}
h1{margin:0 0 .5rem;font-size:1.45rem;line-height:1.25;letter-spacing:-.01em}
.now{display:flex;align-items:center;gap:.6rem;color:var(--ink)}
.now::before{content:"";width:.6rem;height:.6rem;border-radius:50%;background:var(--mark)}
@media (prefers-reduced-motion:no-preference){.now::before{animation:beat 1.6s ease-in-out infinite}@keyframes beat{50%{opacity:.25}}}
footer{display:flex;flex-wrap:wrap;gap:.25rem 1rem;justify-content:space-between;margin-top:1.75rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font:.8rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
</style>
</head>
<body>
<main>
<svg class="hole" viewBox="0 0 44 44" fill="none" stroke="currentColor" stroke-width="2.5" aria-hidden="true"><ellipse cx="22" cy="22" rx="19" ry="12"/><ellipse cx="22" cy="22" rx="12" ry="7" opacity=".65"/><ellipse cx="22" cy="22" rx="5.5" ry="3" opacity=".4"/></svg>
<h1>{{ title }}</h1>
<p>{{ advice }}</p>
{% if refresh > 0 %}<p class="now" role="status">This page tries again by itself.</p>
{% endif %}<footer><span>{{ status }} {{ code }}</span><span>{{ id }}</span></footer>
</main>
</body>
</html>
"#
)]
struct ErrorPage<'a> {
    status: u16,
    code: &'a str,
    title: &'a str,
    advice: &'a str,
    id: &'a str,
    nonce: &'a str,
    refresh: u64,
}

/// The page for a failure. One that passes by itself tries again, when trying is harmless.
pub(super) fn page(outside: &Outside, id: VisitId, is_get: bool) -> Page {
    let id = id.to_string();
    // The id is fresh for each answer, which is all a nonce for our own style needs.
    let nonce = id.replace('_', "-");
    let row = outside.code.row();
    let (title, advice) = for_strangers(outside.code);
    let passes = matches!(outside.code, Code::TunnelOffline | Code::Draining);
    let refresh = match outside.retry {
        Some(after) if passes && is_get => whole_seconds(after),
        _ => 0,
    };
    let page = ErrorPage {
        status: outside.status.as_u16(),
        code: row.name,
        title,
        advice,
        id: &id,
        nonce: &nonce,
        refresh,
    };
    Page {
        // Rendering into a String fails only if a field's Display does, and these are texts and numbers.
        html: page.render().unwrap_or_default(),
        policy: format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    }
}

/// Cause and fix as a visitor may read them. Some codes are the owner's as well, and their words in the table
/// are for the owner.
const fn for_strangers(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::ExposedOrigin => ("This tunnel is not public at the moment.", "Ask its owner."),
        Code::NotFound => ("There is nothing here.", "Check the address."),
        _ => (code.row().cause, code.row().fix),
    }
}

/// RFC 9457.
#[derive(serde::Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: VisitId,
}

/// The same for programs.
pub(super) fn problem(outside: &Outside, id: VisitId) -> String {
    let row = outside.code.row();
    let (title, advice) = for_strangers(outside.code);
    let problem = Problem {
        r#type: "about:blank",
        title,
        status: outside.status.as_u16(),
        detail: advice,
        code: row.name,
        request_id: id,
    };
    serde_json::to_string(&problem).expect("texts and a number are JSON")
}
