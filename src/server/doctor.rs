//! `wormkeyctl server doctor`: what visitors and links need on this side. Changes nothing; asks only
//! itself and the resolver.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::admin::certificates::CertificateJson;
use crate::admin::checks::{CheckJson, DoctorJson};
use crate::link::buffers;
use crate::link::outside::{self, Answer, Opinion, OutsideError};
use crate::names::Hostname;
use crate::times::Clock;

/// The longest of all looks.
const WITHIN: Duration = Duration::from_secs(25);

/// Looks at everything: `https` is where the edge listens.
pub(super) async fn doctor(domain: &Hostname, https: SocketAddr) -> DoctorJson {
    let mut drawn = [0; 4];
    // Failing here only makes the name less fresh to resolvers.
    let _ = aws_lc_rs::rand::fill(&mut drawn);
    // A name that only the wildcard answers, and no tunnel has.
    let host = format!("doctor-{:08x}.{domain}", u32::from_be_bytes(drawn));
    let looks = async {
        tokio::join!(
            certificate(&host, https),
            from_outside(&host, domain, https)
        )
    };
    let mut checks = match tokio::time::timeout(WITHIN, looks).await {
        Ok((certificate, outside)) => [certificate, outside].concat(),
        Err(_) => vec![CheckJson::warn(
            "dns",
            format!("not known after {} s", WITHIN.as_secs()),
            "run the doctor again",
        )],
    };
    checks.push(socket_buffers());
    DoctorJson { checks }
}

/// What visitors are shown, asked for at our own listener.
async fn certificate(host: &str, https: SocketAddr) -> Vec<CheckJson> {
    let ip = match https {
        SocketAddr::V4(at) if at.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(at) if at.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        at => at.ip(),
    };
    let seen = async {
        let (tcp, at) = outside::connect(&[SocketAddr::new(ip, https.port())]).await?;
        outside::greet(tcp, at, host).await
    };
    match seen.await {
        Ok((_, certificate)) => vec![opinion(
            "certificate",
            certificate.opinion(host, Clock.now().wall),
        )],
        Err(error) => vec![CheckJson::fail(
            "certificate",
            whole(&error),
            "look at the server's log; too many connections may be one reason",
        )],
    }
}

/// What stands in the way of the next certificates.
pub(super) fn renewals(all: &[CertificateJson]) -> Vec<CheckJson> {
    let failed = all.iter().filter_map(|one| {
        let error = one.last_error.as_ref()?;
        let what = format!("{}: {error}; {}", one.names.join(", "), one.says);
        let fix = "mend what it names; it is tried again by itself, and at once after wormkeyctl server reload";
        Some(CheckJson::warn("certificate", what, fix))
    });
    failed.collect()
}

/// Whether the wildcard leads here, as visitors and clients would find it.
async fn from_outside(host: &str, domain: &Hostname, https: SocketAddr) -> Vec<CheckJson> {
    let wildcard = format!("*.{domain}");
    let found = match outside::resolve(host, https.port()).await {
        Ok(found) => found,
        Err(error @ OutsideError::NoResolver { .. }) => {
            return vec![CheckJson::warn(
                "dns",
                error.to_string(),
                "check this machine's resolver: resolvectl status, or /etc/resolv.conf",
            )];
        }
        Err(_) => {
            return vec![CheckJson::fail(
                "dns",
                format!("{wildcard} has no address, so nobody finds tunnels"),
                format!("add a record for {wildcard} (A, AAAA or CNAME) that leads to this server"),
            )];
        }
    };
    let shown: Vec<String> = found.iter().map(|at| at.ip().to_string()).collect();
    let dns = CheckJson::ok("dns", format!("{wildcard} is {}", shown.join(", ")));
    let public = public(outside::visit(host, &found, "/").await, &wildcard);
    vec![dns, public]
}

fn public(outcome: Result<Answer, OutsideError>, wildcard: &str) -> CheckJson {
    match outcome {
        // Ours alone says so of a name that no tunnel has.
        Ok(answer)
            if answer
                .fields
                .get("wormkey-error")
                .is_some_and(|c| c == "no_such_tunnel") =>
        {
            CheckJson::ok("tcp", format!("the server answers at {}", answer.at))
        }
        Ok(answer) => CheckJson::warn(
            "tcp",
            format!(
                "{} answers {}, and is not this server",
                answer.at,
                answer.status.as_u16()
            ),
            format!(
                "let {wildcard} lead to this server, unless its router answers to the inside there"
            ),
        ),
        Err(error) => CheckJson::warn(
            "tcp",
            format!("could not check from here: {}", whole(&error)),
            "try from another network; if it fails there, open the HTTPS port in firewalls and on the router",
        ),
    }
}

fn socket_buffers() -> CheckJson {
    match buffers() {
        Ok(buffers) => opinion("socket_buffers", buffers.opinion()),
        Err(err) => CheckJson::fail(
            "socket_buffers",
            format!("no UDP socket can be opened: {err}"),
            "look at the limits of the daemon: ulimit -n, or LimitNOFILE in its unit",
        ),
    }
}

fn opinion(name: &str, opinion: Opinion) -> CheckJson {
    match opinion {
        Opinion::Well(what) => CheckJson::ok(name, what),
        Opinion::Poor(what, fix) => CheckJson::warn(name, what, fix),
        Opinion::Bad(what, fix) => CheckJson::fail(name, what, fix),
    }
}

/// An error with its cause.
fn whole(error: &OutsideError) -> String {
    let why = std::error::Error::source(error).map_or_else(String::new, |e| format!(": {e}"));
    format!("{error}{why}")
}
