//! `wormkeyctl`: reads the command line, asks a daemon over its admin socket, tells the answer to a
//! person or, with `--json`, to a program. Not what the daemons do: every decision is theirs.
//!
//! [`run()`] is the whole command; the process it lives in is handed to it as [`Io`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser as _;
use clap::error::ErrorKind;
use serde::Serialize;
use serde_json::json;

use crate::admin::{ApiClient, CallError};
use crate::codes::Code;

pub mod args;
mod ask;
mod backup;
pub mod complete;
mod doctor;
mod domains;
mod drain;
mod error;
mod figures;
mod import;
mod io;
mod log_level;
mod logs;
pub mod man;
mod man_api;
mod open;
mod policy;
pub mod policy_args;
mod qr;
mod run;
mod server;
pub mod setup;
mod share;
mod status;
#[cfg(test)]
mod tests;
mod text;
mod tunnels;
mod units;
mod watch;

pub use io::{Env, Io, Signal, SignalSource};

use args::{Args, Command, Generated, ServerCommand};
use error::{CtlError, Role, hint_of};
use text::{Style, Times};

const SYSTEM_CLIENT: &str = "/run/wormkey/client.sock";
const SYSTEM_SERVER: &str = "/run/wormkey/server.sock";

/// Runs one command line, the program's name first; the result is the exit code.
pub async fn run(args: impl IntoIterator<Item = OsString>, io: Io) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    match Args::try_parse_from(&args) {
        Ok(parsed) => dispatch(parsed, io).await,
        Err(err) => unparsed(&err, &args, io),
    }
}

/// Help and version are answers; anything else is wrong usage.
fn unparsed(err: &clap::Error, args: &[OsString], mut io: Io) -> u8 {
    let text = err.render().to_string();
    if matches!(
        err.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        let _ = io.line(text.trim_end());
        return 0;
    }
    let no_command = matches!(
        err.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    );
    let wants_json = args
        .iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--json");
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    if wants_json {
        let first = text.split("\n\n").next().unwrap_or(text);
        let mut detail = first.split_whitespace().collect::<Vec<_>>().join(" ");
        if no_command {
            detail = "there is no command".to_owned();
        }
        io.block(&problem(Code::Usage, &detail, &hint_of(Code::Usage), 2).to_string());
    } else if no_command {
        io.block(text);
    } else {
        io.block(&format!("wormkeyctl: {text}"));
    }
    2
}

/// What `--json` prints on standard error.
fn problem(code: Code, detail: &str, fix: &str, exit: u8) -> serde_json::Value {
    json!({"code": code.as_str(), "detail": detail, "fix": fix, "exit": exit})
}

async fn dispatch(args: Args, io: Io) -> u8 {
    let role = match args.command {
        Command::Server { .. } => Role::Server,
        _ => Role::Client,
    };
    let socket = args.socket.unwrap_or_else(|| default_socket(role, &io));
    let mut cli = Cli {
        json: args.json,
        style: io.style(),
        api: ApiClient::new(socket),
        role,
        io,
    };
    match command(&mut cli, args.command).await {
        Ok(exit) => exit,
        Err(err) => {
            let err = cli.explained(err).await;
            cli.report(&err);
            if err.is_quiet() { 0 } else { err.exit() }
        }
    }
}

async fn command(cli: &mut Cli, command: Command) -> Result<u8, CtlError> {
    match command {
        Command::Join {
            token,
            replace,
            start,
            yes,
        } => {
            let start = start.then_some(setup::Consent { yes });
            status::join(cli, &token, replace, start).await?;
        }
        Command::Leave { forget_key } => status::leave(cli, forget_key).await?,
        Command::Open(args) => open::open(cli, *args).await?,
        Command::Run(args) => return run::run(cli, *args).await,
        Command::List { all } => tunnels::list(cli, all).await?,
        Command::Show { tunnel } => tunnels::show(cli, &tunnel).await?,
        Command::Set(args) => policy::set(cli, *args).await?,
        Command::Share(args) => share::share(cli, args).await?,
        Command::Close { tunnel, all: _ } => match tunnel {
            Some(key) => tunnels::close(cli, &key).await?,
            None => tunnels::close_all(cli).await?,
        },
        Command::Logs(args) => logs::logs(cli, args).await?,
        Command::Status => status::client(cli).await?,
        Command::Doctor => return doctor::doctor(cli).await,
        Command::LogLevel { level, lasts } => log_level::log_level(cli, level, lasts).await?,
        Command::Reload => status::reload(cli).await?,
        Command::Drain { grace } => drain::drain(cli, grace).await?,
        Command::Import(args) => import::import(cli, &args)?,
        Command::Server { command } => return server_command(cli, command).await,
        Command::Generate { what, dir } => match what {
            Generated::Man => man::write(&dir)?,
            Generated::Completions => man::write_completions(&dir)?,
        },
    }
    Ok(0)
}

