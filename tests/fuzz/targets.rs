//! The parsers, each with inputs to begin from and what must hold for every input: what is accepted reads
//! back as the same, and it makes no difference in how many pieces bytes arrive.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use wormkey::admin::drain::DrainAsk;
use wormkey::admin::types::{InviteAsk, JoinAsk, OpenAsk, PolicyAsk, ShareLinkAsk, SuspendAsk};
use wormkey::config::{ClientConfig, ServerConfig};
use wormkey::engine::book::ProxyVersion;
use wormkey::engine::policy::Policy;
use wormkey::http::chunked::ChunkScanner;
use wormkey::http::frames::FrameScanner;
use wormkey::http::raw::HeadScanner;
use wormkey::http::{Scheme, head};
use wormkey::names::{Hostname, Kind, Slug, Target as Origin, TunnelId, VisitId};
use wormkey::wire::proxy;
use wormkey::wire::token::JoinToken;
use wormkey::wire::udp::{Reassembly, Splitter, decode_datagram};
use wormkey::wire::{
    BytesHead, Capabilities, Close, Control, ControlDecoder, Frame, FrameDecoder, Hello, HttpHead,
    Ping, ResponseHead, StreamHead, UdpHead, decode_stream_head, encode_control, encode_frame,
    encode_stream_head,
};

/// One parser.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    pub(crate) words: &'static [&'static str],
    /// Panics when a promise is broken; else the kind of answer.
    pub(crate) judge: fn(&[u8]) -> String,
}

const HEAD_WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    ": ",
    "\t",
    " ",
    "\0",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "Host: a",
    "Content-Length: 1",
    "Transfer-Encoding: chunked",
    "Connection: close",
    "Upgrade: h2c",
    "chunked",
    "http://",
    "//",
    "%2f",
    "*",
    "@",
    "[::1]",
    ",",
    ";",
    "é",
    "Expect: 100-continue",
];
const JSON_WORDS: &[&str] = &[
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "1e999",
    "-1",
    "\\u0000",
    "\\ud800",
    "\"deny\"",
    "\"allow\"",
    "\"auth\"",
    "\"limits\"",
    "\"share\"",
    "\"methods\"",
    "\"paths\"",
    "0.0.0.0/0",
    "::/0",
    "/**",
    "50/s",
    "burst 1",
];
const TOML_WORDS: &[&str] = &[
    "\n",
    "=",
    "\"",
    "[",
    "]",
    "[[",
    "]]",
    "#",
    "'''",
    "\"\"\"",
    "true",
    "domain",
    "[listen]",
    "[tls]",
    "[tunnels]",
    "[[tunnel]]",
    "[limits]",
    "[log]",
    "[state]",
    "[dormant]",
    "\\u0000",
    "1e9",
    "9999y",
    "\"off\"",
    "\"never\"",
    "\"0s\"",
    "\"[::]:443\"",
    "-1",
    "18446744073709551616",
    "inf",
    "nan",
];

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "http1-head",
        seeds: heads,
        words: HEAD_WORDS,
        judge: http1_head,
    },
    Target {
        name: "http-request",
        seeds: requests,
        words: HEAD_WORDS,
        judge: http_request,
    },
    Target {
        name: "chunked-body",
        seeds: chunked_bodies,
        words: HEAD_WORDS,
        judge: chunked_body,
    },
    Target {
        name: "http2-frames",
        seeds: http2_connections,
        words: &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        judge: http2_frames,
    },
    Target {
        name: "stream-head",
        seeds: stream_heads,
        words: &[],
        judge: stream_head,
    },
    Target {
        name: "control",
        seeds: controls,
        words: &[],
        judge: control,
    },
    Target {
        name: "wire-frames",
        seeds: wire_frames,
        words: &[],
        judge: wire_frame,
    },
    Target {
        name: "response-head",
        seeds: response_heads,
        words: &[],
        judge: response_head,
    },
    Target {
        name: "udp-datagram",
        seeds: datagrams,
        words: &[],
        judge: udp_datagram,
    },
    Target {
        name: "path-message",
        seeds: path_messages,
        words: &[],
        judge: path_message,
    },
    Target {
        name: "tls-hello",
        seeds: hellos,
        words: &["app.t.example.com"],
        judge: tls_hello,
    },
    Target {
        name: "proxy-header",
        seeds: addresses,
        words: &[],
        judge: proxy_header,
    },
    Target {
        name: "h3-request",
        seeds: sections,
        words: &["\0\0", "a", ":path", "content-length"],
        judge: |bytes| plain(&wormkey::edge::fuzzing::h3_request(bytes)),
    },
    Target {
        name: "proxy-introduction",
        seeds: introductions,
        words: &[
            "PROXY TCP4 ",
            "PROXY UNKNOWN",
            "\r\n",
            "\r\n\r\n\0\r\nQUIT\n",
        ],
        judge: introduction,
    },
    Target {
        name: "join-token",
        seeds: tokens,
        words: &["wkj_", "A", "_"],
        judge: join_token,
    },
    Target {
        name: "server-config",
        seeds: server_configs,
        words: TOML_WORDS,
        judge: server_config,
    },
    Target {
        name: "client-config",
        seeds: client_configs,
        words: TOML_WORDS,
        judge: client_config,
    },
    Target {
        name: "policy",
        seeds: policies,
        words: JSON_WORDS,
        judge: policy,
    },
    Target {
        name: "admin-json",
        seeds: asks,
        words: JSON_WORDS,
        judge: admin_json,
    },
    Target {
        name: "names",
        seeds: names,
        words: &[
            "https+insecure://",
            "unix:/",
            "[::1]",
            "--",
            "xn--",
            "%",
            "99999",
            "\u{0}",
        ],
        judge: name,
    },
];

