//! The admin socket of both roles against web pages, floods, and files that stand in its place.

use std::os::unix::fs::PermissionsExt as _;

use tokio::net::UnixStream;

use super::*;
use crate::world::ctl;

async fn call(daemon: &Daemon, head: &str, body: usize) -> Option<u16> {
    let work = async {
        let mut socket = UnixStream::connect(daemon.socket()).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let piece = [b' '; 64 * 1024];
        let mut left = body;
        while left > 0
            && socket
                .write_all(&piece[..left.min(piece.len())])
                .await
                .is_ok()
        {
            left -= left.min(piece.len());
        }
        let mut answer = Vec::new();
        let mut room = [0u8; 4096];
        while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            match socket.read(&mut room).await {
                Ok(count) if count > 0 => answer.extend_from_slice(&room[..count]),
                _ => break,
            }
        }
        status(&String::from_utf8_lossy(&answer))
    };
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_admin_socket_takes_no_calls_of_web_pages_and_no_floods() {
    let boundary = Boundary::new().await;
    let roles = [
        (&boundary.world.server, "/v1/invites"),
        (&boundary.client, "/v1/tunnels"),
    ];
    for (daemon, path) in roles {
        let get = |more: &str| format!("GET /v1/status HTTP/1.1\r\n{more}\r\n\r\n");
        assert_eq!(call(daemon, &get("Host: localhost"), 0).await, Some(200));
        for (more, expected) in [
            ("Host: localhost\r\nOrigin: https://evil.test", 403),
            ("Host: localhost\r\norigin: null", 403),
            ("Host: localhost\r\nORIGIN: http://localhost", 403),
            ("Host: evil.test", 403),
            ("Host: localhost.evil.test", 403),
            ("Host: 127.0.0.1", 403),
            ("Accept: */*", 403),
        ] {
            let got = call(daemon, &get(more), 0).await;
            assert!(got == Some(expected) || got == Some(400), "{more}: {got:?}");
        }
        let size = 100 << 20;
        let post = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        );
        assert_eq!(call(daemon, &post, size).await, Some(413));
        assert_eq!(call(daemon, &get("Host: localhost"), 0).await, Some(200));
        let mode = std::fs::metadata(daemon.socket())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660, "another uid finds a closed door");
    }
    boundary.control().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_symbolic_link_never() {
    let mut boundary = Boundary::new().await;
    let path = boundary.client.socket().to_owned();
    boundary.client.crash().await;
    assert!(path.exists(), "a crash leaves its socket behind");
    boundary.client.start().await;
    ctl(&path, &["status"]).await.ok();
    assert!(boundary.client.stop().await.success());
    let elsewhere = path.with_extension("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let (ended, log) = boundary.client.start_in_vain().await;
    assert!(!ended.success() && log.contains("symbolic link"), "{log}");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
    assert!(path.symlink_metadata().unwrap().is_symlink());
}
