//! What declared tunnels let through: files read and passwords hashed at each start and reload, and the
//! changes put in force on the server, now or as soon as it is there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tracing::info;

use crate::codes::Code;
use crate::config::DeclaredPolicy;
use crate::engine::book::{BookRow, BookState};
use crate::engine::policy::{POLICY_MAX, Policy, PolicyError};
use crate::names::TunnelId;
use crate::secret::{self, Secret, password};

use super::{Client, name_of};

/// Between two tries to put a policy in force.
const AGAIN: Duration = Duration::from_secs(1);
/// The most bytes of a file with a secret.
const SECRET_MAX: u64 = 8 * 1024;

/// Why an entry's policy cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeclaredPolicyError {
    #[error("{path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{path} has no first line; write the secret to it")]
    Empty { path: String },
    #[error("{path}: {source}")]
    File { path: String, source: PolicyError },
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the system gave no random numbers")]
    Random,
    #[error("the work was given up")]
    GivenUp,
}

/// Policies that the server is still to be told of; the newest of a tunnel counts.
#[derive(Default)]
pub(super) struct Wanted {
    policies: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: HashMap<TunnelId, Policy>,
    /// Somebody works them off.
    worked: bool,
}

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.policies
            .lock()
            .expect("nothing panics while it holds the policies")
    }

    /// All of them; when there are none, whoever asks works no more.
    fn all(&self) -> Vec<(TunnelId, Policy)> {
        let mut state = self.lock();
        state.worked = !state.wanted.is_empty();
        let all = state.wanted.iter();
        all.map(|(id, policy)| (*id, policy.clone())).collect()
    }

    /// It is in force, or never will be; a newer one stays.
    fn done(&self, id: TunnelId, policy: &Policy) {
        let mut state = self.lock();
        if state.wanted.get(&id) == Some(policy) {
            state.wanted.remove(&id);
        }
    }
}

/// The same, where it makes nobody wait: hashing is slow on purpose.
pub(super) async fn policy_aside(
    declared: &DeclaredPolicy,
    there: Option<Arc<Policy>>,
) -> Result<Policy, DeclaredPolicyError> {
    let declared = declared.clone();
    let work = move || policy_of(&declared, there.as_deref());
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(DeclaredPolicyError::GivenUp))
}

/// The policy that an entry means. Hashes of passwords that did not change stay what they are in `there`,
/// so that what was not changed looks unchanged.
fn policy_of(
    declared: &DeclaredPolicy,
    there: Option<&Policy>,
) -> Result<Policy, DeclaredPolicyError> {
    let mut words = declared.words.clone();
    for (user, path) in &declared.passwords {
        let secret = first_line(path)?;
        let kept = there.and_then(|policy| policy.user(user));
        let kept = kept.map(|user| user.hash().as_str().to_owned());
        let hash = match kept.filter(|hash| password::fits(hash, secret.expose())) {
            Some(hash) => hash,
            None => password::hash(secret.expose(), salt()?),
        };
        words.auth.push((user.clone(), hash));
    }
    for (kind, path) in &declared.webhooks {
        words.webhook.push((*kind, first_line(path)?));
    }
    if let Some(path) = &declared.file {
        let most = u64::try_from(POLICY_MAX).unwrap_or(u64::MAX);
        let base = Policy::parse(&read(path, most + 1)?);
        words.base = Some(base.map_err(|source| DeclaredPolicyError::File {
            path: path.display().to_string(),
            source,
        })?);
    }
    Ok(words.compile()?)
}

fn salt() -> Result<[u8; 16], DeclaredPolicyError> {
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| DeclaredPolicyError::Random)?;
    Ok(salt)
}

fn first_line(path: &Path) -> Result<Secret<String>, DeclaredPolicyError> {
    let text =
        secret::file::read(path, SECRET_MAX).map_err(|source| DeclaredPolicyError::Read {
            path: path.display().to_string(),
            source,
        })?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        let path = path.display().to_string();
        return Err(DeclaredPolicyError::Empty { path });
    }
    Ok(Secret::new(line.to_owned()))
}

fn read(path: &Path, most: u64) -> Result<String, DeclaredPolicyError> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    read.map_err(|source| DeclaredPolicyError::Read {
        path: path.display().to_string(),
        source,
    })?;
    Ok(text)
}

