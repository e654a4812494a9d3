//! The server role: binds, wires the adapters to the engine, supervises, drains. Decides nothing about
//! visits or tunnels itself.

mod audit;
mod backend;
mod bind;
mod certificates;
mod control;
mod desk;
mod doctor;
mod domains;
mod http3;
mod keys;
mod links;
mod metrics;
mod pace;
mod passwords;
mod policy;
mod ports;
mod prune;
mod restore;
mod silence;
mod slugs;
#[cfg(test)]
mod tests;
mod together;
mod visits;
mod vital;
mod watched;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::server::ResolvesServerCert;
use tokio::net::TcpListener;
use tracing::info;

use crate::admin::LogOverride;
use crate::codes::Code;
use crate::config::{AccessLines, ServerConfig};
use crate::edge::{AccessMode, Edge, EdgeSettings, Front, Site};
use crate::engine::domains::DomainSettings;
use crate::engine::limits::LimitSettings;
use crate::engine::{DormantCaps, Engine, EngineSettings, Event};
use crate::link::{Identity, Listener};
use crate::store::{ServerStore, StateLock};
use crate::supervise::{Drains, Inherited, Patience, SERVER_GRACE, SOFTWARE, prepare_state_dir};
use crate::tasks::Tasks;
use crate::times::Clock;
use crate::wire::{Control, GoAway};

pub(crate) use certificates::{Certificates, certified_key, readable};
use desk::Desk;
use domains::Own;
pub(crate) use keys::rotate;
pub(crate) use restore::restore;
use visits::Inside;

/// Returning clients spread themselves over this long after an orderly restart.
const GOAWAY_SPREAD: Duration = Duration::from_secs(2);

/// For an end that somebody asked for.
const IN_ORDER: Patience = Patience {
    links: Duration::from_secs(2),
    tasks: Duration::from_secs(5),
    store: Duration::from_secs(30),
};

/// A server that runs: bound, its store open, ready for visits.
pub struct Server {
    /// What it answers to at the admin socket; also the way in for `wormkeyd dev`.
    pub backend: Arc<backend::Backend>,
    edge: Edge<Inside>,
    desk: Desk,
    listener: Arc<Listener>,
    store: ServerStore,
    tasks: Tasks,
    https: SocketAddr,
    drains: Drains,
    _lock: StateLock,
}

/// What a caller may bring of its own.
#[derive(Default)]
pub struct Options {
    /// Certificates for visitors, instead of `[tls]`.
    pub certificates: Option<Arc<dyn ResolvesServerCert>>,
    /// The file the configuration came from, for reloads.
    pub config_path: Option<PathBuf>,
    /// Sockets that systemd hands over.
    pub(crate) inherited: Inherited,
}

