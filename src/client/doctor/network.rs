//! The way to the server: names, UDP, TCP, the certificate that visitors see, its clock, the path.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::admin::checks::CheckJson;
use crate::link::outside::{self, OutsideError};
use crate::link::path::PathKind;
use crate::link::{Dialer, Link};
use crate::names::Kind;
use crate::times::{Clock, show_duration};
use crate::wire::{Control, Ping, TimeNote};

use super::super::probe::place_of;
use super::super::{Client, random};
use super::{Patient, in_time, opinion};

/// How long the server has to answer over the link.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a handshake over UDP may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Addresses of one server that are worth a look.
const ADDRESSES: usize = 4;
/// Clocks apart by less do no harm.
const SKEW_FINE: u64 = 5_000;
/// Clocks apart by more break certificates and expiry.
const SKEW_BAD: u64 = 300_000;
/// What QUIC starts with; more is found out within seconds where the path takes it.
const MTU_LEAST: u16 = 1200;

impl Client {
    pub(super) async fn network(&self, patient: &Patient) -> Vec<CheckJson> {
        if patient.enrolment.is_none() {
            return Vec::new();
        }
        let (server, dns, udp, outside, clock) = tokio::join!(
            in_time("server", async { vec![self.server(patient).await] }),
            in_time("dns", dns(patient)),
            in_time("udp", async { vec![self.udp(patient).await] }),
            in_time("tcp", outside(patient)),
            in_time("clock", async { Vec::from_iter(self.clock(patient).await) }),
        );
        let path = patient.link.as_ref().and_then(mtu);
        [server, dns, udp, outside, clock, Vec::from_iter(path)].concat()
    }

    /// Whether the server answers over the link.
    async fn server(&self, patient: &Patient) -> CheckJson {
        let standing = &patient.standing;
        let Some(link) = &patient.link else {
            let why = standing.last_error.as_deref().unwrap_or("no link yet");
            let what = format!(
                "there is no link ({}): {why}",
                standing.state.replace('_', " ")
            );
            let fix = match standing.state.as_str() {
                "refused" => "ask the operator, or join again with a new token",
                _ => "look at the checks below; is wormkeyd running on the server?",
            };
            return CheckJson::fail("server", what, fix);
        };
        let heard = self.pong.notified();
        let nonce = random();
        let asked = self.post(Control::Ping(Ping { nonce }));
        let answered = asked.is_ok() && tokio::time::timeout(ANSWER, heard).await.is_ok();
        if answered {
            let rtt = link.rtt().as_secs_f64() * 1000.0;
            let what = format!("{} answers, round trip {rtt:.1} ms", link.peer());
            return CheckJson::ok("server", what);
        }
        CheckJson::fail(
            "server",
            format!("{} does not answer over the link", link.peer()),
            "wait: the client finds another way or makes a new link within seconds; then run the doctor again",
        )
    }

    /// Whether packets reach the server over UDP: the link's own, or a new connection's.
    async fn udp(&self, patient: &Patient) -> CheckJson {
        let path = patient.link.as_ref().map(Link::path);
        if path.as_ref().is_some_and(|path| path.kind == PathKind::Udp) {
            return CheckJson::ok("udp", "the link takes UDP");
        }
        let (address, shaken) = self.handshake(patient).await;
        let fix = format!("let UDP through to {address}: firewalls on the way, and on the server");
        match (shaken, path) {
            (Ok(()), Some(_)) => CheckJson::ok(
                "udp",
                format!(
                    "UDP reaches {address}; the link is in a WebSocket and returns to UDP by itself"
                ),
            ),
            (Ok(()), None) => CheckJson::ok("udp", format!("UDP reaches {address}")),
            (Err(why), Some(_)) => {
                let what = format!("UDP is blocked, the link is in a WebSocket and slower: {why}");
                CheckJson::warn("udp", what, fix)
            }
            (Err(why), None) => {
                CheckJson::fail("udp", format!("UDP does not reach the server: {why}"), fix)
            }
        }
    }

    /// A handshake of which nothing comes: it is dropped once it is done.
    async fn handshake(&self, patient: &Patient) -> (String, Result<(), String>) {
        let Some(enrolment) = &patient.enrolment else {
            return (String::new(), Err("not joined".to_owned()));
        };
        let dialer = match self.identity() {
            Ok(identity) => Dialer::new(&identity, &self.link_settings).map_err(|e| e.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        let mut last = ("the server".to_owned(), Err("it has no address".to_owned()));
        let dialer = match dialer {
            Ok(dialer) => dialer,
            Err(why) => return (last.0, Err(why)),
        };
        for address in enrolment.addresses.iter().take(ADDRESSES) {
            let shaking = dialer.connect(address, &enrolment.pins);
            let shaken = match tokio::time::timeout(HANDSHAKE, shaking).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("{address} does not answer")),
            };
            last = (address.clone(), shaken);
            if last.1.is_ok() {
                break;
            }
        }
        last
    }

