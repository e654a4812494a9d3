//! `--host auto`: the origin that refuses the public name, the one that does not, and what is mapped.

use tokio::io::AsyncWriteExt as _;

use super::*;

/// A development server: refuses hosts that are not its own, and tells what it was asked.
async fn picky(own_status: &'static str) -> Server {
    Server::new(move |mut stream, _| async move {
        while let Some(head) = read_head(&mut stream).await {
            let status = if head.contains("host: 127.0.0.1:") { own_status } else { "403 Forbidden" };
            let own = stream.local_addr().unwrap();
            let answer = format!(
                "HTTP/1.1 {status}\r\nLocation: http://{own}/next\r\nSet-Cookie: a=1; Domain=127.0.0.1\r\n\
                 Content-Length: {}\r\n\r\n{head}",
                head.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn an_origin_that_takes_only_its_own_host_gets_it_from_then_on() {
    let origin = picky("200 OK").await;
    let (world, tunnel) = (World::new(), tunnel_to(&origin.target(), HostMode::Auto));
    assert_eq!(tunnel.host_in_use(), "keep");
    let head = with(get("/"), "origin", &format!("https://{PUBLIC}"));
    let got = world.visit(&tunnel, head).whole().await.unwrap();
    assert_eq!(got.status(), 200, "the visitor does not see the refusal");
    assert_eq!(tunnel.host_in_use(), "rewrite");
    assert!(
        got.text()
            .contains(&format!("origin: http://{}\r\n", origin.addr)),
        "{}",
        got.text()
    );
    assert_eq!(
        got.head.fields["location"],
        format!("https://{PUBLIC}/next")
    );
    assert_eq!(
        got.head.fields["set-cookie"],
        format!("a=1; Domain={PUBLIC}")
    );
    let mut visit = world.visit(&tunnel, post("/", Some(0)));
    visit.finish();
    assert_eq!(
        visit.whole().await.unwrap().status(),
        200,
        "no second question is needed any more"
    );
}

#[tokio::test]
async fn a_foreign_origin_stays_foreign() {
    let origin = picky("200 OK").await;
    let world = World::new();
    let tunnel = tunnel_to(&origin.target(), HostMode::Rewrite);
    let head = with(get("/"), "origin", "https://evil.example");
    let got = world.visit(&tunnel, head).whole().await.unwrap();
    assert!(
        got.text().contains("origin: https://evil.example\r\n"),
        "{}",
        got.text()
    );
}

#[tokio::test]
async fn an_origin_that_refuses_both_hosts_is_asked_twice_only_once() {
    let origin = picky("403 Forbidden").await;
    let (world, tunnel) = (World::new(), tunnel_to(&origin.target(), HostMode::Auto));
    for _ in 0..2 {
        let got = world.get(&tunnel, "/").await.unwrap();
        assert_eq!(got.status(), 403);
        assert!(
            got.text().contains(&format!("host: {PUBLIC}\r\n")),
            "the visitor's own answer"
        );
        assert_eq!(
            got.head.fields["location"],
            format!("http://{}/next", origin.addr)
        );
    }
    assert_eq!(tunnel.host_in_use(), "keep");
    // The second question of the first visit took a connection beside the one that was waiting.
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn what_cannot_be_replayed_is_not_asked_twice() {
    let origin = picky("200 OK").await;
    let (world, tunnel) = (World::new(), tunnel_to(&origin.target(), HostMode::Auto));
    let mut visit = world.visit(&tunnel, post("/", Some(0)));
    visit.finish();
    assert_eq!(visit.whole().await.unwrap().status(), 403);
    assert_eq!(
        (tunnel.host_in_use(), origin.connections()),
        ("keep".into(), 1)
    );
}

#[tokio::test]
async fn a_mode_that_was_set_stays() {
    let origin = Server::mirror().await;
    let world = World::new();
    for (mode, in_use, host) in [
        (HostMode::Keep, "keep", PUBLIC.to_owned()),
        (HostMode::Rewrite, "rewrite", origin.addr.to_string()),
        (
            HostMode::Fixed("shop.test".into()),
            "shop.test",
            "shop.test".to_owned(),
        ),
    ] {
        let tunnel = tunnel_to(&origin.target(), mode);
        let got = world.get(&tunnel, "/").await.unwrap();
        assert!(
            got.text().contains(&format!("host: {host}\r\n")),
            "{}",
            got.text()
        );
        assert_eq!(tunnel.host_in_use(), in_use);
    }
}
