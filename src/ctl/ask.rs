//! From flags to what the daemon is asked: targets made whole, since the daemon has another directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::OpenFlags;
use super::error::CtlError;
use crate::admin::types::OpenAsk;
use crate::names::{Kind, Target};

/// Labels a tunnel may have.
const LABELS_MAX: usize = 16;

/// The request that `open` and `run` send.
pub(super) fn open_ask(
    words: &[String],
    flags: &OpenFlags,
    current_dir: &Path,
) -> Result<OpenAsk, CtlError> {
    let target = target(words, current_dir)?;
    check(&target, flags)?;
    Ok(OpenAsk {
        target: target.to_string(),
        name: flags.name.clone(),
        expires: flags.expires.clone(),
        idle: flags.idle.clone(),
        hold: flags.hold.clone(),
        host: flags.host.clone(),
        labels: labels(&flags.labels)?,
        wait_for: flags.wait_for.clone(),
        wait_timeout: flags
            .wait_for
            .as_ref()
            .and_then(|_| flags.wait_timeout.clone()),
        public_port: flags.public_port,
        yes_expose: flags.yes_expose,
        proxy_protocol: flags.proxy_protocol.clone(),
        policy: None,
        domains: flags.domains.clone(),
    })
}

/// `3000`, or two words: `http 3000`, `tcp 22`, `file ./dist`.
fn target(words: &[String], current_dir: &Path) -> Result<Target, CtlError> {
    let text = match words {
        [one] => one.clone(),
        [kind, rest] => join_words(kind, rest)?,
        _ => String::new(),
    };
    let text = absolute(text, current_dir);
    text.parse().map_err(|err| {
        CtlError::usage(
            format!("{err}"),
            "write a port such as 3000, or an address such as http://localhost:3000",
        )
    })
}

fn join_words(kind: &str, rest: &str) -> Result<String, CtlError> {
    match kind {
        "unix" | "file" => Ok(format!("{kind}:{rest}")),
        "http" | "https" | "https+insecure" | "tcp" | "tls" | "udp" => {
            let rest = rest
                .strip_prefix(kind)
                .and_then(|rest| rest.strip_prefix("://"))
                .unwrap_or(rest);
            Ok(format!("{kind}://{rest}"))
        }
        _ => Err(CtlError::usage(
            format!("{kind:?} is not a kind of target"),
            "the first of two words is http, https, https+insecure, unix, file, tcp, tls or udp",
        )),
    }
}

/// `file:dist` means the one in this directory; the daemon would look in its own.
fn absolute(text: String, current_dir: &Path) -> String {
    for scheme in ["file:", "unix:"] {
        if let Some(path) = text.strip_prefix(scheme) {
            if path.is_empty() || path.starts_with('/') {
                return text;
            }
            let mut whole = PathBuf::from(current_dir);
            for part in Path::new(path).components() {
                match part {
                    std::path::Component::CurDir => {}
                    std::path::Component::ParentDir => {
                        whole.pop();
                    }
                    other => whole.push(other),
                }
            }
            return format!("{scheme}{}", whole.display());
        }
    }
    text
}

/// Flags that contradict the kind of target.
fn check(target: &Target, flags: &OpenFlags) -> Result<(), CtlError> {
    let kind = target.kind();
    if flags.public_port.is_some() && !matches!(kind, Kind::Tcp | Kind::Udp) {
        return Err(CtlError::usage(
            format!("--public-port is for tcp and udp; {target} has a name instead"),
            "leave it out, or write tcp://host:port",
        ));
    }
    if flags.proxy_protocol.is_some() && !matches!(kind, Kind::Tcp | Kind::Tls) {
        return Err(CtlError::usage(
            format!("--proxy-protocol is for tcp and tls; {target} is neither"),
            "leave it out: http services read X-Forwarded-For",
        ));
    }
    let http_only = [
        ("--host", flags.host.is_some()),
        ("--wait-for", flags.wait_for.is_some()),
    ];
    for (flag, given) in http_only {
        if given && kind != Kind::Http {
            return Err(CtlError::usage(
                format!("{flag} is for http; {target} carries bytes only"),
                "leave it out, or write http://host:port",
            ));
        }
    }
    Ok(())
}

fn labels(given: &[(String, String)]) -> Result<BTreeMap<String, String>, CtlError> {
    let mut labels = BTreeMap::new();
    for (key, value) in given {
        if labels.insert(key.clone(), value.clone()).is_some() {
            return Err(CtlError::usage(
                format!("the label {key:?} is given twice"),
                "give each label once",
            ));
        }
    }
    if labels.len() > LABELS_MAX {
        return Err(CtlError::usage(
            format!("{} labels are too many", labels.len()),
            format!("give {LABELS_MAX} at most"),
        ));
    }
    Ok(labels)
}
