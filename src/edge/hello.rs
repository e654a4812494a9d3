//! The first words of TLS, read without answering: which name does the visitor ask for? Pure; decrypts
//! nothing and judges nothing but the shape. What is no ClientHello here is left to rustls to refuse.

/// The most bytes that are looked at. Hellos with post-quantum keys and ECH stay under 4 KiB.
pub(super) const LOOKED_AT: usize = 16 * 1024;

/// A record's header, and the one of a handshake message.
const RECORD: usize = 5;
const MESSAGE: usize = 4;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the bytes so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// The beginning of something that may become a hello.
    Part,
    /// A whole hello, and the name it asks for, in small letters; none when it asks for none.
    Hello(Option<String>),
    /// No hello, or none of a shape that is known.
    Other,
}

/// Looks at what a visitor has sent so far.
pub(super) fn look(bytes: &[u8]) -> Seen {
    let mut message = Vec::new();
    let mut rest = bytes;
    let is_broken = loop {
        match record(rest) {
            Record::Whole(piece, after) => {
                message.extend_from_slice(piece);
                rest = after;
            }
            Record::Part(piece) => {
                message.extend_from_slice(piece);
                break false;
            }
            Record::Other => break true,
        }
        if begun(&message).is_some_and(|length| message.len() >= length) {
            break false;
        }
    };
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Seen::Other;
    }
    match begun(&message) {
        Some(length) if length > LOOKED_AT => Seen::Other,
        Some(length) if message.len() >= length => {
            let body = message.get(MESSAGE..length).unwrap_or_default();
            name_in(body).map_or(Seen::Other, Seen::Hello)
        }
        _ if is_broken || bytes.len() >= LOOKED_AT => Seen::Other,
        _ => Seen::Part,
    }
}

/// What stands at the front: a record, the beginning of one, or something else.
enum Record<'a> {
    Whole(&'a [u8], &'a [u8]),
    Part(&'a [u8]),
    Other,
}

fn record(bytes: &[u8]) -> Record<'_> {
    let is_other = bytes.first().is_some_and(|kind| *kind != HANDSHAKE)
        || bytes.get(1).is_some_and(|major| *major != 3);
    if is_other {
        return Record::Other;
    }
    let Some((header, rest)) = bytes.split_at_checked(RECORD) else {
        return Record::Part(&[]);
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    // One without a byte is allowed in no handshake.
    if length == 0 || length > LOOKED_AT {
        return Record::Other;
    }
    match rest.split_at_checked(length) {
        Some((piece, after)) => Record::Whole(piece, after),
        None => Record::Part(rest),
    }
}

/// The length of the message that begins here, its header included, once that is there.
fn begun(message: &[u8]) -> Option<usize> {
    let &[_, high, middle, low, ..] = message else {
        return None;
    };
    Some(MESSAGE + usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?)
}

/// Takes bytes from the front, and never more than there are.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// A vector with its length in one byte.
    fn short(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Self)
    }

    /// A vector with its length in two bytes.
    fn long(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }
}

