use proptest::prelude::*;

use super::*;

fn scan(bytes: &[u8]) -> Result<Option<(usize, RawHead)>, HeadError> {
    HeadScanner::new(Scheme::Https).feed(bytes)
}

/// The offending byte must be the last one of `bytes`: everything before it is waited for.
fn refused(bytes: &[u8], error: HeadError) {
    let shown = bytes.escape_ascii();
    assert_eq!(scan(bytes), Err(error), "{shown}");
    let before = &bytes[..bytes.len() - 1];
    assert_eq!(scan(before), Ok(None), "refused too early: {shown}");
    let mut slow = HeadScanner::new(Scheme::Https);
    for b in before {
        assert_eq!(slow.feed(&[*b]), Ok(None), "{shown}");
    }
    assert_eq!(slow.feed(&bytes[before.len()..]), Err(error), "{shown}");
}

fn accepted(bytes: &[u8]) -> RawHead {
    match scan(bytes) {
        Ok(Some((size, head))) if size == bytes.len() => head,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

fn framing(fields: &str) -> Framing {
    accepted(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).framing
}

#[test]
fn ordinary_heads_pass() {
    let get = accepted(b"GET /a?b HTTP/1.1\r\nHost: app.example.com\r\nAccept: */*\r\n\r\n");
    assert_eq!(get.framing, Framing::None);
    assert!(!get.wants_upgrade);
    assert_eq!(get.version, RawVersion::Http11);
    assert_eq!(
        accepted(b"GET / HTTP/1.0\r\nhost:a\r\n\r\n").version,
        RawVersion::Http10
    );
    accepted(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    accepted(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    accepted(b"GET https://A.example./x HTTP/1.1\r\nHost: a.example:443\r\n\r\n");
    accepted(b"GET https://a HTTP/1.1\r\nHost: a\r\n\r\n");
    accepted(b"GET https://a?q HTTP/1.1\r\nHost: a\r\n\r\n");
    accepted(b"GET / HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX-Raw: \xff\tx\r\n\r\n");
    assert_eq!(framing("Content-Length: 5\r\n"), Framing::Length(5));
    assert_eq!(framing("Content-Length:\t5 \r\n"), Framing::Length(5));
    assert_eq!(framing("Content-Length: 0\r\n"), Framing::None);
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Framing::Chunked);
}

#[test]
fn what_follows_a_head_is_not_taken() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let two = [&head[..], b"GET \n"].concat();
    assert!(matches!(scan(&two), Ok(Some((size, _))) if size == head.len()));
}

#[test]
fn only_http_1_1_asks_for_an_upgrade() {
    let head = |version| format!("GET / HTTP/{version}\r\nHost: a\r\nUPGRADE: foo\r\n\r\n");
    assert!(accepted(head("1.1").as_bytes()).wants_upgrade);
    assert!(!accepted(head("1.0").as_bytes()).wants_upgrade);
}

#[test]
fn length_with_encoding_is_refused_in_both_orders() {
    refused(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding:",
        HeadError::LengthAndEncoding,
    );
    refused(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-length:",
        HeadError::LengthAndEncoding,
    );
}

#[test]
fn anything_but_one_chunked_is_refused() {
    for value in [
        "chunked, chunked",
        "gzip, chunked",
        "gzip",
        "identity",
        "",
        ",chunked",
        "chunked,",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "chun ked",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {value}\r");
        refused(head.as_bytes(), HeadError::TransferEncoding);
    }
    refused(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:",
        HeadError::TransferEncoding,
    );
    let long = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {}",
        "c".repeat(200)
    );
    assert_eq!(scan(long.as_bytes()), Err(HeadError::TransferEncoding));
}

#[test]
fn http_1_0_has_neither_encoding_nor_a_body_without_length() {
    refused(
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding:",
        HeadError::TransferEncoding,
    );
    refused(
        b"POST / HTTP/1.0\r\nHost: a\r\n\r\n",
        HeadError::LengthMissing,
    );
    accepted(b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn lengths_are_one_decimal_number() {
    for value in ["+", "-", "x", "0x", "5,", "5 5", "1e", "5.", "\""] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}");
        refused(head.as_bytes(), HeadError::ContentLength);
    }
    for value in [
        "",
        " ",
        "18446744073709551616",
        "18446744073709551615",
        "9223372036854775808",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:{value}\r");
        refused(head.as_bytes(), HeadError::ContentLength);
    }
    assert_eq!(
        framing("Content-Length: 9223372036854775807\r\n"),
        Framing::Length(i64::MAX as u64)
    );
    for second in ["6", "5"] {
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: {second}");
        assert_eq!(scan(head.as_bytes()), Err(HeadError::ContentLength));
    }
    let zeros = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}",
        "0".repeat(9000)
    );
    assert_eq!(scan(zeros.as_bytes()), Err(HeadError::ContentLength));
}

