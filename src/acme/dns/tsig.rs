//! Signatures of DNS messages with a shared key (TSIG, RFC 8945), and the file such a key is kept in.

use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use crate::dns::{CLASS_ANY, Header, Name, Reader, TYPE_TSIG, put_record};
use crate::secret;
use crate::times::WallTime;

/// How far the clocks of both ends may differ, in seconds.
const FUDGE: u16 = 300;
/// A key has a few lines; more is something else.
const FILE_MAX: u64 = 64 * 1024;

/// A key that we share with a name server.
pub(in crate::acme) struct Key {
    name: Name,
    algorithm: Name,
    hmac: hmac::Key,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(in crate::acme) enum KeyError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{} holds no key; write it as tsig-keygen does: key \"name\" {{ algorithm hmac-sha256; secret \"…\"; }};",
        path.display()
    )]
    NoKey { path: PathBuf },
    #[error("{} names the algorithm {algorithm}; hmac-sha256 and hmac-sha512 are known", path.display())]
    Algorithm { path: PathBuf, algorithm: String },
}

/// Why an answer is not the server's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::acme) enum SignatureError {
    #[error("the answer is not signed")]
    Missing,
    #[error("the answer's signature is wrong")]
    Wrong,
    #[error("the server refused our signature ({})", error_name(*.0))]
    Refused(u16),
}

/// The errors that a TSIG record can carry.
const fn error_name(code: u16) -> &'static str {
    match code {
        16 => "wrong key: its secret differs",
        17 => "the server does not know a key of this name and algorithm",
        18 => "the clocks of both machines differ too much",
        _ => "an error without a name",
    }
}

impl Key {
    /// Reads the file that `tsig-keygen` writes.
    pub(in crate::acme) fn load(path: &Path) -> Result<Self, KeyError> {
        let text = secret::file::read(path, FILE_MAX).map_err(|source| KeyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, KeyError> {
        let no_key = || KeyError::NoKey {
            path: path.to_owned(),
        };
        let plain: String = text
            .lines()
            .map(|line| line.split(['#']).next().unwrap_or_default())
            .map(|line| {
                line.split("//")
                    .next()
                    .filter(|_| !line.contains('"'))
                    .unwrap_or(line)
            })
            .flat_map(|line| [line, " "])
            .collect();
        let plain = plain.replace(['{', '}', ';', '"'], " ");
        let words: Vec<&str> = plain.split_whitespace().collect();
        let after = |word| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at + 1).copied()
        };
        let name = after("key").and_then(Name::parse).ok_or_else(no_key)?;
        let algorithm = after("algorithm").unwrap_or("hmac-sha256");
        let algorithm = algorithm.trim_end_matches('.').to_ascii_lowercase();
        let kind = match &*algorithm {
            "hmac-sha256" => hmac::HMAC_SHA256,
            "hmac-sha512" => hmac::HMAC_SHA512,
            _ => {
                return Err(KeyError::Algorithm {
                    path: path.to_owned(),
                    algorithm,
                });
            }
        };
        let secret = after("secret").map(|text| BASE64.decode(text.as_bytes()));
        let secret = secret
            .and_then(Result::ok)
            .filter(|secret| !secret.is_empty());
        Ok(Self {
            name,
            algorithm: Name::parse(&algorithm).ok_or_else(no_key)?,
            hmac: hmac::Key::new(kind, &secret.ok_or_else(no_key)?),
        })
    }

    /// Appends the signature to a message; returns it for the answer's.
    pub(in crate::acme) fn sign(&self, message: &mut Vec<u8>, now: WallTime) -> Vec<u8> {
        let variables = self.variables(now, 0);
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(message);
        context.update(&variables);
        let mac = context.sign().as_ref().to_vec();
        let id = [message[0], message[1]];
        let data = self.data(&mac, now, id);
        put_record(message, self.name.wire(), (TYPE_TSIG, CLASS_ANY), 0, &data);
        let additions = u16::from_be_bytes([message[10], message[11]]).saturating_add(1);
        message[10..12].copy_from_slice(&additions.to_be_bytes());
        mac
    }

    /// Whether an answer to what was signed with `asked` is the server's.
    pub(in crate::acme) fn verify(
        &self,
        answer: &[u8],
        asked: &[u8],
    ) -> Result<(), SignatureError> {
        let found = find(answer).ok_or(SignatureError::Missing)?;
        if found.mac.is_empty() {
            return Err(SignatureError::Refused(found.error));
        }
        let mut signed = answer[..found.start].to_vec();
        let additions = u16::from_be_bytes([signed[10], signed[11]]).saturating_sub(1);
        signed[10..12].copy_from_slice(&additions.to_be_bytes());
        let length = u16::try_from(asked.len()).unwrap_or(0).to_be_bytes();
        let mut variables = self.variable_head();
        variables.extend(found.time);
        variables.extend(found.error.to_be_bytes());
        let other = u16::try_from(found.other.len()).unwrap_or(0);
        variables.extend(other.to_be_bytes());
        variables.extend(found.other);
        let all = [&length[..], asked, &signed, &variables].concat();
        hmac::verify(&self.hmac, &all, found.mac).map_err(|_| SignatureError::Wrong)?;
        match found.error {
            0 => Ok(()),
            error => Err(SignatureError::Refused(error)),
        }
    }

