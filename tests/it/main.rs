//! Tests that stand outside the library: its layers, and the real programs.

#![allow(
    clippy::unwrap_used,
    reason = "a test's helpers fail like the test itself; clippy only knows functions marked #[test]"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks are owned by its runtime and end with it"
)]

mod access;
mod boundary;
mod doctor;
mod domains;
mod draining;
mod ends;
mod entering;
mod figures;
mod keys;
mod layers;
mod main_job;
mod matrix;
mod monitoring;
mod origin;
mod policies;
mod raw;
mod restarts;
mod sockets;
mod trouble;
mod visitor;
mod walls;
mod webhooks;
mod world;
