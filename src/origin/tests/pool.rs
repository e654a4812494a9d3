//! Which connections are used again, and which never.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_clean_connection_serves_the_next_visit() {
    let origin = Server::repeating(OK).await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    for _ in 0..5 {
        let got = world.get(&tunnel, "/").await.unwrap();
        assert_eq!((got.status(), got.text()), (200, "ok"));
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(world.origins.pool.idle(), 1);
}

#[tokio::test]
async fn a_posted_body_leaves_its_connection_clean() {
    let origin = Server::new(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    for _ in 0..3 {
        let mut visit = world.visit(&tunnel, post("/", Some(4)));
        visit.send("body").await;
        visit.finish();
        let got = visit.whole().await.unwrap();
        assert_eq!(
            (got.text(), got.report.bytes_in, got.report.bytes_out),
            ("ok", 4, 2)
        );
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_doubtful_connection_is_never_used_again() {
    for (what, answer) in [
        (
            "close",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "close among others",
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        ),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (
            "HTTP/1.0 that would stay",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        ),
        (
            "extra bytes",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
        ),
        (
            "a second answer",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
        (
            "a body where none may be",
            "HTTP/1.1 204 No Content\r\n\r\nevil",
        ),
    ] {
        let origin = Server::repeating(answer).await;
        let (world, tunnel) = (World::new(), tunnel(&origin));
        for _ in 0..3 {
            let got = world.get(&tunnel, "/").await.unwrap();
            assert!(["ok", ""].contains(&got.text()), "{what}: {}", got.text());
        }
        assert_eq!(origin.connections(), 3, "{what}");
    }
}

#[tokio::test]
async fn a_connection_that_speaks_while_idle_is_dropped() {
    let (speak, spoken) = oneshot::channel::<()>();
    let spoken = std::sync::Mutex::new(Some(spoken));
    let (said, heard) = oneshot::channel::<()>();
    let said = std::sync::Mutex::new(Some(said));
    let origin = Server::new(move |mut stream, index| {
        let spoken = if index == 0 {
            spoken.lock().unwrap().take()
        } else {
            None
        };
        let said = said.lock().unwrap().take();
        async move {
            read_head(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            if let (Some(spoken), Some(said)) = (spoken, said) {
                spoken.await.unwrap();
                let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                stream.write_all(evil.as_bytes()).await.unwrap();
                said.send(()).unwrap();
            }
            read_head(&mut stream).await;
        }
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    assert_eq!(world.get(&tunnel, "/").await.unwrap().text(), "ok");
    assert_eq!(world.origins.pool.idle(), 1);
    speak.send(()).unwrap();
    heard.await.unwrap();
    assert_eq!(world.get(&tunnel, "/").await.unwrap().text(), "ok");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_not_asked_again() {
    // A byte of the request may have been acted on: at most once.
    let origin = Server::new(|mut stream, index| async move {
        read_head(&mut stream).await;
        if index == 0 {
            stream.write_all(OK.as_bytes()).await.unwrap();
            read_head(&mut stream).await;
        }
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    assert_eq!(world.get(&tunnel, "/").await.unwrap().text(), "ok");
    let code = world.visit(&tunnel, get("/")).refusal().await;
    assert_eq!(code, StreamCode::OriginError);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced() {
    let origin = Server::new(|mut stream, _| async move {
        read_head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    for served in 1..=3 {
        let mut visit = world.visit(&tunnel, post("/", Some(0)));
        visit.finish();
        assert_eq!(visit.whole().await.unwrap().text(), "ok");
        assert_eq!(origin.connections(), served);
    }
}

#[tokio::test]
async fn an_origin_that_closes_before_it_is_asked_got_nothing() {
    let origin = Server::new(|stream, _| async move {
        // Reset at once: nothing was read.
        stream.set_zero_linger().unwrap();
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    let code = world.visit(&tunnel, get("/")).refusal().await;
    // Whether the request was written before the reset arrived is a race; both are told as they are.
    assert!(
        matches!(
            code,
            StreamCode::OriginUnreachable | StreamCode::OriginError
        ),
        "{code:?}"
    );
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_new_policy_closes_what_was_kept_under_the_old_one() {
    let origin = Server::repeating(OK).await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    world.get(&tunnel, "/").await.unwrap();
    world.origins.set_policy(OriginPolicy::default());
    assert_eq!(world.origins.pool.idle(), 0);
    let code = world.visit(&tunnel, get("/")).refusal().await;
    assert_eq!(code, StreamCode::NotAllowed);
    assert_eq!(origin.connections(), 1);
    world.origins.set_policy(loopback());
    world.get(&tunnel, "/").await.unwrap();
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn no_task_outlives_the_connections() {
    let origin = Server::repeating(OK).await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    world.get(&tunnel, "/").await.unwrap();
    assert!(world.tasks.running() > 0);
    assert!(world.tasks.shutdown(STUCK).await);
    assert_eq!(world.tasks.running(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_before_its_server_would() {
    let origin = Server::repeating(OK).await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    world.get(&tunnel, "/").await.unwrap();
    world.origins.pool.sweep_ahead(Duration::from_secs(3));
    assert_eq!(world.origins.pool.idle(), 1);
    world.origins.pool.sweep_ahead(Duration::from_secs(4));
    assert_eq!(world.origins.pool.idle(), 0);
}

#[tokio::test]
async fn no_more_than_some_are_kept() {
    // All visits are under way at once, so that each has a connection of its own.
    let all_here = Arc::new(tokio::sync::Barrier::new(80));
    let origin = Server::new(move |mut stream, _| {
        let all_here = Arc::clone(&all_here);
        async move {
            read_head(&mut stream).await;
            all_here.wait().await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            read_head(&mut stream).await;
        }
    })
    .await;
    let (world, tunnel) = (World::new(), tunnel(&origin));
    let visits: Vec<_> = (0..80).map(|_| world.visit(&tunnel, get("/"))).collect();
    for visit in visits {
        assert_eq!(visit.whole().await.unwrap().text(), "ok");
    }
    assert_eq!((origin.connections(), world.origins.pool.idle()), (80, 64));
}

#[tokio::test]
async fn a_unix_socket_is_an_origin_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut policy = loopback();
    policy.unix =
        vec![glob::Pattern::new(&format!("{}/*", path.parent().unwrap().display())).unwrap()];
    let world = World::with(policy);
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let serving = world.tasks.spawn("origin", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            for _ in 0..2 {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    });
    let tunnel = tunnel_to(&format!("unix:{}", path.display()), HostMode::Auto);
    for _ in 0..4 {
        assert_eq!(world.get(&tunnel, "/").await.unwrap().text(), "ok");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 2);
    serving.abort();
}
