//! The page that shows a directory without an index: self-contained, light and dark. Pure.

use std::fmt::Write as _;

use super::beneath::Entry;
use super::path::{Wanted, encode};

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1d2330;--soft:#667085;--line:#e4e7ec;--paper:#fff;--link:#2457c5}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ee;--soft:#98a1b3;--line:#2b3240;--paper:#14171f;--link:#8ab4ff}}\
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
main{max-width:46rem;margin:0 auto;padding:2.5rem 1.25rem}\
h1{font-size:1.25rem;font-weight:600;overflow-wrap:anywhere;margin:0 0 1rem}\
ul{list-style:none;margin:0;padding:0;border-top:1px solid var(--line)}\
li{display:flex;justify-content:space-between;gap:1rem;border-bottom:1px solid var(--line);padding:.45rem 0}\
a{color:var(--link);text-decoration:none;overflow-wrap:anywhere}a:hover{text-decoration:underline}\
span{color:var(--soft);white-space:nowrap;font-variant-numeric:tabular-nums}";

/// The page.
pub(super) fn page(wanted: &Wanted, entries: &[Entry]) -> String {
    let title = escape(&wanted.title());
    let mut out = String::with_capacity(1024 + 96 * entries.len());
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1><ul>"
    );
    if !wanted.is_root() {
        out.push_str("<li><a href=\"../\">../</a>");
    }
    for entry in entries {
        line(&mut out, entry);
    }
    out.push_str("</ul></main></html>\n");
    out
}

fn line(out: &mut String, entry: &Entry) {
    let slash = if entry.is_file { "" } else { "/" };
    // `./` keeps a name with a colon from reading as a scheme.
    let href = format!("./{}{slash}", encode(&entry.name));
    let name = escape(&entry.name.to_string_lossy());
    let _ = write!(out, "<li><a href=\"{href}\">{name}{slash}</a>");
    if entry.is_file {
        let _ = write!(out, "<span>{}</span>", size(entry.length));
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Would reorder or hide the line's text.
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
    out
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        let wanted = Wanted::parse("/%3Cb%3E/").unwrap();
        let entry = Entry {
            is_file: true,
            name: "\"><script>x</script>'&".into(),
            length: 1536,
        };
        let page = page(&wanted, &[entry]);
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"), "{page}");
        assert!(page.contains("./%22%3E%3Cscript"), "{page}");
        assert!(page.contains("1.5 KiB"), "{page}");
    }
}
