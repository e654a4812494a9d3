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
/// A name has this long from its first greeting to get its certificate; who makes up many keeps us no busier
/// than that, however often they ask for them.
const RESTED: Duration = Duration::from_secs(60);
/// A name with a certificate that nobody has asked for for so long gives way to another.
const QUIET: Duration = Duration::from_secs(3 * 86_400);
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
    /// When it was last asked for; while it has no certificate, when it first was.
    at: Instant,
    /// There is a certificate for it.
    is_kept: bool,
}

impl Greeted {
    /// Whether it gives way to another name of its user.
    fn is_rested(&self, now: Instant) -> bool {
        let long = if self.is_kept { QUIET } else { RESTED };
        now.saturating_duration_since(self.at) >= long
    }

    /// Who goes first: those without a certificate, and of them the oldest.
    const fn turn(&self) -> (bool, Instant) {
        (self.is_kept, self.at)
    }
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
        let certificates = certificates.clone();
        if self.again(&host, user, now) {
            return false;
        }
        let is_kept = certificates.is_kept(&host);
        self.put(host, user, is_kept, now)
    }

    /// A name that may be known is asked for again; whether it is known.
    fn again(&mut self, host: &Hostname, user: UserId, now: Instant) -> bool {
        let Some(known) = self.greeted.get_mut(host) else {
            return false;
        };
        known.user = user;
        if known.is_kept {
            known.at = now;
        }
        true
    }

    /// Notes a name, in the place of another if there is no room. What gives way keeps its certificate on disk,
    /// and is served it again when somebody asks.
    fn put(&mut self, host: Hostname, user: UserId, is_kept: bool, now: Instant) -> bool {
        let of_user = || self.greeted.values().filter(|of| of.user == user);
        let had = of_user().count();
        let made_up = of_user().filter(|of| !of.is_kept).count();
        let are_many = !is_kept && made_up >= GREETED_OF_USER;
        let are_all = had >= GREETED_MAX / KEPT_PART;
        if are_many || are_all || self.greeted.len() >= GREETED_MAX {
            let rested = |of: &Greeted| of.user == user && of.is_rested(now);
            let mut goes = self.first_to_go(|of| rested(of) && !(are_many && of.is_kept));
            if goes.is_none() && !are_many && !are_all {
                goes = self.first_of_richest(had);
            }
            let Some(goes) = goes else {
                return false;
            };
            self.greeted.remove(&goes);
        }
        let at = now;
        self.greeted.insert(host, Greeted { user, at, is_kept });
        true
    }

    fn first_to_go(&self, may: impl Fn(&Greeted) -> bool) -> Option<Hostname> {
        let those = self.greeted.iter().filter(|(_, of)| may(of));
        let (host, _) = those.min_by_key(|(_, of)| of.turn())?;
        Some(host.clone())
    }

    /// A name of the user with the most, if another with so many has then no more than that one: few users
    /// take not all there is.
    fn first_of_richest(&self, had: usize) -> Option<Hostname> {
        let mut counts: HashMap<UserId, usize> = HashMap::new();
        for of in self.greeted.values() {
            *counts.entry(of.user).or_default() += 1;
        }
        let (richest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        if most <= had + 1 {
            return None;
        }
        self.first_to_go(|of| of.user == richest)
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
    fn names_with_certificates_that_nobody_wants_any_more_give_way() {
        let mut orders = Orders::new(None, &DomainsConfig::default());
        let alice = UserId::random();
        let host = |name: &str| Hostname::parse(&format!("{name}.app.example.org")).unwrap();
        let start = Clock.now().monotonic;
        for n in 0..GREETED_MAX / KEPT_PART {
            assert!(orders.put(host(&format!("n{n}")), alice, true, start));
        }
        assert!(!orders.put(host("new"), alice, false, start + RESTED));
        let later = start + Duration::from_secs(30 * 86_400);
        orders.again(&host("n0"), alice, later);
        assert!(orders.put(host("new"), alice, false, later));
        assert!(orders.greeted.contains_key(&host("n0")), "wanted just now");
        assert_eq!(orders.greeted.len(), GREETED_MAX / KEPT_PART);
    }

    #[test]
    fn four_users_with_all_they_may_have_kept_a_fifth_from_having_any() {
        let mut orders = Orders::new(None, &DomainsConfig::default());
        let users: Vec<_> = (0..5).map(|_| UserId::random()).collect();
        let host =
            |user: usize, n: usize| Hostname::parse(&format!("n{n}.u{user}.example.org")).unwrap();
        let now = Clock.now().monotonic;
        for (of, user) in users.iter().enumerate().take(KEPT_PART) {
            for n in 0..GREETED_MAX / KEPT_PART {
                assert!(orders.put(host(of, n), *user, true, now));
            }
        }
        for n in 0..GREETED_MAX / KEPT_PART {
            orders.put(host(4, n), users[4], true, now);
        }
        assert_eq!(orders.greeted.len(), GREETED_MAX);
        for user in &users {
            let had = orders.greeted.values().filter(|of| of.user == *user);
            assert_eq!(had.count(), GREETED_MAX / 5, "as many as everybody");
        }
    }

    #[test]
    fn made_up_names_that_are_asked_for_again_and_again_come_to_rest() {
        let mut orders = Orders::new(None, &DomainsConfig::default());
        let alice = UserId::random();
        let host = |name: &str| Hostname::parse(&format!("{name}.app.example.org")).unwrap();
        let start = Clock.now().monotonic;
        for n in 0..GREETED_OF_USER {
            assert!(orders.put(host(&format!("n{n}")), alice, false, start));
        }
        for n in 0..GREETED_OF_USER {
            orders.again(&host(&format!("n{n}")), alice, start + RESTED);
        }
        assert!(orders.put(host("new"), alice, false, start + RESTED));
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
