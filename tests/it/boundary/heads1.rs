//! Requests of HTTP/1: ambiguous lengths, broken lines, other protocols, hosts that contradict, methods and
//! targets, what belongs to one hop, and bodies that break their framing.

use super::*;

/// Spellings of a field name that all mean the same.
fn spellings(name: &str) -> [String; 4] {
    let mixed = name.char_indices().map(|(at, c)| match at % 2 {
        0 => c.to_ascii_lowercase(),
        _ => c.to_ascii_uppercase(),
    });
    [
        name.to_owned(),
        name.to_ascii_lowercase(),
        name.to_ascii_uppercase(),
        mixed.collect(),
    ]
}

/// White space that may stand between a colon and a value.
const SPACES: [&str; 4] = ["", " ", "\t", " \t "];

/// A head with `lines` before, between and behind harmless fields.
fn placed(start: &str, lines: &[String]) -> Vec<(&'static str, String)> {
    let (host, bad) = (format!("Host: {}\r\n", host()), lines.concat());
    let (a, b) = ("Accept: */*\r\n", "X-Harmless: yes\r\n");
    vec![
        ("first", format!("{start}\r\n{bad}{host}{a}{b}\r\n")),
        ("amid", format!("{start}\r\n{host}{a}{bad}{b}\r\n")),
        ("last", format!("{start}\r\n{host}{a}{b}{bad}\r\n")),
    ]
}

/// Fields in every spelling, with every white space, at every place.
fn family(name: &str, start: &str, fields: &[(&str, &str)], statuses: &'static [u16]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (spelling, space) in SPACES.iter().enumerate() {
        let line = |(n, v): &(&str, &str)| format!("{}:{space}{v}\r\n", spellings(n)[spelling]);
        let lines: Vec<String> = fields.iter().map(line).collect();
        for (place, head) in placed(start, &lines) {
            cases.push(Case::new(
                format!("{name}, {fields:?}, {place}, {spelling}"),
                head,
                statuses,
            ));
        }
    }
    cases
}

const POST: &str = "POST / HTTP/1.1";
const GET: &str = "GET / HTTP/1.1";

#[tokio::test]
async fn ambiguous_lengths_reach_no_origin() {
    let boundary = Boundary::new().await;
    let mut cases = Vec::new();
    let (cl, te) = ("Content-Length", "Transfer-Encoding");
    for length in ["0", "5", "55"] {
        cases.extend(family(
            "two lengths",
            POST,
            &[(cl, length), (te, "chunked")],
            &[400],
        ));
        cases.extend(family(
            "two lengths",
            POST,
            &[(te, "chunked"), (cl, length)],
            &[400],
        ));
    }
    for coding in [
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "identity, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "xchunked",
        "chunkedx",
        "\"chunked\"",
        "chunked\u{b}",
        "x\u{1}chunked",
        "",
    ] {
        cases.extend(family("encoding", POST, &[(te, coding)], &[400]));
    }
    for (one, other) in [
        ("chunked", "chunked"),
        ("chunked", "identity"),
        ("gzip", "chunked"),
    ] {
        cases.extend(family("encoding", POST, &[(te, one), (te, other)], &[400]));
    }
    for start in ["POST / HTTP/1.0", "PUT / HTTP/1.0"] {
        cases.extend(family("HTTP/1.0", start, &[(te, "chunked")], &[400]));
        cases.extend(family("HTTP/1.0", start, &[], &[400]));
    }
    for length in [
        "+5",
        "-5",
        "0x5",
        "5,5",
        "5, 6",
        "5 5",
        "5.0",
        "5e0",
        "",
        "five",
        "١",
        "5;",
        "\"5\"",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999",
    ] {
        cases.extend(family("length", POST, &[(cl, length)], &[400]));
    }
    for pair in [["5", "6"], ["5", "5"], ["0", "5"], ["5", ""]] {
        let [one, other] = pair;
        cases.extend(family("length", POST, &[(cl, one), (cl, other)], &[400]));
    }
    boundary.refuses(cases).await;
}

