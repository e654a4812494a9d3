//! Certificates of own domains: asked for when a domain leads somewhere, within bounds, and given up when it
//! does not any more. Not the authority's business: that is `acme`'s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::acme::{self, Asked};
use crate::config::DomainsConfig;
use crate::engine::limits::{Bucket, Rate};
use crate::names::{Domain, Hostname, UserId};

/// Names under wildcards that visitors asked for; more are served what there is.
const GREETED_MAX: usize = 1000;

/// What one user may have of them, those with a certificate too: one part in so many.
const KEPT_PART: usize = 4;
/// Of one user, of those without a certificate: whoever makes up names below somebody's wildcard uses up no
/// more than this, and an authority's patience with that domain is short.
const GREETED_OF_USER: usize = 50;
/// A made-up name has this long from its last greeting; who makes up many keeps us no busier than that.
const RESTED: Duration = Duration::from_secs(10);
/// Users whose orders are counted at once.
const COUNTED_MAX: usize = 10_000;

/// What is asked for.
pub(super) struct Orders {
    certificates: Option<acme::Certificates>,
    rate: Rate,
    rate_per_user: Rate,
    all: Bucket,
    of_user: HashMap<UserId, Bucket>,
    /// Names under wildcards that visitors asked for.
    greeted: BTreeMap<Hostname, Greeted>,
    /// Those that the authority's keeper has in care.
    asked: HashSet<Hostname>,
    waiting: bool,
}

/// A name under a wildcard.
#[derive(Debug, Clone, Copy)]
struct Greeted {
    user: UserId,
    /// When it was last asked for.
    at: Instant,
    /// There is a certificate for it.
    is_kept: bool,
}

impl Orders {
    pub(super) fn new(certificates: Option<acme::Certificates>, settings: &DomainsConfig) -> Self {
        Self {
            certificates,
            rate: settings.orders,
            rate_per_user: settings.orders_per_user,
            all: Bucket::default(),
            of_user: HashMap::new(),
            greeted: BTreeMap::new(),
            asked: HashSet::new(),
            waiting: false,
        }
    }

    pub(super) fn greeted(&self) -> impl Iterator<Item = &Hostname> {
        self.greeted.keys()
    }

    pub(super) const fn are_waiting(&self) -> bool {
        self.waiting
    }

    /// A visitor wants a name of a user's wildcard; whether that is new.
    pub(super) fn want(&mut self, host: Hostname, user: UserId, now: Instant) -> bool {
        let Some(certificates) = &self.certificates else {
            return false;
        };
        if let Some(known) = self.greeted.get_mut(&host) {
            (known.user, known.at) = (user, now);
            return false;
        }
        let is_kept = certificates.is_kept(&host);
        self.put(host, user, is_kept, now)
    }

    /// Notes a name, in the place of the one of its user that nobody has asked for for the longest time and
    /// that has no certificate, if there is no other.
    fn put(&mut self, host: Hostname, user: UserId, is_kept: bool, now: Instant) -> bool {
        let made_up = |(_, of): &(&Hostname, &Greeted)| of.user == user && !of.is_kept;
        let of_user = self.greeted.iter().filter(made_up).count();
        let all_of_user = self.greeted.values().filter(|of| of.user == user).count();
        let is_full =
            of_user >= GREETED_OF_USER && !is_kept || all_of_user >= GREETED_MAX / KEPT_PART;
        if is_full || self.greeted.len() >= GREETED_MAX {
            let made_up = self.greeted.iter().filter(made_up);
            let rested = |of: &Greeted| now.saturating_duration_since(of.at) >= RESTED;
            let oldest = made_up.min_by_key(|(_, of)| of.at);
            let oldest = oldest.filter(|(_, of)| rested(of));
            let Some(oldest) = oldest.map(|(host, _)| host.clone()) else {
                return false;
            };
            self.greeted.remove(&oldest);
        }
        let at = now;
        self.greeted.insert(host, Greeted { user, at, is_kept });
        true
    }

    /// Asks for what is missing and gives up what leads nowhere. How each domain's certificate does.
    pub(super) fn keep(
        &mut self,
        served: &HashMap<Domain, UserId>,
        greeted: &HashSet<Hostname>,
        now: Instant,
    ) -> HashMap<Domain, String> {
        self.greeted.retain(|host, _| greeted.contains(host));
        self.waiting = false;
        let Some(certificates) = self.certificates.clone() else {
            let says = "the server gets none by itself: visitors see its own, and browsers warn";
            return served
                .keys()
                .map(|d| (d.clone(), says.to_owned()))
                .collect();
        };
        let is_wanted = |host: &Hostname| {
            greeted.contains(host) || served.contains_key(&Domain::of_host(host.clone()))
        };
        let gone: Vec<_> = self
            .asked
            .iter()
            .filter(|host| !is_wanted(host))
            .cloned()
            .collect();
        for host in gone {
            certificates.forget(&host);
            self.asked.remove(&host);
        }
        let mut told = HashMap::new();
        for (domain, user) in served {
            let says = match domain.is_wildcard() {
                true => "one for each name, when its first visitor comes".to_owned(),
                false => self.look(&certificates, domain.base(), *user, now),
            };
            told.insert(domain.clone(), says);
        }
        let under_wildcards: Vec<_> = self
            .greeted
            .iter()
            .map(|(h, of)| (h.clone(), of.user))
            .collect();
        for (host, user) in under_wildcards {
            self.look(&certificates, &host, user, now);
        }
        told
    }

