use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use clap::Parser as _;

use super::*;
use crate::admin::testing::{Daemon, NOW};
use crate::ctl::io::{Signal, SignalSource};

/// A `wormkeyd setup server` to be.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    wish: ServerWish,
}

fn wish(line: &str) -> ServerWish {
    Line::parse_from(["setup"].into_iter().chain(line.split_whitespace())).wish
}

#[derive(Clone, Default)]
struct Paper(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// (exit, standard output, standard error); a person at a terminal `types`, a script does not.
async fn run(line: &str, types: Option<&str>) -> (u8, String, String) {
    let (out, err) = (Paper::default(), Paper::default());
    let (_signals, caught) = tokio::sync::mpsc::channel::<Signal>(1);
    let io = Io {
        out: Box::new(out.clone()),
        err: Box::new(err.clone()),
        input: Box::new(io::Cursor::new(
            types.unwrap_or_default().to_owned().into_bytes(),
        )),
        out_is_terminal: false,
        in_is_terminal: types.is_some(),
        env: Box::new(|_| None),
        current_dir: PathBuf::from("/"),
        clock: Box::new(|| NOW),
        zone: jiff::tz::TimeZone::UTC,
        signals: SignalSource::Channel(caught),
    };
    let exit = server(wish(line), io).await;
    (exit, out.text(), err.text())
}

fn line(root: &Path, more: &str) -> String {
    // `.invalid` is a name that no resolver knows.
    let root = root.display();
    format!("--domain t.wormkey.invalid --https 127.0.0.1:0 --http off --root {root} {more}")
}

#[tokio::test]
async fn a_server_is_set_up_once_and_then_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("etc/wormkey/server.toml");
    let (exit, out, err) = run(&line(root.path(), "--dry-run"), None).await;
    assert_eq!((exit, out.as_str()), (0, ""), "{err}");
    assert!(
        err.contains("this will:\n  write ") && !path.exists(),
        "{err}"
    );

    let (exit, out, err) = run(&line(root.path(), "--yes"), None).await;
    assert_eq!((exit, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("wormkeyd server --config"), "{err}");
    let config = ServerConfig::load(Some(&path)).unwrap();
    assert_eq!(config.domain.as_str(), "t.wormkey.invalid");
    assert_eq!(config.state_dir, root.path().join("var/lib/wormkey"));

    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("# a remark of the operator's\n");
    std::fs::write(&path, &text).unwrap();
    let (exit, _, err) = run(&line(root.path(), ""), None).await;
    assert_eq!(exit, 0, "{err}");
    assert!(
        err.contains("leave ") && err.contains("it is there already"),
        "{err}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_running_server_s_first_invite_stands_alone_on_standard_output() {
    let root = tempfile::tempdir().unwrap();
    let daemon = Daemon::server();
    std::fs::create_dir_all(root.path().join("etc/wormkey")).unwrap();
    let config = format!(
        "domain = \"t.wormkey.invalid\"\n[admin]\nsocket = {:?}\n",
        daemon.socket()
    );
    std::fs::write(root.path().join("etc/wormkey/server.toml"), config).unwrap();
    let (exit, out, err) = run(&line(root.path(), "--yes"), None).await;
    assert_eq!(exit, 0, "{err}");
    assert!(err.contains("it runs already"), "{err}");
    // The daemon of the tests has devices.
    assert!(
        out.is_empty() && err.contains("have joined already"),
        "{out}{err}"
    );
}

#[tokio::test]
async fn nothing_is_done_before_somebody_says_yes() {
    for (types, exit, said) in [
        (None, 2, "nobody is there to say yes\n  add --yes"),
        (Some("n\n"), 1, "nothing was done"),
        (Some(""), 1, "nothing was done"),
        (Some("y\n"), 0, "wrote "),
    ] {
        let root = tempfile::tempdir().unwrap();
        let (code, _, err) = run(&line(root.path(), ""), types).await;
        assert_eq!(code, exit, "{err}");
        assert!(err.contains(said), "{err}");
        let written = root.path().join("etc/wormkey/server.toml").exists();
        assert_eq!(written, types == Some("y\n"));
    }
}

#[tokio::test]
async fn a_server_for_another_domain_is_not_touched() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("etc/wormkey");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("server.toml"), "domain = \"other.example\"\n").unwrap();
    let (exit, _, err) = run(&line(root.path(), "--yes"), None).await;
    assert_eq!(exit, 6, "{err}");
    assert!(err.contains("is for other.example already"), "{err}");
    std::fs::write(dir.join("server.toml"), "domian = \"other.example\"\n").unwrap();
    let (exit, _, err) = run(&line(root.path(), "--yes"), None).await;
    assert_eq!(exit, 78, "{err}");
}

#[tokio::test]
async fn a_taken_port_stops_the_set_up() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let root = tempfile::tempdir().unwrap();
    let at = taken.local_addr().unwrap();
    let words = format!(
        "--domain t.wormkey.invalid --https {at} --http off --yes --root {}",
        root.path().display()
    );
    let (exit, _, err) = run(&words, None).await;
    assert_eq!(exit, 6, "{err}");
    assert!(
        err.contains(&format!("TCP {at} is taken by another program")),
        "{err}"
    );
    assert!(!root.path().join("etc").exists());
}

#[test]
fn every_way_to_a_certificate_gives_a_file_that_loads() {
    let ways = [
        ("", true),
        (
            "--cert /etc/a.pem --key /etc/b.pem --tcp-ports 20000-20010",
            true,
        ),
        ("--acme --email ada@example.org", file::knows_acme()),
        ("--acme --dns-hook /usr/local/bin/hook", file::knows_acme()),
    ];
    for (way, fits) in ways {
        let wish = wish(&format!("--domain t.example.org {way}"));
        let loaded = tried(&file::text(&wish), Path::new("/etc/wormkey/server.toml"));
        match (loaded, fits) {
            (Ok(config), true) => assert_eq!(config.domain.as_str(), "t.example.org"),
            (Err(_), false) => {}
            (loaded, _) => panic!("{way}: {loaded:?}"),
        }
    }
}

#[test]
fn what_is_written_is_for_the_daemon_to_read_whatever_the_umask() {
    const ROOT: &str = "WORMKEY_TEST_UMASK_ROOT";
    if let Some(root) = std::env::var_os(ROOT) {
        return put(&Path::new(&root).join("etc/wormkey/server.toml"), "text").unwrap();
    }
    // The umask is the whole process's, so this is for a process of its own.
    let root = tempfile::tempdir().unwrap();
    let name = "ctl::setup::tests::what_is_written_is_for_the_daemon_to_read_whatever_the_umask";
    let ended = Command::new("/bin/sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ROOT, root.path())
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    for (path, mode) in [
        ("etc", 0o755),
        ("etc/wormkey", 0o755),
        ("etc/wormkey/server.toml", 0o644),
    ] {
        let found = std::fs::metadata(root.path().join(path)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, mode, "{path}");
    }
}

#[test]
fn a_file_in_the_way_is_named_and_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("certificate.conf");
    std::fs::write(&path, "the operator's").unwrap();
    let error = put(&path, "ours").unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.to_string().starts_with(&path.display().to_string()));
    assert!(error.fix().contains("remove it"), "{}", error.fix());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the operator's");
}
