//! The command line of `wormkeyd`: arguments, logging, runtime, one call into a role. In the library, so
//! that the man page and the tests read the same definition.

mod manual;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::codes::Code;
use crate::config::{ClientConfig, ConfigError, LogConfig, LogFormat, ServerConfig};
use crate::names::Target;
use crate::telemetry;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The daemon of wormkey: a public address for a local service, for as long as you want.
#[derive(Debug, Parser)]
#[command(name = "wormkeyd", version, about, max_term_width = 100)]
pub struct Args {
    /// What to be.
    #[command(subcommand)]
    pub role: Role,
}

/// The roles of `wormkeyd`.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Be the server: on a public machine, takes in visits and links.
    Server(ServerArgs),
    /// Be the client: beside the services, keeps a link to the server and reaches them.
    Client(RoleArgs),
    /// Be both, on this machine only, to try things out: prints an address that works at once.
    Dev(DevArgs),
    /// Set a machine up, step by step, and say each before it is done.
    Setup {
        /// What it is to be.
        #[command(subcommand)]
        command: SetupCommand,
    },
    /// Write the man page or completions into a directory.
    #[command(hide = true)]
    Generate {
        /// `man` or `completions`.
        what: String,
        /// Where to.
        dir: PathBuf,
    },
}

/// What `setup` sets up.
#[derive(Debug, Subcommand)]
pub enum SetupCommand {
    /// Make this machine a server: write its configuration, look at DNS and ports, start it, and print the first
    /// join token. What is there already stays as it is.
    Server(Box<crate::ctl::setup::ServerWish>),
}

/// Arguments of the server.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// What both roles take.
    #[command(flatten)]
    pub role: RoleArgs,
    /// Something else than to run.
    #[command(subcommand)]
    pub command: Option<ServerCommand>,
}

/// What the server's side can do besides running.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Put a backup in the place of the server's database; the server must not run.
    ///
    /// It is looked at first: one that is damaged, newer than this release or not of a server changes
    /// nothing. The database that was there is kept beside it. What changed after the backup is undone,
    /// revoked devices and used invites too.
    Restore {
        /// What wormkeyctl server backup wrote.
        file: PathBuf,
    },
    /// Change the key that clients know this server by, in two steps, so that none has to join again.
    ///
    /// The first makes server.key.next; from a reload or restart on, each client that links learns of it, and
    /// new join tokens carry both. With --finish, once all have linked since then, and with the server
    /// stopped, it takes the key's place. See KEYS.
    RotateKey {
        /// Put the next key in the place of the present one.
        #[arg(long)]
        finish: bool,
    },
}

/// Arguments of both roles.
#[derive(Debug, clap::Args)]
pub struct RoleArgs {
    /// The configuration. When left out: /etc/wormkey/server.toml for the server; for the client
    /// /etc/wormkey/client.toml as root, else ~/.config/wormkey/client.toml, if it is there.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the configuration, say every problem, and end.
    #[arg(long)]
    pub check: bool,
}

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Where the tunnel leads, such as 3000; a built-in page that shows the visit when left out.
    #[arg(value_name = "TARGET")]
    pub target: Option<Target>,
    /// The port visitors come to.
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub port: u16,
}

/// More than all bounds on connections together.
const DESCRIPTORS_MAX: u64 = 1 << 18;

/// Sockets that are seen to before the link sends what was asked on them. With all that are ready, the other end
/// has nothing to do meanwhile: a twentieth less of visits. With a few, there is a packet for each.
const EVENTS_A_TURN: usize = 32;

/// Runs `wormkeyd`.
pub fn main() -> ExitCode {
    raise_descriptors();
    match Args::parse().role {
        Role::Server(ServerArgs { role, command }) => match command {
            None => server(&role),
            Some(ServerCommand::Restore { file }) => {
                beside(&role, |dir| crate::server::restore(dir, &file))
            }
            Some(ServerCommand::RotateKey { finish }) => {
                beside(&role, |dir| crate::server::rotate(dir, finish))
            }
        },
        Role::Client(args) => client(&args),
        Role::Dev(args) => dev(args),
        Role::Setup {
            command: SetupCommand::Server(wish),
        } => setup_server(*wish),
        Role::Generate { what, dir } => generate(&what, &dir),
    }
}

/// The soft limit is there for programs that use `select`; each visitor takes a descriptor.
fn raise_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Refused, we live with what there is.
        let _ = setrlimit(
            Resource::RLIMIT_NOFILE,
            hard.min(DESCRIPTORS_MAX.max(soft)),
            hard,
        );
    }
}