impl Server {
    /// Binds every socket, opens the store, starts the tasks. Once it returns, visits are answered.
    pub async fn start(config: ServerConfig, options: Options) -> anyhow::Result<Self> {
        prepare_state_dir(&config.state_dir)?;
        let lock = StateLock::acquire(&config.state_dir, "server")?;
        let (identity, store, snapshot) = open_state(&config.state_dir)?;

        let sockets = bind::sockets(&config, &identity, options.inherited)?;
        let (https, http, plain) = (sockets.https, sockets.http, sockets.plain);
        let listener = Arc::new(sockets.links);
        let addr = https.local_addr().context("reading the https address")?;
        let of = |found: &Option<TcpListener>| found.as_ref().and_then(|l| l.local_addr().ok());
        let (http_addr, plain_addr) = (of(&http), of(&plain));

        let now = Clock.now();
        let engine = Engine::new(engine_settings(&config, addr.port()), snapshot, now);
        let boot = u64::try_from(now.wall.as_millis()).unwrap_or(0);
        let ports = ports::Ports::new(addr.ip());
        let root = keys::root(&config.state_dir, &identity)?;
        let share_key = root.derive("share links");
        let own = Own::new(&root.derive("domain proofs"));
        let desk = Desk::new(engine, store.clone(), boot, ports.clone(), share_key, own);
        desk.settle();
        let tasks = Tasks::new();
        tasks.spawn_critical("store", watch_store(store.clone(), tasks.stopped()));
        tasks.spawn_critical("engine", desk.clone().drive(tasks.stopped()));

        let certificates = match options.certificates {
            Some(own) => Certificates::Own(own),
            None => Certificates::start(&config, &tasks)?,
        };
        let edge = Edge::new(
            edge_settings(&config, addr.port()),
            Inside::new(desk.clone(), Arc::clone(&listener)),
            tasks.clone(),
        );
        tasks.spawn_critical("ports", ports.serve(edge.clone(), tasks.stopped()));
        certificates.show_proofs(&edge);
        edge.serve_https(https, certificates.server_config()?);
        if config.http3 {
            let (crypto, transport) = crate::edge::h3::quic(certificates.resolver())?;
            let knocking = listener.open_to_visitors(crypto, transport);
            let serving = http3::serve(knocking, edge.clone(), desk.clone(), tasks.clone());
            tasks.spawn_critical("edge-quic", serving);
        }
        if let Some(http) = http {
            edge.serve_http(http);
        }
        if let Some(plain) = plain {
            edge.serve_plain(plain);
        }

        let pins = keys::Pins::read(&config.state_dir, identity.pin())?;
        pins.answer(&listener);
        let greeting = links::Greeting {
            domain: config.domain.to_string(),
            pins: pins.clone(),
            keep_alive: config.link.keep_alive,
        };
        tasks.spawn_critical(
            "links",
            links::accept(Arc::clone(&listener), desk.clone(), greeting, tasks.clone()),
        );

        let socket =
            crate::admin::socket::bind(&config.admin.socket, 0o660, config.admin.group.as_deref())?;
        let authority = certificates.authority();
        tasks.spawn_critical(
            "domains",
            domains::serve(
                desk.clone(),
                authority,
                config.domains.clone(),
                tasks.clone(),
            ),
        );
        let drains = Drains::new();
        let backend = Arc::new(backend::Backend::new(backend::Parts {
            desk: desk.clone(),
            store: store.clone(),
            edge: edge.clone(),
            certificates,
            pin: identity.pin(),
            pins,
            listener: Arc::clone(&listener),
            listen: listen_names(addr, http_addr, plain_addr),
            started_at: now.wall,
            config_path: options.config_path,
            https: addr,
            config: config.clone(),
            drains: drains.clone(),
            log_override: LogOverride::new(tasks.clone()),
        }));
        tasks.spawn_critical(
            "admin",
            crate::admin::serve_server(socket, Arc::clone(&backend), tasks.clone()),
        );
        crate::admin::scrapers(config.metrics.listen, &backend, &tasks)
            .await
            .context("listening for scrapers (metrics.listen)")?;
        let pruner = prune::prune(store.clone(), Arc::clone(&backend), tasks.stopped());
        tasks.spawn("prune", pruner);
        info!(domain = %config.domain, https = %addr, socket = %config.admin.socket.display(), "server ready");
        Ok(Self {
            backend,
            edge,
            desk,
            listener,
            store,
            tasks,
            https: addr,
            drains,
            _lock: lock,
        })
    }

    /// The address visitors and links come to.
    pub const fn https_addr(&self) -> SocketAddr {
        self.https
    }

    /// Fires when a part without which the server is no use has ended.
    pub fn failed(&self) -> tokio_util::sync::CancellationToken {
        self.tasks.stopped()
    }

