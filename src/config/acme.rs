//! `[acme]`: which CAs, which names, and how they are proven. Not who asks them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::file::Node;
use super::section::{Fix, Section};
use super::values::{address, duration, host_port, path, text, word};
use crate::names::Hostname;

/// Let's Encrypt.
const DEFAULT_CA: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// CAs refuse more names in an account's week, and a longer list belongs to a wildcard.
const NAMES_MAX: usize = 100;
const CAS_MAX: usize = 8;

/// `[acme]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Directories of CAs, in order; never empty.
    pub cas: Vec<String>,
    /// Certificates to know the CAs by, instead of the system's.
    pub root: Option<PathBuf>,
    /// Where a CA may write to.
    pub email: Option<String>,
    /// Single names with certificates of their own.
    pub names: Vec<Hostname>,
    /// How they are proven, in order; never empty.
    pub proofs: Vec<SingleProof>,
    /// How the wildcard is proven; none = there is none.
    pub dns: Option<AcmeDns>,
}

/// How a single name is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SingleProof {
    /// On the HTTPS port.
    TlsAlpn,
    /// On the HTTP port.
    Http,
}

/// `acme.dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcmeDns {
    /// A program.
    Hook {
        /// Which.
        path: PathBuf,
        /// From the record to the CA's look.
        wait: Duration,
    },
    /// Signed updates (RFC 2136).
    Update {
        /// The zone's primary, `host:port`.
        server: String,
        /// The zone; none = the domain.
        zone: Option<String>,
        /// The file of the key.
        key: PathBuf,
        /// From the record to the CA's look.
        wait: Duration,
    },
    /// A name server of ours.
    Responder {
        /// Where it listens.
        listen: SocketAddr,
        /// Its zone; none = `_acme-challenge.` and the domain.
        zone: Option<String>,
    },
}

/// Reads `[acme]`; `is_on`: `[tls]` asks for it. `has_http`: there is a listener for HTTP-01.
pub(super) fn acme(
    mut section: Section<'_>,
    is_on: bool,
    domain: Option<&Hostname>,
    has_http: bool,
) -> AcmeConfig {
    let cas = section.list("ca", &format!("\"{DEFAULT_CA}\""), ca);
    if cas.as_ref().is_some_and(Vec::is_empty) {
        section.object("ca", "is empty; leave it out for Let's Encrypt");
    }
    if cas.as_ref().is_some_and(|cas| cas.len() > CAS_MAX) {
        section.object(
            "ca",
            format!("has more than {CAS_MAX} authorities; write fewer"),
        );
    }
    let root = section.get("root", path);
    let email = section.get("email", email);
    let names = section.list("names", "\"blog.tunnel.example.com\"", name);
    if names.as_ref().is_some_and(|names| names.len() > NAMES_MAX) {
        let what = format!("has more than {NAMES_MAX} names; use a wildcard (acme.dns)");
        section.object("names", what);
    }
    let words = [
        ("tls-alpn-01", SingleProof::TlsAlpn),
        ("http-01", SingleProof::Http),
    ];
    let proofs = section.list("proofs", "\"tls-alpn-01\", \"http-01\"", word(&words));
    if proofs.as_ref().is_some_and(Vec::is_empty) {
        section.object("proofs", "is empty; leave it out for both");
    }
    if is_on && !has_http && proofs.as_deref() == Some(&[SingleProof::Http]) {
        section.object("proofs", "needs listen.http, which is \"off\"");
    }
    let mut proofs = proofs.unwrap_or_else(|| vec![SingleProof::TlsAlpn, SingleProof::Http]);
    // Nobody would answer there.
    proofs.retain(|proof| has_http || *proof != SingleProof::Http);
    let below = section.below("dns", "acme.dns");
    let dns = dns(below, domain);
    if !is_on {
        for key in ["root", "email", "names", "proofs", "ca"] {
            let is_default = match key {
                "ca" => cas.as_deref() == Some(&[DEFAULT_CA.to_owned()]),
                "proofs" => proofs == [SingleProof::TlsAlpn, SingleProof::Http],
                "names" => names.as_ref().is_some_and(Vec::is_empty),
                _ => false,
            };
            if section.has(key) && !is_default {
                section.object(key, "would not be used; write mode = \"acme\" in [tls]");
            }
        }
        if dns.is_some() {
            section.object("dns", "would not be used; write mode = \"acme\" in [tls]");
        }
    }
    section.finish();
    AcmeConfig {
        cas: cas.unwrap_or_else(|| vec![DEFAULT_CA.to_owned()]),
        root,
        email,
        names: names.unwrap_or_default(),
        proofs,
        dns,
    }
}

