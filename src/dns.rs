//! DNS messages as far as proofs need them: names, questions, records; bytes <-> values (RFC 1035).
//! Not a resolver. Reads what strangers send, so nothing here panics or follows a pointer in a circle.

use crate::names::Hostname;

pub(crate) const TYPE_NS: u16 = 2;
pub(crate) const TYPE_CNAME: u16 = 5;
pub(crate) const TYPE_SOA: u16 = 6;
pub(crate) const TYPE_TXT: u16 = 16;
pub(crate) const TYPE_OPT: u16 = 41;
pub(crate) const TYPE_TSIG: u16 = 250;
pub(crate) const TYPE_ANY: u16 = 255;
pub(crate) const CLASS_IN: u16 = 1;
pub(crate) const CLASS_NONE: u16 = 254;
pub(crate) const CLASS_ANY: u16 = 255;
pub(crate) const OPCODE_UPDATE: u16 = 5 << 11;
pub(crate) const OPCODE_MASK: u16 = 0xf << 11;
pub(crate) const HEADER: usize = 12;

/// The longest name on the wire (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 255;

/// A name as labels on the wire, lower case, with its closing zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// A host name below labels of DNS's own, such as `_acme-challenge`.
    pub(crate) fn new(labels: &[&str], host: Option<&Hostname>) -> Self {
        let host = host.map(Hostname::as_str).unwrap_or_default();
        let labels = labels.iter().copied().chain(host.split('.'));
        let mut wire = Vec::new();
        for label in labels.filter(|label| !label.is_empty()) {
            let label = &label.as_bytes()[..label.len().min(63)];
            wire.push(u8::try_from(label.len()).unwrap_or(63));
            wire.extend(label.to_ascii_lowercase());
        }
        wire.push(0);
        Self(wire)
    }

    /// A name as people write it: labels of letters, digits, `-` and `_`; a dot at its end is left away.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let fits = |label: &str| {
            let chars = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(chars)
        };
        let labels: Vec<&str> = text.split('.').collect();
        let name = Self::new(&labels, None);
        (labels.iter().all(|label| fits(label)) && name.0.len() <= NAME_MAX).then_some(name)
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `zone` or a name below it.
    #[cfg(test)]
    pub(crate) fn is_within(&self, zone: &Self) -> bool {
        self.offset_of(zone).is_some()
    }

    /// Where `parent` begins in this name, in bytes.
    pub(crate) fn offset_of(&self, parent: &Self) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.0[at..] == parent.0[..] {
                return Some(at);
            }
            let length = usize::from(*self.0.get(at)?);
            if length == 0 {
                return None;
            }
            at += 1 + length;
        }
    }
}

/// Reads a message front to back.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A reader somewhere inside a message.
    pub(crate) const fn at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// A name that is written out; one that points elsewhere is none (no question needs that).
    pub(crate) fn name(&mut self) -> Option<Name> {
        let mut wire = Vec::new();
        loop {
            let length = self.take(1)?[0];
            if length > 63 {
                return None;
            }
            let label = self.take(usize::from(length))?;
            wire.push(length);
            wire.extend(label.to_ascii_lowercase());
            if wire.len() > NAME_MAX {
                return None;
            }
            if length == 0 {
                return Some(Name(wire));
            }
        }
    }

    /// A name that may point elsewhere. It points only back, so there is no circle.
    pub(crate) fn name_anywhere(mut self) -> Option<Name> {
        let mut wire = Vec::new();
        let mut earliest = self.at;
        loop {
            let length = self.take(1)?[0];
            match length {
                0xc0.. => {
                    let low = self.take(1)?[0];
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    if target >= earliest {
                        return None;
                    }
                    (earliest, self.at) = (target, target);
                }
                64.. => return None,
                length => {
                    let label = self.take(usize::from(length))?;
                    wire.push(length);
                    wire.extend(label.to_ascii_lowercase());
                    if wire.len() > NAME_MAX {
                        return None;
                    }
                    if length == 0 {
                        return Some(Name(wire));
                    }
                }
            }
        }
    }

    /// Passes over a name, written out or pointing elsewhere.
    pub(crate) fn skip_name(&mut self) -> Option<()> {
        let begin = self.at;
        loop {
            let length = self.take(1)?[0];
            match length {
                0 => return Some(()),
                1..=63 => drop(self.take(usize::from(length))?),
                0xc0.. => return self.take(1).map(drop),
                _ => return None,
            }
            if self.at - begin > NAME_MAX {
                return None;
            }
        }
    }

    /// Passes over a record; its type and where its data stands.
    pub(crate) fn record(&mut self) -> Option<Record<'a>> {
        let start = self.at;
        self.skip_name()?;
        let kind = self.u16()?;
        let class = self.u16()?;
        self.u32()?;
        let length = usize::from(self.u16()?);
        let data = self.take(length)?;
        Some(Record {
            start,
            kind,
            class,
            data,
        })
    }
}

