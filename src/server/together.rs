//! The same password, said by the same source in several visits at once: the first is checked, and the
//! others wait for what comes of it, instead of being counted as guesses that nobody made. Not the check,
//! and no memory of it: whether a password is known is the engine's to say, to each visit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::limits::Source;

/// Who says what: a source, and the digest of its credentials. Of one source alone, so that nobody learns
/// from waiting what others say.
pub(super) type Said = (Source, [u8; 32]);

/// Visits that wait for one check, at most. Those beyond go on as if they were the first.
const PER_CHECK: usize = 64;

/// The same for all checks.
const IN_ALL: usize = 256;

/// How long a visit waits for the check of another one.
const WITHIN: Duration = Duration::from_secs(10);

/// The checks under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Together(Arc<Mutex<Checks>>);

#[derive(Debug, Default)]
struct Checks {
    under_way: HashMap<Said, UnderWay>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct UnderWay {
    over: CancellationToken,
    waiting: usize,
}

impl Together {
    /// Waits once for a check of the same that is under way, if there is one and room to wait.
    pub(super) async fn wait(&self, said: Said) {
        if let Some((over, _waits)) = self.join(said) {
            // Whatever came of it: the engine is asked, and counts a guess where one is made.
            let _ = tokio::time::timeout(WITHIN, over.cancelled()).await;
        }
    }

    /// This visit is the one that is checked, until what is returned is dropped.
    pub(super) fn lead(&self, said: Said) -> Leads {
        let mut checks = self.checks();
        let is_first = !checks.under_way.contains_key(&said);
        checks.under_way.entry(said).or_default();
        Leads {
            checks: is_first.then(|| self.clone()),
            said,
        }
    }

    fn join(&self, said: Said) -> Option<(CancellationToken, Waits)> {
        let mut checks = self.checks();
        let all = checks.waiting;
        let check = checks.under_way.get_mut(&said)?;
        if check.waiting >= PER_CHECK || all >= IN_ALL {
            return None;
        }
        check.waiting += 1;
        let over = check.over.clone();
        checks.waiting += 1;
        Some((over, Waits(self.clone())))
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check under way; dropped when the engine knows what came of it. None of a second one that came in
/// the same moment.
pub(super) struct Leads {
    checks: Option<Together>,
    said: Said,
}

impl Drop for Leads {
    fn drop(&mut self) {
        let Some(checks) = &self.checks else {
            return;
        };
        if let Some(check) = checks.checks().under_way.remove(&self.said) {
            check.over.cancel();
        }
    }
}

/// One of those who wait, in all. Those of one check leave with it.
struct Waits(Together);

impl Drop for Waits {
    fn drop(&mut self) {
        let waiting = &mut self.0.checks().waiting;
        *waiting = waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn said(by: u8, what: u8) -> Said {
        let ip = std::net::Ipv4Addr::new(192, 0, 2, by);
        (std::net::IpAddr::from(ip).into(), [what; 32])
    }

    fn is_ready(future: impl Future) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut context).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_of_the_same_source_waits_until_the_first_is_over() {
        let together = Together::default();
        assert!(is_ready(together.wait(said(1, 1))), "nobody is checked");
        let leads = together.lead(said(1, 1));
        drop(together.lead(said(1, 1)));
        assert!(is_ready(together.wait(said(1, 2))), "another password");
        assert!(is_ready(together.wait(said(2, 1))), "another source");
        let mut waits = Box::pin(together.wait(said(1, 1)));
        assert!(!is_ready(waits.as_mut()));
        drop(leads);
        assert!(is_ready(waits.as_mut()));
        drop(waits);
        assert_eq!(together.checks().waiting, 0);
        assert!(together.checks().under_way.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait_and_nobody_for_ever() {
        let together = Together::default();
        let leads: Vec<Leads> = (0..9).map(|what| together.lead(said(1, what))).collect();
        let mut waiting = Vec::new();
        for what in 0..9 {
            for _ in 0..=PER_CHECK {
                let mut waits = Box::pin(together.wait(said(1, what)));
                if !is_ready(waits.as_mut()) {
                    waiting.push(waits);
                }
            }
        }
        assert_eq!(waiting.len(), IN_ALL);
        let begun = tokio::time::Instant::now();
        for waits in waiting {
            waits.await;
        }
        assert_eq!(begun.elapsed(), WITHIN);
        drop(leads);
        assert_eq!(together.checks().waiting, 0);
        assert!(together.checks().under_way.is_empty());
    }
}