/// The kind of an answer: its words without what comes from the input, which stands in quotes.
fn kind(answer: impl Debug) -> String {
    plain(&format!("{answer:?}"))
}

fn plain(text: &str) -> String {
    let (mut plain, mut within, mut escaped) = (String::new(), None, false);
    for c in text.chars().take(4096) {
        match within {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(quote) if c == quote => within = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => within = Some(c),
            None if c.is_ascii_alphabetic() || "(,)".contains(c) => plain.push(c),
            None => {}
        }
    }
    plain.truncate(96);
    plain
}

fn variant(of: impl Debug) -> String {
    let text = format!("{of:?}");
    text.chars().take_while(char::is_ascii_alphabetic).collect()
}

/// In how many bytes a piece ends, as an input itself says it.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = bytes.last().map_or(1, |last| usize::from(last % 7) + 1);
    bytes.chunks(step)
}

// HTTP

fn heads() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: app.t.example.com\r\n\r\n",
        "POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\n\r\n",
        "GET http://app.t.example.com:443/x HTTP/1.1\r\nHost: app.t.example.com:443\r\nCookie: a=b; c=d\r\n\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn http1_head(bytes: &[u8]) -> String {
    let whole = HeadScanner::new(Scheme::Https).feed(bytes);
    let mut scanner = HeadScanner::new(Scheme::Https);
    let (mut taken, mut pieced) = (0, Ok(None));
    for piece in pieces(bytes) {
        pieced = scanner.feed(piece);
        match &mut pieced {
            Ok(None) => taken += piece.len(),
            Ok(Some((last, _))) => {
                *last += taken;
                break;
            }
            Err(_) => break,
        }
    }
    assert_eq!(format!("{whole:?}"), format!("{pieced:?}"), "pieces matter");
    if let Ok(Some((size, _))) = &whole {
        assert!(*size <= bytes.len());
    }
    kind(whole)
}

