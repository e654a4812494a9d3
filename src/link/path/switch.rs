//! The two changes of a link's path, from the client's end: into the WebSocket, and back to UDP.
//! When to make them is for the client role.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::probe::Nonce;
use super::{Fallback, PathError, PathInfo, PathKind, Paths, dial_path};
use crate::link::dialer::resolve;
use crate::link::handle::{Link, Live};

/// A question is repeated this often, in case one is lost.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// How long UDP may take to show that it works, and then that the link works on it.
const UDP_PATIENCE: Duration = Duration::from_millis(1500);

/// What UDP gets at least once the WebSocket stands, before the link takes that; two round trips where they
/// take longer, as far as the most.
const LAST_CHANCE: Duration = Duration::from_millis(200);
const LAST_CHANCE_MOST: Duration = Duration::from_secs(1);

/// Between two looks at what was heard.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Link {
    /// The path its packets take now. At the server's end, all that is known is the kind.
    pub fn path(&self) -> PathInfo {
        self.live().path()
    }

    /// Opens the WebSocket path and lets the link's packets take it; its streams go on. A WebSocket
    /// that was there is replaced. Nothing has changed when it fails, or its future is dropped.
    pub async fn open_fallback(&self, fallback: &Fallback) -> Result<PathInfo, PathError> {
        self.take_websocket(fallback, false).await
    }

    /// The same for a link that fell silent: [`PathError::NotNeeded`] when UDP is heard after all. A
    /// network that came back lets TCP through first, which asks again by itself, so UDP is asked
    /// once more before the link leaves it.
    pub async fn open_fallback_if_silent(
        &self,
        fallback: &Fallback,
    ) -> Result<PathInfo, PathError> {
        self.take_websocket(fallback, true).await
    }

    async fn take_websocket(
        &self,
        fallback: &Fallback,
        if_silent: bool,
    ) -> Result<PathInfo, PathError> {
        let live = self.live();
        let paths = live.paths().ok_or(PathError::NotClient)?;
        let _changing = paths.changing().await;
        let before = paths.heard_over_udp();
        let (io, info) = tokio::select! {
            biased;
            _ = live.connection().closed() => return Err(PathError::LinkGone),
            dialled = dial_path(fallback) => dialled?,
        };
        if if_silent && paths.info().kind == PathKind::Udp {
            live.path_changed();
            let patience = LAST_CHANCE.max(2 * self.rtt()).min(LAST_CHANCE_MOST);
            if heard_since(paths, before, patience).await {
                return Err(PathError::NotNeeded);
            }
        }
        paths.carry(io, info.clone());
        paths.prefer(PathKind::WebSocket);
        live.path_changed();
        Ok(info)
    }

    /// Leaves the WebSocket for UDP at once, without asking whether that works; on UDP it does nothing.
    /// For a link whose network has changed: its TCP connection belongs to the one before.
    pub fn leave_fallback(&self) {
        let live = self.live();
        let Some(paths) = live.paths() else { return };
        if paths.info().kind == PathKind::WebSocket {
            paths.prefer(PathKind::Udp);
            live.path_changed();
        }
        paths.end_websocket();
    }

    /// Waits until the WebSocket that carries the link ends; returns at once on UDP. The link lives
    /// on, and its packets go by UDP until [`open_fallback`](Self::open_fallback) is called again.
    pub async fn fallback_ended(&self) {
        if let Some(paths) = self.live().paths() {
            paths.websocket_ended().await;
        }
    }

    /// Goes back to UDP if it works; its streams go on. UDP is asked first, beside the link, so a
    /// link whose UDP is still blocked does not feel the question; three seconds at most. Dropping
    /// the future leaves the link on one path or the other.
    pub async fn back_to_udp(&self) -> Result<(), PathError> {
        let live = self.live();
        let paths = live.paths().ok_or(PathError::NotClient)?;
        let _changing = paths.changing().await;
        if paths.info().kind == PathKind::Udp {
            return Ok(());
        }
        tokio::select! {
            biased;
            _ = live.connection().closed() => return Err(PathError::LinkGone),
            works = udp_works(paths) => works?,
        }
        let before = paths.heard_over_udp();
        paths.prefer(PathKind::Udp);
        live.path_changed();
        if heard_since(paths, before, UDP_PATIENCE).await {
            paths.end_websocket();
            return Ok(());
        }
        paths.prefer(PathKind::WebSocket);
        live.path_changed();
        Err(PathError::UdpSilent)
    }
}

impl Live {
    fn path(&self) -> PathInfo {
        if let Some(paths) = self.paths() {
            return paths.info();
        }
        if !self.in_session() {
            return PathInfo::UDP;
        }
        PathInfo {
            kind: PathKind::WebSocket,
            ..PathInfo::UDP
        }
    }

    /// The one place where QUIC is told that its packets take another path: it turns to a fresh
    /// connection id and says something at once, from which the server learns where the client is.
    fn path_changed(&self) {
        if let Some(own) = self.own() {
            // It fails only with a socket that has lost its address, which the next rebind replaces.
            let _ = own.kick(self.connection());
        }
    }
}

/// Whether the server answers over UDP.
async fn udp_works(paths: &Paths) -> Result<(), PathError> {
    let asking = async {
        if !paths.has_targets()
            && let Ok(candidates) = resolve(paths.address()).await
        {
            paths.aim(&candidates);
        }
        let nonce = Nonce::random();
        loop {
            paths.ask(nonce);
            if timeout(ASK_AGAIN, paths.answer()).await.is_ok() {
                return;
            }
        }
    };
    timeout(UDP_PATIENCE, asking)
        .await
        .map_err(|_| PathError::UdpSilent)
}

/// Whether more comes over UDP than had come `before`.
async fn heard_since(paths: &Paths, before: u64, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while paths.heard_over_udp() == before {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_AGAIN).await;
    }
    true
}
