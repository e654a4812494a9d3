//! Who gets in, with the real binaries: passwords over every way of asking, guesses, share links from the
//! link to the cookie, and a change of policy that puts those out who are in.

use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use data_encoding::{BASE64, BASE64_NOPAD};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use wormkey::admin::ApiClient;

use crate::origin::Origin;
use crate::visitor::{Answer, Visitor, get, whole};
use crate::world::{Daemon, PATIENCE, World, eventually};

fn api(daemon: &Daemon) -> ApiClient {
    ApiClient::new(daemon.socket().to_owned())
}

async fn open(client: &Daemon, target: String, name: &str, policy: Value) -> Value {
    let ask = json!({"target": target, "name": name, "policy": policy});
    let opened = api(client).post("/v1/tunnels", &ask).await;
    opened.unwrap().1
}

/// A hash as cheap as a policy may have it.
fn hash(password: &str) -> String {
    let (salt, mut hash) = (b"a salt of tests!", [0; 32]);
    let params = Params::new(8192, 1, 1, Some(32)).unwrap();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), salt, &mut hash)
        .unwrap();
    let (salt, hash) = (BASE64_NOPAD.encode(salt), BASE64_NOPAD.encode(&hash));
    format!("$argon2id$v=19$m=8192,t=1,p=1${salt}${hash}")
}

fn user(name: &str, password: &str) -> Value {
    json!({"user": name, "hash": hash(password)})
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64.encode(format!("{user}:{password}").as_bytes())
    )
}

fn asking(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// Over HTTP/1.1 and HTTP/2; the status must be the same.
async fn both(visitor: &Visitor, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let one = visitor.send1(asking(method, path, fields)).await.unwrap();
    let one = whole(one).await.unwrap();
    let two = visitor.send2(asking(method, path, fields)).await.unwrap();
    let two = whole(two).await.unwrap();
    assert_eq!(one.status, two.status, "{method} {path} {fields:?}");
    one
}

/// An origin that switches to echoing whenever it is asked anything.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tcp.read_u8().await?);
                }
                let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                tcp.write_all(switch.as_bytes()).await?;
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    port
}

/// Asks for a WebSocket; the connection, and the head of the answer.
async fn websocket(visitor: &Visitor, more: &str) -> (TlsStream<TcpStream>, String) {
    let mut tls = visitor.connect("http/1.1").await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n",
        visitor.authority()
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(tls.read_u8().await.unwrap());
    }
    (tls, String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn every_way_of_asking_needs_the_right_password() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let policy = json!({"auth": [user("ann", "her own"), user("bob", "sésame: open")]});
    open(&client, origin.target(), "app", policy.clone()).await;
    open(&client, echo().await.to_string(), "ws", policy).await;
    let (app, ws) = (world.visitor("app"), world.visitor("ws"));
    let looks = origin.visits();
    let right = basic("bob", "sésame: open");
    let wrong = basic("bob", "her own");
    for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
        let none = both(&app, method, "/head", &[]).await;
        assert_eq!(none.status, StatusCode::UNAUTHORIZED, "{method}");
        assert!(none.fields.contains_key("www-authenticate"));
        let bearer = [("authorization", "Bearer abc")];
        let none = both(&app, method, "/head", &bearer).await;
        assert_eq!(none.status, StatusCode::UNAUTHORIZED, "{method}");
    }
    let (_, none) = websocket(&ws, "").await;
    assert!(none.starts_with("HTTP/1.1 401 "), "{none}");
    let (_, none) = websocket(&ws, &format!("Authorization: {wrong}\r\n")).await;
    assert!(none.starts_with("HTTP/1.1 401 "), "{none}");
    for bad in [&wrong, &basic("nobody", "her own"), &basic("bob", "")] {
        let refused = both(&app, "GET", "/", &[("authorization", bad)]).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(
        origin.visits(),
        looks,
        "somebody came in without a password"
    );

    for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
        let let_in = both(&app, method, "/head", &[("authorization", &right)]).await;
        assert_eq!(let_in.status, StatusCode::OK, "{method}");
        // What was for us is not for the origin.
        assert!(
            !let_in.text().contains("authorization"),
            "{}",
            let_in.text()
        );
    }
    let ann = [("authorization", &*basic("ann", "her own"))];
    assert_eq!(both(&app, "GET", "/", &ann).await.status, StatusCode::OK);
    let (mut tls, switched) = websocket(&ws, &format!("Authorization: {right}\r\n")).await;
    assert!(switched.starts_with("HTTP/1.1 101 "), "{switched}");
    tls.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    tls.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, *b"hello");
}

