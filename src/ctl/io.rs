//! What the command line touches of its process: streams, environment, clock, signals. All of it is
//! handed in, so that a test can be the terminal.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::PathBuf;

use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::mpsc;

use super::text::{Style, clean};
use crate::times::{Clock, WallTime};

/// Looks an environment variable up.
pub type Env = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

/// The process as the command sees it.
pub struct Io {
    /// Standard output.
    pub out: Box<dyn Write + Send>,
    /// Standard error.
    pub err: Box<dyn Write + Send>,
    /// Standard input.
    pub input: Box<dyn Read + Send>,
    /// Whether a person reads standard output.
    pub out_is_terminal: bool,
    /// Whether a person types at standard input.
    pub in_is_terminal: bool,
    /// Environment variables.
    pub env: Env,
    /// Against which relative paths are meant.
    pub current_dir: PathBuf,
    /// The wall clock.
    pub clock: Box<dyn Fn() -> WallTime + Send + Sync>,
    /// The person's time zone.
    pub zone: TimeZone,
    /// Where signals come from; caught only by commands that stay.
    pub signals: SignalSource,
}

impl Io {
    /// This process's own.
    pub fn process() -> Self {
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            out_is_terminal: io::stdout().is_terminal(),
            in_is_terminal: io::stdin().is_terminal(),
            env: Box::new(|name| std::env::var_os(name)),
            current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            clock: Box::new(|| Clock.now().wall),
            zone: TimeZone::system(),
            signals: SignalSource::Process,
        }
    }

    /// A variable that is set and not empty.
    pub(super) fn var(&self, name: &str) -> Option<OsString> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// Colours only for a person who wants them.
    pub(super) fn style(&self) -> Style {
        let plain = self.var("NO_COLOR").is_some() || self.var("TERM").is_some_and(|t| t == "dumb");
        Style::new(self.out_is_terminal && !plain)
    }

    /// One line on standard output, seen at once.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// One JSON document on standard output.
    pub(super) fn document<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(&text)
    }

    /// A line for the person, beside the result. Nobody may be listening; that changes nothing.
    pub(super) fn hint(&mut self, text: &str) {
        let _ = writeln!(self.err, "{}", clean(text));
    }

    /// Text for standard error that has lines of its own.
    pub(super) fn block(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }
}

/// What ends or disturbs a command that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    /// The terminal went away.
    Hangup,
}

/// Where signals come from.
#[derive(Debug)]
pub enum SignalSource {
    /// The kernel.
    Process,
    /// A test.
    Channel(mpsc::Receiver<Signal>),
}

/// Signals, caught from here on.
pub(super) enum Signals {
    Process {
        interrupt: SignalStream,
        terminate: SignalStream,
        hangup: SignalStream,
    },
    Channel(mpsc::Receiver<Signal>),
}

impl Signals {
    /// From now on signals no longer end the process by themselves.
    pub(super) fn listen(io: &mut Io) -> io::Result<Self> {
        match std::mem::replace(&mut io.signals, SignalSource::Process) {
            SignalSource::Process => Ok(Self::Process {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
            }),
            SignalSource::Channel(channel) => Ok(Self::Channel(channel)),
        }
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Signal {
        let received = match self {
            Self::Process {
                interrupt,
                terminate,
                hangup,
            } => tokio::select! {
                biased;
                got = terminate.recv() => got.map(|()| Signal::Terminate),
                got = interrupt.recv() => got.map(|()| Signal::Interrupt),
                got = hangup.recv() => got.map(|()| Signal::Hangup),
            },
            Self::Channel(channel) => channel.recv().await,
        };
        match received {
            Some(signal) => signal,
            // No more can come.
            None => std::future::pending().await,
        }
    }
}