    /// Takes nothing new, lets the rest finish within the grace, tells clients to come back. Whether all
    /// finished.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.backend.set_draining();
        // What was asked before it is still let in; nothing comes after that.
        self.edge.take_last_questions().await;
        self.desk.handle(Event::Drain);
        // A client that came back to us would take its tunnels over from its own old link, and cut the
        // visits that the drain is for.
        self.listener.shut();
        let spread_ms = u64::try_from(GOAWAY_SPREAD.as_millis()).unwrap_or(0);
        let message = GoAway {
            after_ms: 500,
            spread_ms,
            code: Code::Draining.row().wire,
        };
        self.desk.tell_all(&Control::GoAway(message));
        self.edge.drain(grace).await
    }

    /// Ends links and tasks and puts the last of the state on disk.
    pub async fn stop(self) {
        self.end(IN_ORDER).await;
    }

    /// The same as far as it can be done at once, after a part of the server has failed.
    pub(crate) async fn fail(self) {
        self.end(Patience::FAILED).await;
    }

    async fn end(self, patience: Patience) {
        patience.tell_systemd();
        self.desk.flush();
        self.listener.close(Code::Draining, patience.links).await;
        let all = self.tasks.shutdown(patience.tasks).await;
        if !all {
            tracing::warn!("some tasks did not end in time");
        }
        let closed = tokio::time::timeout(patience.store, self.store.close()).await;
        if closed.is_err() {
            tracing::warn!("the state database was not closed in time");
        }
        info!("server stopped");
    }
}

/// What the key for secrets in the database is derived for.
const SEAL: &str = "secrets at rest";

/// The database and the identity key, which belong together: one without the other is a loss to be told,
/// not to be papered over. A new key is written only once there is a database beside it.
fn open_state(dir: &Path) -> anyhow::Result<(Identity, ServerStore, crate::engine::Snapshot)> {
    let (key, db) = (dir.join("server.key"), dir.join("server.db"));
    if let Some(identity) = handed_identity(&key)? {
        // The key tells nothing of whether there was a database.
        let seal = keys::root(dir, &identity)?.derive(SEAL);
        let (store, snapshot) = ServerStore::open_sealed(dir, key.exists(), Some(&seal))
            .context("opening the state database")?;
        return Ok((identity, store, snapshot));
    }
    let (had_key, had_db) = (key.exists(), db.exists());
    let known = had_key.then(|| Identity::load(&key)).transpose();
    let known = known.context("reading the server's identity key")?;
    let root = known.as_ref().map(|known| keys::root(dir, known));
    let seal = root.transpose()?.map(|root| root.derive(SEAL));
    let (store, snapshot) = ServerStore::open_sealed(dir, had_key, seal.as_ref())
        .context("opening the state database")?;
    if had_db && !had_key && snapshot != crate::engine::Snapshot::default() {
        bail!(
            "{} is missing, and every client trusts only that key; put it back from a backup, or remove {} to start anew",
            key.display(),
            db.display()
        );
    }
    let identity = match known {
        Some(identity) => identity,
        None => {
            let made = Identity::load_or_create(&key);
            let (identity, _) = made.context("reading the server's identity key")?;
            store.seal_with(&keys::root(dir, &identity)?.derive(SEAL));
            identity
        }
    };
    Ok((identity, store, snapshot))
}

/// The identity key, where systemd hands it over as `server.key`; it is not written to the disk.
fn handed_identity(key: &Path) -> anyhow::Result<Option<Identity>> {
    let handed = crate::secret::credential("server.key");
    let Some(pem) = handed.context("reading the credential server.key")? else {
        return Ok(None);
    };
    let identity = Identity::from_pem(&pem, Path::new("$CREDENTIALS_DIRECTORY/server.key"))?;
    if key.exists() && Identity::load(key)?.pin() != identity.pin() {
        bail!(
            "{} and the credential server.key are two keys, and clients trust only one; remove the wrong one",
            key.display()
        );
    }
    Ok(Some(identity))
}

/// A store that has died takes no promises any more: the process is no use then.
async fn watch_store(store: ServerStore, stop: tokio_util::sync::CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = store.ended() => {}
    }
}

fn listen_names(
    https: SocketAddr,
    http: Option<SocketAddr>,
    plain: Option<SocketAddr>,
) -> std::collections::BTreeMap<String, String> {
    let mut names = std::collections::BTreeMap::from([("https".to_owned(), https.to_string())]);
    if let Some(http) = http {
        names.insert("http".to_owned(), http.to_string());
    }
    if let Some(plain) = plain {
        names.insert("plain_http".to_owned(), plain.to_string());
    }
    names
}

