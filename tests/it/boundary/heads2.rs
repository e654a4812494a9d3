//! Heads of HTTP/2: hosts that contradict, methods, what belongs to one hop, `:protocol`, and what RFC 9113
//! calls malformed.

use super::frames::{DATA, END_STREAM, Outcome, Raw2, block, frame, headers};
use super::*;

type Field = (&'static str, &'static str);

const APP: &str = "app.t.wormkey.test";

/// The pseudo-fields of a good request.
const GOOD: [Field; 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/"),
    (":authority", APP),
];

const HARMLESS: [Field; 2] = [("accept", "*/*"), ("x-harmless", "yes")];

fn with(pseudo: &[Field], fields: &[Field]) -> Vec<Field> {
    [pseudo, fields].concat()
}

/// The good request with one pseudo-field replaced.
fn but(name: &'static str, value: &'static str) -> Vec<Field> {
    GOOD.iter()
        .map(|field| {
            if field.0 == name {
                (name, value)
            } else {
                *field
            }
        })
        .collect()
}

/// Fields that make a head malformed, at every place among good ones.
fn everywhere(bad: &[Field]) -> Vec<Vec<Field>> {
    (0..=HARMLESS.len())
        .map(|at| {
            let mut fields = HARMLESS.to_vec();
            fields.splice(at..at, bad.iter().copied());
            with(&GOOD, &fields)
        })
        .collect()
}

/// Sends one request on a connection of its own.
async fn ask(visitor: &Visitor, fields: &[Field], data: Option<&[u8]>) -> Outcome {
    let mut connection = Raw2::new(visitor).await;
    let flags = if data.is_none() { END_STREAM } else { 0 };
    let mut bytes = headers(1, flags, &block(fields));
    if let Some(data) = data {
        bytes.extend(frame(DATA, END_STREAM, 1, data));
    }
    connection.send(&bytes).await;
    connection.outcome(1).await
}

/// Every head is answered with one of the statuses, or its stream or connection ends; the origin gets
/// nothing.
async fn refuses(boundary: &Boundary, cases: Vec<(Vec<Field>, &'static [u16])>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = tokio::task::JoinSet::new();
    for (fields, statuses) in cases {
        let (places, visitor) = (Arc::clone(&places), boundary.visitor());
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            let outcome = ask(&visitor, &fields, None).await;
            let refused = match outcome {
                Outcome::Status(status) => statuses.contains(&status),
                // Malformed is PROTOCOL_ERROR; nothing else may pass for a refusal of the head.
                Outcome::Reset(code) | Outcome::GoAway(code) => {
                    code == 1 && statuses.contains(&400)
                }
                Outcome::Closed => false,
            };
            (!refused).then(|| format!("{fields:?} -> {outcome:?}"))
        });
    }
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(boundary.canary.heard(), "");
    boundary.control().await;
}

#[tokio::test]
async fn malformed_fields_reach_no_origin_over_http_2() {
    let boundary = Boundary::new().await;
    assert_eq!(
        ask(&boundary.visitor(), &with(&GOOD, &HARMLESS), None).await,
        Outcome::Status(200)
    );
    boundary.canary.forget();
    let mut cases: Vec<(Vec<Field>, &[u16])> = Vec::new();
    for bad in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "foo"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("X-Upper", "a"),
        ("Host", APP),
        ("x y", "a"),
        ("x:y", "a"),
        ("", "a"),
        ("x\0", "a"),
        ("x\n", "a"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        ("x", "a\r\nhost: evil"),
        ("x\r\ny", "a"),
        (":path", "/again"),
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", APP),
        (":unknown", "x"),
        (":status", "200"),
        ("content-length", "5"),
        ("content-length", "-1"),
        ("content-length", "0x0"),
        ("content-length", "18446744073709551616"),
        ("content-length", "0, 0"),
    ] {
        cases.extend(everywhere(&[bad]).into_iter().map(|c| (c, &[400][..])));
    }
    let twice = [("content-length", "0"), ("content-length", "1")];
    cases.extend(everywhere(&twice).into_iter().map(|c| (c, &[400][..])));
    for missing in [":method", ":scheme", ":path"] {
        let rest = GOOD.iter().filter(|f| f.0 != missing).copied().collect();
        cases.push((rest, &[400]));
    }
    for fields in [
        but(":method", ""),
        but(":path", ""),
        but(":path", "x"),
        but(":path", "*"),
        but(":path", "/a b"),
        but(":path", "/a\r\nx: y"),
        but(":path", "https://app.t.wormkey.test/"),
        but(":method", "G T"),
        but(":method", "GET\r\n"),
        but(":scheme", "ftp"),
        but(":scheme", ""),
        but(":scheme", "https\r\n"),
    ] {
        cases.push((fields, &[400]));
    }
    // A good head whose pseudo-fields come late.
    cases.push((with(&HARMLESS, &GOOD), &[400]));
    refuses(&boundary, cases).await;
}

