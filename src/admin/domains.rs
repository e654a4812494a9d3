//! A tunnel's own domains, as JSON.

use serde::{Deserialize, Serialize};

use crate::times::WallTime;

/// `PUT /v1/tunnels/{key}/domains` of a client: what is added and what is taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct DomainsAsk {
    /// Those that shall lead to it as well.
    #[serde(default)]
    pub add: Vec<String>,
    /// Those that shall not any more.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// An own domain of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainJson {
    /// `app.example.org`, `*.app.example.org`.
    pub domain: String,
    /// `pending`: the record has not been seen; `proven`: it leads to the tunnel; `lost`: it did, until the
    /// record was gone for too long; `unknown`: the server has not said yet.
    pub state: String,
    /// Since when.
    pub since: Option<WallTime>,
    /// Since when the record is not found any more, while it still counts.
    pub missing_since: Option<WallTime>,
    /// When it was looked for last.
    pub checked_at: Option<WallTime>,
    /// The record to place, for as long as the domain shall lead here; null until the server has said.
    pub record: Option<RecordJson>,
    /// What stands in the way.
    pub why: Option<String>,
    /// How its certificate does; null for tls tunnels, whose origin has its own.
    pub certificate: Option<String>,
}

/// A DNS record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordJson {
    /// Where it stands.
    pub name: String,
    /// `TXT`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says.
    pub value: String,
}

impl RecordJson {
    /// A TXT record.
    pub fn txt(name: String, value: String) -> Self {
        Self {
            name,
            kind: "TXT".to_owned(),
            value,
        }
    }
}
