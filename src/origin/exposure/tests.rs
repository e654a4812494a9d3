//! What the tables find and what they let be, and looks at small real origins.

use std::time::Duration;

use ::http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::web::{Answer, Ask, judge};
use super::*;
use crate::origin::tests::{Server, World, read_head, tunnel_to};

fn answer(status: u16, kind: &'static str, text: &str) -> Answer {
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static(kind));
    Answer {
        status,
        fields,
        text: text.into(),
    }
}

fn names(dangers: &[&'static Danger]) -> Vec<&'static str> {
    dangers.iter().map(|danger| danger.name).collect()
}

fn at(path: &'static str, answer: &Answer) -> Vec<&'static str> {
    let ask = match path {
        "/" => Ask::Start,
        "unknown" => Ask::Unknown,
        path => Ask::Path(path),
    };
    names(&judge(ask, answer, None))
}

#[test]
fn each_danger_has_a_name_of_its_own_and_sentences_that_fit() {
    for (i, one) in danger::ALL.iter().enumerate() {
        assert!(danger::ALL[i + 1..].iter().all(|b| b.name != one.name));
        for text in [one.what, one.why, one.fix] {
            assert!(!text.is_empty() && !text.ends_with('.'), "{}", one.name);
        }
    }
}

#[test]
fn dangerous_answers_are_known_by_their_content() {
    let html = "text/html; charset=utf-8";
    let json = "application/json";
    for (path, kind, text, name) in [
        (
            "/",
            html,
            "<!DOCTYPE HTML>\n<title>Directory listing for /</title><body><h1>Directory listing for /</h1><hr><ul><li><a href=\"a\">a</a></ul>",
            "directory-listing",
        ),
        (
            "/",
            html,
            "<html>\r\n<head><title>Index of /</title></head>\r\n<body>\r\n<h1>Index of /</h1><hr><pre><a href=\"../\">../</a>",
            "directory-listing",
        ),
        (
            "/",
            json,
            "{\n \"name\" : \"n\",\n \"cluster_name\" : \"docker\",\n \"version\" : { \"lucene_version\" : \"9\" },\n \"tagline\" : \"You Know, for Search\"}",
            "elasticsearch-open",
        ),
        (
            "/",
            "text/plain",
            "It looks like you are trying to access MongoDB over HTTP on the native driver port.\r\n",
            "mongodb",
        ),
        (
            "/",
            html,
            "<title>PHP 8.2.29 - phpinfo()</title><table><tr><td><h1>PHP Version 8.2.29</h1>",
            "phpinfo",
        ),
        (
            "/.git/HEAD",
            "application/octet-stream",
            "ref: refs/heads/main\n",
            "git-folder",
        ),
        (
            "/.git/HEAD",
            "text/plain",
            "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12\n",
            "git-folder",
        ),
        (
            "/.env",
            "text/plain",
            "# settings\nAPP_KEY=base64:x\nexport DB_PASSWORD=\"a b\"\n",
            "env-file",
        ),
        (
            "/version",
            json,
            "{\"Platform\":{},\"ApiVersion\":\"1.51\",\"MinAPIVersion\":\"1.24\"}",
            "docker-api",
        ),
        (
            "/version",
            json,
            "{\"etcdserver\":\"3.6.1\",\"etcdcluster\":\"3.6.0\"}",
            "etcd",
        ),
        (
            "/api/status",
            json,
            "{\"connections\": 0, \"kernels\": 0, \"last_activity\": \"2026\", \"started\": \"2026\"}",
            "jupyter-open",
        ),
        (
            "/console",
            html,
            "<script>var EVALEX = true, EVALEX_TRUSTED = false;</script> Werkzeug",
            "werkzeug-console",
        ),
        (
            "/json/version",
            json,
            "{\n  \"Browser\": \"node.js/v22\",\n  \"Protocol-Version\": \"1.1\"\n}",
            "node-inspector",
        ),
        (
            "/debug/pprof/",
            html,
            "<title>/debug/pprof/</title><a href='goroutine?debug=1'>",
            "go-pprof",
        ),
        (
            "/actuator",
            json,
            "{\"_links\":{\"env\":{\"href\":\"http://x/actuator/env\"}}}",
            "spring-actuator",
        ),
        (
            "/v1/agent/self",
            json,
            "{\"Config\":{\"Datacenter\":\"dc1\",\"NodeName\":\"n\"},\"Member\":{}}",
            "consul-open",
        ),
        (
            "/pods",
            json,
            "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"items\":[]}",
            "kubelet-open",
        ),
    ] {
        assert_eq!(at(path, &answer(200, kind, text)), [name], "{path} {text}");
        let refused = at(path, &answer(403, kind, text));
        assert!(refused.is_empty() || name == "mongodb", "{path} refused");
    }
    let debug = "<p>You’re seeing this error because you have <code>DEBUG = True</code> in your Django settings file.";
    assert_eq!(at("unknown", &answer(404, html, debug)), ["django-debug"]);
}

#[test]
fn harmless_answers_are_let_be() {
    let spa = answer(
        200,
        "text/html",
        "<!doctype html><title>App</title><script>APP_KEY=1</script>",
    );
    let talk = answer(
        200,
        "text/html",
        "<title>How to turn off Index of /</title><h1>nginx</h1><pre>Index of /</pre>",
    );
    let json = answer(
        200,
        "application/json",
        "{\"version\":\"1.0\",\"status\":\"ok\"}",
    );
    let text = answer(200, "text/plain", "hello\nworld\n");
    let sum = answer(
        200,
        "text/plain",
        "a = b is how one writes that\nand this is prose\nmore of it\n",
    );
    for page in [&spa, &talk, &json, &text, &sum] {
        for path in web::paths().into_iter().chain(["/", "unknown"]) {
            assert_eq!(at(path, page), <[&str; 0]>::default(), "{path} {page:?}");
        }
    }
}

#[test]
fn what_every_path_says_is_no_evidence() {
    let env = answer(200, "text/plain", "NAME=value\n");
    assert_eq!(
        names(&judge(Ask::Path("/.env"), &env, Some(&spa()))),
        ["env-file"]
    );
    assert!(judge(Ask::Path("/.env"), &env, Some(&env)).is_empty());
}

fn spa() -> Answer {
    answer(200, "text/html", "<!doctype html><div id=root></div>")
}

#[test]
fn replies_tell_who_is_there() {
    let read = |reply: &[u8]| {
        let all = bytes::PROBES.iter().chain([&bytes::GREETING]);
        let found: Vec<_> = all.filter_map(|probe| (probe.read)(reply)).collect();
        names(&found)
    };
    let mut no_auth = b"\xff\0\0\0\x09\0\0\0\x01\0\0\0\xdd\x07\0\0\0\0\0\0\0".to_vec();
    let mut asks_auth = no_auth.clone();
    no_auth.extend(b"\x80\0\0\0\x04databases\0\x01ok\0");
    asks_auth.extend(b"\x80\0\0\0\x01ok\0\0\0\0\0\0\0\0\0\x02errmsg\0");
    for (reply, name) in [
        (&b"+PONG\r\n"[..], "redis-open"),
        (b"-NOAUTH Authentication required.\r\n", "redis"),
        (b"VERSION 1.6.18\r\n", "memcached-open"),
        (b"R\0\0\0\x08\0\0\0\0S\0", "postgres-trust"),
        (b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", "postgres"),
        (b"E\0\0\0\x64SFATAL\0VFATAL\0C28000\0", "postgres"),
        (&no_auth, "mongodb-open"),
        (&asks_auth, "mongodb"),
        (b"\x4a\0\0\0\x0a8.0.44\0\x08", "mysql"),
        (b"\x5b\0\0\0\x0a5.5.5-10.11.6-MariaDB\0\x08", "mysql"),
    ] {
        assert_eq!(read(reply), [name], "{reply:?}");
        for cut in 0..reply.len() {
            // Whatever has come so far: no panic, and no other verdict.
            assert!(read(&reply[..cut]).iter().all(|n| *n == name), "{reply:?}");
        }
    }
    for reply in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"220 mail ESMTP\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"ERROR\r\n",
        b"-ERR unknown command\r\n",
        b"\0\0\x06\x04\0\0\0\0\0\0\x05",
        b"",
    ] {
        assert!(read(reply).is_empty(), "{reply:?}");
    }
}

#[test]
fn a_folder_is_judged_by_what_is_served_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let put = |name: &str, text: &str| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
    put("index.html", "hello");
    put(".git/HEAD", "ref: refs/heads/main\n");
    put(".env", "KEY=secret\n");
    put(".ssh/id_rsa", key);
    put("id_rsa.pub", "ssh-rsa AAAA");
    put("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    put("a/b/c/id_rsa", key);
    assert!(directory::look(root).is_empty(), "hidden, public or deep");
    put("keys/server.key", key);
    assert_eq!(names(&directory::look(root)), ["private-key"]);
    put("keys/server.key", "");
    put("prod.env", "PASSWORD=x\n");
    assert_eq!(names(&directory::look(root)), ["env-file"]);
    std::fs::create_dir_all(root.join(".git/objects")).unwrap();
    std::fs::create_dir_all(root.join(".git/refs")).unwrap();
    assert_eq!(names(&directory::look(&root.join(".git"))), ["git-folder"]);
}

async fn sight(target: &str) -> Result<Vec<&'static str>, String> {
    let world = World::new();
    let tunnel = tunnel_to(target, HostMode::Auto);
    match world.origins.sight(&tunnel).await {
        Sight::Harmless => Ok(Vec::new()),
        Sight::Unclear => Ok(vec!["unclear"]),
        Sight::Exposed(exposure) => Ok(exposure.names().collect()),
        Sight::Unreachable(error) => Err(error.to_string()),
    }
}

/// Replies to certain first words, and closes on others.
async fn speaker(words: &'static str, reply: &'static [u8]) -> Server {
    Server::new(move |mut stream, _| async move {
        let mut heard = [0; 512];
        let n = stream.read(&mut heard).await.unwrap_or_default();
        if heard[..n].starts_with(words.as_bytes()) {
            let _ = stream.write_all(reply).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_database_is_found_behind_http_and_behind_tcp() {
    let open = speaker("*1\r\n$4\r\nPING", b"+PONG\r\n").await;
    let locked = speaker("*1\r\n$4\r\nPING", b"-NOAUTH no\r\n").await;
    let tcp = |server: &Server| server.target().replace("http", "tcp");
    assert_eq!(sight(&open.target()).await.unwrap(), ["redis-open"]);
    assert_eq!(sight(&tcp(&open)).await.unwrap(), ["redis-open"]);
    assert_eq!(sight(&locked.target()).await.unwrap(), ["redis"]);
    assert!(sight(&tcp(&locked)).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_http_api_is_found_behind_tcp_too() {
    let body = "{\"ApiVersion\":\"1.51\",\"MinAPIVersion\":\"1.24\"}";
    let docker = Server::new(move |mut stream, _| async move {
        while let Some(head) = read_head(&mut stream).await {
            let (status, body) = if head.starts_with("GET /version ") {
                (200, body)
            } else {
                (404, "")
            };
            let answer = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    for target in [docker.target(), docker.target().replace("http", "tcp")] {
        assert_eq!(sight(&target).await.unwrap(), ["docker-api"], "{target}");
    }
}

#[tokio::test]
async fn an_origin_that_is_away_was_not_looked_at() {
    let gone = Server::repeating("").await.target();
    assert!(sight(&gone).await.is_err());
    assert!(
        sight("http://192.0.2.1")
            .await
            .unwrap_err()
            .contains("[origins]")
    );
    assert!(sight("udp://127.0.0.1:53").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_lets_nobody_look_is_not_taken_for_away() {
    // No TLS there: to the looker that is what an origin without HTTP/1.1 in its ALPN is.
    let plain = Server::repeating("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    for scheme in ["https+insecure", "tls"] {
        let target = plain.target().replacen("http", scheme, 1);
        assert_eq!(sight(&target).await.unwrap(), ["unclear"], "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_never_takes_more_than_two_seconds() {
    let silent =
        Server::new(|mut stream, _| async move { while read_head(&mut stream).await.is_some() {} })
            .await;
    let endless = Server::new(|mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    for (server, is_silent) in [(silent, true), (endless, false)] {
        for target in [server.target(), server.target().replace("http", "tcp")] {
            let began = Instant::now();
            let seen = sight(&target).await.unwrap();
            // What goes on for ever is judged by its beginning.
            assert!(
                seen == ["unclear"] || seen.is_empty() && !is_silent,
                "{target}"
            );
            let took = began.elapsed();
            assert!(
                took < WITHIN + Duration::from_millis(100),
                "{target}: {took:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_path_that_was_not_answered_counted_as_harmless() {
    let picky = |refused: &'static str| {
        Server::new(move |mut stream, _| async move {
            let Some(head) = read_head(&mut stream).await else {
                return;
            };
            if !head.contains(refused) {
                let answer =
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
    };
    let path = web::paths()[0];
    let server = picky(path).await;
    assert_eq!(sight(&server.target()).await.unwrap(), ["unclear"]);
    let server = picky("no such words").await;
    assert!(sight(&server.target()).await.unwrap().is_empty());
}
