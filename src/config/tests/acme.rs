//! `[acme]`: what is taken, and what is said about the rest.

use std::time::Duration;

use super::*;
use crate::config::{AcmeConfig, AcmeDns, SingleProof, TlsMode};

const TOP: &str = "domain = \"t.example.com\"\n";

fn good(rest: &str) -> AcmeConfig {
    let text = format!("{TOP}{rest}\n[tls]\nmode = \"acme\"");
    match load_server(&text).unwrap_or_else(|err| panic!("{err}")).tls {
        TlsMode::Acme(acme) => *acme,
        other => panic!("{other:?}"),
    }
}

fn check(rest: &str, wanted: &str) {
    let text = format!("{TOP}{rest}");
    assert_eq!(lines(load_server(&text)), [wanted], "{rest}");
}

#[test]
fn nothing_but_the_mode_is_needed() {
    let acme = good("");
    assert_eq!(acme.cas, ["https://acme-v02.api.letsencrypt.org/directory"]);
    assert_eq!(acme.proofs, [SingleProof::TlsAlpn, SingleProof::Http]);
    assert_eq!((acme.dns, acme.root, acme.email), (None, None, None));
}

#[test]
fn the_three_ways_of_dns() {
    let hook = good("[acme]\ndns = { hook = \"/hook\", wait = \"1s\" }").dns;
    let expected = AcmeDns::Hook {
        path: "/hook".into(),
        wait: Duration::from_secs(1),
    };
    assert_eq!(hook, Some(expected));
    let update =
        "[acme.dns]\nupdate = \"ns.example.com:53\"\nkey = \"/k\"\nzone = \"Example.com.\"";
    let expected = AcmeDns::Update {
        server: "ns.example.com:53".into(),
        zone: Some("example.com".into()),
        key: "/k".into(),
        wait: Duration::from_secs(5),
    };
    assert_eq!(good(update).dns, Some(expected));
    let responder = good("[acme]\ndns.listen = \"[::]:53\"\ndns.zone = \"_acme.example.net\"").dns;
    let expected = AcmeDns::Responder {
        listen: "[::]:53".parse().unwrap(),
        zone: Some("_acme.example.net".into()),
    };
    assert_eq!(responder, Some(expected));
}

#[test]
fn without_a_listener_there_is_no_proof_on_it() {
    let acme = good("[listen]\nhttp = \"off\"");
    assert_eq!(acme.proofs, [SingleProof::TlsAlpn]);
}

#[test]
fn what_is_wrong_gets_its_fix() {
    let on = "[tls]\nmode = \"acme\"\n[acme]\n";
    for (rest, wanted) in [
        (
            "ca = [\"http://a.example/\"]",
            "line 5: acme.ca: \"http://a.example/\" is no address of a CA's directory; write it like \"https://acme-v02.api.letsencrypt.org/directory\"",
        ),
        (
            "ca = []",
            "line 5: acme.ca: is empty; leave it out for Let's Encrypt",
        ),
        (
            "email = \"me\"",
            "line 5: acme.email: \"me\" is no address; write \"you@example.com\"",
        ),
        (
            "names = [\"*.t.example.com\"]",
            "line 5: acme.names: \"*.t.example.com\" is a wildcard; only the domain has one, by acme.dns",
        ),
        (
            "dns.hook = \"hook\"",
            "line 5: acme.dns.hook: \"hook\" is not absolute; begin it with \"/\"",
        ),
        (
            "dns.hok = \"/hook\"",
            "line 5: acme.dns.hok: is no key; did you mean hook?",
        ),
        (
            "dns.update = \"ns.example.com:53\"",
            "line 5: acme.dns.key: is missing; update needs key = \"/path/to.key\", as tsig-keygen writes it",
        ),
        (
            "dns.key = \"/key\"",
            "line 5: acme.dns.key: would not be used; write update = \"ns1.example.com:53\" beside it",
        ),
        (
            "dns = { hook = \"/h\", listen = \"[::]:53\" }",
            "line 5: acme.dns.hook: hook, listen are different ways; write one of them",
        ),
        (
            "dns = { update = \"ns.example.com:53\", key = \"/k\", zone = \"example.org\" }",
            "line 5: acme.dns.zone: does not hold _acme-challenge.t.example.com; write the zone that does",
        ),
        (
            "dns = { hook = \"/h\", wait = \"1h\" }",
            "line 5: acme.dns.wait: is too long; write \"10m\" or less",
        ),
    ] {
        check(&format!("{on}{rest}"), wanted);
    }
    check(
        "[acme]\nemail = \"you@example.com\"",
        "line 3: acme.email: would not be used; write mode = \"acme\" in [tls]",
    );
    check(
        "[acme]\ndns.hook = \"/hook\"",
        "line 3: acme.dns: would not be used; write mode = \"acme\" in [tls]",
    );
}

#[test]
fn another_set_up_needs_a_restart() {
    let load = |rest: &str| load_server(&format!("{TOP}{rest}")).unwrap();
    let (plain, on) = (load(""), load("[tls]\nmode = \"acme\""));
    let other = load("[tls]\nmode = \"acme\"\n[acme]\nemail = \"you@example.com\"");
    assert_eq!(plain.changed_needs_restart(&on), ["tls.mode"]);
    assert_eq!(on.changed_needs_restart(&other), ["acme"]);
    assert!(other.changed_needs_restart(&other).is_empty());
    assert_eq!(on.reloaded(&other).tls, on.tls);
}
