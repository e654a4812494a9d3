use std::path::Path;

use super::Shell;
use crate::codes::Code;
use crate::ctl::man;

fn committed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

#[test]
fn the_manual_says_what_the_definition_says() {
    for (name, rendered) in [
        ("wormkeyctl.1", man::wormkeyctl()),
        ("wormkey-errors.7", man::errors()),
    ] {
        assert!(
            committed(name) == rendered,
            "man/{name} is out of date; regenerate it with: cargo run --bin wormkeyctl -- generate man man"
        );
    }
}

#[test]
fn every_command_every_flag_and_every_code_is_in_the_manual() {
    use clap::CommandFactory as _;
    let page = man::wormkeyctl().replace('\\', "");
    fn check(command: &clap::Command, page: &str) -> usize {
        let flags = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .map(|long| {
                assert!(page.contains(&format!("--{long}")), "{long}");
            });
        let mut seen = flags.count();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            assert!(page.contains(sub.get_name()), "{}", sub.get_name());
            seen += check(sub, page);
        }
        seen
    }
    assert!(check(&crate::ctl::args::Args::command(), &page) > 30);
    let errors = man::errors();
    for code in Code::ALL {
        assert!(errors.contains(&format!(".TP\n\\fB{code}\\fR\n")), "{code}");
    }
    let exits = Code::ALL.iter().map(|code| code.row().exit);
    for exit in exits {
        assert!(page.contains(&format!(".TP\nfB{exit}fR\n")), "exit {exit}");
    }
}

#[test]
fn pages_are_plain_roff() {
    for page in [man::wormkeyctl(), man::errors()] {
        assert!(page.is_ascii());
        assert_eq!(page.matches(".TH ").count(), 1);
        assert_eq!(page.matches(".ie ").count(), 1);
        assert!(!page.contains(" \n") && page.ends_with('\n') && !page.ends_with("\n\n"));
    }
}

#[tokio::test]
async fn packagers_get_pages_and_completions_from_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    assert_eq!(
        Shell::new().run(&format!("generate man {at}")).await.exit,
        0
    );
    assert_eq!(
        Shell::new()
            .run(&format!("generate completions {at}"))
            .await
            .exit,
        0
    );
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "_wormkeyctl",
        "wormkey-errors.7",
        "wormkeyctl.1",
        "wormkeyctl.bash",
        "wormkeyctl.fish",
    ];
    assert_eq!(names, expected);
    let missing = Shell::new()
        .run(&format!("generate man {at}/missing"))
        .await;
    assert_eq!(missing.exit, 1);
    assert!(
        missing.err.contains("wormkeyctl.1 cannot be written"),
        "{}",
        missing.err
    );
}

/// The long page is written by hand, so what it names is looked up: codes, commands, keys and examples.
#[test]
fn what_the_guide_names_is_there() {
    use clap::CommandFactory as _;
    let page = committed("wormkey.7").replace("\\-", "-");
    assert!(page.is_ascii() && !page.contains(" \n"));

    let is_code = |word: &&str| {
        word.contains('_') && word.chars().all(|c| c == '_' || c.is_ascii_lowercase())
    };
    let words = page.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let known = [
        "wkj_",
        "use_x_forwarded_for",
        "trusted_proxies",
        "tcp_ports",
        "proxy_protocol_from",
        "plain_http",
    ];
    let nginx = [
        "proxy_protocol",
        "ssl_preread",
        "proxy_pass",
        "proxy_timeout",
        "ssl_preread_server_name",
    ];
    let mut codes = 0;
    for word in words
        .filter(is_code)
        .filter(|word| !known.contains(word) && !nginx.contains(word))
    {
        assert!(Code::from_name(word).is_some(), "{word} is no code");
        codes += 1;
    }
    assert!(codes > 8, "{codes} codes");

    let args = crate::ctl::args::Args::command();
    let mut commands = 0;
    for (_, rest) in page
        .match_indices("wormkeyctl ")
        .map(|(at, word)| page.split_at(at + word.len()))
    {
        let mut words = rest.split(|c: char| !(c.is_ascii_alphanumeric() || "-|".contains(c)));
        let first = words.next().unwrap_or_default();
        let Some(command) = args.find_subcommand(first) else {
            assert!(
                ["says", "may", "speaks", "|"].contains(&first),
                "wormkeyctl {first}"
            );
            continue;
        };
        if first == "server" {
            let second = words.next().unwrap_or_default();
            assert!(command.find_subcommand(second).is_some(), "server {second}");
        }
        commands += 1;
    }
    assert!(commands > 15, "{commands} commands");

    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config-examples");
    let files = page.split(|c: char| !(c.is_ascii_alphanumeric() || "-.".contains(c)));
    let files: Vec<_> = files
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| {
            word.ends_with(".toml") && (word.starts_with("server-") || word.starts_with("client-"))
        })
        .collect();
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        assert!(examples.join(file).exists(), "{file} is no example");
    }
}