    fn variable_head(&self) -> Vec<u8> {
        let mut out = self.name.wire().to_vec();
        out.extend(CLASS_ANY.to_be_bytes());
        out.extend(0_u32.to_be_bytes());
        out.extend(self.algorithm.wire());
        out
    }

    fn variables(&self, now: WallTime, error: u16) -> Vec<u8> {
        let mut out = self.variable_head();
        out.extend(seconds(now));
        out.extend(FUDGE.to_be_bytes());
        out.extend(error.to_be_bytes());
        out.extend(0_u16.to_be_bytes());
        out
    }

    fn data(&self, mac: &[u8], now: WallTime, id: [u8; 2]) -> Vec<u8> {
        let mut out = self.algorithm.wire().to_vec();
        out.extend(seconds(now));
        out.extend(FUDGE.to_be_bytes());
        out.extend(u16::try_from(mac.len()).unwrap_or(0).to_be_bytes());
        out.extend(mac);
        out.extend(id);
        out.extend([0; 4]); // no error, nothing else
        out
    }
}

/// Seconds since 1970 in 48 bits.
fn seconds(now: WallTime) -> [u8; 6] {
    let seconds = u64::try_from(now.as_millis() / 1000).unwrap_or(0);
    let [_, _, rest @ ..] = seconds.to_be_bytes();
    rest
}

/// The signature of an answer.
struct Found<'a> {
    start: usize,
    /// Time and fudge as they stand there.
    time: &'a [u8],
    mac: &'a [u8],
    error: u16,
    other: &'a [u8],
}

/// The last record, when it is a signature.
fn find(answer: &[u8]) -> Option<Found<'_>> {
    let mut reader = Reader::new(answer);
    let header = Header::read(&mut reader)?;
    for _ in 0..header.counts[0] {
        reader.skip_name()?;
        reader.u32()?;
    }
    let records: usize = header.counts[1..].iter().map(|n| usize::from(*n)).sum();
    let last = (0..records).map_while(|_| reader.record()).last()?;
    if last.kind != TYPE_TSIG {
        return None;
    }
    let mut data = Reader::new(last.data);
    data.skip_name()?;
    let time = data.take(8)?;
    let length = usize::from(data.u16()?);
    let mac = data.take(length)?;
    data.u16()?; // the message's own id
    let error = data.u16()?;
    let length = usize::from(data.u16()?);
    Some(Found {
        start: last.start,
        time,
        mac,
        error,
        other: data.take(length)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "// ours\nkey \"acme.t.example\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0Ly8=\";\n};\n";

    fn key() -> Key {
        Key::parse(FILE, Path::new("key")).unwrap()
    }

    fn message() -> Vec<u8> {
        let mut out = Vec::new();
        Header {
            id: 9,
            flags: 0,
            counts: [0; 4],
        }
        .write(&mut out);
        out
    }

    /// What a server does: sign an answer over what was asked.
    fn answer(key: &Key, asked: &[u8]) -> Vec<u8> {
        let mut out = message();
        let now = WallTime::from_millis(1_700_000_000_000);
        let length = u16::try_from(asked.len()).unwrap().to_be_bytes();
        let all = [&length[..], asked, &out, &key.variables(now, 0)].concat();
        let mac = hmac::sign(&key.hmac, &all);
        let data = key.data(mac.as_ref(), now, [0, 9]);
        put_record(&mut out, key.name.wire(), (TYPE_TSIG, CLASS_ANY), 0, &data);
        out[11] = 1;
        out
    }

    #[test]
    fn a_key_file_is_read_and_others_are_refused_with_the_fix() {
        let key = key();
        assert_eq!(key.name, Name::parse("acme.t.example").unwrap());
        assert_eq!(key.algorithm, Name::parse("hmac-sha256").unwrap());
        let path = Path::new("key");
        for bad in [
            "",
            "key \"a\" {};",
            "key \"a\" { secret \"%\"; };",
            "secret \"YQ==\";",
        ] {
            assert!(
                matches!(Key::parse(bad, path), Err(KeyError::NoKey { .. })),
                "{bad}"
            );
        }
        let md5 = "key a { algorithm hmac-md5; secret \"YQ==\"; };";
        assert!(matches!(
            Key::parse(md5, path),
            Err(KeyError::Algorithm { .. })
        ));
    }

    #[test]
    fn an_answer_counts_only_when_it_is_signed_over_our_question() {
        let key = key();
        let mut asked = message();
        let mac = key.sign(&mut asked, WallTime::from_millis(1_700_000_000_000));
        assert_eq!(asked[11], 1, "the signature is counted");
        let good = answer(&key, &mac);
        assert_eq!(key.verify(&good, &mac), Ok(()));
        assert_eq!(key.verify(&good, b"another"), Err(SignatureError::Wrong));
        assert_eq!(key.verify(&message(), &mac), Err(SignatureError::Missing));
        for at in 0..2 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(key.verify(&bad, &mac), Err(SignatureError::Wrong), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(key().verify(&bytes, b"mac").is_err());
        }
    }
}
