//! The command line's one definition: help, man page and completions are made from it. Values are
//! checked as they are read, so what comes out can be asked for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::ArgValueCandidates as Candidates;

use super::complete;
use super::policy_args::{PolicyFlags, SetArgs};
use crate::names::{Domain, Generation, ShareId, Slug, TunnelId};
use crate::times::{WallTime, parse_duration};

/// Shown under `--help` and in the man page.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("wormkeyctl join wkj_…", "enrol this device with a server"),
    (
        "wormkeyctl open 3000",
        "give the service on port 3000 a public address",
    ),
    (
        "wormkeyctl open 3000 --name blog --expires 30m",
        "under a name of its own, for half an hour",
    ),
    (
        "wormkeyctl open 3000 --auth --visitor-rate 10/s",
        "behind a password that is printed once, and slowed down",
    ),
    (
        "wormkeyctl set blog --allow 203.0.113.0/24",
        "from now on for one network only",
    ),
    (
        "wormkeyctl open tcp 22",
        "a public port that leads to this machine's SSH",
    ),
    (
        "wormkeyctl run --port 5173 -- npm run dev",
        "start a command, and close when it ends",
    ),
    ("wormkeyctl close blog", "end it"),
];

fn examples() -> String {
    let width = EXAMPLES.iter().map(|(line, _)| line.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut text = "Examples:\n".to_owned();
    for (line, what) in EXAMPLES {
        let pad = " ".repeat(width - line.chars().count());
        text.push_str(&format!("  {line}{pad}  {what}\n"));
    }
    text
}

/// Opens and closes tunnels: public addresses for local services
///
/// Speaks to a running wormkeyd over its Unix socket; the daemon owns the tunnels, so they stay when
/// this command returns.
#[derive(Debug, Parser)]
#[command(name = "wormkeyctl", version, max_term_width = 100, after_help = examples())]
#[command(subcommand_help_heading = "Commands")]
pub struct Args {
    /// The daemon's socket
    ///
    /// Without it: WORMKEY_SOCKET, else $XDG_RUNTIME_DIR/wormkey/client.sock if there, else the one in
    /// ~/.local/state/wormkey if there, else /run/wormkey/client.sock. The server commands use /run/wormkey/server.sock.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help_heading = "Options of every command"
    )]
    pub socket: Option<PathBuf>,
    /// Print one JSON document; errors are one, too, on standard error
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands of the client.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrol this device with a server
    Join {
        /// The join token, @FILE that holds it, or - for standard input
        #[arg(value_name = "TOKEN|@FILE|-")]
        token: String,
        /// Leave the present server first
        #[arg(long)]
        replace: bool,
        /// Have systemd start the client first, now and at each boot, or login for a client of one's own
        #[arg(long)]
        start: bool,
        /// With --start: do not ask, for scripts
        #[arg(long, short, requires = "start")]
        yes: bool,
    },
    /// Give up this device's tunnels and its enrolment
    Leave {
        /// Forget the device's key, too
        #[arg(long)]
        forget_key: bool,
    },
    /// Open a tunnel to a local service and print its address
    ///
    /// The same name and target again is the same tunnel, and no error; who may visit is then what this
    /// line says, if it says anything of it.
    Open(Box<OpenArgs>),
    /// Start a command, open a tunnel to its port, close it when the command ends
    ///
    /// Ends with the command's own exit status.
    Run(Box<RunArgs>),
    /// List the tunnels that live
    List {
        /// Also those that are over
        #[arg(long)]
        all: bool,
    },
    /// Show one tunnel
    Show {
        /// Its name or id
        #[arg(value_name = "SLUG", value_parser = tunnel_key, add = Candidates::new(complete::tunnels))]
        tunnel: String,
    },
    /// Change who may visit a tunnel, what it lets through, and how long it lives
    ///
    /// In force for the next visit; visits that it no longer lets through are cut. Each flag replaces the
    /// part that it names, and the rest stays. What has expired is not revived, and the life of a declared
    /// tunnel stands in client.toml. While the server is away nothing comes in and nothing is
    /// changed: exit 7.
    Set(Box<SetArgs>),
    /// Make a link that lets its holder into a tunnel for a while, and print it, this once
    ///
    /// The tunnel must ask for one (--share). A link never lets in more than the tunnel allows. While the
    /// server is away none can be made: exit 7.
    #[command(
        override_usage = "wormkeyctl share <SLUG> --expires <DURATION> [--uses <N>] [--method <METHOD>] [--path <PATTERN>]\n       \
                                wormkeyctl share <SLUG> --list\n       wormkeyctl share <SLUG> --revoke <SHARE>"
    )]
    Share(ShareArgs),
    /// Close a tunnel; remembered while the server is away
    #[command(override_usage = "wormkeyctl close <SLUG>|--all")]
    Close {
        /// Its name or id
        #[arg(value_name = "SLUG", value_parser = tunnel_key, required_unless_present = "all", add = Candidates::new(complete::tunnels))]
        tunnel: Option<String>,
        /// All that live
        #[arg(long, conflicts_with = "tunnel")]
        all: bool,
    },
    /// Show the last visits, and with -f those to come
    ///
    /// The client remembers the last 1024. With -f and --json each visit is a line of its own, one JSON
    /// object with event "visit"; a client that restarts is waited for, until a signal.
    Logs(LogsArgs),
    /// Show how the client stands
    Status,
    /// Look at all that a tunnel depends on, and say what to do
    ///
    /// The daemon, the server and the way to it, names, certificates, the clock, each tunnel's service, and
    /// each tunnel through its public name. Exits 0 when nothing fails, 3 without a daemon, 7 without a
    /// server, 8 when a service is not reachable, 1 for anything else that fails.
    Doctor,
    /// Show the log level, or change it for a while
    ///
    /// Nothing is restarted. When the time is over, the level of the configuration is in force again.
    LogLevel {
        /// error, warn, info, debug or trace, a filter such as info,wormkey::link=debug, or default
        level: Option<String>,
        /// For how long; 10m if absent, 24h at most
        #[arg(long = "for", value_name = "DURATION", value_parser = lasting, requires = "level")]
        lasts: Option<String>,
    },
    /// Make the client read its configuration again
    Reload,
    /// End the client in order: no new visits, and those in flight finish
    ///
    /// Its tunnels stay, and wait for it as after a lost link. A second drain, or a signal, ends it at once.
    Drain {
        /// How long visits in flight have to finish; 10s if absent
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        grace: Option<String>,
    },
    /// Turn a configuration of ngrok, frp or cloudflared into entries for client.toml
    ///
    /// Prints them, passwords (as files), address lists and path rules included, and says line by line what could
    /// not be carried over. A tunnel whose guard is lost, such as a login, is kept back as a comment.
    Import(ImportArgs),
    /// Commands for the server's operator
    Server {
        /// What to do.
        #[command(subcommand)]
        command: ServerCommand,
    },
    /// Write man pages or completions into a directory
    #[command(hide = true)]
    Generate {
        /// What to write
        #[arg(value_enum)]
        what: Generated,
        /// Into which directory
        dir: PathBuf,
    },
}

