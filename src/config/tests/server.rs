//! `server.toml`.

use std::time::Duration;

use super::*;
use crate::config::{DormantConfig, FrontConfig, LogFormat, TlsMode, TunnelDefaults};

/// A file with a domain and one more thing, which has exactly these problems.
#[track_caller]
fn check(rest: &str, wanted: &[&str]) {
    let text = format!("domain = \"t.example.com\"\n{rest}\n");
    assert_eq!(lines(load_server(&text)), wanted, "{rest}");
}

#[track_caller]
fn good(rest: &str) -> ServerConfig {
    load_server(&format!("domain = \"t.example.com\"\n{rest}\n"))
        .unwrap_or_else(|err| panic!("{rest}: {err}"))
}

#[test]
fn a_domain_is_enough() {
    let config = good("");
    assert_eq!(config.https, "[::]:443".parse().unwrap());
    assert_eq!(config.http, Some("[::]:80".parse().unwrap()));
    assert!(config.http3);
    assert_eq!(config.tcp_ports, None);
    assert_eq!(config.advertise, ["t.example.com:443"]);
    assert_eq!(config.tls, TlsMode::SelfSigned);
    assert_eq!(config.state_dir, Path::new("/var/lib/wormkey"));
    assert_eq!(config.admin.socket, Path::new("/run/wormkey/server.sock"));
    assert_eq!(config.admin.group, None);
    assert_eq!(config.tunnels, TunnelDefaults::default());
    assert_eq!(config.dormant, DormantConfig::default());
    assert_eq!(config.link.keep_alive, Duration::from_secs(5));
    assert_eq!(config.link.idle_timeout, Duration::from_secs(72 * 3600));
    assert_eq!(
        (config.log.format, &*config.log.level),
        (LogFormat::Auto, "info")
    );
}

#[test]
fn http3_is_on_unless_something_stands_in_front_or_somebody_says_so() {
    for (keys, is_on) in [
        ("http3 = false", false),
        ("public_port = 444", false),
        ("public_port = 444\nhttp3 = true", true),
        ("proxy_protocol_from = [\"10.0.0.5\"]", false),
        ("trusted_proxies = [\"127.0.0.1\"]", false),
    ] {
        assert_eq!(good(&format!("[listen]\n{keys}")).http3, is_on, "{keys}");
    }
}

