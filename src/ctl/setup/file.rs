//! The server.toml that a set-up writes: what was asked for, and beside it what is asked for next.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use super::ServerWish;
use crate::config::ServerConfig;

/// Whether `[tls] mode = "acme"` is among what the configuration takes.
pub(super) fn knows_acme() -> bool {
    ServerConfig::keys()
        .iter()
        .any(|key| key.starts_with("acme."))
}

/// Where visitors come in when nothing is asked: both families where there are two.
fn everywhere(port: u16) -> SocketAddr {
    if UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok() {
        (Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, port).into()
    }
}

/// Where the name server for proofs listens: everywhere, or, where another program has that port at some address,
/// as systemd-resolved has it at 127.0.0.53, at the address by which this machine reaches others.
fn name_server() -> SocketAddr {
    let all = everywhere(53);
    let is_taken = |at: SocketAddr| {
        let tried = [UdpSocket::bind(at).err(), TcpListener::bind(at).err()];
        let errors = tried.iter().flatten();
        errors
            .into_iter()
            .any(|err| err.kind() == ErrorKind::AddrInUse)
    };
    if !is_taken(all) {
        return all;
    }
    let outward = outward().map(|ip| SocketAddr::new(ip, 53));
    outward.filter(|at| !is_taken(*at)).unwrap_or(all)
}

/// The address that others are reached by. Nothing is sent for it.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // One that nobody has: it stands for all that is not near.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 53)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What visitors' certificate will be, in a few words.
pub(super) fn certificate(wish: &ServerWish) -> &'static str {
    if wish.acme {
        "a certificate from Let's Encrypt"
    } else if wish.cert.is_some() {
        "the certificate you gave"
    } else if knows_acme() {
        "a self-signed certificate, which browsers warn about (--acme gets a real one)"
    } else {
        "a self-signed certificate, which browsers warn about"
    }
}

/// What the person must do at their DNS for `--acme`.
pub(super) fn delegation(wish: &ServerWish) -> String {
    let domain = &wish.domain;
    match &wish.dns_hook {
        Some(hook) => {
            let hook = hook.display();
            format!("note  {hook} must make the TXT record of _acme-challenge.{domain}")
        }
        None => format!(
            "note  make a DNS record once: _acme-challenge.{domain} NS {domain}, and open port 53, UDP and TCP"
        ),
    }
}

/// The whole file.
pub(super) fn text(wish: &ServerWish) -> String {
    let domain = &wish.domain;
    let https = wish.https.unwrap_or_else(|| everywhere(443));
    let http = wish
        .http
        .clone()
        .unwrap_or_else(|| everywhere(80).to_string());
    let ports = match &wish.tcp_ports {
        Some(range) => format!("tcp_ports = {}", quoted(range)),
        None => "#tcp_ports = \"20000-20999\"".to_owned(),
    };
    let mut text = format!(
        "\
# A wormkey server. Every key is in wormkey-server.toml(5).
# `wormkeyd server --check` looks at this file; `wormkeyctl server reload` puts a change in force.

# Tunnels answer at <name>.{domain}.
domain = {}

[listen]
# TCP for visitors, UDP for the links of clients. Open both in the firewall.
https = {}
# Redirects visitors to https; \"off\" to leave it out.
http = {}
# The public ports of tcp:// and udp:// tunnels; none while this is a comment.
{ports}

[tls]
",
        quoted(domain.as_str()),
        quoted(&https.to_string()),
        quoted(&http),
    );
    text.push_str(&tls(wish));
    if wish.root != Path::new("/") {
        let place = |path: &str| quoted(&wish.root.join(path).to_string_lossy());
        let (state, socket) = (place("var/lib/wormkey"), place("run/wormkey/server.sock"));
        let _ = write!(
            text,
            "\n[state]\ndir = {state}\n\n[admin]\nsocket = {socket}\n"
        );
    }
    text
}

fn tls(wish: &ServerWish) -> String {
    if wish.acme {
        let dns = match &wish.dns_hook {
            Some(hook) => format!("hook = {}", quoted(&hook.to_string_lossy())),
            None => format!("listen = {}", quoted(&name_server().to_string())),
        };
        let email = match &wish.email {
            Some(email) => format!("email = {}\n", quoted(email)),
            None => String::new(),
        };
        return format!(
            "# Got from Let's Encrypt, and renewed.\nmode = \"acme\"\n\n[acme]\n{email}dns = {{ {dns} }}\n"
        );
    }
    match wish.cert.as_ref().zip(wish.key.as_ref()) {
        Some((cert, key)) => format!(
            "# For the domain and the names below it; {}.\nmode = \"files\"\ncert = {}\nkey = {}\n",
            // systemd copies credentials when it starts the unit.
            if cert.starts_with("/run/credentials") {
                "read at the start: after a renewal, systemctl restart wormkeyd-server"
            } else {
                "watched, and swapped live when they change"
            },
            quoted(&cert.to_string_lossy()),
            quoted(&key.to_string_lossy()),
        ),
        None => "\
# Made here, which browsers warn about. With a wildcard certificate of your own:
#mode = \"files\"
#cert = \"/etc/wormkey/fullchain.pem\"
#key = \"/etc/wormkey/privkey.pem\"
mode = \"self-signed\"
"
        .to_owned(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