    /// One name: what there is, asked for if there is room for it.
    fn look(
        &mut self,
        certificates: &acme::Certificates,
        host: &Hostname,
        user: UserId,
        now: Instant,
    ) -> String {
        if !self.asked.contains(host) {
            // One that is on disk costs the authority nothing.
            if !certificates.is_kept(host) && !self.may_order(user, now) {
                return "too many were asked for; its turn comes within the hour".to_owned();
            }
            self.asked.insert(host.clone());
        }
        match certificates.ask(host) {
            Asked::Ready => {
                if let Some(name) = self.greeted.get_mut(host) {
                    name.is_kept = true;
                }
                "from an authority, renewed by itself".to_owned()
            }
            Asked::Waiting {
                last_error: None, ..
            } => {
                self.waiting = true;
                "asked for".to_owned()
            }
            Asked::Waiting {
                last_error: Some(error),
                next_try,
            } => {
                self.waiting = true;
                format!("none yet, tried again at {next_try}: {error}")
            }
            Asked::Full => "none: the server keeps as many as it can".to_owned(),
        }
    }

    fn may_order(&mut self, user: UserId, now: Instant) -> bool {
        if self.of_user.len() >= COUNTED_MAX {
            self.of_user.retain(|_, bucket| !bucket.is_full(now));
        }
        let of_user = self.of_user.entry(user).or_default();
        if self.all.peek(now, self.rate).is_err() {
            return false;
        }
        let may = of_user.take(now, self.rate_per_user).is_ok();
        if may {
            self.all.count(now, self.rate);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limits::Per;
    use crate::times::Clock;

    #[test]
    fn orders_are_bounded_for_each_user_and_for_all() {
        let settings = DomainsConfig {
            orders: Rate::new(3, Per::Hour).burst(3),
            orders_per_user: Rate::new(2, Per::Hour).burst(2),
            ..DomainsConfig::default()
        };
        let mut orders = Orders::new(None, &settings);
        let now = Clock.now().monotonic;
        let (alice, bob) = (UserId::random(), UserId::random());
        let mut may = |user, at| orders.may_order(user, at);
        assert!(may(alice, now) && may(alice, now));
        assert!(!may(alice, now), "her own bound");
        assert!(may(bob, now));
        assert!(!may(bob, now), "everybody's bound");
        assert!(may(bob, now + Duration::from_secs(3600)));
    }

    #[test]
    fn made_up_names_kept_certificates_from_the_true_ones_below_their_wildcard() {
        let mut orders = Orders::new(None, &DomainsConfig::default());
        let (alice, bob) = (UserId::random(), UserId::random());
        let host = |name: &str| Hostname::parse(&format!("{name}.app.example.org")).unwrap();
        let start = Clock.now().monotonic;
        assert!(orders.put(host("shop"), alice, true, start));
        assert!(orders.put(host("bob"), bob, false, start));
        let made_up = (0..3 * GREETED_OF_USER)
            .filter(|n| orders.put(host(&format!("n{n}")), alice, false, start));
        assert_eq!(made_up.count(), GREETED_OF_USER);
        let later = start + RESTED;
        assert!(orders.put(host("new"), alice, false, later), "a true one");
        let has = |name: &str| orders.greeted.contains_key(&host(name));
        assert!(has("shop") && has("bob") && has("new") && !has("n0"));
        // Those that have one take nobody's place.
        assert_eq!(orders.greeted.len(), 2 + GREETED_OF_USER);
        assert!(orders.put(host("kept"), alice, true, start));
        assert_eq!(orders.greeted.len(), 3 + GREETED_OF_USER);
    }

    #[test]
    fn without_an_authority_the_domains_say_so() {
        let settings = DomainsConfig::default();
        let mut orders = Orders::new(None, &settings);
        let domain: Domain = "app.example.org".parse().unwrap();
        let served = HashMap::from([(domain.clone(), UserId::random())]);
        let told = orders.keep(&served, &HashSet::new(), Clock.now().monotonic);
        assert!(told[&domain].contains("browsers warn"));
        let host = Hostname::parse("x.app.example.org").unwrap();
        assert!(!orders.want(host, UserId::random(), Clock.now().monotonic));
    }
}
