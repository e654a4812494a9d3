//! Which certificate a handshake gets: that of a running proof, that of the very name, that of the name's
//! wildcard, else the one for strangers. Swapped whole; handshakes that are done keep theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::challenges::{ALPN, Challenges};
use crate::names::Hostname;

/// The certificates in use.
#[derive(Debug)]
pub(super) struct Resolver {
    challenges: Arc<Challenges>,
    shelf: ArcSwap<Shelf>,
    /// Held by a change, which reads and then writes: two at once would lose one of them.
    changing: Mutex<()>,
}

/// What there is to choose from.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) of_names: HashMap<Hostname, Arc<CertifiedKey>>,
    /// By the name without its first label.
    pub(super) of_wildcards: HashMap<Hostname, Arc<CertifiedKey>>,
    pub(super) for_strangers: Arc<CertifiedKey>,
}

impl Resolver {
    pub(super) fn new(challenges: Arc<Challenges>, for_strangers: Arc<CertifiedKey>) -> Arc<Self> {
        let shelf = Shelf {
            of_names: HashMap::new(),
            of_wildcards: HashMap::new(),
            for_strangers,
        };
        Arc::new(Self {
            challenges,
            shelf: ArcSwap::from_pointee(shelf),
            changing: Mutex::default(),
        })
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Shelf)) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shelf = Shelf::clone(&self.shelf.load());
        change(&mut shelf);
        self.shelf.store(Arc::new(shelf));
    }

    fn choose(&self, name: Option<&Hostname>) -> Arc<CertifiedKey> {
        let shelf = self.shelf.load();
        let of_wildcard = |name: &Hostname| {
            let (_, parent) = name.as_str().split_once('.')?;
            let parent = Hostname::parse(parent).ok()?;
            shelf.of_wildcards.get(&parent)
        };
        let found = name.and_then(|name| shelf.of_names.get(name).or_else(|| of_wildcard(name)));
        Arc::clone(found.unwrap_or(&shelf.for_strangers))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|n| Hostname::parse(n).ok());
        // A CA that looks offers this and nothing else (RFC 8737, section 3).
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.next() == Some(ALPN) && offered.next().is_none() {
            return self.challenges.certificate(&name?);
        }
        Some(self.choose(name.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::testing::pair;

    fn host(text: &str) -> Hostname {
        Hostname::parse(text).unwrap()
    }

    #[test]
    fn the_nearest_certificate_is_chosen() {
        let keys: Vec<_> = (0..3).map(|_| pair(&["x.example"])).collect();
        let resolver = Resolver::new(Challenges::new(), Arc::clone(&keys[0]));
        let is = |name: Option<&str>, n: usize| {
            let chosen = resolver.choose(name.map(host).as_ref());
            assert!(Arc::ptr_eq(&chosen, &keys[n]), "{name:?}");
        };
        is(Some("app.t.example"), 0);
        resolver.change(|shelf| {
            (shelf.of_wildcards).insert(host("t.example"), Arc::clone(&keys[1]));
            (shelf.of_names).insert(host("own.t.example"), Arc::clone(&keys[2]));
        });
        is(Some("app.t.example"), 1);
        is(Some("own.t.example"), 2);
        is(Some("a.b.t.example"), 0);
        is(Some("t.example"), 0);
        is(Some("example"), 0);
        is(None, 0);
    }

    #[test]
    fn changes_at_once_lose_nothing() {
        const EACH: usize = 100;
        let key = pair(&["x.example"]);
        let resolver = Resolver::new(Challenges::new(), Arc::clone(&key));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (resolver, key) = (&resolver, &key);
                scope.spawn(move || {
                    for n in 0..EACH {
                        let name = host(&format!("n{n}.t{thread}.example"));
                        resolver.change(|shelf| {
                            shelf.of_names.insert(name, Arc::clone(key));
                        });
                    }
                });
            }
        });
        assert_eq!(resolver.shelf.load().of_names.len(), 8 * EACH);
    }
}