#[tokio::test]
async fn without_auth_a_password_is_the_origins_own() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    open(&client, origin.target(), "app", json!({})).await;
    let theirs = [("authorization", "Basic b3duOnNlY3JldA==")];
    let answer = both(&world.visitor("app"), "GET", "/head", &theirs).await;
    assert!(
        answer.text().contains("b3duOnNlY3JldA=="),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn ten_thousand_guesses_are_not_ten_thousand_checks() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let policy = json!({"auth": [user("bob", "right")]});
    open(&client, origin.target(), "app", policy).await;
    let looks = origin.visits();
    let visitor = world.visitor("app");
    // Somebody who is in before the flood stays in through it: a right password that is known is no guess.
    let right = [("authorization", &*basic("bob", "right"))];
    assert_eq!(
        both(&visitor, "GET", "/", &right).await.status,
        StatusCode::OK
    );

    let tls = visitor.connect("h2").await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut guessers = tokio::task::JoinSet::new();
    for guesser in 0..50 {
        let (mut sender, visitor) = (sender.clone(), visitor.clone());
        guessers.spawn(async move {
            let mut counts = (0, 0);
            for guess in 0..200 {
                let guess = basic("bob", &format!("{guesser}-{guess}"));
                let uri = format!("https://{}/", visitor.authority());
                let request = asking("GET", &uri, &[("authorization", &guess)]);
                match sender.send_request(request).await.unwrap().status() {
                    StatusCode::UNAUTHORIZED => counts.0 += 1,
                    StatusCode::TOO_MANY_REQUESTS => counts.1 += 1,
                    other => panic!("{other}"),
                }
            }
            counts
        });
    }
    let counts = guessers.join_all().await;
    let (wrong, late) = counts
        .iter()
        .fold((0, 0), |sum, c| (sum.0 + c.0, sum.1 + c.1));
    assert_eq!(wrong + late, 10_000);
    // Ten at once and ten a minute: what was checked, and what that cost, is a handful.
    assert!((1..=30).contains(&wrong), "{wrong} guesses were checked");
    assert_eq!(
        both(&visitor, "GET", "/", &right).await.status,
        StatusCode::OK
    );
    assert_eq!(origin.visits(), looks + 4);
}

/// Makes a share link; its path on the tunnel's host.
async fn share(client: &Daemon, slug: &str, more: Value) -> String {
    let mut ask = json!({"expires": "10m"});
    ask.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let made = api(client)
        .post(&format!("/v1/tunnels/{slug}/shares"), &ask)
        .await;
    let (_, link): (_, Value) = made.unwrap();
    let url = link["url"].as_str().unwrap();
    let at = url.find("/.wormkey/share/").unwrap();
    url[at..].to_owned()
}