fn requests() -> Vec<Vec<u8>> {
    [
        "GET\nhttps://app.t.example.com/a?b\naccept: text/html\ncookie: a=b",
        "POST\n/a\nhost: app.t.example.com\ncontent-length: 3\nconnection: x, close\nx: y",
        "GET\n/ws\nhost: a\nconnection: upgrade\nupgrade: websocket\nte: trailers",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

/// Method, target and fields, a line each; the first byte's parity chooses the version.
fn http_request(bytes: &[u8]) -> String {
    let mut lines = bytes.split(|b| *b == b'\n');
    let mut request = Request::new(());
    let method = Method::from_bytes(lines.next().unwrap_or_default());
    let target = lines.next().unwrap_or_default().try_into();
    let (Ok(method), Ok(uri)) = (method, target) else {
        return "no request".to_owned();
    };
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = match bytes.len() % 2 {
        0 => http::Version::HTTP_11,
        _ => http::Version::HTTP_2,
    };
    for line in lines.take(100) {
        let at = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let name = http::HeaderName::from_bytes(&line[..at]);
        let value = http::HeaderValue::from_bytes(line[at..].get(1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let checked = head::check(request.into_parts().0, None, Scheme::Https);
    if let Ok(head) = &checked {
        assert!(
            head.path == "*" || head.path.starts_with('/'),
            "{:?}",
            head.path
        );
        for name in head.fields.keys() {
            let name = name.as_str();
            let ours = name.starts_with("wormkey-") || name.starts_with("x-forwarded-");
            let hop = [
                "connection",
                "host",
                "upgrade",
                "transfer-encoding",
                "keep-alive",
                "forwarded",
            ];
            assert!(!ours && !hop.contains(&name), "{name} came through");
        }
    }
    kind(checked.map(|head| {
        (
            head.version,
            head.protocol.is_some(),
            head.fields.len().min(4),
        )
    }))
}

fn chunked_bodies() -> Vec<Vec<u8>> {
    [
        "5\r\nhello\r\n0\r\n\r\n",
        "1;a=\"b\"\r\nx\r\n0\r\nTrailer: y\r\n\r\n",
        "ffffffffffffffff\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn chunked_body(bytes: &[u8]) -> String {
    let whole = ChunkScanner::new().feed(bytes);
    let mut scanner = ChunkScanner::new();
    let (mut taken, mut pieced) = (0, Ok((0, false)));
    for piece in pieces(bytes) {
        pieced = scanner.feed(piece);
        match pieced {
            Ok((size, false)) => taken += size,
            Ok((size, true)) => {
                taken += size;
                break;
            }
            Err((size, _)) => {
                taken += size;
                break;
            }
        }
    }
    match (whole, pieced) {
        (Ok((size, ended)), Ok((_, also))) => assert_eq!((size, ended), (taken, also)),
        (Err((size, error)), Err((_, also))) => assert_eq!((size, error), (taken, also)),
        (whole, pieced) => panic!("pieces matter: {whole:?} and {pieced:?}"),
    }
    kind(whole)
}

fn http2_connections() -> Vec<Vec<u8>> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0, 0, 2, 1, 5, 0, 0, 0, 1, 0x82, 0x84]);
    bytes.extend_from_slice(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    vec![bytes]
}

fn http2_frames(bytes: &[u8]) -> String {
    let mut scanner = FrameScanner::new();
    let whole = (scanner.feed(bytes), scanner.is_in_head());
    let mut scanner = FrameScanner::new();
    let sum: u32 = pieces(bytes).map(|piece| scanner.feed(piece)).sum();
    assert_eq!(whole, (sum, scanner.is_in_head()), "pieces matter");
    format!("{} {}", whole.0.min(8), whole.1)
}

// The wire

fn peer() -> SocketAddr {
    "[2001:db8::1]:4000".parse().unwrap()
}

fn stream_heads() -> Vec<Vec<u8>> {
    let (tunnel, visit) = (TunnelId::from_bytes([7; 16]), VisitId::random());
    let mut fields = HeaderMap::new();
    fields.insert("accept", http::HeaderValue::from_static("*/*"));
    let http = HttpHead {
        tunnel,
        visit,
        method: Method::POST,
        scheme: "https".into(),
        authority: "app.t.example.com".into(),
        path: "/a?b".into(),
        fields,
        peer: peer(),
        protocol: Some("websocket".into()),
        version: 20,
        has_body: true,
        expects_continue: false,
        timeout_ms: 60_000,
        shadowed: Vec::new(),
    };
    let bytes = BytesHead {
        tunnel,
        visit,
        peer: peer(),
        local: peer(),
        sni: Some("app".into()),
        shadowed: Vec::new(),
    };
    let udp = UdpHead {
        tunnel,
        visit,
        peer: peer(),
        local: peer(),
        flow: 3,
        idle_ms: 60_000,
        shadowed: Vec::new(),
    };
    [
        StreamHead::Control,
        StreamHead::Http(Box::new(http)),
        StreamHead::Bytes(bytes),
        StreamHead::Udp(udp),
    ]
    .iter()
    .map(|head| encode_stream_head(head).to_vec())
    .collect()
}

fn stream_head(bytes: &[u8]) -> String {
    let decoded = decode_stream_head(bytes);
    if let Ok(Some((head, size))) = &decoded {
        assert!(*size <= bytes.len());
        let again = encode_stream_head(head);
        let read = decode_stream_head(&again);
        let Ok(Some((same, all))) = read else {
            panic!("what was read and written does not read: {read:?}");
        };
        assert_eq!(
            (format!("{head:?}"), again.len()),
            (format!("{same:?}"), all)
        );
    }
    match decoded {
        Ok(Some((head, _))) => variant(head),
        other => kind(other),
    }
}

fn controls() -> Vec<Vec<u8>> {
    let messages = [
        Control::Ping(Ping { nonce: 7 }),
        Control::Close(Close {
            request: 1,
            tunnel: TunnelId::from_bytes([7; 16]),
        }),
        Control::Hello(Hello {
            versions: vec![1],
            capabilities: Capabilities::default(),
            software: "wormkeyd".into(),
            device_name: "desk".into(),
            enrolling: true,
        }),
    ];
    let mut seeds: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| encode_control(message).to_vec())
        .collect();
    seeds.push(seeds.concat());
    seeds
}

fn control(bytes: &[u8]) -> String {
    let read = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut messages) = (ControlDecoder::new(), Vec::new());
        for chunk in chunks {
            decoder.push(chunk);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Some(error)),
                }
            }
        }
        (messages, None)
    };
    let (messages, error) = read(&mut std::iter::once(bytes));
    let pieced = read(&mut pieces(bytes));
    assert_eq!(
        format!("{:?}", (&messages, &error)),
        format!("{pieced:?}"),
        "pieces matter"
    );
    for message in &messages {
        let again = encode_control(message);
        let (same, error) = read(&mut std::iter::once(&again[..]));
        assert!(
            error.is_none(),
            "what was read and written does not read: {error:?}"
        );
        assert_eq!(format!("{:?}", [message]), format!("{same:?}"));
    }
    match (messages.last(), error) {
        (_, Some(error)) => kind(error),
        (Some(message), None) => variant(message),
        (None, None) => "none yet".to_owned(),
    }
}

