//! Real daemons for tests: a server and clients with state of their own, on loopback, port 0. Readiness
//! comes from the daemons themselves (`READY=1`), ends from their exit; nothing sleeps to wait.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The most any single step may take; a test that hits it has found something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The tunnel domain of all tests.
pub(crate) const DOMAIN: &str = "t.wormkey.test";

/// A daemon that runs, or ran.
pub(crate) struct Daemon {
    child: Option<Child>,
    role: &'static str,
    config: PathBuf,
    dir: PathBuf,
    socket: PathBuf,
    starts: u32,
}

impl Daemon {
    fn new(role: &'static str, dir: &Path, config: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let file = dir.join(format!("{role}.toml"));
        std::fs::write(&file, config).unwrap();
        let socket = dir.join(format!("{role}.sock"));
        Self {
            child: None,
            role,
            config: file,
            dir: dir.to_owned(),
            socket,
            starts: 0,
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn config_file(&self) -> &Path {
        &self.config
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn command(&self) -> Command {
        self.command_by(&[])
    }

    /// The same, started by another program.
    pub(crate) fn command_by(&self, starter: &[&str]) -> Command {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let mut line = starter.to_vec();
        line.push(env!("CARGO_BIN_EXE_wormkeyd"));
        let mut command = Command::new(line[0]);
        command
            .args(&line[1..])
            .arg(self.role)
            .arg("--config")
            .arg(&self.config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        command.env_remove("JOURNAL_STREAM");
        command
    }

    /// Starts it and waits until it says that it is ready.
    pub(crate) async fn start(&mut self) {
        self.starts += 1;
        let path = self.dir.join(format!("notify-{}", self.starts));
        let notify = UnixDatagram::bind(&path).unwrap();
        let mut child = self.command().env("NOTIFY_SOCKET", &path).spawn().unwrap();
        let ready = async {
            let mut buffer = [0u8; 256];
            loop {
                let n = notify.recv(&mut buffer).await.unwrap();
                if String::from_utf8_lossy(&buffer[..n]).contains("READY=1") {
                    return;
                }
            }
        };
        tokio::select! {
            () = ready => {}
            status = child.wait() => panic!("{} ended with {status:?} before it was ready:\n{}", self.role, self.log()),
            () = tokio::time::sleep(PATIENCE) => panic!("{} is not ready:\n{}", self.role, self.log()),
        }
        self.child = Some(child);
    }

    /// It was started by somebody else.
    pub(crate) fn adopt(&mut self, child: Child) {
        self.child = Some(child);
    }

    /// Starts it as a service with a watchdog; all that it tells systemd from then on.
    pub(crate) async fn start_watched(&mut self, patience: Duration) -> Told {
        self.starts += 1;
        let path = self.dir.join(format!("notify-{}", self.starts));
        let mut told = Told(UnixDatagram::bind(&path).unwrap());
        let usec = patience.as_micros().to_string();
        let mut command = self.command();
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", usec)
            .env_remove("WATCHDOG_PID");
        self.child = Some(command.spawn().unwrap());
        timeout(PATIENCE, told.until("READY=1"))
            .await
            .unwrap_or_else(|_| panic!("{} is not ready:\n{}", self.role, self.log()));
        told
    }

    /// Runs the program once more beside it, with more on its command line.
    pub(crate) async fn run_with(&self, args: &[&str]) -> (ExitStatus, String) {
        let mut command = self.command();
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = timeout(PATIENCE, command.output())
            .await
            .expect("it ends by itself")
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&said).into_owned())
    }

    /// Starts one that is expected to give up: its exit status and what it said.
    pub(crate) async fn start_in_vain(&mut self) -> (ExitStatus, String) {
        let before = self.log().len();
        let mut child = self.command().spawn().unwrap();
        let status = timeout(PATIENCE, child.wait())
            .await
            .expect("it ends by itself")
            .unwrap();
        (status, self.log()[before..].to_owned())
    }

    pub(crate) fn pid(&self) -> Pid {
        let id = self
            .child
            .as_ref()
            .and_then(Child::id)
            .expect("the daemon runs");
        Pid::from_raw(i32::try_from(id).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        timeout(PATIENCE, child.wait())
            .await
            .expect("the daemon ends")
            .unwrap()
    }

    /// SIGKILL, as a crash does it.
    pub(crate) async fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    /// SIGTERM, as systemd does it.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }
}

/// What a daemon tells systemd.
pub(crate) struct Told(UnixDatagram);

impl Told {
    /// The next message that holds this.
    pub(crate) async fn until(&mut self, what: &str) -> String {
        let heard = async {
            let mut buffer = [0u8; 1024];
            loop {
                let n = self.0.recv(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                if text.contains(what) {
                    return text;
                }
            }
        };
        // In all: a daemon that is well goes on telling.
        let heard = timeout(PATIENCE, heard).await;
        heard.unwrap_or_else(|_| panic!("{what} is waited for, and is not told"))
    }
}

/// What `wormkeyctl` said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The JSON document on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("no JSON on stdout ({e}): {self:?}"))
    }

    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// Runs `wormkeyctl` against a socket.
pub(crate) async fn ctl(socket: &Path, args: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wormkeyctl"));
    command
        .arg("--socket")
        .arg(socket)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE * 2, command.output())
        .await
        .expect("wormkeyctl answers")
        .unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A server, its visitors' CA, and a place for clients.
pub(crate) struct World {
    pub(crate) server: Daemon,
    pub(crate) ca: crate::visitor::Ca,
    pub(crate) addr: SocketAddr,
    server_toml: String,
    clients: u32,
    dir: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// With more in server.toml (whole tables).
    pub(crate) async fn with(more: &str) -> Self {
        Self::with_listen(DOMAIN, "", more).await
    }

    /// Under another domain.
    pub(crate) async fn at(domain: &str, more: &str) -> Self {
        Self::with_listen(domain, "", more).await
    }

    /// With a range of public ports of its own.
    pub(crate) async fn with_ports() -> Self {
        static WORLDS: AtomicU16 = AtomicU16::new(0);
        let world = WORLDS.fetch_add(1, Ordering::Relaxed);
        // Below the ports that the system gives to connections; other processes get other ranges.
        let process = u16::try_from(std::process::id() % 30).unwrap();
        let first = 20_000 + process * 400 + world % 20 * 20;
        let ports = format!("tcp_ports = \"{first}-{}\"\n", first + 19);
        Self::with_listen(DOMAIN, &ports, "").await
    }

    /// With more lines in `[listen]`, too.
    async fn with_listen(domain: &str, listen: &str, more: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("wormkey-it-")
            .tempdir()
            .unwrap();
        let ca = crate::visitor::Ca::new(dir.path(), domain);
        let base = dir.path().join("server");
        let server_toml = format!(
            "domain = \"{domain}\"\n\
             [listen]\nhttps = \"127.0.0.1:PORT\"\nhttp = \"off\"\n{listen}\
             [tls]\nmode = \"files\"\ncert = {cert:?}\nkey = {key:?}\n\
             [state]\ndir = {state:?}\n[admin]\nsocket = {socket:?}\n{more}\n",
            cert = ca.leaf_file(),
            key = ca.key_file(),
            state = base.join("state"),
            socket = base.join("server.sock"),
        );
        // Quick, so that an idle client notices a restart within a second.
        let server_toml = match server_toml.contains("[link]") {
            true => server_toml,
            false => server_toml + "[link]\nkeep_alive = \"1s\"\n",
        };
        let mut server = Daemon::new("server", &base, &server_toml.replace("PORT", "0"));
        server.start().await;
        let status = ctl(server.socket(), &["--json", "server", "status"])
            .await
            .ok()
            .json();
        let addr: SocketAddr = status["listen"]["https"].as_str().unwrap().parse().unwrap();
        // From now on on the same port, as a real server is.
        std::fs::write(
            server.config_file(),
            server_toml.replace("PORT", &addr.port().to_string()),
        )
        .unwrap();
        Self {
            server,
            ca,
            addr,
            server_toml,
            clients: 0,
            dir,
        }
    }

    /// First and last of the public ports.
    pub(crate) fn ports(&self) -> (u16, u16) {
        let (_, rest) = self.server_toml.split_once("tcp_ports = \"").unwrap();
        let (range, _) = rest.split_once('"').unwrap();
        let (first, last) = range.split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    }

    /// What stands in server.toml, with more behind it.
    pub(crate) fn rewrite_server(&self, edit: impl Fn(String) -> String) {
        let text = self
            .server_toml
            .replace("PORT", &self.addr.port().to_string());
        std::fs::write(self.server.config_file(), edit(text)).unwrap();
    }

    pub(crate) async fn server_ctl(&self, args: &[&str]) -> Said {
        let mut all = vec!["--json", "server"];
        all.extend(args);
        ctl(self.server.socket(), &all).await
    }

    /// A client that runs and has not joined.
    pub(crate) async fn client(&mut self) -> Daemon {
        self.client_with("").await
    }

    /// With more in client.toml (whole tables).
    pub(crate) async fn client_with(&mut self, more: &str) -> Daemon {
        self.clients += 1;
        let base = self.dir.path().join(format!("client{}", self.clients));
        let config = format!(
            "[state]\ndir = {state:?}\n[admin]\nsocket = {socket:?}\n[link]\nkeep_alive = \"1s\"\n{more}\n",
            state = base.join("state"),
            socket = base.join("client.sock"),
        );
        let mut client = Daemon::new("client", &base, &config);
        client.start().await;
        client
    }

    pub(crate) async fn invite(&self, args: &[&str]) -> String {
        let mut all = vec!["invite"];
        all.extend(args);
        self.server_ctl(&all).await.ok().json()["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// A client that has joined and whose link is up.
    pub(crate) async fn joined(&mut self) -> Daemon {
        let client = self.client().await;
        self.join(&client).await;
        client
    }

    pub(crate) async fn join(&self, client: &Daemon) {
        let token = self.invite(&[]).await;
        ctl(client.socket(), &["join", &token]).await.ok();
    }

    /// A visitor's view of one name.
    pub(crate) fn visitor(&self, slug: &str) -> crate::visitor::Visitor {
        crate::visitor::Visitor::new(&self.ca, self.addr, &format!("{slug}.{DOMAIN}"))
    }
}

/// Opens a tunnel; the JSON object that `open` prints.
pub(crate) async fn open(client: &Daemon, args: &[&str]) -> Value {
    let mut all = vec!["--json", "open"];
    all.extend(args);
    ctl(client.socket(), &all).await.ok().json()
}

/// Tries until the outcome is as wanted, for things that happen by themselves; the events are a
/// daemon's own, so there is nothing else to wait on. Panics when the patience is over.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