/// A record of a message.
pub(crate) struct Record<'a> {
    /// Where it begins.
    pub(crate) start: usize,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    pub(crate) data: &'a [u8],
}

/// Twelve bytes in front of every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// Questions, answers, authorities, additions; for an update: zones, conditions, changes, additions.
    pub(crate) counts: [u16; 4],
}

impl Header {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: reader.u16()?,
            flags: reader.u16()?,
            counts: [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?],
        })
    }

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        for word in [self.id, self.flags].into_iter().chain(self.counts) {
            to.extend(word.to_be_bytes());
        }
    }
}

/// Appends a record; `name` is already as on the wire, a pointer too.
pub(crate) fn put_record(
    to: &mut Vec<u8>,
    name: &[u8],
    (kind, class): (u16, u16),
    ttl: u32,
    data: &[u8],
) {
    to.extend(name);
    to.extend(kind.to_be_bytes());
    to.extend(class.to_be_bytes());
    to.extend(ttl.to_be_bytes());
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    to.extend(length.to_be_bytes());
    to.extend(&data[..usize::from(length)]);
}

/// A TXT record's data: one string of at most 255 bytes.
pub(crate) fn txt(value: &str) -> Vec<u8> {
    let value = &value.as_bytes()[..value.len().min(255)];
    let mut data = vec![u8::try_from(value.len()).unwrap_or(255)];
    data.extend(value);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_and_read_alike() {
        let host = Hostname::parse("t.example").unwrap();
        let name = Name::new(&["_acme-challenge"], Some(&host));
        assert_eq!(name.wire(), b"\x0f_acme-challenge\x01t\x07example\x00");
        assert_eq!(
            Name::parse("_ACME-challenge.T.example."),
            Some(name.clone())
        );
        let mut reader = Reader::new(b"\x0f_Acme-Challenge\x01T\x07example\x00");
        assert_eq!(reader.name(), Some(name.clone()));
        assert!(name.is_within(&Name::parse("example").unwrap()));
        assert!(name.is_within(&name));
        assert!(!name.is_within(&Name::parse("xample").unwrap()));
        assert!(!Name::parse("example").unwrap().is_within(&name));
        for bad in ["", ".", "a..b", "a b", &"x".repeat(64), &"abc.".repeat(70)] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_is_followed_back_and_never_in_a_circle() {
        let message = b"\x01t\x07Example\x00\x03app\xc0\x00\xc0\x0b\xc0\x13\xc0\x16";
        let at = |at| Reader::at(message, at).name_anywhere();
        assert_eq!(at(0), Name::parse("t.example"));
        assert_eq!(at(11), Name::parse("app.t.example"));
        assert_eq!(at(17), Name::parse("app.t.example"));
        // To itself, forward, and to the end.
        assert_eq!((at(19), at(21), at(23)), (None, None, None));
    }

    #[test]
    fn a_name_that_points_or_never_ends_is_none() {
        for bad in [&b"\xc0\x00"[..], b"\x03ab", b"\x40", b"", &[b'\x01'; 600]] {
            assert_eq!(Reader::new(bad).name(), None, "{bad:?}");
        }
    }
}