fn wire_frames() -> Vec<Vec<u8>> {
    let frames = [
        Frame::Head(Bytes::from(response_heads().remove(0))),
        Frame::Data(Bytes::from_static(b"hello")),
        Frame::Trailers(Bytes::from_static(&[0xa0])),
    ];
    vec![frames.iter().flat_map(encode_frame).collect()]
}

fn wire_frame(bytes: &[u8]) -> String {
    // Pieces of DATA are told as they come, so what is compared is what they say together.
    let read = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut data, mut others) = (FrameDecoder::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            loop {
                match decoder.next_frame() {
                    Ok(Some(Frame::Data(bytes))) => data.extend_from_slice(&bytes),
                    Ok(Some(frame)) => others.push((data.len(), frame)),
                    Ok(None) => break,
                    Err(error) => return (data, others, Some(error), false),
                }
            }
        }
        let at_border = decoder.at_border();
        (data, others, None, at_border)
    };
    let whole = read(&mut std::iter::once(bytes));
    let pieced = read(&mut pieces(bytes));
    if !bytes.is_empty() {
        assert_eq!(whole, pieced, "pieces matter");
    }
    kind((whole.1.len().min(4), whole.2, whole.3))
}

fn response_heads() -> Vec<Vec<u8>> {
    let mut fields = HeaderMap::new();
    fields.insert("content-type", http::HeaderValue::from_static("text/html"));
    let head = ResponseHead {
        status: StatusCode::OK,
        fields,
        ends: false,
    };
    vec![head.to_bytes().to_vec()]
}