#[tokio::test]
async fn broken_lines_and_other_protocols_reach_no_origin() {
    let boundary = Boundary::new().await;
    let host = host();
    let mut cases = Vec::new();
    for line in [
        "X: a\n",
        "X: a\nY: b\r\n",
        "X: a\r\n folded\r\n",
        "X: a\r\n\tfolded\r\n",
        "X : a\r\n",
        "X\t: a\r\n",
        " X: a\r\n",
        ": a\r\n",
        "no colon\r\n",
        "X: a\rb\r\n",
        "X: a\r\r\n",
        "X: a\0b\r\n",
        "X: a\u{7f}b\r\n",
        "X[]: a\r\n",
        "X(): a\r\n",
        "Ü: a\r\n",
        "X\0: a\r\n",
        "X/Y: a\r\n",
        "X, Y: a\r\n",
    ] {
        for (place, head) in placed(GET, &[line.to_owned()]) {
            cases.push(Case::new(format!("line {line:?} {place}"), head, &[400]));
        }
    }
    for start in [
        "GET / HTTP/1.1\nHost: x\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET /  HTTP/1.1\r\n",
        " GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1 \r\n",
        "GET\t/\tHTTP/1.1\r\n",
        "GET / HTTP/1.2\r\n",
        "GET / HTTP/2.0\r\n",
        "GET / HTTP/0.9\r\n",
        "GET / HTTP/3\r\n",
        "GET / HTTP/11\r\n",
        "GET / HTTP/1.10\r\n",
        "GET / HTTP/01.1\r\n",
        "GET / http/1.1\r\n",
        "GET / Http/1.1\r\n",
        "GET / HTTPS/1.1\r\n",
        "GET / HTTP /1.1\r\n",
        "GET /\r\n",
        "GET\r\n",
        "/ HTTP/1.1\r\n",
        "G\0T / HTTP/1.1\r\n",
        "GE[T / HTTP/1.1\r\n",
        "SSH-2.0-OpenSSH_9.7\r\n",
        "HELO example.test\r\n",
        "USER root\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n",
    ] {
        let head = format!("{start}Host: {host}\r\n\r\n");
        cases.push(Case::new(format!("start {start:?}"), head, &[400]));
    }
    boundary.refuses(cases).await;
}

#[tokio::test]
async fn hosts_methods_and_nominations_reach_no_origin() {
    let boundary = Boundary::new().await;
    let host = host();
    let mut cases = Vec::new();
    let mut bare = |name: &str, head: String, statuses: &'static [u16]| {
        cases.push(Case::new(format!("{name} {head:?}"), head, statuses));
    };
    bare(
        "no host",
        "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n".to_owned(),
        &[400],
    );
    for spelled in spellings("Host") {
        for space in SPACES {
            for more in [&host[..], "other.t.wormkey.test", ""] {
                let twice =
                    format!("GET / HTTP/1.1\r\nHost: {host}\r\n{spelled}:{space}{more}\r\n\r\n");
                bare("host twice", twice, &[400]);
            }
        }
    }
    for value in [
        "",
        "evil@app.t.wormkey.test",
        "app.t.wormkey.test:x",
        "a b",
        "app.t.wormkey.test,x",
        "app.t.wormkey.test/",
        "app.t.wormkey.test:99999",
        "[::1",
        "app.t.wormkey.test#",
        "ap%70.t.wormkey.test",
    ] {
        bare(
            "host",
            format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n"),
            &[400, 404, 421],
        );
    }
    for target in [
        "https://other.t.wormkey.test/",
        "http://u@app.t.wormkey.test/",
        "ftp://app.t.wormkey.test/",
        "https://app.t.wormkey.test:1/x",
        "https:///x",
        "https:/x",
    ] {
        bare(
            "target",
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            &[400, 421],
        );
    }
    for method in ["CONNECT", "TRACE"] {
        for target in ["/", "app.t.wormkey.test:443", "127.0.0.1:22"] {
            bare(
                "method",
                format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                &[400, 405],
            );
        }
    }
    for size in [33, 300, 3000] {
        let method = "M".repeat(size);
        bare(
            "method",
            format!("{method} / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            &[501],
        );
    }
    for named in [
        "Host",
        "content-length",
        "close, Host",
        "keep-alive,Content-Length",
        "a b",
        "\"host\"",
    ] {
        cases.extend(family(
            "nomination",
            POST,
            &[("Connection", named), ("Content-Length", "0")],
            &[400],
        ));
    }
    boundary.refuses(cases).await;
    // The connection is for one name, the request for another: the connection itself is sound.
    for other in ["other.t.wormkey.test", "t.wormkey.test", "localhost"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {other}\r\nConnection: close\r\n\r\n");
        let answer = raw(&boundary.visitor(), head.as_bytes()).await;
        assert_eq!(
            status(&answer),
            Some(421),
            "another name: {other}: {answer}"
        );
    }
    assert_eq!(boundary.canary.heard(), "");
    boundary.control().await;
}

