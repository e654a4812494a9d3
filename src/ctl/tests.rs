//! Whole command lines against a daemon of the tests, with a terminal, a clock and signals of our own.

mod domains;
mod human;
mod json;
mod logs;
mod manual;
mod policies;
mod running;
mod usage;
mod watching;

use std::ffi::OsString;
use std::io::{self, Cursor, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::tz::TimeZone;
use tokio::sync::{Notify, mpsc};

use super::io::{Io, Signal, SignalSource};
use crate::admin::testing::{Daemon, NOW};

/// What was written, shared with who reads it.
#[derive(Clone, Default)]
struct Paper {
    bytes: Arc<Mutex<Vec<u8>>>,
    written: Arc<Notify>,
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }

    /// Waits until a text stands there.
    async fn shows(&self, text: &str) {
        while !self.text().contains(text) {
            self.written.notified().await;
        }
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.bytes.lock().unwrap().write(bytes);
        self.written.notify_one();
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that went away.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A command line to be, and the process around it.
struct Shell {
    out: Paper,
    err: Paper,
    io: Io,
    signals: mpsc::Sender<Signal>,
    socket: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug, PartialEq)]
struct Ended {
    exit: u8,
    out: String,
    err: String,
}

impl Shell {
    fn new() -> Self {
        let (out, err) = (Paper::default(), Paper::default());
        let (signals, caught) = mpsc::channel(4);
        let io = Io {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            input: Box::new(io::empty()),
            out_is_terminal: false,
            in_is_terminal: false,
            env: Box::new(|_| None),
            current_dir: PathBuf::from("/home/alice/app"),
            clock: Box::new(|| NOW),
            zone: TimeZone::UTC,
            signals: SignalSource::Channel(caught),
        };
        Self {
            out,
            err,
            io,
            signals,
            socket: None,
        }
    }

    fn to(daemon: &Daemon) -> Self {
        let mut shell = Self::new();
        shell.socket = Some(daemon.socket());
        shell
    }

    fn typing(mut self, text: &str) -> Self {
        self.io.input = Box::new(Cursor::new(text.to_owned().into_bytes()));
        self
    }

    fn with_env(mut self, env: &[(&str, &str)]) -> Self {
        let env: Vec<(String, OsString)> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        self.io.env = Box::new(move |name| {
            let found = env.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        });
        self
    }

    /// Words are split at blanks.
    async fn run(self, line: &str) -> Ended {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.run_words(&words).await
    }

    async fn run_words(self, words: &[&str]) -> Ended {
        let mut args: Vec<OsString> = vec!["wormkeyctl".into()];
        if let Some(socket) = &self.socket {
            args.extend(["--socket".into(), socket.into()]);
        }
        args.extend(words.iter().map(OsString::from));
        let (out, err) = (self.out.clone(), self.err.clone());
        let exit = super::run(args, self.io).await;
        Ended {
            exit,
            out: out.text(),
            err: err.text(),
        }
    }
}

fn ended(exit: u8, out: &str, err: &str) -> Ended {
    Ended {
        exit,
        out: out.to_owned(),
        err: err.to_owned(),
    }
}