#[tokio::test]
async fn hosts_and_methods_reach_no_origin_over_http_2() {
    let boundary = Boundary::new().await;
    let mut cases: Vec<(Vec<Field>, &[u16])> = Vec::new();
    for host in [
        "other.t.wormkey.test",
        "evil.test",
        "",
        "app.t.wormkey.test:1",
        "evil@app.t.wormkey.test",
    ] {
        cases.extend(
            everywhere(&[("host", host)])
                .into_iter()
                .map(|c| (c, &[400, 421][..])),
        );
    }
    cases.extend(
        everywhere(&[("host", APP), ("host", APP)])
            .into_iter()
            .map(|c| (c, &[400][..])),
    );
    cases.push((GOOD[..3].to_vec(), &[400]));
    for authority in [
        "",
        "evil@app.t.wormkey.test",
        "app.t.wormkey.test@evil.test",
        "app.t.wormkey.test:x",
        "a b",
        "[::1",
        "app.t.wormkey.test/",
    ] {
        cases.push((but(":authority", authority), &[400, 421]));
    }
    for other in [
        "other.t.wormkey.test",
        "t.wormkey.test",
        "localhost",
        "127.0.0.1",
    ] {
        cases.push((but(":authority", other), &[421]));
    }
    cases.push((but(":scheme", "http"), &[400, 421]));
    cases.push((but(":method", "TRACE"), &[405]));
    cases.push((but(":method", "CONNECT"), &[400, 405]));
    let connect = vec![(":method", "CONNECT"), (":authority", APP)];
    cases.push((connect, &[400, 405]));
    for size in [33, 300] {
        let method: &'static str = "M".repeat(size).leak();
        cases.push((but(":method", method), &[501]));
    }
    for protocol in ["foo", "connect-udp", "webtransport", "h2c", ""] {
        let fields = with(&but(":method", "CONNECT"), &[(":protocol", protocol)]);
        cases.push((
            fields,
            if protocol.is_empty() {
                &[400, 501]
            } else {
                &[501]
            },
        ));
    }
    // An extended CONNECT is nothing but CONNECT.
    cases.push((with(&GOOD, &[(":protocol", "websocket")]), &[400, 501]));
    refuses(&boundary, cases).await;
}

#[tokio::test]
async fn a_length_that_the_data_contradicts_is_no_whole_body_over_http_2() {
    let boundary = Boundary::new().await;
    for (length, data) in [("5", "four"), ("3", "four"), ("0", "four")] {
        let fields = with(&but(":method", "POST"), &[("content-length", length)]);
        let outcome = ask(&boundary.visitor(), &fields, Some(data.as_bytes())).await;
        // The origin may have answered the head before the length turned out false.
        assert!(!matches!(outcome, Outcome::Closed), "{length}: {outcome:?}");
        assert!(
            !boundary.canary.heard().contains("four\r\n0\r\n"),
            "{length}"
        );
    }
    boundary.control().await;
}

#[tokio::test]
async fn what_goes_on_is_canonical_over_http_2() {
    let boundary = Boundary::new().await;
    for target in [
        "//evil.test/",
        "/a/../b",
        "/%2e%2e/",
        "/%00",
        "/a%2fb",
        "/?a?b",
    ] {
        boundary.canary.forget();
        assert_eq!(
            ask(&boundary.visitor(), &but(":path", target), None).await,
            Outcome::Status(200)
        );
        let heard = boundary.canary.heard();
        assert!(
            heard.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{heard}"
        );
    }
    boundary.canary.forget();
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
    ];
    let fields = with(&GOOD, &forged);
    assert_eq!(
        ask(&boundary.visitor(), &fields, None).await,
        Outcome::Status(200)
    );
    let heard = boundary.canary.heard();
    assert!(!heard.contains("6.6.6.6"), "{heard}");
    boundary.control().await;
}