fn response_head(bytes: &[u8]) -> String {
    let decoded = ResponseHead::from_bytes(bytes);
    if let Ok(head) = &decoded {
        let same = ResponseHead::from_bytes(&head.to_bytes()).unwrap();
        assert_eq!(format!("{head:?}"), format!("{same:?}"));
    }
    kind(decoded.map(|head| head.ends))
}

fn datagrams() -> Vec<Vec<u8>> {
    let payload = Bytes::from(vec![5; 3000]);
    Splitter::new(3)
        .split(&payload, 1200)
        .into_iter()
        .chain(Splitter::new(9).split(&Bytes::from_static(b"short"), 1200))
        .map(|datagram| datagram.to_vec())
        .collect()
}

fn udp_datagram(bytes: &[u8]) -> String {
    let decoded = decode_datagram(Bytes::copy_from_slice(bytes));
    let Ok(datagram) = decoded else {
        return kind(decoded);
    };
    // What arrives in pieces is what was sent, in whatever order, and nothing else is made of it.
    let max = 16 + usize::from(bytes[0]);
    let sent = Splitter::new(datagram.flow & 0xffff).split(&datagram.payload, max);
    let (now, mut together) = (Instant::now(), Reassembly::default());
    let mut came = None;
    for datagram in sent.iter().rev() {
        assert!(datagram.len() <= max, "longer than allowed");
        let read = decode_datagram(datagram.clone()).unwrap();
        came = match read.part {
            None => Some(read.payload),
            Some(part) => together.push(now, part, read.payload),
        };
    }
    if !sent.is_empty() {
        assert_eq!(came.as_ref(), Some(&datagram.payload), "not what was sent");
        assert_eq!(together.incomplete(), 0);
    }
    if let Some(part) = datagram.part {
        let mut strange = Reassembly::default();
        for index in 0..part.count {
            let part = wormkey::wire::udp::Part { index, ..part };
            let _ = strange.push(now, part, datagram.payload.clone());
        }
        let later = now + Duration::from_secs(60);
        let _ = strange.push(later, part, datagram.payload);
        assert!(strange.incomplete() <= 1, "what is too old stays");
    }
    kind((sent.len().min(3), datagram.part.is_some()))
}

fn path_messages() -> Vec<Vec<u8>> {
    vec![[&[0, 5][..], b"hello", &[0, 1, 7]].concat()]
}

fn path_message(bytes: &[u8]) -> String {
    let taken = wormkey::link::path::fuzzing::datagrams(BytesMut::from(bytes).freeze());
    let (whole, wrong): (Vec<_>, Vec<_>) = taken.into_iter().partition(Result::is_ok);
    let size: usize = whole.iter().flatten().map(Bytes::len).sum();
    assert!(size + 2 * whole.len() <= bytes.len());
    assert!(wrong.len() <= 1, "it went on behind an error");
    kind((whole.len().min(4), wrong.first()))
}

// Strangers' first bytes, and what we tell origins of them

