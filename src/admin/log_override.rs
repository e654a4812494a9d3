//! Another log level for a while, asked for at the admin socket; it ends by itself.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tracing::{info, warn};

use super::log_level::{LogLevelAsk, LogLevelJson};
use super::{ApiError, Caller};
use crate::codes::Code;
use crate::tasks::Tasks;
use crate::telemetry;
use crate::times::{Clock, WallTime, parse_duration};

/// For how long when nobody says.
const LASTS: Duration = Duration::from_secs(600);
/// The longest; what shall last longer belongs in the configuration.
const LASTS_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest filter.
const LEVEL_MAX: usize = 1024;

/// Clones are the same.
#[derive(Debug, Clone)]
pub struct LogOverride {
    tasks: Tasks,
    stand: Arc<Mutex<Stand>>,
}

#[derive(Debug, Default)]
struct Stand {
    /// Which change this is: the end of an earlier one ends nothing.
    turn: u64,
    until: Option<WallTime>,
}

impl LogOverride {
    /// What ends a change is a task of the role.
    pub fn new(tasks: Tasks) -> Self {
        Self {
            tasks,
            stand: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stand> {
        self.stand
            .lock()
            .expect("nothing panics while it holds the log level")
    }

    /// What is in force.
    pub fn shown(&self) -> LogLevelJson {
        let (level, configured) = telemetry::levels();
        LogLevelJson {
            level,
            configured,
            until: self.lock().until,
        }
    }

    /// Puts a level in force, and the configured one again when its time is over.
    pub fn set(&self, caller: Caller, ask: &LogLevelAsk) -> Result<LogLevelJson, ApiError> {
        let usage = |detail: String| ApiError::new(Code::Usage, detail);
        let lasts = match ask.lasts.as_deref().map(parse_duration) {
            None => LASTS,
            Some(read) => read.map_err(|err| usage(format!("for: {err}")))?,
        };
        if lasts.is_zero() || lasts > LASTS_MAX {
            return Err(usage(
                "for: more than nothing, and 24h at most; what shall last belongs in [log] level"
                    .to_owned(),
            ));
        }
        let level = ask.level.as_deref();
        if level.is_some_and(|level| level.len() > LEVEL_MAX) {
            return Err(usage("level: too long".to_owned()));
        }
        let mut stand = self.lock();
        telemetry::set_level(level).map_err(|err| usage(err.to_string()))?;
        stand.turn += 1;
        stand.until = level.map(|_| Clock.now().wall.plus(lasts));
        let turn = stand.turn;
        drop(stand);
        let shown = self.shown();
        info!(uid = caller.uid, level = %shown.level, until = ?shown.until, "log level changed");
        if level.is_some() {
            self.end_after(turn, lasts);
        }
        Ok(shown)
    }

    fn end_after(&self, turn: u64, lasts: Duration) {
        let (this, stop) = (self.clone(), self.tasks.stopped());
        self.tasks.spawn("log-level", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(lasts) => {}
            }
            let mut stand = this.lock();
            if stand.turn == turn {
                stand.until = None;
                match telemetry::set_level(None) {
                    Ok(()) => info!("log level as configured again"),
                    Err(err) => warn!(%err, "log level not set back"),
                }
            }
        });
    }
}
