//! Set-up: `wormkeyd setup server` on a public machine, `wormkeyctl join --start` where the services are. Each says
//! what it will do before it does it, and does nothing twice. Not an installer: the programs and their units come
//! with the packages.

mod checks;
mod client;
mod file;
mod handed;
#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::error::{CtlError, Role};
use super::units::{self, Manager, UnitError};
use super::{Cli, Io, server};
use crate::admin::ApiClient;
use crate::codes::Code;
use crate::config::{ConfigError, ServerConfig};
use crate::names::Hostname;

use handed::Handed;

pub(super) use client::started;

/// A unit that is READY answers; one that is started by hand, soon after.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often it is asked until then.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What `wormkeyd setup server` is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerWish {
    /// The domain: tunnels answer at the names below it.
    #[arg(long, value_name = "NAME", value_parser = Hostname::parse)]
    pub domain: Hostname,
    /// The certificate for the domain and the names below it, PEM; without it, and without --acme, one is made here,
    /// which browsers warn about.
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "acme")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Get a wildcard certificate from Let's Encrypt and renew it. Its proof is a TXT record, which a small name server
    /// in wormkeyd answers; setup says what to delegate to it. With --dns-hook your own program makes the record.
    #[arg(long)]
    pub acme: bool,
    /// With --acme: the program that makes the TXT record; wormkey-server.toml(5), acme.dns.hook.
    #[arg(long, value_name = "FILE", requires = "acme")]
    pub dns_hook: Option<PathBuf>,
    /// With --acme: where the authority may write to.
    #[arg(long, value_name = "ADDRESS", requires = "acme")]
    pub email: Option<String>,
    /// Where visitors and links come in; every address of this machine, port 443, when left out.
    #[arg(long, value_name = "ADDRESS")]
    pub https: Option<SocketAddr>,
    /// Where plain HTTP is redirected; port 80 when left out, or off.
    #[arg(long, value_name = "ADDRESS|off")]
    pub http: Option<String>,
    /// The public ports of tcp and udp tunnels, such as 20000-20999; none when left out.
    #[arg(long, value_name = "RANGE")]
    pub tcp_ports: Option<String>,
    /// Whom the first invite is for.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Write the configuration, and leave starting the server to you.
    #[arg(long)]
    pub no_start: bool,
    /// Do not ask, for scripts.
    #[arg(long, short)]
    pub yes: bool,
    /// Say what would be done, and end.
    #[arg(long)]
    pub dry_run: bool,
    /// Set up below this directory instead of /, without systemd: for images and tests.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

/// Whether a set-up asks before it goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consent {
    /// It does not.
    pub(super) yes: bool,
}

/// Why a set-up stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    /// Standard input is no terminal, and there is no `--yes`.
    #[error("nothing was done: nobody is there to say yes")]
    Unconfirmed,
    /// The person said no.
    #[error("nothing was done")]
    Declined,
    /// A server for something else is configured.
    #[error("{} is for {found} already", .path.display())]
    OtherDomain { path: PathBuf, found: Hostname },
    /// `--acme` with a version that has none.
    #[error("this version of wormkeyd gets no certificates by itself")]
    NoAcme,
    /// Somebody else has a port that is needed.
    #[error("{what} is taken by another program")]
    PortTaken { what: String },
    /// What is there, or would be written, does not hold.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that a set-up would write, by another hand or from another set-up.
    #[error("{} is there already, with another text", .path.display())]
    InTheWay { path: PathBuf },
    /// A file or its folder.
    #[error("{} cannot be written", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    /// systemd.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// There is no unit to start.
    #[error("systemd has no {unit} here")]
    NoUnit { unit: &'static str, line: String },
    /// Started, and silent.
    #[error("{unit} was started, and does not answer on {}", .socket.display())]
    Silent { unit: &'static str, socket: PathBuf },
}

impl SetupError {
    /// The table's row.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Unconfirmed | Self::NoAcme => Code::Usage,
            Self::Declined => Code::Cancelled,
            Self::OtherDomain { .. } | Self::PortTaken { .. } | Self::InTheWay { .. } => {
                Code::Conflict
            }
            Self::Config(_) => Code::BadConfiguration,
            Self::Write { .. } | Self::Unit(_) => Code::Internal,
            Self::NoUnit { .. } | Self::Silent { .. } => Code::DaemonUnreachable,
        }
    }

    /// What to do.
    pub(super) fn fix(&self) -> String {
        match self {
            Self::Unconfirmed => "add --yes to have it done without a question".to_owned(),
            Self::Declined => "the same again goes on where this stopped".to_owned(),
            Self::OtherDomain { .. } => {
                "change domain there by hand: tunnels and join tokens hang on it".to_owned()
            }
            Self::NoAcme => {
                "give a certificate with --cert and --key, or leave --acme out".to_owned()
            }
            Self::PortTaken { .. } => {
                "stop that program, or put wormkey behind it: see wormkey(7), BEHIND NGINX"
                    .to_owned()
            }
            Self::Config(_) => "mend what is named; nothing was changed".to_owned(),
            Self::InTheWay { path } => {
                let path = path.display();
                format!("look at {path}, remove it unless it is needed, and do this again")
            }
            Self::Write { .. } => "use sudo, or check who owns it".to_owned(),
            Self::Unit(_) => {
                "journalctl -u wormkeyd-server or -u wormkeyd-client says why".to_owned()
            }
            Self::NoUnit { line, .. } => format!("start it by hand, then do this again: {line}"),
            Self::Silent { unit, .. } => format!("look at its log: journalctl -u {unit}"),
        }
    }
}