#[test]
fn every_key_is_taken() {
    let config = good(
        r#"
        [listen]
        https = "127.0.0.1:0"
        http3 = true
        http = "off"
        tcp_ports = "20000-20999"
        public_port = 444
        proxy_protocol_from = ["10.0.0.0/8", "2001:db8::1"]
        trusted_proxies = ["127.0.0.1"]
        plain_http = "0.0.0.0:8080"
        plain_http_public = true
        advertise = ["Tunnel.Example.com:8443", "[2001:db8::1]:443"]
        [tls]
        mode = "files"
        cert = "/etc/c.pem"
        key = "/etc/k.pem"
        [state]
        dir = "/tmp/state"
        [admin]
        socket = "/tmp/s.sock"
        group = "ops"
        [tunnels]
        hold = "1s"
        hold_max = "2s"
        held_visits = 3
        held_visits_total = 4
        held_memory = "2MiB"
        held_memory_total = "3MiB"
        signed_body = "26MiB"
        signed_memory = "104MiB"
        idle = "never"
        offline_max = "5d"
        quarantine = "0s"
        origin_timeout = "7s"
        per_device = 8
        tcp_connections = 9
        tcp_idle = "never"
        udp_flows = 10
        udp_idle = "11s"
        [dormant]
        links = 6
        links_per_user = 5
        memory = "1GiB"
        memory_per_user = "64KiB"
        [link]
        keep_alive = "9s"
        idle_timeout = "10h"
        [log]
        format = "json"
        level = "warn,wormkey::edge=debug"
        "#,
    );
    let secs = Duration::from_secs;
    assert_eq!(config.https, "127.0.0.1:0".parse().unwrap());
    assert_eq!(config.http, None);
    assert!(config.http3);
    let net = |text: &str| text.parse().unwrap();
    let front = FrontConfig {
        proxy_protocol_from: vec![net("10.0.0.0/8"), net("2001:db8::1")],
        trusted_proxies: vec![net("127.0.0.1")],
        plain_http: Some("0.0.0.0:8080".parse().unwrap()),
        public_port: Some(444),
    };
    assert_eq!(config.front, front);
    assert_eq!(config.tcp_ports, Some((20_000, 20_999)));
    assert_eq!(
        config.advertise,
        ["tunnel.example.com:8443", "[2001:db8::1]:443"]
    );
    let files = TlsMode::Files {
        cert: "/etc/c.pem".into(),
        key: "/etc/k.pem".into(),
    };
    assert_eq!(config.tls, files);
    assert_eq!(config.state_dir, Path::new("/tmp/state"));
    assert_eq!(config.admin.socket, Path::new("/tmp/s.sock"));
    assert_eq!(config.admin.group.as_deref(), Some("ops"));
    let tunnels = TunnelDefaults {
        hold: secs(1),
        hold_max: secs(2),
        held_visits: 3,
        held_visits_total: 4,
        held_memory: 2 << 20,
        held_memory_total: 3 << 20,
        signed_body: 26 << 20,
        signed_memory: 104 << 20,
        idle: None,
        idle_max: None,
        offline_max: secs(5 * 86_400),
        quarantine: secs(0),
        origin_timeout: secs(7),
        per_device: 8,
        tcp_connections: 9,
        tcp_idle: None,
        udp_flows: 10,
        udp_idle: secs(11),
    };
    assert_eq!(config.tunnels, tunnels);
    let dormant = DormantConfig {
        links: 6,
        links_per_user: 5,
        memory: 1 << 30,
        memory_per_user: 64 << 10,
    };
    assert_eq!(config.dormant, dormant);
    assert_eq!(config.link.keep_alive, secs(9));
    assert_eq!(config.link.idle_timeout, secs(36_000));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "warn,wormkey::edge=debug");
}

#[test]
fn plain_http_is_not_for_strangers() {
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    for address in [
        "127.0.0.1:8080",
        "[::1]:8080",
        "10.1.2.3:80",
        "192.168.1.1:8080",
        "100.64.0.1:8080",
        "169.254.1.1:8080",
        "[fd00::1]:8080",
        "[fe80::1]:8080",
        "[::ffff:127.0.0.1]:8080",
    ] {
        good(&format!("[listen]\nplain_http = \"{address}\"\n{trusted}"));
    }
    let strange = "line 3: listen.plain_http: is an address that strangers may reach, and nothing there is encrypted; \
         write one of this machine or of a private network, or plain_http_public = true if a firewall keeps them out";
    for address in [
        "0.0.0.0:8080",
        "[::]:8080",
        "192.0.2.1:8080",
        "100.128.0.1:8080",
        "[2001:db8::1]:8080",
        "[::ffff:192.0.2.1]:8080",
    ] {
        let rest = format!("[listen]\nplain_http = \"{address}\"\n{trusted}");
        check(&rest, &[strange]);
        good(&format!("{rest}\nplain_http_public = true"));
    }
    check(
        "[listen]\nplain_http = \"127.0.0.1:8080\"\nhttps = \"127.0.0.1:8080\"\n",
        &[
            "line 2: listen.trusted_proxies: is missing; with plain_http, write [\"127.0.0.1\"] or wherever your proxy is, \
             or every visitor has the proxy's address",
            "line 3: listen.plain_http: is the same as another listener; write another port",
        ],
    );
    check(
        "[listen]\nplain_http_public = true\ntrusted_proxies = [\"proxy.lan\"]\npublic_port = 0",
        &[
            "line 3: listen.plain_http_public: would not be used; write plain_http, too",
            "line 4: listen.trusted_proxies: \"proxy.lan\" is no network; write 10.0.0.0/8, 2001:db8::/32 or one address",
            "line 5: listen.public_port: 0 is out of range; write 1 to 65535",
        ],
    );
}