/// Commands of the server.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Make a join token and print it, this once
    Invite {
        /// Whom the device will belong to; made on first use; default if absent
        #[arg(long, value_name = "NAME", add = Candidates::new(complete::users))]
        user: Option<String>,
        /// How many devices may use it; 1 if absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        uses: Option<u32>,
        /// How long it works; 8h if absent
        #[arg(long, value_name = "DURATION", value_parser = lasting)]
        expires: Option<String>,
    },
    /// List users
    Users,
    /// List devices
    Devices,
    /// Revoke a device or an invite; cuts its link at once
    Revoke {
        /// A device's id or name, or an invite's id
        #[arg(add = Candidates::new(complete::devices))]
        what: String,
    },
    /// Keep a user, a device or a tunnel from everything, at once; its names stay
    Suspend {
        /// Its id or name
        #[arg(value_name = "USER|DEVICE|SLUG", add = Candidates::new(complete::anything))]
        what: String,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a user, a device or a tunnel work again
    Resume {
        /// Its id or name
        #[arg(value_name = "USER|DEVICE|SLUG", add = Candidates::new(complete::anything))]
        what: String,
    },
    /// List all tunnels
    Tunnels {
        /// Also those that are over
        #[arg(long)]
        all: bool,
    },
    /// Close anyone's tunnel
    Close {
        /// Its name or id
        #[arg(value_name = "SLUG", value_parser = tunnel_key, add = Candidates::new(complete::server_tunnels))]
        tunnel: String,
    },
    /// Show how the server stands, and how the first of its links do
    Status,
    /// Look at what visitors and links need on this side, and say what to do
    Doctor,
    /// List the links that live, and how they do
    Links {
        /// Go on after this one: its generation
        #[arg(long, value_name = "GENERATION", value_parser = generation)]
        after: Option<String>,
        /// Rows at most; 100 if absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
    },
    /// Show the log level, or change it for a while
    ///
    /// Nothing is restarted. When the time is over, the level of the configuration is in force again.
    LogLevel {
        /// error, warn, info, debug or trace, a filter such as info,wormkey::link=debug, or default
        level: Option<String>,
        /// For how long; 10m if absent, 24h at most
        #[arg(long = "for", value_name = "DURATION", value_parser = lasting, requires = "level")]
        lasts: Option<String>,
    },
    /// Make the server read its configuration again
    Reload,
    /// End the server in order: no new visits, and those in flight finish
    ///
    /// Clients are asked to come back when there is a server again. A second drain, or a signal, ends it at once.
    Drain {
        /// How long visits in flight have to finish; 30s if absent
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        grace: Option<String>,
    },
    /// Copy the server's database into a file, while it runs
    ///
    /// All that was acknowledged before is in it. It holds users, devices, tunnels, invites as hashes and
    /// the audit, and no secret; server.key is not in it, and belongs copied once and kept apart. The file
    /// is new, and for its owner alone. wormkeyd server restore puts it back.
    Backup {
        /// The file to write
        file: PathBuf,
    },
    /// Show who changed what
    Audit {
        /// Go on after this row
        #[arg(long, value_name = "SEQ")]
        after: Option<i64>,
        /// Rows at most; 100 if absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: Option<u32>,
        /// Only what is not older, such as 1h or 7d, or since a time such as 2026-01-31T12:00:00Z
        #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
        since: Option<String>,
        /// Only changes of this: an id, or the name of a tunnel, a device or a user
        #[arg(long, value_name = "ID|NAME", add = Candidates::new(complete::anything))]
        subject: Option<String>,
        /// Only what this one did: a uid, a device, a user, engine, newcomer or visitor
        #[arg(long, value_name = "WHO")]
        actor: Option<String>,
    },
}

