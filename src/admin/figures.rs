//! `GET /v1/links` of a server: each live link and how it does, a page at a time.

use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::ServerBackend;
use super::ask::{PageParams, Params, page_size};
use super::routes::{Answer, Hub};
use super::types::PacketsJson;
use crate::names::DeviceId;
use crate::times::WallTime;

/// A live link, as its server sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkFiguresJson {
    /// The generation, which is its name and the cursor.
    pub generation: String,
    /// Whose: `dev_…`.
    pub device: DeviceId,
    /// The machine's name.
    pub device_name: String,
    /// The user's name.
    pub user: String,
    /// `up`, `dormant`.
    pub state: String,
    /// Since when it is up.
    pub since: WallTime,
    /// Since when nothing is heard of it; null while it is awake.
    pub dormant_since: Option<WallTime>,
    /// `udp`, or `websocket` where UDP is blocked.
    pub path: String,
    /// Where its packets come from.
    pub address: String,
    /// Round trip, milliseconds.
    pub rtt_ms: f64,
    /// Packets sent and lost.
    pub packets: PacketsJson,
    /// How often it came from another address than before.
    pub moves: u64,
    /// The longest time at least that an answer or a sign of life was due, milliseconds.
    pub longest_stall_ms: f64,
    /// Visits that it carries now.
    pub streams: u64,
    /// What it holds in memory, an estimate.
    pub bytes: u64,
    /// Why the device's link before this one ended, when nobody wanted that.
    pub last_error: Option<String>,
}

impl Default for LinkFiguresJson {
    fn default() -> Self {
        Self {
            generation: String::new(),
            device: DeviceId::from_bytes([0; 16]),
            device_name: String::new(),
            user: String::new(),
            state: String::new(),
            since: WallTime::from_millis(0),
            dormant_since: None,
            path: String::new(),
            address: String::new(),
            rtt_ms: 0.0,
            packets: PacketsJson { sent: 0, lost: 0 },
            moves: 0,
            longest_stall_ms: 0.0,
            streams: 0,
            bytes: 0,
            last_error: None,
        }
    }
}

/// Some of the links, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct LinkPage {
    /// The links.
    pub links: Vec<LinkFiguresJson>,
    /// The cursor of the next page; null after the last one.
    pub next: Option<String>,
}

pub(super) async fn links<B: ServerBackend>(
    State(hub): State<Hub<B>>,
    Params(page): Params<PageParams>,
) -> Answer<LinkPage> {
    let limit = page_size(page.limit)?;
    let links = hub.backend().links(page.cursor, limit).await?;
    Ok(axum::Json(links))
}