fn server(args: &RoleArgs) -> ExitCode {
    let config = match ServerConfig::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return bad_configuration(&e),
    };
    // A file that is named and cannot be used is a bad configuration (never fail open).
    if let Err(e) = crate::server::readable(&config) {
        let table = match &config.tls {
            crate::config::TlsMode::Acme(_) => "[acme]",
            _ => "[tls]",
        };
        complain(&format!(
            "{e:#}\n  check {table} in {}, and that the files are there, match and may be read",
            ServerConfig::file(args.config.as_deref()).display()
        ));
        return ExitCode::from(Code::BadConfiguration.row().exit);
    }
    if args.check {
        return checked(ServerConfig::file(args.config.as_deref()));
    }
    if let Err(code) = start_log(&config.log) {
        return code;
    }
    // Half the cores, at least one: one worker each beats work stealing on few cores (measured: 26 µs a
    // request against 41), and visitors' TLS, QUIC and the kernel share what there is.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = (cores / 2).max(1);
    let mut runtime = match workers {
        // A worker of the other kind runs what was woken last before what waits. That is the link, after
        // each visit, which then sends one packet for each: here it sends those of many at once.
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(workers);
    runtime.max_io_events_per_tick(EVENTS_A_TURN);
    let path = args.config.clone();
    finish(
        runtime.enable_all().build(),
        crate::server::run(config, path),
    )
}

/// Does something to the state directory of a server that does not run, or does not mind.
fn beside(args: &RoleArgs, work: impl FnOnce(&Path) -> anyhow::Result<Vec<String>>) -> ExitCode {
    let config = match ServerConfig::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return bad_configuration(&e),
    };
    match work(&config.state_dir) {
        Ok(lines) => {
            lines.iter().for_each(|line| say(line));
            ExitCode::SUCCESS
        }
        Err(e) => {
            complain(&format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn client(args: &RoleArgs) -> ExitCode {
    let config = match ClientConfig::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return bad_configuration(&e),
    };
    if args.check {
        return match ClientConfig::file(args.config.as_deref()) {
            Ok(file) => checked(&file),
            Err(e) => bad_configuration(&e),
        };
    }
    if let Err(code) = start_log(&config.log) {
        return code;
    }
    let path = args.config.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_io_events_per_tick(EVENTS_A_TURN)
        .enable_all()
        .build();
    finish(runtime, crate::client::run(config, path))
}

fn setup_server(wish: crate::ctl::setup::ServerWish) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let io = crate::ctl::Io::process();
            let exit = runtime.block_on(crate::ctl::setup::server(wish, io));
            // A resolver that hangs must not keep the process.
            runtime.shutdown_background();
            ExitCode::from(exit)
        }
        Err(e) => {
            complain(&format!("starting the runtime: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn dev(args: DevArgs) -> ExitCode {
    let log = LogConfig {
        format: LogFormat::Text,
        level: "warn".into(),
        ..LogConfig::default()
    };
    if let Err(code) = start_log(&log) {
        return code;
    }
    let wish = crate::dev::Wish {
        target: args.target,
        port: args.port,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    finish(runtime, async move {
        crate::dev::run(wish, &mut std::io::stdout()).await
    })
}

fn start_log(log: &LogConfig) -> Result<(), ExitCode> {
    let format = match log.format {
        LogFormat::Auto => telemetry::Format::Auto,
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
        LogFormat::Journald => telemetry::Format::Journald,
    };
    telemetry::init(format, &log.level).map_err(|e| {
        complain(&format!("log: {e}"));
        ExitCode::from(Code::BadConfiguration.row().exit)
    })
}

/// Runs a role to its end and makes its outcome an exit code.
fn finish<F>(runtime: std::io::Result<tokio::runtime::Runtime>, role: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(role);
        // A blocking call that hangs (a dead disk, a dead resolver) must not keep the process, least of all
        // one that has failed.
        runtime.shutdown_timeout(match &outcome {
            Ok(()) => std::time::Duration::from_secs(2),
            Err(_) => std::time::Duration::from_millis(100),
        });
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn bad_configuration(e: &ConfigError) -> ExitCode {
    complain(&e.to_string());
    ExitCode::from(Code::BadConfiguration.row().exit)
}

fn checked(path: &Path) -> ExitCode {
    if path.exists() {
        say(&format!("{}: ok", path.display()));
    } else {
        let path = path.display();
        say(&format!(
            "{path}: not there; the defaults are in force, which is ok"
        ));
    }
    ExitCode::SUCCESS
}

fn generate(what: &str, dir: &Path) -> ExitCode {
    let done = match what {
        "man" => manual::pages()
            .into_iter()
            .try_for_each(|(name, text)| std::fs::write(dir.join(name), text)),
        "completions" => crate::ctl::man::completions(Args::command(), dir),
        _ => {
            complain("generate: write man or completions");
            return ExitCode::from(Code::Usage.row().exit);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&format!("generate: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// A closed pipe is nobody's error here.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "wormkeyd: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["wormkeyd", "dev", "nonsense://"]).is_err());
        assert!(Args::try_parse_from(["wormkeyd", "server", "--check"]).is_ok());
    }

    #[test]
    fn f15_a_role_that_failed_exits_with_a_failure_and_waits_for_nothing_that_hangs() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let began = crate::times::Clock.now().monotonic;
        let exit = finish(runtime, async move {
            // As a name is looked up at a resolver that is dead.
            drop(tokio::task::spawn_blocking(move || hangs.recv()));
            anyhow::bail!("a part has ended")
        });
        let took = began.elapsed();
        drop(release);
        assert_eq!(format!("{exit:?}"), format!("{:?}", ExitCode::FAILURE));
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    }
}
