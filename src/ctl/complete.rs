//! Completion: what the shells ask for at each TAB, names of tunnels and devices included, which only a running
//! daemon knows. A question that a daemon does not answer at once is answered with nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::CommandFactory as _;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use serde_json::Value;

use super::args::Args;
use super::error::Role;
use super::text::clean_short;
use super::{Io, default_socket};
use crate::admin::ApiClient;

/// Set by the shells' scripts; a name of our own, since a stray COMPLETE would make the command mute.
const VARIABLE: &str = "WORMKEY_COMPLETE";
const PROGRAM: &str = "wormkeyctl";

/// A person has pressed TAB and waits.
const DEADLINE: Duration = Duration::from_millis(700);

/// Answers a shell, if it is one that asks, and says whether it was.
pub fn answered() -> bool {
    let here = std::env::current_dir().ok();
    let env = CompleteEnv::with_factory(Args::command).var(VARIABLE);
    // What goes wrong here must not stand in somebody's prompt.
    env.try_complete(std::env::args_os(), here.as_deref())
        .unwrap_or(true)
}

/// Writes the scripts for bash, zsh and fish, which ask [`answered`].
pub(super) fn write(dir: &Path) -> std::io::Result<()> {
    let shells: [(&dyn EnvCompleter, &str); 3] = [
        (&Bash, "wormkeyctl.bash"),
        (&Zsh, "_wormkeyctl"),
        (&Fish, "wormkeyctl.fish"),
    ];
    for (shell, file) in shells {
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
        let script = String::from_utf8_lossy(&script);
        std::fs::write(dir.join(file), autoloaded(&script))?;
    }
    Ok(())
}

/// zsh runs a file of its fpath as the function itself: the first TAB must complete, not only define.
fn autoloaded(script: &str) -> String {
    const DEFINES: &str = "\ncompdef _clap_dynamic_completer_wormkeyctl wormkeyctl";
    const COMPLETES: &str = "
if [ \"$funcstack[1]\" = _wormkeyctl ]; then
    _clap_dynamic_completer_wormkeyctl \"$@\"
else
    compdef _clap_dynamic_completer_wormkeyctl wormkeyctl
fi";
    let script = script.replace(DEFINES, COMPLETES);
    format!("{}\n", script.trim_end())
}

/// The client's tunnels, by name, with where they lead.
pub(super) fn tunnels() -> Vec<CompletionCandidate> {
    listed(
        Role::Client,
        "tunnels?limit=1000",
        "tunnels",
        &["slug", "id"],
        "target",
    )
}

/// The server's tunnels, by name, with whose they are.
pub(super) fn server_tunnels() -> Vec<CompletionCandidate> {
    listed(
        Role::Server,
        "tunnels?limit=1000",
        "tunnels",
        &["slug", "id"],
        "user",
    )
}

/// The server's devices, by name where that can be typed, else by id.
pub(super) fn devices() -> Vec<CompletionCandidate> {
    listed(Role::Server, "devices", "devices", &["name", "id"], "user")
}

/// The server's users.
pub(super) fn users() -> Vec<CompletionCandidate> {
    listed(Role::Server, "users", "users", &["name", "id"], "id")
}

/// All that an operator can name: users, devices and tunnels.
pub(super) fn anything() -> Vec<CompletionCandidate> {
    let lists = [users(), devices(), server_tunnels()];
    lists.into_iter().flatten().collect()
}

fn listed(
    role: Role,
    path: &str,
    list: &str,
    keys: &[&str],
    help: &str,
) -> Vec<CompletionCandidate> {
    let words = std::env::args_os().collect::<Vec<_>>();
    let socket = socket_of(&words).unwrap_or_else(|| default_socket(role, &Io::process()));
    let answer = asked(ApiClient::new(socket).with_deadline(DEADLINE), path);
    candidates(answer.as_ref(), list, keys, help)
}

fn asked(api: ApiClient, path: &str) -> Option<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(api.get(&format!("/v1/{path}"))).ok()
}

