//! What worked where: the path that last carried a link, per network. Pure, bounded, and only a
//! hint: a wrong memory costs a second, never a link.

use super::PathKind;

/// A laptop has a handful of networks; a traveller's fit too.
const NETWORKS: usize = 32;

/// What names a network ("192.168.1.1/192.168.1.23") is short.
const KEY_MAX: usize = 256;

/// The last good path per network, the least recently used forgotten first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// The most recent last.
    entries: Vec<(String, PathKind)>,
}

impl Networks {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes which path carried a link on the network `key` (its default gateway or our address in
    /// it, as text). Keys of unlikely length are not noted.
    pub fn remember(&mut self, key: &str, path: PathKind) {
        if key.is_empty() || key.len() > KEY_MAX {
            return;
        }
        self.entries.retain(|(known, _)| known != key);
        if self.entries.len() == NETWORKS {
            self.entries.remove(0);
        }
        self.entries.push((key.to_owned(), path));
    }

    /// Which path to try first on this network; asking counts as use.
    pub fn recall(&mut self, key: &str) -> Option<PathKind> {
        let at = self.entries.iter().position(|(known, _)| known == key)?;
        let entry = self.entries.remove(at);
        let path = entry.1;
        self.entries.push(entry);
        Some(path)
    }

    /// All of it, the least recently used first: fed to [`remember`](Self::remember) in this order
    /// it becomes the same again.
    pub fn iter(&self) -> impl Iterator<Item = (&str, PathKind)> {
        self.entries.iter().map(|(key, path)| (key.as_str(), *path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_network_is_forgotten_first() {
        let mut networks = Networks::new();
        for n in 0..NETWORKS {
            networks.remember(&format!("10.0.{n}.1"), PathKind::Udp);
        }
        assert_eq!(networks.recall("10.0.0.1"), Some(PathKind::Udp));
        networks.remember("cafe", PathKind::WebSocket);
        assert_eq!(networks.recall("10.0.1.1"), None);
        assert_eq!(networks.recall("10.0.0.1"), Some(PathKind::Udp));
        assert_eq!(networks.recall("cafe"), Some(PathKind::WebSocket));
        assert_eq!(networks.iter().count(), NETWORKS);
    }

    #[test]
    fn the_last_word_counts_and_odd_keys_are_left_out() {
        let mut networks = Networks::new();
        networks.remember("home", PathKind::WebSocket);
        networks.remember("home", PathKind::Udp);
        networks.remember("", PathKind::Udp);
        networks.remember(&"x".repeat(KEY_MAX + 1), PathKind::Udp);
        let all: Vec<_> = networks.iter().collect();
        assert_eq!(all, [("home", PathKind::Udp)]);
        let mut again = Networks::new();
        for (key, path) in networks.iter() {
            again.remember(key, path);
        }
        assert_eq!(again, networks);
    }
}
