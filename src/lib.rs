//! wormkey: a self-hosted tunnel. This page is the code map.
//!
//! ```text
//! visitor ──TLS──▶ edge ─┐                                  ┌─▶ origin (localhost:3000)
//!                        │  server ═══════ link ═══════ client
//! operator ─ctl─▶ admin ─┘  engine, store            store  └◀─ admin ◀─ctl─ person
//! ```
//!
//! # Rooms, in reading order
//!
//! | module | what it is |
//! |---|---|
//! | [`names`], [`times`], [`codes`], [`secret`] | values checked once on the way in; the one table of error codes |
//! | [`engine`] | DECIDES: routes, lifecycle, leases, holds, policies, limits. No I/O, no clock, no randomness |
//! | [`http`], `dns` | what an acceptable request head is, shared by every HTTP version; DNS messages: bytes <-> values; pure |
//! | [`wire`] | the tunnel protocol: bytes <-> values; also the PROXY header, and the paths that are ours |
//! | [`link`] | QUIC endpoints, TLS identity, dialling; streams that carry wire; what the system tells of the network; visitors' QUIC at the same port |
//! | [`edge`] | public listeners: a visit comes in, a response or a splice goes out |
//! | [`origin`] | client side: reach the local service, or serve a directory |
//! | [`store`] | SQLite: schema, migrations, one file per table group |
//! | [`acme`] | visitors' certificates: gets them from a CA, proves names, renews them in time |
//! | [`admin`] | Unix-socket API: types, routes, peer credentials, the caller's side; the listener for scrapers |
//! | [`server`], [`client`], [`ctl`], [`dev`] | roles: wire adapters to the engine; bind, supervise, drain |
//! | [`daemon`], `supervise` | `wormkeyd`'s command line and manual; state directory, signals, readiness and orderly ends around every role |
//! | [`config`] | TOML as written -> a `Config` that holds; its keys, for the manual |
//! | [`tasks`], [`telemetry`] | the only caller of `tokio::spawn`; tracing set-up and how metrics are written |
//!
//! # The layer rule
//!
//! Imports point one way:
//! **bin → `daemon` → roles (`dev` over client and server) → `supervise`, adapters (link edge origin store acme admin)
//! → engine, http, dns, wire → names, times, codes, secret.**
//! `tasks` and `telemetry` serve adapters, roles and bins. Adapters never import each other: the
//! consumer owns the trait, the role implements it. Only bins, `daemon` and roles read
//! `config`, which uses the engine's words.
//! `tests/it/layers.rs` reads every `use` line and fails on a breach.
//!
//! # A visit in four hops
//!
//! `edge::serve::visit` → [`engine::Engine::admit`] → [`edge::OpenStream::open`] → `edge::forward`
//!
//! The edge asks through its own traits, [`edge::Admit`] and [`edge::OpenStream`]; `server::visits` answers
//! both, with the engine and with the live link. At the other end of the stream `client::visits` takes
//! the visit, and [`origin`] carries it to the service.

pub mod codes;
pub mod names;
pub mod secret;
pub mod times;

mod dns;
pub mod engine;
pub mod http;
pub mod wire;

pub mod acme;
pub mod admin;
pub mod edge;
pub mod link;
pub mod origin;
pub mod store;

pub mod client;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod dev;
pub mod server;
mod supervise;

pub mod tasks;
pub mod telemetry;