fn hellos() -> Vec<Vec<u8>> {
    let name = b"app.t.example.com";
    let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let sni = [&length(name.len() + 3)[..], &[0], &length(name.len()), name].concat();
    let extension = [&[0, 0][..], &length(sni.len()), &sni].concat();
    let mut body = [&[3, 3][..], &[9; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    body.extend_from_slice(&length(extension.len()));
    body.extend_from_slice(&extension);
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    let record = |piece: &[u8]| [&[22, 3, 1][..], &length(piece.len()), piece].concat();
    let (first, second) = message.split_at(20);
    vec![record(&message), [record(first), record(second)].concat()]
}

fn tls_hello(bytes: &[u8]) -> String {
    let whole = wormkey::edge::fuzzing::look(bytes);
    // Once it is said what it is, more bytes change nothing.
    let early = wormkey::edge::fuzzing::look(&bytes[..bytes.len() / 2]);
    assert!(
        early == "Part" || early == whole,
        "first {early}, then {whole}"
    );
    plain(&whole)
}

fn addresses() -> Vec<Vec<u8>> {
    vec![(0..38).collect(), [[0; 10].as_slice(), &[255; 28]].concat()]
}

fn proxy_header(bytes: &[u8]) -> String {
    let mut bytes = bytes.iter().copied().chain(std::iter::repeat(0));
    let mut address = || -> SocketAddr {
        let is_v4 = bytes.next().is_some_and(|byte| byte % 2 == 1);
        let mut ip = [0; 16];
        ip.fill_with(|| bytes.next().unwrap_or_default());
        let port = u16::from_be_bytes([0; 2].map(|_: u8| bytes.next().unwrap_or_default()));
        match is_v4 {
            true => ([ip[0], ip[1], ip[2], ip[3]], port).into(),
            false => (ip, port).into(),
        }
    };
    let (from, to) = (address(), address());
    let v1 = wormkey::origin::fuzzing::proxy_header(ProxyVersion::V1, from, to);
    let text = std::str::from_utf8(&v1).unwrap();
    assert!(v1.len() <= 107 && text.ends_with("\r\n"), "{text:?}");
    let words: Vec<&str> = text.trim_end().split(' ').collect();
    let [_, family, source, destination, port, to_port] = words[..] else {
        panic!("{text:?}");
    };
    let read = |ip: &str| ip.parse::<std::net::IpAddr>().unwrap();
    assert_eq!(read(source).to_canonical(), from.ip().to_canonical());
    assert_eq!(read(destination).to_canonical(), to.ip().to_canonical());
    assert_eq!(read(source).is_ipv4(), family == "TCP4");
    assert_eq!(
        (port, to_port),
        (&*from.port().to_string(), &*to.port().to_string())
    );
    let v2 = wormkey::origin::fuzzing::proxy_header(ProxyVersion::V2, from, to);
    let length = usize::from(u16::from_be_bytes([v2[14], v2[15]]));
    assert_eq!(v2.len(), 16 + length);
    format!("{family} {length}")
}

/// A GET and a POST as browsers send them: from the static table, by a name of it, and spelled out.
fn sections() -> Vec<Vec<u8>> {
    let get = [0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1];
    let authority = [&[0x50, 9][..], b"t.example"].concat();
    let post = [0, 0, 0xc0 | 20, 0xc0 | 23, 0xc0 | 1];
    let length = [0x54, 1, b'3'];
    let own = [&[0x23][..], b"abc", &[2], b"de"].concat();
    vec![
        [&get[..], &authority].concat(),
        [&post[..], &authority, &length, &own].concat(),
    ]
}

/// What proxies in front of the server begin a connection with.
fn introductions() -> Vec<Vec<u8>> {
    let [v4, v6] = ["192.0.2.7:4711", "[2001:db8::7]:4711"].map(|text| text.parse().unwrap());
    let headers = [
        proxy::v1(v4, v4),
        proxy::v2(v4, v4),
        proxy::v1(v6, v6),
        proxy::v2(v6, v6),
    ];
    let unknown = Bytes::from_static(b"PROXY UNKNOWN\r\n");
    headers
        .into_iter()
        .chain([unknown])
        .map(|header| [&header[..], b"GET / HTTP/1.1\r\n"].concat())
        .collect()
}

fn introduction(bytes: &[u8]) -> String {
    let whole = proxy::read(bytes);
    if let Ok(Some(header)) = whole {
        assert!(header.size <= bytes.len());
        // What follows is not looked at, and what is missing is waited for.
        assert_eq!(proxy::read(&bytes[..header.size]), whole);
        assert_eq!(proxy::read(&bytes[..header.size - 1]), Ok(None));
        if let Some((from, to)) = header.told {
            for again in [proxy::v1(from, to), proxy::v2(from, to)] {
                let told = proxy::read(&again).map(|read| read.and_then(|read| read.told));
                assert_eq!(told, Ok(Some((from, to))));
            }
        }
    }
    kind(whole.map(|read| read.map(|read| read.told.map(|(from, _)| from.is_ipv4()))))
}

// What people and peers write

fn tokens() -> Vec<Vec<u8>> {
    let token = JoinToken {
        addresses: vec!["t.example.com:443".into()],
        pins: vec![wormkey::names::Pin([3; 32])],
        secret: wormkey::secret::Secret::new([5; 32]),
    };
    vec![token.to_text().expose().clone().into_bytes()]
}

fn join_token(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let parsed = JoinToken::parse(&text);
    if let Ok(token) = &parsed {
        let again = token.to_text();
        let same = JoinToken::parse(again.expose()).unwrap();
        assert_eq!(
            (&same.addresses, &same.pins),
            (&token.addresses, &token.pins)
        );
        assert_eq!(same.secret.expose(), token.secret.expose());
    }
    kind(parsed.map(|token| (token.addresses.len(), token.pins.len())))
}

fn examples(prefix: &str) -> Vec<Vec<u8>> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path());
    let wanted = files.filter(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".toml")
    });
    // Without their comments, most keys are spoken.
    let spoken = |text: String| text.replace("\n#", "\n");
    let texts: Vec<String> = wanted
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    assert!(!texts.is_empty(), "no examples of {prefix}");
    let all = texts
        .iter()
        .cloned()
        .chain(texts.iter().cloned().map(spoken));
    all.map(String::into_bytes).collect()
}