/// One user gets one part in so many of what may wait in all, where nothing else is said; users are walls.
const PARTS_OF_HOLD: usize = 4;

/// The operator's limits, with what the rest of the configuration says of those that are absent.
fn limits(config: &ServerConfig) -> LimitSettings {
    let mut limits = config.limits.clone();
    let t = &config.tunnels;
    let part = (t.held_visits_total / PARTS_OF_HOLD).max(t.held_visits);
    limits.user.held.get_or_insert(part);
    limits
}

/// What the engine takes from the configuration.
pub(crate) fn engine_settings(config: &ServerConfig, public_port: u16) -> EngineSettings {
    let t = &config.tunnels;
    EngineSettings {
        domain: config.domain.clone(),
        ports: config.tcp_ports,
        public_port: config.front.public_port.unwrap_or(public_port),
        hold: t.hold,
        hold_max: t.hold_max,
        held_visits: t.held_visits,
        held_visits_total: t.held_visits_total,
        held_memory: t.held_memory,
        held_memory_per_user: (t.held_memory_total / PARTS_OF_HOLD as u64).max(t.held_memory),
        held_memory_total: t.held_memory_total,
        dormant: DormantCaps {
            links: config.dormant.links,
            links_per_user: config.dormant.links_per_user,
            memory: config.dormant.memory,
            memory_per_user: config.dormant.memory_per_user,
        },
        idle: t.idle,
        idle_max: t.idle_max,
        offline_max: t.offline_max,
        quarantine: t.quarantine,
        keep_alive: config.link.keep_alive,
        tunnels_per_device: t.per_device,
        limits: limits(config),
        domains: DomainSettings {
            per_user: config.domains.per_user,
            recheck: config.domains.recheck,
            lost_after: config.domains.lost_after,
        },
    }
}

/// What the edge takes from the configuration.
pub(crate) fn edge_settings(config: &ServerConfig, public_port: u16) -> EdgeSettings {
    EdgeSettings {
        http3: config.http3,
        origin_timeout: config.tunnels.origin_timeout,
        raw_connections: config.tunnels.tcp_connections,
        raw_idle: config.tunnels.tcp_idle.unwrap_or_default(),
        udp_flows: config.tunnels.udp_flows,
        udp_idle: config.tunnels.udp_idle,
        signed_body: bytes(config.tunnels.signed_body),
        signed_memory: bytes(config.tunnels.signed_memory),
        access: match config.log.access {
            AccessLines::Off => AccessMode::Off,
            AccessLines::Sampled => AccessMode::Sampled,
            AccessLines::Full => AccessMode::Full,
        },
        site: Site {
            redirect: config.site.redirect.clone(),
            contacts: config.site.contacts.clone(),
            may_index: config.site.may_index,
            interstitial: config.site.interstitial,
        },
        front: Front {
            proxy_protocol_from: config.front.proxy_protocol_from.clone(),
            trusted_proxies: config.front.trusted_proxies.clone(),
        },
        ..EdgeSettings::new(
            config.domain.clone(),
            config.front.public_port.unwrap_or(public_port),
        )
    }
}

fn bytes(most: u64) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Runs until a signal or a failure, as `wormkeyd server` does.
pub async fn run(config: ServerConfig, config_path: Option<PathBuf>) -> anyhow::Result<()> {
    let server = Server::start(
        config,
        Options {
            config_path,
            inherited: Inherited::take(),
            ..Options::default()
        },
    )
    .await?;
    crate::supervise::keep(Arc::clone(&server.backend), &server.tasks);
    let outcome = crate::supervise::until_stopped(
        &server.failed(),
        &server.drains,
        || async { drop(server.backend.reload_now().await) },
        (SERVER_GRACE, |grace| server.drain(grace)),
    )
    .await;
    match &outcome {
        Ok(()) => server.stop().await,
        Err(_) => server.fail().await,
    }
    outcome
}
