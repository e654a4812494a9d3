//! What a certificate says of itself: its times, its names, and the two numbers by which its CA knows it.
//! Not a verifier: whoever shows one to visitors only wants to know what it is.

use rustls::pki_types::Der;

use super::plan::Life;
use crate::times::WallTime;

/// What is read of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// From when until when.
    pub life: Life,
    /// The DNS names it is for, as they stand there.
    pub names: Vec<String>,
    serial: Vec<u8>,
    authority: Option<Vec<u8>>,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`: the version; `[3] EXPLICIT`: the extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `[0] IMPLICIT` in the authority key identifier, `[2] IMPLICIT` in the names.
const KEY_IDENTIFIER: u8 = 0x80;
const DNS_NAME: u8 = 0x82;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];

impl Facts {
    /// Reads DER; none when it is no certificate.
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Values::new(Values::new(der).take(SEQUENCE)?);
        let mut tbs = Values::new(certificate.take(SEQUENCE)?);
        tbs.skip_if(VERSION);
        let serial = tbs.take(INTEGER)?.to_vec();
        tbs.take(SEQUENCE)?; // signature algorithm
        tbs.take(SEQUENCE)?; // issuer
        let mut validity = Values::new(tbs.take(SEQUENCE)?);
        let life = Life {
            from: time(&mut validity)?,
            until: time(&mut validity)?,
        };
        let mut facts = Self {
            life,
            names: Vec::new(),
            serial,
            authority: None,
        };
        // Subject, key, unique ids; extensions last.
        while let Some((tag, content)) = tbs.next() {
            if tag == EXTENSIONS {
                facts.extensions(content)?;
            }
        }
        Some(facts)
    }

    /// The name under which its CA tells about it (RFC 9773, section 4.1); none without one.
    pub fn ari_id(&self) -> Option<instant_acme::CertificateIdentifier<'static>> {
        let authority = self.authority.as_deref()?;
        let id = instant_acme::CertificateIdentifier::new(
            Der::from_slice(authority),
            Der::from_slice(&self.serial),
        );
        Some(id.into_owned())
    }

    fn extensions(&mut self, content: &[u8]) -> Option<()> {
        let mut list = Values::new(Values::new(content).take(SEQUENCE)?);
        while let Some((tag, extension)) = list.next() {
            if tag != SEQUENCE {
                return None;
            }
            let mut extension = Values::new(extension);
            let id = extension.take(OID)?;
            extension.skip_if(BOOLEAN);
            let value = extension.take(OCTETS)?;
            if id == SUBJECT_ALT_NAME {
                let mut names = Values::new(Values::new(value).take(SEQUENCE)?);
                while let Some((tag, name)) = names.next() {
                    if tag == DNS_NAME {
                        self.names.push(std::str::from_utf8(name).ok()?.to_owned());
                    }
                }
            } else if id == AUTHORITY_KEY_IDENTIFIER {
                let mut parts = Values::new(Values::new(value).take(SEQUENCE)?);
                self.authority = parts.take(KEY_IDENTIFIER).map(<[u8]>::to_vec);
            }
        }
        Some(())
    }
}

fn time(from: &mut Values<'_>) -> Option<WallTime> {
    let (tag, text) = from.next()?;
    let text = std::str::from_utf8(text).ok()?;
    if !text.is_ascii() {
        return None;
    }
    let text = match tag {
        // Two digits mean 1950 to 2049 (RFC 5280, section 4.1.2.5.1).
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| text.get(from..to);
    let text = format!(
        "{}-{}-{}T{}:{}:{}",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 10)?,
        part(10, 12)?,
        text.get(12..)?
    );
    WallTime::parse_rfc3339(&text)
}

/// Reads values one after another; never beyond its bytes.
struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Values<'a> {
    const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// The next value: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.rest.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let bytes = usize::from(first & 0x7f);
            if bytes == 0 || bytes > 3 {
                return None;
            }
            let (length, rest) = rest.split_at_checked(bytes)?;
            let length = length.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
            (length, rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((tag, content))
    }

    /// The next value, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    fn skip_if(&mut self, tag: u8) {
        if self.rest.first() == Some(&tag) {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 3, 1);
        params.not_after = rcgen::date_time_ymd(2051, 1, 2);
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(vec![0x12, 0x34].into());
        let key = rcgen::KeyPair::generate().unwrap();
        params.signed_by(&key, &issuer).unwrap().der().to_vec()
    }

    #[test]
    fn times_names_and_numbers_are_read() {
        let facts = Facts::read(&made(&["*.t.example", "t.example"])).unwrap();
        assert_eq!(facts.names, ["*.t.example", "t.example"]);
        assert_eq!(facts.life.from.to_string(), "2026-03-01T00:00:00.000Z");
        assert_eq!(facts.life.until.to_string(), "2051-01-02T00:00:00.000Z");
        let id = facts.ari_id().unwrap();
        assert_eq!(id.serial, "EjQ");
        assert!(id.authority_key_identifier.len() > 10);
    }

    #[test]
    fn every_cut_of_a_certificate_is_no_certificate() {
        let der = made(&["t.example"]);
        for length in 0..der.len() {
            assert_eq!(Facts::read(&der[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Facts::read(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(at in 0usize..400, byte: u8) {
            let mut der = made(&["t.example"]);
            let at = at % der.len();
            der[at] = byte;
            let _ = Facts::read(&der);
        }
    }
}