#[test]
fn clients_are_sent_to_the_address_if_it_names_one() {
    for (https, wanted) in [
        ("[::]:8443", "t.example.com:8443"),
        ("0.0.0.0:443", "t.example.com:443"),
        ("192.0.2.7:443", "192.0.2.7:443"),
        ("[2001:db8::7]:8443", "[2001:db8::7]:8443"),
    ] {
        let config = good(&format!("[listen]\nhttps = \"{https}\""));
        assert_eq!(config.advertise, [wanted], "{https}");
    }
}

#[test]
fn domains_are_checked() {
    for (domain, wanted) in [
        ("\"\"", "is empty; leave it out"),
        ("7", "is a number; write it in quotes"),
        (
            "\"https://t.example.com/\"",
            "\"https://t.example.com/\" is more than a host name; write \"t.example.com\"",
        ),
        (
            "\"*.t.example.com\"",
            "\"*.t.example.com\" is more than a host name; write \"t.example.com\"",
        ),
        (
            "\"t.example.com:443\"",
            "\"t.example.com:443\" is more than a host name; write \"t.example.com\"",
        ),
        (
            "\"192.0.2.1\"",
            "\"192.0.2.1\" is an address; write a name, since tunnels answer at names below it",
        ),
        (
            "\"a_b.example.com\"",
            "\"a_b.example.com\" is no host name ('_' cannot stand in a host name); write \"tunnel.example.com\"",
        ),
    ] {
        let result = load_server(&format!("domain = {domain}\n"));
        assert_eq!(lines(result), [format!("line 1: domain: {wanted}")]);
    }
    // Forty characters of a slug and a dot still fit in front.
    let domain = |length: usize| {
        let labels = "abcdefghi.".repeat(30);
        labels[labels.len() - length - 1..labels.len() - 1]
            .trim_start_matches('.')
            .to_owned()
    };
    assert!(load_server(&format!("domain = \"{}\"", domain(212))).is_ok());
    assert_eq!(
        lines(load_server(&format!("domain = \"{}\"", domain(213)))),
        ["line 1: domain: has 213 characters; at most 212 leave room for the tunnels' names"]
    );
    assert_eq!(
        lines(load_server("[listen]\n")),
        ["domain: is missing; write domain = \"tunnel.example.com\""]
    );
}

#[test]
fn addresses_get_their_fix() {
    for (value, wanted) in [
        (
            "\"0.0.0.0\"",
            "\"0.0.0.0\" has no port; write \"0.0.0.0:443\"",
        ),
        ("\"::\"", "\"::\" has no port; write \"[::]:443\""),
        ("\"[::1]\"", "\"[::1]\" has no port; write \"[::1]:443\""),
        ("443", "443 is only a port; write \"[::]:443\""),
        ("\":8443\"", "\":8443\" has no address; write \"[::]:8443\""),
        (
            "\"*:8443\"",
            "\"*:8443\" has no address; write \"[::]:8443\"",
        ),
        ("\"8443\"", "\"8443\" has no address; write \"[::]:8443\""),
        (
            "\"0.0.0.0:70000\"",
            "\"0.0.0.0:70000\" has no port from 0 to 65535; write \"0.0.0.0:443\"",
        ),
        (
            "\"localhost:443\"",
            "\"localhost:443\" is a name; write an address of this machine, such as \"127.0.0.1:443\"",
        ),
        ("\"off\"", "\"off\" is no address; write \"[::]:443\""),
        ("true", "is true or false; write it in quotes"),
    ] {
        check(
            &format!("[listen]\nhttps = {value}"),
            &[&format!("line 3: listen.https: {wanted}")],
        );
    }
}