fn server_configs() -> Vec<Vec<u8>> {
    examples("server")
}

fn client_configs() -> Vec<Vec<u8>> {
    examples("client")
}

thread_local! {
    static FILE: RefCell<tempfile::NamedTempFile> = RefCell::new(
        tempfile::Builder::new().suffix(".toml").tempfile().unwrap(),
    );
}

/// Configurations are read from files only.
fn in_file<T>(bytes: &[u8], read: impl FnOnce(&std::path::Path) -> T) -> T {
    FILE.with_borrow_mut(|file| {
        use std::io::Seek as _;
        let inner = file.as_file_mut();
        inner.set_len(0).unwrap();
        inner.rewind().unwrap();
        inner.write_all(bytes).unwrap();
        read(file.path())
    })
}

fn server_config(bytes: &[u8]) -> String {
    let loaded = in_file(bytes, |path| ServerConfig::load(Some(path)));
    if let Ok(config) = &loaded {
        let again = config.reloaded(config);
        assert_eq!(&again, config, "a reload of the same changes something");
        assert_eq!(config.changed_needs_restart(config), [""; 0]);
    }
    problems(loaded)
}

fn client_config(bytes: &[u8]) -> String {
    problems(in_file(bytes, |path| ClientConfig::load(Some(path))))
}

fn problems<T, E: std::fmt::Display>(loaded: Result<T, E>) -> String {
    match loaded {
        Ok(_) => "holds".to_owned(),
        Err(error) => {
            let text = error.to_string();
            assert!(
                !text.contains('\u{1b}'),
                "an escape reaches the terminal: {text:?}"
            );
            let line = text.lines().nth(1).unwrap_or_default();
            line.split(':').nth(1).map_or_else(String::new, plain)
        }
    }
}