/// The name in a hello's body; `None` when the body is none (RFC 8446 section 4.1.2, RFC 6066 section 3).
fn name_in(body: &[u8]) -> Option<Option<String>> {
    let mut hello = Reader(body);
    let (_version, _random) = (hello.take(2)?, hello.take(32)?);
    let (_session, _ciphers, _compression) = (hello.short()?, hello.long()?, hello.short()?);
    if hello.0.is_empty() {
        return Some(None);
    }
    let mut extensions = hello.long()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let (kind, mut content) = (extensions.u16()?, extensions.long()?);
        if kind != SERVER_NAME {
            continue;
        }
        // Twice the same extension is forbidden: two readers could see two names.
        if found.is_some() {
            return None;
        }
        let mut names = content.long()?;
        let kind = names.u8()?;
        let name = names.long()?;
        // One name of the one kind there is.
        if kind != HOST_NAME || !names.0.is_empty() || !content.0.is_empty() {
            return None;
        }
        found = Some(std::str::from_utf8(name.0).ok()?.to_ascii_lowercase());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(length: usize, bytes: &[u8]) -> Vec<u8> {
        let size = (bytes.len() as u32).to_be_bytes();
        [&size[4 - length..], bytes].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, content)].concat()
    }

    fn server_name(name: &str) -> Vec<u8> {
        let entry = [&[HOST_NAME][..], &vector(2, name.as_bytes())].concat();
        extension(SERVER_NAME, &vector(2, &entry))
    }

    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend(vector(1, &[9; 32]));
        body.extend(vector(2, &[0x13, 0x01]));
        body.extend(vector(1, &[0]));
        body.extend(vector(2, &extensions.concat()));
        [&[CLIENT_HELLO][..], &vector(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |piece: &[u8]| [&[HANDSHAKE, 3, 1][..], &vector(2, piece)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn named(name: &str) -> Seen {
        Seen::Hello(Some(name.into()))
    }

    #[test]
    fn a_name_is_found_however_the_hello_is_cut() {
        // With GREASE, and what looks like an encrypted hello.
        let extensions = [
            extension(0x0a0a, &[]),
            extension(0xfe0d, &[1; 300]),
            server_name("App.T.Example"),
            extension(0x1a1a, &[0]),
        ];
        let message = message(&extensions);
        for size in [1, 3, 100, 16_384] {
            let bytes = records(&message, size);
            assert_eq!(look(&bytes), named("app.t.example"), "records of {size}");
            let more = [&bytes[..], b"early data"].concat();
            assert_eq!(look(&more), named("app.t.example"));
            for end in (0..bytes.len()).step_by(7) {
                assert_eq!(
                    look(&bytes[..end]),
                    Seen::Part,
                    "{end} of records of {size}"
                );
            }
        }
    }

    #[test]
    fn no_name_is_no_name_and_two_are_none_of_ours() {
        assert_eq!(look(&records(&message(&[]), 100)), Seen::Hello(None));
        let twice = message(&[server_name("a.t"), server_name("b.t")]);
        assert_eq!(look(&records(&twice, 100)), Seen::Other);
    }

    #[test]
    fn what_is_no_hello_is_told_at_its_first_wrong_byte() {
        for other in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x02",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\x00\x05\x02",
            b"\x16\x03\x01\x40\x00\x01\x01\x00\x00",
            b"SSH-2.0-x",
        ] {
            assert_eq!(look(other), Seen::Other, "{other:?}");
        }
        assert_eq!(look(b""), Seen::Part);
    }

    #[test]
    fn no_more_is_looked_at_than_the_bound() {
        let long = message(&[extension(1, &vec![0; 15_000]), extension(2, &vec![0; 3000])]);
        let bytes = records(&long, 1);
        assert_eq!(look(&bytes[..LOOKED_AT]), Seen::Other);
        assert_eq!(look(&records(&long, 16_000)[..LOOKED_AT]), Seen::Other);
    }

    #[test]
    fn the_hello_of_a_real_client_is_read() {
        let config = rustls::ClientConfig::builder_with_provider(
            rustls::crypto::aws_lc_rs::default_provider().into(),
        );
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from("db.t.example").unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        assert_eq!(look(&bytes), named("db.t.example"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = look(&bytes);
            let _ = look(&records(&bytes, 40));
            let _ = name_in(&bytes);
        }

        #[test]
        fn a_broken_hello_panics_nothing_and_lies_about_no_name(
            at in 0_usize..200, byte in any::<u8>(), size in 1_usize..64,
        ) {
            let mut message = message(&[server_name("app.t.example"), extension(5, &[0; 40])]);
            if let Some(target) = message.get_mut(at) {
                *target = byte;
            }
            let _ = look(&records(&message, size));
        }
    }
}