/// The cookie of an answer, as it is sent back.
fn cookie(answer: &Answer) -> String {
    let set = answer.fields["set-cookie"].to_str().unwrap();
    set.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_share_link_lets_in_whom_it_is_for_and_no_further() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let policy =
        json!({"auth": [user("bob", "right")], "share": "allowed", "deny_paths": ["/bytes/**"]});
    open(&client, origin.target(), "app", policy.clone()).await;
    open(&client, origin.target(), "other", policy).await;
    let (visitor, other) = (world.visitor("app"), world.visitor("other"));
    let link = share(&client, "app", json!({"uses": 1, "methods": ["GET"]})).await;

    // What is no visitor with a browser uses nothing up, and on another tunnel the link is none.
    for method in ["HEAD", "POST", "OPTIONS"] {
        let looked = both(&visitor, method, &link, &[]).await;
        assert_eq!(looked.status, StatusCode::NOT_FOUND, "{method}");
    }
    assert_eq!(other.get(&link).await.status, StatusCode::GONE);
    let opened = visitor.get(&link).await;
    assert_eq!(opened.status, StatusCode::SEE_OTHER);
    assert_eq!(opened.fields["location"], "/");
    let set = opened.fields["set-cookie"].to_str().unwrap();
    assert!(set.starts_with("__Host-wormkey-share="), "{set}");
    for part in [
        "; Path=/;",
        "; Secure",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Max-Age=5",
    ] {
        assert!(set.contains(part), "{part} in {set}");
    }
    assert!(!set.to_lowercase().contains("domain"), "{set}");

    let proof = cookie(&opened);
    let ours = [("cookie", &*format!("a=1; {proof}"))];
    let seen = both(&visitor, "GET", "/head", &ours).await;
    assert_eq!(seen.status, StatusCode::OK);
    assert!(seen.text().contains("\"a=1\""), "{}", seen.text());
    // A link never widens what the tunnel allows, nor is it for more than it says.
    let denied = both(&visitor, "GET", "/bytes/1", &ours).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let posted = both(&visitor, "POST", "/head", &ours).await;
    assert_eq!(posted.status, StatusCode::FORBIDDEN);
    let elsewhere = both(&other, "GET", "/head", &ours).await;
    assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED);
    // The link is no cookie, and the cookie is no link.
    let token = link.rsplit('/').next().unwrap();
    let swapped = format!("__Host-wormkey-share={token}");
    let swapped = both(&visitor, "GET", "/", &[("cookie", &swapped)]).await;
    assert_eq!(swapped.status, StatusCode::UNAUTHORIZED);
    let proof = proof.split_once('=').unwrap().1;
    let swapped = visitor.get(&format!("/.wormkey/share/{proof}")).await;
    assert_eq!(swapped.status, StatusCode::GONE);

    // One use is one use, also after a crash; who is in stays in.
    world.server.crash().await;
    world.server.start().await;
    let used_up = visitor.get(&link).await;
    assert_eq!(
        (used_up.status, used_up.error()),
        (StatusCode::GONE, "share_over")
    );
    eventually("the client is back", || async {
        let seen = visitor.send1(asking("GET", "/", &ours)).await.ok()?;
        (seen.status() == StatusCode::OK).then_some(())
    })
    .await;
    let log = world.server.log();
    assert!(
        !log.contains(token) && !log.contains(proof),
        "a log has the secret"
    );
}

#[tokio::test]
async fn who_may_not_come_uses_no_share_link_up() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let policy = json!({"share": "required", "deny": ["127.0.0.0/8"]});
    open(&client, origin.target(), "app", policy).await;
    let link = share(&client, "app", json!({"uses": 1, "paths": ["/head/*"]})).await;
    let visitor = world.visitor("app");
    assert_eq!(visitor.get(&link).await.status, StatusCode::FORBIDDEN);
    let free = json!({"policy": {}, "parts": ["deny"]});
    let _: Value = api(&client).patch("/v1/tunnels/app", &free).await.unwrap();
    let opened = visitor.get(&link).await;
    assert_eq!(opened.status, StatusCode::SEE_OTHER);
    assert_eq!(opened.fields["location"], "/head/");
    assert_eq!(visitor.get(&link).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn a_set_puts_out_who_it_no_longer_allows() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let (ann, bob) = (user("ann", "a"), user("bob", "b"));
    let policy = json!({"auth": [ann, bob]});
    open(&client, echo().await.to_string(), "ws", policy).await;
    let visitor = world.visitor("ws");
    let enter = async |name, password| {
        let field = format!("Authorization: {}\r\n", basic(name, password));
        let (tls, head) = websocket(&visitor, &field).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        tls
    };
    let mut out = enter("ann", "a").await;
    let mut stays = enter("bob", "b").await;
    let only_bob = json!({"policy": {"auth": [bob]}, "parts": ["auth"]});
    let set = std::time::Instant::now();
    let _: Value = api(&client)
        .patch("/v1/tunnels/ws", &only_bob)
        .await
        .unwrap();
    let mut room = [0; 16];
    let ended = tokio::time::timeout(PATIENCE, out.read(&mut room)).await;
    let ended = ended.expect("she is put out");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let took = set.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    stays.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    stays.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, *b"still here");
    let (_, refused) = websocket(&visitor, "").await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
    assert_eq!(
        whole(visitor.send1(get("/")).await.unwrap())
            .await
            .unwrap()
            .error(),
        "unauthorized"
    );
}