#[test]
fn values_that_cannot_hold_are_refused() {
    for (section, value, wanted) in [
        (
            "listen",
            "http = \"[::]:443\"",
            "http: is the same as https; write another port, or \"off\"",
        ),
        (
            "listen",
            "http = \"of\"",
            "http: \"of\" is no address; write \"[::]:80\"",
        ),
        (
            "listen",
            "tcp_ports = \"9-2\"",
            "tcp_ports: \"9-2\" runs backwards; write \"2-9\"",
        ),
        (
            "listen",
            "tcp_ports = \"0-9\"",
            "tcp_ports: \"0-9\" is no range of ports; write it like \"20000-20999\"",
        ),
        (
            "listen",
            "tcp_ports = \"400-500\"",
            "tcp_ports: holds 443, which we listen on; leave that one out",
        ),
        (
            "listen",
            "advertise = []",
            "advertise: is empty; leave it out, or write an address",
        ),
        (
            "listen",
            "advertise = \"a:1\"",
            "advertise: is a text; write a list, [\"tunnel.example.com:443\"]",
        ),
        (
            "listen",
            "advertise = [\"a.example\"]",
            "advertise: \"a.example\" has no port; write \"a.example:443\"",
        ),
        (
            "listen",
            "advertise = [\"[::]:443\"]",
            "advertise: \"[::]:443\" leads nowhere; write an address that clients can reach",
        ),
        (
            "listen",
            "advertise = [\"a b:443\"]",
            "advertise: \"a b:443\" is no host and port; write it like \"tunnel.example.com:443\"",
        ),
        (
            "tls",
            "mode = \"none\"",
            "mode: \"none\" is not known; write \"self-signed\" or \"files\" or \"acme\"",
        ),
        (
            "tls",
            "cert = \"/c.pem\"",
            "cert: would not be used; write mode = \"files\" above it",
        ),
        (
            "state",
            "dir = \"state\"",
            "dir: \"state\" is not absolute; begin it with \"/\"",
        ),
        (
            "state",
            "dir = \"~/state\"",
            "dir: \"~/state\" is not absolute; write the home directory out",
        ),
        (
            "state",
            "dir = \"/a/../b\"",
            "dir: \"/a/../b\" has \"..\" inside; write it without",
        ),
        (
            "tunnels",
            "hold = \"0s\"",
            "hold: 0 would refuse every visit that comes while a link is away; write \"1s\" or more",
        ),
        (
            "tunnels",
            "hold = 10",
            "hold: 10 has no unit; write \"10s\"",
        ),
        (
            "tunnels",
            "hold = \"61s\"",
            "hold: is over hold_max; write \"1m\" or less",
        ),
        (
            "tunnels",
            "hold = \"soon\"",
            "hold: \"soon\" is not a duration; write 30s, 30m, 8h, 7d or 1h30m",
        ),
        (
            "tunnels",
            "held_visits = 0",
            "held_visits: 0 is out of range; write 1 to 1000000",
        ),
        (
            "tunnels",
            "held_visits = -1",
            "held_visits: -1 is out of range; write 1 to 1000000",
        ),
        (
            "tunnels",
            "held_visits = \"9\"",
            "held_visits: \"9\" is in quotes; write 9",
        ),
        (
            "tunnels",
            "held_visits = 1.5",
            "held_visits: is a number with a point; write a whole number",
        ),
        (
            "tunnels",
            "held_visits_total = 9",
            "held_visits_total: is below held_visits; write 256 or more",
        ),
        (
            "tunnels",
            "idle = \"0s\"",
            "idle: 0 would close every tunnel at once; write \"never\" for no limit",
        ),
        (
            "tunnels",
            "idle = \"never\"\nidle_max = \"2h\"",
            "idle: is over idle_max; write \"2h\" or less",
        ),
        (
            "tunnels",
            "idle_max = \"0s\"",
            "idle_max: 0 would refuse every idle time; leave it out for no maximum",
        ),
        (
            "state",
            "audit_keep = \"0s\"",
            "audit_keep: 0 would keep nothing of what is over; write \"30d\", or \"never\" to prune nothing",
        ),
        (
            "tunnels",
            "quarantine = \"61d\"",
            "quarantine: is too long; write \"60d\" or less",
        ),
        (
            "link",
            "keep_alive = \"10ms\"",
            "keep_alive: is out of range; write \"1s\" to \"1h\"",
        ),
        (
            "link",
            "idle_timeout = \"15s\"",
            "idle_timeout: ends links that are well; write \"20s\" or more",
        ),
        (
            "log",
            "format = \"xml\"",
            "format: \"xml\" is not known; write \"auto\" or \"text\" or \"json\" or \"journald\"",
        ),
        (
            "log",
            "level = \"loud\"",
            "level: \"loud\" is no level; write error, warn, info, debug or trace, or \"info,wormkey::edge=debug\"",
        ),
    ] {
        check(
            &format!("[{section}]\n{value}"),
            &[&format!("line 3: {section}.{wanted}")],
        );
    }
    let long = format!("/{}", "a".repeat(107));
    check(
        &format!("[admin]\nsocket = \"{long}\""),
        &["line 3: admin.socket: has 108 bytes; a socket's path has 107 at most"],
    );
    good(&format!("[admin]\nsocket = \"{}\"", &long[..107]));
    good("[tunnels]\nhold = \"60s\"");
}

