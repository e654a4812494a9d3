//! Own domains: claimed, proven, contested, lost, given up; over restarts and bad disks.

use super::*;
use crate::engine::domains::{DomainSettings, DomainState};

const MINUTE: Duration = secs(60);

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn domains(texts: &[&str]) -> Vec<Domain> {
    texts.iter().map(|text| domain(text)).collect()
}

impl World {
    fn user_of(&self, client: &Client) -> UserId {
        self.engine.device(client.device).unwrap().row.user
    }

    /// A user's record stands at a domain's place.
    fn places(&mut self, client: &Client, text: &str) {
        let (user, name) = (self.user_of(client), domain(text).challenge());
        let of = self
            .records
            .entry(name)
            .or_insert_with(|| Some(HashSet::new()));
        of.get_or_insert_default().insert(user);
    }

    fn takes_away(&mut self, client: &Client, text: &str) {
        let user = self.user_of(client);
        if let Some(Some(of)) = self.records.get_mut(&domain(text).challenge()) {
            of.remove(&user);
        }
    }

    fn opens_at(
        &mut self,
        client: &Client,
        name: &str,
        texts: &[&str],
    ) -> Result<TunnelView, AskError> {
        let ask = BindAsk {
            domains: Some(domains(texts)),
            ..self.ask(name)
        };
        self.bind(client, &ask)
    }

    /// The same, where nothing stands against it.
    fn opened_at(&mut self, client: &Client, name: &str, texts: &[&str]) -> TunnelId {
        let view = self.opens_at(client, name, texts);
        view.expect("it was opened").row.id
    }

    /// Opens a tunnel at a domain whose record stands.
    fn proves(&mut self, client: &Client, name: &str, text: &str) -> TunnelId {
        self.places(client, text);
        let tunnel = self.opened_at(client, name, &[text]);
        self.advance(MINUTE);
        tunnel
    }

    /// Opens a tunnel that needs no visits to stay.
    fn opens_for_good(&mut self, client: &Client, name: &str, text: &str) -> TunnelId {
        let ask = BindAsk {
            idle: Some(None),
            domains: Some(domains(&[text])),
            ..self.ask(name)
        };
        self.bind(client, &ask).expect("it was opened").row.id
    }

    fn wishes(
        &mut self,
        client: &Client,
        tunnel: TunnelId,
        texts: &[&str],
    ) -> Result<TunnelView, AskError> {
        let from = self.over(client);
        let domains = domains(texts);
        self.handle(Event::DomainsAsked {
            from,
            tunnel,
            domains,
        });
        self.reply(from).map(|answer| match answer {
            Answer::Bound(view) => *view,
            other => panic!("{other:?} is no answer to a wish"),
        })
    }

    fn stands(&self, tunnel: TunnelId, text: &str) -> Option<DomainState> {
        let view = self.engine.tunnel(&tunnel.to_string())?;
        let of = view.domains.iter().find(|of| of.domain == domain(text))?;
        Some(of.state)
    }

    /// The name servers find what is there now, and their answers stay under way.
    fn keeps_answers_back(&mut self) {
        self.kept_back = Some(Vec::new());
    }

    /// What was found arrives, and from now on at once.
    fn answers(&mut self, found: impl Fn(&Self, &Domain, &[UserId]) -> Vec<UserId>) {
        for (domain, users) in self.kept_back.take().unwrap_or_default() {
            let found = Ok(found(self, &domain, &users));
            self.handle(Event::LookedUp { domain, found });
        }
    }

    fn finds_now(&self, domain: &Domain, users: &[UserId]) -> Vec<UserId> {
        self.finds(domain, users).unwrap_or_default()
    }

    fn leads(&self, host: &str) -> Option<TunnelId> {
        self.engine.tunnel(host).map(|view| view.row.id)
    }
}

