//! Who issued a certificate, for people: organisation and name, out of its DER. Only for showing;
//! nothing is decided by it, so it reads just as much as it needs.

/// For one line of a status.
const SHOWN: usize = 64;
/// A real issuer has a handful of attributes.
const ATTRIBUTES: usize = 16;

pub(in crate::link) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

/// "Organisation (Common name)", or as much of it as there is.
pub(in crate::link) fn issuer_of(certificate: &[u8]) -> Option<String> {
    let (name, _) = issuer(certificate)?;
    let (mut organisation, mut common) = (None, None);
    let mut rest = name;
    for _ in 0..ATTRIBUTES {
        let Some((kind, value, after)) = attribute(rest) else {
            break;
        };
        match kind {
            ORGANISATION => organisation = organisation.or_else(|| text(value)),
            COMMON_NAME => common = common.or_else(|| text(value)),
            _ => {}
        }
        rest = after;
    }
    match (organisation, common) {
        (Some(organisation), Some(common)) => Some(format!("{organisation} ({common})")),
        (one, other) => one.or(other),
    }
}

/// The contents of the issuer's name: the fourth part of what is signed, or the third where the
/// version is left out.
pub(in crate::link) fn issuer(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    let (tag, _, after) = element(rest)?;
    if tag == VERSION {
        rest = after;
    }
    let (_serial, rest) = skip(rest)?;
    let (_algorithm, rest) = skip(rest)?;
    expect(rest, SEQUENCE)
}

/// The first attribute of a row of them: its kind, its value, and the rest of the row.
fn attribute(row: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (set, after) = expect(row, SET)?;
    let (pair, _) = expect(set, SEQUENCE)?;
    let (kind, value) = expect(pair, OID)?;
    let (_, value, _) = element(value)?;
    Some((kind, value, after))
}

fn skip(bytes: &[u8]) -> Option<((), &[u8])> {
    element(bytes).map(|(_, _, rest)| ((), rest))
}

pub(in crate::link) fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, contents, rest) = element(bytes)?;
    (tag == wanted).then_some((contents, rest))
}

/// One DER element: tag, contents, and what follows. Lengths of up to three bytes: no certificate
/// is larger.
pub(in crate::link) fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x0f))?;
            let add = |sum: usize, byte: &u8| (sum << 8) | usize::from(*byte);
            (length.iter().fold(0, add), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// As one short line, however hostile.
fn text(bytes: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(SHOWN)
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    fn issued_by(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &issuer);
        leaf.unwrap().der().to_vec()
    }

    #[test]
    fn the_issuer_is_read_from_real_certificates() {
        let (o, cn) = (DnType::OrganizationName, DnType::CommonName);
        for (names, expected) in [
            (
                &[
                    (DnType::CountryName, "CH"),
                    (o.clone(), "Acme"),
                    (cn.clone(), "Gate"),
                ][..],
                Some("Acme (Gate)"),
            ),
            (&[(cn.clone(), "Gate\r\n\x1b[31m")], Some("Gate   [31m")),
            (&[(o, "Acme")], Some("Acme")),
            (&[(DnType::CountryName, "CH")], None),
            (&[], None),
        ] {
            let got = issuer_of(&issued_by(names));
            assert_eq!(got.as_deref(), expected, "{names:?}");
        }
        let long = issuer_of(&issued_by(&[(cn, &"x".repeat(5000))])).unwrap();
        assert_eq!(long.len(), SHOWN);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut certificate = issued_by(&[(DnType::CommonName, "Gate")]);
            let at = at % certificate.len();
            certificate[at] = byte;
            let _ = issuer_of(&certificate);
            certificate.truncate(cut);
            let _ = issuer_of(&certificate);
        }
    }
}
