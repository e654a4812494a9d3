//! The rules that only told of a visit, as the server names them: bounded, whatever it says.

use crate::wire::StreamHead;

/// A policy has fewer parts that can refuse, and no longer rules.
const MOST: usize = 12;
const LONGEST: usize = 128;

/// Those that a visit comes with.
pub(super) fn of(head: &StreamHead) -> Vec<String> {
    let told = match head {
        StreamHead::Http(head) => &head.shadowed[..],
        StreamHead::Bytes(head) => &head.shadowed[..],
        StreamHead::Udp(head) => &head.shadowed[..],
        StreamHead::Control => &[],
    };
    let shown = |rule: &String| {
        let plain = rule.chars().filter(|c| !c.is_control());
        plain.take(LONGEST).collect()
    };
    told.iter().take(MOST).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{TunnelId, VisitId};
    use crate::wire::BytesHead;

    #[test]
    fn a_server_that_names_rules_without_end_is_cut_short() {
        let peer = "192.0.2.1:1".parse().unwrap();
        let head = |shadowed| {
            StreamHead::Bytes(BytesHead {
                tunnel: TunnelId::random(),
                visit: VisitId::random(),
                peer,
                local: peer,
                sni: None,
                shadowed,
            })
        };
        let some = vec!["deny 10.0.0.0/8".to_owned(), "a\u{1b}[2Jb".to_owned()];
        assert_eq!(of(&head(some)), ["deny 10.0.0.0/8", "a[2Jb"]);
        let all = of(&head(vec!["ü".repeat(9000); 9000]));
        assert_eq!(all.len(), MOST);
        assert!(all.iter().all(|rule| rule.chars().count() == LONGEST));
        assert!(of(&StreamHead::Control).is_empty());
    }
}
