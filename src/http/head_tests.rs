use http::Request;
use proptest::prelude::*;

use super::*;

struct Ask {
    method: &'static str,
    uri: String,
    version: Version,
    fields: Vec<(String, String)>,
    extended: Option<&'static str>,
}

fn h1(fields: &[(&str, &str)]) -> Ask {
    let mut ask = Ask {
        method: "GET",
        uri: "/".into(),
        version: Version::HTTP_11,
        fields: vec![("host".into(), "a.example".into())],
        extended: None,
    };
    ask.add(fields);
    ask
}

fn h2(fields: &[(&str, &str)]) -> Ask {
    let mut ask = h1(&[]);
    ask.version = Version::HTTP_2;
    ask.uri = "https://a.example/".into();
    ask.fields.clear();
    ask.add(fields);
    ask
}

impl Ask {
    fn add(&mut self, fields: &[(&str, &str)]) {
        let owned = fields
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        self.fields.extend(owned);
    }

    fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = uri.into();
        self
    }

    fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    fn check(&self) -> Result<Head, HeadError> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(&self.uri)
            .version(self.version);
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(parts, self.extended, Scheme::Https)
    }

    fn refused(&self, error: HeadError) {
        assert_eq!(self.check().map(|_| ()), Err(error), "{:?}", self.fields);
    }
}

fn field<'a>(head: &'a Head, name: &str) -> Option<&'a str> {
    head.fields.get(name).map(|v| v.to_str().unwrap())
}

#[test]
fn one_canonical_authority_comes_out_of_any_spelling() {
    for ask in [
        h1(&[]),
        h2(&[]),
        h2(&[("host", "A.example.:443")]),
        h1(&[]).uri("https://A.EXAMPLE:443/"),
    ] {
        let head = ask.check().unwrap();
        assert_eq!(head.authority, "a.example");
        assert_eq!(head.host.as_str(), "a.example");
        assert_eq!(head.path, "/");
        assert!(!head.fields.contains_key("host"));
    }
    let with_port = h2(&[]).uri("https://a.example:8443/x?y").check().unwrap();
    assert_eq!(with_port.authority, "a.example:8443");
    assert_eq!(with_port.path, "/x?y");
    assert_eq!(
        h1(&[]).uri("https://a.example?q").check().unwrap().path,
        "/?q"
    );
}

#[test]
fn contradictory_hosts_are_refused_in_every_version() {
    h2(&[("host", "b.example")]).refused(HeadError::HostsDiffer);
    h2(&[("host", "a.example:444")]).refused(HeadError::HostsDiffer);
    h1(&[])
        .uri("https://b.example/")
        .refused(HeadError::HostsDiffer);
    h1(&[("host", "a.example")]).refused(HeadError::HostTwice);
    h2(&[("host", "a.example"), ("host", "a.example")]).refused(HeadError::HostTwice);
    h2(&[]).uri("/").refused(HeadError::HostMissing);
    h2(&[])
        .uri("https://evil@a.example/")
        .refused(HeadError::HostMalformed);
    h2(&[]).uri("ftp://a.example/").refused(HeadError::Scheme);
    h2(&[])
        .uri("http://a.example/")
        .refused(HeadError::SchemeMismatch);
    h2(&[])
        .uri("https://[::1]/")
        .refused(HeadError::HostForeign);
    h2(&[])
        .uri("https://my_app.example/")
        .refused(HeadError::HostForeign);
    let mut without = h1(&[]);
    without.fields.clear();
    without.refused(HeadError::HostMissing);
}

