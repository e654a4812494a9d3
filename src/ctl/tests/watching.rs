use super::{Gone, Shell, ended};
use crate::admin::testing::{Daemon, tunnel, visit};
use crate::admin::types::{EventJson, LinkJson};
use crate::ctl::io::Signal;

fn link(state: &str) -> EventJson {
    EventJson::Link(LinkJson {
        state: state.to_owned(),
        last_error: (state != "up").then(|| "timed out".to_owned()),
        ..LinkJson::default()
    })
}

#[tokio::test]
async fn visits_are_shown_as_they_end_and_ctrl_c_closes_the_tunnel() {
    let daemon = Daemon::client();
    let shell = Shell::to(&daemon);
    let (signals, out) = (shell.signals.clone(), shell.out.clone());
    let script = async {
        out.shows("Ctrl-C").await;
        daemon.fake.emit(visit("another", "/not-ours"));
        daemon.fake.emit(visit("quiet-lime-82", "/"));
        let mut failed = visit("quiet-lime-82", "/down\x1b[2J");
        if let EventJson::Visit(failed) = &mut failed {
            (failed.status, failed.error) = (Some(502), Some("origin_unreachable".to_owned()));
            failed.millis = 61_000;
        }
        daemon.fake.emit(link("connecting"));
        daemon.fake.emit(link("up"));
        daemon.fake.emit(failed);
        out.shows("/down").await;
        signals.send(Signal::Interrupt).await.unwrap();
    };
    let (done, ()) = tokio::join!(shell.run("open 3000 --watch"), script);
    let out = "https://quiet-lime-82.t.example.com\n  \
               → http://localhost:3000, until you close it, or 1d without a visit\n  \
               close it with: Ctrl-C\n\
               22:13:20  GET     /  200  12ms\n\
               22:13:20  GET     /down\\u{1b}[2J  502  1m 1s  origin_unreachable\n";
    let err = "the server is away (timed out); visits wait, then get 502\n\
               the server is back\n\
               closed quiet-lime-82\n";
    assert_eq!(done, ended(0, out, err));
    assert_eq!(daemon.fake.state().tunnels[0].state, "closed");
    daemon.watched_by(0).await;
    daemon.stop().await;
}

#[tokio::test]
async fn with_json_each_event_is_one_line() {
    let daemon = Daemon::client();
    let shell = Shell::to(&daemon);
    let (signals, out) = (shell.signals.clone(), shell.out.clone());
    let script = async {
        out.shows("\n").await;
        daemon.fake.emit(visit("quiet-lime-82", "/"));
        out.shows("\"visit\"").await;
        signals.send(Signal::Terminate).await.unwrap();
    };
    let (done, ()) = tokio::join!(shell.run("open 3000 --watch --json"), script);
    assert_eq!((done.exit, &*done.err), (0, ""));
    let lines: Vec<serde_json::Value> = done
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["slug"], "quiet-lime-82");
    assert_eq!(
        (&lines[1]["event"], &lines[1]["path"]),
        (&"visit".into(), &"/".into())
    );
    assert_eq!(
        (&lines[2]["event"], &lines[2]["state"]),
        (&"tunnel".into(), &"closed".into())
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_tunnel_that_ends_by_itself_ends_the_watch() {
    let daemon = Daemon::client();
    let shell = Shell::to(&daemon);
    let out = shell.out.clone();
    let script = async {
        out.shows("Ctrl-C").await;
        let mut over = tunnel(1, "quiet-lime-82");
        over.state = "expired".to_owned();
        daemon.fake.emit(EventJson::Tunnel(Box::new(over)));
    };
    let (done, ()) = tokio::join!(shell.run("open 3000 --watch"), script);
    assert_eq!((done.exit, &*done.err), (0, "quiet-lime-82 is expired\n"));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_signal_while_the_answer_is_on_its_way_closes_what_was_opened() {
    let daemon = Daemon::client();
    daemon.fake.state().delay = std::time::Duration::from_millis(500);
    let mut calls = daemon.fake.calls.subscribe();
    let shell = Shell::to(&daemon);
    let signals = shell.signals.clone();
    let script = async {
        assert_eq!(calls.recv().await.unwrap(), "open");
        signals.send(Signal::Interrupt).await.unwrap();
    };
    let (done, ()) = tokio::join!(shell.run("open 3000 --watch"), script);
    assert_eq!(done, ended(0, "", "closed quiet-lime-82\n"));
    assert_eq!(daemon.fake.state().tunnels[0].state, "closed");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_signal_before_the_tunnel_is_there_leaves_none_behind() {
    let daemon = Daemon::client();
    daemon.fake.state().hangs = true;
    let mut calls = daemon.fake.calls.subscribe();
    let shell = Shell::to(&daemon);
    let signals = shell.signals.clone();
    let script = async {
        assert_eq!(calls.recv().await.unwrap(), "open");
        signals.send(Signal::Interrupt).await.unwrap();
    };
    let (done, ()) = tokio::join!(shell.run("open 3000 --watch"), script);
    assert_eq!(done, ended(0, "", ""));
    assert!(daemon.fake.state().tunnels.is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn a_watcher_whose_reader_went_away_closes_its_tunnel() {
    let daemon = Daemon::client();
    let mut shell = Shell::to(&daemon);
    shell.io.out = Box::new(Gone);
    let done = shell.run("open 3000 --watch").await;
    assert_eq!(done, ended(0, "", "closed quiet-lime-82\n"));
    assert_eq!(daemon.fake.state().tunnels[0].state, "closed");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_restarts_is_waited_for() {
    let old = Daemon::client();
    let shell = Shell::to(&old);
    let (signals, out, err) = (shell.signals.clone(), shell.out.clone(), shell.err.clone());
    let script = async {
        out.shows("Ctrl-C").await;
        let path = old.socket();
        let tunnels = old.fake.state().tunnels.clone();
        let tasks = crate::tasks::Tasks::new();
        assert!(old.tasks.shutdown(std::time::Duration::from_secs(10)).await);
        err.shows("waiting").await;
        let fake = crate::admin::testing::Fake::new();
        fake.state().tunnels = tunnels;
        let socket = crate::admin::socket::bind(&path, 0o660, None).unwrap();
        tasks.spawn(
            "new",
            crate::admin::serve_client(socket, fake.clone(), tasks.clone()),
        );
        err.shows("the daemon is back").await;
        fake.emit(visit("quiet-lime-82", "/after"));
        out.shows("/after").await;
        signals.send(Signal::Interrupt).await.unwrap();
        (fake, tasks)
    };
    let (done, (fake, tasks)) = tokio::join!(shell.run("open 3000 --watch"), script);
    assert_eq!(done.exit, 0, "{done:?}");
    assert_eq!(fake.state().tunnels[0].state, "closed");
    assert!(tasks.shutdown(std::time::Duration::from_secs(10)).await);
}
