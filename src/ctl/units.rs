//! systemd, as far as a set-up needs it: whether it has a unit of ours, and to have that one start now and at each
//! boot. Not a supervisor: where there is no systemd, what to do by hand is said.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The unit of the client, the system's or a person's.
pub(super) const CLIENT: &str = "wormkeyd-client.service";
/// The unit of the server.
pub(super) const SERVER: &str = "wormkeyd-server.service";

/// A unit is READY or has failed long before.
const DEADLINE: Duration = Duration::from_secs(120);
/// Whether a unit is there is no more than a look.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnitError {
    /// There is none, or it went away.
    #[error("systemctl cannot be run")]
    Run(#[source] io::Error),
    /// It said no.
    #[error("{command} failed: {said}")]
    Failed { command: String, said: String },
    /// It said nothing.
    #[error("{command} did not end within {} s", DEADLINE.as_secs())]
    TimedOut { command: String },
}

/// Whose systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager {
    /// The machine's.
    System,
    /// A person's own.
    Person,
}

impl Manager {
    /// Root's units are the machine's.
    pub(super) fn current() -> Self {
        if nix::unistd::Uid::effective().is_root() {
            Self::System
        } else {
            Self::Person
        }
    }

    /// Whether it runs here and has the unit.
    pub(super) async fn has(self, unit: &str) -> bool {
        self.run(&["cat", unit], LOOK_DEADLINE).await.is_ok()
    }

    /// What [`enable`](Self::enable) runs.
    pub(super) fn line(self, unit: &str, now: bool) -> String {
        let words = enabling(unit, now);
        self.command(&words)
    }

    /// Has it start at each boot, or login, and `now`.
    pub(super) async fn enable(self, unit: &str, now: bool) -> Result<(), UnitError> {
        self.run(&enabling(unit, now), DEADLINE).await
    }

    /// Has it read its units again, after one was changed.
    pub(super) async fn reread(self) -> Result<(), UnitError> {
        self.run(&["daemon-reload"], DEADLINE).await
    }

    fn command(self, words: &[&str]) -> String {
        let of = match self {
            Self::System => "systemctl",
            Self::Person => "systemctl --user",
        };
        format!("{of} {}", words.join(" "))
    }

    async fn run(self, words: &[&str], deadline: Duration) -> Result<(), UnitError> {
        let mut command = Command::new("systemctl");
        if self == Self::Person {
            command.arg("--user");
        }
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        let ended = match tokio::time::timeout(deadline, command.output()).await {
            Ok(ended) => ended.map_err(UnitError::Run)?,
            Err(_) => {
                return Err(UnitError::TimedOut {
                    command: self.command(words),
                });
            }
        };
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        // That a unit was enabled is no reason.
        let mut lines = said
            .lines()
            .filter(|line| !line.starts_with("Created symlink"));
        let said = lines.next().unwrap_or("without a word");
        Err(UnitError::Failed {
            command: self.command(words),
            said: super::text::clean_short(said),
        })
    }
}

fn enabling(unit: &str, now: bool) -> Vec<&str> {
    if now {
        vec!["enable", "--now", unit]
    } else {
        vec!["enable", unit]
    }
}
