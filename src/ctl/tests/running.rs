use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Shell;
use crate::admin::ApiError;
use crate::admin::testing::Daemon;
use crate::codes::Code;
use crate::ctl::io::Signal;

/// Between two looks at the file system.
const POLL: Duration = Duration::from_millis(5);

/// A port on which nothing listens, and nothing else can: the rest of the tests take ports as well.
struct Port {
    socket: Socket,
    number: u16,
}

fn free_port() -> Port {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let number = socket.local_addr().unwrap().as_socket().unwrap().port();
    Port { socket, number }
}

/// A command that says it has started, then ends only by a signal; its status tells by which.
fn patient(daemon: &Daemon) -> [String; 3] {
    let script = format!(
        "trap 'touch {}; exit 43' TERM; trap 'exit 44' INT; touch {}; while :; do sleep 0.02; done",
        daemon.dir.path().join("ended").display(),
        started(daemon).display()
    );
    ["sh".to_owned(), "-c".to_owned(), script]
}

fn started(daemon: &Daemon) -> std::path::PathBuf {
    daemon.dir.path().join("started")
}

/// Listens in the command's stead, once it has started.
async fn listen(daemon: &Daemon, port: &Port) {
    let started = async {
        while !started(daemon).exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    let started = tokio::time::timeout(Duration::from_secs(30), started).await;
    started.expect("the command starts");
    port.socket.listen(8).unwrap();
}

async fn run<S: AsRef<str>>(shell: Shell, port: u16, more: &[&str], command: &[S]) -> super::Ended {
    // As `wormkeyctl` does for itself. What is caught, a command gets as if nobody had touched it; what is ignored,
    // as in a script's background job, it would ignore as well.
    let _caught =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap();
    let port = port.to_string();
    let mut words = [&["run", "--port", &port], more, &["--"]].concat();
    words.extend(command.iter().map(AsRef::as_ref));
    shell.run_words(&words).await
}

#[tokio::test]
async fn the_tunnel_lives_as_long_as_the_command_and_its_status_is_ours() {
    for (signal, terminal, status) in [
        (Signal::Terminate, false, 43),
        (Signal::Interrupt, false, 44),
        (Signal::Hangup, false, 128 + 1),
    ] {
        let daemon = Daemon::client();
        let port = free_port();
        let mut shell = Shell::to(&daemon);
        shell.io.in_is_terminal = terminal;
        let (signals, out) = (shell.signals.clone(), shell.out.clone());
        let script = async {
            listen(&daemon, &port).await;
            out.shows("closes when").await;
            assert_eq!(daemon.fake.state().tunnels[0].state, "open");
            signals.send(signal).await.unwrap();
        };
        let command = patient(&daemon);
        let running = run(shell, port.number, &["--name", "app"], &command);
        let (done, ()) = tokio::join!(running, script);
        assert_eq!((done.exit, &*done.err), (status, "closed app\n"));
        let target = format!("→ http://localhost:{}, until", port.number);
        assert!(done.out.starts_with("https://app.t.example.com\n") && done.out.contains(&target));
        assert_eq!(daemon.fake.state().tunnels[0].state, "closed");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_terminals_ctrl_c_is_not_sent_twice() {
    let daemon = Daemon::client();
    let port = free_port();
    let mut shell = Shell::to(&daemon);
    shell.io.in_is_terminal = true;
    let (signals, out) = (shell.signals.clone(), shell.out.clone());
    let script = async {
        listen(&daemon, &port).await;
        out.shows("closes when").await;
        // Were the first one passed on, the command would end with 44.
        signals.send(Signal::Interrupt).await.unwrap();
        signals.send(Signal::Terminate).await.unwrap();
    };
    let command = patient(&daemon);
    let running = run(shell, port.number, &[], &command);
    let (done, ()) = tokio::join!(running, script);
    assert_eq!(done.exit, 43, "{}", done.err);
    daemon.stop().await;
}

#[tokio::test]
async fn a_command_that_ends_before_it_listens_opens_nothing() {
    let daemon = Daemon::client();
    let done = run(
        Shell::to(&daemon),
        free_port().number,
        &[],
        &["sh", "-c", "exit 7"],
    )
    .await;
    assert_eq!((done.exit, &*done.out), (7, ""));
    assert!(done.err.contains("before it listened"), "{}", done.err);
    assert!(daemon.fake.state().opened.is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn a_command_that_cannot_start_ends_as_in_a_shell() {
    let daemon = Daemon::client();
    let port = free_port();
    let done = run(
        Shell::to(&daemon),
        port.number,
        &[],
        &["no-such-command-here"],
    )
    .await;
    assert_eq!(done.exit, 127, "{}", done.err);
    assert!(
        done.err.contains("no-such-command-here cannot be started"),
        "{}",
        done.err
    );
    let done = run(Shell::to(&daemon), port.number, &[], &["/"]).await;
    assert_eq!(done.exit, 126, "{}", done.err);
    daemon.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_a_conflict_before_anything_is_started() {
    let daemon = Daemon::client();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let marker = daemon.dir.path().join("started");
    let touch = ["touch", marker.to_str().unwrap()];
    let done = run(Shell::to(&daemon), port, &[], &touch).await;
    assert_eq!(done.exit, 6, "{}", done.err);
    assert!(!marker.exists());
    daemon.stop().await;
}

#[tokio::test]
async fn a_port_that_stays_silent_ends_the_command() {
    let daemon = Daemon::client();
    let marker = daemon.dir.path().join("ended");
    let script = format!(
        "trap 'touch {}; exit 0' TERM; while :; do sleep 0.05; done",
        marker.display()
    );
    let quick = ["--wait-timeout", "200ms"];
    let done = run(
        Shell::to(&daemon),
        free_port().number,
        &quick,
        &["sh", "-c", &script],
    )
    .await;
    assert_eq!((done.exit, &*done.out), (8, ""));
    assert!(done.err.contains("within 200ms"), "{}", done.err);
    assert!(marker.exists(), "it was told to end, and waited for");
    daemon.stop().await;
}

#[tokio::test]
async fn a_tunnel_that_is_refused_ends_the_command() {
    let daemon = Daemon::client();
    let port = free_port();
    let ended = daemon.dir.path().join("ended");
    let mut calls = daemon.fake.calls.subscribe();
    let script = async {
        assert_eq!(calls.recv().await.unwrap(), "status");
        let refused = ApiError::new(Code::NameTaken, "app is taken");
        daemon.fake.state().refuse = Some(refused);
        listen(&daemon, &port).await;
    };
    let command = patient(&daemon);
    let running = run(
        Shell::to(&daemon),
        port.number,
        &["--name", "app"],
        &command,
    );
    let (done, ()) = tokio::join!(running, script);
    assert_eq!((done.exit, &*done.out), (6, ""), "{}", done.err);
    assert!(done.err.contains("app is taken"), "{}", done.err);
    assert!(
        ended.exists(),
        "the command was told to end, and waited for"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn with_json_a_run_prints_one_document() {
    let daemon = Daemon::client();
    let port = free_port();
    let shell = Shell::to(&daemon);
    let (signals, out) = (shell.signals.clone(), shell.out.clone());
    let script = async {
        listen(&daemon, &port).await;
        out.shows("\"slug\":\"app\"").await;
        signals.send(Signal::Terminate).await.unwrap();
    };
    let command = patient(&daemon);
    let running = run(shell, port.number, &["--name", "app", "--json"], &command);
    let (done, ()) = tokio::join!(running, script);
    assert_eq!((done.exit, done.out.lines().count()), (43, 1), "{done:?}");
    assert_eq!(daemon.fake.state().tunnels[0].state, "closed");
    daemon.stop().await;
}
