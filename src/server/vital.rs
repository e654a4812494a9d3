//! How the server shows that it lives, and tells in a line how it stands.

use super::backend::Backend;
use super::desk::Desk;
use crate::engine::Engine;
use crate::supervise::{Vital, count};

impl Vital for Backend {
    async fn answers(&self) -> bool {
        self.desk().answers().await && self.store().answers().await.is_ok()
    }

    fn line(&self) -> String {
        let counts = self.desk().read(Engine::counts);
        if self.is_draining() {
            let visits = count(counts.visits, "visit", "visits");
            return format!("draining: {visits} going on");
        }
        let mut line = vec![
            format!("{} open", count(counts.tunnels, "tunnel", "tunnels")),
            count(counts.links, "link", "links"),
        ];
        if counts.dormant > 0 {
            line.push(format!("{} dormant", counts.dormant));
        }
        if counts.held > 0 {
            line.push(format!("{} waiting", count(counts.held, "visit", "visits")));
        }
        line.join(" · ")
    }

    fn visits_total(&self) -> u64 {
        self.desk().read(|engine| engine.counts().visits_total)
    }
}

impl Desk {
    /// Whether the engine can be asked; waits as long as somebody keeps it. A thread that waits for it is
    /// the only one, however many ask.
    pub(crate) async fn answers(&self) -> bool {
        let Ok(alone) = self.looks().acquire_owned().await else {
            return false;
        };
        let desk = self.clone();
        let look = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            desk.read(|_| ());
        });
        look.await.is_ok()
    }
}
