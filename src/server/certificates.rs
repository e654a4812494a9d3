//! Where visitors' certificates come from, by `[tls]`: made here, read from files that are watched, or got
//! from an authority. And how they do, for the status.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use super::watched::Watched;
use crate::acme::x509::Facts;
use crate::acme::{self, CertificateStatus, challenges::Challenges, plan::Proof};
use crate::admin::certificates::CertificateJson;
use crate::config::{AcmeConfig, AcmeDns, ServerConfig, SingleProof, TlsMode};
use crate::edge::tls::{self, CertStore, TlsError};
use crate::edge::{Edge, ShowProofs};
use crate::names::Hostname;
use crate::tasks::Tasks;
use crate::times::{Clock, WallTime};

use super::visits::Inside;

/// Where visitors' certificates come from at run time.
pub(crate) enum Certificates {
    /// The caller's.
    Own(Arc<dyn ResolvesServerCert>),
    /// Made here.
    Kept(Arc<CertStore>),
    /// The operator's files.
    Files(Watched),
    /// An authority's.
    Acme(acme::Certificates),
}

impl Certificates {
    /// As `[tls]` says; needs the state directory.
    pub(super) fn start(config: &ServerConfig, tasks: &Tasks) -> anyhow::Result<Self> {
        let first = certified_key(config)?;
        Ok(match &config.tls {
            TlsMode::SelfSigned => Self::Kept(CertStore::new(first)),
            TlsMode::Files { cert, key } => {
                Self::Files(Watched::start(cert.clone(), key.clone(), first, tasks))
            }
            TlsMode::Acme(of) => {
                let settings = settings(config, of);
                let started = acme::Certificates::start(settings, first, tasks);
                Self::Acme(started.context("setting up [tls] mode = \"acme\"")?)
            }
        })
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        match self {
            Self::Own(own) => Arc::clone(own),
            Self::Kept(store) => Arc::clone(store) as Arc<dyn ResolvesServerCert>,
            Self::Files(watched) => watched.resolver(),
            Self::Acme(acme) => acme.resolver(),
        }
    }

    /// TLS for the HTTPS listener.
    pub(super) fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let config = tls::server_config(self.resolver())?;
        if !matches!(self, Self::Acme(_)) {
            return Ok(config);
        }
        let mut config = rustls::ServerConfig::clone(&config);
        config.alpn_protocols.push(tls::ALPN_ACME.to_vec());
        Ok(Arc::new(config))
    }

    /// Tells the HTTP listener what to show.
    pub(super) fn show_proofs(&self, edge: &Edge<Inside>) {
        if let Self::Acme(acme) = self {
            edge.show_proofs(Arc::new(Proofs(Arc::clone(acme.challenges()))));
        }
    }

    /// Who gets certificates for own domains; none where nobody does.
    pub(super) fn authority(&self) -> Option<acme::Certificates> {
        match self {
            Self::Acme(acme) => Some(acme.clone()),
            Self::Own(_) | Self::Kept(_) | Self::Files(_) => None,
        }
    }

    /// Why our own name server cannot be asked.
    pub(super) fn dns_trouble(&self) -> Option<String> {
        match self {
            Self::Acme(acme) => acme.dns_trouble(),
            Self::Own(_) | Self::Kept(_) | Self::Files(_) => None,
        }
    }

    /// Where our own name server listens.
    pub(super) fn dns_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Acme(acme) => acme.dns_addr(),
            Self::Own(_) | Self::Kept(_) | Self::Files(_) => None,
        }
    }

    /// How they do.
    pub(super) fn status(&self) -> Vec<CertificateJson> {
        let now = Clock.now().wall;
        match self {
            Self::Own(_) => Vec::new(),
            Self::Kept(store) => vec![self_signed(&store.shown())],
            Self::Files(watched) => vec![watched.status(now)],
            Self::Acme(acme) => acme.status().iter().map(|one| of_acme(one, now)).collect(),
        }
    }
}

struct Proofs(Arc<Challenges>);

impl ShowProofs for Proofs {
    fn text(&self, host: &Hostname, path: &str) -> Option<String> {
        self.0.text(host, path)
    }
}

/// The certificate to begin with; with ACME the one that is served until there is another.
pub(crate) fn certified_key(config: &ServerConfig) -> anyhow::Result<Arc<CertifiedKey>> {
    match &config.tls {
        TlsMode::SelfSigned | TlsMode::Acme(_) => {
            tls::self_signed(&config.state_dir.join("server.tls"), &config.domain)
                .context("making the self-signed certificate")
        }
        TlsMode::Files { cert, key } => {
            tls::from_files(cert, key).context("reading [tls] cert and key")
        }
    }
}

