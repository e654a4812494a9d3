//! Which files are read: the ones named, the system's, or a person's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::file::{Document, Place};
use super::problem::{ConfigError, Problem};
use super::resolve_client::Homes;
use super::section::Findings;
use super::{ClientConfig, ServerConfig, resolve, resolve_client};

const SERVER_FILE: &str = "/etc/wormkey/server.toml";
const CLIENT_FILE: &str = "/etc/wormkey/client.toml";

impl ServerConfig {
    /// The file that [`load`](Self::load) reads first.
    pub fn file(path: Option<&Path>) -> &Path {
        path.unwrap_or(Path::new(SERVER_FILE))
    }

    /// Reads `path`, else `/etc/wormkey/server.toml`, then `server.d/*.toml` beside it.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let path = Self::file(path);
        let (document, found) = Document::read(path, "server").map_err(ConfigError::new)?;
        if !found {
            return Err(missing(
                path,
                "there is no such file; make one with at least domain = \"tunnel.example.com\", \
                 or copy config-examples/server.toml (to try things out, `wormkeyd dev` needs none)",
            ));
        }
        resolve::server(document, &Findings::default())
    }

    /// Every key that `server.toml` may have, dotted.
    pub fn keys() -> Vec<String> {
        let findings = Findings::default();
        // What it resolves to does not matter, only which keys it looks for.
        let _ = resolve::server(Document::empty(), &findings);
        values_only(findings.keys())
    }
}

impl ClientConfig {
    /// The file that [`load`](Self::load) reads first, whether or not it is there.
    pub fn file(path: Option<&Path>) -> Result<PathBuf, ConfigError> {
        Ok(Person::current().file(path)?.0)
    }

    /// Reads `path`; else, for root, `/etc/wormkey/client.toml`, and for anybody else the one under
    /// `$XDG_CONFIG_HOME/wormkey`; then `client.d/*.toml` beside it. Only a file that was named must exist.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_as(path, &Person::current())
    }

    /// The same as somebody else.
    pub(super) fn load_as(path: Option<&Path>, person: &Person) -> Result<Self, ConfigError> {
        let (file, homes) = person.file(path)?;
        let (document, found) = Document::read(&file, "client").map_err(ConfigError::new)?;
        if !found && (path.is_some() || absolute(&person.config).is_some()) {
            return Err(missing(
                &file,
                "there is no such file; leave out --config to start with the defaults",
            ));
        }
        resolve_client::client(document, homes, &Findings::default())
    }

    /// Every key that `client.toml` may have, dotted.
    pub fn keys() -> Vec<String> {
        let findings = Findings::default();
        let _ = resolve_client::client(Document::with_one("tunnel"), system_homes(), &findings);
        values_only(findings.keys())
    }
}

impl Document {
    fn empty() -> Self {
        Self {
            place: Place {
                file: Path::new("").into(),
                line: None,
            },
            entries: super::file::Entries::new(),
        }
    }

    fn with_one(list: &str) -> Self {
        use super::file::{Entries, Entry, Node};
        let mut this = Self::empty();
        let entry = |node| Entry {
            place: this.place.clone(),
            node,
        };
        let list_node = Node::List(vec![entry(Node::Table(Entries::new()))]);
        let list_entry = entry(list_node);
        this.entries.insert(list.to_owned(), list_entry);
        this
    }
}

/// The keys that hold a value, without the names of their tables.
fn values_only(keys: Vec<String>) -> Vec<String> {
    let is_table = |key: &str| {
        keys.iter()
            .any(|other| other.starts_with(&format!("{key}.")))
    };
    let mut values: Vec<_> = keys.iter().filter(|key| !is_table(key)).cloned().collect();
    values.sort();
    values
}

fn missing(path: &Path, what: &str) -> ConfigError {
    ConfigError::new(vec![Problem {
        file: path.to_owned(),
        line: None,
        key: String::new(),
        what: what.to_owned(),
    }])
}

fn system_homes() -> Homes {
    Homes {
        state_dir: "/var/lib/wormkey".into(),
        socket: "/run/wormkey/client.sock".into(),
    }
}

/// Who runs a client, and what their environment says.
#[derive(Debug, Clone, Default)]
pub(super) struct Person {
    pub(super) uid: u32,
    pub(super) home: Option<OsString>,
    pub(super) config_home: Option<OsString>,
    pub(super) state_home: Option<OsString>,
    pub(super) runtime_dir: Option<OsString>,
    pub(super) config: Option<OsString>,
    pub(super) state_dir: Option<OsString>,
    pub(super) socket: Option<OsString>,
}

impl Person {
    fn current() -> Self {
        let uid = nix::unistd::Uid::effective();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        // A service without HOME still has one in the user database.
        let recorded = || nix::unistd::User::from_uid(uid).ok().flatten();
        Self {
            uid: uid.as_raw(),
            home: home.or_else(|| recorded().map(|user| user.dir.into_os_string())),
            config_home: std::env::var_os("XDG_CONFIG_HOME"),
            state_home: std::env::var_os("XDG_STATE_HOME"),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            config: std::env::var_os("WORMKEY_CONFIG"),
            state_dir: std::env::var_os("WORMKEY_STATE_DIR"),
            socket: std::env::var_os("WORMKEY_SOCKET"),
        }
    }

    /// Which file is read, and where things are when it does not say.
    fn file(&self, path: Option<&Path>) -> Result<(PathBuf, Homes), ConfigError> {
        let named = path.map(Path::to_owned).or_else(|| absolute(&self.config));
        // Whose client it is decides where things are, and not how its file is named: a person may not write
        // to the machine's places.
        let (file, homes) = match named {
            named if self.uid == 0 => (named.unwrap_or_else(|| CLIENT_FILE.into()), system_homes()),
            Some(named) => (named, self.homes()),
            None => self.places()?,
        };
        let homes = Homes {
            state_dir: absolute(&self.state_dir).unwrap_or(homes.state_dir),
            socket: absolute(&self.socket).unwrap_or(homes.socket),
        };
        Ok((file, homes))
    }

    /// Where things of a person's own client are; the machine's places for one that has no home at all.
    fn homes(&self) -> Homes {
        self.places()
            .map_or_else(|_| system_homes(), |(_, homes)| homes)
    }

    /// The file and the homes of a person's own client.
    fn places(&self) -> Result<(PathBuf, Homes), ConfigError> {
        let under_home = |set: &Option<OsString>, rest: &str| {
            absolute(set).or_else(|| Some(absolute(&self.home)?.join(rest)))
        };
        let config = under_home(&self.config_home, ".config");
        let state = under_home(&self.state_home, ".local/state");
        let Some((config, state)) = config.zip(state) else {
            return Err(missing(
                Path::new("client.toml"),
                "there is no home directory to look for it in; set HOME, or name a file with --config",
            ));
        };
        let state_dir = state.join("wormkey");
        let socket = match absolute(&self.runtime_dir) {
            Some(dir) => dir.join("wormkey/client.sock"),
            None => state_dir.join("client.sock"),
        };
        let homes = Homes { state_dir, socket };
        Ok((config.join("wormkey/client.toml"), homes))
    }
}

/// The XDG rules: a path that is not absolute counts as not set.
fn absolute(set: &Option<OsString>) -> Option<PathBuf> {
    set.as_ref()
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
