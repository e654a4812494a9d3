//! The operator's own program that makes a TXT record and takes it away: `hook present|cleanup NAME VALUE`.
//! It gets nothing of our environment, and an end.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

/// For one call; many providers are slow, none needs longer.
const DEADLINE: Duration = Duration::from_secs(120);
/// After the hook's end, for what it left running with its standard error.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What it says is shown up to here.
const SAID_MAX: usize = 400;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub(in crate::acme) enum HookError {
    #[error("cannot run the hook {hook}")]
    Run {
        hook: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the hook {hook} did not end within {} s and was killed", DEADLINE.as_secs())]
    Late { hook: String },
    #[error("the hook {hook} failed ({status}){}", quoted(.said))]
    Failed {
        hook: String,
        status: ExitStatus,
        said: String,
    },
}

fn quoted(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

/// Ends the hook and what it started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is what we want.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Calls it once.
pub(super) async fn call(
    hook: &Path,
    verb: &str,
    name: &str,
    value: &str,
) -> Result<(), HookError> {
    let shown = || hook.display().to_string();
    let spawned = Command::new(hook)
        .args([verb, name, value])
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|source| HookError::Run {
        hook: shown(),
        source,
    })?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = Group(pid.map(Pid::from_raw));
    let mut stderr = child.stderr.take();
    let work = async {
        let mut words = Vec::new();
        let status = tokio::select! {
            biased;
            // A pipe that is full would keep it from ending, so it is read meanwhile.
            status = child.wait() => status,
            () = listen(&mut stderr, &mut words) => child.wait().await,
        };
        let _ = timeout(LAST_WORDS, listen(&mut stderr, &mut words)).await;
        (status, words)
    };
    let Ok((status, words)) = timeout(DEADLINE, work).await else {
        return Err(HookError::Late { hook: shown() });
    };
    let status = status.map_err(|source| HookError::Run {
        hook: shown(),
        source,
    })?;
    if status.success() {
        // What it has left running on purpose may run on.
        group.0 = None;
        return Ok(());
    }
    Err(HookError::Failed {
        hook: shown(),
        status,
        said: tail(&words),
    })
}

/// Reads to the end, and keeps the last of it.
async fn listen(from: &mut Option<impl AsyncRead + Unpin>, words: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        words.extend(&buffer[..length]);
        let over = words.len().saturating_sub(SAID_MAX * 4);
        words.drain(..over);
    }
}

/// The end of what was said, on one line.
fn tail(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let line: Vec<&str> = text.split_whitespace().collect();
    let line: String = line.join(" ").chars().filter(|c| !c.is_control()).collect();
    let over = line.chars().count().saturating_sub(SAID_MAX);
    line.chars().skip(over).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        let path = dir.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn it_gets_three_words_and_no_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook = script(
            dir.path(),
            &format!("echo \"$@\" > {0}; env >> {0}", out.display()),
        );
        call(&hook, "present", "_acme-challenge.t.example", "abc")
            .await
            .unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        assert!(text.starts_with("present _acme-challenge.t.example abc\n"));
        assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
    }

    #[tokio::test]
    async fn one_that_fails_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let hook = script(dir.path(), "echo 'no such\nzone' >&2; exit 3");
        let error = call(&hook, "present", "a", "b").await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.ends_with("no such zone") && text.contains("exit status: 3"),
            "{text}"
        );
        let missing = dir.path().join("none");
        let error = call(&missing, "present", "a", "b").await.unwrap_err();
        assert!(matches!(error, HookError::Run { .. }));
    }

    #[tokio::test]
    async fn a_flood_of_words_is_cut_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let hook = script(
            dir.path(),
            "yes a | head -c 200000 >&2; echo end >&2; exit 1",
        );
        let error = call(&hook, "present", "a", "b")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("a end") && error.len() < 700,
            "{}",
            error.len()
        );
    }
}
