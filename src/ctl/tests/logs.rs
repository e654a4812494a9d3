use super::{Shell, ended};
use crate::admin::testing::{Daemon, Fake, tunnel, visit};
use crate::ctl::io::Signal;
use crate::tasks::Tasks;

fn daemon() -> Daemon {
    let daemon = Daemon::client();
    daemon.fake.state().tunnels = vec![tunnel(1, "app"), tunnel(2, "blog")];
    daemon.fake.emit(visit("app", "/one"));
    daemon.fake.emit(visit("blog", "/two\x1b[2J"));
    daemon
}

#[tokio::test]
async fn what_is_remembered_is_shown_of_all_tunnels_or_of_one() {
    let daemon = daemon();
    let all = "app  22:13:20  GET     /one  200  12ms\n\
               blog  22:13:20  GET     /two\\u{1b}[2J  200  12ms\n";
    assert_eq!(Shell::to(&daemon).run("logs").await, ended(0, all, ""));
    let one = "22:13:20  GET     /one  200  12ms\n";
    assert_eq!(Shell::to(&daemon).run("logs app").await, ended(0, one, ""));
    let by_id = format!("logs {}", tunnel(1, "app").id);
    assert_eq!(Shell::to(&daemon).run(&by_id).await, ended(0, one, ""));
    assert_eq!(Shell::to(&daemon).run("logs nobody").await.exit, 5);

    let json = Shell::to(&daemon).run("logs blog --json").await;
    assert_eq!(json.out.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["visits"][0]["slug"], "blog");
    assert!(json["visits"].get(1).is_none());
    daemon.stop().await;
}

#[tokio::test]
async fn a_follower_sees_each_visit_once_until_a_signal() {
    let daemon = daemon();
    let shell = Shell::to(&daemon);
    let (signals, out) = (shell.signals.clone(), shell.out.clone());
    let script = async {
        out.shows("/one").await;
        daemon.fake.emit(visit("blog", "/not-ours"));
        daemon.fake.emit(visit("app", "/three"));
        out.shows("/three").await;
        signals.send(Signal::Interrupt).await.unwrap();
    };
    let (done, ()) = tokio::join!(shell.run("logs app --follow"), script);
    let expected = "22:13:20  GET     /one  200  12ms\n\
                    22:13:20  GET     /three  200  12ms\n";
    assert_eq!(done, ended(0, expected, ""));
    assert_eq!(
        daemon.fake.state().tunnels[0].state,
        "open",
        "nothing closes"
    );
    daemon.watched_by(0).await;
    daemon.stop().await;
}

#[tokio::test]
async fn with_json_a_follower_prints_an_object_a_line() {
    let daemon = daemon();
    let shell = Shell::to(&daemon);
    let (signals, out) = (shell.signals.clone(), shell.out.clone());
    let script = async {
        out.shows("/two").await;
        daemon.fake.emit(visit("app", "/three"));
        out.shows("/three").await;
        signals.send(Signal::Terminate).await.unwrap();
    };
    let (done, ()) = tokio::join!(shell.run("logs -f --json"), script);
    let lines: Vec<serde_json::Value> = (done.out.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str()).collect();
    assert_eq!(paths, [Some("/one"), Some("/two\x1b[2J"), Some("/three")]);
    assert!(lines.iter().all(|line| line["event"] == "visit"));
    assert_eq!((done.exit, &*done.err), (0, ""));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_for_a_daemon_that_restarts() {
    let old = daemon();
    let shell = Shell::to(&old);
    let (signals, out, err) = (shell.signals.clone(), shell.out.clone(), shell.err.clone());
    let script = async {
        out.shows("/two").await;
        old.watched_by(1).await;
        let path = old.socket();
        assert!(old.tasks.shutdown(std::time::Duration::from_secs(10)).await);
        err.shows("waiting").await;
        let (fake, tasks) = (Fake::new(), Tasks::new());
        let socket = crate::admin::socket::bind(&path, 0o660, None).unwrap();
        let serving = crate::admin::serve_client(socket, fake.clone(), tasks.clone());
        tasks.spawn("new", serving);
        err.shows("the daemon is back").await;
        fake.emit(visit("app", "/after"));
        out.shows("/after").await;
        signals.send(Signal::Interrupt).await.unwrap();
        tasks
    };
    let (done, tasks) = tokio::join!(shell.run("logs -f"), script);
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(tasks.shutdown(std::time::Duration::from_secs(10)).await);
}
