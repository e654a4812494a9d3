//! The operator's certificate files, watched: new ones are put in force when they fit together, and the
//! old ones stay when they do not. Looks at the files' times every few seconds, which follows symbolic
//! links and works on every file system.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

use super::certificates::facts;
use crate::acme::x509::Facts;
use crate::admin::certificates::CertificateJson;
use crate::edge::tls::{self, CertStore, TlsError};
use crate::tasks::Tasks;
use crate::times::{Clock, WallTime};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Certificate files in use. Clones share everything.
#[derive(Clone)]
pub(crate) struct Watched {
    store: Arc<CertStore>,
    state: Arc<Mutex<State>>,
}

struct State {
    cert: PathBuf,
    key: PathBuf,
    seen: Look,
    facts: Option<Facts>,
    last_error: Option<String>,
    /// They could not be read, which may pass without any change to them: every look tries again.
    is_unread: bool,
    /// A certificate and its key are two files, written one after the other: what does not fit at one look
    /// is worth a word only when it does not at the next either.
    is_unsaid: bool,
    is_expiry_said: bool,
}

/// What tells a file from the same file later: device, inode, length, change time.
type Look = [Option<[i64; 5]>; 2];

/// What reading the files gives.
type Read = Result<Arc<CertifiedKey>, TlsError>;

fn look(cert: &Path, key: &Path) -> Look {
    [cert, key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Some([
            number(meta.dev()),
            number(meta.ino()),
            number(meta.size()),
            meta.ctime(),
            meta.ctime_nsec(),
        ])
    })
}

