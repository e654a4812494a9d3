//! `import`: another tool's configuration becomes `[[tunnel]]` entries of client.toml, and every line that does
//! not is told of. Not a bridge: nothing of the other tool is started, asked or changed.

mod actions;
mod cloudflared;
mod draft;
mod frp;
mod ngrok;
mod rules;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Cli;
use super::args::{ImportArgs, Origin};
use super::error::CtlError;
use crate::codes::Code;
use crate::config::{ClientConfig, ConfigError, OriginsConfig};
use draft::{Carried, Draft, Note, Secrets};
use rules::SecretFile;
use tree::Node;

/// Far more than any of these files has.
const FILE_MAX: u64 = 1 << 20;

/// How a file begins that `--write` made, and so may make again.
const MARK: &str = "# Written by wormkeyctl import";

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    /// It is not there, or not ours to read.
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    /// More than 1 MiB.
    #[error("{path} is larger than any such file")]
    TooLarge { path: PathBuf },
    /// Not YAML, or not TOML.
    #[error("line {line}: {what}; this is not {format}")]
    Syntax {
        format: &'static str,
        line: usize,
        what: String,
    },
    /// frp's old format.
    #[error("line 1: this is frp's old format, frpc.ini")]
    Ini,
    /// frp renders its files with Go's templates.
    #[error("line {line}: a template stands here, which only frp can fill in")]
    Template { line: usize },
    /// Well written, but not by any of the three.
    #[error("this is neither ngrok's file nor frp's nor cloudflared's")]
    Unknown,
    /// Not where it must be.
    #[error("line {line}: {key} is not {wanted}")]
    Shape {
        line: usize,
        key: String,
        wanted: String,
    },
    /// The client's own configuration does not hold, alone or with the new entries.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tunnel of that name stands in the client's configuration already.
    #[error("{name} is declared in the client's configuration already")]
    Declared { name: String },
    /// Somebody's own file stands where ours would.
    #[error("{path} is there already, and was not written by import")]
    Occupied { path: PathBuf },
    /// The new file cannot be written.
    #[error("{path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl ImportError {
    pub(super) fn shape(line: usize, key: &str, wanted: &str) -> Self {
        Self::Shape {
            line,
            key: key.to_owned(),
            wanted: wanted.to_owned(),
        }
    }

    /// The table's row.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Read { .. } | Self::TooLarge { .. } | Self::Unknown => Code::Usage,
            Self::Syntax { .. }
            | Self::Ini
            | Self::Template { .. }
            | Self::Shape { .. }
            | Self::Config(_) => Code::BadConfiguration,
            Self::Declared { .. } | Self::Occupied { .. } => Code::Conflict,
            Self::Write { .. } => Code::Internal,
        }
    }

    /// What to do.
    pub(super) fn fix(&self) -> String {
        let fix = match self {
            Self::Read { .. } => "check its name and who owns it",
            Self::TooLarge { .. } => "give the tool's configuration, which has a few KiB",
            Self::Syntax { .. } => {
                "mend that line, or say what it is with --from ngrok, frp or cloudflared"
            }
            Self::Ini => "write it as frpc.toml first; frp 0.52 and later read that",
            Self::Template { .. } => "write out what it stands for",
            Self::Unknown => "say whose it is with --from ngrok, frp or cloudflared",
            Self::Shape { .. } => "mend that line; the tool itself would refuse it as well",
            Self::Config(_) => "mend the lines named; nothing was written",
            Self::Declared { .. } => "rename or remove one of them; nothing was written",
            Self::Occupied { .. } => "move it away, or add the printed entries by hand",
            Self::Write { .. } => {
                "use sudo for the system's client, or add the printed entries by hand"
            }
        };
        fix.to_owned()
    }
}

#[derive(Serialize)]
struct Imported<'a> {
    from: &'static str,
    tunnels: &'a [Carried],
    notes: &'a [Note],
    written: Option<&'a Path>,
}

