//! What a log line may contain. Every value is escaped and capped here, before any format sees it, so
//! that a field can neither end its line, nor colour a terminal, nor fill a disk.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::times::WallTime;

/// The most bytes of one value; the rest is cut.
pub(super) const LONGEST: usize = 2048;

/// How lines look.
#[derive(Debug)]
pub(super) enum Style {
    /// For people.
    Text {
        /// With colours.
        ansi: bool,
    },
    /// For collectors.
    Json,
    /// journald's native protocol: `NAME=value` lines.
    Journal {
        /// What `journalctl -t` asks for.
        identifier: String,
    },
}

/// An event's or a span's fields, escaped and capped.
#[derive(Debug, Default)]
pub(super) struct Fields {
    message: String,
    pairs: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Takes over what an outer span says and we do not.
    pub(super) fn inherit(&mut self, outer: &Self) {
        for (name, value) in &outer.pairs {
            if !self.pairs.iter().any(|(ours, _)| ours == name) {
                self.pairs.push((name, value.clone()));
            }
        }
    }

    fn put(&mut self, field: &Field, value: Value) {
        match self
            .pairs
            .iter_mut()
            .find(|(name, _)| *name == field.name())
        {
            Some((_, there)) => *there = value,
            None => self.pairs.push((field.name(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Capped::default();
        // Stops with an error as soon as the cap is reached; the text so far is what counts.
        let _ = write!(text, "{value:?}");
        if field.name() == "message" {
            self.message = text.0;
        } else {
            self.put(field, Value::String(text.0));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// Text that escapes as it is written, and takes no more than [`LONGEST`] bytes.
#[derive(Debug, Default)]
struct Capped(String);

impl fmt::Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            let before = self.0.len();
            if is_harmless(c) {
                self.0.push(c);
            } else {
                self.0.extend(c.escape_default());
            }
            if self.0.len() > LONGEST {
                self.0.truncate(before);
                self.0.push('…');
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// Neither a control character, nor one that ends a line or turns the reading direction.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{feff}'
        )
        && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line of the log.
pub(super) struct Line<'a> {
    pub(super) at: WallTime,
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) fields: Fields,
}

impl Line<'_> {
    /// The line as it goes out, with its end.
    pub(super) fn render(&self, style: &Style) -> String {
        match style {
            Style::Text { ansi } => self.text(*ansi),
            Style::Json => self.json(),
            Style::Journal { identifier } => self.journal(identifier),
        }
    }

    fn text(&self, ansi: bool) -> String {
        let level = self.level.as_str();
        let (dim, plain) = if ansi {
            ("\x1b[2m", "\x1b[0m")
        } else {
            ("", "")
        };
        let colour = match self.level {
            _ if !ansi => "",
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            Level::DEBUG => "\x1b[34m",
            Level::TRACE => "\x1b[35m",
        };
        format!(
            "{dim}{}{plain} {colour}{level:>5}{plain} {dim}{}:{plain} {}\n",
            self.at,
            self.target,
            self.sentence()
        )
    }

    /// The message and its facts: `link up link=1.2 tunnels=3`.
    fn sentence(&self) -> String {
        let mut text = self.fields.message.clone();
        for (name, value) in &self.fields.pairs {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(name);
            text.push('=');
            match value {
                Value::String(value) => push_quoted(&mut text, value),
                other => text.push_str(&other.to_string()),
            }
        }
        text
    }

    fn json(&self) -> String {
        let mut line = Map::new();
        let level = self.level.as_str().to_ascii_lowercase();
        line.insert("time".into(), self.at.to_string().into());
        line.insert("level".into(), level.into());
        line.insert("target".into(), self.target.into());
        line.insert("message".into(), self.fields.message.as_str().into());
        // Below a key of their own: no field can pose as the level or the time.
        let pairs = self.fields.pairs.iter();
        let fields: Map<_, _> = pairs.map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        line.insert("fields".into(), fields.into());
        format!("{}\n", Value::Object(line))
    }

    fn journal(&self, identifier: &str) -> String {
        let priority = match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut entry = format!(
            "PRIORITY={priority}\nSYSLOG_IDENTIFIER={identifier}\nTARGET={}\nMESSAGE={}\n",
            self.target,
            self.sentence()
        );
        for (name, value) in &self.fields.pairs {
            // journald knows capitals, digits and underscores; the prefix keeps out of its own names.
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let name = name.replace(|c| !fits(c), "_").to_ascii_uppercase();
            let _ = match value {
                Value::String(value) => writeln!(entry, "WORMKEY_{name}={value}"),
                other => writeln!(entry, "WORMKEY_{name}={other}"),
            };
        }
        entry
    }
}

/// Quotes what would otherwise read as more than one value.
fn push_quoted(text: &mut String, value: &str) {
    let quoted_already = value.len() > 1
        && value.starts_with('"')
        && value.ends_with('"')
        && !has_bare_quote(&value[1..value.len() - 1]);
    if quoted_already || !(value.is_empty() || value.contains([' ', '"', '='])) {
        text.push_str(value);
        return;
    }
    text.push('"');
    for c in value.chars() {
        if matches!(c, '"') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

/// Whether a quote stands there without a backslash of its own, or the text ends in an open escape.
fn has_bare_quote(text: &str) -> bool {
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '"' if !escaped => return true,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    escaped
}