    /// How far the clocks are apart, as the server tells over the link.
    async fn clock(&self, patient: &Patient) -> Option<CheckJson> {
        patient.link.as_ref()?;
        let nonce = random();
        let mut told = self.server_time.subscribe();
        let asked = Clock.now();
        self.post(Control::Time(TimeNote { nonce, at: None }))
            .ok()?;
        let answer = told.wait_for(|told| told.is_some_and(|(of, _)| of == nonce));
        // A server that tells no time is an older one, and nothing is wrong with that.
        let (_, there) = (*tokio::time::timeout(ANSWER, answer).await.ok()?.ok()?)?;
        let now = Clock.now();
        let way = now.monotonic.saturating_duration_since(asked.monotonic) / 2;
        let here = asked.wall.plus(way).as_millis();
        Some(skew(here.saturating_sub(there)))
    }
}

/// `ahead` milliseconds of this clock before the server's; negative is behind.
fn skew(ahead: i64) -> CheckJson {
    let apart = ahead.unsigned_abs();
    let word = if ahead < 0 { "behind" } else { "ahead of" };
    let shown = show_duration(Duration::from_millis(apart));
    let what = format!("this machine's clock is {shown} {word} the server's");
    let fix = "turn on time synchronisation on both machines: timedatectl set-ntp true";
    match apart {
        0..=SKEW_FINE => CheckJson::ok("clock", what),
        _ if apart <= SKEW_BAD => CheckJson::warn("clock", what, fix),
        _ => CheckJson::fail("clock", what, fix),
    }
}

/// The largest packets that the way takes; none while that is still being found out.
fn mtu(link: &Link) -> Option<CheckJson> {
    if link.path().kind != PathKind::Udp {
        return None;
    }
    let mtu = link.stats().mtu;
    let what = format!("the path takes packets of {mtu} bytes");
    if mtu > MTU_LEAST || link.stats().sent_packets < 100 {
        return Some(CheckJson::ok("mtu", what));
    }
    Some(CheckJson::warn(
        "mtu",
        format!("{what}, the least that QUIC can do with"),
        "raise the MTU of the VPN or the tunnel that this machine's traffic goes through, if it has one",
    ))
}

/// Host and port of each of the server's addresses.
fn server_places(patient: &Patient) -> Vec<(String, u16)> {
    let addresses = patient.enrolment.iter().flat_map(|e| &e.addresses);
    addresses
        .take(ADDRESSES)
        .filter_map(|address| {
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host.to_owned(), port.parse().ok()?))
        })
        .collect()
}

/// A name that visitors use, or one that only the wildcard answers; and the port of the address.
fn visited(patient: &Patient) -> Option<(String, u16)> {
    let enrolment = patient.enrolment.as_ref()?;
    let open = patient.rows.iter().find_map(|row| {
        let is_visited = row.state.is_live() && row.target.kind() == Kind::Http;
        place_of(row.url.as_deref().filter(|_| is_visited)?)
    });
    open.or_else(|| {
        let port = server_places(patient).first().map_or(443, |place| place.1);
        let label = format!("doctor-{:08x}", random() & 0xffff_ffff);
        Some((format!("{label}.{}", enrolment.domain), port))
    })
}

/// Whether names lead to the server: its own, and those of tunnels.
async fn dns(patient: &Patient) -> Vec<CheckJson> {
    let mut checks = Vec::new();
    let mut server: Vec<IpAddr> = patient.link.iter().map(|link| link.peer().ip()).collect();
    for (host, port) in server_places(patient) {
        match outside::resolve(&host, port).await {
            Ok(found) => {
                if host.parse::<IpAddr>().is_err() {
                    checks.push(CheckJson::ok("dns", format!("{host} is {}", shown(&found))));
                }
                server.extend(found.iter().map(SocketAddr::ip));
            }
            Err(error) => checks.push(unresolved(&error, &host)),
        }
    }
    if let (Some((host, port)), Some(enrolment)) = (visited(patient), &patient.enrolment) {
        let wildcard = format!("*.{}", enrolment.domain);
        checks.push(match outside::resolve(&host, port).await {
            Ok(found) => leads_to(&host, &found, &server, &wildcard),
            Err(error) => unresolved(&error, &wildcard),
        });
    }
    checks
}

