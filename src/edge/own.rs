//! Which tunnel a host is a name of: below our domain its first label says so, elsewhere the whole name,
//! where somebody has proven that it is theirs. Every name comes here canonical, whatever the visitor wrote.

use std::net::SocketAddr;

use super::respond::Failure;
use super::{Admit, EdgeSettings};
use crate::names::Hostname;

/// The place of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// As [`crate::engine::Visit::label`] has it.
    pub(super) label: String,
    /// Cookies for this name, or for one above it, would reach others than the tunnel's owner.
    pub(super) wall: Hostname,
    /// The name is below our domain.
    pub(super) is_ours: bool,
}

/// Where a host leads, if it is any tunnel's name. Of names below our domain that is not asked.
pub(super) fn place<S: Admit>(
    inside: &S,
    settings: &EdgeSettings,
    host: &Hostname,
) -> Option<Place> {
    if let Some(label) = host.label_under(&settings.domain) {
        return Some(Place {
            label: label.to_owned(),
            wall: settings.domain.clone(),
            is_ours: true,
        });
    }
    if *host == settings.domain {
        return None;
    }
    let registered = inside.own_domain(host)?;
    let (_, above) = registered.as_str().split_once('.')?;
    Some(Place {
        label: host.to_string(),
        // Below what is registered its owner may do as they like.
        wall: Hostname::parse(above).ok()?,
        is_ours: false,
    })
}

/// What a visitor gets who asks for a name that is no tunnel's. Whoever guesses names is counted, below our
/// domain and elsewhere alike.
pub(super) fn nobodys<S: Admit>(inside: &S, peer: SocketAddr) -> Failure {
    match inside.may_ask_for_nobody(peer) {
        Ok(()) => Failure::UnknownHost,
        Err(refusal) => Failure::Refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::edge::Pass;
    use crate::engine::{Refusal, Visit};
    use crate::http::{Authority, Host, Scheme};
    use crate::names::{Domain, VisitId};

    /// Own domains that lead somewhere.
    #[derive(Clone)]
    struct Routes(Arc<BTreeMap<String, Domain>>);

    impl Routes {
        fn of(domains: impl IntoIterator<Item = String>) -> Self {
            let read = |text: String| (text.clone(), Domain::parse(&text).unwrap());
            Self(Arc::new(domains.into_iter().map(read).collect()))
        }
    }

    impl Admit for Routes {
        async fn admit(&self, visit: Visit) -> Result<Pass, Refusal> {
            Err(Refusal::NoRoute { host: visit.label })
        }

        fn probe(&self, _: VisitId, label: &str) -> Result<Pass, Refusal> {
            let host = label.to_owned();
            Err(Refusal::NoRoute { host })
        }

        fn own_domain(&self, host: &Hostname) -> Option<Hostname> {
            let (_, above) = host.as_str().split_once('.')?;
            let wide = || self.0.get(&format!("*.{above}"));
            let found = self.0.get(host.as_str()).or_else(wide)?;
            Some(found.base().clone())
        }
    }

    fn settings() -> EdgeSettings {
        EdgeSettings::new(Hostname::parse("t.example.org").unwrap(), 443)
    }

    /// A `Host` field as a visitor writes it, and where it leads.
    fn asked(routes: &Routes, text: &str) -> Option<Place> {
        let authority = Authority::parse(text.as_bytes(), Scheme::Https).ok()?;
        match authority.host {
            Host::Name(host) => place(routes, &settings(), &host),
            Host::V6(_) | Host::Other(_) => None,
        }
    }

    #[test]
    fn names_lead_where_their_owner_says_and_ours_stay_ours() {
        let own = ["shop.example.org", "*.wide.example.net", "*.example.org"];
        let routes = Routes::of(own.map(str::to_owned));
        let check = |host: &str, label: Option<&str>, wall: &str| {
            let found = asked(&routes, host);
            let found = found.as_ref().map(|p| (p.label.as_str(), p.wall.as_str()));
            assert_eq!(found, label.map(|label| (label, wall)), "{host}");
        };
        check("app.t.example.org", Some("app"), "t.example.org");
        check("SHOP.example.org.", Some("shop.example.org"), "example.org");
        check(
            "a.wide.example.net",
            Some("a.wide.example.net"),
            "example.net",
        );
        // Our own name is nobody else's, whatever wildcard is around it.
        check("t.example.org", None, "");
        check("a.b.t.example.org", None, "");
        check("wide.example.net", None, "");
        check("b.a.wide.example.net", None, "");
        check("[::1]", None, "");
        check("bücher.example.org", None, "");
        check("shop.example.org@evil.example", None, "");
    }

    proptest! {
        #[test]
        fn among_hundreds_of_routes_every_spelling_leads_to_the_one(
            pick in 0..400_usize,
            upper in proptest::collection::vec(any::<bool>(), 24),
            dot in any::<bool>(),
            port in prop_oneof![Just(""), Just(":443"), Just(":")],
        ) {
            let name = |n: usize| match n % 2 {
                0 => format!("h{n}.xn--bcher-kva.example"),
                _ => format!("app.n{n}.example.com"),
            };
            let routes = Routes::of((0..400).map(name));
            let plain = name(pick);
            let cased = plain.chars().zip(upper.iter().cycle());
            let cased = cased.map(|(c, up)| if *up { c.to_ascii_uppercase() } else { c });
            let odd = cased.collect::<String>() + if dot { "." } else { "" };
            let found = asked(&routes, &format!("{odd}{port}"));
            prop_assert_eq!(found.map(|place| place.label), Some(plain.clone()));
            // The name in TLS is read the same way.
            let sni = Hostname::parse(&odd).unwrap();
            let found = place(&routes, &settings(), &sni);
            prop_assert_eq!(found.map(|place| place.label), Some(plain));
        }
    }
}