/// What stands after `--socket` on the line that is being typed.
fn socket_of(words: &[OsString]) -> Option<PathBuf> {
    let mut typed = words.iter().skip_while(|word| *word != "--").skip(1);
    while let Some(word) = typed.next() {
        match word.to_str() {
            Some("--") => return None,
            Some("--socket") => return typed.next().map(PathBuf::from),
            Some(word) => {
                if let Some(path) = word.strip_prefix("--socket=") {
                    return Some(path.into());
                }
            }
            None => {}
        }
    }
    None
}

fn candidates(
    answer: Option<&Value>,
    list: &str,
    keys: &[&str],
    help: &str,
) -> Vec<CompletionCandidate> {
    let rows = answer.and_then(|answer| answer[list].as_array());
    let row = |row: &Value| {
        let text = |key: &&str| row[*key].as_str().filter(|text| is_word(text));
        let value = keys.iter().find_map(text)?;
        let help = row[help].as_str().map(|text| clean_short(text).into());
        Some(CompletionCandidate::new(value).help(help))
    };
    rows.into_iter().flatten().filter_map(row).collect()
}

/// Whether a shell takes it as it stands: a device's name is whatever its machine calls itself.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && !text.starts_with('-') && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(candidates: &[CompletionCandidate]) -> Vec<String> {
        let show = |one: &CompletionCandidate| {
            let help = one.get_help().map(ToString::to_string).unwrap_or_default();
            format!("{} ({help})", one.get_value().to_string_lossy())
        };
        candidates.iter().map(show).collect()
    }

    #[test]
    fn a_name_that_a_shell_would_not_take_is_completed_by_its_id() {
        let answer = json!({"devices": [
            {"name": "laptop", "id": "dev_1", "user": "ada"},
            {"name": "$(reboot)", "id": "dev_2", "user": "e\u{1b}ve"},
            {"name": "-rf", "id": "dev_3", "user": null},
            {"name": "", "id": null},
        ]});
        let found = candidates(Some(&answer), "devices", &["name", "id"], "user");
        assert_eq!(
            values(&found),
            ["laptop (ada)", "dev_2 (e\\u{1b}ve)", "dev_3 ()"]
        );
        assert!(candidates(None, "devices", &["name"], "user").is_empty());
        assert!(candidates(Some(&json!([])), "devices", &["name"], "user").is_empty());
    }

    #[test]
    fn the_socket_on_the_line_is_the_one_that_is_asked() {
        for (line, expected) in [
            (
                "wormkeyctl -- wormkeyctl --socket /a/b show x",
                Some("/a/b"),
            ),
            ("wormkeyctl -- wormkeyctl show --socket=/c x", Some("/c")),
            ("wormkeyctl -- wormkeyctl show x", None),
            (
                "wormkeyctl --socket /no -- wormkeyctl run -- echo --socket /a",
                None,
            ),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(socket_of(&words), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn every_name_of_what_is_there_is_completed() {
        fn arguments(command: &clap::Command, path: &str, into: &mut Vec<(String, bool)>) {
            for arg in command.get_arguments() {
                let names = arg.get_value_names().unwrap_or_default();
                let of_names = names
                    .iter()
                    .any(|name| matches!(name.as_str(), "SLUG" | "USER|DEVICE|SLUG" | "ID|NAME"));
                // A new tunnel's name is nobody's yet.
                if of_names && arg.get_id() != "name" {
                    let completes = arg.get::<clap_complete::ArgValueCandidates>().is_some();
                    into.push((format!("{path} {}", arg.get_id()), completes));
                }
            }
            for sub in command.get_subcommands() {
                arguments(sub, &format!("{path} {}", sub.get_name()), into);
            }
        }
        let mut found = Vec::new();
        arguments(&Args::command(), "", &mut found);
        assert!(found.len() >= 9, "{found:?}");
        let without: Vec<_> = found.iter().filter(|(_, completes)| !completes).collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn the_script_for_zsh_completes_at_the_first_tab() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let zsh = std::fs::read_to_string(dir.path().join("_wormkeyctl")).unwrap();
        assert!(zsh.starts_with("#compdef wormkeyctl\n"), "{zsh}");
        assert!(zsh.contains("$funcstack[1]"), "{zsh}");
        for file in ["wormkeyctl.bash", "wormkeyctl.fish"] {
            let script = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(script.contains("WORMKEY_COMPLETE="), "{script}");
        }
    }
}