#[test]
fn lines_are_refused_at_the_offending_byte() {
    refused(b"GET / HTTP/1.1\n", HeadError::BareLf);
    refused(b"GET / HTTP/1.1\r\nHost: a\n", HeadError::BareLf);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n", HeadError::BareLf);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\n\n", HeadError::BareLf);
    refused(b"GET / HTTP/1.1\r\nHost\n", HeadError::BareLf);
    refused(b"\n", HeadError::BareLf);
    refused(b"GET / HTTP/1.1\rX", HeadError::BareCr);
    refused(b"GET / HTTP/1.1\r\nHost: a\rb", HeadError::BareCr);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\n\rX", HeadError::BareCr);
    refused(b"\rG", HeadError::BareCr);
    refused(b"\r\n\r", HeadError::RequestLine);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\n ", HeadError::Folded);
    refused(b"GET / HTTP/1.1\r\n\t", HeadError::Folded);
    refused(b"GET / HTTP/1.1\r\nHost ", HeadError::FieldName);
    refused(b"GET / HTTP/1.1\r\nHo\0", HeadError::FieldName);
    refused(b"GET / HTTP/1.1\r\nH\xc3", HeadError::FieldName);
    refused(b"GET / HTTP/1.1\r\n:", HeadError::FieldName);
    refused(b"GET / HTTP/1.1\r\nHost\r", HeadError::NoColon);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: \0", HeadError::FieldValue);
    refused(
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\x7f",
        HeadError::FieldValue,
    );
    refused(
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b",
        HeadError::FieldValue,
    );
}

#[test]
fn there_is_one_host_and_nothing_contradicts_it() {
    refused(b"GET / HTTP/1.1\r\n\r\n", HeadError::HostMissing);
    refused(b"GET / HTTP/1.0\r\n\r\n", HeadError::HostMissing);
    refused(b"GET https://a/ HTTP/1.1\r\n\r\n", HeadError::HostMissing);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nHOST:", HeadError::HostTwice);
    for bad in ["", "evil@a", "a b", "a, b", "a/b", "a:x", "http://a"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {bad}\r");
        refused(head.as_bytes(), HeadError::HostMalformed);
    }
    refused(
        b"GET https://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        HeadError::HostsDiffer,
    );
    refused(
        b"GET https://a:444/ HTTP/1.1\r\nHost: a\r\n\r\n",
        HeadError::HostsDiffer,
    );
    refused(b"GET https://e@a/", HeadError::HostMalformed);
    refused(b"GET http://", HeadError::SchemeMismatch);
    refused(b"GET ftp://", HeadError::Scheme);
}

