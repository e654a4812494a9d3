//! Visitors' certificates by ACME (RFC 8555): gets them, proves names for them, renews them while the old
//! ones are served. Not the listeners that show them, and no decision about whose a name is: who asks for
//! one has made sure.
//!
//! ```text
//! keeper (what is due, by plan) ─▶ issue (one order) ─▶ dns | challenges ◀─ the CA looks
//!    └─▶ folder (state directory)     └─▶ http (to the CA)
//! resolver ◀─ every handshake
//! ```
//!
//! A failure never ends anything: what was served is served on, and the status says why and until when.

pub mod challenges;
mod dns;
mod folder;
mod http;
mod issue;
mod keeper;
pub mod plan;
mod resolver;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod x509;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;

use self::challenges::Challenges;
use self::dns::ear::Ear;
use self::dns::update::Updater;
use self::dns::{Dns, Name, responder};
use self::folder::Folder;
pub use self::folder::{FolderError, PairError};
use self::issue::{CertName, Issuer};
use self::keeper::Keeper;
pub use self::keeper::{Asked, CertificateStatus};
use self::plan::Proof;
use self::resolver::Resolver;
use crate::names::Hostname;
use crate::tasks::Tasks;

/// What the operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Tunnels answer below it.
    pub domain: Hostname,
    /// `acme/` is made in it.
    pub state_dir: PathBuf,
    /// Directories of CAs, in the order in which they are asked; at least one.
    pub cas: Vec<String>,
    /// Certificates to know the CAs by, instead of the system's.
    pub root: Option<PathBuf>,
    /// Where a CA may write to.
    pub email: Option<String>,
    /// Single names that get certificates of their own.
    pub names: Vec<Hostname>,
    /// How single names are proven, in order: never [`Proof::Dns`].
    pub proofs: Vec<Proof>,
    /// How the wildcard is proven; none = there is no wildcard.
    pub dns: Option<DnsSettings>,
}

/// How TXT records are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsSettings {
    /// By a program.
    Hook {
        /// Which.
        path: PathBuf,
        /// How long others take to learn of a record.
        wait: Duration,
    },
    /// By signed updates (RFC 2136).
    Update {
        /// The zone's primary, `host:port`.
        server: String,
        /// The zone; none = the domain.
        zone: Option<String>,
        /// The file of the key.
        key: PathBuf,
        /// How long others take to learn of a record.
        wait: Duration,
    },
    /// By a name server of ours.
    Responder {
        /// Where it listens, UDP and TCP.
        listen: SocketAddr,
        /// The zone it answers for; none = `_acme-challenge.` and the domain.
        zone: Option<String>,
    },
}

/// Reads what a set-up names and needs only later: the roots of a CA, and the key of signed updates. For a look
/// before it is put in force; whatever is wrong would otherwise be told when a certificate is due.
pub fn look(settings: &Settings) -> Result<(), LookError> {
    let look = || -> Result<(), Unusable> {
        // The system's own roots may come later, and are no setting.
        if settings.root.is_some() {
            http::client_config(settings.root.as_deref())?;
        }
        if let Some(DnsSettings::Update { key, .. }) = &settings.dns {
            dns::tsig::Key::load(key)?;
        }
        Ok(())
    };
    look().map_err(LookError)
}

/// Why a set-up cannot work.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LookError(Unusable);

#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Root(#[from] http::HttpError),
    #[error("acme.dns.key")]
    Key(#[from] dns::tsig::KeyError),
}

/// Whether a text can be a zone's name.
pub fn is_zone(text: &str) -> bool {
    Name::parse(text).is_some()
}

/// Why it cannot be set up at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    Folder(FolderError),
    /// A zone that is no name.
    #[error("{zone:?} is no name of a zone (acme.dns.zone)")]
    Zone {
        /// As written.
        zone: String,
    },
}

/// The certificates in care. Clones share everything.
#[derive(Clone)]
pub struct Certificates {
    keeper: Arc<Keeper>,
    challenges: Arc<Challenges>,
    /// Of our own name server, when there is to be one.
    ear: Option<Ear>,
}