fn dns(mut section: Section<'_>, domain: Option<&Hostname>) -> Option<AcmeDns> {
    let hook = section.get("hook", path);
    let update = section.get("update", host_port(53));
    let key = section.get("key", path);
    let listen = section.get("listen", address(53));
    let zone = section.get("zone", zone);
    let no_wait = "would ask the CA to look before others know the record; write \"1s\" or more";
    let wait = section.get("wait", duration(no_wait));
    let wait = wait.unwrap_or(Duration::from_secs(5));
    if wait > Duration::from_secs(600) {
        section.object("wait", "is too long; write \"10m\" or less");
    }
    let ways = ["hook", "update", "listen"];
    let written: Vec<&str> = ways.into_iter().filter(|way| section.has(way)).collect();
    if written.len() > 1 {
        section.object(
            "hook",
            format!(
                "{} are different ways; write one of them",
                written.join(", ")
            ),
        );
    }
    if section.has("update") && !section.has("key") {
        section.object(
            "key",
            "is missing; update needs key = \"/path/to.key\", as tsig-keygen writes it",
        );
    }
    if section.has("key") && !section.has("update") {
        section.object(
            "key",
            "would not be used; write update = \"ns1.example.com:53\" beside it",
        );
    }
    let in_zone = |zone: &String, name: &str| name == zone || name.ends_with(&format!(".{zone}"));
    if let (Some(zone), Some(domain), true) = (&zone, domain, section.has("update")) {
        let name = format!("_acme-challenge.{domain}");
        if !in_zone(zone, &name) {
            section.object(
                "zone",
                format!("does not hold {name}; write the zone that does"),
            );
        }
    }
    section.finish();
    match (hook, update.zip(key), listen) {
        (Some(path), ..) => Some(AcmeDns::Hook { path, wait }),
        (_, Some((server, key)), _) => Some(AcmeDns::Update {
            server,
            zone,
            key,
            wait,
        }),
        (.., Some(listen)) => Some(AcmeDns::Responder { listen, zone }),
        _ => None,
    }
}

/// The directory of a CA.
fn ca(node: &Node) -> Result<String, Fix> {
    let text = text(node)?;
    let uri = text.parse::<http::Uri>().ok();
    let good = uri.is_some_and(|uri| {
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        uri.scheme_str() == Some("https") && has_host
    });
    if good {
        Ok(text)
    } else {
        Err(format!(
            "{text:?} is no address of a CA's directory; write it like \"{DEFAULT_CA}\""
        ))
    }
}

fn email(node: &Node) -> Result<String, Fix> {
    let text = text(node)?;
    let bare = text.strip_prefix("mailto:").unwrap_or(&text);
    let good = bare.split_once('@').is_some_and(|(user, host)| {
        let plain = |c: char| c.is_ascii_graphic() && !"?,<>".contains(c);
        !user.is_empty() && user.chars().all(plain) && Hostname::parse(host).is_ok()
    });
    if good {
        Ok(bare.to_owned())
    } else {
        Err(format!("{text:?} is no address; write \"you@example.com\""))
    }
}

fn name(node: &Node) -> Result<Hostname, Fix> {
    let text = text(node)?;
    if text.starts_with("*.") {
        return Err(format!(
            "{text:?} is a wildcard; only the domain has one, by acme.dns"
        ));
    }
    Hostname::parse(&text).map_err(|err| format!("{text:?} is no host name ({err})"))
}

/// A zone: labels may begin with `_`.
fn zone(node: &Node) -> Result<String, Fix> {
    let text = text(node)?;
    let bare = text.trim_end_matches('.').to_ascii_lowercase();
    let plain: Vec<&str> = bare
        .split('.')
        .map(|label| label.trim_start_matches('_'))
        .collect();
    if Hostname::parse(&plain.join(".")).is_ok() && bare.len() <= 253 {
        Ok(bare)
    } else {
        Err(format!(
            "{text:?} is no zone; write it like \"example.com\""
        ))
    }
}
