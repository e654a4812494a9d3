//! Answers that are believed and those that are not, and a name server of our own to ask.

use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::dns::{TYPE_ANY, txt as txt_data};

const NAME: &str = "_wormkey-challenge.app.example.org";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn question() -> Question {
    Question::with(&name(NAME), 7)
}

/// An answer to the question with these flags and records.
fn answer(id: u16, flags: u16, asked: &Name, records: &[(&[u8], u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = Vec::new();
    Header {
        id,
        flags: RESPONSE | flags,
        counts: [1, u16::try_from(records.len()).unwrap(), 0, 0],
    }
    .write(&mut message);
    message.extend(asked.wire());
    message.extend(TYPE_TXT.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    for (owner, kind, data) in records {
        put_record(&mut message, owner, (*kind, CLASS_IN), 60, data);
    }
    message
}

fn texts(read: Answer) -> Vec<String> {
    match read {
        Answer::Texts(texts) => texts,
        other => panic!("{other:?}"),
    }
}

/// Points to the question's name.
const ASKED: &[u8] = &[0xc0, 12];

#[test]
fn all_texts_of_the_name_are_found() {
    let other = name("other.example");
    let records = [
        (ASKED, TYPE_TXT, txt_data("one")),
        (other.wire(), TYPE_TXT, txt_data("not its own")),
        (ASKED, TYPE_TXT, [txt_data("tw"), txt_data("o")].concat()),
        (ASKED, TYPE_ANY, vec![1, 2, 3]),
    ];
    let message = answer(7, 0, &name(NAME), &records);
    assert_eq!(texts(question().read(&message)), ["one", "two"]);
}

#[test]
fn an_alias_is_followed_within_the_answer() {
    let there = name("proofs.example.net");
    let records = [
        (ASKED, TYPE_CNAME, there.wire().to_vec()),
        (there.wire(), TYPE_TXT, txt_data("by alias")),
        (ASKED, TYPE_TXT, txt_data("beside an alias")),
    ];
    let message = answer(7, 0, &name(NAME), &records);
    assert_eq!(texts(question().read(&message)), ["by alias"]);
    // Two that lead to each other end somewhere.
    let records = [
        (ASKED, TYPE_CNAME, there.wire().to_vec()),
        (there.wire(), TYPE_CNAME, name(NAME).wire().to_vec()),
    ];
    let message = answer(7, 0, &name(NAME), &records);
    assert!(texts(question().read(&message)).is_empty());
}

#[test]
fn what_answers_another_question_is_passed_over() {
    let records = [(ASKED, TYPE_TXT, txt_data("forged"))];
    let asked = name(NAME);
    let good = answer(7, 0, &asked, &records);
    let mut query = good.clone();
    query[2] &= 0x7f;
    let mut other_kind = good.clone();
    let kind = HEADER + asked.wire().len();
    other_kind[kind + 1] = 1;
    let mut two = good.clone();
    two[5] = 2;
    for (what, message) in [
        ("another number", answer(8, 0, &asked, &records)),
        (
            "another name",
            answer(7, 0, &name("x.example.org"), &records),
        ),
        ("another opcode", answer(7, 5 << 11, &asked, &records)),
        ("a question", query),
        ("another kind", other_kind),
        ("two questions", two),
        ("half a head", good[..HEADER - 1].to_vec()),
    ] {
        let read = question().read(&message);
        assert!(matches!(read, Answer::Stray), "{what}: {read:?}");
    }
    assert_eq!(texts(question().read(&good)), ["forged"]);
}

#[test]
fn no_such_name_is_an_answer_and_an_error_is_none() {
    let asked = name(NAME);
    let none = question().read(&answer(7, NO_SUCH_NAME, &asked, &[]));
    assert!(texts(none).is_empty());
    for code in [1, 2, 5] {
        let read = question().read(&answer(7, code, &asked, &[]));
        assert!(matches!(read, Answer::Error(LookupError::Refused { code: c }) if c == code));
    }
}

#[test]
fn a_broken_answer_is_no_answer() {
    let records = [(ASKED, TYPE_TXT, txt_data("x"))];
    let good = answer(7, 0, &name(NAME), &records);
    for end in HEADER + name(NAME).wire().len() + 4..good.len() {
        let read = question().read(&good[..end]);
        assert!(
            matches!(read, Answer::Error(LookupError::Malformed)),
            "{end}: {read:?}"
        );
    }
    let records = [(ASKED, TYPE_TXT, vec![9, b'x'])];
    let read = question().read(&answer(7, 0, &name(NAME), &records));
    assert!(matches!(read, Answer::Error(LookupError::Malformed)));
}

proptest::proptest! {
    #[test]
    fn no_answer_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let mut message = answer(7, 0, &name(NAME), &[]);
        message[7] = 3;
        message.extend(&bytes);
        let _ = question().read(&message);
        let _ = question().read(&bytes);
    }
}

#[test]
fn the_systems_servers_are_read_as_it_does() {
    let text = "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\nnameserver fd00::53 # v6\n\
                nameserver none\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
    let servers: Vec<_> = servers_in(text).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[fd00::53]:53", "192.0.2.2:53"]);
}

/// A name server on both protocols of one port.
async fn server() -> (UdpSocket, TcpListener, SocketAddr) {
    let tcp = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = tcp.local_addr().unwrap();
    (UdpSocket::bind(at).await.unwrap(), tcp, at)
}

#[tokio::test]
async fn strays_are_passed_over_until_the_answer_comes() {
    let (udp, _tcp, at) = server().await;
    let serve = async {
        let mut buffer = [0; 512];
        let (_, peer) = udp.recv_from(&mut buffer).await.unwrap();
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        let (asked, records) = (name(NAME), [(ASKED, TYPE_TXT, txt_data("real"))]);
        let forged = [(ASKED, TYPE_TXT, txt_data("forged"))];
        let stray = answer(id.wrapping_add(1), 0, &asked, &forged);
        udp.send_to(&stray, peer).await.unwrap();
        let thief = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let right = answer(id, 0, &asked, &forged);
        thief.send_to(&right, peer).await.unwrap();
        udp.send_to(&answer(id, 0, &asked, &records), peer)
            .await
            .unwrap();
    };
    let (found, ()) = tokio::join!(txt(Some(at), NAME), serve);
    assert_eq!(found.unwrap(), ["real"]);
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let (udp, tcp, at) = server().await;
    let serve = async {
        let mut buffer = [0; 512];
        let (_, peer) = udp.recv_from(&mut buffer).await.unwrap();
        let id = u16::from_be_bytes([buffer[0], buffer[1]]);
        udp.send_to(&answer(id, TRUNCATED, &name(NAME), &[]), peer)
            .await
            .unwrap();
        let (mut tcp, _) = tcp.accept().await.unwrap();
        let length = usize::from(tcp.read_u16().await.unwrap());
        tcp.read_exact(&mut buffer[..length]).await.unwrap();
        let many: Vec<_> = (0..40)
            .map(|i| {
                (
                    ASKED,
                    TYPE_TXT,
                    txt_data(&format!("text {i} {}", "x".repeat(60))),
                )
            })
            .collect();
        let whole = answer(id, 0, &name(NAME), &many);
        tcp.write_u16(u16::try_from(whole.len()).unwrap())
            .await
            .unwrap();
        tcp.write_all(&whole).await.unwrap();
    };
    let (found, ()) = tokio::join!(txt(Some(at), NAME), serve);
    assert_eq!(found.unwrap().len(), 40);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_without_end() {
    let (_udp, _tcp, at) = server().await;
    tokio::time::pause();
    let found = txt(Some(at), NAME).await;
    assert!(matches!(found, Err(LookupError::Late)), "{found:?}");
}