impl Client {
    /// Puts a policy in force as soon as the server is there.
    pub(super) fn want_policy(self: &Arc<Self>, id: TunnelId, policy: Policy) {
        let mut state = self.wanted.lock();
        state.wanted.insert(id, policy);
        if !std::mem::replace(&mut state.worked, true) {
            let client = Arc::clone(self);
            self.tasks.spawn(
                "declared policies",
                async move { client.work_wanted().await },
            );
        }
    }

    /// The tunnel's policy is as it should be; what was to be done about it is not any more.
    pub(super) fn want_nothing(&self, id: TunnelId) {
        self.wanted.lock().wanted.remove(&id);
    }

    async fn work_wanted(&self) {
        let mut standing = self.standing.subscribe();
        loop {
            let all = self.wanted.all();
            if all.is_empty() || standing.wait_for(|link| link.state == "up").await.is_err() {
                return;
            }
            let mut left = false;
            for (id, policy) in all {
                left |= !self.try_wanted(id, &policy).await;
            }
            if left {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Whether there is nothing left to try.
    async fn try_wanted(&self, id: TunnelId, policy: &Policy) -> bool {
        let row = self.book.row(id).filter(|row| row.state.is_live());
        let Some(row) = row else {
            self.wanted.done(id, policy);
            return true;
        };
        if row.state != BookState::Open {
            return false;
        }
        let name = name_of(&row);
        match self.put_policy(row, policy, Vec::new()).await {
            Ok(_) => info!(tunnel = %id, "declared policy in force"),
            Err(err) if is_passing(err.code) => return false,
            Err(err) => self.note_problem(format!("tunnel {name}: {err}; its old policy stays")),
        }
        self.wanted.done(id, policy);
        true
    }
}

/// Whether trying again helps.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::ServerUnreachable | Code::TimedOut | Code::Storage | Code::Overloaded
    )
}

/// A row with a policy that the server has not confirmed.
pub(super) fn with_policy(row: BookRow, policy: Policy) -> BookRow {
    BookRow {
        policy: Arc::new(policy),
        ..row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(dir: &Path) -> DeclaredPolicy {
        DeclaredPolicy {
            passwords: vec![("bob".into(), dir.join("bob"))],
            ..DeclaredPolicy::default()
        }
    }

    #[test]
    fn a_password_that_did_not_change_keeps_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        secret::file::write(&dir.path().join("bob"), "correct horse\n");
        let declared = declared(dir.path());
        let first = policy_of(&declared, None).unwrap();
        assert_eq!(policy_of(&declared, Some(&first)).unwrap(), first);
        secret::file::write(&dir.path().join("bob"), "battery staple\n");
        let second = policy_of(&declared, Some(&first)).unwrap();
        let hash = second.user("bob").unwrap().hash().as_str();
        assert!(password::fits(hash, "battery staple"));
        assert!(!password::fits(hash, "correct horse"));
    }

    #[test]
    fn a_file_that_is_not_there_opens_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let err = policy_of(&declared(dir.path()), None).unwrap_err();
        assert!(err.to_string().contains("/bob: "), "{err}");
        secret::file::write(&dir.path().join("bob"), "\nsecret\n");
        let err = policy_of(&declared(dir.path()), None).unwrap_err();
        assert!(err.to_string().contains("no first line"), "{err}");
    }

    #[test]
    fn a_password_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let bob = dir.path().join("bob");
        secret::file::write(&bob, "correct horse\n");
        std::fs::set_permissions(&bob, std::fs::Permissions::from_mode(0o644)).unwrap();
        let err = policy_of(&declared(dir.path()), None)
            .unwrap_err()
            .to_string();
        let remedy = format!("(mode 0644); run: chmod 600 {}", bob.display());
        assert!(err.ends_with(&remedy), "{err}");
    }

    #[test]
    fn the_newest_policy_of_a_tunnel_counts() {
        let wanted = Wanted::default();
        let id = TunnelId::random();
        let [old, new] = [r#"{"methods":["GET"]}"#, r#"{"methods":["PUT"]}"#]
            .map(|text| Policy::parse(text).unwrap());
        wanted.lock().wanted.insert(id, old.clone());
        assert_eq!(wanted.all(), [(id, old.clone())]);
        wanted.lock().wanted.insert(id, new.clone());
        wanted.done(id, &old);
        assert_eq!(wanted.all(), [(id, new.clone())]);
        wanted.done(id, &new);
        assert_eq!(wanted.all(), []);
        assert!(!wanted.lock().worked, "the next one starts the work again");
    }
}
