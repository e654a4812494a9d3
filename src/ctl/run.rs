//! `run`: a command and its tunnel live and end together. Not a supervisor: the command is started
//! once, and its exit status is ours.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::args::{OpenFlags, RunArgs};
use super::ask::open_ask;
use super::error::CtlError;
use super::io::{Signal, Signals};
use super::open::{announce, ask_unless, compiled};
use super::text::ClosedBy;
use super::watch::{Seen, Watch};
use super::{Cli, watch};
use crate::admin::types::{ClientStatusJson, OpenAsk, TunnelJson};
use crate::times::{parse_duration, show_duration};

/// Commands compile before they listen.
const PORT_DEADLINE: Duration = Duration::from_secs(600);
const PORT_POLL: Duration = Duration::from_millis(100);
/// A connection to loopback that takes longer is none.
const CONNECT: Duration = Duration::from_secs(1);
/// What a command gets between SIGTERM and SIGKILL when its tunnel cannot be opened.
const GRACE: Duration = Duration::from_secs(10);

pub(super) async fn run(cli: &mut Cli, args: RunArgs) -> Result<u8, CtlError> {
    let mut ask = open_ask(&[args.port.to_string()], &args.flags, &cli.io.current_dir)?;
    let made = compiled(cli, &mut ask, &args.flags)?.made;
    let within = match &args.flags.wait_timeout {
        Some(text) => parse_duration(text).unwrap_or(PORT_DEADLINE),
        None => PORT_DEADLINE,
    };
    // What would fail afterwards fails before anything is started.
    let _: ClientStatusJson = cli
        .api
        .get("/v1/status")
        .await
        .map_err(|err| cli.failed(err))?;
    if answers(args.port).await {
        return Err(CtlError::PortTaken { port: args.port });
    }
    let signals = Signals::listen(&mut cli.io).map_err(CtlError::System)?;
    let mut child = Running::start(cli, &args, signals)?;
    let waited = child.during(listening(args.port, within)).await?;
    match waited {
        During::Ended(status) => {
            cli.hint(&format!(
                "the command ended before it listened on port {}",
                args.port
            ));
            return Ok(exit_code(status));
        }
        During::Done(Ok(())) => {}
        During::Done(Err(err)) => {
            child.terminate().await;
            return Err(err);
        }
    }
    let opened = open(cli, &ask, &args.flags, &mut child).await;
    let (tunnel, watch) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return Ok(exit_code(status)),
        Err(err) => {
            child.terminate().await;
            return Err(err);
        }
    };
    // When nobody reads our output any more, the command goes on all the same.
    if let Err(err) = announce(cli, &tunnel, made.as_ref(), &args.flags, ClosedBy::Child) {
        cli.report(&err);
    }
    let status = serve(cli, &mut child, watch).await;
    close(cli, &tunnel, args.flags.watch).await;
    status.map(exit_code)
}

/// The tunnel, or the status of a command that ended before it was there.
async fn open(
    cli: &mut Cli,
    ask: &OpenAsk,
    flags: &OpenFlags,
    child: &mut Running,
) -> Result<Result<(TunnelJson, Option<Watch>), ExitStatus>, CtlError> {
    // Subscribed before it opens, so that the first visit is seen.
    let events = if flags.watch {
        Some(cli.api.events(None).await.map_err(|err| cli.failed(err))?)
    } else {
        None
    };
    match ask_unless(cli, ask, child.ended()).await? {
        Ok(tunnel) => {
            let watch = events.map(|events| Watch::new(cli, &tunnel, events));
            Ok(Ok((tunnel, watch)))
        }
        Err(ended) => Ok(Err(ended?)),
    }
}

/// The command's status stands, whatever becomes of the tunnel; a failure to close is told.
async fn close(cli: &mut Cli, tunnel: &TunnelJson, watched: bool) {
    if let Err(err) = watch::close(cli, tunnel, watched).await {
        cli.report(&err);
    }
}

/// Until the command ends.
async fn serve(
    cli: &mut Cli,
    child: &mut Running,
    mut watch: Option<Watch>,
) -> Result<ExitStatus, CtlError> {
    loop {
        let next = async {
            match &mut watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        match child.during(next).await? {
            During::Ended(status) => return Ok(status),
            During::Done(Seen::Event(event)) => {
                let over = watch.as_mut().map(|watch| watch.show(cli, &event));
                if !matches!(over, Some(Ok(false))) {
                    watch = None;
                }
            }
            During::Done(Seen::Away) => cli.hint("the daemon is away; waiting for it"),
            During::Done(Seen::Back) => cli.hint("the daemon is back"),
            During::Done(Seen::Gone) => {
                cli.hint("the tunnel is over; the command goes on");
                watch = None;
            }
        }
    }
}

/// What came first.
enum During<T> {
    Done(T),
    Ended(ExitStatus),
}

struct Running {
    child: Child,
    signals: Signals,
    /// A terminal sends Ctrl-C to the command by itself; twice would be "really?" to some.
    terminal: bool,
}

impl Running {
    fn start(cli: &Cli, args: &RunArgs, signals: Signals) -> Result<Self, CtlError> {
        let (program, rest) = args
            .command
            .split_first()
            .expect("the command line wants at least one word");
        let mut command = Command::new(program);
        command.args(rest).kill_on_drop(true);
        if cli.json {
            // Standard output is for our one document.
            let stderr = std::io::stderr().as_fd().try_clone_to_owned();
            command.stdout(Stdio::from(stderr.map_err(CtlError::System)?));
        }
        let child = command.spawn().map_err(|err| CtlError::Start {
            command: program.to_string_lossy().into_owned(),
            err,
        })?;
        Ok(Self {
            child,
            signals,
            terminal: cli.io.in_is_terminal,
        })
    }

    /// Runs `work` while the command runs, and passes signals on to it meanwhile.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<During<T>, CtlError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                signal = self.signals.next() => self.forward(signal),
                status = self.child.wait() => {
                    return status.map(During::Ended).map_err(CtlError::System);
                }
                done = &mut work => return Ok(During::Done(done)),
            }
        }
    }

    async fn ended(&mut self) -> Result<ExitStatus, CtlError> {
        match self.during(std::future::pending::<Infallible>()).await? {
            During::Ended(status) => Ok(status),
            During::Done(never) => match never {},
        }
    }

    fn forward(&self, received: Signal) {
        let passed = match received {
            Signal::Interrupt if self.terminal => return,
            Signal::Interrupt => signal::Signal::SIGINT,
            Signal::Terminate => signal::Signal::SIGTERM,
            Signal::Hangup => signal::Signal::SIGHUP,
        };
        self.send(passed);
    }

    fn send(&self, signal: signal::Signal) {
        // No id: it has been waited for, and the number may be another's by now.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    async fn terminate(&mut self) {
        self.send(signal::Signal::SIGTERM);
        if tokio::time::timeout(GRACE, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

/// As shells report it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

async fn listening(port: u16, within: Duration) -> Result<(), CtlError> {
    let answered = async {
        while !answers(port).await {
            tokio::time::sleep(PORT_POLL).await;
        }
    };
    tokio::time::timeout(within, answered)
        .await
        .map_err(|_| CtlError::PortSilent {
            port,
            within: show_duration(within),
        })
}

/// Whether something listens on either loopback family.
async fn answers(port: u16) -> bool {
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
        if matches!(connected, Ok(Ok(_))) {
            return true;
        }
    }
    false
}
