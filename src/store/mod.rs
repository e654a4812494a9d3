//! SQLite: schema, migrations, one file per table group. Not decisions: the engine and the client role
//! say what to write, and the reply follows the fsync.
//!
//! One thread owns the writing connection and its checkpoints, and commits all that is queued in one
//! transaction; a few read-only connections serve queries. A database that existed before and is now
//! missing, damaged, foreign or newer stops the start; it is never replaced by an empty one.
//!
//! Statements (not the migrations) keep to what PostgreSQL also takes: `$1…$n`, `ON CONFLICT … DO UPDATE`,
//! times as unix milliseconds, ids as text.

mod backup;
mod client;
mod columns;
mod error;
mod lock;
mod open;
mod prune;
mod readers;
mod seal;
mod server;
mod tables;
mod writer;

pub use backup::{Restored, restore};
pub use client::ClientStore;
pub use error::StoreError;
pub use lock::StateLock;
pub use prune::Old;
pub use server::{AuditFilter, ServerStore, StoredAudit};
pub use writer::CommitDone;

#[cfg(test)]
mod tests;