/// Reads the files that `[tls]` and `[acme]` name, and makes none: a security setting that cannot be applied is a
/// bad configuration.
pub(crate) fn readable(config: &ServerConfig) -> anyhow::Result<()> {
    match &config.tls {
        TlsMode::SelfSigned => Ok(()),
        TlsMode::Files { .. } => certified_key(config).map(drop),
        TlsMode::Acme(of) => acme::look(&settings(config, of)).context("reading what [acme] names"),
    }
}

fn settings(config: &ServerConfig, of: &AcmeConfig) -> acme::Settings {
    acme::Settings {
        domain: config.domain.clone(),
        state_dir: config.state_dir.clone(),
        cas: of.cas.clone(),
        root: of.root.clone(),
        email: of.email.clone(),
        names: of.names.clone(),
        proofs: (of.proofs.iter())
            .map(|proof| match proof {
                SingleProof::TlsAlpn => Proof::TlsAlpn,
                SingleProof::Http => Proof::Http,
            })
            .collect(),
        dns: of.dns.clone().map(|dns| match dns {
            AcmeDns::Hook { path, wait } => acme::DnsSettings::Hook { path, wait },
            AcmeDns::Update {
                server,
                zone,
                key,
                wait,
            } => acme::DnsSettings::Update {
                server,
                zone,
                key,
                wait,
            },
            AcmeDns::Responder { listen, zone } => acme::DnsSettings::Responder { listen, zone },
        }),
    }
}

/// What a certificate says of itself.
pub(super) fn facts(key: &CertifiedKey) -> Option<Facts> {
    Facts::read(key.end_entity_cert().ok()?)
}

fn self_signed(key: &CertifiedKey) -> CertificateJson {
    let facts = facts(key);
    let life = facts.as_ref().map(|facts| facts.life);
    CertificateJson {
        names: facts.map(|facts| facts.names).unwrap_or_default(),
        source: "self-signed".to_owned(),
        not_before: life.map(|life| life.from),
        not_after: life.map(|life| life.until),
        renews_at: None,
        next_try: None,
        last_error: None,
        ca: None,
        says: "made here, so browsers warn; made anew at a start once little of it is left"
            .to_owned(),
    }
}

fn of_acme(one: &CertificateStatus, now: WallTime) -> CertificateJson {
    CertificateJson {
        names: one.names.clone(),
        source: "acme".to_owned(),
        not_before: one.life.map(|life| life.from),
        not_after: one.life.map(|life| life.until),
        renews_at: one.renews_at,
        next_try: one.next_try,
        last_error: one.last_error.clone(),
        ca: Some(one.ca.clone()),
        says: sentence(one, now),
    }
}

/// What is served, and what will happen.
fn sentence(one: &CertificateStatus, now: WallTime) -> String {
    let served = match one.life {
        None => "a self-signed one is served until this one is there".to_owned(),
        Some(life) if life.is_over(now) => {
            format!("expired at {}, and served for want of another", life.until)
        }
        Some(life) => format!("served until {}", life.until),
    };
    let next = match (one.is_trying, one.renews_at, one.next_try) {
        (true, ..) => "an order is running".to_owned(),
        (false, Some(at), _) => format!("renewed at {at}"),
        (false, None, Some(at)) => format!("the next try is at {at}"),
        (false, None, None) => "nothing is due".to_owned(),
    };
    format!("{served}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::plan::Life;

    #[test]
    fn the_status_says_what_is_served_and_what_will_happen() {
        let at = WallTime::from_millis;
        let mut one = CertificateStatus {
            names: vec!["*.t.example".to_owned()],
            life: None,
            renews_at: None,
            next_try: Some(at(5_000)),
            ca: "https://ca.example/dir".to_owned(),
            last_error: None,
            is_trying: false,
        };
        let says = |one: &CertificateStatus, now| sentence(one, at(now));
        assert_eq!(
            says(&one, 0),
            "a self-signed one is served until this one is there; the next try is at 1970-01-01T00:00:05.000Z"
        );
        one.life = Some(Life {
            from: at(0),
            until: at(90_000),
        });
        (one.renews_at, one.next_try) = (Some(at(60_000)), None);
        assert_eq!(
            says(&one, 1000),
            "served until 1970-01-01T00:01:30.000Z; renewed at 1970-01-01T00:01:00.000Z"
        );
        one.is_trying = true;
        assert_eq!(
            says(&one, 91_000),
            "expired at 1970-01-01T00:01:30.000Z, and served for want of another; an order is running"
        );
    }
}