/// `share`.
#[derive(Debug, ClapArgs)]
pub struct ShareArgs {
    /// The tunnel's name or id
    #[arg(value_name = "SLUG", value_parser = tunnel_key, add = Candidates::new(complete::tunnels))]
    pub tunnel: String,
    /// How long the link works, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = lasting, required_unless_present_any = ["list", "revoke"])]
    pub expires: Option<String>,
    /// How many visitors may open it; any number if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub uses: Option<u32>,
    /// Only for this method; may be given several times
    #[arg(long = "method", value_name = "METHOD")]
    pub methods: Vec<String>,
    /// Only for this path: * is one segment, /** all below; may be given several times
    #[arg(long = "path", value_name = "PATTERN", value_parser = path)]
    pub paths: Vec<String>,
    /// List the links that work
    #[arg(long, conflicts_with_all = ["expires", "uses", "methods", "paths", "revoke"])]
    pub list: bool,
    /// Withdraw a link; who came in with it is out
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with_all = ["expires", "uses", "methods", "paths"])]
    pub revoke: Option<String>,
}

/// What `generate` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Generated {
    /// wormkeyctl.1 and wormkey-errors.7.
    Man,
    /// For bash, zsh and fish.
    Completions,
}

/// `import`.
#[derive(Debug, ClapArgs)]
pub struct ImportArgs {
    /// ngrok.yml, frpc.toml or cloudflared's config.yml
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Whose file it is, when its content does not tell
    #[arg(long, value_enum, value_name = "TOOL")]
    pub from: Option<Origin>,
    /// Put the entries into a file of their own in client.d, beside client.toml
    #[arg(long)]
    pub write: bool,
    /// The client's configuration, when the client is started with --config, too
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

/// Whose configuration `import` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Origin {
    /// ngrok.yml.
    Ngrok,
    /// frpc.toml.
    Frp,
    /// cloudflared's config.yml.
    Cloudflared,
}

impl Origin {
    /// The tool's name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ngrok => "ngrok",
            Self::Frp => "frp",
            Self::Cloudflared => "cloudflared",
        }
    }
}

/// `logs`.
#[derive(Debug, ClapArgs)]
pub struct LogsArgs {
    /// Of this tunnel only; its name or id
    #[arg(value_name = "SLUG", value_parser = tunnel_key, add = Candidates::new(complete::tunnels))]
    pub tunnel: Option<String>,
    /// Stay, and show visits as they end
    #[arg(short, long)]
    pub follow: bool,
    /// Visits at most of those that are remembered; 100 if absent
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: Option<u32>,
}