#[test]
fn connect_is_only_a_websocket_over_a_multiplexed_connection() {
    h1(&[]).method("TRACE").refused(HeadError::MethodRefused);
    h2(&[]).method("TRACE").refused(HeadError::MethodRefused);
    h2(&[]).method("CONNECT").refused(HeadError::MethodRefused);
    let mut connect = h2(&[("sec-websocket-version", "13")]).method("CONNECT");
    connect.extended = Some("websocket");
    let head = connect.check().unwrap();
    assert_eq!(head.method, Method::GET);
    assert_eq!(head.protocol.as_deref(), Some("websocket"));
    connect.extended = Some("connect-udp");
    connect.refused(HeadError::Protocol);
    let mut get = h2(&[]);
    get.extended = Some("websocket");
    get.refused(HeadError::Protocol);
}

#[test]
fn an_upgrade_counts_only_when_it_can_work() {
    let upgrade = |fields: &[(&str, &str)]| h1(fields).check().unwrap().protocol;
    let connection = ("connection", "keep-alive, Upgrade");
    assert_eq!(
        upgrade(&[connection, ("upgrade", "WebSocket")]).as_deref(),
        Some("websocket")
    );
    assert_eq!(
        upgrade(&[connection, ("upgrade", "SPDY/3.1")]).as_deref(),
        Some("SPDY/3.1")
    );
    assert_eq!(upgrade(&[connection, ("upgrade", "h2c")]), None);
    assert_eq!(
        upgrade(&[connection, ("upgrade", "foo, websocket")]).as_deref(),
        Some("websocket")
    );
    assert_eq!(upgrade(&[("upgrade", "websocket")]), None);
    // An origin cannot be asked for one with another method, so it is left unheard, not refused.
    for method in ["POST", "HEAD", "DELETE"] {
        let mut ask = h1(&[connection, ("upgrade", "foo")]);
        ask.method = method;
        assert_eq!(ask.check().unwrap().protocol, None, "{method}");
    }
    assert_eq!(
        upgrade(&[connection, ("upgrade", "foo"), ("content-length", "3")]),
        None
    );
    let head = h1(&[
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQ"),
    ])
    .check()
    .unwrap();
    assert!(head.fields.is_empty(), "{:?}", head.fields);
}

#[test]
fn connection_cannot_nominate_what_frames_or_routes() {
    for name in ["host", "Content-Length"] {
        h1(&[("connection", name)]).refused(HeadError::Nominated);
    }
    h1(&[("connection", "a b")]).refused(HeadError::HopByHop);
    let head = h1(&[
        ("connection", "close, x-secret"),
        ("x-secret", "1"),
        ("x-other", "2"),
    ])
    .check()
    .unwrap();
    assert_eq!(field(&head, "x-secret"), None);
    assert_eq!(field(&head, "x-other"), Some("2"));
}

#[test]
fn hop_by_hop_fields_are_removed_or_malformed() {
    let fields = [
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "trailers, deflate"),
        ("trailer", "x-sum"),
    ];
    let head = h1(&fields).check().unwrap();
    assert_eq!(field(&head, "te"), Some("trailers"));
    assert_eq!(field(&head, "trailer"), Some("x-sum"));
    assert_eq!(head.fields.len(), 2);
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
    ] {
        h2(&[(name, value)]).refused(HeadError::HopByHop);
    }
    let grpc = h2(&[("te", "trailers")]).check().unwrap();
    assert_eq!(field(&grpc, "te"), Some("trailers"));
}

#[test]
fn forwarded_fields_of_visitors_are_dropped_with_their_twins() {
    let names = [
        "x-forwarded-for",
        "X_Forwarded_For",
        "x-forwarded-host",
        "x-forwarded-port",
        "forwarded",
        "x-real-ip",
        "x_real_ip",
        "wormkey-visitor",
        "wormkey_visitor",
        "content_length",
    ];
    for ask in [h1(&[]), h2(&[])] {
        let mut ask = ask;
        ask.add(&names.map(|n| (n, "forged")));
        ask.add(&[("x-mine", "1"), ("cookie", "a=1; __Host-wormkey-visit=x")]);
        let head = ask.check().unwrap();
        assert_eq!(field(&head, "cookie"), Some("a=1"));
        assert_eq!(head.fields.len(), 2, "{:?}", head.fields);
    }
}

