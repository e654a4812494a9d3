//! The page before a first visit: people with browsers see it, programs do not, and nobody else's page takes
//! somebody past it.

use super::*;

const BROWSER: &str =
    "User-Agent: Mozilla/5.0 (X11)\r\nAccept: text/html,*/*\r\nSec-Fetch-Mode: navigate\r\n";

fn world() -> World {
    World::with(|settings| {
        settings.site.interstitial = true;
        settings.site.contacts = vec!["mailto:abuse@t.example".to_owned()];
    })
}

/// What is answered, and how many visits reached the client.
async fn ask(request: &str, fields: &str) -> (String, usize) {
    let world = world();
    let mut visitor = world.visitor();
    let head =
        format!("{request} HTTP/1.1\r\nHost: app.t.example\r\nConnection: close\r\n{fields}\r\n");
    visitor.send(head.as_bytes()).await;
    (visitor.rest().await, world.opened())
}

/// Whether a request reaches the tunnel.
async fn passes(request: &str, fields: &str) {
    let mut world = world();
    let mut visitor = world.visitor();
    let head = format!("{request} HTTP/1.1\r\nHost: app.t.example\r\n{fields}\r\n");
    visitor.send(head.as_bytes()).await;
    let stream = world.stream().await;
    assert_eq!(stream.field("wormkey-skip-interstitial"), None);
    assert_eq!(stream.field("cookie"), None);
    stream.answer(200, &[("content-length", "2")], "ok").await;
    assert_eq!(status(&visitor.until("ok").await), 200);
}

#[tokio::test(start_paused = true)]
async fn a_browser_s_first_visit_is_asked_whether_it_wants_to_go_on() {
    let (answer, visits) = ask("GET /a/b?x=1&y=%22<", BROWSER).await;
    assert_eq!((status(&answer), visits), (400, 0), "{answer}");
    let (answer, visits) = ask("GET /a/b?x=1&y=%22", BROWSER).await;
    assert_eq!((status(&answer), visits), (200, 0));
    assert!(answer.contains("action=\"/.wormkey/enter?to=%2Fa%2Fb%3Fx%3D1%26y%3D%2522\""));
    assert!(answer.contains("mailto:abuse@t.example") && !answer.contains("<script"));
    let policy = header(&answer, "content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");

    let button =
        "Origin: https://app.t.example\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 0\r\n";
    let enter = "POST /.wormkey/enter?to=%2Fa%2Fb%3Fx%3D1%26y%3D%2522";
    let (answer, visits) = ask(enter, button).await;
    assert_eq!((status(&answer), visits), (303, 0), "{answer}");
    assert_eq!(header(&answer, "location"), Some("/a/b?x=1&y=%22"));
    let cookie = header(&answer, "set-cookie").unwrap();
    assert!(
        cookie.starts_with("__Host-wormkey-seen=1; Path=/; "),
        "{cookie}"
    );
    assert!(
        cookie.contains("Secure") && cookie.contains("HttpOnly"),
        "{cookie}"
    );
}

#[tokio::test(start_paused = true)]
async fn programs_and_those_who_have_seen_it_pass() {
    for fields in [
        "User-Agent: curl/8\r\nAccept: */*\r\n".to_owned(),
        "User-Agent: Mozilla/5.0\r\nAccept: application/json\r\n".to_owned(),
        "User-Agent: Mozilla/5.0\r\nAccept: text/html\r\nSec-Fetch-Mode: cors\r\n".to_owned(),
        format!("{BROWSER}Cookie: __Host-wormkey-seen=1\r\n"),
        format!("{BROWSER}Wormkey-Skip-Interstitial: 1\r\n"),
    ] {
        passes("GET /", &fields).await;
    }
    passes("POST /", &format!("{BROWSER}Content-Length: 0\r\n")).await;
}

#[tokio::test(start_paused = true)]
async fn another_site_takes_nobody_past_it_and_nowhere_else() {
    for fields in [
        "",
        "Origin: https://evil.example\r\n",
        "Origin: https://other.t.example\r\n",
        "Origin: null\r\n",
        "Origin: https://app.t.example\r\nOrigin: https://evil.example\r\n",
        "Origin: https://app.t.example\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        let fields = format!("{fields}Content-Length: 0\r\n");
        let (answer, _) = ask("POST /.wormkey/enter?to=%2F", &fields).await;
        assert_eq!(status(&answer), 404, "{fields}");
    }
    let (answer, _) = ask("GET /.wormkey/enter?to=%2F", BROWSER).await;
    assert_eq!(status(&answer), 404);
    let here = "Origin: https://app.t.example\r\nContent-Length: 0\r\n";
    for to in [
        "",
        "?to=",
        "?to=%2F%2Fevil.example",
        "?to=https%3A%2F%2Fevil.example",
        "?to=%2F%5Cevil.example",
        "?to=%2F%0D%0AX%3A1",
        "?to=%FF",
        "?to=%2F.wormkey%2Fenter",
    ] {
        let (answer, _) = ask(&format!("POST /.wormkey/enter{to}"), here).await;
        assert_eq!(header(&answer, "location"), Some("/"), "{to}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_not_there_unless_the_operator_wants_it() {
    let mut world = World::new();
    let mut visitor = world.visitor();
    visitor
        .send(format!("GET / HTTP/1.1\r\nHost: app.t.example\r\n{BROWSER}\r\n").as_bytes())
        .await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "2")], "ok")
        .await;
    assert_eq!(status(&visitor.until("ok").await), 200);
    let here = "Origin: https://app.t.example\r\nContent-Length: 0\r\n";
    visitor
        .send(
            format!("POST /.wormkey/enter HTTP/1.1\r\nHost: app.t.example\r\n{here}\r\n")
                .as_bytes(),
        )
        .await;
    assert_eq!(status(&visitor.until("not_found").await), 404);
}