#[test]
fn files_mode_needs_both_files() {
    check(
        "[tls]\nmode = \"files\"\ncert = \"/c.pem\"",
        &["line 2: tls.key: is missing; mode \"files\" needs key = \"/path/to.pem\""],
    );
}

#[test]
fn unknown_keys_are_guessed() {
    for (rest, wanted) in [
        (
            "[listen]\nhtps = 1",
            "line 3: listen.htps: is no key; did you mean https?",
        ),
        (
            "[tunnels]\nHold-Max = \"1s\"",
            "line 3: tunnels.Hold-Max: is no key; did you mean hold_max?",
        ),
        (
            "[lisen]\nhttps = 1",
            "line 2: lisen: is no key; did you mean listen?",
        ),
        (
            "[state]\npath = \"/x\"",
            "line 3: state.path: is no key; here stand dir, ended_keep, audit_keep",
        ),
        (
            "[origins]\nallow = []",
            "line 2: origins: is no key; here stand domain, listen, site, tls, acme, state, admin, tunnels, dormant, limits, domains, link, log, metrics",
        ),
        (
            "listen = 443",
            "line 2: listen: is a number; write it as a table, [listen]",
        ),
    ] {
        check(rest, &[wanted]);
    }
}

#[test]
fn the_idle_time_that_nobody_asked_for_is_within_the_maximum() {
    let tunnels = |rest: &str| good(&format!("[tunnels]\n{rest}")).tunnels;
    assert_eq!(
        tunnels("idle_max = \"2h\"").idle,
        Some(Duration::from_secs(7200))
    );
    assert_eq!(
        tunnels("idle_max = \"9d\"").idle,
        Some(Duration::from_secs(86_400))
    );
    let both = tunnels("idle_max = \"9d\"\nidle = \"3h\"");
    assert_eq!(
        (both.idle, both.idle_max),
        (
            Some(Duration::from_secs(10_800)),
            Some(Duration::from_secs(777_600))
        )
    );
}

#[test]
fn what_is_over_is_kept_for_as_long_as_is_said() {
    let keep = good("[state]\nended_keep = \"1d\"\naudit_keep = \"never\"").keep;
    assert_eq!(
        (keep.ended, keep.audit),
        (Some(Duration::from_secs(86_400)), None)
    );
    let old = good("");
    let new = good("[state]\naudit_keep = \"1d\"");
    assert_eq!(old.reloaded(&new).keep, new.keep, "a reload is enough");
}

#[test]
fn all_problems_are_told_at_once_with_their_lines() {
    let text = r#"
domian = "t.example.com"
[listen]
https = "0.0.0.0"
advertise = [
    "t.example.com:443",
    "t.example.com",
    "10.0.0.1",
]
[tunnels]
hold = "2m"
rate = 0
[log]
level = "loud"
"#;
    assert_eq!(
        load_server(text).unwrap_err(),
        "server.toml: 8 problems
  domain: is missing; write domain = \"tunnel.example.com\"
  line 2: domian: is no key; did you mean domain?
  line 4: listen.https: \"0.0.0.0\" has no port; write \"0.0.0.0:443\"
  line 7: listen.advertise: \"t.example.com\" has no port; write \"t.example.com:443\"
  line 8: listen.advertise: \"10.0.0.1\" has no port; write \"10.0.0.1:443\"
  line 11: tunnels.hold: is over hold_max; write \"1m\" or less
  line 12: tunnels.rate: is no key; here stand hold_max, hold, held_visits, held_visits_total, held_memory, held_memory_total, signed_body, signed_memory, quarantine, idle_max, idle, offline_max, origin_timeout, per_device, tcp_connections, tcp_idle, udp_flows, udp_idle
  line 14: log.level: \"loud\" is no level; write error, warn, info, debug or trace, or \"info,wormkey::edge=debug\""
    );
}

