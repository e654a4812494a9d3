//! Every key with its default and what it means, for the manual. Not what reads them: that is
//! `resolve.rs`, and tests hold the two together.

use super::{ClientConfig, ServerConfig};

/// One key of a configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted: `listen.https`; a key of a `[[tunnel]]` begins with `tunnel.`.
    pub name: &'static str,
    /// The default as it would be written; None when nothing stands for leaving it out.
    pub default: Option<&'static str>,
    /// What it does.
    pub what: &'static str,
}

const fn key(name: &'static str, default: &'static str, what: &'static str) -> Key {
    Key {
        name,
        default: Some(default),
        what,
    }
}

const fn bare(name: &'static str, what: &'static str) -> Key {
    Key {
        name,
        default: None,
        what,
    }
}

const GROUP: Key = bare(
    "admin.group",
    "A group whose members may use the socket, instead of the daemon's own group, which is wormkey in the packages. \
     The daemon has to be in it; under the packages' units that takes `systemctl edit` with \
     SupplementaryGroups=GROUP and SystemCallFilter=@chown.",
);
const KEEP_ALIVE: Key = key(
    "link.keep_alive",
    "\"5s\"",
    "How often a client says that it is still here, 1s to 1h. After three silent ones its link is dormant.",
);
const IDLE_TIMEOUT: Key = key(
    "link.idle_timeout",
    "\"72h\"",
    "A link that was silent this long is given up; a laptop that sleeps comes back to it until then.",
);
const FORMAT: Key = key(
    "log.format",
    "\"auto\"",
    "\"auto\" is journald when started by systemd, else text on standard error; or \"text\", \"json\", \"journald\".",
);
const LEVEL: Key = key(
    "log.level",
    "\"info\"",
    "error, warn, info, debug or trace, or a filter such as \"info,wormkey::link=debug\".",
);

const METRICS: Key = bare(
    "metrics.listen",
    "Where /metrics, /readyz and /healthz are served over plain TCP, such as \"127.0.0.1:9464\", for Prometheus and \
     its like; they are on the admin socket in any case. Ask by address or for localhost: other names are refused.",
);
const REMOTE: Key = key(
    "metrics.remote",
    "false",
    "Lets metrics.listen be an address that others reach.",
);
const ACCESS: Key = key(
    "log.access",
    "\"off\"",
    "\"full\" writes a line for every visit when it is over, whatever the level: who, what (without the query), status, bytes, times, the rule that decided. \"sampled\" writes at most 10 a second of those that went well and 50 of those that we refused or that failed; a line's unlogged says how many came before it without one. Of visits that only a tunnel's shadow let in there are lines whatever stands here, with the rules in shadowed, 50 a second at most. Lines that the log does not take in time are dropped and counted.",
);

