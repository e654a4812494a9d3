//! Tells packets of links from anything else, by their connection ids. Not proof: whoever knows a
//! server's pin can make a first packet. It keeps others from costing more than a little.

use std::sync::Arc;

use quinn_proto::{ConnectionId, ConnectionIdGenerator as _};

use crate::link::cid::{KnownTags, OwnCids};

const LONG_HEADER: u8 = 0x80;
/// First byte and version.
const BEFORE_LENGTH: usize = 5;
const CID_MAX: usize = 20;

/// Knows a client's first packet by its tag, and later ones by the server's own id on them.
pub(in crate::link) struct Recognise {
    tags: Arc<KnownTags>,
    own: OwnCids,
}

impl Recognise {
    pub(in crate::link) fn new(tags: Arc<KnownTags>, own: OwnCids) -> Self {
        Self { tags, own }
    }

    /// Whether a datagram is addressed to a link.
    pub(super) fn is_ours(&self, datagram: &[u8]) -> bool {
        self.known(datagram).unwrap_or(false)
    }

    fn known(&self, datagram: &[u8]) -> Option<bool> {
        let (first, rest) = datagram.split_first()?;
        if first & LONG_HEADER == 0 {
            let id = rest.get(..self.own.cid_len())?;
            return Some(self.own.validate(&ConnectionId::new(id)).is_ok());
        }
        let length = usize::from(*datagram.get(BEFORE_LENGTH)?);
        if length > CID_MAX {
            return None;
        }
        let id = ConnectionId::new(datagram.get(BEFORE_LENGTH + 1..)?.get(..length)?);
        Some(self.tags.recognise(&id) || self.own.validate(&id).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::link::cid::first_cid;
    use crate::names::Pin;

    fn recognise() -> (Recognise, OwnCids) {
        let own = OwnCids::new(0, &[1; 32]);
        let tags = Arc::new(KnownTags::new(&[Pin([7; 32])]));
        (Recognise::new(tags, own.clone()), own)
    }

    fn long(id: &[u8]) -> Vec<u8> {
        let length = u8::try_from(id.len()).unwrap();
        [&[0xc0, 0, 0, 0, 1, length][..], id, &[0; 1200]].concat()
    }

    #[test]
    fn first_and_later_packets_of_links_are_known_and_others_are_not() {
        let (recognise, mut own) = recognise();
        let id = own.generate_cid();
        assert!(recognise.is_ours(&long(&first_cid(&Pin([7; 32])))));
        assert!(recognise.is_ours(&long(&id)));
        assert!(recognise.is_ours(&[&[0x40][..], &id, &[0; 30]].concat()));
        assert!(!recognise.is_ours(&long(&first_cid(&Pin([8; 32])))));
        assert!(!recognise.is_ours(&long(&[5; 20])));
        assert!(!recognise.is_ours(&[0x40; 60]));
        assert!(!recognise.is_ours(&[]));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(!recognise().0.is_ours(&bytes));
        }
    }
}
