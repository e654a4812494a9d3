use proptest::prelude::*;

use super::*;

fn answers(values: &[&str]) -> (Answers, Vec<crate::acme::challenges::Showing>) {
    let challenges = Challenges::new();
    let shown = values.iter().map(|value| challenges.show_record(value));
    let shown = shown.collect();
    let zone = Zone {
        top: Name::parse("_acme-challenge.t.example").unwrap(),
        server: Name::parse("t.example").unwrap(),
    };
    (Answers { zone, challenges }, shown)
}

fn question(name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut out = Vec::new();
    Header {
        id: 7,
        flags: RECURSION_DESIRED,
        counts: [1, 0, 0, u16::from(edns)],
    }
    .write(&mut out);
    // Its letters as they are: the parser lowers them.
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    if edns {
        put_record(&mut out, &[0], (TYPE_OPT, 1232), 0, &[]);
    }
    out
}

/// (code, truncated, types of the answers, types of the authorities)
fn read(answer: &[u8]) -> (u16, bool, Vec<u16>, Vec<u16>) {
    let mut reader = Reader::new(answer);
    let header = Header::read(&mut reader).unwrap();
    assert_eq!(header.id, 7);
    assert_ne!(header.flags & QR, 0);
    for _ in 0..header.counts[0] {
        reader.skip_name().unwrap();
        reader.u32().unwrap();
    }
    let mut kinds = |count| {
        let kinds = (0..count).map(|_| reader.record().unwrap().kind);
        kinds.collect::<Vec<_>>()
    };
    let (answers, authorities) = (kinds(header.counts[1]), kinds(header.counts[2]));
    kinds(header.counts[3]);
    assert_eq!(reader.position(), answer.len(), "nothing stands behind it");
    let flags = header.flags;
    (flags & 0xf, flags & TRUNCATED != 0, answers, authorities)
}

const TOP: &str = "_Acme-Challenge.t.EXAMPLE";
const VALUE: &str = "0123456789012345678901234567890123456789abc";

#[test]
fn a_proof_is_told_and_its_letters_come_back_as_they_were() {
    let (answers, _shown) = answers(&[VALUE]);
    let asked = question(TOP, TYPE_TXT, true);
    let answer = answers.over_udp(&asked).unwrap();
    assert_eq!(read(&answer), (NO_ERROR, false, vec![TYPE_TXT], vec![]));
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.contains(VALUE) && text.contains("_Acme-Challenge"));
}

#[test]
fn without_a_proof_there_is_a_name_and_no_text() {
    let (answers, _) = answers(&[]);
    let answer = answers.over_udp(&question(TOP, TYPE_TXT, true)).unwrap();
    assert_eq!(read(&answer), (NO_ERROR, false, vec![], vec![TYPE_SOA]));
}

#[test]
fn soa_and_ns_are_known_and_other_kinds_are_empty() {
    let (answers, _shown) = answers(&[VALUE]);
    for (kind, expected) in [
        (TYPE_SOA, vec![TYPE_SOA]),
        (TYPE_NS, vec![TYPE_NS]),
        (1, vec![]),
        (257, vec![]),
    ] {
        let answer = answers.over_udp(&question(TOP, kind, true)).unwrap();
        let (code, _, found, _) = read(&answer);
        assert_eq!((code, found), (NO_ERROR, expected), "{kind}");
    }
}

#[test]
fn names_below_do_not_exist_and_names_elsewhere_are_refused() {
    let (answers, _shown) = answers(&[VALUE]);
    let below = answers.over_udp(&question("a._acme-challenge.t.example", TYPE_TXT, true));
    assert_eq!(read(&below.unwrap()).0, NO_SUCH_NAME);
    for name in ["t.example", "example", "_acme-challenge.u.example"] {
        let answer = answers.over_udp(&question(name, TYPE_TXT, false)).unwrap();
        assert_eq!(read(&answer), (REFUSED, false, vec![], vec![]), "{name}");
    }
}

#[test]
fn what_is_too_long_for_udp_is_asked_for_over_tcp() {
    let values: Vec<String> = (0..30).map(|n| format!("{VALUE}{n}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let (answers, _shown) = answers(&values);
    let asked = question(TOP, TYPE_TXT, true);
    assert_eq!(
        read(&answers.over_udp(&asked).unwrap()),
        (NO_ERROR, true, vec![], vec![])
    );
    let whole = answers.to(&asked, usize::from(u16::MAX)).unwrap();
    assert_eq!(read(&whole).2.len(), 30);
}

#[test]
fn answers_updates_and_nonsense_are_not_served() {
    let (answers, _shown) = answers(&[VALUE]);
    let mut reply = question(TOP, TYPE_TXT, false);
    reply[2] |= 0x80;
    assert_eq!(answers.over_udp(&reply), None);
    let mut update = question(TOP, TYPE_TXT, false);
    update[2] = 5 << 3;
    assert_eq!(read(&answers.over_udp(&update).unwrap()).0, NOT_IMPLEMENTED);
    let mut two = question(TOP, TYPE_TXT, false);
    two[5] = 2;
    // The second question is not there, and one is all that is ever asked.
    assert_eq!(read(&answers.over_udp(&two).unwrap()).0, BAD_FORM);
    assert_eq!(answers.over_udp(b"short"), None);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_answered_up_to_a_bound() {
    let mut allowance = Allowance::new();
    let sent = (0..10_000).filter(|_| allowance.take()).count();
    assert_eq!(sent, PER_SECOND as usize);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(allowance.take());
}

#[tokio::test]
async fn both_sockets_answer() {
    let challenges = Challenges::new();
    let _shown = challenges.show_record(VALUE);
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (udp_addr, tcp_addr) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let (zone, tasks) = (answers(&[]).0.zone, Tasks::new());
    spawn((udp, tcp), zone, challenges, &tasks);
    let asked = question(TOP, TYPE_TXT, true);

    let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    asker.send_to(&asked, udp_addr).await.unwrap();
    let mut buffer = [0; 1500];
    let length = asker.recv(&mut buffer).await.unwrap();
    assert_eq!(read(&buffer[..length]).2, [TYPE_TXT]);

    let mut stream = TcpStream::connect(tcp_addr).await.unwrap();
    for _ in 0..2 {
        let length = u16::try_from(asked.len()).unwrap();
        stream.write_u16(length).await.unwrap();
        stream.write_all(&asked).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(read(&answer).2, [TYPE_TXT]);
    }
    assert!(tasks.shutdown(Duration::from_secs(2)).await);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_gain_more_than_promised(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let (answers, _shown) = answers(&[VALUE, "second"]);
        if let Some(answer) = answers.over_udp(&bytes) {
            prop_assert!(answer.len() <= (bytes.len() * GAIN_MAX).max(HEADER));
        }
    }

    #[test]
    fn no_damage_to_a_question_makes_it_panic_or_gain(at in 0usize..60, byte: u8, cut in 0usize..60) {
        let (answers, _shown) = answers(&[VALUE, "second", "third", "fourth"]);
        let mut bytes = question(TOP, TYPE_TXT, true);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut % 30).max(1));
        if let Some(answer) = answers.over_udp(&bytes) {
            prop_assert!(answer.len() <= (bytes.len() * GAIN_MAX).max(HEADER));
        }
    }
}
