//! The command line of `wormkeyd`: arguments, logging, runtime, one call into a role. In the library, so
//! that the man page and the tests read the same definition.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::codes::Code;
use crate::config::{ClientConfig, ConfigError, LogConfig, LogFormat, ServerConfig};
use crate::ctl::man::{Paragraph, Section};
use crate::names::Target;
use crate::telemetry;

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
    Server(RoleArgs),
    /// Be the client: beside the services, keeps a link to the server and reaches them.
    Client(RoleArgs),
    /// Be both, on this machine only, to try things out: prints an address that works at once.
    Dev(DevArgs),
    /// Write the man page or completions into a directory.
    #[command(hide = true)]
    Generate {
        /// `man` or `completions`.
        what: String,
        /// Where to.
        dir: PathBuf,
    },
}

/// Arguments of both roles.
#[derive(Debug, clap::Args)]
pub struct RoleArgs {
    /// The configuration; /etc/wormkey/server.toml or client.toml when left out.
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

/// Runs `wormkeyd`.
pub fn main() -> ExitCode {
    match Args::parse().role {
        Role::Server(args) => server(&args),
        Role::Client(args) => client(&args),
        Role::Dev(args) => dev(args),
        Role::Generate { what, dir } => generate(&what, &dir),
    }
}

fn server(args: &RoleArgs) -> ExitCode {
    let config = match ServerConfig::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return bad_configuration(&e),
    };
    // A certificate that is named and cannot be used is a bad configuration (never fail open).
    if matches!(config.tls, crate::config::TlsMode::Files { .. })
        && let Err(e) = crate::server::certified_key(&config)
    {
        complain(&format!("{e:#}"));
        return ExitCode::from(Code::BadConfiguration.row().exit);
    }
    if args.check {
        return checked(
            args.config
                .as_deref()
                .unwrap_or(Path::new("/etc/wormkey/server.toml")),
        );
    }
    if let Err(code) = start_log(&config.log) {
        return code;
    }
    // Half the cores, at least one: one worker each beats work stealing on few cores (measured: 26 µs a
    // request against 41), and visitors' TLS, QUIC and the kernel share what there is.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads((cores / 2).max(1));
    let path = args.config.clone();
    finish(
        runtime.enable_all().build(),
        crate::server::run(config, path),
    )
}

fn client(args: &RoleArgs) -> ExitCode {
    let config = match ClientConfig::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(e) => return bad_configuration(&e),
    };
    if args.check {
        return checked(
            args.config
                .as_deref()
                .unwrap_or(Path::new("/etc/wormkey/client.toml")),
        );
    }
    if let Err(code) = start_log(&config.log) {
        return code;
    }
    let path = args.config.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    finish(runtime, crate::client::run(config, path))
}

fn dev(args: DevArgs) -> ExitCode {
    let log = LogConfig {
        format: LogFormat::Text,
        level: "warn".into(),
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
        // A blocking call that hangs (a dead disk, a dead resolver) must not keep the process.
        runtime.shutdown_timeout(std::time::Duration::from_secs(2));
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
    say(&format!("{}: ok", path.display()));
    ExitCode::SUCCESS
}

fn generate(what: &str, dir: &Path) -> ExitCode {
    let done = match what {
        "man" => std::fs::write(dir.join("wormkeyd.8"), man_page()),
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

/// wormkeyd(8), from the definitions above and the table of codes.
pub fn man_page() -> String {
    let item = Paragraph::item;
    let files = Section {
        title: "FILES",
        body: vec![
            item(
                "/etc/wormkey/server.toml, /etc/wormkey/server.d/*.toml",
                "The server's configuration, read in that order; later files win.",
            ),
            item(
                "/etc/wormkey/client.toml, /etc/wormkey/client.d/*.toml",
                "The client's. It may be absent: then everything has its default.",
            ),
            item(
                "/var/lib/wormkey/server.key, client.key",
                "The identity key, 0600. Clients pin the server's; losing it means that every client joins again.",
            ),
            item(
                "/var/lib/wormkey/server.db, client.db",
                "The state. A database that is missing or damaged stops the start; it is never replaced by an empty one.",
            ),
            item(
                "/run/wormkey/server.sock, client.sock",
                "The admin sockets, for wormkeyctl(1).",
            ),
        ],
    };
    let signals = Section {
        title: "SIGNALS",
        body: vec![
            item(
                "SIGTERM, SIGINT",
                "Drain: nothing new, what goes on may finish (30 s on the server, 10 s on the client), then end. A second one ends at once. Tunnels stay promised: stopping is not closing.",
            ),
            item(
                "SIGHUP",
                "Read the configuration again. A bad one is refused and the old one stays in force.",
            ),
        ],
    };
    let exit = Section {
        title: "EXIT STATUS",
        body: vec![
            item("0", "Ended as asked."),
            item(
                "1",
                "Could not start, or a part without which there is no service has ended; the last line on stderr says why.",
            ),
            item("2", "The command line is not understood."),
            item(
                "78",
                "The configuration is not valid; every problem is listed.",
            ),
        ],
    };
    let examples = Section {
        title: "EXAMPLES",
        body: vec![
            Paragraph::text("Try it on this machine, without any set-up:"),
            Paragraph::Code("wormkeyd dev 3000".into()),
            Paragraph::text("Check a server's configuration:"),
            Paragraph::Code("wormkeyd server --config /etc/wormkey/server.toml --check".into()),
        ],
    };
    let also = Section {
        title: "SEE ALSO",
        body: vec![Paragraph::text("wormkeyctl(1), wormkey-errors(7)")],
    };
    crate::ctl::man::render(
        Args::command(),
        "8",
        &[examples, files, signals, exit, also],
    )
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
    fn the_committed_man_page_is_what_the_definitions_say() {
        let committed = std::fs::read_to_string("man/wormkeyd.8").unwrap_or_default();
        assert!(
            committed == man_page(),
            "run: cargo run -- generate man man"
        );
    }

    #[test]
    fn the_command_line_holds_together() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["wormkeyd", "dev", "nonsense://"]).is_err());
        assert!(Args::try_parse_from(["wormkeyd", "server", "--check"]).is_ok());
    }
}