impl Certificates {
    /// Starts keeping: what is on disk is served at once, the rest is asked for. Until the first
    /// certificate is there, `until_then` is served.
    pub fn start(
        settings: Settings,
        until_then: Arc<CertifiedKey>,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let challenges = Challenges::new();
        let resolver = Resolver::new(Arc::clone(&challenges), until_then);
        let dns_wait = match &settings.dns {
            Some(DnsSettings::Hook { wait, .. } | DnsSettings::Update { wait, .. }) => *wait,
            Some(DnsSettings::Responder { .. }) | None => Duration::ZERO,
        };
        let dns = match settings.dns {
            None => None,
            Some(of) => Some(dns(of, &settings.domain, &challenges, tasks)?),
        };
        let ear = match &dns {
            Some(Dns::Responder(ear)) => Some(ear.clone()),
            _ => None,
        };
        let has_dns = dns.is_some();
        let issuer = Issuer {
            cas: settings.cas,
            root: settings.root,
            email: settings.email,
            folder: Folder::open(&settings.state_dir)?,
            challenges: Arc::clone(&challenges),
            dns,
            dns_wait: dns_wait.min(Dns::WAIT_MAX),
            stop: tasks.stopped(),
        };
        let domain = settings.domain;
        let keeper = Keeper::new(
            Arc::new(issuer),
            resolver,
            domain.clone(),
            settings.proofs.clone(),
        );
        let name = |host: &Hostname, is_wildcard| CertName {
            host: host.clone(),
            is_wildcard,
        };
        if has_dns {
            let names = vec![name(&domain, true), name(&domain, false)];
            keeper.add(names, vec![Proof::Dns], false);
        } else {
            keeper.add(vec![name(&domain, false)], settings.proofs.clone(), false);
        }
        for host in settings.names.iter().filter(|host| **host != domain) {
            keeper.add(vec![name(host, false)], settings.proofs.clone(), false);
        }
        if !has_dns {
            // Visitors of all other tunnels are warned by their browsers.
            tracing::warn!(
                "there is no acme.dns, so no wildcard: only the domain and acme.names get certificates"
            );
        }
        if keeper.status().iter().any(|one| one.life.is_none()) {
            tracing::info!("a self-signed certificate is served until the first one is there");
        }
        let keeper = Arc::new(keeper);
        tasks.spawn_critical("acme", Arc::clone(&keeper).keep(tasks.clone()));
        if let Some(ear) = ear.clone().filter(|ear| ear.stand().is_err()) {
            let of = Arc::clone(&keeper);
            let trying = ear.keep_trying(tasks.clone(), move || of.hurry());
            tasks.spawn("acme-dns-bind", trying);
        }
        Ok(Self {
            keeper,
            challenges,
            ear,
        })
    }

    /// What handshakes ask; also answers a CA's (TLS-ALPN-01), for a listener that offers
    /// [`challenges::ALPN`].
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.keeper.resolver()
    }

    /// What the HTTP listener shows a CA.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// A certificate for a name of somebody's own. To be called only for names whose owner is proven;
    /// calling again tells how it does. Bounded in number, and each name has its own waits.
    pub fn ask(&self, name: &Hostname) -> Asked {
        self.keeper.ask(name)
    }

    /// Whether there is one for a name on disk, from before: asking for it costs the CA nothing.
    pub fn is_kept(&self, name: &Hostname) -> bool {
        self.keeper.is_kept(name)
    }

    /// A name that was asked for is not to be served or renewed any more.
    pub fn forget(&self, name: &Hostname) {
        self.keeper.forget(name);
    }

    /// Tries at once what failed, except where a CA asked for a wait.
    pub fn hurry(&self) {
        self.keeper.hurry();
    }

    /// How every certificate does. While our own name server cannot be asked, that is what is wrong with those
    /// that hang on it, however long they are good.
    pub fn status(&self) -> Vec<CertificateStatus> {
        let mut all = self.keeper.status();
        if let Some(trouble) = self.dns_trouble() {
            // Only wildcards are proven by DNS.
            let by_dns = |one: &&mut CertificateStatus| {
                one.names.first().is_some_and(|name| name.starts_with("*."))
            };
            for one in all.iter_mut().filter(by_dns) {
                one.last_error = Some(trouble.clone());
            }
        }
        all
    }

    /// Where our own name server listens, when there is one and it does.
    pub fn dns_addr(&self) -> Option<SocketAddr> {
        self.ear.as_ref().and_then(|ear| ear.stand().ok())
    }

    /// Why our own name server cannot be asked; none when it can, or when there is to be none.
    pub fn dns_trouble(&self) -> Option<String> {
        let deaf = self.ear.as_ref()?.stand().err()?;
        Some(deaf.to_string())
    }
}

fn dns(
    settings: DnsSettings,
    domain: &Hostname,
    challenges: &Arc<Challenges>,
    tasks: &Tasks,
) -> Result<Dns, StartError> {
    let named = |zone: Option<String>, default: Name| match zone {
        None => Ok(default),
        Some(zone) => Name::parse(&zone).ok_or(StartError::Zone { zone }),
    };
    Ok(match settings {
        DnsSettings::Hook { path, .. } => Dns::Hook(path),
        DnsSettings::Update {
            server, zone, key, ..
        } => Dns::Update(Box::new(Updater {
            server,
            zone: named(zone, Name::new(&[], Some(domain)))?,
            key,
        })),
        DnsSettings::Responder { listen, zone } => {
            let zone = responder::Zone {
                top: named(zone, Name::new(&[dns::LABEL], Some(domain)))?,
                server: Name::new(&[], Some(domain)),
            };
            Dns::Responder(Ear::open(listen, zone, Arc::clone(challenges), tasks))
        }
    })
}