const SERVER: &[Key] = &[
    bare(
        "domain",
        "Tunnels answer at names below it: <name>.tunnel.example.com. The one key that must be set.",
    ),
    key(
        "listen.https",
        "\"[::]:443\"",
        "Address and port. TCP for visitors (HTTP/1.1, HTTP/2, WebSocket), UDP for the links of clients and for \
         visitors (HTTP/3).",
    ),
    key(
        "listen.http3",
        "true",
        "HTTP/3 for visitors, on the UDP port of the links. Answers of the other versions then say so (Alt-Svc), but \
         for those that a proxy brings. Without this key it is off where public_port, proxy_protocol_from, \
         trusted_proxies or plain_http say that something stands in front: that must pass UDP on to the same port, \
         and keep the visitors' addresses. WebSocket goes over the other versions.",
    ),
    key(
        "listen.http",
        "\"[::]:80\"",
        "Where plain HTTP is redirected to HTTPS; \"off\" to leave it out.",
    ),
    bare(
        "listen.public_port",
        "The port of https that visitors see, when something in front of the server listens there; if absent, that \
         of listen.https.",
    ),
    key(
        "listen.proxy_protocol_from",
        "[]",
        "Networks of load balancers that introduce their visitors: TCP connections from there must begin with a PROXY \
         header, version 1 or 2, on every listener and public port. From elsewhere such a header is refused like \
         any other nonsense.",
    ),
    key(
        "listen.trusted_proxies",
        "[]",
        "Networks of HTTP proxies of yours. Of a request from there the visitor is the rightmost address of its \
         X-Forwarded-For that is in none of these networks, and X-Forwarded-Proto says the scheme. From elsewhere \
         both mean nothing.",
    ),
    bare(
        "listen.plain_http",
        "Where a proxy of yours that has taken TLS off finds tunnels and the server's own door, \"127.0.0.1:8080\": \
         HTTP/1.1, HTTP/2 without TLS, WebSocket. Needs trusted_proxies. Links still come to listen.https.",
    ),
    key(
        "listen.plain_http_public",
        "false",
        "Allows plain_http on an address that strangers may reach.",
    ),
    bare(
        "listen.tcp_ports",
        "The public ports of tcp and udp tunnels, such as \"20000-20999\"; none if absent. Open them in the firewall, too.",
    ),
    bare(
        "listen.advertise",
        "Where join tokens send clients, a list of host:port. If absent, the https address when it names one \
         IP, else the domain with the https port.",
    ),
    bare(
        "site.redirect",
        "Where https://<domain>/ sends people on to; if absent, a small page says what this server is.",
    ),
    key(
        "site.contacts",
        "[]",
        "Where abuse is reported, \"mailto:abuse@example.com\" or an https address: shown on that page, and in \
         https://<domain>/.well-known/security.txt.",
    ),
    key(
        "site.may_index",
        "false",
        "Whether search engines may take what tunnels show. If not, answers that say nothing about it themselves get \
         X-Robots-Tag: noindex.",
    ),
    key(
        "site.interstitial",
        "false",
        "Whether a browser's first visit to a tunnel sees a page that says whose it is not, with a button to go on; \
         a cookie of that host remembers it for a week. Programs pass, and whoever sends wormkey-skip-interstitial.",
    ),
    key(
        "tls.mode",
        "\"self-signed\"",
        "\"self-signed\" is a wildcard made here, which browsers warn about; \"files\" is one of your own, \
         watched and swapped live; \"acme\" is got from an authority and renewed without you, see [acme].",
    ),
    bare(
        "tls.cert",
        "With \"files\": the certificate for the domain and the names below it, PEM, leaf first. Read again when it changes.",
    ),
    bare("tls.key", "With \"files\": its private key, PEM."),
    key(
        "acme.ca",
        "[\"https://acme-v02.api.letsencrypt.org/directory\"]",
        "Directories of certificate authorities, asked in this order: the next one when one fails. Using one is \
         agreeing to its terms.",
    ),
    bare(
        "acme.root",
        "PEM certificates to know the authorities' own servers by, for one of your own; the system's if absent.",
    ),
    bare(
        "acme.email",
        "Where an authority may write to. It is told when the account is made.",
    ),
    key(
        "acme.names",
        "[]",
        "Single names that get certificates of their own. Without acme.dns there is no wildcard, and tunnels whose \
         names are not here are served self-signed.",
    ),
    key(
        "acme.proofs",
        "[\"tls-alpn-01\", \"http-01\"]",
        "How single names are proven: on the https listener, on the http listener. Authorities look at ports 443 \
         and 80. After a failure the next one is tried.",
    ),
    bare(
        "acme.dns.hook",
        "The wildcard's way 1: a program, called with `present NAME VALUE`, then `cleanup NAME VALUE`, to make and \
         take away the TXT record NAME. It gets no environment but PATH, and 120 s.",
    ),
    bare(
        "acme.dns.update",
        "Way 2: the zone's primary name server, host:port, which takes dynamic updates (RFC 2136) signed with acme.dns.key.",
    ),
    bare(
        "acme.dns.key",
        "With update: the file of the key as tsig-keygen writes it, hmac-sha256 or hmac-sha512. One that others can \
         read, or a group can change, is refused.",
    ),
    bare(
        "acme.dns.listen",
        "Way 3: where a small name server of our own listens, UDP and TCP, \"[::]:53\". Delegate to it once: an NS record \
         for _acme-challenge.<domain>, or a CNAME to acme.dns.zone.",
    ),
    bare(
        "acme.dns.zone",
        "The zone to update, the domain if absent; or the zone of our own name server, _acme-challenge.<domain> if absent.",
    ),
    key(
        "acme.dns.wait",
        "\"5s\"",
        "With hook and update: how long to wait after the record is made until the authority is told to look.",
    ),
    key(
        "state.dir",
        "\"/var/lib/wormkey\"",
        "Holds server.db, server.key and server.lock. Back it up: clients know the server by its key.",
    ),
    key(
        "state.ended_keep",
        "\"30d\"",
        "How long a tunnel that is over stays in the database after its quarantine, and an expired join token \
         after its time; \"never\" to keep them for ever. Of one user the latest 10,000 are kept at most.",
    ),
    key(
        "state.audit_keep",
        "\"400d\"",
        "How long the audit is kept; \"never\" to keep it for ever.",
    ),
    key(
        "admin.socket",
        "\"/run/wormkey/server.sock\"",
        "What wormkeyctl server talks to.",
    ),
    GROUP,
    key(
        "tunnels.hold",
        "\"10s\"",
        "How long visits wait for a client that is away, when its tunnel asks for nothing else.",
    ),
    key(
        "tunnels.hold_max",
        "\"60s\"",
        "The most that a tunnel may ask for.",
    ),
    key(
        "tunnels.held_visits",
        "256",
        "How many visits of one tunnel may wait.",
    ),
    key(
        "tunnels.held_visits_total",
        "4096",
        "How many may wait in all.",
    ),
    key(
        "tunnels.held_memory",
        "\"64MiB\"",
        "How much memory the waiting visits of one tunnel may take: each its head, and what is read ahead of a body, \
         64 KiB over HTTP/1 and 1 MiB over HTTP/2 and HTTP/3 at most.",
    ),
    key(
        "tunnels.held_memory_total",
        "\"320MiB\"",
        "How much those of all tunnels may take; those of one user a quarter of it, and never less than held_memory.",
    ),
    key(
        "tunnels.signed_body",
        "\"1MiB\"",
        "The largest body that a tunnel takes that checks signatures: it is kept in memory until it is whole. \
         GitHub sends up to 25 MB.",
    ),
    key(
        "tunnels.signed_memory",
        "\"64MiB\"",
        "How much memory all such bodies may take at once; those for the tunnels of one user a quarter of it, those \
         for one tunnel an eighth, those from one visitor a 32nd, and each one body at least. What finds no room gets a 503, and senders try again.",
    ),
    key(
        "tunnels.idle",
        "\"24h\"",
        "A tunnel opened by hand closes after this long without a visit; \"never\" for no limit.",
    ),
    bare(
        "tunnels.idle_max",
        "The most idle time that a tunnel may ask for; one that asks for more, or for \"never\", is refused, and so \
         is one that stands in a client's configuration without an idle key. No maximum if absent.",
    ),
    key(
        "tunnels.offline_max",
        "\"7d\"",
        "A tunnel whose client stays away this long closes.",
    ),
    key(
        "tunnels.quarantine",
        "\"7d\"",
        "How long the name of a tunnel that is over answers 410 and is kept from other users, 60d at most.",
    ),
    key(
        "tunnels.origin_timeout",
        "\"60s\"",
        "How long a service may take to the first byte of its answer.",
    ),
    key(
        "tunnels.per_device",
        "1000",
        "How many open tunnels one device may have.",
    ),
    key(
        "tunnels.tcp_connections",
        "256",
        "How many connections one tcp or tls tunnel may have at once, 512 at most: what one link carries.",
    ),
    key(
        "tunnels.tcp_idle",
        "\"2h\"",
        "A connection of a tcp or tls tunnel that carries nothing for this long is cut; \"never\" for no limit.",
    ),
    key(
        "tunnels.udp_flows",
        "256",
        "How many addresses may send to one udp tunnel at once, 512 at most; one host may have half of them.",
    ),
    key(
        "tunnels.udp_idle",
        "\"60s\"",
        "How long an address that sends nothing, and gets nothing, is remembered; 10s at most when it was never \
         answered.",
    ),
    key(
        "dormant.links",
        "4096",
        "How many links may sleep at once, that is, be kept for clients that are silent. Over it the one that \
         has slept longest is closed; its client connects again by itself, and loses only what was under way.",
    ),
    key(
        "dormant.links_per_user",
        "256",
        "The same for the devices of one user.",
    ),
    key(
        "dormant.memory",
        "\"512MiB\"",
        "How much memory sleeping links may hold. An estimate: 32 KiB each, and for each stream what was sent \
         and may not have arrived, and what arrived and was not read, 512 KiB each way at most.",
    ),
    key(
        "dormant.memory_per_user",
        "\"64MiB\"",
        "The same for the devices of one user.",
    ),
    key(
        "limits.tunnel_rate",
        "\"2000/s burst 4000\"",
        "How often visits to one tunnel may begin, unless its policy says otherwise; \"off\" for no limit.",
    ),
    key(
        "limits.tunnel_concurrency",
        "4096",
        "How many visits to one tunnel may go on at once, unless its policy says otherwise; \"off\" for no limit.",
    ),
    key(
        "limits.tunnel_bandwidth",
        "\"off\"",
        "Bytes a second, each way, of one tunnel, unless its policy says otherwise.",
    ),
    key(
        "limits.visitor_rate",
        "\"200/s burst 2000\"",
        "How often visits of one address (IPv6: of one /64) to one tunnel may begin, unless its policy says otherwise; \"off\" for no limit.",
    ),
    key(
        "limits.visitor_concurrency",
        "256",
        "How many visits of one address to one tunnel may go on at once, unless its policy says otherwise; \"off\" for no limit.",
    ),
    key(
        "limits.visitor_bandwidth",
        "\"off\"",
        "Bytes a second, each way, of one address at one tunnel, unless its policy says otherwise.",
    ),
    bare(
        "limits.user_tunnels",
        "How many open tunnels all devices of one user may have together.",
    ),
    bare(
        "limits.user_links",
        "How many devices of one user may have a link at once.",
    ),
    bare(
        "limits.user_streams",
        "How many visits to all tunnels of one user may go on at once; no policy may ask for more.",
    ),
    bare(
        "limits.user_rate",
        "How often visits to all tunnels of one user may begin; no policy may ask for more.",
    ),
    bare(
        "limits.user_bandwidth",
        "Bytes a second of all tunnels of one user; no policy may ask for more.",
    ),
    bare(
        "limits.user_held",
        "How many visits to all tunnels of one user may wait for absent links; a quarter of tunnels.held_visits_total \
         where it is absent, and never less than tunnels.held_visits.",
    ),
    bare("limits.device_tunnels", "As user_tunnels, for one device."),
    bare("limits.device_streams", "As user_streams, for one device."),
    bare("limits.device_rate", "As user_rate, for one device."),
    bare(
        "limits.device_bandwidth",
        "As user_bandwidth, for one device.",
    ),
    bare("limits.device_held", "As user_held, for one device."),
    key(
        "limits.failed_joins",
        "\"10/m burst 10\"",
        "How often one address may show join tokens that do not work.",
    ),
    key(
        "limits.handshakes",
        "\"200/s burst 2000\"",
        "How often one address may shake hands, for a link or as a visitor.",
    ),
    key(
        "limits.unknown_hosts",
        "\"10/s burst 100\"",
        "How often one address may ask for names that no tunnel has.",
    ),
    key(
        "limits.passwords",
        "\"10/m burst 10\"",
        "How often one address may try passwords that are not known to be right.",
    ),
    key(
        "limits.api_calls",
        "\"200/s burst 1000\"",
        "How often one user of this machine may call the admin API.",
    ),
    key(
        "limits.tunnel_passwords",
        "\"60/m burst 60\"",
        "How often all addresses together may try passwords at one tunnel.",
    ),
    bare(
        "limits.reserved",
        "Names that no tunnel may have, beside those kept for wormkey.",
    ),
    bare(
        "limits.kinds",
        "The kinds of tunnels that are served: \"http\", \"tcp\", \"tls\", \"udp\"; all when left out.",
    ),
    key(
        "limits.expiry_max",
        "\"never\"",
        "The longest time until a tunnel's end. Who asks for more is refused, who asks for none gets this.",
    ),
    key(
        "limits.force_auth",
        "false",
        "Whether every tunnel has to keep strangers out: with credentials or share links (http), or with allowed networks that leave most of the world out (others).",
    ),
    bare(
        "domains.resolver",
        "Whom to ask for the TXT records that prove domains of people's own, address and port; whom /etc/resolv.conf \
         names if absent.",
    ),
    key(
        "domains.per_user",
        "100",
        "The most domains of their own that one user may have; 0 for none.",
    ),
    key(
        "domains.recheck",
        "\"6h\"",
        "How often a record that was seen is looked at again, more or less.",
    ),
    key(
        "domains.lost_after",
        "\"24h\"",
        "How long a record may be gone, over several looks, before its domain leads nowhere. It is lost at once to \
         another user who proves it.",
    ),
    key(
        "domains.orders",
        "\"100/h burst 50\"",
        "With acme: the most certificates that are asked for on behalf of such domains.",
    ),
    key(
        "domains.orders_per_user",
        "\"20/h burst 10\"",
        "The same for the domains of one user.",
    ),
    KEEP_ALIVE,
    IDLE_TIMEOUT,
    FORMAT,
    LEVEL,
    ACCESS,
    METRICS,
    REMOTE,
];

