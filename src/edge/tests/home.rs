//! The base domain's pages, and what tunnels' answers say to search engines.

use super::*;

fn connect(world: &World) -> Visitor {
    world.connect(Facts {
        sni: Some(host("t.example")),
        ..World::facts(false)
    })
}

async fn ask(change: impl FnOnce(&mut Site), request: &str) -> String {
    let world = World::with(|settings| change(&mut settings.site));
    let mut visitor = connect(&world);
    visitor
        .send(
            format!("{request} HTTP/1.1\r\nHost: t.example\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await;
    let answer = visitor.rest().await;
    assert_eq!(world.opened(), 0, "it is no visit");
    answer
}

fn reachable(site: &mut Site) {
    site.contacts = vec![
        "mailto:abuse@t.example".to_owned(),
        "https://t.example/?a=1&b=\"2\"".to_owned(),
    ];
}

#[tokio::test(start_paused = true)]
async fn the_base_domain_says_what_it_is() {
    let answer = ask(reachable, "GET /?utm=1").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(
        header(&answer, "content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = header(&answer, "content-security-policy").unwrap();
    let nonce = policy
        .split('\'')
        .find(|p| p.starts_with("nonce-"))
        .unwrap();
    assert!(answer.contains(&format!("nonce=\"{}\"", &nonce["nonce-".len()..])));
    assert!(answer.contains("<h1>t.example</h1>"), "{answer}");
    assert!(answer.contains("href=\"mailto:abuse@t.example\""));
    assert!(!answer.contains("b=\"2\""), "what is shown is escaped");
    assert!(!answer.contains("<script"));
    assert!(answer.contains("font:1rem/1.55 system-ui,-apple-system,\"Segoe UI\""));
    let silent = ask(|_| {}, "GET /").await;
    assert!(!silent.contains("<footer>"), "{silent}");
    let head = ask(|_| {}, "HEAD /").await;
    assert!(head.ends_with("\r\n\r\n") && header(&head, "content-length") != Some("0"));
}

#[tokio::test(start_paused = true)]
async fn an_operator_may_send_people_elsewhere() {
    let answer = ask(
        |site| site.redirect = Some("https://example.com/about".to_owned()),
        "GET /",
    )
    .await;
    assert_eq!(status(&answer), 302);
    assert_eq!(
        header(&answer, "location"),
        Some("https://example.com/about")
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_reports_abuse_finds_whom_to_tell() {
    let answer = ask(reachable, "GET /.well-known/security.txt").await;
    assert_eq!(status(&answer), 200);
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "Contact: mailto:abuse@t.example");
    let until = lines[2].strip_prefix("Expires: ").unwrap();
    let until = crate::times::WallTime::parse_rfc3339(until).unwrap();
    let left = until.since(crate::times::Clock.now().wall);
    assert!(left > Duration::from_secs(29 * 86_400), "{left:?}");
    assert_eq!(
        lines[3],
        "Canonical: https://t.example/.well-known/security.txt"
    );
    for (change, request) in [
        ((|_| {}) as fn(&mut Site), "GET /.well-known/security.txt"),
        (reachable, "GET /other"),
        (reachable, "POST /"),
    ] {
        assert_eq!(status(&ask(change, request).await), 404, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn tunnels_stay_out_of_search_engines_unless_somebody_says_otherwise() {
    for (may_index, own, expected) in [
        (false, None, Some("noindex")),
        (false, Some("all"), Some("all")),
        (true, None, None),
    ] {
        let mut world = World::with(|settings| settings.site.may_index = may_index);
        let mut visitor = world.visitor();
        visitor.get("/").await;
        let mut fields = vec![("content-length", "2")];
        fields.extend(own.map(|own| ("x-robots-tag", own)));
        world.stream().await.answer(200, &fields, "ok").await;
        let answer = visitor.until("ok").await;
        assert_eq!(header(&answer, "x-robots-tag"), expected);
    }
}