#[test]
fn a_domain_leads_somewhere_when_its_proof_is_seen_and_on_disk() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let tunnel = world.opened_at(&alice, "app", &["App.Example.ORG."]);
    assert_eq!(
        world.stands(tunnel, "app.example.org"),
        Some(DomainState::Pending)
    );
    assert_eq!(world.leads("app.example.org"), None);
    world.places(&alice, "app.example.org");
    world.store = Store::Waits;
    world.live_for(MINUTE, &[alice]);
    assert_eq!(world.leads("app.example.org"), None, "not on disk");
    world.commits();
    assert_eq!(
        world.stands(tunnel, "app.example.org"),
        Some(DomainState::Proven)
    );
    assert_eq!(world.leads("app.example.org"), Some(tunnel));
    assert_eq!(world.leads("x.app.example.org"), None, "not below it");
    assert!(world.told_domains.contains(&tunnel));
    world.finish();
}

#[test]
fn a_record_that_was_there_before_is_found_at_once() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let tunnel = world.opened_at(&alice, "app", &["app.example.org"]);
    world.advance(secs(1));
    assert_eq!(world.leads("app.example.org"), Some(tunnel));
    world.finish();
}

#[test]
fn a_wildcard_is_for_one_label_and_the_very_name_comes_first() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let texts = ["*.example.org", "one.example.org", "example.org"];
    for text in texts {
        world.places(&alice, text);
    }
    let wide = world.opened_at(&alice, "wide", &["*.example.org"]);
    let one = world.opened_at(&alice, "one", &["one.example.org"]);
    world.advance(MINUTE);
    for (host, leads) in [
        ("any.example.org", Some(wide)),
        ("one.example.org", Some(one)),
        ("a.b.example.org", None),
        ("example.org", None),
        ("org", None),
    ] {
        assert_eq!(world.leads(host), leads, "{host}");
    }
    let host = |text| Hostname::parse(text).unwrap();
    let user = world.user_of(&alice);
    assert_eq!(
        world.engine.wildcard_owner(&host("any.example.org")),
        Some(user)
    );
    assert_eq!(world.engine.wildcard_owner(&host("one.example.org")), None);
    assert_eq!(
        world.engine.own_domain(&host("any.example.org")),
        Some(host("example.org"))
    );
    world.finish();
}

#[test]
fn names_of_the_server_are_nobodys_own() {
    let mut world = World::new();
    let alice = world.connect("alice");
    for text in [
        "t.example.com",
        "x.t.example.com",
        "a.b.t.example.com",
        "*.t.example.com",
    ] {
        let refused = world.opens_at(&alice, "app", &[text]);
        let of_ours = domain(text);
        assert_eq!(
            refused,
            Err(AskError::DomainOfOurs { domain: of_ours }),
            "{text}"
        );
    }
    // A wildcard above it never reaches the names below us.
    world.places(&alice, "*.example.com");
    world.opens_at(&alice, "app", &["*.example.com"]).unwrap();
    world.advance(MINUTE);
    assert!(world.leads("www.example.com").is_some());
    world.finish();
}

#[test]
fn a_port_has_no_domain() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let ask = BindAsk {
        kind: Kind::Tcp,
        domains: Some(domains(&["app.example.org"])),
        ..world.ask("app")
    };
    let refused = world.bind(&alice, &ask).unwrap_err();
    assert_eq!(refused, AskError::NoDomains { kind: Kind::Tcp });
    world.finish();
}

#[test]
fn a_users_domains_have_a_ceiling() {
    let mut world = World::with(EngineSettings {
        domains: DomainSettings {
            per_user: 2,
            ..DomainSettings::default()
        },
        ..settings()
    });
    let alice = world.connect("alice");
    let tunnel = world.opened_at(&alice, "app", &["a.example", "b.example"]);
    let over = world.opens_at(&alice, "more", &["c.example"]).unwrap_err();
    assert_eq!(over.code(), Code::LimitReached);
    assert_eq!(over.to_string(), "domains of a user: at most 2 here");
    // One for another is no more than before.
    world
        .wishes(&alice, tunnel, &["a.example", "c.example"])
        .unwrap();
    let bob = world.connect("bob");
    world.opens_at(&bob, "bobs", &["b.example"]).unwrap();
    world.finish();
}