const CLIENT: &[Key] = &[
    key(
        "state.dir",
        "\"/var/lib/wormkey\"",
        "Holds client.db, client.key and client.lock. A person's own client: $XDG_STATE_HOME/wormkey, that is \
         ~/.local/state/wormkey.",
    ),
    key(
        "admin.socket",
        "\"/run/wormkey/client.sock\"",
        "What wormkeyctl talks to. A person's own client: $XDG_RUNTIME_DIR/wormkey/client.sock, else client.sock \
         in its state directory.",
    ),
    GROUP,
    key(
        "origins.allow",
        "[\"127.0.0.1\", \"::1\"]",
        "Addresses and networks that tunnels may lead to, whoever asks; judged after DNS.",
    ),
    key(
        "origins.unix",
        "[\"/run/*\"]",
        "Patterns of sockets for unix: targets; never wormkey's own.",
    ),
    key(
        "origins.files",
        "[\"/srv\"]",
        "Directories for file: targets; never wormkey's own state, runtime or configuration.",
    ),
    KEEP_ALIVE,
    IDLE_TIMEOUT,
    key(
        "probe.every",
        "\"5m\"",
        "How often the client looks at one of its tunnels through its public name, besides when one opens and \
         after a new link; these looks are no visits. \"never\" leaves it to wormkeyctl doctor.",
    ),
    FORMAT,
    LEVEL,
    METRICS,
    REMOTE,
    bare(
        "tunnel.name",
        "Its name, the first label of its address; needed, since it tells the entries apart.",
    ),
    bare(
        "tunnel.target",
        "Where it leads, as in wormkeyctl open: 3000, host:port, http://…, https://…, https+insecure://…, \
         unix:/path, file:/dir, tcp://…, udp://… or tls://…; needed.",
    ),
    key(
        "tunnel.expires",
        "\"never\"",
        "When it ends, counted from its first opening.",
    ),
    key(
        "tunnel.idle",
        "\"never\"",
        "It closes after this long without a visit. A server with a maximum (tunnels.idle_max) refuses \"never\".",
    ),
    bare(
        "tunnel.hold",
        "How long visits wait while this client is away; the server's tunnels.hold if absent.",
    ),
    key(
        "tunnel.host",
        "\"auto\"",
        "The Host header that the service sees: \"auto\", \"keep\", \"rewrite\" or a value.",
    ),
    bare(
        "tunnel.labels",
        "For people, such as { team = \"web\" }; 16 at most.",
    ),
    bare(
        "tunnel.domains",
        "Domains of one's own that lead to it as well, such as [\"app.example.org\", \"*.app.example.org\"], once \
         their TXT records are there; http and tls targets only. wormkeyctl show tells which records.",
    ),
    bare(
        "tunnel.public_port",
        "The public port wished for, of tcp and udp targets; one is chosen if absent.",
    ),
    bare(
        "tunnel.proxy_protocol",
        "\"v1\" or \"v2\": a PROXY header before each connection tells tcp and tls targets who visits.",
    ),
    key(
        "tunnel.yes_expose",
        "false",
        "Whether it is public even if it should not be: the client looks for open databases, debug consoles and the like, and keeps them back.",
    ),
    bare(
        "tunnel.auth",
        "Users and files whose first lines are their passwords, such as \"bob:@/etc/wormkey/bob\": visitors log \
         in with one of them (HTTP Basic). Only a hash leaves this machine. A file that others can read, or a group \
         can change, is refused: for the machine's own client, root:wormkey and 640.",
    ),
    key(
        "tunnel.share",
        "false",
        "Whether only visitors with a share link come in, or with a password where auth asks for one.",
    ),
    bare("tunnel.allow", "The only networks that may visit."),
    bare(
        "tunnel.deny",
        "Networks that may not visit, whatever is allowed.",
    ),
    bare("tunnel.allow_methods", "The only methods that pass."),
    bare(
        "tunnel.allow_paths",
        "The only paths that pass: * is one segment, /** all below.",
    ),
    bare(
        "tunnel.deny_paths",
        "Paths that do not pass, however they are written.",
    ),
    bare(
        "tunnel.rate",
        "The most visits of all visitors together: \"50/s\", \"100/m\", \"10/h\".",
    ),
    bare(
        "tunnel.burst",
        "How many of them at once; one second's worth if absent, at least 1.",
    ),
    bare("tunnel.concurrency", "The most visits that go on at once."),
    bare(
        "tunnel.bandwidth",
        "The most bytes a second each way: \"500KB\", \"5MiB\".",
    ),
    bare(
        "tunnel.visitor_rate",
        "The same as rate for each visitor address; IPv6 by /64.",
    ),
    bare(
        "tunnel.visitor_burst",
        "The same as burst for each visitor address.",
    ),
    bare(
        "tunnel.visitor_concurrency",
        "The same as concurrency for each visitor address.",
    ),
    bare(
        "tunnel.visitor_bandwidth",
        "The same as bandwidth for each visitor address.",
    ),
    bare(
        "tunnel.set_request_headers",
        "Fields to set on requests, such as { X-Team = \"web\" }.",
    ),
    bare(
        "tunnel.remove_request_headers",
        "Fields to take out of requests.",
    ),
    bare("tunnel.set_response_headers", "Fields to set on responses."),
    bare(
        "tunnel.remove_response_headers",
        "Fields to take out of responses.",
    ),
    key(
        "tunnel.secure_headers",
        "false",
        "true, or a content security policy: tells browsers to be careful (HSTS, nosniff, frame-ancestors, a \
         referrer policy).",
    ),
    bare(
        "tunnel.cors",
        "Origins whose scripts may read responses, or \"*\".",
    ),
    bare(
        "tunnel.verify_webhook",
        "Only requests pass that are signed with the secret in the first line of a file: \
         \"github:@/etc/wormkey/hook\", or stripe, slack, standard-webhooks; or a list of them, of which one that \
         fits is enough. The server checks it before the service sees anything. As with auth, the file has to be \
         closed to others.",
    ),
    key(
        "tunnel.allow_cookie_domain",
        "false",
        "Whether the service may set cookies for the domain of all tunnels.",
    ),
    bare(
        "tunnel.shadow",
        "Parts that only tell what they would refuse, and let it pass: \"all\", or some of networks, methods, \
         paths, auth, webhook, limits. wormkeyctl logs tells it, and so does the server's log.",
    ),
    bare(
        "tunnel.policy",
        "A file with all of it as one JSON document; the other keys replace parts of it.",
    ),
];

impl ServerConfig {
    /// What the manual says of each key.
    pub const MANUAL: &'static [Key] = SERVER;
}

impl ClientConfig {
    /// What the manual says of each key.
    pub const MANUAL: &'static [Key] = CLIENT;
}