#[tokio::test]
async fn a_shadow_of_auth_tells_of_wrong_passwords_only_and_takes_none_from_the_origin() {
    let mut world = World::new().await;
    let client = world.joined().await;
    let origin = Origin::named("inside").await;
    let policy = json!({"auth": [user("bob", "right")], "shadow": ["auth"]});
    open(&client, origin.target(), "app", policy).await;
    let visitor = world.visitor("app");
    let (right, theirs) = (basic("bob", "right"), basic("alice", "their own"));
    for (before, (said, told)) in [
        (None, json!(["auth"])),
        (Some(&right), json!([])),
        (Some(&theirs), json!(["auth"])),
    ]
    .into_iter()
    .enumerate()
    {
        let fields = said.map(|said| ("authorization", &said[..]));
        let asked = asking("GET", "/head", fields.as_slice());
        let answer = whole(visitor.send1(asked).await.unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        if let Some(said) = said {
            assert!(answer.text().contains(said), "{}", answer.text());
        }
        let found = eventually("its owner is told", || async {
            let page: Value = api(&client).get("/v1/visits").await.unwrap();
            Some(page["visits"].get(before)?["shadowed"].clone())
        })
        .await;
        assert_eq!(found, told, "{said:?}");
    }
    // Guesses without end are no reason to keep anybody out.
    for guess in 0..80 {
        let said = basic("bob", &format!("guess {guess}"));
        let asked = asking("GET", "/", &[("authorization", &said)]);
        let answer = whole(visitor.send2(asked).await.unwrap()).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{guess}");
    }
}

/// An origin whose answer begins and does not end.
async fn endless() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tcp.read_u8().await?);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegun";
                tcp.write_all(answer).await?;
                tcp.read_u8().await
            });
        }
    });
    port
}

#[tokio::test]
async fn what_is_suspended_is_cut_within_a_second_sockets_and_downloads_alike() {
    let mut world = World::new().await;
    let client = world.joined().await;
    open(&client, echo().await.to_string(), "ws", json!({})).await;
    let opened = open(&client, endless().await.to_string(), "big", json!({})).await;
    let (ws, big) = (world.visitor("ws"), world.visitor("big"));
    let devices = world.server_ctl(&["devices"]).await.ok().json();
    let device = devices["devices"][0]["id"].as_str().unwrap();
    let tunnel = opened["id"].as_str().unwrap();
    for (what, cuts_ws, cuts_big) in [
        ("ws", true, false),
        (tunnel, false, true),
        (device, true, true),
        ("default", true, true),
    ] {
        let (mut socket, head) = eventually("the client is linked", || async {
            let (tls, head) = websocket(&ws, "").await;
            head.starts_with("HTTP/1.1 101 ").then_some((tls, head))
        })
        .await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let download = big.send1(get("/")).await.unwrap();
        assert_eq!(download.status(), StatusCode::OK);
        world.server_ctl(&["suspend", what]).await.ok();
        let suspended = std::time::Instant::now();
        let mut room = [0; 16];
        if cuts_ws {
            let ended = tokio::time::timeout(PATIENCE, socket.read(&mut room)).await;
            let ended = ended.expect("the socket is cut");
            assert!(matches!(ended, Ok(0) | Err(_)), "{what}: {ended:?}");
        } else {
            socket.write_all(b"still here").await.unwrap();
            socket.read_exact(&mut room[..10]).await.unwrap();
            assert_eq!(&room[..10], b"still here", "{what}");
        }
        let whole = whole(download);
        if cuts_big {
            let ended = tokio::time::timeout(PATIENCE, whole).await;
            assert!(ended.expect("the download is cut").is_err(), "{what}");
        } else {
            let goes_on = tokio::time::timeout(Duration::from_millis(200), whole).await;
            assert!(goes_on.is_err(), "{what} ended another's download");
        }
        let took = suspended.elapsed();
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
        world.server_ctl(&["resume", what]).await.ok();
    }
}