pub(super) fn import(cli: &mut Cli, args: &ImportArgs) -> Result<(), CtlError> {
    let path = cli.io.current_dir.join(&args.file);
    let text = read(&path)?;
    let top = parse(&path, &text, args.from)?;
    let from = args
        .from
        .or_else(|| recognise(&top))
        .ok_or(ImportError::Unknown)?;
    let secrets = Secrets {
        folder: secrets_folder(cli, args, from),
        written: args.write,
    };
    let draft = draft(&top, from, origins(args), secrets)?;
    let body = draft.toml(&format!("{MARK}, from {}.", shown(&args.file)));
    let written = match args.write {
        true if draft.open() > 0 => Some(write(args, from, &draft, &body)?),
        _ => None,
    };
    tell(cli, from, &draft, &body, written.as_deref())
}

/// A file name as it can stand in a comment.
fn shown(file: &Path) -> String {
    super::text::clean(&file.display().to_string())
}

fn read(path: &Path) -> Result<String, ImportError> {
    let failed = |err| ImportError::Read {
        path: path.to_owned(),
        err,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let read = file
        .take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if read as u64 > FILE_MAX {
        return Err(ImportError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// frp's file is TOML unless its name says otherwise; the others' are YAML.
fn parse(path: &Path, text: &str, from: Option<Origin>) -> Result<Node, ImportError> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let yaml = matches!(ending, Some("yml" | "yaml" | "json"));
    let toml = ending == Some("toml") || !yaml && from == Some(Origin::Frp);
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with(['#', ';']));
    if ending == Some("ini") || first.is_some_and(|line| line.trim() == "[common]") {
        return Err(ImportError::Ini);
    }
    if toml || from == Some(Origin::Frp) {
        let template = text.lines().position(|line| line.contains("{{"));
        if let Some(line) = template {
            return Err(ImportError::Template { line: line + 1 });
        }
    }
    if toml {
        tree::toml(text)
    } else {
        tree::yaml(text)
    }
}

fn recognise(top: &Node) -> Option<Origin> {
    if frp::is_one(top) {
        Some(Origin::Frp)
    } else if ngrok::is_one(top) {
        Some(Origin::Ngrok)
    } else if cloudflared::is_one(top) {
        Some(Origin::Cloudflared)
    } else {
        None
    }
}

fn draft(
    top: &Node,
    from: Origin,
    origins: OriginsConfig,
    secrets: Secrets,
) -> Result<Draft, ImportError> {
    let mut draft = Draft::new(origins, &ClientConfig::keys(), secrets);
    match from {
        Origin::Ngrok => ngrok::read(top, &mut draft)?,
        Origin::Frp => frp::read(top, &mut draft)?,
        Origin::Cloudflared => cloudflared::read(top, &mut draft)?,
    }
    draft.notes.sort_by_key(|note| note.line);
    Ok(draft)
}

/// What the client may dial as it is configured; the defaults when that cannot be read, which `--write` says.
fn origins(args: &ImportArgs) -> OriginsConfig {
    ClientConfig::load(args.config.as_deref())
        .map_or_else(|_| OriginsConfig::default(), |config| config.origins)
}

/// Puts the entries into a file of their own, `client.d/imported-ngrok.toml`, once they hold together with what
/// is configured.
fn write(
    args: &ImportArgs,
    from: Origin,
    draft: &Draft,
    body: &str,
) -> Result<PathBuf, ImportError> {
    let main = ClientConfig::file(args.config.as_deref())?;
    let dir = main.with_file_name("client.d");
    let path = dir.join(format!("imported-{}.toml", from.word()));
    let failed = |err| ImportError::Write {
        path: path.clone(),
        err,
    };
    let before = match std::fs::read_to_string(&path) {
        Ok(text) if text.starts_with(MARK) => Some(text),
        Ok(_) => return Err(ImportError::Occupied { path }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => return Err(failed(err)),
    };
    if before.as_deref() == Some(body) {
        put_secrets(draft)?;
        return Ok(path);
    }
    if before.is_none() {
        declared(args, draft)?;
    }
    std::fs::create_dir_all(&dir).map_err(failed)?;
    let mut new = tempfile::Builder::new()
        .prefix(".imported-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(&dir)
        .map_err(failed)?;
    new.write_all(body.as_bytes()).map_err(failed)?;
    new.as_file().sync_all().map_err(failed)?;
    ClientConfig::load(Some(new.path()))?;
    put_secrets(draft)?;
    new.persist(&path).map_err(|err| failed(err.error))?;
    Ok(path)
}

/// Beside the entries: `client.d/imported-ngrok.secrets`.
fn secrets_folder(cli: &Cli, args: &ImportArgs, from: Origin) -> PathBuf {
    let main = ClientConfig::file(args.config.as_deref())
        .unwrap_or_else(|_| "/etc/wormkey/client.toml".into());
    let name = format!("client.d/imported-{}.secrets", from.word());
    cli.io.current_dir.join(main.with_file_name(name))
}

/// Puts secrets into their files, each for the daemon's eyes alone.
fn put_secrets(draft: &Draft) -> Result<(), ImportError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let folder = draft.secrets_folder();
    let failed = |err| ImportError::Write {
        path: folder.to_owned(),
        err,
    };
    let mut secrets = draft
        .tunnels
        .iter()
        .flat_map(|tunnel| &tunnel.secrets)
        .peekable();
    if secrets.peek().is_none() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    give_to_daemon(folder).map_err(failed)?;
    for SecretFile { name, secret, .. } in secrets {
        let mut new = tempfile::Builder::new()
            .prefix(".secret-")
            .permissions(std::fs::Permissions::from_mode(0o600))
            .tempfile_in(folder)
            .map_err(failed)?;
        writeln!(new, "{}", secret.expose()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        give_to_daemon(new.path()).map_err(failed)?;
        new.persist(folder.join(name))
            .map_err(|err| failed(err.error))?;
    }
    Ok(())
}

/// What root writes is for the machine's client, which is not root.
fn give_to_daemon(path: &Path) -> io::Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    match nix::unistd::User::from_name("wormkey")? {
        Some(user) => nix::unistd::chown(path, Some(user.uid), Some(user.gid)).map_err(Into::into),
        None => Ok(()),
    }
}

/// Names that stand in the configuration already, which is found before anything is written.
fn declared(args: &ImportArgs, draft: &Draft) -> Result<(), ImportError> {
    let config = ClientConfig::load(args.config.as_deref())?;
    let taken = |tunnel: &&Carried| {
        tunnel.kept_back.is_empty()
            && config
                .tunnels
                .iter()
                .any(|own| own.name.as_str() == tunnel.name)
    };
    match draft.tunnels.iter().find(taken) {
        None => Ok(()),
        Some(tunnel) => Err(ImportError::Declared {
            name: tunnel.name.clone(),
        }),
    }
}

fn tell(
    cli: &mut Cli,
    from: Origin,
    draft: &Draft,
    body: &str,
    written: Option<&Path>,
) -> Result<(), CtlError> {
    if cli.json {
        return cli.document(&Imported {
            from: from.word(),
            tunnels: &draft.tunnels,
            notes: &draft.notes,
            written,
        });
    }
    for Note { line, key, what } in &draft.notes {
        cli.hint(&format!("line {line}: {key}: {what}"));
    }
    if let Some(path) = written {
        cli.line(&format!("wrote {}", shown(path)))?;
    } else {
        cli.lines(&body.lines().collect::<Vec<_>>())?;
    }
    let (open, back) = (draft.open(), draft.tunnels.len() - draft.open());
    let mut sum = format!(
        "{open} of {} tunnels carried over from {}",
        draft.found,
        from.word()
    );
    if back > 0 {
        sum.push_str(&format!(
            ", {back} kept back as comments: look at what guards them first"
        ));
    }
    cli.hint(&sum);
    match written {
        Some(_) => cli.hint("open them with: wormkeyctl reload"),
        None if open > 0 => {
            cli.hint("add them to client.toml, or let --write do it, then: wormkeyctl reload");
        }
        None => {}
    }
    Ok(())
}