#[test]
fn a_proven_domain_is_refused_to_others_and_two_proofs_change_nothing() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let first = world.proves(&alice, "app", "app.example.org");
    let taken = AskError::DomainTaken {
        domain: domain("app.example.org"),
    };
    assert_eq!(
        world.opens_at(&bob, "bobs", &["app.example.org"]),
        Err(taken.clone())
    );
    world.places(&bob, "app.example.org");
    world.advance(MINUTE);
    assert_eq!(
        world.opens_at(&bob, "bobs", &["app.example.org"]),
        Err(taken)
    );
    world.advance(MINUTE);
    assert_eq!(world.leads("app.example.org"), Some(first));
    let second = world.opens_at(&alice, "two", &["app.example.org"]);
    let in_use = AskError::DomainInUse {
        domain: domain("app.example.org"),
        slug: slug("app"),
    };
    assert_eq!(second, Err(in_use));
    world.finish();
}

#[test]
fn who_asks_and_proves_gets_the_domain_of_one_who_does_not_any_more() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let first = world.proves(&alice, "app", "app.example.org");
    world.takes_away(&alice, "app.example.org");
    assert!(world.opens_at(&bob, "bobs", &["app.example.org"]).is_err());
    world.advance(MINUTE);
    assert_eq!(
        world.leads("app.example.org"),
        Some(first),
        "asking alone takes nothing"
    );
    world.places(&bob, "app.example.org");
    assert!(world.opens_at(&bob, "bobs", &["app.example.org"]).is_err());
    world.advance(MINUTE);
    assert_eq!(world.leads("app.example.org"), None);
    assert_eq!(
        world.stands(first, "app.example.org"),
        Some(DomainState::Lost)
    );
    let second = world.opened_at(&bob, "bobs", &["app.example.org"]);
    world.advance(MINUTE);
    assert_eq!(world.leads("app.example.org"), Some(second));
    world.finish();
}

#[test]
fn of_two_who_wait_the_one_who_proves_it_has_it() {
    let mut world = World::new();
    let (squatter, owner) = (world.connect("squatter"), world.connect("owner"));
    world
        .opens_at(&squatter, "squat", &["app.example.org"])
        .unwrap();
    let right = world.opened_at(&owner, "own", &["app.example.org"]);
    world.places(&owner, "app.example.org");
    world.live_for(10 * MINUTE, &[squatter, owner]);
    assert_eq!(world.leads("app.example.org"), Some(right));
    let view = world.engine.tunnel("squat").unwrap();
    assert_eq!(
        view.domains[0].said.as_deref(),
        Some("another user's proof stands")
    );
    // And when the owner goes, the other may prove it.
    world.places(&squatter, "app.example.org");
    world.closes(&owner, right).unwrap();
    world.advance(MINUTE);
    assert_eq!(world.leads("app.example.org"), Some(view.row.id));
    world.finish();
}

#[test]
fn a_proof_that_is_gone_for_a_day_is_lost_and_comes_back_with_its_record() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let tunnel = world.opens_for_good(&alice, "app", "app.example.org");
    world.advance(MINUTE);
    world.takes_away(&alice, "app.example.org");
    world.live_for(12 * HOUR, &[alice]);
    assert_eq!(
        world.leads("app.example.org"),
        Some(tunnel),
        "it may be a slip"
    );
    let view = world.engine.tunnel("app").unwrap();
    assert!(view.domains[0].missing_since.is_some());
    // A restart forgets nothing of that.
    world.restart();
    let alice = Client {
        link: world.link_up(alice.device),
        ..alice
    };
    world.live_for(24 * HOUR, &[alice]);
    assert_eq!(world.leads("app.example.org"), None);
    assert_eq!(
        world.stands(tunnel, "app.example.org"),
        Some(DomainState::Lost)
    );
    let lost = |line: &AuditRow| line.action == "domain.lose";
    assert_eq!(world.disk.audit.iter().filter(|line| lost(line)).count(), 1);
    world.places(&alice, "app.example.org");
    world.live_for(HOUR, &[alice]);
    assert_eq!(world.leads("app.example.org"), Some(tunnel));
    world.finish();
}

#[test]
fn a_name_server_that_says_nothing_takes_nothing_away() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let tunnel = world.opens_for_good(&alice, "app", "app.example.org");
    world.advance(MINUTE);
    world
        .records
        .insert(domain("app.example.org").challenge(), None);
    world.live_for(5 * DAY, &[alice]);
    assert_eq!(world.leads("app.example.org"), Some(tunnel));
    let view = world.engine.tunnel("app").unwrap();
    assert_eq!(view.domains[0].missing_since, None);
    world.finish();
}

