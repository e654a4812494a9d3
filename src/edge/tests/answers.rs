//! Our own answers: what they say, to whom, and what becomes of a visit that fails.

use super::*;

async fn ask(world: &World, request: &str) -> String {
    let mut visitor = world.visitor();
    visitor.send(request.as_bytes()).await;
    visitor.send(b"GET / HTTP/1.1\n").await;
    visitor.rest().await
}

fn get(host: &str, path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

#[tokio::test(start_paused = true)]
async fn browsers_get_a_page_and_programs_get_a_problem() {
    let world = World::new();
    let refuse = |world: &World| {
        world.change(|s| {
            s.refusals.push_back(Some(Refusal::Expired {
                tunnel: Slug::parse("app").unwrap(),
            }))
        });
    };
    refuse(&world);
    let page = ask(
        &world,
        &get("app.t.example", "/", "Accept: text/html,*/*;q=0.8\r\n"),
    )
    .await;
    assert_eq!(status(&page), 410);
    assert_eq!(header(&page, "wormkey-error"), Some("tunnel_expired"));
    assert_eq!(header(&page, "cache-control"), Some("no-store"));
    assert_eq!(
        header(&page, "content-type"),
        Some("text/html; charset=utf-8")
    );
    let policy = header(&page, "content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'nonce-"),
        "{policy}"
    );
    let id = header(&page, "wormkey-request-id").unwrap();
    let body = page.split("\r\n\r\n").nth(1).unwrap();
    for part in [
        "Wormhole closed or expired.",
        "prefers-color-scheme:dark",
        id,
        "tunnel_expired",
    ] {
        assert!(body.contains(part), "{part}");
    }
    for asset in ["http:", "https:", "src=", "<script", "@import", "url("] {
        assert!(!body.contains(asset), "{asset}");
    }
    refuse(&world);
    let problem = ask(&world, &get("app.t.example", "/", "Accept: */*\r\n")).await;
    assert_eq!(
        header(&problem, "content-type"),
        Some("application/problem+json")
    );
    let json = problem.split("\r\n\r\n").nth(1).unwrap();
    let json = json.split("HTTP/1.1").next().unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(json["status"], 410);
    assert_eq!(json["code"], "tunnel_expired");
    assert_eq!(
        json["request_id"],
        header(&problem, "wormkey-request-id").unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn an_absent_link_says_when_to_try_again_and_the_page_does_it() {
    let world = World::new();
    let refuse = |world: &World| {
        world.change(|s| {
            s.refusals.push_back(Some(Refusal::Offline {
                tunnel: Slug::parse("app").unwrap(),
                retry_in: Duration::from_millis(2500),
            }));
        });
    };
    refuse(&world);
    let page = ask(&world, &get("app.t.example", "/", "Accept: text/html\r\n")).await;
    assert_eq!(status(&page), 502);
    assert_eq!(header(&page, "wormkey-error"), Some("tunnel_offline"));
    assert_eq!(header(&page, "retry-after"), Some("3"));
    assert!(page.contains("http-equiv=\"refresh\" content=\"3\""));
    refuse(&world);
    let post =
        "POST / HTTP/1.1\r\nHost: app.t.example\r\nAccept: text/html\r\nContent-Length: 0\r\n\r\n";
    let page = ask(&world, post).await;
    assert!(
        !page.contains("http-equiv=\"refresh\""),
        "a form is not sent twice by itself"
    );
}

#[tokio::test(start_paused = true)]
async fn unknown_hosts_and_our_own_paths_lead_nowhere() {
    let world = World::new();
    let mut facts = World::facts(false);
    facts.sni = None;
    for (host, path, code) in [
        ("t.example", "/elsewhere", "no_such_tunnel"),
        ("a.b.t.example", "/", "no_such_tunnel"),
        ("example.org", "/", "no_such_tunnel"),
        ("127.0.0.1", "/", "no_such_tunnel"),
        ("[::1]", "/", "no_such_tunnel"),
        ("app.t.example", "/.wormkey/login", "not_found"),
        (
            "app.t.example",
            "/.well-known/wormkey/connect?x",
            "not_found",
        ),
    ] {
        let mut visitor = world.connect(facts.clone());
        visitor
            .send(get(host, path, "Connection: close\r\n").as_bytes())
            .await;
        let response = visitor.rest().await;
        assert_eq!(status(&response), 404, "{host}{path}");
        assert_eq!(
            header(&response, "wormkey-error"),
            Some(code),
            "{host}{path}"
        );
    }
    assert_eq!(world.opened(), 0);
}

#[tokio::test(start_paused = true)]
async fn hosts_that_are_nobodys_were_counted_for_nobody_outside_of_the_domain() {
    for scheme in [Scheme::Https, Scheme::Http] {
        let world = World::new();
        world.change(|s| s.strangers = Some(1));
        let mut facts = World::facts(false);
        (facts.sni, facts.scheme) = (None, scheme);
        for code in [404, 429] {
            let mut visitor = world.connect(facts.clone());
            let ask = get("example.org", "/", "Connection: close\r\n");
            visitor.send(ask.as_bytes()).await;
            let response = visitor.rest().await;
            assert_eq!(status(&response), code, "{response}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_name_in_tls_the_host_decides() {
    let mut world = World::new();
    let mut facts = World::facts(false);
    facts.sni = None;
    let mut visitor = world.connect(facts);
    visitor
        .send(get("other.t.example", "/", "").as_bytes())
        .await;
    let stream = world.stream().await;
    assert_eq!(stream.head.authority, "other.t.example");
    assert_eq!(world.shared.lock().unwrap().admitted[0].label, "other");
    assert_eq!(world.edge.visits_total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_gone_is_asked_for_once_more() {
    let mut world = World::new();
    world.change(|s| s.opens.push_back(OpenError::LinkGone));
    let mut visitor = world.visitor();
    visitor.get("/").await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "2")], "ok")
        .await;
    assert_eq!(status(&visitor.until("ok").await), 200);
    assert_eq!(world.opened(), 2);

    world.change(|s| s.opens.extend([OpenError::LinkGone; 3]));
    let response = ask(&world, &get("app.t.example", "/", "")).await;
    assert_eq!(header(&response, "wormkey-error"), Some("tunnel_offline"));
    assert_eq!(world.opened(), 4, "twice and no more");

    world.change(|s| {
        s.opens.clear();
        s.opens.push_back(OpenError::NoStream);
    });
    let response = ask(&world, &get("app.t.example", "/", "")).await;
    assert_eq!(status(&response), 503);
    assert_eq!(header(&response, "wormkey-error"), Some("overloaded"));
    world.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_visit_that_reached_no_origin_is_tried_again_on_another_link_only() {
    let mut world = World::new();
    world.change(|s| s.fresh_links = true);
    let mut visitor = world.visitor();
    visitor.get("/").await;
    let mut first = world.stream().await;
    first.response.reset(StreamCode::UnknownTunnel);
    let second = world.stream().await;
    assert_ne!(first.link, second.link);
    second.answer(200, &[("content-length", "2")], "ok").await;
    assert_eq!(status(&visitor.until("ok").await), 200);

    world.change(|s| s.fresh_links = false);
    visitor.get("/").await;
    world
        .stream()
        .await
        .response
        .reset(StreamCode::OriginUnreachable);
    let response = visitor.until("vis_").await;
    assert_eq!(
        header(&response, "wormkey-error"),
        Some("origin_unreachable")
    );
    assert_eq!(world.opened(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_visit_that_may_have_reached_an_origin_is_never_sent_again() {
    for (code, status_, error) in [
        (Some(StreamCode::OriginError), 502, "origin_error"),
        (Some(StreamCode::OriginTimeout), 504, "origin_timeout"),
        (Some(StreamCode::TunnelEnded), 410, "tunnel_closed"),
        (Some(StreamCode::Unsupported), 501, "not_implemented"),
        (None, 502, "origin_error"),
    ] {
        let mut world = World::new();
        world.change(|s| s.fresh_links = true);
        let mut visitor = world.visitor();
        visitor.get("/").await;
        let mut stream = world.stream().await;
        match code {
            Some(code) => stream.response.reset(code),
            // An end without a head.
            None => stream.response.finish(),
        }
        let response = visitor.until("vis_").await;
        assert_eq!(status(&response), status_);
        assert_eq!(header(&response, "wormkey-error"), Some(error));
        assert_eq!(world.opened(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_500() {
    let mut world = World::new();
    world.change(|s| s.panics = true);
    let mut visitor = world.visitor();
    visitor.get("/").await;
    assert_eq!(status(&visitor.until("vis_").await), 500);
    // The lock was poisoned by the panic, which only this test's own code minds.
    world.shared.clear_poison();
    let mut other = world.visitor();
    other.get("/").await;
    world
        .stream()
        .await
        .answer(200, &[("content-length", "2")], "ok")
        .await;
    other.until("ok").await;
}

#[tokio::test(start_paused = true)]
async fn plain_http_redirects_our_names_and_refuses_the_rest() {
    let world = World::with(|s| s.public_https_port = 8443);
    let plain = |request: String| {
        let facts = Facts {
            scheme: Scheme::Http,
            sni: None,
            ..World::facts(false)
        };
        let mut visitor = world.connect(facts);
        async move {
            visitor.send(request.as_bytes()).await;
            visitor.rest().await
        }
    };
    let close = "Connection: close\r\n";
    let response = plain(get("App.t.example:80", "/a?b=/../c", close)).await;
    assert_eq!(status(&response), 308);
    assert_eq!(
        header(&response, "location"),
        Some("https://app.t.example:8443/a?b=/../c")
    );
    let response = plain(get("t.example", "/", close)).await;
    assert_eq!(
        header(&response, "location"),
        Some("https://t.example:8443/")
    );
    let response = plain(get("evil.org", "/", close)).await;
    assert_eq!(status(&response), 404);
    assert_eq!(header(&response, "location"), None);
    let response = plain("GET / HTTP/1.1\nHost: app.t.example\r\n\r\n".into()).await;
    assert_eq!(status(&response), 400);
    world.edge.reload(EdgeSettings::new(host("t.example"), 443));
    let response = plain(get("app.t.example", "/x", close)).await;
    assert_eq!(
        header(&response, "location"),
        Some("https://app.t.example/x")
    );
    assert_eq!(world.opened(), 0);
}
