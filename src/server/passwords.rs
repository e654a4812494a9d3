//! Checks passwords against argon2id hashes, away from the engine's lock: few at once, few waiting, none
//! for long, and owners by turns, whose tunnels go by turns again. How often somebody may guess is the engine's to say, before it asks for a check.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time;
use data_encoding::BASE64_NOPAD;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::engine::policy::PasswordHash;
use crate::names::{TunnelId, UserId};
use crate::secret::Secret;

/// Checks that run at once, at most: each fills up to 64 MiB.
const AT_ONCE: usize = 4;

/// Checks that wait, of one tunnel; what is guessed at one must not keep the visitors of another waiting.
const PER_TUNNEL: usize = 16;

/// The same of all tunnels of one owner.
const PER_OWNER: usize = 64;

/// The same for all tunnels.
const IN_ALL: usize = 256;

/// How long a check may wait for its turn.
const WITHIN: Duration = Duration::from_secs(10);

/// The longest salt and hash that a policy takes, decoded.
const HASH_MAX: usize = 64;

/// No check now: too many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords wait to be checked")]
pub(super) struct Busy;

/// Who checks. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Passwords(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    turns: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// Who waits, by tunnel and by owner.
#[derive(Debug, Default)]
struct Waiting {
    tunnels: HashMap<TunnelId, Queue>,
    owners: HashMap<UserId, Queue>,
}

/// Those who wait of one of them. The first alone stands in the next queue, so that what stands there goes
/// round and no tunnel's or owner's many come before another's one.
#[derive(Debug)]
struct Queue {
    waits: usize,
    first: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waits: 0,
            first: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Passwords {
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Half of the cores: a flood of guesses leaves the rest to those who are in.
        Self::with((cores / 2).clamp(1, AT_ONCE))
    }

    fn with(at_once: usize) -> Self {
        Self(Arc::new(Inner {
            turns: Arc::new(Semaphore::new(at_once)),
            waiting: Mutex::default(),
        }))
    }

    /// Whether the password fits the hash.
    pub(super) async fn fits(
        &self,
        (owner, tunnel): (UserId, TunnelId),
        hash: PasswordHash,
        password: Secret<String>,
    ) -> Result<bool, Busy> {
        let waits = self.wait(owner, tunnel)?;
        let turn = tokio::time::timeout(WITHIN, waits.turn()).await;
        let turn = turn.map_err(|_| Busy)?.map_err(|_| Busy)?;
        let checked = tokio::task::spawn_blocking(move || {
            // With the work, not with who waits for it: who leaves does not make room for more work.
            let _turn = turn;
            fits(&hash, password.expose().as_bytes())
        });
        checked.await.map_err(|_| Busy)
    }

    fn wait(&self, owner: UserId, tunnel: TunnelId) -> Result<Waits<'_>, Busy> {
        let mut waiting = self.0.waiting();
        let of_tunnel = waiting.tunnels.get(&tunnel).map_or(0, |queue| queue.waits);
        let of_owner = waiting.owners.get(&owner).map_or(0, |queue| queue.waits);
        let all: usize = waiting.owners.values().map(|queue| queue.waits).sum();
        if of_tunnel >= PER_TUNNEL || of_owner >= PER_OWNER || all >= IN_ALL {
            return Err(Busy);
        }
        let of_tunnel = waiting.tunnels.entry(tunnel).or_default();
        of_tunnel.waits += 1;
        let first_of_tunnel = Arc::clone(&of_tunnel.first);
        let of_owner = waiting.owners.entry(owner).or_default();
        of_owner.waits += 1;
        let first_of_owner = Arc::clone(&of_owner.first);
        Ok(Waits {
            inner: &self.0,
            owner,
            tunnel,
            first_of_tunnel,
            first_of_owner,
        })
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those who wait, given back when it is dropped.
struct Waits<'a> {
    inner: &'a Inner,
    owner: UserId,
    tunnel: TunnelId,
    first_of_tunnel: Arc<Semaphore>,
    first_of_owner: Arc<Semaphore>,
}

impl Waits<'_> {
    /// The first of its tunnel, then the first of its owner, then one of all owners' first.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        let first_of_tunnel = self.first_of_tunnel.acquire().await?;
        let _first_of_owner = self.first_of_owner.acquire().await?;
        drop(first_of_tunnel);
        Arc::clone(&self.inner.turns).acquire_owned().await
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.inner.waiting();
        leave(&mut waiting.tunnels, self.tunnel);
        leave(&mut waiting.owners, self.owner);
    }
}

fn leave<K: Eq + Hash>(queues: &mut HashMap<K, Queue>, key: K) {
    if let Some(queue) = queues.get_mut(&key) {
        queue.waits -= 1;
        if queue.waits == 0 {
            queues.remove(&key);
        }
    }
}