#[test]
fn looks_are_rare_and_asking_does_not_make_them_many() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let tunnel = world.opens_for_good(&alice, "app", "app.example.org");
    world.live_for(DAY, &[alice]);
    let waiting = world.looks.len();
    assert!((40..80).contains(&waiting), "{waiting} in a day of waiting");
    for _ in 0..100 {
        world.wishes(&alice, tunnel, &["app.example.org"]).unwrap();
    }
    world.advance(secs(4));
    assert!(
        world.looks.len() <= waiting + 2,
        "{}",
        world.looks.len() - waiting
    );
    world.places(&alice, "app.example.org");
    world.live_for(HOUR, &[alice]);
    world.looks.clear();
    world.live_for(4 * DAY, &[alice]);
    let standing = world.looks.len();
    assert!(
        (12..22).contains(&standing),
        "{standing} in four days of standing"
    );
    world.finish();
}

#[test]
fn giving_up_is_in_force_at_once_and_frees_the_domain() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    for client in [&alice, &bob] {
        world.places(client, "app.example.org");
    }
    let tunnel = world.opened_at(&alice, "app", &["app.example.org"]);
    world.advance(MINUTE);
    world.store = Store::Fails(Code::DiskFull);
    assert!(
        world.wishes(&alice, tunnel, &[]).is_err(),
        "it is not on disk"
    );
    assert_eq!(world.leads("app.example.org"), None);
    world.commits();
    world.advance(MINUTE);
    assert!(world.disk.domains().is_empty());
    let other = world.opened_at(&bob, "bobs", &["app.example.org"]);
    world.advance(MINUTE);
    assert_eq!(world.leads("app.example.org"), Some(other));
    world.finish();
}

#[test]
fn what_cannot_be_written_is_not_claimed_and_not_proven() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let tunnel = world.opens(&alice, "app");
    world.store = Store::Fails(Code::DiskFull);
    let refused = world
        .wishes(&alice, tunnel, &["app.example.org"])
        .unwrap_err();
    assert_eq!(refused.code(), Code::DiskFull);
    assert_eq!(world.stands(tunnel, "app.example.org"), None);
    world.commits();
    world.wishes(&alice, tunnel, &["app.example.org"]).unwrap();
    world.store = Store::Fails(Code::DiskFull);
    world.live_for(MINUTE, &[alice]);
    assert_eq!(world.leads("app.example.org"), None);
    world.commits();
    world.live_for(HOUR, &[alice]);
    assert_eq!(world.leads("app.example.org"), Some(tunnel));
    world.finish();
}

#[test]
fn domains_outlive_restarts_and_go_with_their_tunnel() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let texts = ["app.example.org", "later.example.org"];
    let tunnel = world.opened_at(&alice, "app", &texts);
    world.advance(MINUTE);
    world.restart();
    assert_eq!(world.leads("app.example.org"), Some(tunnel), "at once");
    assert_eq!(
        world.stands(tunnel, "later.example.org"),
        Some(DomainState::Pending)
    );
    let alice = Client {
        link: world.link_up(alice.device),
        ..alice
    };
    world.closes(&alice, tunnel).unwrap();
    assert_eq!(world.leads("app.example.org"), None);
    assert!(world.disk.domains().is_empty());
    world.finish();
}

#[test]
fn taking_a_tunnel_back_makes_its_domains_be_what_is_asked() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    for text in ["a.example", "b.example"] {
        world.places(&alice, text);
    }
    world.places(&bob, "bobs.example");
    world.opens_at(&bob, "bobs", &["bobs.example"]).unwrap();
    let ask = BindAsk {
        domains: Some(domains(&["a.example", "b.example"])),
        ..world.ask("app")
    };
    let tunnel = world.bind(&alice, &ask).unwrap().row.id;
    world.advance(MINUTE);
    // A client of an older release says nothing of them, and changes nothing.
    let old = BindAsk {
        domains: None,
        ..ask.clone()
    };
    assert_eq!(world.bind(&alice, &old).unwrap().domains.len(), 2);
    // What cannot be had does not keep the tunnel from being taken back.
    let other = BindAsk {
        domains: Some(domains(&["b.example", "bobs.example", "c.example"])),
        ..ask
    };
    let view = world.bind(&alice, &other).unwrap();
    let named: Vec<_> = view
        .domains
        .iter()
        .map(|of| of.domain.to_string())
        .collect();
    assert_eq!(named, ["b.example", "c.example"]);
    assert_eq!(world.leads("a.example"), None);
    assert_eq!(world.leads("b.example"), Some(tunnel));
    world.finish();
}