async fn server_command(cli: &mut Cli, command: ServerCommand) -> Result<u8, CtlError> {
    let done = match command {
        ServerCommand::Invite {
            user,
            uses,
            expires,
        } => server::invite(cli, user, uses, expires).await,
        ServerCommand::Users => server::users(cli).await,
        ServerCommand::Devices => server::devices(cli).await,
        ServerCommand::Revoke { what } => server::revoke(cli, &what).await,
        ServerCommand::Suspend { what, reason } => server::suspend(cli, &what, reason, true).await,
        ServerCommand::Resume { what } => server::suspend(cli, &what, None, false).await,
        ServerCommand::Tunnels { all } => tunnels::list(cli, all).await,
        ServerCommand::Close { tunnel } => tunnels::close(cli, &tunnel).await,
        ServerCommand::Status => figures::server_status(cli).await,
        ServerCommand::Links { after, limit } => figures::links(cli, after, limit).await,
        ServerCommand::Doctor => return doctor::doctor(cli).await,
        ServerCommand::Drain { grace } => drain::drain(cli, grace).await,
        ServerCommand::LogLevel { level, lasts } => log_level::log_level(cli, level, lasts).await,
        ServerCommand::Backup { file } => backup::backup(cli, &file).await,
        ServerCommand::Reload => status::reload(cli).await,
        ServerCommand::Audit {
            after,
            limit,
            since,
            subject,
            actor,
        } => {
            let filters = [("since", since), ("subject", subject), ("actor", actor)];
            server::audit(cli, after, limit, filters).await
        }
    };
    done.map(|()| 0)
}

/// Without `--socket`: the environment, then a person's own daemon, then the system's.
fn default_socket(role: Role, io: &Io) -> PathBuf {
    if role == Role::Server {
        return SYSTEM_SERVER.into();
    }
    if let Some(named) = io.var("WORMKEY_SOCKET") {
        return named.into();
    }
    let below = |name: &str, rest: &str| Some(PathBuf::from(io.var(name)?).join(rest));
    // Where a client puts its socket when nobody logged in the way that makes a runtime directory.
    let state = below("XDG_STATE_HOME", "wormkey/client.sock")
        .or_else(|| below("HOME", ".local/state/wormkey/client.sock"));
    below("XDG_RUNTIME_DIR", "wormkey/client.sock")
        .filter(|own| own.exists())
        .or_else(|| state.filter(|own| own.exists()))
        .unwrap_or_else(|| SYSTEM_CLIENT.into())
}

/// One command under way.
struct Cli {
    io: Io,
    json: bool,
    style: Style,
    api: ApiClient,
    role: Role,
}

impl Cli {
    fn times(&self) -> Times {
        Times {
            now: (self.io.clock)(),
            zone: self.io.zone.clone(),
        }
    }

    fn line(&mut self, text: &str) -> Result<(), CtlError> {
        self.io.line(text).map_err(CtlError::Output)
    }

    fn lines<T: AsRef<str>>(&mut self, lines: &[T]) -> Result<(), CtlError> {
        lines.iter().try_for_each(|line| self.line(line.as_ref()))
    }

    fn document<T: Serialize>(&mut self, value: &T) -> Result<(), CtlError> {
        self.io.document(value).map_err(CtlError::Output)
    }

    /// A word beside the result; `--json` leaves it out where the document says the same.
    fn hint(&mut self, text: &str) {
        self.io.hint(text);
    }

    fn failed(&self, err: CallError) -> CtlError {
        CtlError::Call {
            role: self.role,
            err,
        }
    }

    /// The same failure, or why it had to come: behind the socket is the other role's daemon, which knows
    /// some of our calls and not others.
    async fn explained(&self, err: CtlError) -> CtlError {
        let CtlError::Call { role, err: call } = &err else {
            return err;
        };
        let strange = match call {
            CallError::Unread { .. } => true,
            CallError::Api(api) => matches!(api.code, Code::NotFound | Code::MethodNotAllowed),
            _ => false,
        };
        if !strange {
            return err;
        }
        let status: Result<serde_json::Value, _> = self.api.get("/v1/status").await;
        let found = match status {
            Ok(status) if status.get("joined").is_some() => Role::Client,
            Ok(status) if status.get("listen").is_some() => Role::Server,
            _ => return err,
        };
        if found == *role {
            return err;
        }
        CtlError::OtherDaemon {
            socket: self.api.socket().to_owned(),
            found,
        }
    }

    fn report(&mut self, err: &CtlError) {
        if err.is_quiet() {
            return;
        }
        let (detail, fix) = (err.detail(), err.fix());
        if self.json {
            let problem = problem(err.code(), &detail, &fix, err.exit());
            self.io.block(&problem.to_string());
        } else {
            // A bad configuration has a line for each problem.
            for line in format!("wormkeyctl: {detail}").lines() {
                self.hint(line);
            }
            self.hint(&format!("  {fix}"));
        }
    }
}