#[test]
fn limits_are_the_same_in_http_2() {
    let target = |n: usize| h2(&[]).uri(format!("https://a.example/{}", "a".repeat(n - 1)));
    assert!(target(limits::TARGET_MAX - 1).check().is_ok());
    assert!(target(limits::TARGET_MAX).check().is_ok());
    target(limits::TARGET_MAX + 1).refused(HeadError::TargetTooLong);

    let fields = |n: usize| {
        let mut ask = h2(&[]);
        ask.add(&vec![("x", "y"); n - 1]);
        ask
    };
    assert!(fields(limits::FIELDS_MAX - 1).check().is_ok());
    assert!(fields(limits::FIELDS_MAX).check().is_ok());
    fields(limits::FIELDS_MAX + 1).refused(HeadError::TooManyFields);

    let bare = "GET / HTTP/1.1\r\nhost: a.example\r\nx: \r\n\r\n".len();
    let size = |n: usize| {
        let mut ask = h2(&[]);
        ask.add(&[("x", &"y".repeat(n - bare))]);
        ask
    };
    assert!(size(limits::HEAD_MAX - 1).check().is_ok());
    assert!(size(limits::HEAD_MAX).check().is_ok());
    size(limits::HEAD_MAX + 1).refused(HeadError::HeadTooLarge);
}

#[test]
fn lengths_are_judged_in_http_2_too() {
    h2(&[("content-length", "1"), ("content-length", "1")]).refused(HeadError::ContentLength);
    h2(&[("content-length", "+1")]).refused(HeadError::ContentLength);
    let head = h2(&[("content-length", "7")]).check().unwrap();
    assert_eq!(field(&head, "content-length"), Some("7"));
}

#[test]
fn a_wait_for_100_is_a_fact_and_no_field() {
    let head = h1(&[("expect", "100-Continue")]).check().unwrap();
    assert!(head.expects_continue && head.fields.is_empty());
    let mut old = h1(&[("expect", "100-continue")]);
    old.version = Version::HTTP_10;
    assert!(!old.check().unwrap().expects_continue);
}

#[test]
fn several_cookie_fields_become_one() {
    let head = h2(&[("cookie", "a=1"), ("cookie", "b=2")]).check().unwrap();
    assert_eq!(field(&head, "cookie"), Some("a=1; b=2"));
    assert_eq!(head.fields.len(), 1);
}

#[test]
fn asterisk_is_for_options() {
    assert_eq!(
        h1(&[]).method("OPTIONS").uri("*").check().unwrap().path,
        "*"
    );
    h1(&[]).uri("*").refused(HeadError::Target);
}

proptest! {
    #[test]
    fn whatever_passes_is_canonical(
        host in "[A-Za-z0-9.:@\\[\\]_-]{0,20}",
        path in "/[!-~]{0,30}",
        names in proptest::collection::vec("[a-z_-]{1,18}", 0..6),
        multiplexed: bool,
    ) {
        let mut request = Request::builder().uri(&path).header("host", &host).version(
            if multiplexed { Version::HTTP_2 } else { Version::HTTP_11 },
        );
        for name in &names {
            request = request.header(name, "v");
        }
        let Ok(request) = request.body(()) else { return Ok(()) };
        let sent = request.uri().path_and_query().unwrap().as_str().to_owned();
        let (parts, ()) = request.into_parts();
        let Ok(head) = check(parts, None, Scheme::Https) else { return Ok(()) };
        prop_assert_eq!(Authority::parse(head.authority.as_bytes(), Scheme::Https).unwrap().to_string(), head.authority);
        prop_assert_eq!(head.path, sent);
        for gone in ["host", "connection", "transfer-encoding", "x-forwarded-for", "upgrade"] {
            prop_assert!(!head.fields.contains_key(gone));
        }
        prop_assert!(head.fields.keys().all(|n| !fields::is_ours(n.as_str())));
    }
}