#[test]
fn nobody_changes_the_domains_of_a_stranger() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    let tunnel = world.proves(&alice, "app", "app.example.org");
    let refused = world.wishes(&bob, tunnel, &[]).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(world.leads("app.example.org"), Some(tunnel));
    world.finish();
}

#[test]
fn a_visit_by_an_own_domain_is_judged_like_any_other() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let tunnel = world.opened_at(&alice, "app", &["app.example.org"]);
    world.live_for(MINUTE, &[alice]);
    let visit = VisitId::from_bytes(bytes(world.number()));
    let asked = Visit {
        id: visit,
        kind: Kind::Http,
        label: "app.example.org".into(),
        peer: peer(),
        bytes: 0,
        http: None,
    };
    let Ok(Admission::Pass(route)) = world.engine.admit(world.now, &asked) else {
        panic!("it was refused");
    };
    assert_eq!(route.tunnel, tunnel);
    world.going_on.push(visit);
    world.pump();
    world.ends(visit);
    let from = world.admin();
    world.handle(Event::SuspendAsked {
        from,
        what: "app".into(),
        reason: None,
    });
    let refused = world.engine.admit(world.now, &asked);
    assert_eq!(
        refused,
        Err(Refusal::Suspended {
            tunnel: slug("app")
        })
    );
    world.finish();
}

#[test]
fn hundreds_of_domains_lead_where_they_should_however_they_are_written() {
    const TUNNELS: usize = 5;
    let mut world = World::with(EngineSettings {
        domains: DomainSettings {
            per_user: 1000,
            ..DomainSettings::default()
        },
        ..settings()
    });
    let alice = world.connect("alice");
    let mut leads = Vec::new();
    for n in 0..TUNNELS {
        let texts: Vec<_> = (0..60).map(|i| format!("h{i}.n{n}.example")).collect();
        for text in &texts {
            world.places(&alice, text);
        }
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let tunnel = world.opened_at(&alice, &format!("app-{n}"), &texts);
        leads.extend(texts.iter().map(|text| (text.to_string(), tunnel)));
    }
    world.advance(MINUTE);
    for (text, tunnel) in leads {
        assert_eq!(world.leads(&text), Some(tunnel), "{text}");
        for odd in [text.to_uppercase(), format!("{text}.")] {
            let host = Hostname::parse(&odd).unwrap();
            assert_eq!(world.leads(host.as_str()), Some(tunnel), "{odd}");
        }
    }
    world.finish();
}

#[test]
fn claims_given_up_while_they_were_looked_at_began_ever_more_looks() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let tunnel = world.opens(&alice, "app");
    world.keeps_answers_back();
    for turn in 0..20 {
        let text = format!("n{}.example.org", turn % 2);
        world.wishes(&alice, tunnel, &[&text]).unwrap();
        world.live_for(secs(6), &[alice]);
        world.wishes(&alice, tunnel, &[]).unwrap();
    }
    assert_eq!(world.looks.len(), 2, "nobody has answered yet");
    world.wishes(&alice, tunnel, &["n9.example.org"]).unwrap();
    world.live_for(MINUTE, &[alice]);
    assert_eq!(world.looks.len(), 2, "hers are all under way");
    world.wishes(&alice, tunnel, &[]).unwrap();
    assert!(world.disk.domains().is_empty());
    world.answers(|_, _, _| Vec::new());
    world.places(&alice, "n0.example.org");
    world.wishes(&alice, tunnel, &["n0.example.org"]).unwrap();
    world.live_for(MINUTE, &[alice]);
    assert_eq!(world.leads("n0.example.org"), Some(tunnel));
    world.finish();
}

