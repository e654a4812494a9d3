//! What is done to answers on their way out, with the real programs: cookies that would reach other
//! tunnels, and preflights that no origin needs to hear.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;

use super::*;
use crate::visitor::{Answer, whole};

/// Says the same to everybody.
async fn saying(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = [0u8; 4096];
                while let Ok(count) = stream.read(&mut head).await
                    && count > 0
                {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port.to_string()
}

fn cookies(answer: &Answer) -> Vec<&str> {
    let all = answer.fields.get_all("set-cookie").iter();
    all.map(|cookie| &cookie.to_str().unwrap()[..1]).collect()
}

#[tokio::test]
async fn cookies_for_the_domain_of_all_tunnels_do_not_leave() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let lines = [
        "a=own".to_owned(),
        format!("b=all; Domain={DOMAIN}"),
        "c=all; Path=/; dOmAiN=.T.Wormkey.Test; Secure".to_owned(),
        "d=above; domain=wormkey.test".to_owned(),
        format!("e=below; Domain=app.{DOMAIN}"),
        "__Host-wormkey-f=ours; Path=/; Secure".to_owned(),
    ];
    let fields: String = lines
        .iter()
        .map(|l| format!("Set-Cookie: {l}\r\n"))
        .collect();
    let target = saying(format!(
        "HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"
    ))
    .await;
    open(&client, &[&target, "--name", "app"]).await;
    open(
        &client,
        &[&target, "--name", "free", "--allow-cookie-domain"],
    )
    .await;
    let app = world.visitor("app");
    for answer in [app.get("/").await, app.get2("/").await] {
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(cookies(&answer), ["a", "e"]);
    }
    let free = world.visitor("free").get2("/").await;
    assert_eq!(cookies(&free), ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn a_preflight_is_answered_at_the_edge_and_reaches_no_origin() {
    let boundary = Boundary::new().await;
    let target = boundary.canary.target();
    let page = "https://page.example";
    let args = [&target[..], "--name", "calls", "--cors", page, "--auth"];
    open(&boundary.client, &args).await;
    boundary.canary.forget();
    let visitor = boundary.world.visitor("calls");
    let ask = |method: Method, origin: &str| {
        let request = Request::builder().method(method).uri("/");
        let request = request.header("origin", origin);
        request.header("access-control-request-method", "PUT")
    };
    for origin in [page, "https://evil.example"] {
        let expected = (origin == page).then_some(page);
        let first = ask(Method::OPTIONS, origin).body(Full::default()).unwrap();
        let second = ask(Method::OPTIONS, origin).body(Full::default()).unwrap();
        for answer in [visitor.send1(first).await, visitor.send2(second).await] {
            let answer = whole(answer.unwrap()).await.unwrap();
            assert_eq!(answer.status, StatusCode::NO_CONTENT, "{origin}");
            let allowed = answer.fields.get("access-control-allow-origin");
            assert_eq!(allowed.map(|v| v.to_str().unwrap()), expected);
        }
    }
    // What is no preflight has to say who it is.
    let get = ask(Method::GET, page).body(Full::default()).unwrap();
    let answer = whole(visitor.send2(get).await.unwrap()).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(boundary.canary.heard(), "");
}
