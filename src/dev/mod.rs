//! `wormkeyd dev`: server and client in one process on loopback, with a CA of its own and state that
//! goes away with it. The same roles as in earnest; only their settings are made here.

mod ca;
mod sample;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::admin::types::{InviteAsk, JoinAsk, OpenAsk, TunnelJson};
use crate::admin::{Caller, ClientBackend as _, ServerBackend as _};
use crate::client::Running;
use crate::config::{ClientConfig, ServerConfig};
use crate::names::Target;
use crate::server::{Options, Server};
use crate::tasks::Tasks;

/// How long visits in flight may take to finish at Ctrl-C.
const GRACE: Duration = Duration::from_secs(2);

/// What `wormkeyd dev` was asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where the tunnel leads; none = the built-in sample page.
    pub target: Option<Target>,
    /// The port visitors come to; 0 = any.
    pub port: u16,
}

/// Runs until Ctrl-C. Writes the address to `out` once it works.
pub async fn run(wish: Wish, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("wormkey-dev-")
        .tempdir()
        .context("making a temporary directory")?;
    let tasks = Tasks::new();
    let outcome = serve(&wish, dir.path(), &tasks, out).await;
    tasks.shutdown(GRACE).await;
    dir.close().context("removing the temporary directory")?;
    outcome
}

async fn serve(
    wish: &Wish,
    dir: &Path,
    tasks: &Tasks,
    out: &mut (dyn Write + Send),
) -> anyhow::Result<()> {
    let ca = Arc::new(ca::DevCa::new().context("making a certificate authority")?);
    let ca_file = dir.join("ca.pem");
    std::fs::write(&ca_file, ca.pem()).context("writing the CA certificate")?;
    let options = Options {
        certificates: Some(ca),
        // A reload reads what we wrote, not what the system's own daemon has.
        config_path: Some(dir.join("server.toml")),
        ..Options::default()
    };
    let server = Server::start(server_config(dir, wish.port)?, options)
        .await
        .map_err(|e| hint_port(e, wish.port))?;
    let client = match Running::start(
        client_config(dir)?,
        Some(dir.join("client.toml")),
        vec![server.https_addr()],
    )
    .await
    {
        Ok(client) => client,
        Err(e) => {
            server.stop().await;
            return Err(e);
        }
    };
    let failed = either(tasks, server.failed(), client.failed());
    let outcome = async {
        let target = match &wish.target {
            Some(target) => target.clone(),
            None => sample::serve(tasks)
                .await
                .context("starting the sample page")?,
        };
        let tunnel = open(&server, &client, &target).await?;
        announce(out, &tunnel, wish.target.is_some(), &ca_file)?;
        let drains = crate::supervise::Drains::new();
        let drain = |grace| server.drain(grace);
        crate::supervise::until_stopped(&failed, &drains, || async {}, (GRACE, drain)).await
    }
    .await;
    match &outcome {
        Ok(()) => {
            client.stop().await;
            server.stop().await;
        }
        Err(_) => drop(tokio::join!(client.fail(), server.fail())),
    }
    outcome
}

/// Fires when either role has lost a part without which it is no use.
fn either(tasks: &Tasks, one: CancellationToken, other: CancellationToken) -> CancellationToken {
    let (failed, stop) = (CancellationToken::new(), tasks.stopped());
    let fired = failed.clone();
    tasks.spawn("watch both", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = one.cancelled() => fired.cancel(),
            () = other.cancelled() => fired.cancel(),
        }
    });
    failed
}

/// Invite, join, open: what a person does with three commands.
async fn open(server: &Server, client: &Running, target: &Target) -> anyhow::Result<TunnelJson> {
    let me = Caller {
        uid: nix::unistd::getuid().as_raw(),
        pid: None,
    };
    let invite = server.backend.invite(me, InviteAsk::default()).await?;
    client
        .backend
        .join(
            me,
            JoinAsk {
                token: invite.token,
                replace: false,
            },
        )
        .await?;
    let ask = OpenAsk {
        target: target.to_string(),
        // On loopback nothing becomes public.
        yes_expose: true,
        ..OpenAsk::default()
    };
    let (tunnel, _) = client.backend.open(me, ask).await?;
    Ok(tunnel)
}

fn announce(
    out: &mut dyn Write,
    tunnel: &TunnelJson,
    given: bool,
    ca: &Path,
) -> anyhow::Result<()> {
    let url = tunnel.url.as_deref().unwrap_or_default();
    let target = if given {
        tunnel.target.as_deref().unwrap_or_default()
    } else {
        "a built-in page that shows your visit"
    };
    writeln!(out, "{url}")?;
    writeln!(out, "  → {target}, on this machine only, until Ctrl-C")?;
    writeln!(out, "  curl --cacert {} {url}/", ca.display())?;
    for warning in &tunnel.warnings {
        writeln!(out, "  note: {warning}")?;
    }
    out.flush().context("writing the address")
}

fn hint_port(e: anyhow::Error, port: u16) -> anyhow::Error {
    let in_use = e.chain().filter_map(|c| c.downcast_ref::<std::io::Error>());
    let taken = in_use
        .map(std::io::Error::kind)
        .any(|k| k == std::io::ErrorKind::AddrInUse);
    if taken {
        e.context(format!("port {port} is taken; choose another with --port"))
    } else {
        e
    }
}

/// Settings go the way every setting goes: through a file, so that `dev` is no second way to be configured.
fn server_config(dir: &Path, port: u16) -> anyhow::Result<ServerConfig> {
    let file = dir.join("server.toml");
    let text = format!(
        "domain = \"localhost\"\n\
         [listen]\nhttps = \"127.0.0.1:{port}\"\nhttp = \"off\"\nadvertise = [\"127.0.0.1:{port}\"]\n\
         [state]\ndir = {state:?}\n[admin]\nsocket = {socket:?}\n",
        state = dir.join("server"),
        socket = dir.join("server.sock"),
    );
    std::fs::write(&file, text).context("writing server.toml")?;
    Ok(ServerConfig::load(Some(&file))?)
}

fn client_config(dir: &Path) -> anyhow::Result<ClientConfig> {
    let file = dir.join("client.toml");
    // A developer's own files and sockets may be shown: the process is theirs and ends with them.
    let text = format!(
        "[state]\ndir = {state:?}\n[admin]\nsocket = {socket:?}\n[origins]\nfiles = [\"/\"]\nunix = [\"/**\"]\n",
        state = dir.join("client"),
        socket = dir.join("client.sock"),
    );
    std::fs::write(&file, text).context("writing client.toml")?;
    Ok(ClientConfig::load(Some(&file))?)
}
