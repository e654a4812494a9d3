//! How visitors' certificates do, as the status tells it. The schema only grows; absent is null.

use serde::{Deserialize, Serialize};

use crate::times::WallTime;

/// One certificate of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateJson {
    /// What it is for: `*.tunnel.example.com`.
    pub names: Vec<String>,
    /// `self-signed`, `files`, `acme`.
    pub source: String,
    /// Its first instant; null while there is none.
    pub not_before: Option<WallTime>,
    /// Its last.
    pub not_after: Option<WallTime>,
    /// When it will be renewed; null when that is not our business, or a try has failed.
    pub renews_at: Option<WallTime>,
    /// When the next try is due.
    pub next_try: Option<WallTime>,
    /// Why the latest try, or the latest reading, failed.
    pub last_error: Option<String>,
    /// The directory of the authority that is asked next.
    pub ca: Option<String>,
    /// What is served and what will happen, in a sentence.
    pub says: String,
}
