//! The paths that are ours on every tunnel's host, and the one of them that is answered: a client's
//! question to itself through its tunnel's public name. Pure text; who may ask what is for the roles.

use std::fmt;

use data_encoding::HEXLOWER;

/// Whole segments; what lies below is ours, too.
const OURS: [&str; 2] = ["/.wormkey", "/.well-known/wormkey"];

/// Where probes go; a nonce follows.
const PROBE: &str = "/.well-known/wormkey/probe/";

/// Whether a path, with or without its query, is ours and no origin's.
pub fn is_ours(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    OURS.iter().any(|ours| {
        path.strip_prefix(ours)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The number that a probe is known by: drawn by the client, used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProbeNonce(pub [u8; 16]);

impl ProbeNonce {
    /// The nonce of a probe's path; none for every other path, however like one.
    pub fn of_path(path: &str) -> Option<Self> {
        let text = path.strip_prefix(PROBE)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The path to ask for.
    pub fn path(self) -> String {
        format!("{PROBE}{self}")
    }
}

impl fmt::Display for ProbeNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_paths_are_whole_segments() {
        for ours in [
            "/.wormkey",
            "/.wormkey/",
            "/.wormkey/x?y",
            "/.well-known/wormkey/connect",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in [
            "/",
            "/.wormkeys",
            "/.well-known/acme",
            "/a/.wormkey/",
            "/?/.wormkey/",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }

    #[test]
    fn only_a_probe_reads_as_one() {
        let nonce = ProbeNonce([0xab; 16]);
        assert!(is_ours(&nonce.path()));
        assert_eq!(ProbeNonce::of_path(&nonce.path()), Some(nonce));
        for other in [
            "/",
            "/.well-known/wormkey/probe",
            "/.well-known/wormkey/probe/",
            "/.well-known/wormkey/probe/abab",
            &format!("{}?x", nonce.path()),
            &format!("{}/", nonce.path()),
            &nonce.path().to_uppercase(),
            &nonce.path().replace("ab", "AB"),
        ] {
            assert_eq!(ProbeNonce::of_path(other), None, "{other}");
        }
    }
}