/// Runs `wormkeyd setup server`; the result is the exit code.
pub async fn server(wish: ServerWish, io: Io) -> u8 {
    let mut cli = Cli {
        json: false,
        style: io.style(),
        api: ApiClient::new(super::SYSTEM_SERVER.into()),
        role: Role::Server,
        io,
    };
    match set_up(&mut cli, &wish).await {
        Ok(()) => 0,
        Err(err) if err.is_quiet() => 0,
        Err(err) => {
            for line in format!("wormkeyd: {}", err.detail()).lines() {
                cli.hint(line);
            }
            cli.hint(&format!("  {}", err.fix()));
            err.exit()
        }
    }
}

async fn set_up(cli: &mut Cli, wish: &ServerWish) -> Result<(), CtlError> {
    if wish.acme && !file::knows_acme() {
        return Err(SetupError::NoAcme.into());
    }
    let path = below(&wish.root, "etc/wormkey/server.toml");
    let managed = wish.root == Path::new("/") && Manager::System.has(units::SERVER).await;
    let handed = Handed::of(wish).filter(|_| managed);
    let text = match &handed {
        Some(handed) => file::text(&handed.wish(wish)),
        None => file::text(wish),
    };
    let config = match existing(&path, &wish.domain)? {
        Some(config) => config,
        None => tried(&text, &path)?,
    };
    cli.api = ApiClient::new(config.admin.socket.clone());
    let is_new = !path.exists();
    let running = answers(cli).await;
    let handed = handed.filter(|_| is_new);
    let starts = !running && !wish.no_start && managed;

    cli.hint("this will:");
    for line in intentions(wish, &path, is_new, running, starts) {
        cli.hint(&format!("  {line}"));
    }
    if handed.is_some() {
        let drop_in = handed::DROP_IN;
        cli.hint(&format!(
            "  write {drop_in}, since only root may read the certificate's files"
        ));
    }
    cli.hint("as things are:");
    let found = checks::look(&config, running).await;
    for finding in &found {
        cli.hint(&format!("  {finding}"));
    }
    if wish.acme {
        cli.hint(&format!("  {}", file::delegation(wish)));
    }
    if wish.dry_run {
        return Ok(());
    }
    if !wish.no_start
        && let Some(what) = found.iter().find_map(checks::Finding::taken)
    {
        return Err(SetupError::PortTaken { what }.into());
    }
    if is_new || starts {
        confirm(&mut cli.io, wish.yes)?;
    }
    if is_new {
        if let Some(handed) = &handed {
            let (drop_in, text) = (Path::new(handed::DROP_IN), handed.text());
            // A set-up that was broken off has left it.
            if std::fs::read_to_string(drop_in).ok().as_ref() != Some(&text) {
                put(drop_in, &text)?;
            }
            Manager::System.reread().await.map_err(SetupError::from)?;
            cli.hint(&format!("wrote {}", handed::DROP_IN));
        }
        put(&path, &text)?;
        cli.hint(&format!("wrote {}", path.display()));
    }
    if starts {
        Manager::System
            .enable(units::SERVER, true)
            .await
            .map_err(SetupError::from)?;
        wait(cli, units::SERVER).await?;
        cli.hint(&format!("{} is enabled and runs", units::SERVER));
    } else if !running {
        return by_hand(cli, wish, &path);
    }
    first_invite(cli, wish).await
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path)
}

/// What is configured already; an error when it is for something else, or does not hold.
fn existing(path: &Path, domain: &Hostname) -> Result<Option<ServerConfig>, SetupError> {
    if !path.exists() {
        return Ok(None);
    }
    let config = ServerConfig::load(Some(path))?;
    if config.domain == *domain {
        Ok(Some(config))
    } else {
        Err(SetupError::OtherDomain {
            path: path.to_owned(),
            found: config.domain,
        })
    }
}

