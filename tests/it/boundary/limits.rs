//! The documented sizes hold at N − 1 and N and refuse at N + 1, alike for HTTP/1.1 and HTTP/2.

use super::frames::{END_STREAM, Outcome, Raw2, block, headers};
use super::*;

/// `README.md` and wormkeyd(8) say these.
const FIELDS: usize = 100;
const HEAD: usize = 32 * 1024;
const TARGET: usize = 8 * 1024;
const METHOD: usize = 32;

/// A request by its method, target and fields, without the host.
struct Ask(String, String, Vec<(String, String)>);

impl Ask {
    fn get(target: String) -> Self {
        Self("GET".to_owned(), target, Vec::new())
    }

    async fn over_1(&self, visitor: &Visitor) -> Option<u16> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.0, self.1, host());
        for (name, value) in &self.2 {
            head += &format!("{name}: {value}\r\n");
        }
        let answer = raw(
            visitor,
            format!("{head}\r\n{LAST}", LAST = last()).as_bytes(),
        )
        .await;
        status(&answer)
    }

    async fn over_2(&self, visitor: &Visitor) -> Option<u16> {
        let host = host();
        let mut fields = vec![
            (":method", &self.0[..]),
            (":scheme", "https"),
            (":path", &self.1[..]),
            (":authority", &host[..]),
        ];
        fields.extend(self.2.iter().map(|(n, v)| (&n[..], &v[..])));
        let mut connection = Raw2::new(visitor).await;
        connection
            .send(&headers(1, END_STREAM, &block(&fields)))
            .await;
        match connection.outcome(1).await {
            Outcome::Status(status) => Some(status),
            _ => None,
        }
    }
}

/// Ends the connection, so that a raw exchange has an end.
fn last() -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        host()
    )
}

#[tokio::test]
async fn sizes_are_the_same_in_every_version() {
    let boundary = Boundary::new().await;
    let visitor = boundary.visitor();
    let target = |size: usize| Ask::get(format!("/{}", "t".repeat(size - 1)));
    // Host is one of the fields, as `:authority` is.
    let fields = |count: usize| {
        let field = |n: usize| (format!("x-{n:03}"), "v".to_owned());
        Ask(
            "GET".to_owned(),
            "/".to_owned(),
            (1..count).map(field).collect(),
        )
    };
    let method = |size: usize| Ask("M".repeat(size), "/".to_owned(), Vec::new());
    for (ask, expected) in [
        (target(TARGET - 1), 200),
        (target(TARGET), 200),
        (target(TARGET + 1), 414),
        (target(4 * TARGET - 200), 414),
        (fields(FIELDS - 1), 200),
        (fields(FIELDS), 200),
        (fields(FIELDS + 1), 431),
        (fields(3 * FIELDS), 431),
        (method(METHOD), 200),
        (method(METHOD + 1), 501),
    ] {
        let (one, two) = (ask.over_1(&visitor).await, ask.over_2(&visitor).await);
        let what = format!(
            "{} bytes of method, {} of target, {} fields",
            ask.0.len(),
            ask.1.len(),
            ask.2.len()
        );
        assert_eq!((one, two), (Some(expected), Some(expected)), "{what}");
    }
    boundary.control().await;
}

#[tokio::test]
async fn a_head_of_32_kib_passes_and_one_byte_more_does_not() {
    let boundary = Boundary::new().await;
    let visitor = boundary.visitor();
    let ask = |head: usize| {
        let rest = format!("GET / HTTP/1.1\r\nHost: {}\r\nx-long: \r\n\r\n", host()).len();
        let value = "v".repeat(head - rest);
        Ask(
            "GET".to_owned(),
            "/".to_owned(),
            vec![("x-long".to_owned(), value)],
        )
    };
    assert_eq!(ask(HEAD - 1).over_1(&visitor).await, Some(200));
    assert_eq!(ask(HEAD).over_1(&visitor).await, Some(200));
    assert_eq!(ask(HEAD + 1).over_1(&visitor).await, Some(431));
    assert_eq!(ask(HEAD - 1).over_2(&visitor).await, Some(200));
    assert_eq!(ask(HEAD).over_2(&visitor).await, Some(200));
    assert_eq!(ask(HEAD + 1).over_2(&visitor).await, Some(431));
    boundary.control().await;
}