#[tokio::test]
async fn targets_are_forwarded_to_the_byte_or_refused() {
    let boundary = Boundary::new().await;
    let mut forwarded = 0;
    for target in [
        "/",
        "//",
        "//evil.test/",
        "/../",
        "/a/../b",
        "/./",
        "/%2e%2e/",
        "/%00",
        "/a;b=c",
        "/?a?b",
        "/a%2fb",
        "/a%5cb",
        "/\\",
        "/ü",
        "/a#b",
        "/%",
        "/%zz",
        "/a b",
        "*",
        "",
        "a",
        "?",
        "#",
        "/|",
        "/^",
        "/{}",
        "/\"",
        "/<>",
        "/`",
        "/\u{7f}",
        "/\u{1}",
        "/[x]",
        "/~",
        "/!$&'()*+,;=:@",
    ] {
        boundary.canary.forget();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            host()
        );
        let answer = raw(&boundary.visitor(), head.as_bytes()).await;
        let heard = boundary.canary.heard();
        match status(&answer) {
            Some(200) => {
                let exact = heard.starts_with(&format!("GET {target} HTTP/1.1\r\n"));
                assert!(exact, "{target:?} became {heard:?}");
                forwarded += 1;
            }
            Some(400) => assert_eq!(heard, "", "{target:?}"),
            other => panic!("{target:?}: {other:?} {answer}"),
        }
    }
    assert!(forwarded >= 12, "{forwarded}");
    boundary.control().await;
}

#[tokio::test]
async fn what_is_between_hops_does_not_go_on() {
    let boundary = Boundary::new().await;
    let host = host();
    let forged: String = [
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Host: evil.test",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded_For: 6.6.6.6",
        "X_Real_IP: 6.6.6.6",
        "X-Forwarded-Port: 6666",
        "wormkey-request-id: 6.6.6.6",
        "Keep-Alive: timeout=6666",
        "Proxy-Connection: 6666",
        "TE: 6666",
        "HTTP2-Settings: 6666",
        "X-Nominated: 6666",
        "Connection: X-Nominated, close",
        "Upgrade: h2c",
    ]
    .map(|line| format!("{line}\r\n"))
    .concat();
    let head = format!("GET /forged HTTP/1.1\r\nHost: {host}\r\n{forged}\r\n");
    let answer = raw(&boundary.visitor(), head.as_bytes()).await;
    assert_eq!(status(&answer), Some(200), "{answer}");
    let heard = boundary.canary.heard().to_ascii_lowercase();
    for word in ["6.6.6.6", "6666", "gopher", "evil.test", "h2c"] {
        assert!(!heard.contains(word), "{word} in {heard}");
    }
    assert_eq!(
        heard.matches("\r\nx-forwarded-for: 127.0.0.1\r\n").count(),
        1,
        "{heard}"
    );
    assert_eq!(heard.matches("\r\nhost:").count(), 1, "{heard}");
    boundary.control().await;
    // What stands behind an upgrade request is the next request, unless a 101 came.
    let pipelined = format!(
        "GET /one HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n\
         GET /two HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(&boundary.visitor(), pipelined.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    let heard = boundary.canary.heard();
    assert!(
        heard.contains("GET /one ") && heard.contains("GET /two "),
        "{heard}"
    );
    assert_eq!(boundary.canary.heads(), 2, "{heard}");
    boundary.control().await;
}

#[tokio::test]
async fn a_body_that_breaks_its_framing_is_never_whole_at_the_origin() {
    let boundary = Boundary::new().await;
    let start = format!(
        "POST /chunks HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        host()
    );
    let long = "e".repeat(1 << 20);
    let mut cases = Vec::new();
    for chunks in [
        "0x1\r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        "g\r\na\r\n0\r\n\r\n",
        "10000000000000000\r\na\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "1\r\na\r\n0\r\n X: folded\r\n\r\n",
        "1\r\na\r\n0\r\nX : a\r\n\r\n",
        "1\r\na\r\n0\r\nX\r\n\r\n",
        "1\r\na\r\n0\r\n\n",
        "1;\n\r\na\r\n0\r\n\r\n",
        "1_0\r\na\r\n0\r\n\r\n",
    ] {
        cases.push(Case::new(
            format!("chunks {chunks:?}"),
            format!("{start}{chunks}"),
            &[400],
        ));
    }
    cases.push(Case::new(
        "chunk extension",
        format!("{start}1;{long}\r\na\r\n0\r\n\r\n"),
        &[400],
    ));
    cases.push(Case::new(
        "trailers",
        format!("{start}1\r\na\r\n0\r\nX: {long}\r\n\r\n"),
        &[400],
    ));
    for (case, answer) in boundary.exchange(cases).await {
        // An origin that answers at the head, as this one, may be quicker than the visitor's mistake.
        let status = status(&answer);
        assert!(
            matches!(status, Some(200 | 400)),
            "{}: {answer:?}",
            case.name
        );
        assert!(
            answer.matches("HTTP/1.1 ").count() == 1,
            "{}: {answer:?}",
            case.name
        );
    }
    let heard = boundary.canary.heard();
    assert!(!heard.contains("smuggled"), "{heard}");
    assert!(
        !heard.contains("\r\n0\r\n"),
        "a broken body arrived whole: {heard}"
    );
    boundary.control().await;
}
