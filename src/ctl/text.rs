//! Texts for people: times, tables, the three lines of a tunnel. Pure; nothing here writes.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::admin::types::{TunnelJson, VisitJson};
use crate::times::{WallTime, show_duration};

/// The longest text of a stranger's that is shown.
const SHOWN_MAX: usize = 200;

/// Makes a text fit for a terminal: what strangers send (paths, methods) and files say must not move
/// the cursor or hide a line.
pub(super) fn clean(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || hides {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same, and short.
pub(super) fn clean_short(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => clean(&text[..cut]) + "…",
        None => clean(text),
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    colour: bool,
}

impl Style {
    pub(super) const fn new(colour: bool) -> Self {
        Self { colour }
    }

    pub(super) const fn has_colour(self) -> bool {
        self.colour
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// States and statuses: green is well, yellow is waiting, red is not.
    pub(super) fn state(self, text: &str) -> String {
        let word = text.trim_end();
        let colour = match word {
            "open" | "up" => "32",
            "closed" | "expired" | "refused" | "offline" | "withheld" | "suspended" => "31",
            _ if word.starts_with(['2', '3']) => "32",
            _ if word.starts_with(['4', '5']) => "31",
            _ => "33",
        };
        self.paint(colour, text)
    }
}

/// Times as the person at this machine reads them.
#[derive(Debug, Clone)]
pub(super) struct Times {
    pub(super) now: WallTime,
    pub(super) zone: TimeZone,
}

impl Times {
    fn format(&self, at: WallTime, pattern: &str) -> Option<String> {
        let stamp = Timestamp::from_millisecond(at.as_millis()).ok()?;
        Some(
            stamp
                .to_zoned(self.zone.clone())
                .strftime(pattern)
                .to_string(),
        )
    }

    /// `14:32` today, `2026-10-24 14:32` on other days.
    pub(super) fn at(&self, at: WallTime) -> String {
        let day = |t| self.format(t, "%Y-%m-%d");
        let pattern = if day(at) == day(self.now) {
            "%H:%M"
        } else {
            "%Y-%m-%d %H:%M"
        };
        self.format(at, pattern).unwrap_or_else(|| at.to_string())
    }

    /// `14:32:07`
    pub(super) fn second(&self, at: WallTime) -> String {
        self.format(at, "%H:%M:%S")
            .unwrap_or_else(|| at.to_string())
    }

    /// `14:32 (in 30m)`, `14:32 (30m ago)`
    pub(super) fn near(&self, at: WallTime) -> String {
        let text = self.at(at);
        if at > self.now {
            format!("{text} (in {})", about(at.since(self.now)))
        } else {
            format!("{text} ({} ago)", about(self.now.since(at)))
        }
    }
}

/// A duration to the precision a person cares for: a fresh `--expires 30m` has 29m 59.9s left.
pub(super) fn about(duration: Duration) -> String {
    let step = match duration.as_secs() {
        0..60 => 1,
        60..600 => 10,
        600..86_400 => 60,
        _ => 3600,
    };
    let half = Duration::from_secs(step) / 2;
    let rounded = (duration + half).as_secs() / step * step;
    if rounded == 0 {
        return "0s".to_owned();
    }
    show_duration(Duration::from_secs(rounded))
}

/// How the tunnel will end by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClosedBy {
    /// A later command.
    Command,
    /// `--watch`.
    CtrlC,
    /// `run`.
    Child,
}

/// The three lines of `open`: the address, where it leads and until when, how to close it.
pub(super) fn opened(tunnel: &TunnelJson, times: &Times, by: ClosedBy) -> [String; 3] {
    let name = tunnel.slug.clone().unwrap_or_else(|| tunnel.id.to_string());
    let address = tunnel.url.as_deref().map_or_else(
        || format!("{name} (has no address until the server answers)"),
        clean,
    );
    let target = tunnel.target.as_deref().map(clean).unwrap_or_default();
    let close = match by {
        ClosedBy::Command => format!("close it with: wormkeyctl close {}", clean(&name)),
        ClosedBy::CtrlC => "close it with: Ctrl-C".to_owned(),
        ClosedBy::Child => "closes when the command ends".to_owned(),
    };
    [
        address,
        format!("  → {target}, until {}", until(tunnel, times)),
        format!("  {close}"),
    ]
}

fn until(tunnel: &TunnelJson, times: &Times) -> String {
    let idle = tunnel.idle_seconds.map(Duration::from_secs);
    match (tunnel.expires_at, idle) {
        (Some(at), Some(idle)) if idle < at.since(times.now) => {
            format!("{}, or {} without a visit", times.near(at), about(idle))
        }
        (Some(at), _) => times.near(at),
        (None, Some(idle)) => format!("you close it, or {} without a visit", about(idle)),
        (None, None) => "you close it".to_owned(),
    }
}

/// One line of `--watch`.
pub(super) fn visit(visit: &VisitJson, times: &Times, style: Style) -> String {
    let status = match (visit.status, &visit.error) {
        (Some(status), _) => status.to_string(),
        (None, _) => "---".to_owned(),
    };
    let mut line = format!(
        "{}  {:<7} {}  {}  {}",
        style.dim(&times.second(visit.at)),
        clean_short(&visit.method),
        clean_short(&visit.path),
        style.state(&status),
        millis(visit.millis),
    );
    if let Some(error) = &visit.error {
        line.push_str("  ");
        line.push_str(&clean_short(error));
    }
    if !visit.shadowed.is_empty() {
        let rules = clean_short(&visit.shadowed.join(", "));
        line.push_str(&style.dim(&format!("  would be refused: {rules}")));
    }
    line
}

fn millis(millis: u64) -> String {
    if millis < 10_000 {
        format!("{millis}ms")
    } else {
        show_duration(Duration::from_millis(millis))
    }
}

/// Columns aligned by characters; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>], style: Style) -> Vec<String> {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| clean_short(cell)).collect())
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let pad = |cell: &str, column: usize| {
        let missing = widths[column] - cell.chars().count();
        if column + 1 == head.len() {
            cell.to_owned()
        } else {
            format!("{cell}{}", " ".repeat(missing))
        }
    };
    let heading: Vec<String> = head.iter().enumerate().map(|(i, h)| pad(h, i)).collect();
    let mut lines = vec![style.dim(heading.join("  ").trim_end())];
    for row in &rows {
        let cells = row.iter().enumerate().map(|(i, cell)| {
            let cell = pad(cell, i);
            if matches!(head[i], "STATE" | "LINK") {
                style.state(&cell)
            } else {
                cell
            }
        });
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    lines
}

/// `name  value` lines, aligned; absent values are left out.
pub(super) fn facts(facts: &[(&str, Option<String>)], indent: &str, style: Style) -> Vec<String> {
    let present = facts.iter().filter(|(_, value)| value.is_some());
    let width = present.map(|(name, _)| name.len()).max().unwrap_or(0);
    facts
        .iter()
        .filter_map(|(name, value)| {
            let value = value.as_deref()?;
            let name = style.dim(&format!("{name:<width$}"));
            Some(format!("{indent}{name}  {}", clean(value)))
        })
        .collect()
}