#[test]
fn the_answer_to_a_look_for_one_is_not_taken_for_anothers() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    world.keeps_answers_back();
    let first = world.opened_at(&alice, "app", &["app.example.org"]);
    world.live_for(secs(6), &[alice, bob]);
    world.wishes(&alice, first, &[]).unwrap();
    world.places(&bob, "app.example.org");
    let second = world.opened_at(&bob, "bobs", &["app.example.org"]);
    assert_eq!(world.looks.len(), 1);
    world.answers(|_, _, _| Vec::new());
    let view = world.engine.tunnel("bobs").unwrap();
    assert_eq!(view.domains[0].said, None, "nobody has looked for his");
    world.live_for(secs(6), &[alice, bob]);
    assert_eq!(world.leads("app.example.org"), Some(second));
    world.finish();
}

#[test]
fn who_asks_for_a_domain_during_a_look_is_looked_for_after_it() {
    let mut world = World::new();
    let (alice, bob) = (world.connect("alice"), world.connect("bob"));
    world.places(&alice, "app.example.org");
    let first = world.opens_for_good(&alice, "app", "app.example.org");
    world.live_for(MINUTE, &[alice, bob]);
    world.takes_away(&alice, "app.example.org");
    world.places(&bob, "app.example.org");
    world.keeps_answers_back();
    world.live_for(8 * HOUR, &[alice, bob]);
    assert_eq!(world.leads("app.example.org"), Some(first));
    assert!(world.opens_at(&bob, "bobs", &["app.example.org"]).is_err());
    world.answers(World::finds_now);
    world.live_for(secs(6), &[alice, bob]);
    assert_eq!(
        world.stands(first, "app.example.org"),
        Some(DomainState::Lost)
    );
    world.finish();
}

#[test]
fn who_asks_again_during_a_look_does_not_wait_for_the_next_turn() {
    let mut world = World::new();
    let alice = world.connect("alice");
    world.places(&alice, "app.example.org");
    let tunnel = world.opens_for_good(&alice, "app", "app.example.org");
    world.live_for(MINUTE, &[alice]);
    world.takes_away(&alice, "app.example.org");
    world.live_for(12 * HOUR, &[alice]);
    world.keeps_answers_back();
    world.live_for(8 * HOUR, &[alice]);
    world.wishes(&alice, tunnel, &["app.example.org"]).unwrap();
    world.answers(World::finds_now);
    world.places(&alice, "app.example.org");
    world.live_for(secs(6), &[alice]);
    let view = world.engine.tunnel("app").unwrap();
    assert_eq!(view.domains[0].missing_since, None, "it was seen");
    world.finish();
}

#[test]
fn many_who_wait_for_a_domain_kept_its_owner_from_claiming_it() {
    let mut world = World::new();
    let owner = world.connect("owner");
    let mut squatters = Vec::new();
    for n in 0..8 {
        let squatter = world.connect(&format!("squatter-{n}"));
        world.opened_at(&squatter, &format!("squat-{n}"), &["app.example.org"]);
        squatters.push(squatter);
    }
    let crowded = AskError::DomainCrowded {
        domain: domain("app.example.org"),
    };
    let everybody: Vec<_> = squatters.iter().copied().chain([owner]).collect();
    let asks = |world: &mut World| {
        let asked = world.opens_at(&owner, "own", &["app.example.org"]);
        world.live_for(MINUTE, &everybody);
        asked
    };
    assert_eq!(asks(&mut world), Err(crowded.clone()));
    assert_eq!(asks(&mut world), Err(crowded.clone()), "without a record");
    world.places(&owner, "app.example.org");
    assert_eq!(asks(&mut world), Err(crowded));
    let right = asks(&mut world).expect("its record was seen").row.id;
    assert_eq!(world.leads("app.example.org"), Some(right));
    world.finish();
}

#[test]
fn a_tunnel_has_so_many_domains_and_is_told_that_it_is_the_tunnel() {
    let mut world = World::new();
    let alice = world.connect("alice");
    let texts: Vec<_> = (0..65).map(|n| format!("n{n}.example.org")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let over = world.opens_at(&alice, "app", &texts).unwrap_err();
    assert_eq!(over.to_string(), "domains of a tunnel: at most 64 here");
    world.finish();
}