#[test]
fn a_reload_names_what_it_cannot_change() {
    let old = good("");
    assert_eq!(old.changed_needs_restart(&old), Vec::<&str>::new());
    let new = good(
        "[listen]\nhttps = \"[::]:444\"\nadvertise = [\"a.example:1\"]\n[tunnels]\nhold = \"1s\"\n[log]\nlevel = \"debug\"",
    );
    assert_eq!(
        old.changed_needs_restart(&new),
        ["listen.https", "log.level"]
    );
    let files = |cert| {
        good(&format!(
            "[tls]\nmode = \"files\"\ncert = \"{cert}\"\nkey = \"/k\""
        ))
    };
    let domains =
        good("[domains]\nper_user = 3\nresolver = \"127.0.0.1:53\"\norders_per_user = \"1/h\"");
    assert_eq!(
        old.changed_needs_restart(&domains),
        ["domains.resolver", "domains.orders_per_user"]
    );
    assert_eq!(old.changed_needs_restart(&files("/a")), ["tls.mode"]);
    assert!(files("/a").changed_needs_restart(&files("/b")).is_empty());
}

#[test]
fn sizes_of_memory_get_their_fix() {
    for (rest, wanted) in [
        (
            "[dormant]\nmemory = 64",
            "line 3: dormant.memory: 64 has no unit; write \"64MiB\"",
        ),
        (
            "[dormant]\nmemory_per_user = \"64MB\"",
            "line 3: dormant.memory_per_user: \"64MB\" is no size; write it like \"64MiB\"",
        ),
        (
            "[dormant]\nmemory = \"1KiB\"",
            "line 3: dormant.memory: \"1KiB\" is too small; write \"64KiB\"",
        ),
        (
            "[dormant]\nmemory_per_user = \"2GiB\"\nmemory = \"1GiB\"",
            "line 4: dormant.memory: is below memory_per_user; write \"2GiB\" or more",
        ),
        (
            "[dormant]\nlinks = 1",
            "line 3: dormant.links: is below links_per_user; write 256 or more",
        ),
        (
            "[tunnels]\nheld_memory = \"1MiB\"",
            "line 3: tunnels.held_memory: \"1MiB\" is too small; write \"2MiB\"",
        ),
        (
            "[tunnels]\nsigned_body = \"26MiB\"\nsigned_memory = \"25MiB\"",
            "line 4: tunnels.signed_memory: is below signed_body; write \"26MiB\" or more",
        ),
    ] {
        check(rest, &[wanted]);
    }
    // The bound of all grows with the bound of one.
    let config = good("[dormant]\nmemory_per_user = \"2GiB\"\nlinks_per_user = 5000");
    assert_eq!(
        (config.dormant.memory, config.dormant.links),
        (2 << 30, 5000)
    );
}

#[test]
fn metrics_for_everybody_must_be_meant() {
    let with = |metrics: &str| {
        load_server(&format!(
            "domain = \"t.example.com\"\n[metrics]\n{metrics}\n"
        ))
    };
    let listen = with("listen = \"127.0.0.1:9464\"").unwrap().metrics.listen;
    assert_eq!(listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert!(with("listen = \"[::1]:9464\"").is_ok());
    assert_eq!(with("").unwrap().metrics.listen, None);
    let err = with("listen = \"0.0.0.0:9464\"").unwrap_err().to_string();
    assert!(
        err.contains("write \"127.0.0.1:9464\", or add remote"),
        "{err}"
    );
    assert!(with("listen = \"0.0.0.0:9464\"\nremote = true").is_ok());
    assert!(with("remote = \"yes\"").is_err());
}