/// `open`.
#[derive(Debug, ClapArgs)]
pub struct OpenArgs {
    /// Where it leads: 3000, host:port, http://…, https://…, https+insecure://…, unix:/path,
    /// file:/dir, tcp://…, udp://… or tls://…; or two words such as http 3000 or tcp 22
    #[arg(required = true, num_args = 1..=2, value_name = "TARGET")]
    pub target: Vec<String>,
    /// Print what the flags about visitors come to, without secrets, and do nothing
    #[arg(long)]
    pub print_policy: bool,
    /// How it is opened.
    #[command(flatten)]
    pub flags: OpenFlags,
}

/// `run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// The port on which the command will listen
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// How the tunnel is opened.
    #[command(flatten)]
    pub flags: OpenFlags,
    /// The command and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// What `open` and `run` share.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct OpenFlags {
    /// The tunnel's name, the first label of its address; one is made up if absent
    #[arg(long, visible_alias = "subdomain", value_name = "SLUG", value_parser = slug)]
    pub name: Option<String>,
    /// When it ends, counted from now, such as 30m, 8h or 7d; never if absent
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    pub expires: Option<String>,
    /// Close after this long without a visit, or never; the server's setting if absent
    #[arg(long, value_name = "DURATION", value_parser = lasting_or_never)]
    pub idle: Option<String>,
    /// The Host header the service sees: auto, keep, rewrite or a value
    #[arg(long, value_name = "MODE", value_parser = host)]
    pub host: Option<String>,
    /// How long visits wait while this device is away; the server's setting if absent
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub hold: Option<String>,
    /// Open only when this path of the service answers below 500
    #[arg(long, value_name = "PATH", value_parser = path)]
    pub wait_for: Option<String>,
    /// How long to wait for the service; 60s if absent, and 10m for run's port
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    pub wait_timeout: Option<String>,
    /// A label, for people; may be given 16 times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// The public port wished for, of tcp and udp; one is chosen if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub public_port: Option<u16>,
    /// A domain of your own that shall lead to it, such as app.example.org or *.app.example.org; may be given
    /// several times. The TXT record that proves it is shown, and looked for until it is there
    #[arg(long = "domain", value_name = "DOMAIN", value_parser = domain)]
    pub domains: Vec<String>,
    /// Open it even if it should not be public, such as a database without a password
    #[arg(long)]
    pub yes_expose: bool,
    /// Tell the service who visits, with a PROXY header before each connection; tcp and tls only
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v2"])]
    pub proxy_protocol: Option<String>,
    /// Stay, show visits as they end, and close the tunnel on Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Show the address as a QR code, on standard error
    #[arg(long)]
    pub qr: bool,
    /// Who may visit.
    #[command(flatten)]
    pub policy: PolicyFlags,
}

fn slug(text: &str) -> Result<String, String> {
    Slug::parse(text)
        .map(|slug| slug.to_string())
        .map_err(|err| err.to_string())
}

pub(super) fn domain(text: &str) -> Result<String, String> {
    Domain::parse(text)
        .map(|domain| domain.to_string())
        .map_err(|err| err.to_string())
}

pub(super) fn tunnel_key(text: &str) -> Result<String, String> {
    if text.parse::<TunnelId>().is_ok() {
        return Ok(text.to_owned());
    }
    slug(text)
}

fn share(text: &str) -> Result<String, String> {
    text.parse::<ShareId>()
        .map(|_| text.to_owned())
        .map_err(|err| err.to_string())
}

fn generation(text: &str) -> Result<String, String> {
    text.parse::<Generation>()
        .map(|_| text.to_owned())
        .map_err(|err| err.to_string())
}

pub(super) fn duration(text: &str) -> Result<String, String> {
    parse_duration(text)
        .map(|_| text.to_owned())
        .map_err(|err| err.to_string())
}

fn since(text: &str) -> Result<String, String> {
    match WallTime::parse_rfc3339(text) {
        Some(_) => Ok(text.to_owned()),
        None => lasting(text).map_err(|err| format!("{err} (or a time: 2026-01-31T12:00:00Z)")),
    }
}

fn lasting(text: &str) -> Result<String, String> {
    let read = parse_duration(text).map_err(|err| err.to_string())?;
    if read.is_zero() {
        return Err("that would be over at once; leave it out for the default".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn lasting_or_never(text: &str) -> Result<String, String> {
    if text == "never" {
        return Ok(text.to_owned());
    }
    lasting(text).map_err(|err| format!("{err} (or write never)"))
}

fn path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("a path starts with /; write /health, for example".to_owned());
    }
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("spaces and control characters cannot stand in a path; write %20".to_owned());
    }
    Ok(text.to_owned())
}

/// A mode, or what may stand in a Host header.
fn host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("write auto, keep, rewrite, or a host such as app.localhost:3000".to_owned())
    }
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is key=value, such as team=web".to_owned()),
    }
}