fn policies() -> Vec<Vec<u8>> {
    [
        r#"{"allow":["192.0.2.0/24","::1"],"deny":["0.0.0.0/0"],"methods":["GET"]}"#,
        r#"{"deny_paths":["/admin/**"],"allow_paths":["/a/*"],"share":"required"}"#,
        r#"{"limits":{"tunnel":{"rate":"50/s burst 100","concurrency":9},"visitor":{"rate":"3/m"}}}"#,
        r#"{"auth":[{"user":"bob","hash":"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}],"shadow":["auth"]}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn policy(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let parsed = Policy::parse(&text);
    if let Ok(policy) = &parsed {
        let again = policy.to_text();
        assert_eq!(Policy::parse(&again).as_ref(), Ok(policy), "{again}");
        assert_eq!(Policy::parse(&again).unwrap().to_text(), again);
    }
    kind(parsed.map(|policy| (policy.is_empty(), policy.asks_who(), policy.needs_http())))
}

fn asks() -> Vec<Vec<u8>> {
    [
        r#"{"target":"3000","name":"app","expires":"30m","labels":{"a":"b"}}"#,
        r#"{"policy":{"deny":["::/0"]},"parts":["deny"]}"#,
        r#"{"user":"bob","uses":3,"expires":"8h"}"#,
        r#"{"token":"wkj_x","replace":true}"#,
        r#"{"expires":"10m","uses":3,"methods":["GET"],"paths":["/**"]}"#,
        r#"{"what":"app"}"#,
        r#"{"grace":"10s"}"#,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn admin_json(bytes: &[u8]) -> String {
    fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> bool {
        serde_json::from_slice::<T>(bytes).is_ok()
    }
    let kinds = [
        read::<OpenAsk>(bytes),
        read::<PolicyAsk>(bytes),
        read::<InviteAsk>(bytes),
        read::<JoinAsk>(bytes),
        read::<ShareLinkAsk>(bytes),
        read::<SuspendAsk>(bytes),
    ];
    let grace = serde_json::from_slice::<DrainAsk>(bytes).map(|ask| ask.grace().is_ok());
    format!("{kinds:?} {:?}", grace.ok())
}

fn names() -> Vec<Vec<u8>> {
    [
        "quiet-lime-82",
        "3000",
        "https+insecure://localhost:8443",
        "unix:/run/a.sock",
        "tcp://[::1]:22",
        "1h30m",
        "tun_0",
        "a.b.example.com",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let slug = Slug::parse(&text);
    if let Ok(slug) = &slug {
        assert_eq!(Slug::parse(&slug.to_string()).as_ref(), Ok(slug));
        assert!(slug.to_string().len() <= 40);
    }
    let host = Hostname::parse(&text);
    if let Ok(host) = &host {
        assert_eq!(Hostname::parse(&host.to_string()).as_ref(), Ok(host));
    }
    let target = text.parse::<Origin>();
    if let Ok(target) = &target {
        let again = target.to_string();
        assert_eq!(again.parse::<Origin>().as_ref(), Ok(target), "{again}");
    }
    let duration = wormkey::times::parse_duration(&text);
    if let Ok(duration) = duration {
        assert!(!wormkey::times::show_duration(duration).is_empty());
    }
    let id = text.parse::<TunnelId>();
    if let Ok(id) = id {
        assert_eq!(id.to_string().parse::<TunnelId>(), Ok(id));
    }
    let known = text.parse::<Kind>().is_ok();
    let time = wormkey::times::WallTime::parse_rfc3339(&text).map(|time| time.to_string());
    if let Some(time) = &time {
        assert!(
            wormkey::times::WallTime::parse_rfc3339(time).is_some(),
            "{time}"
        );
    }
    let (target, duration) = (target.map(|t| t.kind()), duration.is_ok());
    kind((
        slug.map(drop),
        host.map(drop),
        target,
        duration,
        id.is_ok(),
        known,
        time.is_some(),
    ))
}