/// Reads the new file as the server will, from a place where it harms nobody.
fn tried(text: &str, path: &Path) -> Result<ServerConfig, SetupError> {
    let failed = |err| SetupError::Write {
        path: path.to_owned(),
        err,
    };
    let dir = tempfile::tempdir().map_err(failed)?;
    let trial = dir.path().join("server.toml");
    std::fs::write(&trial, text).map_err(failed)?;
    Ok(ServerConfig::load(Some(&trial))?)
}

fn intentions(
    wish: &ServerWish,
    path: &Path,
    is_new: bool,
    running: bool,
    starts: bool,
) -> Vec<String> {
    let path = path.display();
    let mut lines = Vec::new();
    if is_new {
        let how = file::certificate(wish);
        lines.push(format!("write {path}, for {}, with {how}", wish.domain));
    } else {
        lines.push(format!(
            "leave {path} as it is: it is there already, for {}",
            wish.domain
        ));
    }
    if running {
        lines.push("leave the server alone: it runs already".to_owned());
    } else if starts {
        lines.push(format!("run {}", Manager::System.line(units::SERVER, true)));
    } else {
        lines.push("not start the server: that is left to you".to_owned());
    }
    if running || starts {
        lines.push("print a join token, unless a device has joined".to_owned());
    }
    lines
}

/// Whether the daemon behind the socket answers.
async fn answers(cli: &Cli) -> bool {
    let status: Result<Value, _> = cli.api.get("/v1/status").await;
    status.is_ok()
}

/// Waits until the daemon that was just started answers.
async fn wait(cli: &Cli, unit: &'static str) -> Result<(), SetupError> {
    let asked = async {
        while !answers(cli).await {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    let silent = |_| SetupError::Silent {
        unit,
        socket: cli.api.socket().to_owned(),
    };
    tokio::time::timeout(ANSWER_WITHIN, asked)
        .await
        .map_err(silent)
}

/// Asks the person, unless they said yes on the command line.
fn confirm(io: &mut Io, yes: bool) -> Result<(), SetupError> {
    if yes {
        return Ok(());
    }
    if !io.in_is_terminal {
        return Err(SetupError::Unconfirmed);
    }
    io.hint("go on? [y/N]");
    let mut answer = String::new();
    let read = BufReader::new((&mut io.input).take(64)).read_line(&mut answer);
    let said = answer.trim().to_ascii_lowercase();
    if read.is_ok() && matches!(said.as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(SetupError::Declined)
    }
}

/// Writes a file whole or not at all.
fn put(path: &Path, text: &str) -> Result<(), SetupError> {
    let failed = |err| SetupError::Write {
        path: path.to_owned(),
        err,
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    make_folders(dir).map_err(failed)?;
    let mut new = tempfile::Builder::new()
        .prefix(".server-")
        .tempfile_in(dir)
        .map_err(failed)?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    // Nothing in it is secret, and the unit's account has to read it: the umask has no say.
    let mode = Permissions::from_mode(0o644);
    new.as_file().set_permissions(mode).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    // Somebody else's file is never replaced, not even one that came in this very moment.
    new.persist_noclobber(path)
        .map_err(|err| match err.error.kind() {
            io::ErrorKind::AlreadyExists => SetupError::InTheWay {
                path: path.to_owned(),
            },
            _ => failed(err.error),
        })?;
    Ok(())
}

/// Makes the folders that are not there, for the unit's account to enter whatever the umask is.
fn make_folders(dir: &Path) -> io::Result<()> {
    // The last ancestor of a relative path is empty: the folder that we are in.
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<_> = dir.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        match std::fs::create_dir(dir) {
            Ok(()) => std::fs::set_permissions(dir, Permissions::from_mode(0o755))?,
            // Made by somebody else this very moment, and so theirs.
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn by_hand(cli: &mut Cli, wish: &ServerWish, path: &Path) -> Result<(), CtlError> {
    cli.hint("now start it:");
    if wish.root == Path::new("/") {
        cli.hint("  wormkeyd server");
        cli.hint("and invite the first device:");
        cli.hint("  wormkeyctl server invite");
    } else {
        cli.hint(&format!("  wormkeyd server --config {}", path.display()));
        cli.hint("and invite the first device:");
        let socket = cli.api.socket().display().to_string();
        cli.hint(&format!("  wormkeyctl --socket {socket} server invite"));
    }
    Ok(())
}

/// An invite for a server that nobody has joined: the token stands alone on standard output.
async fn first_invite(cli: &mut Cli, wish: &ServerWish) -> Result<(), CtlError> {
    let devices: Value = cli
        .api
        .get("/v1/devices")
        .await
        .map_err(|err| cli.failed(err))?;
    let joined = devices["devices"].as_array().map_or(0, Vec::len);
    if joined > 0 {
        cli.hint(&format!(
            "{joined} devices have joined already; more with: wormkeyctl server invite"
        ));
        return Ok(());
    }
    server::invite(cli, wish.user.clone(), None, None).await
}
