use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::super::socket::{SocketError, bind};
use crate::admin::testing::Daemon;

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn the_mode_is_what_was_asked_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    for wanted in [0o660, 0o600, 0o666] {
        let path = dir.path().join("a.sock");
        let socket = bind(&path, wanted, None).unwrap();
        assert_eq!(mode(&path), wanted);
        assert_eq!(socket.path(), path);
        drop(socket);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn the_group_is_given_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    // Our own group: everyone may give that.
    let own = nix::unistd::Group::from_gid(nix::unistd::getegid())
        .unwrap()
        .unwrap();
    let _socket = bind(&path, 0o660, Some(&own.name)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().gid(), own.gid.as_raw());
    let missing = bind(&dir.path().join("b.sock"), 0o660, Some("no-such-group"));
    assert!(matches!(missing, Err(SocketError::NoGroup { .. })));
}

#[tokio::test]
async fn a_missing_directory_is_made_and_closed_to_others_for_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wormkey/deeper/a.sock");
    let _socket = bind(&path, 0o660, None).unwrap();
    let expected = if nix::unistd::geteuid().is_root() {
        0o755
    } else {
        0o700
    };
    assert_eq!(mode(path.parent().unwrap()), expected);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    // A daemon that was killed leaves its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _socket = bind(&path, 0o660, None).unwrap();
    tokio::net::UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_socket_on_which_a_daemon_answers_is_not_replaced() {
    let daemon = Daemon::client();
    let err = bind(&daemon.socket(), 0o660, None).unwrap_err();
    assert!(matches!(err, SocketError::Live { .. }), "{err}");
    let _: crate::admin::types::ClientStatusJson = daemon.api().get("/v1/status").await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_whose_backlog_is_full_is_alive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&socket2::SockAddr::unix(&path).unwrap())
        .unwrap();
    socket.listen(0).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let err = bind(&path, 0o660, None).unwrap_err();
    assert!(matches!(err, SocketError::Live { .. }), "{err}");
}

#[tokio::test]
async fn a_symbolic_link_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    for target in ["/etc/passwd", "nowhere"] {
        std::os::unix::fs::symlink(target, &path).unwrap();
        let err = bind(&path, 0o660, None).unwrap_err();
        assert!(matches!(err, SocketError::Symlink { .. }), "{err}");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
        std::fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn a_file_of_another_kind_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    std::fs::write(&path, "mine").unwrap();
    let err = bind(&path, 0o660, None).unwrap_err();
    assert!(matches!(err, SocketError::NotASocket { .. }), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn paths_that_cannot_be_sockets_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("a".repeat(108));
    assert!(matches!(
        bind(&long, 0o660, None),
        Err(SocketError::TooLong { .. })
    ));
    let root = std::path::Path::new("/");
    assert!(matches!(
        bind(root, 0o660, None),
        Err(SocketError::NoFile { .. })
    ));
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = bind(&file.join("a.sock"), 0o660, None);
    assert!(
        matches!(below, Err(SocketError::Directory { .. })),
        "{below:?}"
    );
}

#[tokio::test]
async fn a_daemon_that_ends_leaves_its_successors_socket_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let old = bind(&path, 0o660, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _new = bind(&path, 0o660, None).unwrap();
    drop(old);
    tokio::net::UnixStream::connect(&path).await.unwrap();
}