#[test]
fn targets_have_a_form_that_fits_the_method() {
    refused(b"GET foo ", HeadError::Target);
    refused(b"GET *", HeadError::Target);
    refused(b"OPTIONS *x", HeadError::Target);
    refused(b"GET /a#", HeadError::Target);
    refused(b"GET /\xff", HeadError::Target);
    refused(b"GET ?", HeadError::Target);
    refused(b"GET a:443 ", HeadError::Target);
    refused(b"GET javascrip", HeadError::Target);
    refused(b"GET  ", HeadError::RequestLine);
    accepted("GET /%00/../\\//ü HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes());
}

#[test]
fn other_versions_and_protocols_are_refused() {
    refused(b"GET / HTTP/1.2", HeadError::Version);
    refused(b"GET / HTTP/2", HeadError::Version);
    refused(b"GET / h", HeadError::Version);
    refused(b"GET / HTTP/1.1 ", HeadError::Version);
    refused(b"GET / HTTP/1.10", HeadError::Version);
    refused(b"GET /\r", HeadError::RequestLine);
    refused(b"GET\t", HeadError::RequestLine);
    refused(b"GET /\t", HeadError::Target);
    refused(b" ", HeadError::RequestLine);
    refused(b"PRI *", HeadError::Target);
    refused(b"\x16", HeadError::RequestLine);
    refused(b"SSH-2.0-x\r", HeadError::RequestLine);
}

#[test]
fn some_methods_never_pass() {
    refused(b"CONNECT ", HeadError::MethodRefused);
    refused(b"TRACE ", HeadError::MethodRefused);
    let long = format!(
        "{} / HTTP/1.1\r\nHost: a\r\n\r\n",
        "M".repeat(limits::METHOD_MAX)
    );
    accepted(long.as_bytes());
    refused(
        "M".repeat(limits::METHOD_MAX + 1).as_bytes(),
        HeadError::MethodTooLong,
    );
}

#[test]
fn targets_may_have_8192_bytes() {
    let head = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n - 1));
    accepted(head(limits::TARGET_MAX - 1).as_bytes());
    accepted(head(limits::TARGET_MAX).as_bytes());
    assert_eq!(
        scan(head(limits::TARGET_MAX + 1).as_bytes()),
        Err(HeadError::TargetTooLong)
    );
}

#[test]
fn heads_may_have_100_fields() {
    let head = |n: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: y\r\n".repeat(n - 1)
        )
    };
    accepted(head(limits::FIELDS_MAX - 1).as_bytes());
    accepted(head(limits::FIELDS_MAX).as_bytes());
    assert_eq!(
        scan(head(limits::FIELDS_MAX + 1).as_bytes()),
        Err(HeadError::TooManyFields)
    );
}

#[test]
fn heads_may_have_32768_bytes() {
    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let head = |n: usize| format!("{start}{}\r\n\r\n", "y".repeat(n - start.len() - 4));
    for n in [limits::HEAD_MAX - 1, limits::HEAD_MAX] {
        assert_eq!(head(n).len(), n);
        accepted(head(n).as_bytes());
    }
    assert_eq!(
        scan(head(limits::HEAD_MAX + 1).as_bytes()),
        Err(HeadError::HeadTooLarge)
    );
}

proptest! {
    #[test]
    fn no_bytes_panic_and_pieces_make_no_difference(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'/'), any::<u8>()
        ], 0..200),
        cut in 0usize..200,
    ) {
        let bytes = [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &bytes].concat();
        let cut = cut.min(bytes.len());
        let whole = scan(&bytes);
        let mut scanner = HeadScanner::new(Scheme::Https);
        let pieces = match scanner.feed(&bytes[..cut]) {
            Ok(None) => scanner.feed(&bytes[cut..]).map(|done| done.map(|(n, head)| (cut + n, head))),
            done => done,
        };
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn an_accepted_head_ends_at_its_end_and_names_a_uri(
        name in "[A-Za-z-]{1,20}", value in "[ -~]{0,40}", path in "/[a-z0-9/?=&%]{0,40}",
    ) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n");
        if let Ok(Some((size, _))) = scan(head.as_bytes()) {
            prop_assert_eq!(size, head.len());
            prop_assert!(http::Uri::try_from(path).is_ok());
        }
    }
}