/// Whether a tunnel's name leads where the server is.
fn leads_to(host: &str, found: &[SocketAddr], server: &[IpAddr], wildcard: &str) -> CheckJson {
    let is_server = |at: &SocketAddr| {
        let ip = at.ip().to_canonical();
        server.iter().any(|server| server.to_canonical() == ip)
    };
    let what = format!("{host} is {}", shown(found));
    if found.iter().any(is_server) || server.is_empty() {
        return CheckJson::ok("dns", what);
    }
    let server: Vec<String> = server.iter().map(ToString::to_string).collect();
    CheckJson::warn(
        "dns",
        format!("{what}, and the server is {}", server.join(", ")),
        format!(
            "let {wildcard} lead to the server's public address, unless a router or a proxy in front of it has the other one"
        ),
    )
}

fn shown(found: &[SocketAddr]) -> String {
    let found: Vec<String> = found.iter().map(|at| at.ip().to_string()).collect();
    found.join(", ")
}

fn unresolved(error: &OutsideError, name: &str) -> CheckJson {
    match error {
        OutsideError::NoResolver { .. } => CheckJson::warn(
            "dns",
            error.to_string(),
            "check this machine's resolver: resolvectl status, or /etc/resolv.conf",
        ),
        _ => CheckJson::fail(
            "dns",
            error.to_string(),
            format!("add a record for {name} (A, AAAA or CNAME) that leads to the server"),
        ),
    }
}

/// The HTTPS port and its certificate, at the server's own address: a tunnel's name may be wrong yet.
async fn outside(patient: &Patient) -> Vec<CheckJson> {
    let Some((host, port)) = visited(patient) else {
        return Vec::new();
    };
    let mut at: Vec<SocketAddr> = Vec::new();
    for (server, _) in server_places(patient) {
        let found = outside::resolve(&server, port).await;
        at.extend(found.into_iter().flatten());
    }
    let linked = patient.link.iter().map(|link| link.peer().ip());
    at.extend(linked.map(|ip| SocketAddr::new(ip, port)));
    at.dedup();
    let (tcp, at) = match outside::connect(&at).await {
        Ok(connected) => connected,
        Err(error) => return vec![no_tcp(&error, port)],
    };
    let reached = CheckJson::ok("tcp", format!("{at} takes connections"));
    let certificate = match outside::greet(tcp, at, &host).await {
        Ok((_, certificate)) => {
            opinion("certificate", certificate.opinion(&host, Clock.now().wall))
        }
        Err(error) => {
            let why =
                std::error::Error::source(&error).map_or_else(String::new, |e| format!(": {e}"));
            CheckJson::fail(
                "certificate",
                format!("{error}{why}"),
                "check that the port is wormkeyd's own and that nothing in front of it ends TLS",
            )
        }
    };
    vec![reached, certificate]
}

fn no_tcp(error: &OutsideError, port: u16) -> CheckJson {
    let fix = format!("let TCP through to port {port} of the server: visitors come that way");
    let why = std::error::Error::source(error).map_or_else(String::new, |e| format!(": {e}"));
    let what = format!("{error}{why}");
    match error {
        OutsideError::Refused { .. } => CheckJson::fail("tcp", what, fix),
        // It may be a firewall of ours that visitors never meet.
        _ => CheckJson::warn("tcp", what, fix),
    }
}

#[cfg(test)]
mod unit {
    use super::*;
    use crate::admin::checks::CheckState;

    #[test]
    fn clocks_may_be_a_little_apart() {
        for (ahead, state) in [
            (0, CheckState::Ok),
            (-4_900, CheckState::Ok),
            (60_000, CheckState::Warn),
            (-600_000, CheckState::Fail),
            (i64::MIN, CheckState::Fail),
        ] {
            assert_eq!(skew(ahead).state, state, "{ahead}");
        }
        assert!(
            skew(-60_000).what.contains("1m behind"),
            "{:?}",
            skew(-60_000)
        );
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_a_warning_with_the_record_to_mend() {
        let at: SocketAddr = "203.0.113.7:443".parse().unwrap();
        let server: IpAddr = "203.0.113.7".parse().unwrap();
        let other: IpAddr = "198.51.100.1".parse().unwrap();
        let check = leads_to("app.t.example", &[at], &[server], "*.t.example");
        assert_eq!(check.state, CheckState::Ok);
        let check = leads_to("app.t.example", &[at], &[other], "*.t.example");
        assert_eq!(check.state, CheckState::Warn);
        assert!(check.fix.unwrap().contains("*.t.example"));
        let mapped: IpAddr = "::ffff:203.0.113.7".parse().unwrap();
        let check = leads_to("app.t.example", &[at], &[mapped], "*.t.example");
        assert_eq!(
            check.state,
            CheckState::Ok,
            "the same address in another dress"
        );
    }
}