impl Watched {
    /// Watches from now on; `first` was just read from the files.
    pub(super) fn start(
        cert: PathBuf,
        key: PathBuf,
        first: Arc<CertifiedKey>,
        tasks: &Tasks,
    ) -> Self {
        let state = State {
            // Nothing was seen for certain: the first look reads them once more.
            seen: [None; 2],
            facts: facts(&first),
            cert,
            key,
            last_error: None,
            is_unread: false,
            is_unsaid: false,
            is_expiry_said: false,
        };
        let this = Self {
            store: CertStore::new(first),
            state: Arc::new(Mutex::new(state)),
        };
        let (watched, stop) = (this.clone(), tasks.stopped());
        tasks.spawn_critical("certificate-files", async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let watched = watched.clone();
                let looked =
                    tokio::task::spawn_blocking(move || watched.look_again(Clock.now().wall));
                if let Err(error) = looked.await {
                    warn!(%error, "looking at the certificate files failed");
                }
            }
        });
        this
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.store) as Arc<dyn ResolvesServerCert>
    }

    /// Other files, already read.
    pub(super) fn change(&self, cert: &Path, key: &Path, read: Arc<CertifiedKey>) {
        let mut state = self.lock();
        state.cert = cert.to_owned();
        state.key = key.to_owned();
        state.seen = [None; 2];
        self.put(&mut state, read);
    }

    fn put(&self, state: &mut State, read: Arc<CertifiedKey>) {
        state.facts = facts(&read);
        state.last_error = None;
        state.is_unread = false;
        state.is_unsaid = false;
        state.is_expiry_said = false;
        self.store.swap(read);
    }

    fn look_again(&self, now: WallTime) {
        self.look_and(now, tls::from_files);
    }

    fn look_and(&self, now: WallTime, read: impl FnOnce(&Path, &Path) -> Read) {
        let mut state = self.lock();
        let found = look(&state.cert, &state.key);
        let is_new = found != state.seen;
        if is_new || state.is_unread {
            state.seen = found;
            let is_usable = self.read_again(&mut state, read);
            state.is_unsaid |= !is_usable && (is_new || !state.is_unread);
        }
        if !is_new && state.is_unsaid {
            state.is_unsaid = false;
            let error = state.last_error.as_deref().unwrap_or_default();
            warn!(%error, "certificate files not taken, the old ones stay");
        }
        let until = state.facts.as_ref().map(|facts| facts.life.until);
        if let Some(until) = until.filter(|until| now >= *until && !state.is_expiry_said) {
            state.is_expiry_said = true;
            warn!(%until, "the certificate has expired and is served nevertheless");
        }
    }

    /// Whether they can be used.
    fn read_again(&self, state: &mut State, read: impl FnOnce(&Path, &Path) -> Read) -> bool {
        match read(&state.cert, &state.key) {
            Ok(read) => {
                if read.cert != self.store.shown().cert {
                    let until = facts(&read).map(|facts| facts.life.until.to_string());
                    info!(
                        until = until.unwrap_or_default(),
                        "new certificate files in use"
                    );
                    self.put(state, read);
                } else {
                    state.last_error = None;
                    state.is_unread = false;
                    state.is_unsaid = false;
                }
                true
            }
            Err(error) => {
                state.is_unread = matches!(error, TlsError::Read { .. });
                state.last_error = Some(format!("{:#}", anyhow::Error::from(error)));
                false
            }
        }
    }

    pub(super) fn status(&self, now: WallTime) -> CertificateJson {
        let state = self.lock();
        let life = state.facts.as_ref().map(|facts| facts.life);
        let mut says = match life {
            Some(life) if life.is_over(now) => {
                format!("expired at {}, and served for want of another", life.until)
            }
            Some(life) => format!("served until {}", life.until),
            None => "served".to_owned(),
        };
        says.push_str(if state.last_error.is_some() {
            "; the files there now cannot be used, so it stays"
        } else {
            "; new files are taken within seconds"
        });
        CertificateJson {
            names: state
                .facts
                .as_ref()
                .map_or_else(Vec::new, |facts| facts.names.clone()),
            source: "files".to_owned(),
            not_before: life.map(|life| life.from),
            not_after: life.map(|life| life.until),
            renews_at: None,
            next_try: None,
            last_error: state.last_error.clone(),
            ca: None,
            says,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let this = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            this.write("cert", "a");
            this.write("key", "a");
            this
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Puts the certificate (and key) of `name`, made at first use, into a file.
        fn write(&self, file: &str, name: &str) {
            let domain = crate::names::Hostname::parse(&format!("{name}.example")).unwrap();
            tls::self_signed(&self.path(name), &domain).unwrap();
            let fresh = self.path("fresh");
            std::fs::copy(self.path(name), &fresh).unwrap();
            std::fs::rename(fresh, self.path(file)).unwrap();
        }

        fn watched(&self, tasks: &Tasks) -> Watched {
            let (cert, key) = (self.path("cert"), self.path("key"));
            let first = tls::from_files(&cert, &key).unwrap();
            Watched::start(cert, key, first, tasks)
        }
    }

    fn names(watched: &Watched) -> Vec<String> {
        facts(&watched.store.shown()).unwrap().names
    }

    #[tokio::test]
    async fn files_that_fit_are_taken_and_others_are_not() {
        let (files, tasks) = (Files::new(), Tasks::new());
        let watched = files.watched(&tasks);
        let now = Clock.now().wall;
        watched.look_again(now);
        assert_eq!(names(&watched), ["*.a.example", "a.example"]);

        files.write("cert", "b");
        watched.look_again(now);
        assert_eq!(names(&watched)[1], "a.example", "its key is not there yet");
        let status = watched.status(now);
        assert!(
            status
                .last_error
                .unwrap()
                .contains("cannot be used with its key")
        );
        assert!(status.says.ends_with("so it stays"), "{}", status.says);

        files.write("key", "b");
        watched.look_again(now);
        assert_eq!(names(&watched)[1], "b.example");
        assert_eq!(watched.status(now).last_error, None);

        std::fs::remove_file(files.path("key")).unwrap();
        watched.look_again(now);
        assert_eq!(names(&watched)[1], "b.example");
        assert!(watched.status(now).last_error.is_some());
        tasks.shutdown(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn files_that_could_not_be_read_for_a_moment_are_read_again() {
        let (files, tasks) = (Files::new(), Tasks::new());
        let watched = files.watched(&tasks);
        let now = Clock.now().wall;
        watched.look_again(now);
        files.write("cert", "b");
        files.write("key", "b");
        let too_many = |cert: &Path, _: &Path| {
            let path = cert.to_owned();
            let source = std::io::Error::from_raw_os_error(libc::EMFILE);
            Err(TlsError::Read { path, source })
        };
        watched.look_and(now, too_many);
        assert!(watched.lock().is_unsaid, "it may be well at the next look");
        for _ in 0..3 {
            watched.look_and(now, too_many);
            assert!(!watched.lock().is_unsaid, "it was said once");
        }
        assert_eq!(names(&watched)[1], "a.example");
        watched.look_again(now);
        assert_eq!(names(&watched)[1], "b.example");
        assert_eq!(watched.status(now).last_error, None);
        tasks.shutdown(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn an_expired_one_is_served_and_said() {
        let (files, tasks) = (Files::new(), Tasks::new());
        let watched = files.watched(&tasks);
        let late = Clock.now().wall.plus(Duration::from_secs(400 * 86_400));
        watched.look_again(late);
        assert!(watched.lock().is_expiry_said);
        assert!(watched.status(late).says.starts_with("expired at "));
        assert_eq!(names(&watched)[1], "a.example");
        tasks.shutdown(Duration::from_secs(1)).await;
    }
}
