//! Logging set-up: where lines go, how they look, which are wanted. What a line may contain is decided
//! in `telemetry/line.rs`: one escaped, capped line each, whatever a stranger put into a field.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

mod layer;
mod line;
pub mod metrics;

use layer::LogLayer;
use line::Style;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// journald when started by systemd, else text.
    #[default]
    Auto,
    /// Text on stderr, coloured on a terminal.
    Text,
    /// One JSON object a line on stderr.
    Json,
    /// journald's own socket, with fields.
    Journald,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A word that is no level.
    #[error(
        "{word:?} is no log level; use error, warn, info, debug or trace, or a filter such as \"info,wormkey::edge=debug\""
    )]
    Level {
        /// What was given.
        word: String,
    },
    /// A filter that does not read.
    #[error("{filter:?} is no log filter")]
    Filter {
        /// What was given.
        filter: String,
        /// Why.
        #[source]
        source: ParseError,
    },
    /// journald was asked for and does not answer.
    #[error("journald cannot be reached at {JOURNAL}; use another [log] format")]
    Journal {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no log whose level could be changed.
    #[error("this process does not log")]
    Unset,
    /// A process logs one way only.
    #[error("logging is set up already")]
    Twice,
}

/// The target of access lines. What goes there is decided by a setting of its own, so the level lets it
/// through, whatever it is; a filter may still name it.
pub const ACCESS: &str = "wormkey::access";

const JOURNAL: &str = "/run/systemd/journal/socket";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Sets up logging for the whole process, once. `level` is a level or a tracing filter; empty is `info`.
pub fn init(format: Format, level: &str) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    let layer = match format {
        Format::Journald => journal().map_err(|source| TelemetryError::Journal { source })?,
        Format::Auto if stderr_is_journal() => journal().unwrap_or_else(|_| text()),
        Format::Auto | Format::Text => text(),
        Format::Json => LogLayer::new(Style::Json, Box::new(to_stderr)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    set_global(subscriber)?;
    let levels = Levels {
        handle,
        configured: named(level),
        now: Mutex::new(named(level)),
    };
    // Whoever sets up the subscriber is the first here, too.
    let _ = CHOSEN.set(levels);
    Ok(())
}

fn set_global(subscriber: impl Subscriber + Send + Sync) -> Result<(), TelemetryError> {
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)
}

/// What is wanted of the log, and the way to want something else.
struct Levels {
    handle: reload::Handle<EnvFilter, Registry>,
    configured: String,
    now: Mutex<String>,
}

static CHOSEN: OnceLock<Levels> = OnceLock::new();

/// An empty one is what it stands for.
fn named(level: &str) -> String {
    match level.trim() {
        "" => "info".to_owned(),
        level => level.to_owned(),
    }
}

/// The level in force and the one that was set up; empty in a process that does not log.
pub fn levels() -> (String, String) {
    CHOSEN.get().map_or_else(Default::default, |levels| {
        let now = levels.now.lock().unwrap_or_else(PoisonError::into_inner);
        (now.clone(), levels.configured.clone())
    })
}

/// Puts another level in force, for the whole process; none is the one that was set up.
pub fn set_level(level: Option<&str>) -> Result<(), TelemetryError> {
    let Some(levels) = CHOSEN.get() else {
        return Err(TelemetryError::Unset);
    };
    let level = named(level.unwrap_or(&levels.configured));
    let filter = filter(&level)?;
    let mut now = levels.now.lock().unwrap_or_else(PoisonError::into_inner);
    levels
        .handle
        .reload(filter)
        .map_err(|_| TelemetryError::Unset)?;
    *now = level;
    Ok(())
}

/// A level means our own lines; the libraries below us say no more than warnings, unless a filter
/// asks for more. What strangers make them say at lower levels would flood the log.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let level = level.trim();
    let directives = match level {
        "" => "warn,wormkey=info".to_owned(),
        "info" | "debug" | "trace" => format!("warn,wormkey={level}"),
        other => other.to_owned(),
    };
    // A lone word that is no level would be taken for a module, and everything else fall silent.
    let lone = (directives.split(',').map(str::trim))
        .find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
    if let Some(word) = lone {
        return Err(TelemetryError::Level {
            word: word.to_owned(),
        });
    }
    EnvFilter::builder()
        .parse(format!("{ACCESS}=info,{directives}"))
        .map_err(|source| TelemetryError::Filter {
            filter: directives,
            source,
        })
}

fn text() -> LogLayer {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    let ansi = io::stderr().is_terminal() && !no_color;
    LogLayer::new(Style::Text { ansi }, Box::new(to_stderr))
}

fn to_stderr(line: &[u8]) {
    // A full disk or a closed pipe must not stop the daemon, and there is nobody left to tell.
    let _ = io::stderr().lock().write_all(line);
}

fn journal() -> io::Result<LogLayer> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(JOURNAL)?;
    // A journal that hangs must not hang us for long.
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    Ok(LogLayer::new(
        Style::Journal {
            identifier: identifier(),
        },
        Box::new(move |entry| {
            if socket.send(entry).is_err() {
                // Stderr leads to the journal too, once it is back.
                to_stderr(message_of(entry));
            }
        }),
    ))
}

/// The message of a journal entry with its line end.
fn message_of(entry: &[u8]) -> &[u8] {
    let mut lines = entry.split_inclusive(|byte| *byte == b'\n');
    lines
        .find_map(|line| line.strip_prefix(b"MESSAGE="))
        .unwrap_or(entry)
}

fn identifier() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "wormkey".to_owned())
}

/// systemd names the stream it gave us; if somebody redirected stderr, it is another.
fn stderr_is_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").ok();
    let ours = nix::sys::stat::fstat(io::stderr()).ok();
    match (told, ours) {
        (Some(told), Some(ours)) => told == format!("{}:{}", ours.st_dev, ours.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
