use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const MESSAGES: [&str; 5] = [
    "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nGET / HTTP/",
    "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\n\r\n\0x\r\n3;e\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    "HEAD /d HTTP/1.0\r\nHost: a\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n",
    "\r\nPUT /e HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
];

/// What hyper would get to read of `sent`, in writes and reads of such sizes.
fn through(sent: &[u8], writes: usize, reads: usize) -> (Vec<u8>, Arc<Ledger>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut visitor, far) = tokio::io::duplex(16);
        let ledger = Arc::<Ledger>::default();
        let mut guard = Guard::new(far, Scheme::Https, Arc::clone(&ledger));
        let mut got = Vec::new();
        let send = async {
            for piece in sent.chunks(writes) {
                // A refused connection is not read any further.
                if visitor.write_all(piece).await.is_err() {
                    return;
                }
            }
            drop(visitor);
        };
        let read = async {
            let mut room = vec![0; reads];
            while let Ok(count) = guard.read(&mut room).await
                && count > 0
            {
                got.extend_from_slice(&room[..count]);
                if got.ends_with(REFUSED_GET) {
                    return;
                }
            }
        };
        // Whoever reads is done first when the head was refused.
        tokio::select! {
            () = read => {}
            () = async { send.await; std::future::pending::<()>().await } => {}
        }
        (got, ledger)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn good_bytes_pass_unchanged_in_pieces_of_any_size(
        messages in proptest::collection::vec(0..MESSAGES.len(), 1..6),
        writes in 1usize..80,
        reads in 1usize..80,
    ) {
        let sent: String = messages.iter().map(|m| MESSAGES[*m]).collect();
        let (got, ledger) = through(sent.as_bytes(), writes, reads);
        prop_assert_eq!(String::from_utf8_lossy(&got), sent);
        for _ in &messages {
            prop_assert_eq!(ledger.refusal(ledger.next_number()), None);
        }
    }

    #[test]
    fn of_a_bad_head_not_one_byte_passes(
        messages in proptest::collection::vec(0..MESSAGES.len(), 0..4),
        writes in 1usize..80,
        reads in 1usize..80,
    ) {
        let good: String = messages.iter().map(|m| MESSAGES[*m]).collect();
        let sent = format!("{good}GET /evil HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n{good}");
        let (got, ledger) = through(sent.as_bytes(), writes, reads);
        let expected = [good.as_bytes(), REFUSED_GET].concat();
        prop_assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected));
        for _ in &messages {
            prop_assert_eq!(ledger.refusal(ledger.next_number()), None);
        }
        prop_assert_eq!(ledger.refusal(ledger.next_number()), Some(HeadError::FieldName));
    }
}

#[test]
fn of_a_bad_chunked_body_only_what_was_in_order_passes() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for pieces in [1, 7, 1000] {
        let sent = format!("{head}3\r\nabc\r\n3x\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (got, ledger) = through(sent.as_bytes(), pieces, 1000);
        assert_eq!(
            String::from_utf8(got).unwrap(),
            format!("{head}3\r\nabc\r\n3")
        );
        assert!(ledger.has_bad_body());
    }
}

#[tokio::test]
async fn bodies_are_read_where_hyper_wants_them() {
    let (mut visitor, far) = tokio::io::duplex(1 << 20);
    let mut guard = Guard::new(far, Scheme::Https, Arc::default());
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n";
    visitor.write_all(head).await.unwrap();
    visitor.write_all(&vec![7; 500_000]).await.unwrap();
    let mut room = vec![0; 600_000];
    let count = guard.read(&mut room).await.unwrap();
    assert_eq!(count, head.len() + 500_000, "one read, head and body");
    assert_eq!(guard.held.capacity(), 0, "nothing was held back");
}

#[tokio::test(start_paused = true)]
async fn it_rests_once_all_answers_have_left_and_wakes_with_the_next_head() {
    let (mut visitor, far) = tokio::io::duplex(1 << 16);
    let ledger = Arc::<Ledger>::default();
    let mut guard = Guard::new(far, Scheme::Https, Arc::clone(&ledger));
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut room = vec![0; 1000];
    visitor.write_all(head).await.unwrap();
    assert_eq!(guard.read(&mut room).await.unwrap(), head.len());
    let wait = Duration::from_secs(3);
    let waited = tokio::time::timeout(wait, guard.read(&mut room)).await;
    assert!(waited.is_err() && !ledger.is_resting(), "an answer is due");

    guard.write_all(b"ok").await.unwrap();
    ledger.finish();
    visitor.write_all(head).await.unwrap();
    assert_eq!(guard.read(&mut room).await.unwrap(), head.len());
    guard.write_all(b"ok").await.unwrap();
    ledger.finish();
    let waited = tokio::time::timeout(wait, guard.read(&mut room)).await;
    assert!(waited.is_err() && !ledger.is_resting(), "not flushed");

    visitor.write_all(head).await.unwrap();
    assert_eq!(guard.read(&mut room).await.unwrap(), head.len());
    guard.write_all(b"ok").await.unwrap();
    guard.flush().await.unwrap();
    ledger.finish();
    let waited = tokio::time::timeout(wait, guard.read(&mut room)).await;
    assert!(waited.is_err() && ledger.is_resting());
    assert_eq!(guard.held.capacity(), 0, "it keeps nothing");

    visitor.write_all(&head[..5]).await.unwrap();
    std::future::poll_fn(|cx| guard.poll_wake(cx))
        .await
        .unwrap();
    visitor.write_all(&head[5..]).await.unwrap();
    assert_eq!(guard.read(&mut room).await.unwrap(), head.len());
    assert_eq!(&room[..head.len()], head);
}

/// Reads a head, nothing for a second, nothing when it is asked after that, and a head when it is asked again.
struct Late {
    head: &'static [u8],
    reads: usize,
    from: Option<Instant>,
}

impl AsyncRead for Late {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.from {
            Some(from) if now() < from => return Poll::Pending,
            Some(_) => self.reads += 1,
            None => self.from = Some(now() + REST_AFTER),
        }
        if self.reads == 1 {
            return Poll::Pending;
        }
        buf.put_slice(self.head);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_moment_of_going_to_rest_was_thrown_away() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let late = Late {
        head,
        reads: 0,
        from: None,
    };
    let ledger = Arc::<Ledger>::default();
    let io = tokio::io::join(late, tokio::io::sink());
    let mut guard = Guard::new(io, Scheme::Https, Arc::clone(&ledger));
    let mut room = vec![0; 1000];
    assert_eq!(guard.read(&mut room).await.unwrap(), head.len());
    guard.write_all(b"ok").await.unwrap();
    guard.flush().await.unwrap();
    ledger.finish();
    assert_eq!(guard.read(&mut room).await.unwrap(), head.len());
    assert!(!ledger.is_resting(), "hyper has a request");
}
