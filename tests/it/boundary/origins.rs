//! Hostile origins. The visitor gets a 502 or one whole answer, what comes too much reaches nobody,
//! and the next visit is not answered with the leftovers.

use tokio::net::TcpListener;

use super::*;

/// What is wrong with an answer.
enum Fault {
    /// The head is not acceptable: 502.
    Head,
    /// The body is not whole: the visitor sees it break off.
    Short,
    /// There is more than the answer: the visitor gets the answer, and nobody the rest.
    Extra,
}

/// Says `answer` to whoever asks for `/evil` and a good word to all others.
async fn origin(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0u8; 4096];
                // Whoever only looks whether somebody is there asks nothing.
                while let Ok(count) = stream.read(&mut head).await
                    && count > 0
                {
                    let good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
                    let is_evil = head[..count].starts_with(b"GET /evil ");
                    let said = if is_evil { answer } else { &good[..] };
                    // What is not whole ends here.
                    if stream.write_all(said).await.is_err()
                        || (is_evil && !said.ends_with(b"poison"))
                    {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn hostile_origins_harm_nobody() {
    let boundary = Boundary::new().await;
    use Fault::{Extra, Head, Short};
    let cases: [(&'static str, Fault); 14] = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
            Head,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
            Head,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil",
            Head,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil", Head),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0x4\r\n\r\nevil", Head),
        ("HTTP/1.1 2000 OK\r\nContent-Length: 4\r\n\r\nevil", Head),
        ("HTTP/1.1 99 OK\r\nContent-Length: 4\r\n\r\nevil", Head),
        ("evil\r\n\r\n", Head),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: upgrade\r\n\r\nevil",
            Head,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\nevil", Short),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n",
            Short,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\nzz\r\n",
            Short,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            Extra,
        ),
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\npoison",
            Extra,
        ),
    ];
    for (at, (answer, fault)) in cases.iter().enumerate() {
        let port = origin(answer.as_bytes()).await;
        let name = format!("evil{at}");
        open(
            &boundary.client,
            &[
                &format!("http://127.0.0.1:{port}"),
                "--name",
                &name,
                "--host",
                "keep",
            ],
        )
        .await;
        let visitor = boundary.world.visitor(&name);
        let got = tokio::time::timeout(Duration::from_secs(20), visitor.try_get("/evil"))
            .await
            .unwrap();
        match (fault, got) {
            (Head, Ok(got)) => assert_eq!(
                (got.status.as_u16(), got.error()),
                (502, "origin_error"),
                "{answer:?}"
            ),
            (Short, got) => assert!(
                got.is_err() || got.is_ok_and(|g| g.status == 502),
                "{answer:?}"
            ),
            (Extra, Ok(got)) => assert!(
                matches!(&got.text()[..], "fine" | ""),
                "{answer:?}: {got:?}"
            ),
            (_, Err(error)) => panic!("{answer:?}: {error}"),
        }
        for _ in 0..3 {
            let next = visitor.try_get("/").await.unwrap();
            assert_eq!(next.text(), "good", "behind {answer:?}");
        }
    }
    boundary.control().await;
}
