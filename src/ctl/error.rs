//! Why a command did not do what it was asked: what happened, what to do, and the exit code.

use std::io;
use std::path::PathBuf;

use super::import::ImportError;
use super::setup::SetupError;
use crate::admin::CallError;
use crate::codes::Code;
use crate::wire::token::TokenError;

/// Which daemon a command speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A command's failure.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    /// Found wrong before any call.
    #[error("{what}")]
    Usage { what: String, fix: String },
    /// The join token does not read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// `@FILE` or standard input.
    #[error("{what} cannot be read")]
    Read {
        what: String,
        #[source]
        err: io::Error,
    },
    /// `generate`.
    #[error("{path} cannot be written")]
    Generate {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    /// The daemon refused, or is not there.
    #[error("{err}")]
    Call { role: Role, err: CallError },
    /// A client's command at a server's socket, or the other way round.
    #[error("behind {} is a {}", .socket.display(), .found.word())]
    OtherDaemon { socket: PathBuf, found: Role },
    /// `close --all` closed some and not others; each was told of.
    #[error("{failed} of {of} tunnels could not be closed")]
    NotAllClosed {
        failed: usize,
        of: usize,
        first: CallError,
    },
    /// `run`: something has the port before the command is started.
    #[error("something listens on port {port} already")]
    PortTaken { port: u16 },
    /// `run`: nothing listened in time.
    #[error("nothing listened on port {port} within {within}")]
    PortSilent { port: u16, within: String },
    /// `run`: the command cannot be started.
    #[error("{command} cannot be started")]
    Start {
        command: String,
        #[source]
        err: io::Error,
    },
    /// `import`.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A set-up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Signals cannot be caught, or a child cannot be waited for.
    #[error("the system refused")]
    System(#[source] io::Error),
    /// Standard output is gone or full.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
}

impl CtlError {
    pub(super) fn usage(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Usage {
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// The table's row.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Usage { .. } | Self::Read { .. } | Self::OtherDaemon { .. } => Code::Usage,
            Self::Token(_) => Code::BadToken,
            Self::Call { err, .. } | Self::NotAllClosed { first: err, .. } => err.code(),
            Self::Import(err) => err.code(),
            Self::Setup(err) => err.code(),
            Self::PortTaken { .. } => Code::Conflict,
            Self::PortSilent { .. } => Code::OriginUnreachable,
            Self::Start { .. } | Self::System(_) | Self::Generate { .. } | Self::Output(_) => {
                Code::Internal
            }
        }
    }

    /// The exit code: the table's, but for a command that cannot be started, which ends as in a shell.
    pub(super) fn exit(&self) -> u8 {
        match self {
            Self::Start { err, .. } if err.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            _ => self.code().row().exit,
        }
    }

    /// A reader that went away (`| head -1`) is no failure worth a word.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self, Self::Output(err) if err.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The sentence and its causes.
    pub(super) fn detail(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        // Its own sentence is the call's, so the causes are, too.
        if let Self::Call { err, .. } = self {
            cause = std::error::Error::source(err);
        }
        while let Some(err) = cause {
            text.push_str(": ");
            text.push_str(&err.to_string());
            cause = err.source();
        }
        text
    }

    /// What to do.
    pub(super) fn fix(&self) -> String {
        match self {
            Self::Usage { fix, .. } => fix.clone(),
            Self::Read { err, .. } if crate::secret::file::is_exposed(err) => {
                "let nobody but you read it, then do the same again".to_owned()
            }
            Self::Read { .. } => "check its name, and whether you may read it".to_owned(),
            Self::Call { role, err } => call_fix(*role, err),
            Self::NotAllClosed { .. } => "wormkeyctl list shows those that are left".to_owned(),
            Self::PortTaken { port } => {
                format!("stop it, or open a tunnel to it as it is: wormkeyctl open {port}")
            }
            Self::PortSilent { .. } => {
                "check --port, or give it longer with --wait-timeout".to_owned()
            }
            Self::Import(err) => err.fix(),
            Self::Setup(err) => err.fix(),
            Self::Start { .. } => "check its name and its path".to_owned(),
            Self::Generate { .. } => "make the directory, or check who owns it".to_owned(),
            Self::OtherDaemon {
                found: Role::Server,
                ..
            } => "a server takes the commands under wormkeyctl server".to_owned(),
            Self::OtherDaemon { .. } => {
                "a client takes the commands that are not under wormkeyctl server".to_owned()
            }
            Self::System(_) => "try again; the cause is the system's own word for it".to_owned(),
            Self::Output(_) => "make room, or send the output somewhere else".to_owned(),
            Self::Token(_) => hint_of(self.code()),
        }
    }
}

/// The table's advice as a line below an error, which is no sentence of its own.
pub(super) fn hint_of(code: Code) -> String {
    let fix = code.row().fix;
    let fix = fix.strip_suffix('.').unwrap_or(fix);
    let mut chars = fix.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn call_fix(role: Role, err: &CallError) -> String {
    match err {
        CallError::DaemonUnreachable { .. } => format!(
            "start it with: wormkeyd {}; or name its socket with --socket",
            role.word()
        ),
        CallError::NotPermitted {
            group: Some(group), ..
        } if group != "root" => {
            format!("its group {group} may: sudo usermod -aG {group} $USER, then log in again")
        }
        CallError::NotPermitted { .. } => {
            "use sudo, or have [admin] group name a group that you are in".to_owned()
        }
        CallError::Broken { .. } => {
            "look at the daemon's log; it may have been restarted, so try again".to_owned()
        }
        CallError::Unread { .. } => {
            "wormkeyctl and the daemon may differ in version: restart the daemon, or upgrade the older one"
                .to_owned()
        }
        CallError::Api(api) if api.code == Code::NotFound && role == Role::Server => {
            "`wormkeyctl server tunnels`, `devices` and `users` show what there is".to_owned()
        }
        CallError::TimedOut { .. } | CallError::Api(_) => hint_of(err.code()),
    }
}
