//! The pages of `wormkeyd`: the daemon's own, and one for each role's configuration. Written from the
//! definitions; a test holds the committed pages against them.

use clap::CommandFactory as _;

use super::Args;
use crate::config::{ClientConfig, Key, ServerConfig};
use crate::ctl::man::{Paragraph, Section, page, render};
use crate::http::limits;

/// Every page with the name of its file.
pub(super) fn pages() -> [(&'static str, String); 3] {
    [
        ("wormkeyd.8", wormkeyd()),
        ("wormkey-server.toml.5", server_toml()),
        ("wormkey-client.toml.5", client_toml()),
    ]
}

/// What visitors may send, and how slowly. The same for every HTTP version.
fn visitors_limits() -> Section {
    let item = |what: &str, limit: String| Paragraph::item(what, limit);
    let kib = |bytes: usize| bytes / 1024;
    let seconds = |time: std::time::Duration| time.as_secs();
    let body = vec![
        Paragraph::text(
            "The edge holds visitors to these, alike for HTTP/1.1, HTTP/2 and HTTP/3. Each number itself still passes.",
        ),
        item(
            "head",
            format!(
                "{} KiB in all, {} fields: 431.",
                kib(limits::HEAD_MAX),
                limits::FIELDS_MAX
            ),
        ),
        item("target", format!("{} KiB: 414.", kib(limits::TARGET_MAX))),
        item("method", format!("{} bytes: 501.", limits::METHOD_MAX)),
        item(
            "chunked body",
            format!(
                "{} KiB of chunk extensions, {} KiB of trailers: 400. The body itself has no limit.",
                kib(limits::CHUNK_EXTENSIONS_MAX),
                kib(limits::TRAILERS_MAX)
            ),
        ),
        item(
            "times",
            format!(
                "{} s for a TLS handshake, {} s for a head (HTTP/1: 408; else its stream or connection ends), {} s without a request.",
                seconds(limits::HANDSHAKE_TIMEOUT),
                seconds(limits::HEAD_TIMEOUT),
                seconds(limits::IDLE_TIMEOUT)
            ),
        ),
        item(
            "rate",
            format!(
                "{} bytes a second over {} s in which only the visitor is waited for: below it a body gets 408 and a response is broken off. Upgraded connections, event streams and gRPC calls may rest; so may an upload while its answer is under way.",
                limits::RATE_MIN,
                seconds(limits::RATE_WINDOW)
            ),
        ),
        item(
            "HTTP/2 and HTTP/3 frames that serve no visit",
            format!(
                "{} at once and {} a second, a reset counted as {}: the connection ends (GOAWAY, H3_EXCESSIVE_LOAD).",
                limits::FRAMES_BURST,
                limits::FRAMES_PER_SECOND,
                limits::RESET_COST
            ),
        ),
        item(
            "addresses",
            "A visitor of HTTP/3 that moves to another network is judged by the address it came with, and origins are told that one.".to_owned(),
        ),
        item(
            "in all",
            format!(
                "{} connections, over which new ones are closed, {} of them from one address or IPv6 network of 64 bits, unless it is a trusted proxy or this machine; and {} visits under way: 503. The last descriptors of the process are kept for the admin socket.",
                limits::CONNECTIONS_MAX,
                limits::CONNECTIONS_MAX / limits::SOURCE_PART,
                limits::VISITS_MAX
            ),
        ),
    ];
    Section {
        title: "LIMITS FOR VISITORS",
        body,
    }
}

/// wormkeyd(8), from the definitions above and the table of codes.
fn wormkeyd() -> String {
    let item = Paragraph::item;
    let files = Section {
        title: "FILES",
        body: vec![
            item(
                "/etc/wormkey/server.toml, /etc/wormkey/server.d/*.toml",
                "The server's configuration, read in that order; later files win.",
            ),
            item(
                "/etc/wormkey/client.toml, /etc/wormkey/client.d/*.toml",
                "The client's. It may be absent: then everything has its default.",
            ),
            item(
                "/var/lib/wormkey/server.key, client.key",
                "The identity key, 0600. Clients pin the server's; losing it means that every client joins again.",
            ),
            item(
                "/var/lib/wormkey/server.key.next, server.root, server.pin.old",
                "The key after it, while keys change; after the first change, the key that secrets go on to be derived from, and by what clients knew the key before. See KEYS.",
            ),
            item(
                "/var/lib/wormkey/client.seal",
                "The key, 0600, that seals webhook secrets in client.db; made when there is one. The server's comes from server.root, or server.key without one: a copy of server.db is of use only with it.",
            ),
            item(
                "/var/lib/wormkey/server.db, client.db",
                "The state. A database that is missing or damaged stops the start; it is never replaced by an empty one.",
            ),
            item(
                "/run/wormkey/server.sock, client.sock",
                "The admin sockets, for wormkeyctl(1).",
            ),
        ],
    };
    let environment = Section {
        title: "ENVIRONMENT",
        body: vec![
            item(
                "WORMKEY_CONFIG",
                "The client's configuration, when --config names none.",
            ),
            item(
                "WORMKEY_STATE_DIR, WORMKEY_SOCKET",
                "The client's state directory and admin socket, when its configuration names none. wormkeyctl heeds WORMKEY_SOCKET, too.",
            ),
            item(
                "XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR",
                "Where a person's own client has its configuration, state and socket, each below wormkey.",
            ),
            item(
                "NO_COLOR",
                "Not empty: the log on a terminal has no colours.",
            ),
        ],
    };
    let systemd = Section {
        title: "SYSTEMD",
        body: vec![
            item(
                "Type=notify, WatchdogSec=",
                "READY comes once everything listens and the state is open. The watchdog is fed only while the engine, the state database and the runtime answer. systemctl status shows how many tunnels there are, how the links are, and visits a minute.",
            ),
            item(
                "Socket units",
                "A socket unit with FileDescriptorName=https (ListenStream and ListenDatagram on one port) or http says where the server listens, whatever [listen] says. wormkeyd-https.socket and wormkeyd-http.socket are such units.",
            ),
            item(
                "FileDescriptorStoreMax=",
                "With it systemd keeps the sockets of listen.https, http and plain_http over a restart: who comes in between waits, and is not refused. The public ports of tcp and udp tunnels, acme.dns.listen and metrics.listen are closed meanwhile.",
            ),
            item(
                "LoadCredential=server.key:PATH",
                "The server's identity key, instead of the one in its state directory. Together with a key there it has to be the same.",
            ),
            item(
                "LoadCredential=join-token:PATH",
                "A client that has not joined joins with it, and tries as long as the server cannot be reached.",
            ),
            item(
                "Other secrets",
                "[tls] cert and key may name files below /run/credentials, and so may [acme] dns.key and the files of a [[tunnel]]'s auth and verify_webhook.",
            ),
        ],
    };
    let backup = Section {
        title: "BACKUP",
        body: vec![
            Paragraph::text(
                "Once, and after each change of keys: copy server.key, and server.root if there is one, and keep them apart; clients trust only that key. Every night, as root:",
            ),
            Paragraph::Code("wormkeyctl server backup /var/backups/wormkey-$(date +%F).db".into()),
            Paragraph::text(
                "When the disk has died: install, put back /etc/wormkey, and as root, with the daemon's own user and group (server.root, if there is one, has its place beside server.key, in the same way),",
            ),
            Paragraph::Code("install -d -o wormkey -g wormkey -m 700 /var/lib/wormkey".into()),
            Paragraph::Code(
                "install -o wormkey -g wormkey -m 600 server.key /var/lib/wormkey/server.key"
                    .into(),
            ),
            Paragraph::Code("wormkeyd server restore /var/backups/wormkey-2030-01-31.db".into()),
            Paragraph::Code("systemctl start wormkeyd-server".into()),
            Paragraph::text(
                "Root's restore reads the file, and then goes on as the owner of the state directory. What changed after the backup is undone: revoke again what was revoked since; wormkeyctl server devices lists what may come in.",
            ),
        ],
    };
    let keys = Section {
        title: "KEYS",
        body: vec![
            Paragraph::text(
                "Clients know the server by server.key alone. To change it without one of them having to join again, make the next one, and have it told to all that link:",
            ),
            Paragraph::Code("wormkeyd server rotate-key".into()),
            Paragraph::Code("systemctl restart wormkeyd-server".into()),
            Paragraph::text(
                "A restart lets every client that is there link anew; after a reload, only those that link by themselves learn of it. Leave both keys be until the clients that are away have been back, such as for a month; wormkeyctl server devices shows who is there. Then",
            ),
            Paragraph::Code("systemctl stop wormkeyd-server".into()),
            Paragraph::Code("wormkeyd server rotate-key --finish".into()),
            Paragraph::Code("systemctl start wormkeyd-server".into()),
            Paragraph::text(
                "A client that was away for all of that time has to join again: wormkeyctl join --replace. The first key stays as server.root: secrets at rest, share links and the records that prove domains hang on it, and stay good.",
            ),
        ],
    };
    let signals = Section {
        title: "SIGNALS",
        body: vec![
            item(
                "SIGTERM, SIGINT",
                "Drain: nothing new, what goes on may finish (30 s on the server, 10 s on the client), then end. A second one ends at once. Tunnels stay promised: stopping is not closing.",
            ),
            item(
                "SIGHUP",
                "Read the configuration again. A bad one is refused and the old one stays in force.",
            ),
        ],
    };
    let units = Section {
        title: "SYSTEMD UNITS",
        body: vec![
            Paragraph::text(
                "The packages bring them disabled. They are Type=notify with a watchdog, reload by wormkeyctl(1), \
                 so that a bad configuration fails the reload, and are started again whenever they fail, unless \
                 with 78. Changes belong into drop-ins: systemctl edit wormkeyd-server.",
            ),
            item(
                "wormkeyd.service",
                "This machine's role: the server where there is an /etc/wormkey/server.toml, else the client. \
                 Starts, stops, restarts and reloads that role's own unit, where status and logs are.",
            ),
            item(
                "wormkeyd-server.service, wormkeyd-client.service",
                "The roles, as the user wormkey. A machine that is to be both enables both. The server may listen \
                 at ports below 1024; what only root may read, such as certbot's keys, comes in by LoadCredential=.",
            ),
            item(
                "wormkeyd-https.socket, wormkeyd-http.socket",
                "Not needed. Enabled, ports 443 (TCP and UDP) and 80 are systemd's from boot on, and the first \
                 visit starts the server, also after it was stopped: stop the sockets, too, to have it stay so. \
                 To change over: systemctl stop wormkeyd-server, then systemctl enable --now \
                 wormkeyd-https.socket wormkeyd-http.socket.",
            ),
            item(
                "wormkeyd-client.service of systemctl --user",
                "A person's own client: their places, and their files for file: targets, which the machine's \
                 client does not see. loginctl enable-linger keeps it while they are logged out.",
            ),
        ],
    };
    let exit = Section {
        title: "EXIT STATUS",
        body: vec![
            item("0", "Ended as asked."),
            item(
                "1",
                "Could not start, or a part without which there is no service has ended; the last line on stderr says why.",
            ),
            item("2", "The command line is not understood."),
            item(
                "78",
                "The configuration is not valid; every problem is listed.",
            ),
        ],
    };
    let examples = Section {
        title: "EXAMPLES",
        body: vec![
            Paragraph::text("Try it on this machine, without any set-up:"),
            Paragraph::Code("wormkeyd dev 3000".into()),
            Paragraph::text("Set this machine up as a server, and print the first join token:"),
            Paragraph::Code("wormkeyd setup server --domain tunnel.example.com".into()),
            Paragraph::text("Check a server's configuration:"),
            Paragraph::Code("wormkeyd server --config /etc/wormkey/server.toml --check".into()),
        ],
    };
    let also = Section {
        title: "SEE ALSO",
        body: vec![Paragraph::text(
            "wormkey(7), wormkeyctl(1), wormkey-server.toml(5), wormkey-client.toml(5), wormkey-errors(7)",
        )],
    };
    render(
        Args::command(),
        "8",
        &[
            examples,
            units,
            files,
            signals,
            environment,
            systemd,
            backup,
            keys,
            visitors_limits(),
            exit,
            also,
        ],
    )
}

const READING: &str = "TOML. Unknown keys are refused, and every problem is reported at once, with its line. Durations are \
    written 30s, 30m, 8h, 7d or 1h30m.";

fn server_toml() -> String {
    let about = [
        Paragraph::text(
            "/etc/wormkey/server.toml, or the file that --config names, then server.d/*.toml beside it in the \
             order of their names; later files win. Only domain must be set.",
        ),
        Paragraph::text(READING),
        Paragraph::text(
            "wormkeyd server --check says what is wrong with it. wormkeyctl server reload, or SIGHUP, puts \
             changes in force, but for domain, the listeners and http3 of [listen], tcp_ports, tls.mode, [acme], \
             state.dir, [admin], [link], domains.resolver, domains.orders, domains.orders_per_user, log.format, \
             log.level and [metrics], which wait for the next start and are named; a bad file changes nothing. Where \
             [admin] socket is moved, systemctl reload needs a drop-in with ExecReload= emptied, and then \
             ExecReload=/usr/bin/wormkeyctl --socket PATH server reload.",
        ),
    ];
    let name = "the configuration of a wormkey server";
    configuration("wormkey-server.toml", name, about, ServerConfig::MANUAL)
}

fn client_toml() -> String {
    let about = [
        Paragraph::text(
            "/etc/wormkey/client.toml for root, $XDG_CONFIG_HOME/wormkey/client.toml (that is, below ~/.config) \
             for anybody else, or the file that --config names; then client.d/*.toml beside it in the order of \
             their names; later files win. Nothing must be set, and no file at all is fine.",
        ),
        Paragraph::text(READING),
        Paragraph::text(
            "wormkeyd client --check says what is wrong with it. wormkeyctl reload, or SIGHUP, puts changes of \
             [origins], [probe] and [[tunnel]] in force, and names the keys that wait for the next start; a bad file \
             changes nothing. Where [admin] socket is not the one that wormkeyctl asks by itself, systemctl reload \
             needs a drop-in with ExecReload= emptied, and then ExecReload=/usr/bin/wormkeyctl --socket PATH reload. \
             A [[tunnel]] opens when its entry comes, changes with it, and closes when it goes.",
        ),
    ];
    let name = "the configuration of a wormkey client";
    configuration("wormkey-client.toml", name, about, ClientConfig::MANUAL)
}

fn configuration(file: &str, what: &str, about: [Paragraph; 3], keys: &[Key]) -> String {
    let section = |title, body| Section { title, body };
    page(
        file,
        "5",
        &[
            section("NAME", vec![Paragraph::text(format!("{file} - {what}"))]),
            section("DESCRIPTION", about.into()),
            section("KEYS", keys.iter().map(described).collect()),
            section(
                "SEE ALSO",
                vec![Paragraph::text("wormkeyd(8), wormkeyctl(1)")],
            ),
        ],
    )
}

/// `[listen] https = "[::]:443"`, and what it means.
fn described(key: &Key) -> Paragraph {
    let (table, word) = match key.name.split_once('.') {
        Some(("tunnel", word)) => ("[[tunnel]] ".to_owned(), word),
        Some((table, word)) => (format!("[{table}] "), word),
        None => (String::new(), key.name),
    };
    match key.default {
        Some(default) => Paragraph::item(format!("{table}{word} = {default}"), key.what),
        None => Paragraph::item(format!("{table}{word}"), key.what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_pages_are_what_the_definitions_say() {
        for (name, text) in pages() {
            let committed = std::fs::read_to_string(format!("man/{name}")).unwrap_or_default();
            assert!(
                committed == text,
                "man/{name} is out of date; regenerate it with: cargo run -- generate man man"
            );
        }
    }

    #[test]
    fn every_option_of_every_command_is_in_its_page() {
        fn longs(command: &clap::Command, into: &mut Vec<String>) {
            if command.is_hide_set() {
                return;
            }
            let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
            into.extend(visible.filter_map(|arg| Some(format!("--{}", arg.get_long()?))));
            for sub in command.get_subcommands() {
                longs(sub, into);
            }
        }
        for (page, command) in [
            (wormkeyd(), Args::command()),
            (
                crate::ctl::man::wormkeyctl(),
                crate::ctl::args::Args::command(),
            ),
        ] {
            let page = page.replace('\\', "");
            let mut all = Vec::new();
            longs(&command, &mut all);
            assert!(all.len() > 5);
            for long in all {
                assert!(page.contains(&long), "{long} is missing");
            }
        }
    }

    #[test]
    fn every_key_of_a_configuration_is_in_its_page_once() {
        for (mut keys, manual) in [
            (ServerConfig::keys(), ServerConfig::MANUAL),
            (ClientConfig::keys(), ClientConfig::MANUAL),
        ] {
            let mut told: Vec<&str> = manual.iter().map(|key| key.name).collect();
            told.sort_unstable();
            keys.sort_unstable();
            assert_eq!(told, keys);
        }
    }
}