/// The slow part. A hash that cannot be read fits nothing; its form was checked with the policy.
fn fits(hash: &PasswordHash, password: &[u8]) -> bool {
    let Some((argon, salt, right)) = read(hash.as_str()) else {
        return false;
    };
    let mut room = [0; HASH_MAX];
    let found = &mut room[..right.len()];
    argon.hash_password_into(password, &salt, found).is_ok()
        && constant_time::verify_slices_are_equal(found, &right).is_ok()
}

/// `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
fn read(phc: &str) -> Option<(Argon2<'static>, Vec<u8>, Vec<u8>)> {
    let mut parts = phc.split('$').skip(3);
    let mut costs = parts.next()?.split(',');
    let mut cost = |name: &str| costs.next()?.strip_prefix(name)?.parse().ok();
    let (memory, passes, lanes) = (cost("m=")?, cost("t=")?, cost("p=")?);
    let mut bytes = || BASE64_NOPAD.decode(parts.next()?.as_bytes()).ok();
    let (salt, hash) = (bytes()?, bytes()?);
    if hash.len() > HASH_MAX {
        return None;
    }
    let params = Params::new(memory, passes, lanes, Some(hash.len())).ok()?;
    Some((
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
        salt,
        hash,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with the reference program: `echo -n password | argon2 somesalt -id -t 2 -k 65536 -p 1 -l 32 -e`.
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    const OWNER: UserId = UserId::from_bytes([1; 16]);
    const OTHER: UserId = UserId::from_bytes([2; 16]);

    impl Passwords {
        fn is_empty(&self) -> bool {
            let waiting = self.0.waiting();
            waiting.tunnels.is_empty() && waiting.owners.is_empty()
        }
    }

    fn hash(text: &str) -> PasswordHash {
        PasswordHash::new(text).unwrap()
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_hash_of_the_reference_program_fits_its_password_alone() {
        let (passwords, tunnel) = (Passwords::with(1), TunnelId::random());
        let whose = (OWNER, tunnel);
        let fits = |text| passwords.fits(whose, hash(REFERENCE), secret(text));
        assert_eq!(fits("password").await, Ok(true));
        assert_eq!(fits("Password").await, Ok(false));
        assert_eq!(fits("").await, Ok(false));
        assert!(passwords.is_empty());
    }

    #[test]
    fn padding_bits_that_say_nothing_fit_nothing() {
        let odd = REFERENCE.replace("RPPc", "RPPd");
        assert!(!fits(&hash(&odd), b"password"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_guesses_at_one_tunnel_leave_room_for_another() {
        let passwords = Passwords::with(1);
        let turn = Arc::clone(&passwords.0.turns)
            .acquire_owned()
            .await
            .unwrap();
        let (hostile, other) = (TunnelId::random(), TunnelId::random());
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..PER_TUNNEL + 3 {
            let passwords = passwords.clone();
            all.spawn(async move {
                passwords
                    .fits((OWNER, hostile), hash(REFERENCE), secret("x"))
                    .await
            });
        }
        for _ in 0..3 {
            assert_eq!(all.join_next().await.unwrap().unwrap(), Err(Busy));
        }
        assert!(passwords.wait(OWNER, other).is_ok());
        // Nobody waits for ever, and whoever leaves leaves nothing behind.
        for _ in 0..PER_TUNNEL {
            assert_eq!(all.join_next().await.unwrap().unwrap(), Err(Busy));
        }
        drop(turn);
        assert!(passwords.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_owners_tunnels_took_the_checks_of_all_others() {
        let passwords = Passwords::with(1);
        let mut waits = Vec::new();
        while let Ok(wait) = passwords.wait(OWNER, TunnelId::random()) {
            waits.push(wait);
        }
        assert_eq!(waits.len(), PER_OWNER);
        assert!(passwords.wait(OTHER, TunnelId::random()).is_ok());
        drop(waits);
        assert!(passwords.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn owners_go_by_turns() {
        let passwords = Passwords::with(1);
        let busy = passwords.0.turns.acquire().await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut all = tokio::task::JoinSet::new();
        let tunnel = TunnelId::random;
        for (owner, name) in std::iter::repeat_n((OWNER, 'a'), 9).chain([(OTHER, 'b')]) {
            let (passwords, order, tunnel) = (passwords.clone(), Arc::clone(&order), tunnel());
            all.spawn(async move {
                let waits = passwords.wait(owner, tunnel).unwrap();
                let _turn = waits.turn().await.unwrap();
                order.lock().unwrap().push(name);
            });
            // Each stands in its queue before the next one comes.
            tokio::task::yield_now().await;
        }
        drop(busy);
        all.join_all().await;
        let came = order.lock().unwrap().iter().position(|name| *name == 'b');
        assert!(came.is_some_and(|place| place <= 1), "{order:?}");
        assert!(passwords.is_empty());
    }
}
