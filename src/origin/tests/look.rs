//! What a look at an origin finds.

use super::*;
use crate::origin::Finding;

#[tokio::test]
async fn a_look_tells_what_is_there() {
    let world = World::new();
    let ok = Server::repeating("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let broken = Server::repeating("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await;
    let ssh = Server::repeating("SSH-2.0-x\r\n").await;
    let silent =
        Server::new(|mut stream, _| async move { while read_head(&mut stream).await.is_some() {} })
            .await;
    let closed = Server::repeating("").await.target();
    for (target, text, ready) in [
        (ok.target(), "the origin answers (200)".to_owned(), true),
        (
            broken.target(),
            "the origin answers (503)".to_owned(),
            false,
        ),
        (
            ssh.target(),
            format!("{} is there, but does not speak HTTP/1.1", ssh.target()),
            false,
        ),
        (
            silent.target(),
            format!("{} has not answered within 2 s", silent.target()),
            false,
        ),
        (
            closed.clone(),
            format!("nothing listens at {closed} yet"),
            false,
        ),
        (
            "http://192.0.2.1".to_owned(),
            "192.0.2.1 is not among [origins] allow in client.toml; add it there and reload"
                .to_owned(),
            false,
        ),
        (
            ok.target().replace("http", "tcp"),
            format!("{} is there", ok.target().replace("http", "tcp")),
            true,
        ),
    ] {
        let tunnel = tunnel_to(&target, HostMode::Auto);
        let finding = world.origins.look(&tunnel).await;
        assert_eq!(finding.to_string(), text);
        assert_eq!(
            world.origins.ready(&tunnel, "/healthz").await,
            ready,
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_look_teaches_the_host() {
    let origin = Server::new(|mut stream, _| async move {
        while let Some(head) = read_head(&mut stream).await {
            let status = if head.contains(PUBLIC) { "403" } else { "200" };
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes())
                .await
                .unwrap();
        }
    })
    .await;
    let tunnel = tunnel_to(&origin.target(), HostMode::Auto);
    let finding = World::new().origins.look(&tunnel).await;
    assert!(
        matches!(finding, Finding::Answers { status: 200 }),
        "{finding}"
    );
    assert!(!finding.is_warning());
    assert_eq!(tunnel.host_in_use(), "rewrite");
}
